// Rotary positions against golden values: the published formulas evaluated once with 40 digits,
// which agree with every digit of the values in the papers' and libraries' conventions.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/math/alibi.h"
#include "kernels/math/attention_pattern.h"
#include "kernels/ops/rope.h"
#include "tests/support/message_of.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::random_normal;

constexpr double kRelative = 1e-9;

void expect_near_relative(double actual, double expected, double bound = kRelative) {
  EXPECT_NEAR(actual, expected, bound * std::abs(expected));
}

RopeOptions plain(int64_t width, double base) {
  return {.head_width = width, .rotary_width = width, .base = base};
}

RopeOptions scaled(int64_t width, double base, RopeScaling scaling) {
  RopeOptions options = plain(width, base);
  options.scaling = std::move(scaling);
  return options;
}

RopeOptions yarn(int64_t width, double base, int64_t original_context, double factor) {
  return scaled(
      width, base,
      {.kind = RopeScalingKind::yarn, .factor = factor, .original_context = original_context});
}

using ByPair = std::map<size_t, double>;

// In f64, and in the f32 tables: position 1 has the frequency as its angle.
void expect_frequencies(const RopeOptions& options, const ByPair& expected, int64_t length = 0) {
  const std::vector<double> frequencies = rope_frequencies(options, length);
  ASSERT_EQ(static_cast<int64_t>(frequencies.size()), options.rotary_width / 2);
  const RopeTable table = ops::rope_table(options, 2, Dtype::f32, length);
  for (const auto& [pair, frequency] : expected) {
    SCOPED_TRACE("pair " + std::to_string(pair));
    expect_near_relative(frequencies[pair], frequency);
    const int64_t entry = options.rotary_width / 2 + static_cast<int64_t>(pair);
    expect_near_relative(table.sine.at(entry), rope_attention_factor(options) * std::sin(frequency),
                         1e-6);
    expect_near_relative(table.cosine.at(entry),
                         rope_attention_factor(options) * std::cos(frequency), 1e-6);
  }
}

// One head at one position, f64.
std::vector<double> turned(const RopeOptions& options, const std::vector<double>& x,
                           int64_t position, bool inverse = false) {
  const int64_t width = static_cast<int64_t>(x.size());
  Tensor at = Tensor::empty({1}, Dtype::i32);
  at.data<int32_t>()[0] = static_cast<int32_t>(position);
  const RopeTable table = ops::rope_table(options, position + 1, Dtype::f64);
  const Tensor y = ops::rope(Tensor::from<double>({1, 1, width}, x), at, table, inverse);
  return {y.data<double>(), y.data<double>() + width};
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double score(const RopeOptions& options, const std::vector<double>& q, int64_t query,
             const std::vector<double>& k, int64_t key) {
  return dot(turned(options, q, query), turned(options, k, key));
}

const std::vector<double> kQ = {1, 2, 3, 4};
const std::vector<double> kK = {0.5, -1, 2, 0.25};

std::vector<double> from_interleaved(const std::vector<double>& x) {
  std::vector<double> half;
  for (const size_t first : {size_t{0}, size_t{1}}) {
    for (size_t i = first; i < x.size(); i += 2) half.push_back(x[i]);
  }
  return half;
}

TEST(Positions1, PlainFrequencies) {
  expect_frequencies(plain(8, 1e4), {{0, 1}, {1, 0.1}, {2, 0.01}, {3, 0.001}});
  expect_frequencies(
      plain(8, 5e5),
      {{0, 1}, {1, 0.037606030930863933}, {2, 0.001414213562373095}, {3, 5.3182958969449883e-05}});
}

TEST(Positions1, BothLayoutsGiveTheGoldenValues) {
  const RopeOptions half = plain(4, 100);
  RopeOptions interleaved = half;
  interleaved.interleaved = true;
  const auto expect = [](const std::vector<double>& actual, const std::vector<double>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-10);
  };
  expect(turned(half, kQ, 1), {-1.9841106486, 1.5906746640, 2.4623779024, 4.1796834944});
  expect(turned(interleaved, kQ, 1), {-1.1426396637, 1.9220755965, 2.5856788292, 4.2795169111});
  expect(turned(half, kQ, 3), {-1.4133525208, 0.7285921516, -2.8288574817, 4.4123863698});
  EXPECT_NEAR(score(half, kQ, 5, kK, 2), -5.9898867830, 1e-10);
  EXPECT_NEAR(score(half, kQ, 103, kK, 100), -5.9898867830, 1e-10);
  EXPECT_NEAR(score(interleaved, kQ, 5, kK, 2), 5.7475826544, 1e-10);
}

