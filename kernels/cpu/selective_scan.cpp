#include "kernels/ops/selective_scan.h"

#include <algorithm>
#include <vector>

#include "kernels/base/count.h"
#include "kernels/base/rounding.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/row_state.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/selective_scan.h"

namespace sidewinder::cpu {
namespace {

static_assert(kScanTile == kScanChunk);

// Channels that may be cut into about this many chains of work items are.
constexpr int64_t kChains = 24;
// Channels of a chain, at least (whole lines of bf16) and at most.
constexpr int64_t kNarrowest = 32, kWidest = 128;
// Steps whose partial sums of db and dc exist at a time.
constexpr int64_t kRing = 3;
// Below this many state steps, waking other threads takes longer than the work.
constexpr int64_t kSmall = 100'000;

// Counts an item when it ends, even if it fails.
class Done {
 public:
  explicit Done(Count& count) : count_(count) {}
  ~Done() { count_.add(); }
  Done(const Done&) = delete;
  Done& operator=(const Done&) = delete;

 private:
  Count& count_;
};

// How a direction is cut: chunks of one work item, at most; channels of a chain where threads are
// few. Rows of a group lie in pages of their own, and the backward pass reads and writes seven
// tensors and has partial sums of db and dc for every group: there wide groups are better.
struct Cut {
  int64_t most_chunks, wide;
  bool reverse;  // from the last token to the first
};
constexpr Cut kForward = {.most_chunks = 8, .wide = 64, .reverse = false};
constexpr Cut kBackward = {.most_chunks = 4, .wide = kWidest, .reverse = true};

// A work item: chunks [begin, end) of a row and a group of channels.
struct Link {
  int64_t row, track;
  int64_t channel;  // the group's first
  int64_t begin, end;
  bool exists;  // false on tracks that ended before others

  int64_t first(bool reverse) const { return reverse ? end - 1 : begin; }
};

// A group of channels goes along the tokens of its row with a state: the items on that way are a
// chain, of which one thread at a time can do one. Different chains share nothing. Where channels
// make few of them, several rows are done side by side, on tracks. Items are handed out step by
// step, all chains' first links before any chain's second: so all chains end at the same time, and
// any number of threads up to that of chains has work until then.
//
// Groups are blocks of channels, or wider where threads are few. Either way db and dc are summed
// over blocks, then over the blocks of kWidest channels, then over those.
class Partition {
 public:
  Partition(const SelectiveScanInputs& in, const SequenceLayout& layout, const Cut& cut)
      : in_(in),
        layout_(layout),
        resets_(layout),
        reverse_(cut.reverse),
        small_(in.u.count() * in.a.size(1) < kSmall),
        block_(block_of(in.u.size(1))),
        tracks_(std::min(layout.rows, divide_up(kChains, divide_up(in.u.size(1), block_)))),
        width_(width_of(in.u.size(1), cut.wide)),
        groups_(divide_up(in.u.size(1), width_)),
        chunks_(divide_up(layout.row_length, kScanChunk)),
        segment_(std::clamp<int64_t>(chunks_, 1, cut.most_chunks)),
        segments_(divide_up(chunks_, segment_)) {}

  int64_t block() const { return block_; }          // channels
  int64_t width() const { return width_; }          // channels of a group, at most
  int64_t run() const { return kWidest / width_; }  // groups
  int64_t groups() const { return groups_; }        // of a row
  int64_t tracks() const { return tracks_; }
  int64_t chains() const { return tracks_ * groups_; }
  int64_t chunks() const { return chunks_; }    // of a row
  int64_t segment() const { return segment_; }  // chunks of a link, at most
  int64_t steps() const { return divide_up(layout_.rows, tracks_) * segments_; }

  Link link(int64_t step, int64_t chain) const {
    const int64_t track = chain / groups_;
    const int64_t row = step / segments_ * tracks_ + track;
    const int64_t done = step % segments_;
    const int64_t begin = (reverse_ ? segments_ - 1 - done : done) * segment_;
    return {.row = row,
            .track = track,
            .channel = chain % groups_ * width_,
            .begin = begin,
            .end = std::min(begin + segment_, chunks_),
            .exists = row < layout_.rows};
  }

