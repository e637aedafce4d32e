#include "kernels/ops/selective_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/reference/selective_scan.h"
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
  SelectiveScanInputs in;
  SequenceLayout layout;
  Tensor dout, dfinal;
};

struct Options {
  Dtype dtype = Dtype::f32;
  int64_t rows = 1;
  int64_t length = 1;
  int64_t channels = 1;
  int64_t states = 1;
  std::vector<int32_t> starts = {};
  bool carried = false;  // every row
  bool gate = true;
  uint64_t seed = 1;
};

Case make_case(const Options& options) {
  const int64_t tokens = options.rows * options.length;
  const int64_t channels = options.channels;
  const int64_t states = options.states;
  const Dtype dtype = options.dtype;
  const Dtype accumulator = accumulator_of(dtype);
  const uint64_t seed = options.seed * 100;
  Case result;
  result.layout = SequenceLayout::packed(options.rows, options.length, options.starts);
  result.in.u = random_normal({tokens, channels}, dtype, seed + 1);
  result.in.delta = random_normal({tokens, channels}, dtype, seed + 2, 2.0);
  Tensor a = random_normal({channels, states}, Dtype::f64, seed + 3);
  for (int64_t i = 0; i < a.count(); ++i) a.data<double>()[i] = -std::exp(a.data<double>()[i]);
  result.in.a = a.to(accumulator);
  result.in.b = random_normal({tokens, states}, dtype, seed + 4);
  result.in.c = random_normal({tokens, states}, dtype, seed + 5);
  result.in.d = random_normal({channels}, accumulator, seed + 6);
  if (options.gate) result.in.z = random_normal({tokens, channels}, dtype, seed + 7);
  result.in.delta_bias = random_normal({channels}, accumulator, seed + 8);
  if (options.carried) {
    result.layout.carried.assign(static_cast<size_t>(options.rows), 1);
    result.in.initial = random_normal({options.rows, channels, states}, accumulator, seed + 9);
  }
  result.dout = random_normal({tokens, channels}, dtype, seed + 10);
  result.dfinal = random_normal({options.rows, channels, states}, accumulator, seed + 11);
  return result;
}

Tensor as(const Tensor& tensor, Dtype dtype) { return tensor ? tensor.to(dtype) : Tensor{}; }

// The same numbers with all tensors in `dtype`.
Case converted(const Case& c, Dtype dtype) {
  return {.in = {.u = as(c.in.u, dtype),
                 .delta = as(c.in.delta, dtype),
                 .a = as(c.in.a, dtype),
                 .b = as(c.in.b, dtype),
                 .c = as(c.in.c, dtype),
                 .d = as(c.in.d, dtype),
                 .z = as(c.in.z, dtype),
                 .delta_bias = as(c.in.delta_bias, dtype),
                 .initial = as(c.in.initial, dtype)},
          .layout = c.layout,
          .dout = as(c.dout, dtype),
          .dfinal = as(c.dfinal, dtype)};
}

// Everything the operation makes, by name. Gradients of parameters start from zero.
using Results = std::vector<std::pair<std::string, Tensor>>;

Results name_results(const ops::SelectiveScanOut& forward, const SelectiveScanGradients& gradients,
                     const Tensor& da, const Tensor& dd, const Tensor& ddelta_bias) {
  Results results = {{"out", forward.out},
                     {"final_state", forward.final_state},
                     {"du", gradients.du},
                     {"ddelta", gradients.ddelta},
                     {"db", gradients.db},
                     {"dc", gradients.dc},
                     {"da", da},
                     {"dd", dd},
                     {"dz", gradients.dz},
                     {"ddelta_bias", ddelta_bias},
                     {"dinitial", gradients.dinitial}};
  std::erase_if(results, [](const auto& named) { return !named.second.defined(); });
  return results;
}

