#include "kernels/ops/add.h"
#include "kernels/ops/matmul.h"
#include "model/autograd/functions.h"

namespace sidewinder {
namespace {

// The packed form of a weight: kept by its Parameter, or made for this call.
PackedWeight packed(const Var& weight, WeightUse use, Dtype compute) {
  if (weight.parameter() != nullptr) return weight.parameter()->packed(use, compute);
  return ops::pack_weight(weight.value(), use, compute);
}

}  // namespace

Var linear(const Var& x, const Var& weight) {
  const Dtype compute = x.value().dtype();
  Tensor y = ops::linear(x.value(), packed(weight, WeightUse::forward, compute), compute);
  return Tape::record("linear", {x, weight}, std::move(y),
                      [x = x.value(), weight, compute](Gradients& io) {
                        const Tensor& dy = io.output();
                        if (io.wanted(1)) ops::weight_gradient(io.sum(1), dy, x, compute);
                        if (io.wanted(0)) {
                          io.add(0, ops::linear(dy, packed(weight, WeightUse::backward, compute),
                                                x.dtype()));
                        }
                      });
}

Var linear_add(const Var& x, const Var& weight, const Var& residual) {
  const Dtype compute = x.value().dtype();
  Tensor y = ops::linear(x.value(), packed(weight, WeightUse::forward, compute),
                         residual.value().dtype(), {.bias = {}, .residual = residual.value()});
  return Tape::record("linear_add", {x, weight, residual}, std::move(y),
                      [x = x.value(), weight, compute](Gradients& io) {
                        const Tensor& dy = io.output();
                        if (io.wanted(1)) ops::weight_gradient(io.sum(1), dy, x, compute);
                        if (io.wanted(0)) {
                          io.add(0, ops::linear(dy, packed(weight, WeightUse::backward, compute),
                                                x.dtype()));
                        }
                        io.add(2, dy);  // last: the buffer is handed over
                      });
}

Var add(const Var& a, const Var& b) {
  Tensor y = ops::add(a.value(), b.value(), a.value().dtype());
  return Tape::record("add", {a, b}, std::move(y), [](Gradients& io) {
    if (io.wanted(1)) io.add(1, io.output().clone());
    io.add(0, io.output());
  });
}

Var reshape(const Var& x, Shape shape) {
  return Tape::record("reshape", {x}, x.value().reshape(shape),
                      [shape = x.value().shape()](Gradients& io) {
                        io.add(0, io.output().reshape(shape));
                      });
}

std::vector<Var> split(const Var& x, std::span<const int64_t> widths) {
  const Tensor& value = x.value();
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const int64_t width : widths) {
    parts.push_back(value.columns(begin, begin + width));
    begin += width;
  }
  SIDEWINDER_ASSERT(begin == value.size(1));
  return Tape::record(
      "split", {x}, std::move(parts),
      [tokens = value.size(0), total = begin, dtype = value.dtype(),
       widths = std::vector<int64_t>(widths.begin(), widths.end())](Gradients& io) {
        Tensor whole = Tensor::empty({tokens, total}, dtype);
        int64_t first = 0;
        for (size_t i = 0; i < widths.size(); ++i) {
          Tensor part = whole.columns(first, first + widths[i]);
          const Tensor& gradient = io.output(static_cast<int>(i));
          if (gradient.defined()) {
            part.copy_from(gradient.reshape({tokens, widths[i]}));
          } else {
            part.fill_zero();
          }
          first += widths[i];
        }
        io.add(0, std::move(whole));
      });
}

LossOut linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, double scale,
                             const CrossEntropyOptions& options) {
  const Dtype compute = x.value().dtype();
  const bool with_gradients = x.on_tape();
  // The weight gradient is formed with the loss and must wait here for the upstream gradient, which
  // scales it; it goes straight into the parameter's sum because that factor is 1 for a loss.
  Tensor dweight;
  if (with_gradients) {
    dweight = weight.parameter() != nullptr
                  ? weight.parameter()->gradient()
                  : Tensor::zeros(weight.value().shape(), accumulator_of(compute));
  }
  ops::LinearCrossEntropyOut out = ops::linear_cross_entropy(
      x.value(), packed(weight, WeightUse::forward, compute),
      with_gradients ? packed(weight, WeightUse::backward, compute) : PackedWeight{}, targets, scale,
      options, dweight);
  const bool direct = weight.parameter() != nullptr;
  Var loss = Tape::record("linear_cross_entropy", {x, weight}, out.loss,
                          [dx = out.dx, dweight, direct](Gradients& io) {
                            SIDEWINDER_ASSERT(io.output().at(0) == 1.0);
                            io.add(0, dx);
                            if (!direct) io.add(1, dweight);
                          });
  return {std::move(loss), out.token_loss};
}

}  // namespace sidewinder
