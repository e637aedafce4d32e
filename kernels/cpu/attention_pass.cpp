#include "kernels/cpu/attention_pass.h"

#include <cstring>

namespace sidewinder::cpu {
namespace {

// Every step-th token of a tensor, from `token` on.
HeadRows rows_of(const Tensor& tensor, int64_t token, int64_t step, int64_t first_head,
                 int64_t heads, int64_t width) {
  const int64_t offset = token * tensor.row_stride() + first_head * width;
  return {static_cast<char*>(tensor.raw()) + offset * static_cast<int64_t>(size_of(tensor.dtype())),
          step * tensor.row_stride(), heads, width};
}

}  // namespace

HeadRows AttentionHead::queries(const Tensor& like_q) const {
  return rows_of(like_q, document->first_token, document->step, index * group, group,
                 like_q.size(2));
}
HeadRows AttentionHead::statistics(const Tensor& like_lse) const {
  return rows_of(like_lse, document->first_token, document->step, index * group, group, 1);
}
HeadRows AttentionHead::keys(const Tensor& like_k) const {
  return rows_of(like_k, document->first_key, document->step, index, 1, like_k.size(2));
}

void AttentionHead::fill_slopes(const Tensor& slopes, int64_t first_lane, int64_t lanes,
                                int64_t padded, float* result) const {
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t head = index * group + (first_lane + i) % group;
    result[i] = kLog2E * slopes.data<float>()[head] * static_cast<float>(document->step);
  }
  std::fill(result + lanes, result + padded, 0.0F);
}

AttentionSizes::AttentionSizes(const Tensor& q, const Tensor& v,
                               const AttentionPart& part_of_pattern)
    : isa(attention_kernels_for_isa()),
      functions(q.dtype() == Dtype::bf16 ? isa.bf16 : isa.f32),
      pair(functions.pair),
      width(q.size(2)),
      value_width(v.size(2)),
      width_stride(round_up(width, isa.vector_lanes)),
      value_stride(round_up(value_width, isa.vector_lanes)),
      steps(divide_up(width, pair)),
      value_steps(divide_up(value_width, pair)),
      kv_heads(v.size(1)),
      group(q.size(1) / kv_heads),
      part(part_of_pattern) {}

HeadRows FarKeyCopies::copy(const AttentionHead& head, const Tensor& tensor,
                            const int32_t* positions, int64_t count, std::vector<char>& bytes) {
  const HeadRows rows = head.keys(tensor);
  const size_t element_size = size_of(tensor.dtype());
  const size_t row_size = element_size * static_cast<size_t>(rows.width);
  bytes.resize(row_size * static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(bytes.data() + row_size * static_cast<size_t>(i),
                static_cast<const char*>(rows.data) +
                    static_cast<int64_t>(element_size) * rows.token_stride * positions[i],
                row_size);
  }
  return {bytes.data(), rows.width, 1, rows.width};
}

}  // namespace sidewinder::cpu