  ScanGroup group(int64_t step, int64_t chain) const {
    const Link here = link(step, chain);
    const int64_t token = here.row * layout_.row_length;
    // Items are handed out in order, so the next one of this thread is likely so many further.
    const int64_t later = chain + ThreadPool::global().num_threads();
    const Link next = link(step + later / chains(), later % chains());
    const int64_t next_token =
        (next.row - here.row) * layout_.row_length + next.first(reverse_) * kScanChunk;
    return {
        .u = pointer_at(in_.u, token, here.channel),
        .delta = pointer_at(in_.delta, token, here.channel),
        .b = pointer_at(in_.b, token, 0),
        .c = pointer_at(in_.c, token, 0),
        .z = pointer_at(in_.z, token, here.channel),
        .u_stride = in_.u.row_stride(),
        .delta_stride = in_.delta.row_stride(),
        .b_stride = in_.b.row_stride(),
        .c_stride = in_.c.row_stride(),
        .z_stride = stride_of(in_.z),
        .a = floats_at(in_.a, here.channel, 0),
        .a_stride = in_.a.row_stride(),
        .d = in_.d.data<float>() + here.channel,
        .delta_bias = in_.delta_bias.data<float>() + here.channel,
        .resets = resets_.of(here.row),
        .num_resets = resets_.count(here.row),
        .row_length = layout_.row_length,
        .channels = static_cast<int>(std::min(width_, in_.u.size(1) - here.channel)),
        .states = static_cast<int>(in_.a.size(1)),
        .bf16 = in_.u.dtype() == Dtype::bf16,
        .next_token = next.exists ? next_token : -1,
        .next_channel = next.channel - here.channel,
    };
  }

  // The same items, on this thread where they are too little to share.
  template <typename Item>
  void run(int64_t count, Item&& item) const {
    if (!small_) return parallel_for(count, item);
    parallel_for(1, [&](int64_t) {
      for (int64_t i = 0; i < count; ++i) item(i);
    });
  }

 private:
  // Of channels alone, so that a row's sums do not depend on other rows.
  static int64_t block_of(int64_t channels) {
    int64_t block = kNarrowest;
    while (block < kWidest && 2 * block * kChains <= channels) block *= 2;
    return block;
  }
  // The one choice that depends on threads; no bits do. With few chains for each thread, all would
  // wait for the slowest at every step.
  int64_t width_of(int64_t channels, int64_t wide) const {
    if (small_) return kWidest;
    constexpr int64_t kChainsPerThread = 3;
    const int64_t wanted = kChainsPerThread * ThreadPool::global().num_threads();
    return tracks_ * divide_up(channels, wide) >= wanted ? wide : std::min(wide, block_);
  }

  const SelectiveScanInputs& in_;
  const SequenceLayout& layout_;
  const Resets resets_;
  bool reverse_, small_;
  int64_t block_, tracks_, width_, groups_;
  int64_t chunks_, segment_, segments_;  // of a row, of a link; links of a row
};

float* scratch_of(int64_t floats) {
  return static_cast<float*>(thread_scratch(static_cast<size_t>(floats) * sizeof(float)));
}

class ForwardPass {
 public:
  explicit ForwardPass(const SelectiveScanArgs& args)
      : args_(args),
        partition_(args.in, args.layout, kForward),
        loops_(selective_scan_loops_for_isa()),
        scanned_(static_cast<size_t>(partition_.chains())),
        states_(Tensor::empty(
            {partition_.chains(), loops_.forward_states(static_cast<int>(partition_.width()),
                                                        static_cast<int>(args.in.a.size(1)))},
            Dtype::f32)) {}

  void run() {
    const int64_t chains = partition_.chains();
    partition_.run(partition_.steps() * chains,
                   [&](int64_t item) { scan(item / chains, item % chains); });
  }

