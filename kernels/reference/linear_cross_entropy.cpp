#include "kernels/reference/linear_cross_entropy.h"

#include <algorithm>

#include "kernels/base/thread_pool.h"
#include "kernels/reference/matmul.h"

namespace sidewinder::reference {
namespace {

// The gradient of one token's loss with respect to its logits before the soft cap.
void logits_gradient(const std::vector<double>& logits, int32_t target, double scale,
                     const CrossEntropyOptions& options, double* gradient) {
  const double lse = log_sum_exp(logits);
  for (size_t v = 0; v < logits.size(); ++v) {
    const double probability = std::exp(logits[v] - lse);
    double g = probability * (1 + 2 * options.z_loss * lse);
    if (v == static_cast<size_t>(target)) g -= 1;
    if (options.soft_cap > 0) {
      const double share = logits[v] / options.soft_cap;
      g *= 1 - share * share;
    }
    gradient[v] = scale * g;
  }
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropyArgs& args) {
  const Tensor x = args.x.contiguous() ? args.x : args.x.clone();
  const Tensor& w = args.weight_forward.data;
  const CrossEntropyShape one_token{1, x.width(), w.rows()};
  const int64_t tokens = x.rows();
  const int32_t* targets = args.targets.data<int32_t>();
  const bool wants_gradient = args.dx.defined();
  Tensor loss_of_token = Tensor::empty({tokens}, Dtype::f64);
  Tensor gradient = wants_gradient ? Tensor::zeros({tokens, w.rows()}, Dtype::f64) : Tensor();
  parallel_for(tokens, [&](int64_t t) {
    const double* row = x.data<double>() + t * x.width();
    loss_of_token.data<double>()[t] =
        linear_cross_entropy(row, w.data<double>(), targets + t, one_token, args.scale,
                             args.options, args.token_loss.data<double>() + t);
    if (wants_gradient && targets[t] >= 0) {
      logits_gradient(logits_of(row, w.data<double>(), one_token, args.options), targets[t],
                      args.scale, args.options, gradient.data<double>() + t * w.rows());
    }
  });
  double loss = 0;
  for (int64_t t = 0; t < tokens; ++t) loss += loss_of_token.data<double>()[t];
  args.loss.data<double>()[0] = loss;
  if (!wants_gradient) return;
  const Tensor none;
  linear(args.dx, gradient, transpose(w), none, none);
  if (args.dweight.defined()) weight_gradient(args.dweight, gradient, x, true);
}

}  // namespace sidewinder::reference
