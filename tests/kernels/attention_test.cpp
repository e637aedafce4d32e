#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/reference/attention.h"
#include "tests/kernels/attention_problem.h"
#include "tests/support/complex_step.h"
#include "tests/support/golden.h"
#include "tests/support/message_of.h"
#include "tests/support/patterns.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::AttentionPath;
using testing::distance;
using testing::expect_matches_reference;
using testing::Inputs;
using testing::message_of;
using testing::packed;
using testing::Problem;
using testing::random_inputs;
using testing::relative_error;
using testing::Results;
using testing::run;
using testing::same_bits;
using testing::to;

void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_TRUE(same_bits(a.out, b.out)) << "out";
  EXPECT_TRUE(same_bits(a.lse, b.lse)) << "lse";
  EXPECT_TRUE(same_bits(a.dq, b.dq)) << "dq";
  EXPECT_TRUE(same_bits(a.dk, b.dk)) << "dk";
  EXPECT_TRUE(same_bits(a.dv, b.dv)) << "dv";
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionPath, ::testing::ValuesIn(testing::all_paths()),
                         testing::path_name);

TEST_P(AttentionPath, MatchesReferenceAtAnyLength) {
  for (const int64_t length : {1, 2, 3, 15, 16, 17, 31, 47, 48, 49, 95, 96, 97, 131, 193}) {
    SCOPED_TRACE(length);
    Problem p{.layout = SequenceLayout::unpacked(1, length), .heads = 1, .kv_heads = 1};
    expect_matches_reference(p, GetParam().dtype);
  }
}

TEST_P(AttentionPath, MatchesReferenceForAnyWindow) {
  for (const int64_t window : {1, 2, 7, 15, 16, 17, 47, 48, 49, 95, 96, 97, 149, 150, 151}) {
    SCOPED_TRACE(window);
    Problem p{
        .layout = SequenceLayout::unpacked(1, 150), .pattern = {window}, .heads = 1, .kv_heads = 1};
    expect_matches_reference(p, GetParam().dtype);
  }
}

TEST_P(AttentionPath, MatchesReferenceForAnyWidth) {
  const std::vector<std::pair<int64_t, int64_t>> widths = {{1, 1},    {2, 3},    {7, 5},   {8, 16},
                                                           {24, 40},  {33, 64},  {80, 48}, {96, 96},
                                                           {128, 64}, {192, 130}};
  for (const auto& [width, value_width] : widths) {
    SCOPED_TRACE(std::to_string(width) + " " + std::to_string(value_width));
    Problem p{.layout = packed(1, 70, {0, 13}),
              .pattern = {29},
              .heads = 2,
              .kv_heads = 1,
              .width = width,
              .value_width = value_width,
              .scale = 0.2F};
    expect_matches_reference(p, GetParam().dtype);
  }
}

TEST_P(AttentionPath, MatchesReferenceForGroupedHeads) {
  for (const int64_t kv_heads : {1, 2, 4}) {
    for (const int64_t window : {0, 20}) {
      SCOPED_TRACE(std::to_string(kv_heads) + " " + std::to_string(window));
      Problem p{.layout = packed(2, 61, {0, 1, 40, 61, 75, 76}),
                .pattern = {window},
                .heads = 4,
                .kv_heads = kv_heads,
                .width = 32,
                .value_width = 32};
      expect_matches_reference(p, GetParam().dtype);
    }
  }
  Problem p{
      .layout = packed(1, 40, {0, 11}), .heads = 6, .kv_heads = 2, .width = 16, .value_width = 16};
  expect_matches_reference(p, GetParam().dtype);
}

TEST_P(AttentionPath, MatchesReferenceAtDocumentBoundaries) {
  // Boundaries before, on and after multiples of the tiles, and documents of length 1.
  for (const int32_t edge : {15, 16, 17, 23, 24, 25, 47, 48, 49, 95, 96, 97}) {
    SCOPED_TRACE(edge);
    Problem p{.layout = packed(1, 140, {0, edge, edge + 1, edge + 2, edge + 18}),
              .pattern = {33},
              .heads = 1,
              .kv_heads = 1};
    expect_matches_reference(p, GetParam().dtype);
    p.pattern.window = 0;
    expect_matches_reference(p, GetParam().dtype);
  }
}

TEST_P(AttentionPath, MatchesReferenceOverTwoBlocks) {
  // At this width 96 keys, the fewest, are packed at once; attention_slow_test.cpp has more of
  // them.
  const Problem p{.layout = packed(1, 125, {0, 5}),
                  .heads = 2,
                  .kv_heads = 1,
                  .width = 700,
                  .value_width = 700,
                  .scale = 0.04F};
  expect_matches_reference(p, {{}, {.window = 16, .global = 4}}, GetParam().dtype);
}

