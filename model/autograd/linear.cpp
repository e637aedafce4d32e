#include "kernels/ops/add.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/swiglu.h"
#include "model/autograd/functions.h"

namespace sidewinder {
namespace {

// The packed form of a weight: kept by its Parameter, or made for this call.
PackedWeight packed(const Var& weight, WeightUse use, Dtype compute) {
  if (weight.parameter() != nullptr) return weight.parameter()->packed(use, compute);
  return ops::pack_weight(weight.value(), use, compute);
}

// x · Wᵀ in the type of x, as `dtype`.
Tensor product(const Tensor& x, const Var& weight, Dtype dtype, const Tensor& residual = {}) {
  Tensor y = ops::linear(x, packed(weight, WeightUse::forward, x.dtype()), dtype,
                         {.bias = {}, .residual = residual});
  if (weight.parameter() != nullptr && weight.on_tape() && weight.tape()->drops_packed) {
    weight.parameter()->drop_packed(WeightUse::forward);
  }
  return y;
}

// dy · W, the gradient of x in product().
Tensor product_backward(const Tensor& dy, const Var& weight, Dtype compute) {
  return ops::linear(dy, packed(weight, WeightUse::backward, compute), compute);
}

// Adds dyᵀ · x to the gradient of an input, or makes it that.
void add_weight_gradient(Gradients& io, int input, const Tensor& dy, const Tensor& x) {
  if (!io.wanted(input)) return;
  Tensor& dweight = io.pending(input);
  const bool accumulate = dweight.defined();
  if (!accumulate) {
    dweight = Tensor::empty({dy.size(1), x.size(1)}, accumulator_of(x.dtype()), x.device());
  }
  ops::weight_gradient(dweight, dy, x, x.dtype(), accumulate);
}

}  // namespace

Var linear(const Var& x, const Var& weight) {
  return Tape::record("linear", {x, weight}, product(x.value(), weight, x.value().dtype()),
                      [x = x.value(), weight](Gradients& io) {
                        const Tensor& dy = io.output();
                        add_weight_gradient(io, 1, dy, x);
                        if (io.wanted(0)) io.add(0, product_backward(dy, weight, x.dtype()));
                      });
}

Var linear_add(const Var& x, const Var& weight, const Var& residual) {
  return Tape::record(
      "linear_add", {x, weight, residual},
      product(x.value(), weight, residual.value().dtype(), residual.value()),
      [x = x.value(), weight](Gradients& io) {
        const Tensor& dy = io.output();
        add_weight_gradient(io, 1, dy, x);
        if (io.wanted(0)) io.add(0, product_backward(dy, weight, x.dtype()));
        io.add(2, dy);  // last: the buffer is handed over
      });
}

Var rms_norm_linear(const Var& x, const Var& norm_weight, double eps, const Var& weight,
                    Dtype dtype) {
  const auto [normed, rstd] = ops::rms_norm(x.value(), norm_weight.value(), eps, dtype);
  return Tape::record(
      "rms_norm_linear", {x, norm_weight, weight}, product(normed, weight, dtype),
      [x = x.value(), norm_weight = norm_weight.value(), rstd = rstd, weight,
       dtype](Gradients& io) {
        Tensor again = product_backward(io.output(), weight, dtype);  // its gradient so far
        Tensor unused;
        ops::rms_norm_backward_in_place(io.wanted(0) ? io.pending(0) : unused, io.sum(1), again, x,
                                        norm_weight, rstd, x.dtype());
        add_weight_gradient(io, 2, io.output(), again);
      });
}

Var swiglu_linear_add(const Var& gate_up, const Var& weight, const Var& residual) {
  return Tape::record(
      "swiglu_linear_add", {gate_up, weight, residual},
      product(ops::swiglu(gate_up.value()), weight, residual.value().dtype(), residual.value()),
      [gate_up = gate_up.value(), weight](Gradients& io) mutable {
        const Tensor& dy = io.output();
        Tensor again = product_backward(dy, weight, gate_up.dtype());  // its gradient so far
        if (!gate_up.sole_owner()) gate_up = gate_up.clone();
        ops::swiglu_backward_in_place(again, gate_up);
        add_weight_gradient(io, 1, dy, again);
        io.add(0, std::move(gate_up));
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
