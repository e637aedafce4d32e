#pragma once
// Which keys a query may see: one rule, from which masks, keys to visit and costs are derived.
// Positions are those of one document; documents never see each other whatever the pattern.
//
// A query sees the keys near it, and some far ones. Either part may be empty, and all parts
// combine:
//
//   name          fields                              source
//   full          –
//   window        window                              Beltagy et al. 2020 (Longformer)
//   dilated       window, dilation                    Longformer: i − j ∈ {0, δ, 2δ, …}
//   strided       window, stride                      Child et al. 2019 (Sparse Transformer)
//   fixed         window = block, summary             Sparse Transformer
//   chunked       window = block
//   sink_window   window, global                      Xiao et al. 2023 (StreamingLLM)
//   global_window window, global                      Longformer; causal, it is the same rule
//   bigbird       window, global, random, block       Zaheer et al. 2020, restricted to the past

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/philox.h"

namespace sidewinder {

struct AttentionRow;
struct AttentionPart;

struct FarKeys {
  std::vector<int32_t> keys;  // ascending, first those that all queries see, then the others
  int64_t shared = 0;         // of the first kind
};

struct AttentionPattern {
  // Near keys: the last `window` ones, the query included; 0 means all earlier ones (full causal
  // attention). With blocks, the query's block up to the query and whole blocks before it.
  int64_t window = 0;    // a multiple of block
  int64_t dilation = 1;  // only every dilation-th key counts, back from the query
  int64_t block = 1;     // tokens of a block; what follows calls token t part of block t / block

  // Far keys.
  int64_t global = 0;   // the first tokens of the document
  int64_t stride = 0;   // those whose distance is a multiple of this; 0: none
  int64_t summary = 0;  // the last ones of every block
  int64_t random = 0;   // blocks drawn for every block of queries, for all heads alike
  uint64_t seed = 0;    // of the draw, which depends on nothing but it and the block of the query

  static constexpr int64_t kMostRandom = 16;

  struct Span {
    int64_t begin, end;  // begin ≤ key < end
  };

  // What is wrong with these numbers, or an empty text.
  std::string mistake() const;

  // Everything that one query sees, at hand for many keys.
  AttentionRow row(int64_t query) const;
  bool allows(int64_t query, int64_t key) const;

  // Near keys are those from here to the query.
  int64_t first_near(int64_t query) const {
    if (window == 0) return 0;
    const int64_t begin = block == 1 ? query : query / block * block;  // a division is slow
    return std::max<int64_t>(0, begin - (window - block) * dilation);
  }

  // The number of distances 0, 1, … at which a query of a document of `length` tokens can see a
  // key.
  int64_t reach(int64_t length) const {
    const bool far = global > 0 || stride != 0 || summary != 0 || random != 0;
    if (window == 0 || far) return length;
    return std::min(length, (window - 1) * dilation + 1);
  }

  // Whether a query sees exactly the keys from first_near(query) to itself.
  bool contiguous() const {
    return dilation == 1 && global == 0 && stride == 0 && summary == 0 && random == 0;
  }
  // The pattern taken apart into what can be visited without passing by many hidden keys: every key
  // that a query sees belongs to one part.
  std::vector<AttentionPart> parts() const;
  // Number of residue classes of positions that see only their own: where it is above 1, position p
  // is number p / classes() of its class, and in this count the pattern is within_class().
  int64_t classes() const {
    if (block != 1 || global != 0 || summary != 0 || random != 0) return 1;
    if (stride == 0) return dilation;
    return window == 1 && dilation == 1 ? stride : 1;
  }
  AttentionPattern within_class() const { return {.window = stride == 0 ? window : 0}; }

  // ---- Keys to visit for the queries first … last: a span that holds every key that one of them
  // may see from its beginning on, and single keys before it.

  Span near_span(int64_t first, int64_t last) const { return {first_near(first), last + 1}; }
  // Whether every query sees `key` that comes after it.
  bool is_shared(int64_t key) const {
    return key < global || (summary != 0 && key % block >= block - summary);
  }
  // Those of the keys before `end` that one of the queries sees; end ≤ near_span(first,
  // last).begin.
  FarKeys far_keys(int64_t first, int64_t last, int64_t end) const;

