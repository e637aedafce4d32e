#include "kernels/cpu/isa/attention.h"

#include "kernels/cpu/isa/simd.h"
#include "kernels/cpu/isa/transpose.h"

namespace sidewinder::SIDEWINDER_ISA {
namespace {

#if defined(__AVX512F__)
// Rows of the accumulator tile of N vectors: as many as 32 registers hold.
constexpr int kRowsOf[5] = {0, 24, 12, 8, 6};
constexpr int kColumnVectors = 4;
constexpr int kBackwardVectors = 6;
#else
constexpr int kRowsOf[5] = {0, 8, 6, 4, 2};
constexpr int kColumnVectors = 2;
constexpr int kBackwardVectors = 6;
#endif
constexpr int kForwardVectors = 3;
constexpr int kGroupVectors = 3;  // vectors of queries that are multiplied at once
constexpr int64_t kForwardLanes = kForwardVectors * kLanes;
constexpr int64_t kBackwardLanes = kBackwardVectors * kLanes;
static_assert(kBackwardLanes <= kMaxTileLanes && kBackwardVectors <= kMaxTileVectors);
constexpr int64_t kForwardChunk = 128;  // keys whose probabilities meet the values at once
constexpr int64_t kBackwardChunk = 48;  // keys whose gradients are added at once
constexpr float kNoScore = -1e30F;      // below every score
constexpr int64_t kStrip = 24;          // keys whose scores are held in f32

constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- Products of packed words

// All lanes = the word at p; its bits may be two bf16, so no arithmetic may touch it.
inline F32 broadcast_word(const float* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_set1_ps(*p));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_set1_ps(*p));
#else
  return F32{*p, *p, *p, *p};
#endif
}

template <bool kPairs>
inline F32 multiply_add(F32 sum, F32 a, F32 b) {
#if defined(__AVX512BF16__)
  if constexpr (kPairs) {
    return reinterpret_cast<F32>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                  reinterpret_cast<__m512bh>(a),
                                                  reinterpret_cast<__m512bh>(b)));
  }
#endif
  return sum + a * b;
}

enum class Into { set, add };

// c[row][column] = Σ_step a[row, step] · b[step][column], columns in vectors.
struct Product {
  const float* a;
  int64_t a_step;
  const float* b;
  int64_t b_step;
  int64_t steps;
  float* c;
  int64_t c_row;
};

// sum[row][vector] += Σ_step a[row, step] · b[step][vector]. Inlined, so that the sums stay in
// registers.
template <bool kPairs, int kRows, int kVectors, int64_t kARow>
[[gnu::always_inline]] inline void accumulate(F32 (&sum)[kRows][kVectors], const float* a,
                                              int64_t a_step, const float* b, int64_t b_step,
                                              int64_t steps) {
  for (int64_t step = 0; step < steps; ++step) {
    F32 right[kVectors];
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) right[n] = load(b + n * kLanes);
#pragma GCC unroll 24
    for (int m = 0; m < kRows; ++m) {
      const F32 left = broadcast_word(a + m * kARow);
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) {
        sum[m][n] = multiply_add<kPairs>(sum[m][n], left, right[n]);
      }
    }
    a += a_step;
    b += b_step;
  }
}

template <bool kPairs, int kRows, int kVectors, int64_t kARow, Into kInto>
[[gnu::always_inline]] inline void multiply_rows(const Product& product, int64_t row) {
  F32 sum[kRows][kVectors];
  float* c = product.c + row * product.c_row;
#pragma GCC unroll 24
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      sum[m][n] = kInto == Into::set ? F32{} : load(c + m * product.c_row + n * kLanes);
    }
  }
  accumulate<kPairs, kRows, kVectors, kARow>(sum, product.a + row * kARow, product.a_step,
                                             product.b, product.b_step, product.steps);
#pragma GCC unroll 24
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) store(c + m * product.c_row + n * kLanes, sum[m][n]);
  }
}

template <bool kPairs, int kVectors, int64_t kARow, Into kInto>
void multiply(const Product& product, int64_t rows) {
  constexpr int kRows = kRowsOf[kVectors];
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    multiply_rows<kPairs, kRows, kVectors, kARow, kInto>(product, row);
  }
  if constexpr (kRows > 8) {
    for (; row + 8 <= rows; row += 8) {
      multiply_rows<kPairs, 8, kVectors, kARow, kInto>(product, row);
    }
  }
  for (; row + 2 <= rows; row += 2) {
    multiply_rows<kPairs, 2, kVectors, kARow, kInto>(product, row);
  }
  if (row < rows) multiply_rows<kPairs, 1, kVectors, kARow, kInto>(product, row);
}

// ---- Exponentials and rounding to pairs

// 2^x. Where probabilities are rounded to bf16 (4e-3), a polynomial with relative error 3.5e-6
// does.
template <bool kPairs>
inline F32 exp2_of(F32 x) {
#if defined(__AVX512F__)
  if constexpr (kPairs) {
    const __m512 value = reinterpret_cast<__m512>(x);
    // x − ⌊x⌋, the part that scalef leaves out.
    const F32 f =
        reinterpret_cast<F32>(_mm512_reduce_ps(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    F32 p = broadcast(0.013670309F);
    p = p * f + 0.051744998F;
    p = p * f + 0.24160436F;
    p = p * f + 0.69297292F;
    p = p * f + 1.0000035F;
    return reinterpret_cast<F32>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), value));
  }
#endif
  return exp2(x);
}

#if defined(__AVX512BF16__)
// Lanes of two rows as bf16: the even row in the low half, the odd row in the high half.
inline __m512i round_rows(F32 even, F32 odd) {
  return reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even)));
}
inline __m256i high_half(__m512i rows) { return __builtin_shufflevector(rows, rows, 4, 5, 6, 7); }
#endif

// ---- Visibility