TEST(Positions1, TheLayoutsAreOneFunctionOfPermutedHeads) {
  RopeOptions interleaved = plain(4, 100);
  interleaved.interleaved = true;
  // The arrays of the golden score, laid out so that interleaved pairs are the half-split ones.
  const std::vector<double> q = {1, 3, 2, 4};
  const std::vector<double> k = {0.5, 2, -1, 0.25};
  EXPECT_NEAR(score(interleaved, q, 5, k, 2), -5.9898867830, 1e-10);
  const std::vector<double> turned_interleaved = turned(interleaved, q, 3);
  const std::vector<double> turned_half = turned(plain(4, 100), from_interleaved(q), 3);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(from_interleaved(turned_interleaved)[i], turned_half[i], 1e-15);
  }
}

TEST(Positions1, ScoresDependOnTheDistanceAloneAtPositionOneMillion) {
  RopeOptions interleaved = plain(4, 100);
  interleaved.interleaved = true;
  for (const RopeOptions& options : {plain(4, 100), interleaved, yarn(4, 1e4, 4096, 16)}) {
    EXPECT_NEAR(score(options, kQ, 1000003, kK, 1000000), score(options, kQ, 3, kK, 0), 2e-9);
  }
}

TEST(Positions2, BackwardIsTheTransposeAndNormsGrowByTheSquareOfTheFactor) {
  RopeOptions options = yarn(8, 1e4, 4096, 16);
  options.head_width = 10;  // two elements stay as they are
  const double m = rope_attention_factor(options);
  const std::vector<double> x = {1, -2, 3, 0.5, -1, 4, 2, -3, 7, -5};
  const std::vector<double> dy = {2, 1, -1, 3, 0.25, -2, 5, 1, -4, 6};
  EXPECT_NEAR(dot(dy, turned(options, x, 77)), dot(turned(options, dy, 77, true), x), 1e-12);
  const std::vector<double> back = turned(options, turned(options, x, 77), 77, true);
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(back[i], m * m * x[i], 1e-12);
  for (size_t i = 8; i < 10; ++i) EXPECT_EQ(back[i], x[i]);
}

TEST(Positions3, LinearDividesEveryFrequency) {
  const RopeScaling linear{.kind = RopeScalingKind::linear, .factor = 4};
  expect_frequencies(scaled(8, 1e4, linear), {{0, 0.25}, {1, 0.025}, {2, 0.0025}, {3, 0.00025}});
  // Position 32000 has the angles that 8000 had.
  const std::vector<double> q = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<double> far = turned(scaled(8, 1e4, linear), q, 32000);
  const std::vector<double> near = turned(plain(8, 1e4), q, 8000);
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(far[i], near[i], 1e-10);
}

TEST(Positions3, NtkChangesTheBase) {
  const RopeScaling four{.kind = RopeScalingKind::ntk, .factor = 4};
  expect_frequencies(scaled(8, 1e4, four),
                     {{0, 1}, {1, 0.06299605249474366}, {2, 0.0039685026299204991}, {3, 0.00025}});
  const struct {
    int64_t width;
    double base, factor, new_base;
  } rows[] = {{8, 1e4, 4, 63496.04207872798},    {128, 1e4, 2, 20221.261689737912},
              {128, 1e4, 4, 40889.942432486219}, {128, 1e4, 8, 82684.622640562215},
              {64, 1e4, 4, 41829.36592889949},   {128, 5e5, 8, 4134231.1320281108}};
  for (const auto& row : rows) {
    const RopeScaling scaling{.kind = RopeScalingKind::ntk, .factor = row.factor};
    const std::vector<double> actual = rope_frequencies(scaled(row.width, row.base, scaling), 0);
    const RopeOptions changed = plain(row.width, row.new_base);
    for (size_t i = 0; i < actual.size(); ++i) {
      expect_near_relative(actual[i], rope_frequency(changed, static_cast<int64_t>(i)));
    }
    const int64_t last = row.width / 2 - 1;
    expect_near_relative(rope_frequency(plain(row.width, row.base), last) / actual.back(),
                         row.factor, 1e-13);
  }
  const auto division = [](double factor) {
    const RopeOptions options = scaled(128, 1e4, {.kind = RopeScalingKind::ntk, .factor = factor});
    return rope_frequency(options, 32) / rope_frequencies(options, 0)[32];
  };
  expect_near_relative(division(4), 2.022126168973791);
  expect_near_relative(division(8), 2.8754933948900354);
}

