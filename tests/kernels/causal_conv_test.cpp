#include "kernels/ops/causal_conv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/reference/causal_conv.h"
#include "tests/support/complex_step.h"
#include "tests/support/golden.h"
#include "tests/support/message_of.h"
#include "tests/support/random.h"
#include "tests/support/variants.h"

namespace sidewinder {
namespace {

using testing::Complex;
using testing::complex_of;
using testing::dot;
using testing::expect_complex_step;
using testing::for_each_isa;
using testing::message_of;
using testing::random_normal;
using testing::relative_error;
using testing::same_bits;

struct Case {
  Tensor x, weight, bias, initial, dy, dfinal;
  SequenceLayout layout;
};

struct Options {
  Dtype dtype = Dtype::f32;
  int64_t rows = 1;
  int64_t length = 1;
  int64_t channels = 1;
  int64_t width = 4;
  std::vector<int32_t> starts = {};
  bool carried = false;  // every row
  bool bias = true;
};

Case make_case(const Options& options) {
  const int64_t tokens = options.rows * options.length;
  const Dtype accumulator = accumulator_of(options.dtype);
  const Shape state = {options.rows, options.width - 1, options.channels};
  Case c;
  c.layout = SequenceLayout::packed(options.rows, options.length, options.starts);
  c.x = random_normal({tokens, options.channels}, options.dtype, 1);
  c.weight = random_normal({options.channels, options.width}, accumulator, 2);
  if (options.bias) c.bias = random_normal({options.channels}, accumulator, 3);
  if (options.carried) {
    c.layout.carried.assign(static_cast<size_t>(options.rows), 1);
    c.initial = random_normal(state, accumulator, 4);
  }
  c.dy = random_normal({tokens, options.channels}, options.dtype, 5);
  c.dfinal = random_normal(state, accumulator, 6);
  return c;
}

Tensor as(const Tensor& tensor, Dtype dtype) { return tensor ? tensor.to(dtype) : Tensor{}; }

Case converted(const Case& c, Dtype dtype) {
  return {as(c.x, dtype),  as(c.weight, dtype), as(c.bias, dtype), as(c.initial, dtype),
          as(c.dy, dtype), as(c.dfinal, dtype), c.layout};
}

using Results = std::vector<std::pair<std::string, Tensor>>;

Results name_results(const ops::CausalConvOut& forward, const ops::CausalConvGradients& gradients,
                     const Tensor& dweight, const Tensor& dbias) {
  Results results = {{"y", forward.y},     {"final_state", forward.final_state},
                     {"dx", gradients.dx}, {"dinitial", gradients.dinitial},
                     {"dweight", dweight}, {"dbias", dbias}};
  std::erase_if(results, [](const auto& named) { return !named.second.defined(); });
  return results;
}

Results run(const Case& c) {
  const Dtype accumulator = accumulator_of(c.x.dtype());
  Tensor dweight = Tensor::zeros(c.weight.shape(), accumulator);
  Tensor dbias = c.bias ? Tensor::zeros(c.bias.shape(), accumulator) : Tensor{};
  const ops::CausalConvOut forward =
      ops::causal_conv(c.x, c.weight, c.bias, c.layout, c.initial, true);
  const ops::CausalConvGradients gradients = ops::causal_conv_backward(
      dweight, dbias, c.dy, c.x, c.weight, c.bias, c.layout, c.initial, c.dfinal);
  return name_results(forward, gradients, dweight, dbias);
}

// The plain loops in f32, results rounded to the type of the activations: the measure of errors.
Results run_plainly(const Case& original) {
  const Case c = converted(original, Dtype::f32);
  Tensor dweight = Tensor::zeros(c.weight.shape(), Dtype::f32);
  Tensor dbias = c.bias ? Tensor::zeros(c.bias.shape(), Dtype::f32) : Tensor{};
  ops::CausalConvOut forward = {Tensor::empty(c.x.shape(), Dtype::f32),
                                Tensor::empty(c.dfinal.shape(), Dtype::f32)};
  ops::CausalConvGradients gradients = {
      Tensor::empty(c.x.shape(), Dtype::f32),
      c.initial ? Tensor::empty(c.initial.shape(), Dtype::f32) : Tensor{}};
  reference::causal_conv(
      CausalConvArgs{forward.y, forward.final_state, c.x, c.weight, c.bias, c.initial, c.layout});
  reference::causal_conv_backward(CausalConvBackwardArgs{gradients.dx, dweight, dbias,
                                                         gradients.dinitial, c.dy, c.dfinal, c.x,
                                                         c.weight, c.bias, c.initial, c.layout});
  forward.y = forward.y.to(original.x.dtype());
  gradients.dx = gradients.dx.to(original.x.dtype());
  return name_results(forward, gradients, dweight, dbias);
}

Tensor find(const Results& results, const std::string& name) {
  for (const auto& [key, tensor] : results) {
    if (key == name) return tensor;
  }
  ADD_FAILURE() << "no result named " << name;
  return {};
}

Case golden_case() {
  const std::vector<int32_t> starts = {0, 2, 7};
  Case c = {.x = golden::tensor(0, {8, 3}),
            .weight = golden::tensor(1, {3, 4}),
            .bias = golden::tensor(2, {3}),
            .initial = golden::tensor(3, {1, 3, 3}),
            .dy = golden::tensor(4, {8, 3}),
            .dfinal = {},
            .layout = SequenceLayout::packed(1, 8, starts)};
  c.layout.carried[0] = 1;
  return c;
}

// An independent f64 implementation, its gradients confirmed by the complex step.
const std::vector<std::pair<std::string, double>> kGolden = {{"y", -0.894102326261},
                                                             {"dx", 1.30894779479},
                                                             {"dweight", 3.78691333767},
                                                             {"dbias", -0.741304518947},
                                                             {"dinitial", 0.442788743756}};

TEST(CausalConv, ReproducesGoldenValues) {
  const Results results = run(golden_case());
  for (const auto& [name, value] : kGolden) {
    EXPECT_NEAR(golden::checksum(find(results, name)), value, 2e-11) << name;
  }
}

TEST(CausalConv, ReproducesGoldenValuesInF32OnEveryLevel) {
  for_each_isa([&] {
    const Results results = run(converted(golden_case(), Dtype::f32));
    for (const auto& [name, value] : kGolden) {
      EXPECT_NEAR(golden::checksum(find(results, name)), value, 3e-6) << name;
    }
  });
}

// Taps .1 .2 .3 .4 (the last is the current token) on 1 … 6, documents of 4 and 2 tokens: before
// the SiLU 0.4, 1.1, 2, 3 and 2, 3.9 (4 and 5 if the documents were not told apart).
TEST(CausalConv, DocumentsDoNotMixInTheCaseWorkedByHand) {
  const std::vector<int32_t> starts = {0, 4};
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    const Tensor x = Tensor::from<double>({6, 1}, {1, 2, 3, 4, 5, 6}).to(dtype);
    const Tensor weight = Tensor::from<double>({1, 4}, {.1, .2, .3, .4}).to(dtype);
    const Tensor y = ops::causal_conv(x, weight, {}, SequenceLayout::packed(1, 6, starts)).y;
    std::vector<double> expected;
    for (const double before : {0.4, 1.1, 2.0, 3.0, 2.0, 3.9}) {
      expected.push_back(before / (1 + std::exp(-before)));
    }
    const double limit = dtype == Dtype::f64 ? 1e-15 : 1e-6;
    EXPECT_THAT(y.values(), ::testing::Pointwise(::testing::DoubleNear(limit), expected));
  }
}

TEST(CausalConv, BackwardMatchesTheComplexStep) {
  const std::vector<Options> shapes = {
      {.dtype = Dtype::f64,
       .rows = 2,
       .length = 7,
       .channels = 2,
       .starts = {3, 4, 7},
       .carried = true},
      // Shorter than the taps: part of the initial state is handed on.
      {.dtype = Dtype::f64, .length = 2, .channels = 1, .width = 5, .carried = true}};
  for (const Options& shape : shapes) {
    const Case c = make_case(shape);
    const Results results = run(c);
    std::vector<std::pair<std::string, std::vector<Complex>>> inputs = {
        {"dx", complex_of(c.x)},
        {"dweight", complex_of(c.weight)},
        {"dbias", complex_of(c.bias)},
        {"dinitial", complex_of(c.initial)}};
    std::vector<Complex> y(static_cast<size_t>(c.x.count()));
    std::vector<Complex> final_state(static_cast<size_t>(c.dfinal.count()));
    const auto loss = [&] {
      const auto rows = [&](size_t i, int64_t stride) {
        return reference::Rows<const Complex>{inputs[i].second.data(), stride};
      };
      const int64_t state = c.dfinal.width();
      reference::causal_conv<Complex>({.channels = shape.channels,
                                       .width = shape.width,
                                       .x = rows(0, shape.channels),
                                       .weight = rows(1, shape.width),
                                       .bias = rows(2, 1),
                                       .initial = rows(3, state),
                                       .y = {y.data(), shape.channels},
                                       .final_state = {final_state.data(), state}},
                                      c.layout);
      return dot(y, c.dy) + dot(final_state, c.dfinal);
    };
    for (auto& [name, values] : inputs) {
      expect_complex_step(find(results, name), values, loss, 1e-12, name);
    }
  }
}

TEST(CausalConv, MatchesTheReferenceAtRaggedShapes) {
  const std::vector<Options> shapes = {
      {.length = 1, .channels = 1},
      {.length = 1, .channels = 17, .width = 2, .carried = true},
      {.length = 2, .channels = 3, .carried = true},
      {.length = 3, .channels = 16, .carried = true, .bias = false},
      {.length = 4, .channels = 15, .width = 5},
      {.rows = 3, .length = 5, .channels = 129, .width = 8, .carried = true},
      {.length = 255, .channels = 31, .width = 3, .carried = true},
      {.length = 256, .channels = 32, .width = 6},
      {.length = 257, .channels = 128, .width = 7, .carried = true},
      {.rows = 2, .length = 259, .channels = 133, .carried = true},
      // Documents shorter than the taps, and edges before, at and after those of blocks.
      {.length = 600,
       .channels = 21,
       .starts = {0, 1, 2, 4, 7, 254, 255, 256, 257, 300, 511, 512, 514, 599},
       .carried = true},
      {.rows = 3, .length = 10, .channels = 40, .starts = {8, 10, 19, 22, 27}, .bias = false},
      {.length = 258, .channels = 16, .width = 8, .starts = {0, 253}},
      // More channels than a work item takes.
      {.rows = 2, .length = 11, .channels = 1043, .starts = {0, 5, 11, 18}, .carried = true},
  };
  for_each_isa([&] {
    for (Options shape : shapes) {
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        shape.dtype = dtype;
        const Case c = make_case(shape);
        const Results expected = run(converted(c, Dtype::f64));
        const Results plain = run_plainly(c);
        const Results actual = run(c);
        ASSERT_EQ(actual.size(), expected.size());
        for (size_t i = 0; i < actual.size(); ++i) {
          const double limit = 2 * relative_error(plain[i].second, expected[i].second) + 2e-7;
          EXPECT_LE(relative_error(actual[i].second, expected[i].second), limit)
              << actual[i].first << ", " << name_of(dtype) << ", " << shape.rows << " rows of "
              << shape.length << ", " << shape.channels << " channels, width " << shape.width;
        }
      }
    }
  });
}