// Lanes that see `key`.
inline I32 sees(const I32 first, const I32 last, int64_t key) {
  const I32 keys = I32{} + static_cast<int32_t>(key);
  return (first <= keys) & (keys <= last);
}
// How the keys that only some lanes see are told.
enum class Mask { none, range, bits };
template <Mask kMask>
struct MaskIs {
  static constexpr Mask value = kMask;
};

inline I32 load_lanes(const int32_t* p) {
  using Unaligned = int32_t __attribute__((vector_size(kLanes * 4), aligned(4)));
  return *reinterpret_cast<const Unaligned*>(p);
}

// Lanes of one vector that see a key.
template <Mask kMask>
class Seen {
 public:
  Seen(const TileKeys& visible, int64_t v, KeyRange block)
      : first_(load_lanes(visible.first + v * kLanes)),
        last_(load_lanes(visible.last + v * kLanes)),
        bits_(visible.bits == nullptr ? nullptr : visible.bits + v),
        vectors_(visible.vectors),
        begin_(block.begin) {
    int32_t lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = 1 << i;
    lane_ = load_lanes(lane);
  }
  I32 operator()(int64_t key) const {
    if constexpr (kMask == Mask::bits) {
      const I32 word = I32{} + static_cast<int32_t>(bits_[(key - begin_) * vectors_]);
      return (word & lane_) != 0;
    } else {
      return sees(first_, last_, key);
    }
  }

 private:
  I32 first_, last_, lane_;
  const uint32_t* bits_;
  int64_t vectors_;
  int64_t begin_;
};

// Keys that all vectors see fully, inside the block and with even bounds; empty when begin == end.
KeyRange full_keys(const TileKeys& visible, KeyRange block) {
  KeyRange full = block;
  for (int64_t v = 0; v < visible.vectors; ++v) {
    if (visible.all[v].begin > full.begin) full.begin = visible.all[v].begin;
    if (visible.all[v].end < full.end) full.end = visible.all[v].end;
  }
  full.begin = (full.begin + 1) & ~1;
  full.end &= ~1;
  if (full.begin >= full.end) full.begin = full.end = block.end;
  return full;
}

// The part of `range` that vector v sees at all, with even bounds.
KeyRange seen_by(const TileKeys& visible, int64_t v, KeyRange range) {
  const int32_t begin = visible.any[v].begin & ~1;
  const int32_t end = (visible.any[v].end + 1) & ~1;
  KeyRange seen = {begin > range.begin ? begin : range.begin, end < range.end ? end : range.end};
  if (seen.end < seen.begin) seen.end = seen.begin;
  return seen;
}

// Whether every vector may see all of `range`.
bool seen_by_all(const TileKeys& visible, KeyRange range) {
  for (int64_t v = 0; v < visible.vectors; ++v) {
    const KeyRange seen = seen_by(visible, v, range);
    if (seen.begin != range.begin || seen.end != range.end) return false;
  }
  return true;
}

// Vectors begin … end − 1, none if begin == end.
struct SeeingVectors {
  int64_t begin, end;
  bool masked;  // some lane of theirs does not see a key
};
// Those that see some key of `keys`: they lie side by side.
SeeingVectors vectors_that_see(const TileKeys& visible, KeyRange keys) {
  const int64_t last = visible.vectors;
  SeeingVectors seeing = {last, last, false};
  for (int64_t v = 0; v < last; ++v) {
    if (visible.any[v].begin >= keys.end || visible.any[v].end <= keys.begin) continue;
    seeing.begin = smaller(seeing.begin, v);
    seeing.end = v + 1;
    seeing.masked =
        seeing.masked || visible.all[v].begin > keys.begin || visible.all[v].end < keys.end;
  }
  if (seeing.begin == last) seeing.end = last;
  return seeing;
}

// Calls function(MaskIs<…>) with the mask that the vectors need.
template <typename Function>
inline void with_mask(const TileKeys& visible, const SeeingVectors& seeing,
                      const Function& function) {
  if (!seeing.masked) return function(MaskIs<Mask::none>{});
  if (visible.bits == nullptr) return function(MaskIs<Mask::range>{});
  function(MaskIs<Mask::bits>{});
}

// ---- Bias

// slope · (key − query) by lane.
[[gnu::always_inline]] inline F32 bias_of(const TileKeys& visible, KeyRange block, F32 slope,
                                          I32 query, int32_t key) {
  const int32_t position =
      visible.positions == nullptr ? key : visible.positions[key - block.begin];
  return slope * __builtin_convertvector((I32{} + position) - query, F32);
}

// scores = scale · scores + slope · (key − query), of keys begin … begin + count − 1 and vectors
// v … v + kVectors − 1 of a tile.
template <int kVectors>
void add_bias(const TileKeys& visible, KeyRange block, const float* slopes, float scale, int64_t v,
              int32_t begin, int64_t count, float* scores) {
  for (int n = 0; n < kVectors; ++n) {
    const int64_t lane = (v + n) * kLanes;
    const F32 slope = load(slopes + lane);
    const I32 query = load_lanes(visible.query + lane);
    for (int64_t i = 0; i < count; ++i) {
      float* const score = scores + (i * kVectors + n) * kLanes;
      const auto key = static_cast<int32_t>(begin + i);
      store(score, load(score) * scale + bias_of(visible, block, slope, query, key));
    }
  }
}

// The same for keys key, key + 1, ….
template <int kRows, int kVectors>
[[gnu::always_inline]] inline void add_bias(const TileKeys& visible, KeyRange block,
                                            const float* slopes, float scale, int64_t v,
                                            int32_t key, F32 (&scores)[kRows][kVectors]) {
#pragma GCC unroll 4
  for (int n = 0; n < kVectors; ++n) {
    const int64_t lane = (v + n) * kLanes;
    const F32 slope = load(slopes + lane);
    const I32 query = load_lanes(visible.query + lane);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      scores[m][n] = scores[m][n] * scale + bias_of(visible, block, slope, query, key + m);
    }
  }
}