TEST(Positions3, DynamicNtkFollowsTheLength) {
  const struct {
    int64_t original;
    double factor;
    int64_t length;
    double new_base;
  } rows[] = {{2048, 1, 2048, 10000},
              {2048, 1, 100, 10000},
              {2048, 1, 4096, 20221.261689737912},
              {2048, 2, 4096, 30527.736748806699},
              {4096, 2, 16384, 72195.86008650939},
              {4096, 4, 16384, 135401.97304176548}};
  for (const auto& row : rows) {
    const RopeScaling scaling{
        .kind = RopeScalingKind::dynamic, .factor = row.factor, .original_context = row.original};
    ByPair expected;
    for (const size_t i : {size_t{0}, size_t{7}, size_t{32}, size_t{63}}) {
      expected[i] = rope_frequency(plain(128, row.new_base), static_cast<int64_t>(i));
    }
    expect_frequencies(scaled(128, 1e4, scaling), expected, row.length);
  }
}

TEST(Positions3, YarnOfEightNumbersByHand) {
  RopeOptions options = yarn(8, 1e4, 4096, 16);
  expect_frequencies(options, {{0, 1}, {1, 0.1}, {2, 0.0053125}, {3, 0.0000625}});
  EXPECT_EQ(rope_ramp(options), (std::vector<double>{0, 0, 0.5, 1}));
  options.scaling.truncate = false;
  expect_frequencies(options, {{0, 1}, {1, 0.1}, {2, 0.0056962144014117934}, {3, 0.0000625}});
  expect_near_relative(rope_ramp(options)[2], 0.45907046384940870);
  // The upper end of the ramp is held at d − 1, not at the last pair.
  expect_frequencies(yarn(8, 100, 4096, 16), {{3, 0.024211188335664154}});
  EXPECT_EQ(rope_ramp(yarn(8, 100, 4096, 16))[3], 0.25);
}

TEST(Positions3, YarnTablesGrowByTheAttentionFactor) {
  const RopeOptions options = yarn(8, 1e4, 4096, 16);
  const double m = rope_attention_factor(options);
  expect_near_relative(m, 1.2772588722239782);
  expect_near_relative(m * m, 1.6313902267);
  const RopeTable table = ops::rope_table(options, 8, Dtype::f64);
  const double cosine[] = {0.9629283431496439, 0.9769014695603063, 1.2763758068644069,
                           1.2772587499863146};
  const double sine[] = {0.8391419621458278, 0.8228327566679529, 0.047487117475191506,
                         0.0005588007387716644};
  for (int64_t i = 0; i < 4; ++i) {
    expect_near_relative(table.cosine.at(7 * 4 + i), cosine[i]);
    expect_near_relative(table.sine.at(7 * 4 + i), sine[i]);
  }
  const std::vector<double> q = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<double> k = {1, -1, 1, -1, 1, -1, 1, -1};
  expect_near_relative(score(options, q, 10, k, 4), 0.6582846716594712);
  RopeOptions without = options;
  without.scaling.attention_factor = 1;
  expect_near_relative(score(without, q, 10, k, 4), 0.4035114719310293);
}