  // Keys that no query from `query` on sees and that can be taken out as if they had never been:
  // what is left still follows the rule in its new, closed-up positions.
  Span forgettable(int64_t query) const {
    if (window == 0 || stride != 0 || summary != 0 || random != 0) return {0, 0};
    const int64_t begin = std::min(global, query);
    const int64_t count = std::max<int64_t>(0, first_near(query) - begin) / block * block;
    return {begin, begin + count};
  }

  // Visible (query, key) pairs of a document of `length` tokens.
  int64_t pairs(int64_t length) const;

  // Square tiles of `size` queries and `size` keys that hold a key to visit.
  int64_t tiles(int64_t length, int64_t size) const;
};

struct AttentionRow {
  AttentionPattern pattern;
  int64_t query;
  int64_t first_near;
  int64_t drawn = 0;  // random blocks
  int64_t blocks[AttentionPattern::kMostRandom];

  AttentionRow(const AttentionPattern& of, int64_t position)
      : pattern(of), query(position), first_near(of.first_near(position)) {
    if (pattern.random > 0) draw();
  }

  bool allows(int64_t key) const {
    if (key > query) return false;
    const int64_t distance = query - key;
    if (key >= first_near && (pattern.dilation == 1 || distance % pattern.dilation == 0))
      return true;
    if (pattern.is_shared(key)) return true;
    if (pattern.stride != 0 && distance % pattern.stride == 0) return true;
    for (int64_t i = 0; i < drawn; ++i) {
      if (key / pattern.block == blocks[i]) return true;
    }
    return false;
  }

 private:
  // Distinct blocks between the global tokens and the near ones (Floyd's sampling: draw k of n
  // without replacement).
  void draw() {
    const int64_t first = (pattern.global + pattern.block - 1) / pattern.block;
    const int64_t candidates = std::max<int64_t>(0, first_near / pattern.block - first);
    const int64_t wanted = std::min(pattern.random, candidates);
    const Philox random(pattern.seed, "attention.random");
    const auto row = static_cast<uint64_t>(query / pattern.block);
    while (drawn < wanted) {
      const int64_t last = candidates - wanted + drawn;
      const uint64_t index = row * AttentionPattern::kMostRandom + static_cast<uint64_t>(drawn);
      const auto choice =
          first + static_cast<int64_t>(random.below(index, static_cast<uint64_t>(last) + 1));
      const bool taken = std::find(blocks, blocks + drawn, choice) != blocks + drawn;
      blocks[drawn++] = taken ? first + last : choice;
    }
  }
};

inline AttentionRow AttentionPattern::row(int64_t query) const { return {*this, query}; }
inline bool AttentionPattern::allows(int64_t query, int64_t key) const {
  return row(query).allows(key);
}

// A part of a pattern in which positions p with the same p % step see only each other. Here they
// are counted within their class: number i of class r is position i · step + r of the document.
struct AttentionPart {
  AttentionPattern pattern;  // the rule; of the strided part, nothing
  int64_t step = 1;
  // The part of keys at distances that are a multiple of step; those that `others` allows, which
  // counts positions of the document, belong to another part.
  bool strided = false;
  AttentionPattern others = {};

  // Holds all keys of `query` that are not far, and grows with it; perhaps empty, with an end
  // before its beginning.
  AttentionPattern::Span near(int64_t query, int64_t r) const;
  // Whether a query sees all keys of near(query).
  bool sees_all_near() const;
  // Whether it sees no others.
  bool sees_only_near() const { return strided || pattern.contiguous(); }
  // Whether it takes more than the bounds of near(query) to tell what a query sees.
  bool needs_visibility() const { return strided ? !sees_all_near() : !pattern.contiguous(); }
};

// What one query of class r sees in a part.
struct AttentionPartRow {
  AttentionRow row;
  int64_t query, step, r;
  bool strided;

  AttentionPartRow(const AttentionPart& part, int64_t position, int64_t residue)
      : row(part.strided ? part.others.row(position * part.step + residue)
                         : part.pattern.row(position)),
        query(position),
        step(part.step),
        r(residue),
        strided(part.strided) {}

  bool allows(int64_t key) const {
    return strided ? key <= query && !row.allows(key * step + r) : row.allows(key);
  }
};

}  // namespace sidewinder
