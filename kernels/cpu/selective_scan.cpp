#include "kernels/ops/selective_scan.h"

#include <algorithm>
#include <vector>

#include "kernels/base/rounding.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/selective_scan.h"
#include "kernels/cpu/row_state.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/selective_scan.h"

namespace sidewinder::cpu {
namespace {

static_assert(kScanTile == kScanChunk);

// Channels of one work item of the forward pass.
constexpr int64_t kForwardGroup = 64;
// Tokens whose partial sums of db and dc exist at a time, and rows whose other sums do.
constexpr int64_t kWaveTokens = 16384;
constexpr int64_t kWaveRows = 32;
// Below this many state steps, waking other threads takes longer than the work.
constexpr int64_t kSmall = 100'000;

ScanGroup group_of(const SelectiveScanInputs& in, const SequenceLayout& layout,
                   const Resets& resets, int64_t row, int64_t channel, int64_t channels) {
  const int64_t token = row * layout.row_length;
  return {
      .u = pointer_at(in.u, token, channel),
      .delta = pointer_at(in.delta, token, channel),
      .b = pointer_at(in.b, token, 0),
      .c = pointer_at(in.c, token, 0),
      .z = pointer_at(in.z, token, channel),
      .u_stride = in.u.row_stride(),
      .delta_stride = in.delta.row_stride(),
      .b_stride = in.b.row_stride(),
      .c_stride = in.c.row_stride(),
      .z_stride = stride_of(in.z),
      .a = floats_at(in.a, channel, 0),
      .a_stride = in.a.row_stride(),
      .d = in.d.data<float>() + channel,
      .delta_bias = in.delta_bias.data<float>() + channel,
      .resets = resets.of(row),
      .num_resets = resets.count(row),
      .row_length = layout.row_length,
      .channels = static_cast<int>(std::min(channels, in.u.size(1) - channel)),
      .states = static_cast<int>(in.a.size(1)),
      .bf16 = in.u.dtype() == Dtype::bf16,
  };
}

// The backward pass reads and writes seven tensors, in which the rows of a group lie in pages of
// their own, and every group has its own partial sums of db and dc: wide groups translate fewer
// addresses and add fewer sums. Rows are split evenly, into a multiple of four where they are wide.
int64_t backward_group(int64_t channels) {
  constexpr int64_t kWidest = 384, kNarrowest = 128, kWholeLines = 32;
  const int64_t groups = round_up(divide_up(channels, kWidest), int64_t{4});
  return std::max(kNarrowest, round_up(divide_up(channels, groups), kWholeLines));
}

int64_t chunks_per_row(const SequenceLayout& layout) {
  return (layout.row_length + kScanChunk - 1) / kScanChunk;
}

// The same items in the same partition, on this thread where they are too little to share.
template <typename Item>
void run_items(int64_t count, int64_t state_steps, Item&& item) {
  if (state_steps >= kSmall) return parallel_for(count, item);
  parallel_for(1, [&](int64_t) {
    for (int64_t i = 0; i < count; ++i) item(i);
  });
}

float* scratch_of(int64_t floats) {
  return static_cast<float*>(thread_scratch(static_cast<size_t>(floats) * sizeof(float)));
}

// Sums over the rows and groups of a batch of rows, and their partial sums of dc and db.
class BackwardWave {
 public:
  BackwardWave(const SelectiveScanBackwardArgs& args, const Resets& resets)
      : args_(args),
        resets_(resets),
        loops_(selective_scan_loops_for_isa()),
        channels_(args.in.u.size(1)),
        states_(args.in.a.size(1)),
        padded_((states_ + kScanStatePadding - 1) / kScanStatePadding * kScanStatePadding),
        group_(backward_group(channels_)),
        groups_(divide_up(channels_, group_)),
        group_sums_(loops_.sums(static_cast<int>(group_), static_cast<int>(states_))),
        rows_(std::min(std::clamp<int64_t>(kWaveTokens / args.layout.row_length, 1, kWaveRows),
                       args.layout.rows)),
        chunks_(std::min(kWaveTokens / kScanChunk, chunks_per_row(args.layout))),
        row_tokens_(std::min(chunks_ * kScanChunk, args.layout.row_length)),
        sums_(Tensor::empty({rows_ * groups_, group_sums_}, Dtype::f32)),
        partials_(Tensor::empty({rows_ * groups_, row_tokens_, 2 * padded_}, Dtype::f32)) {}

  void run() {
    const int64_t num_chunks = chunks_per_row(args_.layout);
    for (int64_t row = 0; row < args_.layout.rows; row += rows_) {
      const int64_t rows = std::min(rows_, args_.layout.rows - row);
      sums_.fill_zero();
      for (int64_t end = num_chunks; end > 0; end = std::max<int64_t>(0, end - chunks_)) {
        const int64_t begin = std::max<int64_t>(0, end - chunks_);
        const int64_t tokens = rows * (end - begin) * kScanChunk;
        run_items(rows * groups_, tokens * channels_ * states_, [&](int64_t item) {
          sweep(row + item / groups_, item / groups_, item % groups_, begin, end);
        });
        run_items(rows * (end - begin), tokens * channels_ * states_, [&](int64_t item) {
          add_groups(row + item / (end - begin), item / (end - begin), item % (end - begin), begin);
        });
      }
      add_rows(rows);
    }
  }