Results run(const Case& c) {
  const Dtype accumulator = accumulator_of(c.in.u.dtype());
  Tensor da = Tensor::zeros(c.in.a.shape(), accumulator);
  Tensor dd = Tensor::zeros(c.in.d.shape(), accumulator);
  Tensor ddelta_bias = Tensor::zeros(c.in.d.shape(), accumulator);
  const ops::SelectiveScanOut forward = ops::selective_scan(c.in, c.layout, true, true);
  const SelectiveScanGradients gradients = ops::selective_scan_backward(
      da, dd, ddelta_bias, c.dout, c.in, forward.chunk_states, c.layout, c.dfinal);
  return name_results(forward, gradients, da, dd, ddelta_bias);
}

// The plain loops in f32, results rounded to the type of the activations: the measure of errors.
Results run_plainly(const Case& original) {
  const Case c = converted(original, Dtype::f32);
  ops::SelectiveScanOut forward = {
      Tensor::empty(c.in.u.shape(), Dtype::f32), {}, Tensor::empty(c.dfinal.shape(), Dtype::f32)};
  reference::selective_scan(
      SelectiveScanArgs{forward.out, forward.chunk_states, forward.final_state, c.in, c.layout});
  SelectiveScanGradients gradients = {
      .du = Tensor::empty(c.in.u.shape(), Dtype::f32),
      .ddelta = Tensor::empty(c.in.u.shape(), Dtype::f32),
      .db = Tensor::empty(c.in.b.shape(), Dtype::f32),
      .dc = Tensor::empty(c.in.b.shape(), Dtype::f32),
      .dz = c.in.z ? Tensor::empty(c.in.u.shape(), Dtype::f32) : Tensor{},
      .dinitial = c.in.initial ? Tensor::empty(c.dfinal.shape(), Dtype::f32) : Tensor{}};
  Tensor da = Tensor::zeros(c.in.a.shape(), Dtype::f32);
  Tensor dd = Tensor::zeros(c.in.d.shape(), Dtype::f32);
  Tensor ddelta_bias = Tensor::zeros(c.in.d.shape(), Dtype::f32);
  reference::selective_scan_backward(SelectiveScanBackwardArgs{
      gradients, da, dd, ddelta_bias, c.dout, c.dfinal, c.in, {}, c.layout});
  const Dtype dtype = original.in.u.dtype();
  forward.out = forward.out.to(dtype);
  for (Tensor* gradient :
       {&gradients.du, &gradients.ddelta, &gradients.db, &gradients.dc, &gradients.dz}) {
    *gradient = as(*gradient, dtype);
  }
  return name_results(forward, gradients, da, dd, ddelta_bias);
}

Tensor find(const Results& results, const std::string& name) {
  for (const auto& [key, tensor] : results) {
    if (key == name) return tensor;
  }
  ADD_FAILURE() << "no result named " << name;
  return {};
}

void expect_near_reference(const Case& c, const std::string& what) {
  const Results expected = run(converted(c, Dtype::f64));
  const Results plain = run_plainly(c);
  const Results actual = run(c);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    // Of a few elements the plain computation may happen to have a small error.
    const double least = expected[i].second.count() < 16 ? 3e-6 : 3e-7;
    const double limit = 2 * relative_error(plain[i].second, expected[i].second) + least;
    const double error = relative_error(actual[i].second, expected[i].second);
    EXPECT_LE(error, limit) << what << ": " << actual[i].first;
  }
}

Case golden_case() {
  Case c;
  Tensor a = golden::tensor(2, {2, 3});
  for (int64_t i = 0; i < a.count(); ++i) a.data<double>()[i] = -std::exp(a.data<double>()[i]);
  c.in = {.u = golden::tensor(0, {7, 2}),
          .delta = golden::tensor(1, {7, 2}),
          .a = a,
          .b = golden::tensor(3, {7, 3}),
          .c = golden::tensor(4, {7, 3}),
          .d = golden::tensor(5, {2}),
          .z = golden::tensor(6, {7, 2}),
          .delta_bias = golden::tensor(7, {2}),
          .initial = golden::tensor(8, {1, 2, 3})};
  const std::vector<int32_t> starts = {0, 3, 5};
  c.layout = SequenceLayout::packed(1, 7, starts);
  c.layout.carried[0] = 1;
  c.dout = golden::tensor(9, {7, 2});
  c.dfinal = golden::tensor(10, {1, 2, 3});
  return c;
}

