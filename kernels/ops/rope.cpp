#include "kernels/ops/rope.h"

#include <cmath>
#include <vector>

#include "kernels/base/thread_pool.h"

namespace sidewinder {

Kernel<RopeArgs> kRope{"rope", &cpu::rope};

namespace {

template <typename T>
void fill_table(RopeTable& table, const std::vector<double>& frequencies, double factor,
                int64_t first) {
  const int64_t positions = table.cosine.size(0);
  const int64_t pairs = table.cosine.size(1);
  parallel_ranges(positions, 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t j = 0; j < pairs; ++j) {
        const double angle = rope_angle(frequencies[static_cast<size_t>(j)], first + row);
        table.cosine.data<T>()[row * pairs + j] = static_cast<T>(factor * std::cos(angle));
        table.sine.data<T>()[row * pairs + j] = static_cast<T>(factor * std::sin(angle));
      }
    }
  });
}

}  // namespace

RopeTable ops::rope_table(const RopeOptions& options, int64_t positions, Dtype dtype,
                          int64_t length, int64_t first) {
  check_rope(options);
  SIDEWINDER_REQUIRE(positions >= 0 && first >= 0,
                     "rope: a table of {} positions from {} on is not possible", positions, first);
  SIDEWINDER_REQUIRE(dtype == Dtype::f32 || dtype == Dtype::f64,
                     "rope: a table of {} would lose the angle; use f32 or f64", name_of(dtype));
  RopeTable table;
  table.cosine = Tensor::empty({positions, options.rotary_width / 2}, dtype);
  table.sine = Tensor::empty({positions, options.rotary_width / 2}, dtype);
  table.interleaved = options.interleaved;
  const std::vector<double> frequencies =
      rope_frequencies(options, length == 0 ? first + positions : length);
  const double factor = rope_attention_factor(options);
  if (dtype == Dtype::f64) {
    fill_table<double>(table, frequencies, factor, first);
  } else {
    fill_table<float>(table, frequencies, factor, first);
  }
  return table;
}

namespace {

void check_rope_operands(const Tensor& x, const Tensor& position, const RopeTable& table) {
  SIDEWINDER_REQUIRE(x.rank() == 3 && x.dtype() != Dtype::i32,
                     "rope: x is {} {}; it must be a floating [tokens, heads, width]",
                     name_of(x.dtype()), x.shape().text());
  SIDEWINDER_REQUIRE(position.rank() == 1 && position.dtype() == Dtype::i32 &&
                         position.size(0) == x.size(0) && position.contiguous(),
                     "rope: positions are {} {} but x has {} tokens; one i32 per token is needed",
                     name_of(position.dtype()), position.shape().text(), x.size(0));
  SIDEWINDER_REQUIRE(table.cosine.defined() && table.cosine.dtype() == accumulator_of(x.dtype()) &&
                         2 * table.cosine.size(1) <= x.size(2),
                     "rope: heads of x are {} wide ({}) but the table turns {} elements ({})",
                     x.size(2), name_of(x.dtype()),
                     table.cosine.defined() ? 2 * table.cosine.size(1) : 0,
                     name_of(table.cosine.dtype()));
  const int32_t* positions = position.data<int32_t>();
  for (int64_t t = 0; t < position.size(0); ++t) {
    SIDEWINDER_REQUIRE(positions[t] >= 0 && positions[t] < table.cosine.size(0),
                       "rope: token {} has position {} but the table has {} positions; make it "
                       "longer",
                       t, positions[t], table.cosine.size(0));
  }
}

}  // namespace

Tensor ops::rope(const Tensor& x, const Tensor& position, const RopeTable& table, bool inverse) {
  check_rope_operands(x, position, table);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kRope(current_stream(x.device()), {y, x, position, table, inverse});
  return y;
}

void ops::rope_in_place(Tensor& x, const Tensor& position, const RopeTable& table, bool inverse) {
  check_rope_operands(x, position, table);
  kRope(current_stream(x.device()), {x, x, position, table, inverse});
}

}  // namespace sidewinder
