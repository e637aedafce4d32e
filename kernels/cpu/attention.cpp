#include "kernels/ops/attention.h"

#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/attention_pass.h"
#include "kernels/reference/attention.h"

namespace sidewinder::cpu {
namespace {

reference::Rows<double> f64_rows(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.row_stride()};
}
reference::Rows<const double> const_f64_rows(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.row_stride()};
}

template <typename Args>
reference::AttentionProblem problem_of(const Args& args) {
  const Tensor& slopes = args.slopes;
  return {args.layout,    args.pattern,
          args.scale,     args.q.size(1),
          args.k.size(1), args.q.size(2),
          args.v.size(2), slopes.defined() ? slopes.data<float>() : nullptr};
}

void attention_f64(const AttentionArgs& args) {
  const reference::AttentionProblem problem = problem_of(args);
  const reference::AttentionTensors<double> tensors = {
      f64_rows(args.out), f64_rows(args.lse), const_f64_rows(args.q), const_f64_rows(args.k),
      const_f64_rows(args.v)};
  parallel_for(problem.heads,
               [&](int64_t head) { reference::attention_head(problem, tensors, head); });
}

void attention_backward_f64(const AttentionBackwardArgs& args) {
  const reference::AttentionProblem problem = problem_of(args);
  const reference::AttentionGradientTensors<double> tensors = {
      f64_rows(args.dq),         f64_rows(args.dk),        f64_rows(args.dv),
      const_f64_rows(args.dout), const_f64_rows(args.q),   const_f64_rows(args.k),
      const_f64_rows(args.v),    const_f64_rows(args.out), const_f64_rows(args.lse)};
  args.dk.fill_zero();
  args.dv.fill_zero();
  parallel_for(problem.kv_heads, [&](int64_t kv_head) {
    reference::attention_backward_head(problem, tensors, kv_head);
  });
}

}  // namespace

AttentionVisits attention_visits(const SequenceLayout& layout, const AttentionPattern& pattern,
                                 int64_t heads, int64_t kv_heads) {
  const int64_t group = heads / kv_heads;
  const AttentionIsa& isa = attention_kernels_for_isa();
  const std::vector<Document> documents = documents_of(layout);
  AttentionVisits visits;
  for (const AttentionPart& part : pattern.parts()) {
    for (const Document& document : classes_of(documents, part)) {
      const auto count = [&](int64_t tile_lanes) {
        const QueryTiles tiles(document, part, group, tile_lanes, isa.vector_lanes);
        int64_t scores = 0;
        for (int64_t tile = 0; tile < tiles.count(); ++tile) {
          const KeyRange near = tiles.span(tile);
          const auto far = static_cast<int64_t>(tiles.far_keys(tile).keys.size());
          scores += tiles.lanes(tile) * (near.end - near.begin + far);
        }
        return kv_heads * scores;
      };
      visits.forward += count(isa.forward_lanes);
      visits.backward += count(isa.backward_lanes);
    }
  }
  return visits;
}

void attention(Stream, const AttentionArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_f64(args);
  attention_forward(args);
}

void attention_backward(Stream, const AttentionBackwardArgs& args) {
  if (args.q.dtype() == Dtype::f64) return attention_backward_f64(args);
  attention_gradients(args);
}

}  // namespace sidewinder::cpu