// ---- Forward
//
// Scores of a strip of keys are formed, and become probabilities, in registers. Probabilities of a
// lane are relative to its reference: a whole number that was the largest score when it moved there
// (in base 2, rounded down) and is at most kHeadroom below it before it moves again. So it seldom
// moves, sums need not be scaled each time, and when they are, then by a power of two: where tiles
// begin does not change how probabilities round.

constexpr float kHeadroom = 8;

#if defined(__AVX512F__)
constexpr int kForwardRows = 8;  // keys of a strip
#else
constexpr int kForwardRows = 4;
#endif
static_assert(kForwardChunk % kForwardRows == 0 && kForwardRows <= kMaxStripKeys);

// What is known of one tile while its keys go by.
template <bool kPairs>
struct ForwardState {
  static constexpr int64_t kPair = kPairs ? 2 : 1;
  const AttentionForwardTile& tile;
  bool biased;                             // scores have been scaled then
  float scale;                             // what scores still are to be scaled with
  alignas(64) float limit[kForwardLanes];  // scores above it move the reference
  // Probabilities of keys begin … end − 1 and vectors first … last − 1, as row pairs, that have not
  // met the values yet.
  int32_t begin, end;
  int64_t first = 0, last = 0;
  alignas(64) float probabilities[kForwardChunk / kPair * kForwardLanes];

  explicit ForwardState(const AttentionForwardTile& forward_tile)
      : tile(forward_tile),
        biased(tile.slopes != nullptr),
        scale(biased ? 1.0F : tile.score_scale),
        begin(tile.block.begin),
        end(tile.block.begin) {
    for (int64_t lane = 0; lane < tile.visible->vectors * kLanes; lane += kLanes) {
      refer_to(lane, load(tile.reference + lane));
    }
  }
  void refer_to(int64_t lane, F32 reference) {
    store(tile.reference + lane, reference);
    // Where nothing has been seen yet, any score does.
    store(limit + lane, select(reference > kNoScore, (reference + kHeadroom) / scale, reference));
  }
  float* row(int32_t key) { return probabilities + (key - begin) / kPair * kForwardLanes; }
};

template <bool kPairs, int kVectors>
void add_values(const ForwardState<kPairs>& state) {
  constexpr int64_t kPair = ForwardState<kPairs>::kPair;
  const AttentionForwardTile& tile = state.tile;
  const int64_t value_stride = round_up(tile.value_width, kLanes);
  const int64_t lane = state.first * kLanes;
  multiply<kPairs, kVectors, 1, Into::add>(
      {tile.values + (state.begin - tile.origin) / kPair * value_stride, value_stride,
       state.probabilities + lane, kForwardLanes, (state.end - state.begin) / kPair,
       tile.out + lane, kForwardLanes},
      round_up(tile.value_width, 2));
}

template <bool kPairs>
void add_values(ForwardState<kPairs>& state) {
  if (state.begin != state.end) {
    switch (state.last - state.first) {
      case 1: add_values<kPairs, 1>(state); break;
      case 2: add_values<kPairs, 2>(state); break;
      case 3: add_values<kPairs, 3>(state); break;
      default: break;
    }
  }
  state.begin = state.end;
}

// The next probabilities are of these vectors.
template <bool kPairs>
void select_vectors(ForwardState<kPairs>& state, int64_t first, int64_t last) {
  if (first == state.first && last == state.last) return;
  add_values(state);
  state.first = first;
  state.last = last;
}

// A bit or more for the lanes in which a > b.
inline uint32_t above(F32 a, F32 b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(a > b)));
#else
  const I32 lanes = a > b;
  return static_cast<uint32_t>(lanes[0] | lanes[1] | lanes[2] | lanes[3]);
#endif
}

inline F32 round_down(F32 x) {
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_floorf(x[i]);
  return x;
}

// Moves the references of those lanes of vectors v … whose score `top` is above the limit. The
// others keep all their bits.
template <bool kPairs>
void move_references(ForwardState<kPairs>& state, int64_t v, int vectors, const F32* top) {
  const AttentionForwardTile& tile = state.tile;
  // Of lanes that have seen nothing yet, sums are zero, and so are probabilities on their way.
  uint32_t scaled = 0;
  for (int n = 0; n < vectors; ++n) {
    const int64_t lane = (v + n) * kLanes;
    const F32 limit = load(state.limit + lane);
    scaled |= above(select(load(tile.reference + lane) > kNoScore, top[n], limit), limit);
  }
  if (scaled != 0) add_values(state);
  for (int n = 0; n < vectors; ++n) {
    const int64_t lane = (v + n) * kLanes;
    const F32 before = load(tile.reference + lane);
    const F32 now =
        select(top[n] > load(state.limit + lane), round_down(top[n] * state.scale), before);
    state.refer_to(lane, now);
    if (scaled == 0) continue;
    const F32 factor = exp2(before - now);
    store(tile.sum + lane, load(tile.sum + lane) * factor);
    store(tile.divisor + lane, load(tile.divisor + lane) * factor);
    for (int64_t d = 0; d < round_up(tile.value_width, 2); ++d) {
      float* const out = tile.out + d * kForwardLanes + lane;
      store(out, load(out) * factor);
    }
  }
}

// Keys key … key + kRows − 1, the next ones of `state`, and vectors v … v + kVectors − 1.
template <bool kPairs, int kRows, int kVectors, Mask kMask>
void forward_strip(ForwardState<kPairs>& state, int64_t v, int32_t key) {
  constexpr int64_t kPair = ForwardState<kPairs>::kPair;
  const AttentionForwardTile& tile = state.tile;
  F32 score[kRows][kVectors] = {};
  accumulate<kPairs, kRows, kVectors, 1>(score, tile.keys + (key - tile.origin), tile.key_stride,
                                         tile.queries + v * kLanes, kForwardLanes,
                                         (tile.width + kPair - 1) / kPair);
  if (state.biased) {
    add_bias(*tile.visible, tile.block, tile.slopes, tile.score_scale, v, key, score);
  }

  if constexpr (kMask != Mask::none) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      const KeyRange all = tile.visible->all[v + n];
      if (all.begin <= key && key + kRows <= all.end) continue;
      const Seen<kMask> seen(*tile.visible, v + n, tile.block);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        score[m][n] = select(seen(key + m), score[m][n], broadcast(kNoScore));
      }
    }
  }
  F32 top[kVectors];
  uint32_t move = 0;