TEST_P(AttentionPath, MatchesReferenceOverManyBlocks) {
  // Blocks of long documents are short where there are few key/value heads.
  const Problem p{
      .layout = packed(1, 2120, {0, 11}), .heads = 2, .kv_heads = 1, .width = 8, .value_width = 8};
  expect_matches_reference(p, {{.window = 60}, {.window = 30, .global = 2}}, GetParam().dtype);
}

TEST_P(AttentionPath, MatchesReferenceWithCachedKeys) {
  for (const int64_t length : {1, 5, 50}) {
    for (const int64_t window : {0, 20, 200}) {
      SCOPED_TRACE(std::to_string(length) + " " + std::to_string(window));
      Problem p{.layout = SequenceLayout::continuation(2, length, 90, 100, 90),
                .pattern = {window},
                .heads = 4,
                .kv_heads = 2,
                .width = 32,
                .value_width = 32};
      expect_matches_reference(p, GetParam().dtype);
    }
  }
}

TEST_P(AttentionPath, LargeScoresStayFinite) {
  Problem p{.layout = packed(1, 80, {0, 30}), .heads = 1, .kv_heads = 1, .scale = 20.0F};
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results exact = run(p, to(inputs, Dtype::f64));
  const Results actual = run(p, inputs);
  EXPECT_LT(relative_error(actual.lse, exact.lse), 1e-6);
  EXPECT_LT(relative_error(actual.out, exact.out), 1e-2);
  for (const double value : actual.dq.values()) ASSERT_TRUE(std::isfinite(value));
  for (const double value : actual.dk.values()) ASSERT_TRUE(std::isfinite(value));
}

// Far more than what probabilities may be ahead of their reference, again and again, and in one
// lane of a tile before another.
TEST_P(AttentionPath, MatchesReferenceWhereScoresGrow) {
  for (const int64_t window : {0, 60}) {
    const Problem p{.layout = SequenceLayout::unpacked(1, 200), .pattern = {window}};
    Inputs inputs = random_inputs(p, Dtype::f32);
    for (int64_t token = 0; token < p.layout.keys(); ++token) {
      float* const row = inputs.k.data<float>() + token * p.kv_heads * p.width;
      for (int64_t i = 0; i < p.kv_heads * p.width; ++i) row[i] *= 0.1F * static_cast<float>(token);
    }
    expect_matches_reference(p, GetParam().dtype, to(inputs, GetParam().dtype));
  }
}

TEST_P(AttentionPath, TheScaleMayHaveAnySign) {
  for (const float scale : {-0.125F, 0.0F}) {
    Problem p{.layout = packed(1, 80, {0, 30}), .heads = 1, .kv_heads = 1, .scale = scale};
    expect_matches_reference(p, GetParam().dtype);
  }
}

TEST_P(AttentionPath, MatchesReferenceWithABiasPerHead) {
  const std::vector<int32_t> starts = {0, 1, 50, 61};
  const std::vector<SequenceLayout> layouts = {SequenceLayout::packed(2, 130, starts),
                                               SequenceLayout::continuation(2, 1, 90, 100, 90),
                                               SequenceLayout::continuation(1, 40, 90, 100, 90)};
  for (const SequenceLayout& layout : layouts) {
    for (const int64_t kv_heads : {1, 2, 4}) {
      for (const int64_t window : {0, 20}) {
        for (const float scale : {0.2F, -0.2F}) {
          SCOPED_TRACE(std::to_string(kv_heads) + " " + std::to_string(window));
          Problem p{.layout = layout,
                    .pattern = {window},
                    .heads = 4,
                    .kv_heads = kv_heads,
                    .width = 32,
                    .value_width = 32,
                    .scale = scale,
                    .slopes = Tensor::from<float>({4}, {0.5F, 0.01F, 0.0F, -0.05F})};
          expect_matches_reference(p, GetParam().dtype);
        }
      }
    }
  }
}

TEST_P(AttentionPath, MatchesReferenceForEveryPattern) {
  for (const AttentionPattern& pattern : testing::all_patterns()) {
    for (const int64_t kv_heads : {1, 2}) {
      SCOPED_TRACE(testing::text_of(pattern) + " " + std::to_string(kv_heads));
      Problem p{.layout = packed(1, 150, {0, 1, 20, 21}),
                .pattern = pattern,
                .heads = 2,
                .kv_heads = kv_heads,
                .width = 24,
                .value_width = 40};
      expect_matches_reference(p, GetParam().dtype);
      if (kv_heads == 2) continue;
      p.slopes = Tensor::from<float>({2}, {0.1F, 0.02F});
      expect_matches_reference(p, GetParam().dtype);
    }
  }
}