Case slice(const Case& c, int64_t begin, int64_t end) {
  Case part = c;
  part.x = c.x.slice_rows(begin, end);
  part.dy = c.dy.slice_rows(begin, end);
  std::vector<int32_t> starts;
  for (const int32_t start : c.layout.document_starts) {
    if (start >= begin && start < end) starts.push_back(start - static_cast<int32_t>(begin));
  }
  const bool carried = begin > 0 && (starts.empty() || starts.front() != 0);
  part.layout = SequenceLayout::packed(1, end - begin, starts);
  part.layout.carried[0] = carried ? 1 : 0;
  return part;
}

// Gradients too: the initial state's gradient of the second part is the final state's of the first.
TEST(CausalConv, TwoPartsWithACarriedStateEqualTheWhole) {
  for (const int64_t width : {2, 4, 7}) {
    const Case whole =
        make_case({.length = 300, .channels = 37, .width = width, .starts = {0, 2, 40, 100, 298}});
    const Results expected = run(whole);
    for (const int64_t cut : {1, 2, 3, 41, 255, 256, 257, 297, 298, 299}) {
      Case first = slice(whole, 0, cut);
      Case second = slice(whole, cut, 300);
      second.initial =
          ops::causal_conv(first.x, first.weight, first.bias, first.layout, {}, true).final_state;
      const Results second_results = run(second);
      first.dfinal = find(second_results, "dinitial");
      const Results first_results = run(first);
      const Tensor y = find(expected, "y");
      EXPECT_TRUE(same_bits(find(first_results, "y"), y.slice_rows(0, cut))) << cut;
      EXPECT_TRUE(same_bits(find(second_results, "y"), y.slice_rows(cut, 300))) << cut;
      EXPECT_TRUE(same_bits(find(second_results, "final_state"), find(expected, "final_state")));
      // The terms of dx at the cut are added in another order.
      const Tensor dx = find(expected, "dx");
      EXPECT_LT(relative_error(find(first_results, "dx"), dx.slice_rows(0, cut)), 3e-7) << cut;
      EXPECT_LT(relative_error(find(second_results, "dx"), dx.slice_rows(cut, 300)), 3e-7) << cut;
      for (const char* name : {"dweight", "dbias"}) {
        const Tensor sum = find(first_results, name).to(Dtype::f64);
        for (int64_t i = 0; i < sum.count(); ++i) {
          sum.data<double>()[i] += find(second_results, name).at(i);
        }
        EXPECT_LT(relative_error(sum, find(expected, name).to(Dtype::f64)), 1e-6) << name << cut;
      }
    }
  }
}