// An independent f64 implementation, its gradients confirmed by the complex step.
const std::vector<std::pair<std::string, double>> kGolden = {
    {"out", 1.3089779373},          {"final_state", 3.57595823233}, {"du", -1.20390302859},
    {"ddelta", 0.252575454278},     {"da", 0.644926251859},         {"db", 1.45308679413},
    {"dc", 1.10455665664},          {"dd", -0.239053333447},        {"dz", -1.00690292535},
    {"ddelta_bias", 2.09451975961}, {"dinitial", -0.0431579996338}};

TEST(SelectiveScan, ReproducesGoldenValues) {
  const Results results = run(golden_case());
  for (const auto& [name, value] : kGolden) {
    EXPECT_NEAR(golden::checksum(find(results, name)), value, 2e-11) << name;
  }
}

TEST(SelectiveScan, ReproducesGoldenValuesInF32OnEveryLevel) {
  for_each_isa([&] {
    const Results results = run(converted(golden_case(), Dtype::f32));
    for (const auto& [name, value] : kGolden) {
      EXPECT_NEAR(golden::checksum(find(results, name)), value, 3e-6) << name;
    }
  });
}

// Decays .5 .9 .8 .25 .5 1 .1 .5 and inputs 1 2 −1 4 .5 0 3 1, worked by hand.
TEST(SelectiveScan, FollowsTheRecurrenceWorkedByHand) {
  const std::vector<double> decay = {.5, .9, .8, .25, .5, 1, .1, .5};
  const std::vector<double> input = {1, 2, -1, 4, .5, 0, 3, 1};
  Case c = make_case({.dtype = Dtype::f64, .length = 8, .gate = false});
  for (int64_t t = 0; t < 8; ++t) {
    const size_t i = static_cast<size_t>(t);
    const double delta = -std::log(decay[i]);
    c.in.delta.data<double>()[t] = delta == 0 ? -1000 : std::log(std::expm1(delta));
    c.in.u.data<double>()[t] = 1;
    c.in.b.data<double>()[t] = delta == 0 ? 0 : input[i] / delta;
    c.in.c.data<double>()[t] = 1;
  }
  c.in.a.data<double>()[0] = -1;
  c.in.d.fill_zero();
  c.in.delta_bias.fill_zero();
  const std::vector<double> whole = {1, 2.9, 1.32, 4.33, 2.665, 2.665, 3.2665, 2.63325};
  const std::vector<double> reset = {1, 2.9, 1.32, 4.33, 2.665, 0, 3, 2.5};
  const std::vector<int32_t> starts = {0, 5};
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    const double limit = dtype == Dtype::f64 ? 1e-13 : 1e-6;
    Case typed = converted(c, dtype);
    EXPECT_THAT(find(run(typed), "out").values(),
                ::testing::Pointwise(::testing::DoubleNear(limit), whole));
    typed.layout = SequenceLayout::packed(1, 8, starts);
    EXPECT_THAT(find(run(typed), "out").values(),
                ::testing::Pointwise(::testing::DoubleNear(limit), reset));
  }
}

TEST(SelectiveScan, BackwardMatchesTheComplexStep) {
  const Case c = make_case({.dtype = Dtype::f64,
                            .rows = 2,
                            .length = 5,
                            .channels = 2,
                            .states = 3,
                            .starts = {3, 4, 5},
                            .carried = true});
  const Results results = run(c);
  std::vector<std::pair<std::string, std::vector<Complex>>> inputs = {
      {"du", complex_of(c.in.u)},
      {"ddelta", complex_of(c.in.delta)},
      {"da", complex_of(c.in.a)},
      {"db", complex_of(c.in.b)},
      {"dc", complex_of(c.in.c)},
      {"dd", complex_of(c.in.d)},
      {"dz", complex_of(c.in.z)},
      {"ddelta_bias", complex_of(c.in.delta_bias)},
      {"dinitial", complex_of(c.in.initial)}};
  std::vector<Complex> out(20);
  std::vector<Complex> final_state(12);
  const auto loss = [&] {
    const auto rows = [&](size_t i, int64_t stride) {
      return reference::Rows<const Complex>{inputs[i].second.data(), stride};
    };
    reference::selective_scan<Complex>({.channels = 2,
                                        .states = 3,
                                        .u = rows(0, 2),
                                        .delta = rows(1, 2),
                                        .a = rows(2, 3),
                                        .b = rows(3, 3),
                                        .c = rows(4, 3),
                                        .d = rows(5, 1),
                                        .z = rows(6, 2),
                                        .delta_bias = rows(7, 1),
                                        .initial = rows(8, 6),
                                        .out = {out.data(), 2},
                                        .chunk_states = {},
                                        .final_state = {final_state.data(), 6}},
                                       c.layout);
    return dot(out, c.dout) + dot(final_state, c.dfinal);
  };
  for (auto& [name, values] : inputs) {
    expect_complex_step(find(results, name), values, loss, 1e-12, name);
  }
}