TEST_P(AttentionPath, EveryPatternWorksOnCachedKeys) {
  for (const AttentionPattern& pattern : testing::all_patterns()) {
    for (const int64_t length : {1, 30}) {
      SCOPED_TRACE(testing::text_of(pattern) + " " + std::to_string(length));
      Problem p{.layout = SequenceLayout::continuation(2, length, 60, 70, 60),
                .pattern = pattern,
                .heads = 4,
                .kv_heads = 2,
                .width = 16,
                .value_width = 16,
                .slopes = Tensor::from<float>({4}, {0.1F, 0.02F, 0.0F, 0.05F})};
      expect_matches_reference(p, GetParam().dtype);
    }
  }
}

// Every document alone, as it is in the row with the others.
void expect_packed_equals_unpacked(Problem p, const std::vector<int32_t>& starts, Dtype dtype) {
  const Inputs inputs = random_inputs(p, dtype);
  const Results together = run(p, inputs);
  const int64_t tokens = p.layout.tokens();
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t begin = starts[i];
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : tokens;
    const auto part = [&](const Tensor& x) { return x.slice_rows(begin, end); };
    p.layout = SequenceLayout::unpacked(1, end - begin);
    expect_same_bits(run(p, {part(inputs.q), part(inputs.k), part(inputs.v), part(inputs.dout)}),
                     {part(together.out), part(together.lse), part(together.dq), part(together.dk),
                      part(together.dv)});
  }
}

TEST_P(AttentionPath, PackedEqualsUnpacked) {
  const std::vector<int32_t> starts = {0, 37, 38, 150};
  expect_packed_equals_unpacked(
      {.layout = packed(1, 200, starts), .pattern = {60}, .heads = 4, .kv_heads = 2}, starts,
      GetParam().dtype);
}

TEST_P(AttentionPath, PackedEqualsUnpackedForEveryPattern) {
  // Sinks, global tokens, blocks and random keys are counted from the start of the document.
  const std::vector<int32_t> starts = {0, 37, 38, 90};
  for (const AttentionPattern& pattern : testing::all_patterns()) {
    SCOPED_TRACE(testing::text_of(pattern));
    expect_packed_equals_unpacked({.layout = packed(1, 140, starts),
                                   .pattern = pattern,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .width = 16,
                                   .value_width = 16},
                                  starts, GetParam().dtype);
  }
}

TEST_P(AttentionPath, SlopesOfZeroChangeNothingThatMatters) {
  Problem p{.layout = packed(1, 140, {0, 33}), .heads = 2, .kv_heads = 1};
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results plain = run(p, inputs);
  p.slopes = Tensor::zeros({2}, Dtype::f32);
  const Results biased = run(p, inputs);
  EXPECT_LT(relative_error(biased.out, plain.out), 2e-3);
  EXPECT_LT(relative_error(biased.lse, plain.lse), 1e-6);
}

TEST_P(AttentionPath, WindowAsLongAsTheRowIsFullAttention) {
  Problem p{.layout = packed(1, 200, {0, 150}), .heads = 2, .kv_heads = 1};
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results full = run(p, inputs);
  p.pattern.window = 150;
  expect_same_bits(run(p, inputs), full);
  p.pattern.window = 100000;
  expect_same_bits(run(p, inputs), full);
}

TEST_P(AttentionPath, QueriesWithoutKeysGiveZero) {
  // The first document begins three keys after its first query: padding in front.
  Problem p{.layout = packed(1, 40, {0, 20}), .heads = 2, .kv_heads = 1};
  for (int64_t t = 0; t < 20; ++t) p.layout.first_key.data<int32_t>()[t] = 3;
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results actual = run(p, inputs);
  for (int64_t i = 0; i < 3 * 2; ++i) {
    EXPECT_EQ(actual.lse.at(i), -std::numeric_limits<double>::infinity());
  }
  for (int64_t i = 0; i < 3 * p.heads * p.width; ++i) {
    EXPECT_EQ(actual.out.at(i), 0.0);
    EXPECT_EQ(actual.dq.at(i), 0.0);
  }
  for (int64_t i = 0; i < 3 * p.width; ++i) {
    EXPECT_EQ(actual.dk.at(i), 0.0);
    EXPECT_EQ(actual.dv.at(i), 0.0);
  }
  const Results exact = run(p, to(inputs, Dtype::f64));
  EXPECT_LT(relative_error(actual.out, exact.out), 5e-3);
  EXPECT_LT(relative_error(actual.dq, exact.dq), 1e-2);
  EXPECT_LT(relative_error(actual.dk, exact.dk), 1e-2);
}