TEST(Positions3, YarnOfRealConfigurations) {
  {
    SCOPED_TRACE("Llama-2, 16 times");
    expect_frequencies(yarn(128, 1e4, 4096, 16), {{20, 0.056234132519034911},
                                                  {21, 0.046940859997959404},
                                                  {33, 0.0046004354678503469},
                                                  {45, 0.00015177160473182493},
                                                  {63, 7.2173874043091138e-06}});
    expect_near_relative(rope_ramp(yarn(128, 1e4, 4096, 16))[21], 1.0 / 26);
  }
  {
    SCOPED_TRACE("Llama-2, 32 times");
    expect_frequencies(
        yarn(128, 1e4, 4096, 32),
        {{21, 0.046882330247338504}, {33, 0.004465128542325337}, {63, 3.6086937021545569e-06}});
    expect_near_relative(rope_attention_factor(yarn(128, 1e4, 4096, 32)), 1.3465735902799727);
  }
  {
    SCOPED_TRACE("Mistral, 8 times");
    expect_frequencies(
        yarn(128, 1e4, 8192, 8),
        {{26, 0.022883756259634975}, {37, 0.0028244116459620059}, {63, 1.4434774808618228e-05}});
    expect_near_relative(rope_attention_factor(yarn(128, 1e4, 8192, 8)), 1.2079441541679836);
  }
  {
    SCOPED_TRACE("Qwen-like, 4 times");
    expect_frequencies(
        yarn(128, 1e6, 32768, 4),
        {{24, 0.0053753214907901019}, {31, 0.00080295972754523034}, {63, 3.1023444018792988e-07}});
    expect_near_relative(rope_attention_factor(yarn(128, 1e6, 32768, 4)), 1.1386294361119891);
  }
  {
    SCOPED_TRACE("gpt-oss, not truncated");
    RopeOptions options = yarn(64, 1.5e5, 4096, 32);
    options.scaling.truncate = false;
    expect_frequencies(options, {{9, 0.031705696184663769},
                                 {12, 0.006794959489732218},
                                 {17, 0.00012931870124506273},
                                 {31, 3.0235114281192144e-07}});
    expect_near_relative(rope_ramp(options)[9], 0.097495643247099455);
  }
  {
    SCOPED_TRACE("gpt-oss, truncated");
    expect_frequencies(yarn(64, 1.5e5, 4096, 32),
                       {{9, 0.031620752275346491}, {17, 0.00022794779579512526}});
  }
}

TEST(Positions3, YarnAttentionFactors) {
  const std::map<double, double> growth = {{2, 1.0693147180559945},  {4, 1.1386294361119891},
                                           {8, 1.2079441541679836},  {16, 1.2772588722239782},
                                           {32, 1.3465735902799727}, {40, 1.3688879454113936}};
  for (const auto& [factor, expected] : growth) {
    expect_near_relative(rope_attention_factor(yarn(8, 1e4, 4096, factor)), expected);
  }
  RopeOptions options = yarn(8, 1e4, 4096, 40);
  options.scaling.mscale = 0.707;
  expect_near_relative(rope_attention_factor(options), growth.at(40));  // needs both
  options.scaling.mscale_all_dim = 0.707;
  EXPECT_EQ(rope_attention_factor(options), 1.0);
  options.scaling.mscale_all_dim = 1.0;
  // 1.5896261651 = (0.1 · 0.707 · ln 40 + 1)²
  expect_near_relative(rope_attention_factor(options), std::sqrt(1.5896261651) / growth.at(40));
  options.scaling.attention_factor = 1.25;
  EXPECT_EQ(rope_attention_factor(options), 1.25);
  options.scaling.kind = RopeScalingKind::ntk_by_parts;
  EXPECT_EQ(rope_attention_factor(options), 1.0);
}

TEST(Positions3, NtkByPartsIsYarnWithoutTheAttentionFactor) {
  RopeOptions options = yarn(64, 1e4, 512, 8);
  const std::vector<double> expected = rope_frequencies(options, 0);
  options.scaling.kind = RopeScalingKind::ntk_by_parts;
  EXPECT_EQ(rope_frequencies(options, 0), expected);
}

RopeOptions longrope() {
  return scaled(8, 1e4,
                {.kind = RopeScalingKind::longrope,
                 .factor = 32,
                 .original_context = 4096,
                 .short_factors = {1, 1, 1, 2},
                 .long_factors = {1, 1.5, 4, 16}});
}

TEST(Positions3, LongRopeDividesByTheListOfTheLength) {
  expect_frequencies(longrope(), {{0, 1}, {1, 0.1}, {2, 0.01}, {3, 0.0005}}, 4096);
  expect_frequencies(longrope(), {{0, 1}, {1, 0.066666666666666666}, {2, 0.0025}, {3, 0.0000625}},
                     4097);
  EXPECT_EQ(rope_length_class(longrope(), 4096), rope_length_class(longrope(), 1));
  EXPECT_NE(rope_length_class(longrope(), 4096), rope_length_class(longrope(), 4097));
  const auto factor = [](int64_t original, double s) {
    RopeOptions options = longrope();
    options.scaling.original_context = original;
    options.scaling.factor = s;
    return rope_attention_factor(options);
  };
  expect_near_relative(factor(4096, 32), 1.1902380714238083);
  expect_near_relative(factor(4096, 4), 1.0801234497346435);
  expect_near_relative(factor(8192, 16), 1.1435437497937313);
  EXPECT_EQ(factor(4096, 1), 1.0);
}