TEST(CausalConv, TokenByTokenEqualsTheWhole) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Case whole =
        make_case({.dtype = dtype, .length = 20, .channels = 50, .width = 4, .carried = true});
    const ops::CausalConvOut expected =
        ops::causal_conv(whole.x, whole.weight, whole.bias, whole.layout, whole.initial, true);
    Tensor state = whole.initial;
    for (int64_t t = 0; t < 20; ++t) {
      const ops::CausalConvOut step =
          ops::causal_conv(whole.x.slice_rows(t, t + 1), whole.weight, whole.bias,
                           SequenceLayout::continuation(1, 1, t), state, true);
      EXPECT_TRUE(same_bits(step.y, expected.y.slice_rows(t, t + 1))) << t;
      state = step.final_state;
    }
    EXPECT_TRUE(same_bits(state, expected.final_state));
  }
}

TEST(CausalConv, OtherDocumentsDoNotFeelAToken) {
  const std::vector<int32_t> starts = {0, 30, 31, 33, 256, 300};
  const int64_t length = 310;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    const Options options = {.dtype = dtype, .length = length, .channels = 20, .starts = starts};
    const Results before = run(make_case(options));
    for (const int64_t token : {0, 29, 30, 32, 255, 256, 299, 309}) {
      for (const double value : {3.0, std::numeric_limits<double>::quiet_NaN()}) {
        const Case c = make_case(options);
        c.x.slice_rows(token, token + 1)
            .columns(3, 4)
            .copy_from(Tensor::from<double>({1, 1}, {value}));
        const Results after = run(c);
        const int32_t* document = c.layout.document_start.data<int32_t>();
        for (const char* name : {"y", "dx"}) {
          const Tensor x = find(before, name);
          const Tensor y = find(after, name);
          for (int64_t t = 0; t < length; ++t) {
            if (document[t] == document[token]) continue;
            ASSERT_TRUE(same_bits(x.slice_rows(t, t + 1), y.slice_rows(t, t + 1)))
                << name << ": token " << t << " felt token " << token;
          }
        }
      }
    }
  }
}