TEST_P(AttentionPath, DocumentsDoNotTouchEachOther) {
  Problem p{.layout = packed(2, 100, {0, 37, 38, 100, 150}), .heads = 2, .kv_heads = 1};
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results before = run(p, inputs);
  Inputs changed = {inputs.q.clone(), inputs.k.clone(), inputs.v.clone(), inputs.dout.clone()};
  const Inputs other = random_inputs(p, GetParam().dtype, 99);
  for (const auto& [target, source] : {std::pair{changed.q, other.q},
                                       {changed.k, other.k},
                                       {changed.v, other.v},
                                       {changed.dout, other.dout}}) {
    target.slice_rows(38, 100).copy_from(source.slice_rows(38, 100));
  }
  const Results after = run(p, changed);
  EXPECT_FALSE(same_bits(before.out, after.out));
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 38}, {100, 200}}) {
    EXPECT_TRUE(same_bits(before.out.slice_rows(begin, end), after.out.slice_rows(begin, end)));
    EXPECT_TRUE(same_bits(before.dq.slice_rows(begin, end), after.dq.slice_rows(begin, end)));
    EXPECT_TRUE(same_bits(before.dk.slice_rows(begin, end), after.dk.slice_rows(begin, end)));
    EXPECT_TRUE(same_bits(before.dv.slice_rows(begin, end), after.dv.slice_rows(begin, end)));
  }
}

TEST_P(AttentionPath, LaterTokensDoNotChangeEarlierOnes) {
  Problem p{.layout = SequenceLayout::unpacked(1, 180), .pattern = {70}, .heads = 2, .kv_heads = 2};
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results before = run(p, inputs);
  Inputs changed = inputs;
  changed.k = inputs.k.clone();
  changed.v = inputs.v.clone();
  const Inputs other = random_inputs(p, GetParam().dtype, 99);
  changed.k.slice_rows(101, 180).copy_from(other.k.slice_rows(101, 180));
  changed.v.slice_rows(101, 180).copy_from(other.v.slice_rows(101, 180));
  const Results after = run(p, changed);
  EXPECT_TRUE(same_bits(before.out.slice_rows(0, 101), after.out.slice_rows(0, 101)));
  EXPECT_FALSE(same_bits(before.out.slice_rows(101, 102), after.out.slice_rows(101, 102)));
}

TEST_P(AttentionPath, ViewsGiveTheSameBits) {
  Problem p{.layout = packed(1, 90, {0, 33}),
            .pattern = {50},
            .heads = 4,
            .kv_heads = 2,
            .width = 24,
            .value_width = 40};
  const Inputs inputs = random_inputs(p, GetParam().dtype);
  const Results contiguous = run(p, inputs);
  const auto view = [](const Tensor& x, int64_t extra) {
    const Tensor wide = Tensor::zeros({x.size(0), x.width() + 2 * extra}, x.dtype());
    const Tensor columns = wide.columns(extra, extra + x.width());
    columns.reshape(x.shape()).copy_from(x);
    return columns.reshape(x.shape());
  };
  const Inputs views = {view(inputs.q, 3), view(inputs.k, 5), view(inputs.v, 16),
                        view(inputs.dout, 1)};
  expect_same_bits(run(p, views), contiguous);
  // Gradients into views.
  Tensor dq = view(contiguous.dq, 2);
  Tensor dk = view(contiguous.dk, 7);
  Tensor dv = view(contiguous.dv, 32);
  dq.fill_zero();
  dk.fill_zero();
  dv.fill_zero();
  kAttentionBackward({}, {dq, dk, dv, inputs.dout, inputs.q, inputs.k, inputs.v, contiguous.out,
                          contiguous.lse, p.layout, p.pattern, p.scale, p.slopes});
  EXPECT_TRUE(same_bits(dq, contiguous.dq));
  EXPECT_TRUE(same_bits(dk, contiguous.dk));
  EXPECT_TRUE(same_bits(dv, contiguous.dv));
}