TEST(Positions3, Llama3) {
  const auto llama3 = [](int64_t width, double base, double factor) {
    return scaled(width, base,
                  {.kind = RopeScalingKind::llama3, .factor = factor, .original_context = 8192});
  };
  expect_frequencies(llama3(128, 5e5, 8), {{28, 0.0032114459947525909},
                                           {29, 0.0021665707635033587},
                                           {30, 0.0013718935677611381},
                                           {32, 0.00052484616099295468},
                                           {34, 0.00017850781276799641},
                                           {35, 9.5562123539646833e-05},
                                           {63, 3.0689259889145111e-07}});
  expect_near_relative(1 - rope_ramp(llama3(128, 5e5, 8))[29], 0.803621042);
  expect_near_relative(1 - rope_ramp(llama3(128, 5e5, 8))[32], 0.281282605, 2e-9);
  expect_frequencies(llama3(8, 1e4, 8), {{0, 1}, {1, 0.1}, {2, 0.01}, {3, 0.00021360754402756859}});
  expect_frequencies(llama3(64, 5e5, 32),
                     {{15, 0.0012905479282092638}, {18, 1.9461638184831125e-05}});
  EXPECT_EQ(rope_attention_factor(llama3(8, 1e4, 8)), 1.0);
}

TEST(Positions4, AFactorOfOneIsPlainRope) {
  for (const RopeScalingKind kind :
       {RopeScalingKind::linear, RopeScalingKind::ntk, RopeScalingKind::ntk_by_parts,
        RopeScalingKind::yarn, RopeScalingKind::llama3}) {
    const RopeOptions options =
        scaled(128, 1e4, {.kind = kind, .factor = 1, .original_context = 4096});
    const std::vector<double> actual = rope_frequencies(options, 100000);
    for (size_t i = 0; i < actual.size(); ++i) {
      expect_near_relative(actual[i], rope_frequency(options, static_cast<int64_t>(i)), 3e-16);
    }
    EXPECT_EQ(rope_attention_factor(options), 1.0);
  }
}

TEST(Positions4, TheRampByRotationsIsThePapers) {
  RopeOptions tiny = yarn(8, 1e4, 4096, 16);
  tiny.scaling.ramp = RopeRamp::rotations;
  expect_frequencies(tiny, {{0, 1}, {1, 0.1}, {2, 0.0022940483273318647}, {3, 0.0000625}});
  RopeOptions llama = yarn(128, 1e4, 4096, 16);
  llama.scaling.ramp = RopeRamp::rotations;
  expect_frequencies(
      llama,
      {{21, 0.048321729215016304}, {33, 0.0017577355288619424}, {45, 9.6425915458335845e-05}});
}

TEST(Positions4, LogitsGrowByTheSquareOfTheFactor) {
  const RopeOptions options = yarn(64, 1e4, 512, 8);
  RopeOptions without = options;
  without.scaling.attention_factor = 1;
  const double m = rope_attention_factor(options);
  const Tensor q = random_normal({64}, Dtype::f64, 3);
  const Tensor k = random_normal({64}, Dtype::f64, 4);
  const std::vector<double> query(q.data<double>(), q.data<double>() + 64);
  const std::vector<double> key(k.data<double>(), k.data<double>() + 64);
  expect_near_relative(score(options, query, 3000, key, 17),
                       m * m * score(without, query, 3000, key, 17), 1e-12);
}

TEST(Positions5, ScalingStartsFromTheOriginalAndDoesNotCompound) {
  const RopeOptions whole = yarn(8, 1e4, 4096, 16);
  const std::vector<double> frequencies = rope_frequencies(whole, 0);
  // Raising the total factor of the same options is all there is: nothing of the old is kept.
  RopeOptions twice = yarn(8, 1e4, 4096, 4);
  EXPECT_NE(rope_frequencies(twice, 0), frequencies);
  twice.scaling.factor = 16;
  EXPECT_EQ(rope_frequencies(twice, 0), frequencies);
  EXPECT_EQ(rope_attention_factor(twice), rope_attention_factor(whole));
  // Scaling the scaled ones by 4 once more would have given these instead.
  const std::vector<double> first = rope_frequencies(yarn(8, 1e4, 4096, 4), 0);
  const std::vector<double> ramp = rope_ramp(yarn(8, 1e4, 16384, 4));
  const auto again = [&](size_t i) { return first[i] * (1 - ramp[i]) + first[i] / 4 * ramp[i]; };
  EXPECT_NEAR(again(2), 0.0046875, 1e-12);
  EXPECT_NEAR(again(3), 0.000125, 1e-12);
  EXPECT_NEAR(frequencies[2], 0.0053125, 1e-12);
  EXPECT_NEAR(frequencies[3], 0.0000625, 1e-12);
}