TEST(SelectiveScan, MatchesTheReferenceAtRaggedShapes) {
  const std::vector<Options> shapes = {
      {.length = 1, .channels = 1, .states = 1},
      {.length = 2, .channels = 3, .states = 5, .carried = true},
      {.rows = 3, .length = 1, .channels = 17, .states = 16, .carried = true},
      {.length = 63, .channels = 16, .states = 16},
      {.length = 64, .channels = 15, .states = 8, .carried = true},
      {.length = 65, .channels = 31, .states = 7},
      {.rows = 2, .length = 127, .channels = 33, .states = 16, .gate = false},
      {.length = 128, .channels = 129, .states = 4, .carried = true, .gate = false},
      {.rows = 2, .length = 129, .channels = 64, .states = 17, .carried = true},
      {.length = 197, .channels = 257, .states = 3},
      {.length = 70, .channels = 20, .states = 40, .carried = true},
      // Documents of one token, and edges before, at and after those of chunks.
      {.length = 200, .channels = 18, .states = 16, .starts = {0, 1, 2, 63, 64, 65, 128, 199}},
      {.rows = 3,
       .length = 130,
       .channels = 40,
       .states = 16,
       .starts = {63, 130, 194, 195, 258, 260, 261, 325, 389},
       .carried = true},
      {.length = 128, .channels = 16, .states = 16, .starts = {0, 127}, .carried = true},
      {.length = 192, .channels = 16, .states = 9, .starts = {0, 64, 129}, .carried = true},
      // Several items along a row, and more rows than are done side by side.
      {.length = 1100, .channels = 70, .states = 5, .starts = {256, 300, 1024}, .carried = true},
      {.rows = 29, .length = 70, .channels = 33, .states = 3, .starts = {0, 69, 1400}},
  };
  for_each_isa([&] {
    for (Options shape : shapes) {
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        shape.dtype = dtype;
        expect_near_reference(
            make_case(shape),
            fmt::format("{}, {} rows of {}, {} channels of {} states", name_of(dtype), shape.rows,
                        shape.length, shape.channels, shape.states));
      }
    }
  });
}

TEST(SelectiveScan, SurvivesExtremeDelta) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    Options options = {.dtype = dtype, .length = 100, .channels = 48, .states = 16};
    Case c = make_case(options);
    Tensor delta = c.in.delta.to(Dtype::f32);
    for (int64_t t = 0; t < 100; ++t) {
      for (int64_t e = 0; e < 16; ++e) delta.data<float>()[t * 48 + e] = -30;
      for (int64_t e = 16; e < 32; ++e) delta.data<float>()[t * 48 + e] = 30;
      for (int64_t e = 32; e < 48; ++e) delta.data<float>()[t * 48 + e] = t % 2 == 0 ? 30.F : -30.F;
    }
    c.in.delta = delta.to(dtype);
    c.in.delta_bias.fill_zero();
    for_each_isa([&] { expect_near_reference(c, std::string(name_of(dtype))); });
    // The softplus of −30 is e⁻³⁰, not zero.
    const Results results = run(c);
    EXPECT_NE(find(results, "final_state").at(0), 0);
  }
}