TEST_P(AttentionPath, ChunkedDecodingEqualsTheWholeSequence) {
  constexpr int64_t kLength = 120;
  for (const int64_t window : {0, 25}) {
    Problem whole{.layout = SequenceLayout::unpacked(2, kLength),
                  .pattern = {window},
                  .heads = 4,
                  .kv_heads = 2,
                  .width = 32,
                  .value_width = 16};
    const Inputs inputs = random_inputs(whole, GetParam().dtype);
    const auto expected =
        ops::attention(inputs.q, inputs.k, inputs.v, whole.layout, whole.pattern, whole.scale);
    int64_t done = 0;
    for (const int64_t chunk : {17, 1, 1, 48, 2, 50, 1}) {
      // A cache with four unused places in front of the valid keys of each row.
      constexpr int64_t kUnused = 4;
      const int64_t past = done + kUnused;
      const SequenceLayout layout = SequenceLayout::continuation(2, chunk, done, past, done);
      const auto rows_of = [&](const Tensor& x, int64_t begin, int64_t end) {
        Tensor result = Tensor::zeros(
            {2 * (end - begin + (begin == 0 ? kUnused : 0)), x.size(1), x.size(2)}, x.dtype());
        const int64_t pad = begin == 0 ? kUnused : 0;
        const int64_t length = end - begin + pad;
        for (int64_t row = 0; row < 2; ++row) {
          result.slice_rows(row * length + pad, (row + 1) * length)
              .copy_from(x.slice_rows(row * kLength + begin, row * kLength + end));
        }
        return result;
      };
      const Tensor q = Tensor::zeros({2 * chunk, 4, 32}, inputs.q.dtype());
      for (int64_t row = 0; row < 2; ++row) {
        q.slice_rows(row * chunk, (row + 1) * chunk)
            .copy_from(inputs.q.slice_rows(row * kLength + done, row * kLength + done + chunk));
      }
      const auto actual =
          ops::attention(q, rows_of(inputs.k, 0, done + chunk), rows_of(inputs.v, 0, done + chunk),
                         layout, whole.pattern, whole.scale);
      for (int64_t row = 0; row < 2; ++row) {
        const Tensor part = actual.out.slice_rows(row * chunk, (row + 1) * chunk);
        const Tensor same =
            expected.out.slice_rows(row * kLength + done, row * kLength + done + chunk);
        EXPECT_LT(relative_error(part, same), GetParam().dtype == Dtype::bf16 ? 5e-3 : 1e-6);
      }
      done += chunk;
    }
    EXPECT_EQ(done, kLength);
  }
}

// ---- f64

// Products of bf16 pairs are slow on CPUs with tile registers.
TEST(Attention, RunsInF32WhereThereAreTileRegisters) {
  if (!can_run(Isa::amx_model)) GTEST_SKIP() << "this CPU has no AVX512-BF16";
  const Problem p{.layout = packed(1, 200, {0, 37, 38}), .pattern = {60}, .heads = 4};
  const auto results_at = [&](Isa isa, Dtype dtype) {
    Results results;
    testing::for_each_isa({isa}, [&] { results = run(p, random_inputs(p, dtype)); });
    return results;
  };
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Results in_f32 = results_at(Isa::avx512, dtype);
    for (const Isa isa : testing::tile_levels()) expect_same_bits(results_at(isa, dtype), in_f32);
  }
  const Results in_pairs = results_at(Isa::avx512_bf16, Dtype::bf16);
  EXPECT_FALSE(same_bits(in_pairs.dq, results_at(Isa::amx_model, Dtype::bf16).dq));
}

TEST(Attention, GoldenValues) {
  const std::vector<int32_t> starts = {0, 4};
  const SequenceLayout layout = SequenceLayout::packed(1, 9, starts);
  const Tensor q = golden::tensor(0, {9, 4, 3});
  const Tensor k = golden::tensor(1, {9, 2, 3});
  const Tensor v = golden::tensor(2, {9, 2, 2});
  const Tensor dout = golden::tensor(3, {9, 4, 2});
  const auto [out, lse] = ops::attention(q, k, v, layout, {3}, 0.5F);
  const auto [dq, dk, dv] = ops::attention_backward(dout, q, k, v, out, lse, layout, {3}, 0.5F);
  EXPECT_NEAR(golden::checksum(out), -6.54508081536, 1e-10);
  EXPECT_NEAR(golden::checksum(lse), -11.2998782635, 1e-9);
  EXPECT_NEAR(golden::checksum(dq), 1.13473459216, 1e-10);
  EXPECT_NEAR(golden::checksum(dk), 0.677458045728, 1e-10);
  EXPECT_NEAR(golden::checksum(dv), 0.529181821824, 1e-10);
}