#pragma GCC unroll 4
  for (int n = 0; n < kVectors; ++n) {
    F32 largest[2];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      largest[m % 2] = m < 2 ? score[m][n] : max(score[m][n], largest[m % 2]);
    }
    top[n] = max(largest[0], largest[1]);
    move |= above(top[n], load(state.limit + (v + n) * kLanes));
  }
  if (__builtin_expect(move != 0, 0)) {
    // No register outlives the call: without this, the compiler keeps scores in memory throughout.
    alignas(64) float kept[kRows * kVectors * kLanes];
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i) {
      store(kept + i * kLanes, score[i / kVectors][i % kVectors]);
    }
    move_references(state, v, kVectors, top);
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i) {
      score[i / kVectors][i % kVectors] = load(kept + i * kLanes);
    }
  }

  const F32 scale = broadcast(state.scale);
  float* const words = state.row(key) + v * kLanes;
#pragma GCC unroll 4
  for (int n = 0; n < kVectors; ++n) {
    const int64_t lane = (v + n) * kLanes;
    const F32 reference = load(tile.reference + lane);
    F32 sum[2] = {load(tile.sum + lane), F32{}};
    [[maybe_unused]] F32 divisor = load(tile.divisor + lane);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m += 2) {
      F32 p[2];
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        p[j] = exp2_of<kPairs>(score[m + j][n] * scale - reference);
        if constexpr (kMask != Mask::none) {
          p[j] = select(score[m + j][n] != kNoScore, p[j], F32{});
        }
        sum[j] += p[j];
      }
#if defined(__AVX512BF16__)
      if constexpr (kPairs) {
        const __m512i pairs = interleave_halves(round_rows(p[0], p[1]));
        _mm512_store_si512(words + m / 2 * kForwardLanes + n * kLanes, pairs);
        const F32 ones = reinterpret_cast<F32>(_mm512_set1_epi32(0x3f803f80));
        divisor = multiply_add<kPairs>(divisor, reinterpret_cast<F32>(pairs), ones);
        continue;
      }
#endif
      store(words + m * kForwardLanes + n * kLanes, p[0]);
      store(words + (m + 1) * kForwardLanes + n * kLanes, p[1]);
    }
    store(tile.sum + lane, sum[0] + sum[1]);
    store(tile.divisor + lane, kPairs ? divisor : sum[0] + sum[1]);
  }
  state.end = key + kRows;
}

// A strip that not every lane sees.
template <bool kPairs, int kRows>
void forward_edge(ForwardState<kPairs>& state, int32_t key) {
  const TileKeys& visible = *state.tile.visible;
  const SeeingVectors seeing = vectors_that_see(visible, {key, key + kRows});
  select_vectors(state, seeing.begin, seeing.end);
  with_mask(visible, seeing, [&](auto mask) {
    constexpr Mask kMask = decltype(mask)::value;
    switch (seeing.end - seeing.begin) {
      case 1: forward_strip<kPairs, kRows, 1, kMask>(state, seeing.begin, key); break;
      case 2: forward_strip<kPairs, kRows, 2, kMask>(state, seeing.begin, key); break;
      case 3: forward_strip<kPairs, kRows, 3, kMask>(state, seeing.begin, key); break;
      default: break;
    }
  });
  state.end = key + kRows;
}

// Into the second cache: the first is full of the tile.
inline void fetch_next(RowsAhead::Piece& rows) {
  if (rows.count <= 0) return;
  for (int64_t i = 0; i < rows.size; i += 64) __builtin_prefetch(rows.next + i, 0, 2);
  rows.next += rows.stride;
  --rows.count;
}

template <bool kPairs>
void forward(const AttentionForwardTile& tile) {
  ForwardState<kPairs> state(tile);
  RowsAhead ahead = tile.ahead;
  const KeyRange full = full_keys(*tile.visible, tile.block);
  const bool whole = tile.visible->vectors == kForwardVectors;
  while (state.end < tile.block.end) {
    const int32_t key = state.end;
    for (RowsAhead::Piece& rows : ahead.pieces) fetch_next(rows);
    if (tile.block.end - key < kForwardRows) {
      forward_edge<kPairs, 2>(state, key);
    } else if (whole && full.begin <= key && key + kForwardRows <= full.end) {
      select_vectors(state, 0, kForwardVectors);
      forward_strip<kPairs, kForwardRows, kForwardVectors, Mask::none>(state, 0, key);
    } else {
      forward_edge<kPairs, kForwardRows>(state, key);
    }
    if (state.end - state.begin > kForwardChunk - kForwardRows) add_values(state);
  }
  add_values(state);
}

// ---- Backward

// Probabilities and score gradients of up to kBackwardChunk keys, as operands.
template <bool kPairs>
struct Gradients {
  static constexpr int64_t kPair = kPairs ? 2 : 1;
  static constexpr int64_t kRow = kBackwardLanes / kPair;  // words of a row
  // [key][lane / pair]: left-hand operands, contracted over queries.
  alignas(64) float probability[kBackwardChunk * kRow];
  alignas(64) float dscore[kBackwardChunk * kRow];
  // [key / pair][lane]: right-hand operand, contracted over keys. For f32 it equals dscore.
  alignas(64) float dscore_pairs[kPairs ? kBackwardChunk / 2 * kBackwardLanes : kLanes];

