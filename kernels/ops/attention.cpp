#include "kernels/ops/attention.h"

#include <cmath>
#include <string>

namespace sidewinder {

namespace {

// Pairs of a document with cached keys are those of the whole less those of the cached part.
template <typename Args>
double forward_flops(const Args& args) {
  const SequenceLayout& layout = args.layout;
  const std::vector<int32_t>& starts = layout.document_starts;
  double pairs = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : layout.tokens();
    const int64_t cached =
        layout.key_of(starts[i]) - layout.first_key.template data<int32_t>()[starts[i]];
    pairs += static_cast<double>(args.pattern.pairs(cached + end - starts[i]) -
                                 args.pattern.pairs(cached));
  }
  return 2 * pairs * static_cast<double>(args.q.size(1) * (args.q.size(2) + args.v.size(2)));
}

double flops_of(const AttentionArgs& args) { return forward_flops(args); }
double flops_of(const AttentionBackwardArgs& args) { return 2 * forward_flops(args); }

}  // namespace

Kernel<AttentionArgs> kAttention{.name = "attention", .cpu = &cpu::attention, .flops = &flops_of};
Kernel<AttentionBackwardArgs> kAttentionBackward{
    .name = "attention backward", .cpu = &cpu::attention_backward, .flops = &flops_of};

namespace {

bool is_floating(Dtype dtype) { return dtype != Dtype::i32; }

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                  AttentionPattern pattern, double scale, const Tensor& slopes) {
  SIDEWINDER_REQUIRE(q.rank() == 3 && k.rank() == 3 && v.rank() == 3,
                     "attention: q {}, k {} and v {} must be [tokens, heads, width]",
                     q.shape().text(), k.shape().text(), v.shape().text());
  SIDEWINDER_REQUIRE(is_floating(q.dtype()) && k.dtype() == q.dtype() && v.dtype() == q.dtype(),
                     "attention: q is {}, k {} and v {}; they must have one floating type",
                     name_of(q.dtype()), name_of(k.dtype()), name_of(v.dtype()));
  SIDEWINDER_REQUIRE(q.size(0) == layout.tokens(),
                     "attention: q has {} tokens but the layout {} ({} rows of {})", q.size(0),
                     layout.tokens(), layout.rows, layout.row_length);
  SIDEWINDER_REQUIRE(
      k.size(0) == layout.keys() && v.size(0) == layout.keys(),
      "attention: k has {} and v {} keys but the layout {} ({} rows of {} cached and "
      "{} new ones)",
      k.size(0), v.size(0), layout.keys(), layout.rows, layout.past, layout.row_length);
  SIDEWINDER_REQUIRE(k.size(1) == v.size(1) && k.size(1) >= 1 && q.size(1) % k.size(1) == 0,
                     "attention: {} query heads, {} key heads and {} value heads; key and value "
                     "heads must be equal in number and divide the query heads",
                     q.size(1), k.size(1), v.size(1));
  SIDEWINDER_REQUIRE(q.size(2) == k.size(2) && q.size(2) >= 1 && v.size(2) >= 1,
                     "attention: head width {} of q, {} of k, {} of v; those of q and k must be "
                     "equal and none 0",
                     q.size(2), k.size(2), v.size(2));
  const std::string wrong = pattern.mistake();
  SIDEWINDER_REQUIRE(wrong.empty(), "attention: {}", wrong);
  SIDEWINDER_REQUIRE(std::isfinite(scale), "attention: scale {} is not finite", scale);
  if (!slopes.defined()) return;
  SIDEWINDER_REQUIRE(slopes.dtype() == Dtype::f32 && slopes.shape() == Shape({q.size(1)}),
                     "attention: slopes are {} {} but must be f32 [{}], one per query head",
                     name_of(slopes.dtype()), slopes.shape().text(), q.size(1));
  for (int64_t h = 0; h < slopes.size(0); ++h) {
    SIDEWINDER_REQUIRE(std::isfinite(slopes.data<float>()[h]),
                       "attention: slope {} of head {} is not finite", slopes.at(h), h);
  }
}

}  // namespace

ops::AttentionOut ops::attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const SequenceLayout& layout, AttentionPattern pattern,
                                 double scale, const Tensor& slopes) {
  check_inputs(q, k, v, layout, pattern, scale, slopes);
  AttentionOut result;
  result.out = Tensor::empty({q.size(0), q.size(1), v.size(2)}, q.dtype(), q.device());
  result.lse = Tensor::empty({q.size(0), q.size(1)}, accumulator_of(q.dtype()), q.device());
  kAttention(current_stream(q.device()),
             {result.out, result.lse, q, k, v, layout, pattern, scale, slopes});
  return result;
}

AttentionVisits ops::attention_visits(const SequenceLayout& layout, const AttentionPattern& pattern,
                                      int64_t heads, int64_t kv_heads) {
  return cpu::attention_visits(layout, pattern, heads, kv_heads);
}

ops::AttentionGradients ops::attention_backward(const Tensor& dout, const Tensor& q,
                                                const Tensor& k, const Tensor& v, const Tensor& out,
                                                const Tensor& lse, const SequenceLayout& layout,
                                                AttentionPattern pattern, double scale,
                                                const Tensor& slopes) {
  check_inputs(q, k, v, layout, pattern, scale, slopes);
  const Shape shape = {q.size(0), q.size(1), v.size(2)};
  SIDEWINDER_REQUIRE(dout.shape() == shape && out.shape() == shape,
                     "attention backward: dout is {} and out {} but both must be {}",
                     dout.shape().text(), out.shape().text(), shape.text());
  SIDEWINDER_REQUIRE(dout.dtype() == q.dtype() && out.dtype() == q.dtype(),
                     "attention backward: dout is {} and out {} but q is {}; convert the gradient",
                     name_of(dout.dtype()), name_of(out.dtype()), name_of(q.dtype()));
  SIDEWINDER_REQUIRE(lse.shape() == Shape({q.size(0), q.size(1)}) &&
                         lse.dtype() == accumulator_of(q.dtype()) && lse.contiguous(),
                     "attention backward: lse is {} {} but the forward pass made {} [{}, {}]",
                     name_of(lse.dtype()), lse.shape().text(), name_of(accumulator_of(q.dtype())),
                     q.size(0), q.size(1));
  AttentionGradients result;
  result.dq = Tensor::empty(q.shape(), q.dtype(), q.device());
  result.dk = Tensor::empty(k.shape(), k.dtype(), k.device());
  result.dv = Tensor::empty(v.shape(), v.dtype(), v.device());
  kAttentionBackward(current_stream(q.device()), {result.dq, result.dk, result.dv, dout, q, k, v,
                                                  out, lse, layout, pattern, scale, slopes});
  return result;
}

}  // namespace sidewinder