void expect_matches_complex_step(const Problem& p) {
  const Inputs inputs = random_inputs(p, Dtype::f64);
  const Results results = run(p, inputs);
  std::vector<testing::Complex> q = testing::complex_of(inputs.q);
  std::vector<testing::Complex> k = testing::complex_of(inputs.k);
  std::vector<testing::Complex> v = testing::complex_of(inputs.v);
  std::vector<testing::Complex> out(static_cast<size_t>(inputs.dout.count()));
  std::vector<testing::Complex> lse(static_cast<size_t>(p.layout.tokens() * p.heads));
  const auto loss = [&] {
    const reference::AttentionProblem problem = {
        p.layout,      p.pattern,
        p.scale,       p.heads,
        p.kv_heads,    p.width,
        p.value_width, p.slopes.defined() ? p.slopes.data<float>() : nullptr};
    const reference::AttentionTensors<testing::Complex> tensors = {
        {out.data(), p.heads * p.value_width},
        {lse.data(), p.heads},
        {q.data(), p.heads * p.width},
        {k.data(), p.kv_heads * p.width},
        {v.data(), p.kv_heads * p.value_width}};
    for (int64_t head = 0; head < p.heads; ++head) {
      reference::attention_head(problem, tensors, head);
    }
    return testing::dot(out, inputs.dout);
  };
  testing::expect_complex_step(results.dq, q, loss, 1e-12, "dq");
  testing::expect_complex_step(results.dk, k, loss, 1e-12, "dk");
  testing::expect_complex_step(results.dv, v, loss, 1e-12, "dv");
}

TEST(Attention, BackwardMatchesComplexStep) {
  for (const int64_t window : {0, 1, 4}) {
    for (const int64_t kv_heads : {1, 2}) {
      Problem p{.layout = packed(2, 9, {0, 1, 6, 9, 12}),
                .pattern = {window},
                .heads = 2,
                .kv_heads = kv_heads,
                .width = 3,
                .value_width = 2,
                .scale = 0.7F};
      if (window == 4) p.slopes = Tensor::from<float>({2}, {0.25F, 0.6F});
      expect_matches_complex_step(p);
    }
  }
}

TEST(Attention, BackwardMatchesComplexStepForEveryPattern) {
  for (const AttentionPattern& pattern : testing::all_patterns()) {
    SCOPED_TRACE(testing::text_of(pattern));
    Problem p{.layout = packed(1, 21, {0, 4}),
              .pattern = pattern,
              .heads = 2,
              .kv_heads = 1,
              .width = 3,
              .value_width = 2,
              .scale = 0.7F,
              .slopes = Tensor::from<float>({2}, {0.25F, 0.6F})};
    expect_matches_complex_step(p);
  }
}

TEST(Attention, SinksAreTheFirstTokensOfEachDocument) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    Problem p{.layout = packed(1, 30, {0, 11}),
              .pattern = {.window = 1, .global = 1},
              .heads = 1,
              .kv_heads = 1,
              .width = 2,
              .value_width = 1};
    Inputs inputs = random_inputs(p, dtype);
    inputs.q.fill_zero();  // all visible keys get the same weight
    const Tensor out = run(p, inputs).out;
    for (int64_t t = 0; t < 30; ++t) {
      const int64_t first = t < 11 ? 0 : 11;
      EXPECT_NEAR(out.at(t), (inputs.v.at(first) + inputs.v.at(t)) / 2, 1e-6) << t;
    }
  }
}

