// Forward and backward pass of rows in chunks of tokens.
//
// With s_i the states before chunk i (scan, convolution, window of keys and values) and L_i its
// part of the loss, chunk i computes (L_i, s_{i+1}) = f(x_i, s_i; W). The forward sweep computes
// and keeps the states alone. The backward sweep goes through the chunks from the last: it computes
// chunk i again, on a tape whose leaves are s_i, and goes back from the seeds 1 for L_i and g_{i+1}
// for s_{i+1}, which gives
//   g_i = ∂L_i/∂s_i + g_{i+1} · ∂s_{i+1}/∂s_i      and adds to ∂L/∂W what chunk i contributes,
// the gradients of the whole rows. That is one forward pass of the blocks more, for all chunks but
// the last; of activations only those of one chunk exist at a time.

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/base/check.h"
#include "model/model.h"

namespace sidewinder {
namespace {

constexpr std::array kStates = {&LaneState::conv, &LaneState::scan, &LaneState::keys,
                                &LaneState::values};
// By block, of each of kStates.
using StateGradients = std::vector<std::array<Tensor, kStates.size()>>;

// Entries begin … end − 1 of each row of `length`.
Tensor columns_of(const Tensor& x, int64_t length, int64_t begin, int64_t end) {
  const int64_t rows = x.size(0) / length;
  if (rows == 1) return x.slice_rows(begin, end);
  Tensor part = Tensor::empty({rows * (end - begin)}, x.dtype());
  for (int64_t row = 0; row < rows; ++row) {
    part.slice_rows(row * (end - begin), (row + 1) * (end - begin))
        .copy_from(x.slice_rows(row * length + begin, row * length + end));
  }
  return part;
}

void set_columns(Tensor& x, const Tensor& part, int64_t length, int64_t begin, int64_t end) {
  const int64_t rows = x.size(0) / length;
  for (int64_t row = 0; row < rows; ++row) {
    x.slice_rows(row * length + begin, row * length + end)
        .copy_from(part.slice_rows(row * (end - begin), (row + 1) * (end - begin)));
  }
}

// What Attention takes for the length of rows.
int64_t longest_reach(const SequenceLayout& layout) {
  const int32_t* const position = layout.position.data<int32_t>();
  const int64_t end = *std::max_element(position, position + layout.tokens()) + 1;
  return std::max(end, layout.row_length);
}

// The same values as constants: the tape they were made on is about to go.
void detach(LaneStates& states) {
  for (LaneState& block : states) {
    for (const auto member : kStates) block.*member = Var((block.*member).value());
  }
}

LaneStates leaves_of(const LaneStates& states, Tape& tape) {
  LaneStates leaves = states;
  for (LaneState& block : leaves) {
    for (const auto member : kStates) {
      if ((block.*member).defined()) block.*member = tape.leaf((block.*member).value());
    }
  }
  return leaves;
}

}  // namespace

HybridModel::StepLoss HybridModel::loss_and_gradients(Dtype dtype, const Layouts& layouts,
                                                      const Tensor& tokens, const Tensor& targets,
                                                      const LossOptions& options,
                                                      const Lanes& lanes) {
  const int64_t length = layouts.state.row_length;
  if (options.chunk == 0 || options.chunk >= length) {
    Tape tape;
    tape.drops_packed = options.before_update;
    const LossOut out = loss(&tape, dtype, layouts, tokens, targets, options, lanes);
    tape.backward(out.loss);
    if (lanes.after != nullptr) detach(*lanes.after);
    return {out.loss.value().at(0), out.token_loss};
  }
  SIDEWINDER_REQUIRE(!options.recompute,
                     "chunks are computed again in the backward pass as a whole; recompute their "
                     "blocks or use chunks, not both");
  const auto begin_of = [&](size_t i) { return static_cast<int64_t>(i) * options.chunk; };
  const auto end_of = [&](size_t i) { return std::min(length, begin_of(i + 1)); };
  const auto count = static_cast<size_t>((length + options.chunk - 1) / options.chunk);
  const auto layouts_of_chunk = [&](size_t i) {
    return Layouts{layouts.attention.columns(begin_of(i), end_of(i)),
                   layouts.state.columns(begin_of(i), end_of(i))};
  };
  const auto part_of = [&](const Tensor& x, size_t i) {
    return columns_of(x, length, begin_of(i), end_of(i));
  };
  const int64_t rope_length = longest_reach(layouts.attention);

  std::vector<LaneStates> before(count);
  if (lanes.before != nullptr) before[0] = *lanes.before;
  const auto states = [&](size_t i) { return before[i].empty() ? nullptr : &before[i]; };
  for (size_t i = 0; i + 1 < count; ++i) {
    Pass pass = pass_of(nullptr, dtype, layouts_of_chunk(i));
    pass.rope_length = rope_length;
    hidden(pass, part_of(tokens, i), false, nullptr,
           {.before = states(i), .after = &before[i + 1]});
  }

  StepLoss result;
  StateGradients gradients;  // of the states after the chunk at hand
  for (size_t i = count; i-- > 0;) {
    const bool is_last = i + 1 == count;
    Tape tape;
    // Nothing goes back into the rows before.
    const LaneStates from = i > 0 ? leaves_of(before[i], tape) : std::exchange(before[i], {});
    LaneStates after;
    Pass pass = pass_of(&tape, dtype, layouts_of_chunk(i));
    pass.rope_length = rope_length;
    const bool wants_after = !is_last || lanes.after != nullptr;
    const Var x =
        hidden(pass, part_of(tokens, i), false, nullptr,
               {.before = from.empty() ? nullptr : &from, .after = wants_after ? &after : nullptr});
    const LossOut out = linear_cross_entropy(x, pass(head()), part_of(targets, i), options.scale,
                                             loss_options(options.z_loss));
    result.loss += out.loss.value().at(0);
    if (!result.token_loss.defined()) {
      result.token_loss = Tensor::empty({tokens.size(0)}, out.token_loss.dtype());
    }
    set_columns(result.token_loss, out.token_loss, length, begin_of(i), end_of(i));

    std::vector<Var> outputs;
    std::vector<Tensor> seeds;
    for (size_t block = 0; block < gradients.size(); ++block) {
      for (size_t k = 0; k < kStates.size(); ++k) {
        if (!gradients[block][k].defined()) continue;
        outputs.push_back(after[block].*kStates[k]);
        seeds.push_back(std::move(gradients[block][k]));
      }
    }
    outputs.push_back(out.loss);
    seeds.push_back(Tensor::from<double>({1}, {1.0}));
    if (is_last && lanes.after != nullptr) {
      *lanes.after = std::move(after);
      detach(*lanes.after);
    }
    after.clear();
    tape.backward(outputs, std::move(seeds));
    gradients.assign(from.size(), {});
    for (size_t block = 0; block < from.size() && i > 0; ++block) {
      for (size_t k = 0; k < kStates.size(); ++k) {
        const Var& leaf = from[block].*kStates[k];
        if (leaf.defined()) gradients[block][k] = tape.gradient(leaf);
      }
    }
    before[i].clear();
  }
  return result;
}

}  // namespace sidewinder