Case slice(const Case& c, int64_t begin, int64_t end) {
  const auto rows = [&](const Tensor& tensor) {
    return tensor ? tensor.slice_rows(begin, end) : Tensor{};
  };
  Case part = c;
  part.in.u = rows(c.in.u);
  part.in.delta = rows(c.in.delta);
  part.in.b = rows(c.in.b);
  part.in.c = rows(c.in.c);
  part.in.z = rows(c.in.z);
  part.dout = rows(c.dout);
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
TEST(SelectiveScan, TwoPartsWithACarriedStateEqualTheWhole) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Case whole = make_case(
        {.dtype = dtype, .length = 150, .channels = 37, .states = 16, .starts = {0, 40, 100}});
    const Results expected = run(whole);
    for (const int64_t cut : {1, 40, 63, 64, 77, 128, 149}) {
      Case first = slice(whole, 0, cut);
      Case second = slice(whole, cut, 150);
      second.in.initial = ops::selective_scan(first.in, first.layout, false, true).final_state;
      const Results second_results = run(second);
      first.dfinal = find(second_results, "dinitial");
      const Results first_results = run(first);
      for (const char* name : {"out", "du", "ddelta", "db", "dc", "dz"}) {
        const Tensor all = find(expected, name);
        EXPECT_TRUE(same_bits(find(first_results, name), all.slice_rows(0, cut))) << name << cut;
        EXPECT_TRUE(same_bits(find(second_results, name), all.slice_rows(cut, 150))) << name << cut;
      }
      EXPECT_TRUE(same_bits(find(second_results, "final_state"), find(expected, "final_state")));
      for (const char* name : {"da", "dd", "ddelta_bias"}) {
        Tensor sum = find(first_results, name).to(Dtype::f64);
        for (int64_t i = 0; i < sum.count(); ++i) {
          sum.data<double>()[i] += find(second_results, name).at(i);
        }
        EXPECT_LT(relative_error(sum, find(expected, name).to(Dtype::f64)), 1e-6) << name << cut;
      }
    }
  }
}

TEST(SelectiveScan, TokenByTokenEqualsTheWhole) {
  const Case whole = make_case(
      {.dtype = Dtype::bf16, .length = 70, .channels = 50, .states = 16, .carried = true});
  const ops::SelectiveScanOut expected = ops::selective_scan(whole.in, whole.layout, false, true);
  Tensor state = whole.in.initial;
  for (int64_t t = 0; t < 70; ++t) {
    Case token = slice(whole, t, t + 1);
    token.layout = SequenceLayout::continuation(1, 1, t);
    token.in.initial = state;
    const ops::SelectiveScanOut step = ops::selective_scan(token.in, token.layout, false, true);
    EXPECT_TRUE(same_bits(step.out, expected.out.slice_rows(t, t + 1))) << t;
    state = step.final_state;
  }
  EXPECT_TRUE(same_bits(state, expected.final_state));
}