// Where a document lies, and what shares its row, changes no bit.
TEST(CausalConv, PackedEqualsUnpacked) {
  const std::vector<int32_t> starts = {0, 50, 51, 53, 250, 280};
  Case packed = make_case({.length = 290, .channels = 24, .starts = starts});
  packed.dfinal = {};
  const Results expected = run(packed);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t begin = starts[i];
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : 290;
    const Results alone = run(slice(packed, begin, end));
    for (const char* name : {"y", "dx"}) {
      EXPECT_TRUE(same_bits(find(alone, name), find(expected, name).slice_rows(begin, end)))
          << name << " of the document at " << begin;
    }
  }
}

TEST(CausalConv, ReadsColumnsOfWiderMatrices) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    const Case dense = make_case({.dtype = dtype, .length = 67, .channels = 21});
    Case views = dense;
    const auto view = [&](Tensor& tensor, uint64_t seed) {
      Tensor columns = random_normal({67, 50}, dtype, seed).columns(7, 28);
      columns.copy_from(tensor);
      tensor = columns;
    };
    view(views.x, 7);
    view(views.dy, 8);
    const Results expected = run(dense);
    const Results actual = run(views);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(same_bits(actual[i].second, expected[i].second)) << expected[i].first;
    }
  }
}

TEST(CausalConv, AddsToTheGradientsOfParameters) {
  const Case c = make_case({.length = 30, .channels = 19});
  const Results once = run(c);
  Tensor dweight = random_normal(c.weight.shape(), Dtype::f32, 11);
  Tensor dbias = random_normal(c.bias.shape(), Dtype::f32, 12);
  const Tensor weight_before = dweight.clone();
  const Tensor bias_before = dbias.clone();
  ops::causal_conv_backward(dweight, dbias, c.dy, c.x, c.weight, c.bias, c.layout, {}, c.dfinal);
  for (int64_t i = 0; i < dweight.count(); ++i) {
    EXPECT_NEAR(dweight.at(i), weight_before.at(i) + find(once, "dweight").at(i), 1e-4);
  }
  for (int64_t i = 0; i < dbias.count(); ++i) {
    EXPECT_NEAR(dbias.at(i), bias_before.at(i) + find(once, "dbias").at(i), 1e-4);
  }
}

TEST(CausalConv, SaysWhatIsWrong) {
  const auto message = [](const Tensor& x, const Tensor& weight, const SequenceLayout& layout) {
    return message_of([&] { ops::causal_conv(x, weight, {}, layout); });
  };
  const Tensor x = Tensor::zeros({4, 3}, Dtype::f32);
  const SequenceLayout layout = SequenceLayout::unpacked(2, 2);
  EXPECT_EQ(message(x, Tensor::zeros({3, 9}, Dtype::f32), layout),
            "causal_conv: the width is 9; it must be from 2 to 8");
  EXPECT_EQ(message(x, Tensor::zeros({5, 4}, Dtype::f32), layout),
            "causal_conv: weight is f32 [5, 4] but must be f32 [3, 4], from the channels of x");
  EXPECT_EQ(
      message(x, Tensor::zeros({3, 4}, Dtype::f32), SequenceLayout::unpacked(1, 2)),
      "causal_conv: x has 4 tokens but the layout has 1 rows of 2; make the layout of the same "
      "batch");
}

}  // namespace
}  // namespace sidewinder