// Every pattern that a recipe can name visits few scores that are hidden: at 16,384 tokens at most
// the share stated here, and no larger a share of twice as many tokens. A tile of queries visits
// what any of them sees: the corners of a window, and the blocks drawn for the others.
TEST_P(AttentionPath, WorkGrowsWithTheCells) {
  struct Row {
    AttentionPattern pattern;
    double forward, backward;  // visits per visible pair, at most
    bool linear;               // in the length; otherwise some keys are seen from any distance
  };
  const std::vector<Row> rows = {
      {{}, 1.02, 1.02, false},
      {{.window = 512}, 1.1, 1.2, true},
      {{.window = 128, .dilation = 4}, 1.4, 1.8, true},
      {{.window = 1, .stride = 64}, 1.2, 1.4, false},
      {{.window = 128, .stride = 128}, 1.4, 1.8, false},
      {{.window = 512, .stride = 32}, 1.1, 1.2, false},
      {{.window = 512, .global = 4}, 1.1, 1.2, true},
      {{.window = 512, .block = 64, .global = 64, .random = 3}, 1.2, 1.4, true},
      {{.window = 48, .block = 16, .global = 32, .random = 3}, 2.2, 3.7, true},
      {{.window = 128, .block = 128, .summary = 8}, 1.1, 1.2, false},
      {{.window = 512, .block = 512}, 1.2, 1.4, true},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(testing::text_of(row.pattern));
    const auto visits = [&](int64_t length) {
      return ops::attention_visits(SequenceLayout::unpacked(1, length), row.pattern, 4, 4);
    };
    const auto share = [&](int64_t of_visits, int64_t length) {
      return static_cast<double>(of_visits) / (4 * static_cast<double>(row.pattern.pairs(length)));
    };
    const AttentionVisits one = visits(16384);
    const AttentionVisits two = visits(32768);
    for (const auto& [pass, shorter, longer, most] :
         {std::tuple{"forward", one.forward, two.forward, row.forward},
          {"backward", one.backward, two.backward, row.backward}}) {
      SCOPED_TRACE(pass);
      EXPECT_GE(share(shorter, 16384), 1.0);
      EXPECT_LE(share(shorter, 16384), most);
      EXPECT_LE(share(longer, 32768), 1.02 * share(shorter, 16384));
      const double growth = static_cast<double>(longer) / static_cast<double>(shorter);
      if (row.linear) {
        EXPECT_NEAR(growth, 2.0, 0.05);
      }
    }
  }
}

// ---- The overlapping-chunk formulation of a window (Longformer's trick) as an oracle
//
// With reach w, chunk c covers tokens [c·w, c·w + 2·w), c = 0 … n / w − 2; scores are formed per
// chunk, 2w × 2w of them. For queries of block b, keys of block b − 1 and their own are taken from
// chunk b − 1; block 0 uses chunk 0. A query sees w keys before it and itself.

struct Chunked {
  std::vector<double> out, dq, dk, dv;
  int64_t computed = 0;  // scores
};

Chunked overlapping_chunks(const Problem& p, const Inputs& in, int64_t reach) {
  const int64_t n = p.layout.tokens();
  const int64_t padded = (n + 2 * reach - 1) / (2 * reach) * 2 * reach;
  const int64_t chunks = padded / reach - 1;
  const int64_t size = 2 * reach;
  const auto value = [&](const Tensor& x, int64_t t, int64_t d) {
    return t < n ? x.at(t * x.size(2) + d) : 0.0;
  };
  Chunked result;
  std::vector<std::vector<double>> scores;
  for (int64_t c = 0; c < chunks; ++c) {
    std::vector<double> chunk;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        double sum = 0;
        for (int64_t d = 0; d < p.width; ++d) {
          sum += value(in.q, c * reach + i, d) * value(in.k, c * reach + j, d);
        }
        chunk.push_back(p.scale * sum);
        ++result.computed;
      }
    }
    scores.push_back(chunk);
  }
  result.out.assign(static_cast<size_t>(n * p.value_width), 0.0);
  result.dq.assign(static_cast<size_t>(n * p.width), 0.0);
  result.dk = result.dq;
  result.dv = result.out;
  const auto at = [](std::vector<double>& x, int64_t i) -> double& {
    return x[static_cast<size_t>(i)];
  };
  for (int64_t t = 0; t < n; ++t) {
    const int64_t chunk = std::max<int64_t>(0, t / reach - 1);
    const int64_t begin = chunk * reach;
    std::vector<double> row;
    double largest = -1e300;
    for (int64_t key = begin; key < begin + size; ++key) {
      const bool seen = key <= t && t - key <= reach;
      const double score =
          scores[static_cast<size_t>(chunk)][static_cast<size_t>((t - begin) * size + key - begin)];
      row.push_back(seen ? score : -1e300);
      largest = std::max(largest, row.back());
    }
    double total = 0;
    for (double& score : row) total += score = std::exp(score - largest);
    double delta = 0;
    std::vector<double> dp;
    for (int64_t j = 0; j < size; ++j) {
      at(row, j) /= total;
      dp.push_back(0);
      for (int64_t d = 0; d < p.value_width; ++d) {
        at(result.out, t * p.value_width + d) += at(row, j) * value(in.v, begin + j, d);
        dp.back() += value(in.dout, t, d) * value(in.v, begin + j, d);
      }
      delta += at(row, j) * dp.back();
    }
    for (int64_t j = 0; j < size; ++j) {
      const int64_t key = begin + j;
      if (at(row, j) == 0) continue;
      const double ds = p.scale * at(row, j) * (at(dp, j) - delta);
      for (int64_t d = 0; d < p.value_width; ++d) {
        at(result.dv, key * p.value_width + d) += at(row, j) * value(in.dout, t, d);
      }
      for (int64_t d = 0; d < p.width; ++d) {
        at(result.dq, t * p.width + d) += ds * value(in.k, key, d);
        at(result.dk, key * p.width + d) += ds * value(in.q, t, d);
      }
    }
  }
  return result;
}