  const float* right() const { return kPairs ? dscore_pairs : dscore; }
  void clear() {
    for (int64_t i = 0; i < kBackwardChunk * kRow; i += kLanes) {
      store(probability + i, F32{});
      store(dscore + i, F32{});
    }
    if constexpr (kPairs) {
      for (int64_t i = 0; i < kBackwardChunk / 2 * kBackwardLanes; i += kLanes) {
        store(dscore_pairs + i, F32{});
      }
    }
  }
};

// Fills `gradients` for keys `strip` (whose first row there is `row`) and vectors v … of the tile.
template <bool kPairs, int kVectors, Mask kMask>
void backward_scores(const AttentionBackwardTile& tile, int64_t v, KeyRange strip, int64_t row,
                     Gradients<kPairs>& gradients) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  constexpr int64_t kRow = kVectors * kLanes;
  alignas(64) float scores[kStrip * kRow];
  alignas(64) float dprobability[kStrip * kRow];
  const int64_t count = strip.end - strip.begin;
  const int64_t offset = strip.begin - tile.origin;
  multiply<kPairs, kVectors, 1, Into::set>(
      {tile.keys + offset, tile.key_stride, tile.queries + v * kLanes, kBackwardLanes,
       (tile.width + kPair - 1) / kPair, scores, kRow},
      count);
  multiply<kPairs, kVectors, 1, Into::set>(
      {tile.values + offset, tile.key_stride, tile.dout + v * kLanes, kBackwardLanes,
       (tile.value_width + kPair - 1) / kPair, dprobability, kRow},
      count);
  const bool biased = tile.slopes != nullptr;
  if (biased) {
    add_bias<kVectors>(*tile.visible, tile.block, tile.slopes, tile.score_scale, v, strip.begin,
                       count, scores);
  }
  const F32 scale = broadcast(biased ? 1.0F : tile.score_scale);
  for (int n = 0; n < kVectors; ++n) {
    const int64_t lane = (v + n) * kLanes;
    const F32 lse = load(tile.lse + lane);
    const F32 delta = load(tile.delta + lane);
    const Seen<kMask> seen(*tile.visible, v + n, tile.block);
    for (int64_t i = 0; i < count; i += 2) {
      F32 p[2];
      F32 ds[2];
      for (int j = 0; j < 2; ++j) {
        const int64_t at = (i + j) * kRow + n * kLanes;
        p[j] = exp2_of<kPairs>(load(scores + at) * scale - lse);
        ds[j] = p[j] * (load(dprobability + at) - delta);
        if constexpr (kMask != Mask::none) {
          const I32 mask = seen(strip.begin + i + j);
          p[j] = select(mask, p[j], F32{});
          ds[j] = select(mask, ds[j], F32{});
        }
      }
      const int64_t at = (row + i) * Gradients<kPairs>::kRow + lane / kPair;
#if defined(__AVX512BF16__)
      if constexpr (kPairs) {
        const __m512i p_rows = round_rows(p[0], p[1]);
        const __m512i ds_rows = round_rows(ds[0], ds[1]);
        const int64_t below = at + Gradients<kPairs>::kRow;
        _mm256_store_si256(reinterpret_cast<__m256i*>(gradients.probability + at),
                           _mm512_castsi512_si256(p_rows));
        _mm256_store_si256(reinterpret_cast<__m256i*>(gradients.probability + below),
                           high_half(p_rows));
        _mm256_store_si256(reinterpret_cast<__m256i*>(gradients.dscore + at),
                           _mm512_castsi512_si256(ds_rows));
        _mm256_store_si256(reinterpret_cast<__m256i*>(gradients.dscore + below),
                           high_half(ds_rows));
        _mm512_store_si512(gradients.dscore_pairs + (row + i) / 2 * kBackwardLanes + lane,
                           interleave_halves(ds_rows));
        continue;
      }
#endif
      store(gradients.probability + at, p[0]);
      store(gradients.probability + at + Gradients<kPairs>::kRow, p[1]);
      store(gradients.dscore + at, ds[0]);
      store(gradients.dscore + at + Gradients<kPairs>::kRow, ds[1]);
    }
  }
}

// target [key][stride] += left [key][lanes] · right [lanes][stride], over lanes of vectors begin …
// end.
template <bool kPairs>
void add_key_gradient(const float* left, const float* right, int64_t width, int64_t vector_begin,
                      int64_t vector_end, float* target, int64_t keys) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  constexpr int64_t kARow = Gradients<kPairs>::kRow;
  const int64_t stride = round_up(width, kLanes);
  const int64_t first_step = vector_begin * kLanes / kPair;
  const int64_t steps = (vector_end - vector_begin) * kLanes / kPair;
  for (int64_t column = 0; column < stride;) {
    const Product product = {
        left + first_step, 1,     right + first_step * stride + column, stride, steps,
        target + column,   stride};
    const int64_t vectors = smaller((stride - column) / kLanes, kColumnVectors);
    switch (vectors) {
      case 1: multiply<kPairs, 1, kARow, Into::add>(product, keys); break;
      case 2: multiply<kPairs, 2, kARow, Into::add>(product, keys); break;
      case 3: multiply<kPairs, 3, kARow, Into::add>(product, keys); break;
      default: multiply<kPairs, kColumnVectors, kARow, Into::add>(product, keys); break;
    }
    column += vectors * kLanes;
  }
}

template <bool kPairs>
void add_key_gradients(const AttentionBackwardTile& tile, const Gradients<kPairs>& gradients,
                       KeyRange keys, int64_t row, int64_t vector_begin, int64_t vector_end) {
  const int64_t offset = keys.begin - tile.origin;
  const int64_t count = keys.end - keys.begin;
  const int64_t at = row * Gradients<kPairs>::kRow;
  add_key_gradient<kPairs>(gradients.probability + at, tile.dout_pairs, tile.value_width,
                           vector_begin, vector_end,
                           tile.dvalue + offset * round_up(tile.value_width, kLanes), count);
  add_key_gradient<kPairs>(gradients.dscore + at, tile.query_pairs, tile.width, vector_begin,
                           vector_end, tile.dkey + offset * round_up(tile.width, kLanes), count);
}

