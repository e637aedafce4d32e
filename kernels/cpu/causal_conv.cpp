#include "kernels/ops/causal_conv.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/beyond_caches.h"
#include "kernels/cpu/isa/causal_conv.h"
#include "kernels/cpu/row_state.h"
#include "kernels/reference/causal_conv.h"

namespace sidewinder::cpu {
namespace {

// A work item: so many tokens of a row, so many channels.
constexpr int64_t kBlockTokens = 512;
constexpr int64_t kGroupChannels = kConvGroup;
// Below this many elements, waking other threads takes longer than the work.
constexpr int64_t kSmall = 50'000;

struct Item {
  int64_t row, block, begin, end;  // tokens [begin, end) of the row, the row's block-th block
  int64_t channel;                 // the group's first
};

class Partition {
 public:
  Partition(const SequenceLayout& layout, int64_t channels)
      : layout_(layout),
        channels_(channels),
        blocks_((layout.row_length + kBlockTokens - 1) / kBlockTokens),
        groups_((channels + kGroupChannels - 1) / kGroupChannels) {}

  int64_t blocks() const { return layout_.rows * blocks_; }

  // The same items for any number of threads; on this one where they are too little to share.
  template <typename Do>
  void run(Do&& item) const {
    const int64_t count = blocks() * groups_;
    if (layout_.tokens() * channels_ >= kSmall) {
      return parallel_for(count, [&](int64_t i) { item(at(i)); });
    }
    parallel_for(1, [&](int64_t) {
      for (int64_t i = 0; i < count; ++i) item(at(i));
    });
  }

 private:
  Item at(int64_t i) const {
    const int64_t block = i / groups_;
    const int64_t begin = block % blocks_ * kBlockTokens;
    return {block / blocks_, block, begin, std::min(begin + kBlockTokens, layout_.row_length),
            i % groups_ * kGroupChannels};
  }

  const SequenceLayout& layout_;
  int64_t channels_, blocks_, groups_;
};

ConvBlock block_of(const Item& item, const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const Tensor& initial, const SequenceLayout& layout, const Resets& resets) {
  const int64_t channels = weight.size(0);
  return {
      .x = pointer_at(x, item.row * layout.row_length, item.channel),
      .weight = floats_at(weight, item.channel, 0),
      .bias = floats_at(bias, 0, item.channel),
      .initial = layout.is_carried(item.row) ? floats_at(initial, item.row, item.channel) : nullptr,
      .x_stride = x.row_stride(),
      .weight_stride = weight.row_stride(),
      .initial_stride = channels,
      .resets = resets.of(item.row),
      .num_resets = resets.count(item.row),
      .row_length = layout.row_length,
      .begin = item.begin,
      .end = item.end,
      .channels = static_cast<int>(std::min(kGroupChannels, channels - item.channel)),
      .width = static_cast<int>(weight.size(1)),
      .bf16 = x.dtype() == Dtype::bf16,
  };
}

void widen_row(const Tensor& x, int64_t row, float* target) {
  const int64_t count = x.width();
  if (x.dtype() == Dtype::f32) {
    std::copy_n(floats_at(x, row, 0), count, target);
    return;
  }
  const Bf16* source = static_cast<const Bf16*>(pointer_at(x, row, 0));
  for (int64_t i = 0; i < count; ++i) target[i] = static_cast<float>(source[i]);
}

// The last W − 1 inputs of each row's last document.
void keep_final_state(const CausalConvArgs& args, const Resets& resets) {
  const SequenceLayout& layout = args.layout;
  const int64_t channels = args.weight.size(0);
  const int64_t kept = args.weight.size(1) - 1;
  for (int64_t row = 0; row < layout.rows; ++row) {
    const int64_t num_resets = resets.count(row);
    const bool continues = num_resets == 0 && args.initial.defined();
    const int64_t begin = num_resets == 0 ? 0 : resets.of(row)[num_resets - 1];
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t offset = layout.row_length - kept + i;  // in the row
      float* target = floats_at(args.final_state, row, i * channels);
      if (offset >= begin) {
        widen_row(args.x, row * layout.row_length + offset, target);
      } else if (continues) {
        std::copy_n(floats_at(args.initial, row, (offset + kept) * channels), channels, target);
      } else {
        std::fill_n(target, channels, 0.0F);
      }
    }
  }
}

}  // namespace

void causal_conv(Stream, const CausalConvArgs& args) {
  if (args.x.dtype() == Dtype::f64) return reference::causal_conv(args);
  const SequenceLayout& layout = args.layout;
  const Resets resets(layout);
  Partition(layout, args.x.size(1)).run([&](const Item& item) {
    causal_conv_loops_for_isa().forward({
        .in = block_of(item, args.x, args.weight, args.bias, args.initial, layout, resets),
        .y = pointer_at(args.y, item.row * layout.row_length, item.channel),
        .y_stride = args.y.row_stride(),
        .streams = is_beyond_caches(args.y),
    });
  });
  if (args.final_state) keep_final_state(args, resets);
}

void causal_conv_backward(Stream, const CausalConvBackwardArgs& args) {
  if (args.x.dtype() == Dtype::f64) return reference::causal_conv_backward(args);
  const SequenceLayout& layout = args.layout;
  const Resets resets(layout);
  const int64_t channels = args.weight.size(0);
  const int64_t width = args.weight.size(1);
  const Partition partition(layout, channels);
  const Tensor partials = Tensor::empty({partition.blocks(), width + 1, channels}, Dtype::f32);
  for (int64_t row = 0; row < layout.rows && args.dinitial; ++row) {
    if (!layout.is_carried(row)) args.dinitial.slice_rows(row, row + 1).fill_zero();
  }
  partition.run([&](const Item& item) {
    const int64_t token = item.row * layout.row_length;
    causal_conv_loops_for_isa().backward({
        .in = block_of(item, args.x, args.weight, args.bias, args.initial, layout, resets),
        .dy = pointer_at(args.dy, token, item.channel),
        .dx = pointer_at(args.dx, token, item.channel),
        .dinitial = floats_at(args.dinitial, item.row, item.channel),
        .dfinal = floats_at(args.dfinal, item.row, item.channel),
        .dy_stride = args.dy.row_stride(),
        .dx_stride = args.dx.row_stride(),
        .partial = floats_at(partials, item.block, item.channel),
        .partial_stride = channels,
        .streams = is_beyond_caches(args.dx),
    });
  });
  // Blocks in order, so that the sums do not depend on who made them.
  parallel_ranges(channels, kGroupChannels, [&](int64_t begin, int64_t end) {
    for (int64_t block = 0; block < partition.blocks(); ++block) {
      for (int64_t k = 0; k <= width; ++k) {
        const float* partial = floats_at(partials, block, k * channels);
        for (int64_t c = begin; c < end; ++c) {
          if (k < width) {
            floats_at(args.dweight, c, k)[0] += partial[c];
          } else if (args.dbias) {
            args.dbias.data<float>()[c] += partial[c];
          }
        }
      }
    }
  });
}

}  // namespace sidewinder::cpu
