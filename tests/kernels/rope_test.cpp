#include "kernels/ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "tests/support/message_of.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::message_of;
using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

Tensor positions_from(int64_t first, int64_t count) {
  Tensor positions = Tensor::empty({count}, Dtype::i32);
  std::iota(positions.data<int32_t>(), positions.data<int32_t>() + count,
            static_cast<int32_t>(first));
  return positions;
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.count(); ++i) sum += a.at(i) * b.at(i);
  return sum;
}

// The rotation written down once more, with the angle formed in long double.
Tensor direct(const Tensor& x, const Tensor& position, const RopeOptions& options, bool inverse) {
  Tensor y = x.to(Dtype::f64);
  const int64_t pairs = options.rotary_width / 2;
  for (int64_t t = 0; t < x.size(0); ++t) {
    for (int64_t h = 0; h < x.size(1); ++h) {
      double* head = y.data<double>() + (t * x.size(1) + h) * x.size(2);
      for (int64_t j = 0; j < pairs; ++j) {
        const long double angle = static_cast<long double>(position.data<int32_t>()[t]) *
                                  std::pow(static_cast<long double>(options.base),
                                           -2.0L * static_cast<long double>(j) /
                                               static_cast<long double>(options.rotary_width));
        const double cosine = static_cast<double>(std::cos(angle));
        const double sine = static_cast<double>(inverse ? -std::sin(angle) : std::sin(angle));
        double& a = head[options.interleaved ? 2 * j : j];
        double& b = head[options.interleaved ? 2 * j + 1 : j + pairs];
        const double first = a * cosine - b * sine;
        b = b * cosine + a * sine;
        a = first;
      }
    }
  }
  return y;
}

class RopePath : public testing::PathTest {};

std::vector<testing::Path> paths_and_f64() {
  std::vector<testing::Path> paths = testing::all_paths();
  paths.push_back({best_isa(), Dtype::f64});
  return paths;
}

INSTANTIATE_TEST_SUITE_P(Levels, RopePath, ::testing::ValuesIn(paths_and_f64()),
                         testing::path_name);

double limit_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64: return 1e-9;  // the angle at position 10⁶ has rounded to 1e-10
    case Dtype::bf16: return 2e-3;
    default: return 2e-7;
  }
}

TEST_P(RopePath, MatchesTheDirectFormula) {
  const Dtype dtype = GetParam().dtype;
  for (const bool interleaved : {false, true}) {
    for (const auto& [width, rotary] : std::vector<std::pair<int64_t, int64_t>>{
             {2, 2}, {6, 4}, {32, 32}, {64, 64}, {64, 16}, {80, 30}, {33, 14}, {128, 128}}) {
      SCOPED_TRACE(std::to_string(width) + " " + std::to_string(rotary));
      const RopeOptions options{
          .head_width = width, .rotary_width = rotary, .base = 10000.0, .interleaved = interleaved};
      const RopeTable table = ops::rope_table(options, 1000, accumulator_of(dtype));
      const Tensor x = random_normal({37, 3, width}, dtype, 5);
      const Tensor position = positions_from(950, 37);
      for (const bool inverse : {false, true}) {
        const Tensor y = ops::rope(x, position, table, inverse);
        EXPECT_LT(relative_error(y, direct(x, position, options, inverse)), limit_of(dtype));
      }
    }
  }
}

TEST_P(RopePath, InverseUndoesTheTurn) {
  const Dtype dtype = GetParam().dtype;
  const RopeOptions options{.head_width = 48, .rotary_width = 40};
  const RopeTable table = ops::rope_table(options, 64, accumulator_of(dtype));
  const Tensor x = random_normal({64, 2, 48}, dtype, 5);
  const Tensor position = positions_from(0, 64);
  const Tensor back = ops::rope(ops::rope(x, position, table), position, table, true);
  EXPECT_LT(relative_error(back, x), dtype == Dtype::bf16 ? 4e-3 : 2e-7);
}

TEST_P(RopePath, ViewsGiveTheSameBits) {
  const Dtype dtype = GetParam().dtype;
  const RopeTable table =
      ops::rope_table({.head_width = 24, .rotary_width = 24}, 50, accumulator_of(dtype));
  const Tensor wide = random_normal({50, 3 * 48 + 5}, dtype, 5);
  const Tensor view = wide.columns(48, 96).reshape({50, 2, 24});
  const Tensor position = positions_from(0, 50);
  EXPECT_TRUE(
      same_bits(ops::rope(view, position, table), ops::rope(view.clone(), position, table)));
}