template <bool kPairs, int kVectors>
void add_query_gradient(const AttentionBackwardTile& tile, const Gradients<kPairs>& gradients,
                        KeyRange keys, int64_t row, int64_t v) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const int64_t stride = round_up(tile.width, kLanes);
  multiply<kPairs, kVectors, 1, Into::add>(
      {tile.key_pairs + (keys.begin - tile.origin) / kPair * stride, stride,
       gradients.right() + row / kPair * kBackwardLanes + v * kLanes, kBackwardLanes,
       (keys.end - keys.begin) / kPair, tile.dquery + v * kLanes, kBackwardLanes},
      round_up(tile.width, 2));
}

// Calls function(integral constant N, v) for groups of up to kGroupVectors vectors.
template <int kCount>
struct Vectors {
  static constexpr int value = kCount;
};
template <typename Function>
inline void for_each_group(int64_t vectors, const Function& function) {
  for (int64_t v = 0; v < vectors;) {
    const int64_t group = smaller(kGroupVectors, vectors - v);
    switch (group) {
      case 1: function(Vectors<1>{}, v); break;
      case 2: function(Vectors<2>{}, v); break;
      default: function(Vectors<3>{}, v); break;
    }
    v += group;
  }
}

template <bool kPairs, Mask kMask>
void backward_chunk(const AttentionBackwardTile& tile, KeyRange chunk,
                    Gradients<kPairs>& gradients) {
  const int64_t vectors = tile.visible->vectors;
  for (int32_t key = chunk.begin; key < chunk.end; key += kStrip) {
    const KeyRange strip = {key, static_cast<int32_t>(smaller(key + kStrip, chunk.end))};
    for_each_group(vectors, [&](auto group, int64_t v) {
      backward_scores<kPairs, decltype(group)::value, kMask>(tile, v, strip, key - chunk.begin,
                                                             gradients);
    });
  }
  add_key_gradients<kPairs>(tile, gradients, chunk, 0, 0, vectors);
  for_each_group(vectors, [&](auto group, int64_t v) {
    add_query_gradient<kPairs, decltype(group)::value>(tile, gradients, chunk, 0, v);
  });
}

template <bool kPairs>
void backward_edge(const AttentionBackwardTile& tile, KeyRange chunk,
                   Gradients<kPairs>& gradients) {
  const TileKeys& visible = *tile.visible;
  if (visible.bits != nullptr && seen_by_all(visible, chunk)) {
    return backward_chunk<kPairs, Mask::bits>(tile, chunk, gradients);
  }
  gradients.clear();
  for (int64_t v = 0; v < visible.vectors; ++v) {
    const KeyRange seen = seen_by(visible, v, chunk);
    for (int32_t key = seen.begin; key < seen.end; key += kStrip) {
      const KeyRange strip = {key, static_cast<int32_t>(smaller(key + kStrip, seen.end))};
      if (visible.bits == nullptr) {
        backward_scores<kPairs, 1, Mask::range>(tile, v, strip, key - chunk.begin, gradients);
      } else {
        backward_scores<kPairs, 1, Mask::bits>(tile, v, strip, key - chunk.begin, gradients);
      }
    }
    if (seen.begin < seen.end) {
      add_query_gradient<kPairs, 1>(tile, gradients, seen, seen.begin - chunk.begin, v);
    }
  }
  for (int32_t key = chunk.begin; key < chunk.end; key += kStrip) {
    const KeyRange strip = {key, static_cast<int32_t>(smaller(key + kStrip, chunk.end))};
    const SeeingVectors seeing = vectors_that_see(visible, strip);
    if (seeing.begin < seeing.end) {
      add_key_gradients<kPairs>(tile, gradients, strip, key - chunk.begin, seeing.begin,
                                seeing.end);
    }
  }
}

template <bool kPairs>
void backward(const AttentionBackwardTile& tile) {
  Gradients<kPairs> gradients;
  const KeyRange full = full_keys(*tile.visible, tile.block);
  const auto chunks = [&](KeyRange range, auto&& function) {
    while (range.begin < range.end) {
      const KeyRange chunk = {
          range.begin, static_cast<int32_t>(smaller(range.begin + kBackwardChunk, range.end))};
      function(chunk);
      range.begin = chunk.end;
    }
  };
  const auto edge = [&](KeyRange chunk) { backward_edge<kPairs>(tile, chunk, gradients); };
  chunks({tile.block.begin, full.begin}, edge);
  chunks(full, [&](KeyRange chunk) { backward_chunk<kPairs, Mask::none>(tile, chunk, gradients); });
  chunks({full.end, tile.block.end}, edge);
}

// ---- Packing and storing

// Walks along rows without dividing for each. Rows are a wide stride apart, which the hardware does
// not foresee.
template <typename T>
class RowPointer {
 public:
  RowPointer(const HeadRows& rows, int64_t first)
      : row_(static_cast<T*>(rows.data) + first / rows.heads * rows.token_stride +
             first % rows.heads * rows.width),
        width_(rows.width),
        to_next_token_(rows.token_stride - rows.heads * rows.width),
        ahead_(kAhead * rows.token_stride),
        heads_(rows.heads),
        left_(rows.heads - first % rows.heads) {}
  T* next() {
    T* const row = row_;
    for (int64_t i = 0; i < width_; i += 64 / static_cast<int64_t>(sizeof(T))) {
      __builtin_prefetch(row + ahead_ + i);
    }
    row_ += width_;
    if (--left_ == 0) {
      left_ = heads_;
      row_ += to_next_token_;
    }
    return row;
  }

 private:
  static constexpr int64_t kAhead = 24;
  T* row_;
  int64_t width_, to_next_token_, ahead_;
  int64_t heads_, left_;  // of a token
};

// Words `word` … word + kLanes − 1 of a row.
template <typename T, bool kPairs>
inline F32 load_whole_words(const T* row, int64_t word) {
  if constexpr (kPairs) {
    return load_pairs(row + 2 * word);
  } else {
    return load(row + word);
  }
}