 private:
  void scan(int64_t step, int64_t chain) {
    Count& scanned = scanned_[static_cast<size_t>(chain)];
    const Done done(scanned);
    scanned.wait_for(step);
    const Link link = partition_.link(step, chain);
    if (!link.exists) return;
    const SequenceLayout& layout = args_.layout;
    const int64_t state = link.channel * args_.in.a.size(1);
    const ScanGroup in = partition_.group(step, chain);
    loops_.forward({
        .in = in,
        .chunk_begin = link.begin,
        .chunk_end = link.end,
        .initial =
            layout.is_carried(link.row) ? floats_at(args_.in.initial, link.row, state) : nullptr,
        .out = pointer_at(args_.out, link.row * layout.row_length, link.channel),
        .out_stride = args_.out.row_stride(),
        .chunk_states = floats_at(args_.chunk_states, link.row * partition_.chunks(), state),
        .chunk_stride = stride_of(args_.chunk_states),
        .final_state = floats_at(args_.final_state, link.row, state),
        .states = floats_at(states_, chain, 0),
        .scratch = scratch_of(loops_.forward_scratch(in.channels, in.states)),
    });
  }

  const SelectiveScanArgs& args_;
  const Partition partition_;
  const ScanLoops& loops_;
  std::vector<Count> scanned_;  // links of each chain
  Tensor states_;               // of each chain, between its links
};

class BackwardPass {
 public:
  explicit BackwardPass(const SelectiveScanBackwardArgs& args)
      : args_(args),
        partition_(args.in, args.layout, kBackward),
        loops_(selective_scan_loops_for_isa()),
        states_(args.in.a.size(1)),
        padded_(round_up(states_, int64_t{kScanStatePadding})),
        swept_(static_cast<size_t>(partition_.chains())),
        added_(static_cast<size_t>(partition_.tracks() * kRing)),
        sums_(Tensor::empty({partition_.chains(), loops_.sums(static_cast<int>(partition_.width()),
                                                              static_cast<int>(states_))},
                            Dtype::f32)),
        partials_(Tensor::empty(
            {partition_.chains() * kRing,
             std::min(partition_.segment() * kScanChunk, args.layout.row_length) * 2 * padded_},
            Dtype::f32)) {}

  void run() {
    // The links of a step, then the sums over groups of the step before.
    const int64_t links = partition_.chains();
    const int64_t items = links + partition_.tracks() * partition_.segment();
    const int64_t steps = partition_.steps();
    partition_.run((steps + 1) * items, [&](int64_t item) {
      const int64_t step = item / items;
      const int64_t i = item % items;
      if (i < links && step < steps) sweep(step, i);
      if (i >= links && step > 0) add_groups(step - 1, i - links);
    });
    partition_.run(partition_.groups(), [&](int64_t group) { add_tracks(group); });
  }

 private:
  void sweep(int64_t step, int64_t chain) {
    const Link link = partition_.link(step, chain);
    Count& swept = swept_[static_cast<size_t>(chain)];
    const Done done(swept);
    swept.wait_for(step);
    added(step, link.track).wait_for(step / kRing * partition_.segment());
    if (!link.exists) return;
    const SelectiveScanGradients& gradients = args_.gradients;
    const int64_t token = link.row * args_.layout.row_length;
    const int64_t channel = link.channel;
    const int64_t state = channel * states_;
    const ScanGroup in = partition_.group(step, chain);
    float* sums = floats_at(sums_, chain, 0);
    if (step == 0) std::fill_n(sums, sums_.width(), 0.0F);
    loops_.backward({
        .in = in,
        .dout = pointer_at(args_.dout, token, channel),
        .du = pointer_at(gradients.du, token, channel),
        .ddelta = pointer_at(gradients.ddelta, token, channel),
        .dz = pointer_at(gradients.dz, token, channel),
        .dout_stride = args_.dout.row_stride(),
        .du_stride = gradients.du.row_stride(),
        .ddelta_stride = gradients.ddelta.row_stride(),
        .dz_stride = stride_of(gradients.dz),
        .chunk_states = floats_at(args_.chunk_states, link.row * partition_.chunks(), state),
        .chunk_stride = args_.chunk_states.row_stride(),
        .chunk_begin = link.begin,
        .chunk_end = link.end,
        .dfinal = floats_at(args_.dfinal, link.row, state),
        .dinitial = floats_at(gradients.dinitial, link.row, state),
        .sums = sums,
        .partials = partials(step, chain),
        .block_channels = static_cast<int>(partition_.block()),
        .scratch = scratch_of(loops_.backward_scratch(in.channels, in.states)),
    });
  }