TEST(Positions7, AlibiSlopes) {
  const std::vector<double> eight = {0.5,     0.25,     0.125,     0.0625,
                                     0.03125, 0.015625, 0.0078125, 0.00390625};
  EXPECT_EQ(alibi_slopes(1), std::vector<double>{0.00390625});
  EXPECT_EQ(alibi_slopes(8), eight);
  EXPECT_EQ(alibi_slopes(6), (std::vector<double>{0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125}));
  const std::vector<double> twelve = alibi_slopes(12);
  ASSERT_EQ(twelve.size(), 12U);
  EXPECT_EQ(std::vector<double>(twelve.begin(), twelve.begin() + 8), eight);
  const double odd_of_sixteen[] = {0.7071067812, 0.3535533906, 0.1767766953, 0.0883883476};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(twelve[8 + i], odd_of_sixteen[i], 5.1e-11);
  const std::vector<double> twenty = alibi_slopes(20);
  ASSERT_EQ(twenty.size(), 20U);
  EXPECT_NEAR(twenty[0], 0.7071067812, 5e-11);
  EXPECT_EQ(twenty[15], 0.00390625);
  const double odd_of_thirty_two[] = {0.840896415, 0.594603558, 0.420448208, 0.297301779};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(twenty[16 + i], odd_of_thirty_two[i], 5e-10);
  // Bias row of query 3 under slope 0.5.
  const double row[] = {-1.5, -1, -0.5, 0};
  for (int j = 0; j < 4; ++j) EXPECT_EQ(-eight[0] * (3 - j), row[j]);
}

TEST(Positions8, ScalingMattersOnlyBeyondTheOriginalContext) {
  const auto matters = [](int64_t window, int64_t length) {
    return AttentionPattern{.window = window}.reach(length) > 4096;
  };
  EXPECT_FALSE(matters(512, 65536));   // the window hides the distances
  EXPECT_FALSE(matters(4096, 65536));  // distances 0 … 4095
  EXPECT_TRUE(matters(4097, 65536));
  EXPECT_TRUE(matters(0, 4097));
  EXPECT_FALSE(matters(0, 4096));
  EXPECT_FALSE(matters(8192, 2048));  // nor are rows that long
}

std::string message_of(const RopeOptions& options) {
  return testing::message_of([&] { rope_frequencies(options, 100); });
}

TEST(RopeScaling, RefusesWhatCannotBeMeant) {
  EXPECT_EQ(message_of(yarn(8, 1e4, 4096, 0.5)),
            "rope: factor 0.5 would shrink the context; it must be at least 1");
  EXPECT_EQ(message_of(yarn(8, 1e4, 0, 2)), "rope: original context 0 must be positive");
  EXPECT_EQ(message_of(yarn(8, 1, 4096, 2)), "rope: a ramp needs a base above 1, not 1");
  RopeOptions options = yarn(8, 1e4, 4096, 2);
  options.scaling.beta_slow = 32;
  EXPECT_EQ(message_of(options),
            "rope: beta_fast 32 must be above beta_slow 32, and both positive");
  options = yarn(8, 1e4, 4096, 2);
  options.scaling.attention_factor = -1;
  EXPECT_EQ(message_of(options),
            "rope: attention factor -1 must be positive, or 0 for that of the formula");
  EXPECT_EQ(message_of(scaled(2, 1e4, {.kind = RopeScalingKind::ntk, .factor = 2})),
            "rope: a changed base needs at least two pairs but rotary width is 2");
  options = longrope();
  options.scaling.long_factors.pop_back();
  EXPECT_EQ(message_of(options),
            "rope: long_factors has 3 numbers but there are 4 pairs; give one per pair");
  options = longrope();
  options.scaling.short_factors[2] = 0;
  EXPECT_EQ(message_of(options),
            "rope: short_factors has 0; a frequency is divided by it, so it must be positive");
  options = scaled(8, 1e4,
                   {.kind = RopeScalingKind::llama3,
                    .factor = 8,
                    .original_context = 8192,
                    .low_frequency_factor = 4});
  EXPECT_EQ(
      message_of(options),
      "rope: high_frequency_factor 4 must be above low_frequency_factor 4, and both positive");
}

}  // namespace
}  // namespace sidewinder