// The same; those past the width are zero.
template <typename T, bool kPairs>
inline F32 load_words(const T* row, int64_t word, int64_t width) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const int64_t rest = width - word * kPair;
  if (rest >= kPair * kLanes) return load_whole_words<T, kPairs>(row, word);
  if constexpr (kPairs) {
    T buffer[2 * kLanes] = {};
    for (int64_t i = 0; i < rest; ++i) buffer[i] = row[2 * word + i];
    return load_pairs(buffer);
  } else {
    return load_partial(row + word, static_cast<int>(rest));
  }
}

template <typename T, bool kPairs>
void pack_transposed(const HeadRows& rows, int64_t first, int64_t count, int64_t padded,
                     float* words, int64_t stride) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const int64_t steps = (rows.width + kPair - 1) / kPair;
  RowPointer<const T> next(rows, first);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const T* row[kLanes];
    const int64_t present = smaller(kLanes, count - i);
    for (int64_t j = 0; j < present; ++j) row[j] = next.next();
    for (int64_t word = 0; word < steps; word += kLanes) {
      float* const target = words + word * stride + i;
      F32 square[kLanes];
      if (present == kLanes && word + kLanes <= rows.width / kPair) {
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) square[j] = load_whole_words<T, kPairs>(row[j], word);
        transpose(square);
#pragma GCC unroll 16
        for (int k = 0; k < kLanes; ++k) store(target + k * stride, square[k]);
        continue;
      }
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        square[j] = j < present ? load_words<T, kPairs>(row[j], word, rows.width) : F32{};
      }
      transpose(square);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        if (word + k < steps) store(target + k * stride, square[k]);
      }
    }
  }
}

template <typename T, bool kPairs>
void pack_pairs(const HeadRows& rows, int64_t first, int64_t count, int64_t padded, float* words) {
  const int64_t width = rows.width;
  const int64_t stride = round_up(width, kLanes);
  RowPointer<const T> next(rows, first);
  for (int64_t i = 0; i < padded; i += kPairs ? 2 : 1) {
    const T* even = i < count ? next.next() : nullptr;
    float* target = words + i / (kPairs ? 2 : 1) * stride;
    if constexpr (kPairs) {
      const T* odd = i + 1 < count ? next.next() : nullptr;
      int64_t d = 0;
#if defined(__AVX512BF16__)
      for (; odd != nullptr && d + kLanes <= width; d += kLanes) {
        _mm512_storeu_si512(target + d, interleave_rows(even + d, odd + d));
      }
#endif
      for (; d < stride; d += kLanes) {
        const int rest = static_cast<int>(smaller(kLanes, width - d));
        const auto bits = [&](const T* row) {
          if (row == nullptr) return U32{};
          return reinterpret_cast<U32>(rest == kLanes ? load(row + d)
                                                      : load_partial(row + d, rest));
        };
        store(target + d, reinterpret_cast<F32>((bits(even) >> 16) | bits(odd)));
      }
    } else {
      for (int64_t d = 0; d < stride; d += kLanes) {
        store(target + d, even == nullptr ? F32{} : load_words<T, false>(even, d, width));
      }
    }
  }
}

template <typename T>
void row_products(const HeadRows& a, const HeadRows& b, int64_t first, int64_t count,
                  float* products) {
  RowPointer<const T> next_a(a, first);
  RowPointer<const T> next_b(b, first);
  for (int64_t i = 0; i < count; ++i) {
    const T* row_a = next_a.next();
    const T* row_b = next_b.next();
    F32 sum = {};
    for (int64_t d = 0; d < a.width; d += kLanes) {
      sum += load_words<T, false>(row_a, d, a.width) * load_words<T, false>(row_b, d, a.width);
    }
    products[i] = sum_lanes(sum);
  }
}

template <typename T>
inline void store_elements(T* target, F32 value, int64_t count) {
  if (count >= kLanes) {
    store(target, value);
  } else {
    store_partial(target, value, static_cast<int>(count));
  }
}

template <typename T>
void store_columns(const float* columns, int64_t stride, const float* scale, const HeadRows& rows,
                   int64_t first, int64_t count) {
  RowPointer<T> next(rows, first);
  for (int64_t i = 0; i < count; i += kLanes) {
    T* row[kLanes];
    const int64_t present = smaller(kLanes, count - i);
    for (int64_t j = 0; j < present; ++j) row[j] = next.next();
    const F32 factor = load(scale + i);
    for (int64_t d = 0; d < rows.width; d += kLanes) {
      const float* const source = columns + d * stride + i;
      const int64_t here = smaller(kLanes, rows.width - d);
      F32 square[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        square[k] = k < here ? load(source + k * stride) * factor : F32{};
      }
      transpose(square);
      if (present == kLanes && here == kLanes) {
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) store(row[j] + d, square[j]);
        continue;
      }
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        if (j < present) store_elements(row[j] + d, square[j], here);
      }
    }
  }
}

template <typename T>
void store_rows(const float* source, float scale, const HeadRows& rows, int64_t first,
                int64_t count) {
  const int64_t stride = round_up(rows.width, kLanes);
  RowPointer<T> next(rows, first);
  for (int64_t i = 0; i < count; ++i) {
    T* row = next.next();
    for (int64_t d = 0; d < rows.width; d += kLanes) {
      store_elements(row + d, load(source + i * stride + d) * scale, rows.width - d);
    }
  }
}

// ---- A few queries, straight from the rows of keys and values

template <typename T>
inline F32 load_some(const T* p, int64_t rest) {
  return rest >= kLanes ? load(p) : load_partial(p, static_cast<int>(rest));
}