  // Partial sums that step, step + kRing, … write one after the other, and how many of their chunks
  // were added up.
  float* partials(int64_t step, int64_t chain) const {
    return floats_at(partials_, chain * kRing + step % kRing, 0);
  }
  Count& added(int64_t step, int64_t track) {
    return added_[static_cast<size_t>(track * kRing + step % kRing)];
  }

  // dc and db of one chunk of every track: the sum over groups, in their order.
  void add_groups(int64_t step, int64_t i) {
    const int64_t track = i / partition_.segment();
    const int64_t chunk = i % partition_.segment();
    const int64_t first = track * partition_.groups();
    const Done done(added(step, track));
    for (int64_t chain = first; chain < first + partition_.groups(); ++chain) {
      swept_[static_cast<size_t>(chain)].wait_for(step + 1);
    }
    const Link link = partition_.link(step, first);
    if (!link.exists || link.begin + chunk >= link.end) return;
    const int64_t offset = (link.begin + chunk) * kScanChunk;
    const int64_t token = link.row * args_.layout.row_length + offset;
    const Tensor& db = args_.gradients.db;
    const Tensor& dc = args_.gradients.dc;
    loops_.add_groups({
        .partials = partials(step, first) + chunk * kScanChunk * 2 * padded_,
        .group_stride = kRing * partials_.row_stride(),
        .groups = partition_.groups(),
        .run = partition_.run(),
        .db = pointer_at(db, token, 0),
        .dc = pointer_at(dc, token, 0),
        .db_stride = db.row_stride(),
        .dc_stride = dc.row_stride(),
        .tokens = static_cast<int>(std::min(kScanChunk, args_.layout.row_length - offset)),
        .states = static_cast<int>(states_),
        .bf16 = db.dtype() == Dtype::bf16,
        .scratch = scratch_of(kScanChunk * 2 * padded_),
    });
  }

  // Adds the tracks' sums to the gradients of the parameters, in the order of tracks.
  void add_tracks(int64_t group) const {
    const int64_t lanes = loops_.lanes;
    const int64_t strip_sums = (2 * padded_ + 2) * lanes;
    const int64_t begin = group * partition_.width();
    const int64_t end = std::min(args_.in.u.size(1), begin + partition_.width());
    for (int64_t track = 0; track < partition_.tracks(); ++track) {
      const float* sums = floats_at(sums_, track * partition_.groups() + group, 0);
      for (int64_t e = begin; e < end; ++e) {
        const int64_t inside = e - begin;
        const float* strip = sums + inside / lanes * strip_sums + inside % lanes;
        float* da = floats_at(args_.da, e, 0);
        for (int64_t n = 0; n < states_; ++n) da[n] += strip[(padded_ + n) * lanes];
        args_.dd.data<float>()[e] += strip[2 * padded_ * lanes];
        args_.ddelta_bias.data<float>()[e] += strip[(2 * padded_ + 1) * lanes];
      }
    }
  }

  const SelectiveScanBackwardArgs& args_;
  const Partition partition_;
  const ScanLoops& loops_;
  int64_t states_, padded_;
  std::vector<Count> swept_;  // links of each chain
  std::vector<Count> added_;
  Tensor sums_;      // of each chain: see ScanLoops::sums
  Tensor partials_;  // [chains x ring, tokens of a link x 2 x padded states]
};

}  // namespace

void selective_scan(Stream, const SelectiveScanArgs& args) {
  if (args.in.u.dtype() == Dtype::f64) return reference::selective_scan(args);
  if (args.layout.tokens() == 0) return;
  ForwardPass(args).run();
}

void selective_scan_backward(Stream, const SelectiveScanBackwardArgs& args) {
  if (args.in.u.dtype() == Dtype::f64) return reference::selective_scan_backward(args);
  if (args.layout.tokens() == 0) return;
  BackwardPass(args).run();
}

}  // namespace sidewinder::cpu