TEST(SelectiveScan, OtherDocumentsDoNotFeelAToken) {
  const std::vector<int32_t> starts = {0, 30, 31, 64, 100, 128, 190};
  const int64_t length = 200;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    const Options options = {
        .dtype = dtype, .length = length, .channels = 20, .states = 16, .starts = starts};
    const Results before = run(make_case(options));
    for (const int64_t token : {0, 29, 30, 63, 64, 127, 128, 199}) {
      // A δ of 1e4 takes its tile to the exponential for far arguments.
      for (const double value : {3.0, 1e4, std::numeric_limits<double>::quiet_NaN()}) {
        Case c = make_case(options);
        const Tensor poison = Tensor::from<double>({1, 1}, {value});
        for (const Tensor& input : {c.in.u, c.in.delta, c.in.b, c.in.c, c.in.z}) {
          input.slice_rows(token, token + 1).columns(0, 1).copy_from(poison);
        }
        const Results after = run(c);
        const int32_t* document = c.layout.document_start.data<int32_t>();
        for (const char* name : {"out", "du", "ddelta", "db", "dc", "dz"}) {
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
TEST(SelectiveScan, PackedEqualsUnpacked) {
  const std::vector<int32_t> starts = {0, 50, 51, 64, 180};
  Case packed =
      make_case({.length = 200, .channels = 24, .states = 16, .starts = starts, .seed = 3});
  packed.dfinal = {};
  const Results expected = run(packed);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t begin = starts[i];
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : 200;
    const Results alone = run(slice(packed, begin, end));
    for (const char* name : {"out", "du", "ddelta", "db", "dc", "dz"}) {
      EXPECT_TRUE(same_bits(find(alone, name), find(expected, name).slice_rows(begin, end)))
          << name << " of the document at " << begin;
    }
  }
}

TEST(SelectiveScan, ReadsColumnsOfWiderMatrices) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    const Case dense = make_case({.dtype = dtype, .length = 67, .channels = 21, .states = 16});
    Case views = dense;
    const auto view = [&](Tensor& tensor, const Tensor& wide, int64_t begin) {
      Tensor columns = wide.columns(begin, begin + tensor.size(1));
      columns.copy_from(tensor);
      tensor = columns;
    };
    const Tensor xz = random_normal({67, 42}, dtype, 5);
    view(views.in.u, xz, 0);
    view(views.in.z, xz, 21);
    const Tensor projected = random_normal({67, 37}, dtype, 6);
    view(views.in.b, projected, 5);
    view(views.in.c, projected, 21);
    view(views.in.delta, random_normal({67, 30}, dtype, 7), 1);
    view(views.dout, random_normal({67, 23}, dtype, 8), 2);
    const Results expected = run(dense);
    const Results actual = run(views);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(same_bits(actual[i].second, expected[i].second)) << expected[i].first;
    }
  }
}

TEST(SelectiveScan, AddsToTheGradientsOfParameters) {
  const Case c = make_case({.length = 80, .channels = 19, .states = 5});
  const Results once = run(c);
  Tensor da = random_normal(c.in.a.shape(), Dtype::f32, 1);
  Tensor dd = random_normal(c.in.d.shape(), Dtype::f32, 2);
  Tensor ddelta_bias = random_normal(c.in.d.shape(), Dtype::f32, 3);
  const std::vector<std::pair<const char*, Tensor>> before = {
      {"da", da.clone()}, {"dd", dd.clone()}, {"ddelta_bias", ddelta_bias.clone()}};
  const ops::SelectiveScanOut forward = ops::selective_scan(c.in, c.layout, true, false);
  ops::selective_scan_backward(da, dd, ddelta_bias, c.dout, c.in, forward.chunk_states, c.layout,
                               c.dfinal);
  const std::vector<Tensor> after = {da, dd, ddelta_bias};
  for (size_t i = 0; i < before.size(); ++i) {
    for (int64_t k = 0; k < after[i].count(); ++k) {
      const double expected = before[i].second.at(k) + find(once, before[i].first).at(k);
      EXPECT_NEAR(after[i].at(k), expected, 1e-5 * (1 + std::abs(expected))) << before[i].first;
    }
  }
}

TEST(SelectiveScan, SaysWhatIsWrong) {
  const Case c = make_case({.length = 4, .channels = 3, .states = 2});
  const auto message = [](const SelectiveScanInputs& in, const SequenceLayout& layout) {
    return message_of([&] { ops::selective_scan(in, layout, false, false); });
  };
  SelectiveScanInputs in = c.in;
  in.b = Tensor::zeros({4, 5}, Dtype::f32);
  EXPECT_EQ(
      message(in, c.layout),
      "selective_scan: b is f32 [4, 5] but must be f32 [4, 2], from the channels of u and the "
      "states of a");
  in = c.in;
  in.delta = in.delta.to(Dtype::bf16);
  EXPECT_EQ(message(in, c.layout),
            "selective_scan: delta is bf16 [4, 3] but must be f32 [4, 3], from u and the layout");
  in = c.in;
  in.d = {};
  EXPECT_EQ(message(in, c.layout), "selective_scan: d is missing; give a f32 tensor of shape [3]");
  EXPECT_EQ(message(c.in, SequenceLayout::unpacked(1, 5)),
            "selective_scan: u has 4 tokens but the layout has 1 rows of 5; make the layout of the "
            "same batch");
}

}  // namespace
}  // namespace sidewinder