// Lane i is the sum over the lanes of vector i; `sums` has kLanes / kStep vectors.
template <int kStep = 1>
inline F32 sum_each(const F32* sums) {
  if constexpr (kStep == kLanes) {
    return sums[0];
  } else {
    F32 pairs[kLanes / (2 * kStep)];
    for (int i = 0; i < kLanes / (2 * kStep); ++i) {
      pairs[i] = fold<kStep>(sums[2 * i], sums[2 * i + 1]);
    }
    return sum_each<2 * kStep>(pairs);
  }
}

// scores[i] = scale · query · row i of the keys, kNoScore past `count`.
template <typename T>
void few_scores(const float* query, const T* keys, int64_t stride, int64_t width, int64_t count,
                float scale, float* scores) {
  for (int64_t i = 0; i < count; i += kLanes) {
    F32 products[kLanes] = {};
    const int64_t present = smaller(kLanes, count - i);
    for (int64_t j = 0; j < present; ++j) {
      const T* key = keys + (i + j) * stride;
      for (int64_t d = 0; d < width; d += kLanes) {
        products[j] += load(query + d) * load_some(key + d, width - d);
      }
    }
    store(scores + i, sum_each(products) * scale);
    for (int64_t j = present; j < kLanes; ++j) scores[i + j] = kNoScore;
  }
}

// mixed = rescale · mixed + Σ weights[i] · row i of the values.
template <typename T>
void few_mix(const float* weights, const T* values, int64_t stride, int64_t width, int64_t count,
             float rescale, float* mixed) {
  constexpr int64_t kBlock = 4 * kLanes;
  for (int64_t d = 0; d < width; d += kBlock) {
    F32 sum[4];
    for (int n = 0; n < 4; ++n) {
      sum[n] = d + n * kLanes < width ? load(mixed + d + n * kLanes) * rescale : F32{};
    }
    for (int64_t i = 0; i < count; ++i) {
      const F32 weight = broadcast_word(weights + i);
      const T* value = values + i * stride + d;
      if (width - d >= kBlock) {
        for (int n = 0; n < 4; ++n) sum[n] += weight * load(value + n * kLanes);
      } else {
        for (int n = 0; n < 4 && d + n * kLanes < width; ++n) {
          sum[n] += weight * load_some(value + n * kLanes, width - d - n * kLanes);
        }
      }
    }
    for (int n = 0; n < 4 && d + n * kLanes < width; ++n) store(mixed + d + n * kLanes, sum[n]);
  }
}

// function(begin, count) for the keys that a lane sees, at most kChunk at once.
template <int64_t kChunk, typename Function>
inline void for_each_chunk(const AttentionFewQueries& few, int64_t lane, const Function& function) {
  for (int64_t r = lane == 0 ? 0 : few.ranges_end[lane - 1]; r < few.ranges_end[lane]; ++r) {
    for (int64_t begin = few.visible[r].begin; begin < few.visible[r].end; begin += kChunk) {
      function(begin, smaller(kChunk, few.visible[r].end - begin));
    }
  }
}

template <typename T>
void few_queries(const AttentionFewQueries& few) {
  constexpr int64_t kChunk = 64;
  const int64_t width = few.queries.width;
  const int64_t value_width = few.values.width;
  RowPointer<const T> next_query(few.queries, 0);
  RowPointer<T> next_out(few.out, 0);
  for (int64_t lane = 0; lane < few.lanes; ++lane) {
    const T* query = next_query.next();
    for (int64_t d = 0; d < width; d += kLanes)
      store(few.query + d, load_some(query + d, width - d));
    for (int64_t d = 0; d < value_width; d += kLanes) store(few.mixed + d, F32{});
    float largest = kNoScore;
    F32 sum = {};
    for_each_chunk<kChunk>(few, lane, [&](int64_t begin, int64_t count) {
      alignas(64) float scores[kChunk];
      few_scores(few.query, static_cast<const T*>(few.keys.data) + begin * few.keys.token_stride,
                 few.keys.token_stride, width, count, few.score_scale, scores);
      if (few.slopes != nullptr) {
        for (int64_t i = 0; i < count; ++i) {
          scores[i] += few.slopes[lane] * static_cast<float>(begin + i - few.position[lane]);
        }
      }
      F32 top = broadcast(largest);
      for (int64_t i = 0; i < count; i += kLanes) top = max(load(scores + i), top);
      const float now = max_lanes(top);
      alignas(64) float rescale[kLanes];
      store(rescale, exp2(broadcast(largest - now)));
      largest = now;
      sum *= rescale[0];
      for (int64_t i = 0; i < count; i += kLanes) {
        const F32 p = exp2(load(scores + i) - now);
        sum += p;
        store(scores + i, p);
      }
      few_mix(scores, static_cast<const T*>(few.values.data) + begin * few.values.token_stride,
              few.values.token_stride, value_width, count, rescale[0], few.mixed);
    });
    few.largest[lane] = largest;
    const float total = sum_lanes(sum);
    few.sum[lane] = total;
    const float factor = total == 0 ? 0.0F : 1.0F / total;
    T* out = next_out.next();
    for (int64_t d = 0; d < value_width; d += kLanes) {
      store_elements(out + d, load(few.mixed + d) * factor, value_width - d);
    }
  }
}

template <typename T, bool kPairs>
constexpr AttentionFunctions functions() {
  return {.pair = kPairs ? 2 : 1,
          .pack_transposed = &pack_transposed<T, kPairs>,
          .pack_pairs = &pack_pairs<T, kPairs>,
          .forward = &forward<kPairs>,
          .few_queries = &few_queries<T>,
          .backward = &backward<kPairs>,
          .row_products = &row_products<T>,
          .store_columns = &store_columns<T>,
          .store_rows = &store_rows<T>};
}

#if defined(__AVX512BF16__)
constexpr bool kPairsOfBf16 = true;
#else
constexpr bool kPairsOfBf16 = false;
#endif

}  // namespace

extern const AttentionIsa attention_kernels = {kLanes, kForwardLanes, kBackwardLanes,
                                               functions<float, false>(),
                                               functions<uint16_t, kPairsOfBf16>()};

}  // namespace sidewinder::SIDEWINDER_ISA
