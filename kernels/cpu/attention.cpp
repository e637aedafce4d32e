#include "kernels/ops/attention.h"

#include "kernels/base/thread_pool.h"
#include "kernels/reference/attention.h"

namespace sidewinder {
namespace {

reference::Rows<double> rows_of(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.row_stride()};
}
reference::Rows<const double> const_rows_of(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.row_stride()};
}

template <typename Args>
reference::AttentionProblem problem_of(const Args& args) {
  return {args.layout,    args.pattern,   static_cast<double>(args.scale),
          args.q.size(1), args.k.size(1), args.q.size(2),
          args.v.size(2)};
}

void attention_f64(const AttentionArgs& args) {
  const reference::AttentionProblem problem = problem_of(args);
  const reference::AttentionTensors<double> tensors = {rows_of(args.out), rows_of(args.lse),
                                                       const_rows_of(args.q), const_rows_of(args.k),
                                                       const_rows_of(args.v)};
  parallel_for(problem.heads,
               [&](int64_t head) { reference::attention_head(problem, tensors, head); });
}

void attention_backward_f64(const AttentionBackwardArgs& args) {
  const reference::AttentionProblem problem = problem_of(args);
  const reference::AttentionGradientTensors<double> tensors = {
      rows_of(args.dq),         rows_of(args.dk),        rows_of(args.dv),
      const_rows_of(args.dout), const_rows_of(args.q),   const_rows_of(args.k),
      const_rows_of(args.v),    const_rows_of(args.out), const_rows_of(args.lse)};
  Tensor(args.dk).fill_zero();
  Tensor(args.dv).fill_zero();
  parallel_for(problem.kv_heads, [&](int64_t kv_head) {
    reference::attention_backward_head(problem, tensors, kv_head);
  });
}

}  // namespace

void cpu::attention(Stream, const AttentionArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_f64(args);
  Tensor out = Tensor::empty(args.out.shape(), Dtype::f64);
  Tensor lse = Tensor::empty(args.lse.shape(), Dtype::f64);
  attention_f64({out, lse, args.q.to(Dtype::f64), args.k.to(Dtype::f64), args.v.to(Dtype::f64),
                 args.layout, args.pattern, args.scale});
  args.out.copy_from(out);
  args.lse.copy_from(lse);
}

void cpu::attention_backward(Stream, const AttentionBackwardArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_backward_f64(args);
  Tensor dq = Tensor::empty(args.dq.shape(), Dtype::f64);
  Tensor dk = Tensor::empty(args.dk.shape(), Dtype::f64);
  Tensor dv = Tensor::empty(args.dv.shape(), Dtype::f64);
  attention_backward_f64({dq, dk, dv, args.dout.to(Dtype::f64), args.q.to(Dtype::f64),
                          args.k.to(Dtype::f64), args.v.to(Dtype::f64), args.out.to(Dtype::f64),
                          args.lse.to(Dtype::f64), args.layout, args.pattern, args.scale});
  args.dq.copy_from(dq);
  args.dk.copy_from(dk);
  args.dv.copy_from(dv);
}

}  // namespace sidewinder