TEST_P(RopePath, InPlaceGivesTheSameBits) {
  const Dtype dtype = GetParam().dtype;
  for (const bool interleaved : {false, true}) {
    const RopeTable table =
        ops::rope_table({.head_width = 44, .rotary_width = 42, .interleaved = interleaved}, 50,
                        accumulator_of(dtype));
    const Tensor wide = random_normal({50, 3 * 88}, dtype, 5);
    Tensor view = wide.columns(88, 2 * 88).reshape({50, 2, 44});
    const Tensor beside = wide.columns(0, 88).clone();
    const Tensor position = positions_from(0, 50);
    const Tensor expected = ops::rope(view, position, table, true);
    ops::rope_in_place(view, position, table, true);
    EXPECT_TRUE(same_bits(view.clone(), expected));
    EXPECT_TRUE(same_bits(wide.columns(0, 88).clone(), beside));
  }
}

TEST(Rope, KeepsTheNorm) {
  const RopeTable table = ops::rope_table({}, 5000, Dtype::f64);
  const Tensor x = random_normal({100, 2, 64}, Dtype::f64, 5);
  const Tensor y = ops::rope(x, positions_from(4900, 100), table);
  EXPECT_NEAR(dot(y, y), dot(x, x), 1e-9 * dot(x, x));
}

TEST(Rope, ProductsDependOnTheDistanceAlone) {
  const RopeTable table = ops::rope_table({}, 5000, Dtype::f64);
  const Tensor q = random_normal({1, 1, 64}, Dtype::f64, 5);
  const Tensor k = random_normal({1, 1, 64}, Dtype::f64, 6);
  const auto product = [&](int64_t query, int64_t key) {
    return dot(ops::rope(q, positions_from(query, 1), table),
               ops::rope(k, positions_from(key, 1), table));
  };
  EXPECT_NEAR(product(4321, 4300), product(21, 0), 1e-9);
  EXPECT_GT(std::abs(product(22, 0) - product(21, 0)), 1e-3);
}

TEST(Rope, AnglesAreRightAtPositionOneMillion) {
  for (const double base : {1e4, 1e7}) {
    const RopeOptions options{.head_width = 64, .rotary_width = 64, .base = base};
    for (int64_t pair = 0; pair < 32; ++pair) {
      const long double exact =
          1e6L * std::pow(static_cast<long double>(base), -static_cast<long double>(pair) / 32.0L);
      const double angle = rope_angle(rope_frequency(options, pair), 1000000);
      EXPECT_LE(std::abs(angle), 3.1415927);
      EXPECT_NEAR(std::cos(angle), static_cast<double>(std::cos(exact)), 1e-9);
      EXPECT_NEAR(std::sin(angle), static_cast<double>(std::sin(exact)), 1e-9);
    }
  }
  const RopeTable table =
      ops::rope_table({.head_width = 4, .rotary_width = 4}, 1000001, Dtype::f32);
  const double cosine = static_cast<double>(std::cos(1e6L));
  EXPECT_NEAR(table.cosine.at(2 * 1000000), cosine, 6e-8);
}

TEST(Rope, BitsDoNotDependOnTheNumberOfThreads) {
  const int before = ThreadPool::global().num_threads();
  const RopeTable table = ops::rope_table({}, 900, Dtype::f32);
  const Tensor x = random_normal({900, 4, 64}, Dtype::bf16, 5);
  ThreadPool::global().resize(1);
  const Tensor one = ops::rope(x, positions_from(0, 900), table);
  ThreadPool::global().resize(3);
  EXPECT_TRUE(same_bits(ops::rope(x, positions_from(0, 900), table), one));
  ThreadPool::global().resize(before);
}

TEST(Rope, RefusesInputsThatDoNotFit) {
  EXPECT_EQ(
      message_of([] { ops::rope_table({.head_width = 8, .rotary_width = 5}, 4, Dtype::f32); }),
      "rope: rotary width 5 of heads 8 wide; it must be even and from 2 to the head width");
  const RopeTable table = ops::rope_table({.head_width = 8, .rotary_width = 8}, 4, Dtype::f32);
  const Tensor x = Tensor::zeros({2, 1, 8}, Dtype::f32);
  EXPECT_EQ(message_of([&] { ops::rope(x, positions_from(3, 2), table); }),
            "rope: token 1 has position 4 but the table has 4 positions; make it longer");
  EXPECT_EQ(message_of([&] { ops::rope(x, positions_from(0, 3), table); }),
            "rope: positions are i32 [3] but x has 2 tokens; one i32 per token is needed");
  EXPECT_EQ(message_of([&] {
              ops::rope(Tensor::zeros({2, 1, 6}, Dtype::f32), positions_from(0, 2), table);
            }),
            "rope: heads of x are 6 wide (f32) but the table turns 8 elements (f32)");
}

}  // namespace
}  // namespace sidewinder