TEST(Attention, WindowEqualsOverlappingChunks) {
  // Lengths below the window, of it, and over tiles of 16 to 96; few are multiples of either.
  for (const int64_t reach : {1, 4, 13, 37}) {
    for (const int64_t length : {1, 3, 24, 40, 53, 131}) {
      SCOPED_TRACE(std::to_string(reach) + " " + std::to_string(length));
      Problem p{.layout = SequenceLayout::unpacked(1, length),
                .pattern = {reach + 1},
                .heads = 1,
                .kv_heads = 1,
                .width = 8,
                .value_width = 5};
      const Inputs inputs = random_inputs(p, Dtype::f64);
      const Chunked chunked = overlapping_chunks(p, inputs, reach);
      const Results exact = run(p, inputs);
      const Results single = run(p, to(inputs, Dtype::f32));
      const auto as_tensor = [](const std::vector<double>& values, const Shape& shape) {
        return Tensor::from<double>(shape, values);
      };
      for (const auto& [values, f64, f32] : {std::tuple{&chunked.out, exact.out, single.out},
                                             {&chunked.dq, exact.dq, single.dq},
                                             {&chunked.dk, exact.dk, single.dk},
                                             {&chunked.dv, exact.dv, single.dv}}) {
        const Tensor expected = as_tensor(*values, f64.shape());
        EXPECT_LT(distance(f64, expected), 1e-12);
        EXPECT_LT(distance(f32, expected), 1e-5);
      }
    }
  }
  // What the trick computes and what is needed of it.
  Problem p{.layout = SequenceLayout::unpacked(1, 24),
            .heads = 1,
            .kv_heads = 1,
            .width = 1,
            .value_width = 1};
  EXPECT_EQ(overlapping_chunks(p, random_inputs(p, Dtype::f64), 4).computed, 320);
  EXPECT_EQ(AttentionPattern{5}.pairs(24), 110);
}

TEST(Attention, BackwardMatchesComplexStepWithCachedKeys) {
  Problem p{.layout = SequenceLayout::continuation(2, 3, 5, 6, 5),
            .pattern = {4},
            .heads = 2,
            .kv_heads = 1,
            .width = 3,
            .value_width = 2,
            .scale = 0.7F};
  expect_matches_complex_step(p);
}

// ---- Messages

TEST(Attention, RefusesInputsThatDoNotFit) {
  const SequenceLayout layout = SequenceLayout::unpacked(1, 4);
  const auto zeros = [](Shape shape, Dtype dtype = Dtype::f32) {
    return Tensor::zeros(shape, dtype);
  };
  const auto message = [&](const Tensor& q, const Tensor& k, const Tensor& v,
                           AttentionPattern pattern = {}) {
    return message_of([&] { ops::attention(q, k, v, layout, pattern, 1.0F); });
  };
  EXPECT_EQ(message(zeros({5, 2, 8}), zeros({4, 2, 8}), zeros({4, 2, 8})),
            "attention: q has 5 tokens but the layout 4 (1 rows of 4)");
  EXPECT_EQ(message(zeros({4, 2, 8}), zeros({3, 2, 8}), zeros({4, 2, 8})),
            "attention: k has 3 and v 4 keys but the layout 4 (1 rows of 0 cached and 4 new ones)");
  EXPECT_EQ(message(zeros({4, 3, 8}), zeros({4, 2, 8}), zeros({4, 2, 8})),
            "attention: 3 query heads, 2 key heads and 2 value heads; key and value heads must be "
            "equal in number and divide the query heads");
  EXPECT_EQ(message(zeros({4, 2, 8}), zeros({4, 2, 6}), zeros({4, 2, 8})),
            "attention: head width 8 of q, 6 of k, 8 of v; those of q and k must be equal and none "
            "0");
  EXPECT_EQ(message(zeros({4, 2, 8}), zeros({4, 2, 8}, Dtype::bf16), zeros({4, 2, 8})),
            "attention: q is f32, k bf16 and v f32; they must have one floating type");
  EXPECT_EQ(message(zeros({4, 2, 8}), zeros({4, 2, 8}), zeros({4, 2, 8}), {-1}),
            "attention: window -1 is negative; use 0 for full causal attention");
}

}  // namespace
}  // namespace sidewinder