 private:
  void sweep(int64_t row, int64_t slot, int64_t group, int64_t begin, int64_t end) const {
    const SelectiveScanGradients& gradients = args_.gradients;
    const SequenceLayout& layout = args_.layout;
    const int64_t token = row * layout.row_length;
    const int64_t channel = group * group_;
    const int64_t num_chunks = chunks_per_row(layout);
    const ScanGroup in = group_of(args_.in, layout, resets_, row, channel, group_);
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
        .chunk_states = floats_at(args_.chunk_states, row * num_chunks, channel * states_),
        .chunk_stride = args_.chunk_states.row_stride(),
        .chunk_begin = begin,
        .chunk_end = end,
        .dfinal = floats_at(args_.dfinal, row, channel * states_),
        .dinitial = floats_at(gradients.dinitial, row, channel * states_),
        .sums = sums_.data<float>() + (slot * groups_ + group) * group_sums_,
        .partials = partials_of(slot, group),
        .scratch = scratch_of(loops_.backward_scratch(in.channels, in.states)),
    });
  }

  float* partials_of(int64_t slot, int64_t group) const {
    return partials_.data<float>() + (slot * groups_ + group) * partials_.width();
  }

  // dc and db of one chunk: the sum over groups, in their order.
  void add_groups(int64_t row, int64_t slot, int64_t chunk, int64_t first_chunk) const {
    const int64_t width = 2 * padded_;
    const int64_t offset = (first_chunk + chunk) * kScanChunk;
    const int64_t tokens = std::min(kScanChunk, args_.layout.row_length - offset);
    const int64_t count = tokens * width;
    std::vector<float> sum(static_cast<size_t>(count), 0.0F);
    for (int64_t group = 0; group < groups_; ++group) {
      const float* partial = partials_of(slot, group) + chunk * kScanChunk * width;
      for (int64_t i = 0; i < count; ++i) sum[static_cast<size_t>(i)] += partial[i];
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t token = row * args_.layout.row_length + offset + t;
      const float* values = sum.data() + t * width;
      store(args_.gradients.dc, token, values);
      store(args_.gradients.db, token, values + loops_.block);
    }
  }

  // `values` holds blocks of states of dc and of db in turn.
  void store(const Tensor& gradient, int64_t token, const float* values) const {
    void* target = pointer_at(gradient, token, 0);
    for (int64_t n = 0; n < states_; ++n) {
      const float value = values[n / loops_.block * 2 * loops_.block + n % loops_.block];
      if (gradient.dtype() == Dtype::bf16) {
        static_cast<Bf16*>(target)[n] = Bf16(value);
      } else {
        static_cast<float*>(target)[n] = value;
      }
    }
  }

  // Adds the rows' sums to the gradients of the parameters, in the order of rows.
  void add_rows(int64_t rows) const {
    const int64_t lanes = loops_.lanes;
    const int64_t strip_sums = (2 * padded_ + 2) * lanes;
    parallel_for(groups_, [&](int64_t group) {
      const int64_t end = std::min(channels_, (group + 1) * group_);
      for (int64_t slot = 0; slot < rows; ++slot) {
        const float* sums = sums_.data<float>() + (slot * groups_ + group) * group_sums_;
        for (int64_t e = group * group_; e < end; ++e) {
          const int64_t inside = e - group * group_;
          const float* strip = sums + inside / lanes * strip_sums + inside % lanes;
          float* da = floats_at(args_.da, e, 0);
          for (int64_t n = 0; n < states_; ++n) da[n] += strip[(padded_ + n) * lanes];
          args_.dd.data<float>()[e] += strip[2 * padded_ * lanes];
          args_.ddelta_bias.data<float>()[e] += strip[(2 * padded_ + 1) * lanes];
        }
      }
    });
  }

  const SelectiveScanBackwardArgs& args_;
  const Resets& resets_;
  const ScanLoops& loops_;
  int64_t channels_, states_, padded_;
  int64_t group_, groups_;              // channels of a group, their number
  int64_t group_sums_;                  // floats per row and group
  int64_t rows_, chunks_, row_tokens_;  // of a wave
  Tensor sums_, partials_;
};

}  // namespace

void selective_scan(Stream, const SelectiveScanArgs& args) {
  if (args.in.u.dtype() == Dtype::f64) return reference::selective_scan(args);
  const SequenceLayout& layout = args.layout;
  const ScanLoops& loops = selective_scan_loops_for_isa();
  const Resets resets(layout);
  const int64_t channels = args.in.u.size(1);
  const int64_t states = args.in.a.size(1);
  const int64_t groups = (channels + kForwardGroup - 1) / kForwardGroup;
  run_items(layout.rows * groups, layout.tokens() * channels * states, [&](int64_t item) {
    const int64_t row = item / groups;
    const int64_t channel = item % groups * kForwardGroup;
    const ScanGroup in = group_of(args.in, layout, resets, row, channel, kForwardGroup);
    loops.forward({
        .in = in,
        .initial =
            layout.is_carried(row) ? floats_at(args.in.initial, row, channel * states) : nullptr,
        .out = pointer_at(args.out, row * layout.row_length, channel),
        .out_stride = args.out.row_stride(),
        .chunk_states =
            floats_at(args.chunk_states, row * chunks_per_row(layout), channel * states),
        .chunk_stride = stride_of(args.chunk_states),
        .final_state = floats_at(args.final_state, row, channel * states),
        .scratch = scratch_of(loops.forward_scratch(in.channels, in.states)),
    });
  });
}

void selective_scan_backward(Stream, const SelectiveScanBackwardArgs& args) {
  if (args.in.u.dtype() == Dtype::f64) return reference::selective_scan_backward(args);
  if (args.layout.rows == 0) return;
  const Resets resets(args.layout);
  BackwardWave(args, resets).run();
}

}  // namespace sidewinder::cpu
