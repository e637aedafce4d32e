// The law of packing: documents in one row behave as if each were alone.
#include <gtest/gtest.h>

#include "tests/support/models.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::random_tokens;

std::vector<std::vector<int32_t>> documents_of_lengths(const std::vector<int64_t>& lengths) {
  std::vector<std::vector<int32_t>> documents;
  for (const int64_t length : lengths) {
    documents.push_back(random_tokens(length, 37, 100 + documents.size()));
  }
  return documents;
}

// Lengths with a document of one token, and borders at, before and after the scan's chunk edge (64).
const std::vector<int64_t> kLengths = {13, 1, 50, 64, 1, 63, 7};

class Packing : public ::testing::TestWithParam<const char*> {};

TEST_P(Packing, EqualsUnpackedInF64) {
  HybridModel model = testing::tiny_model(GetParam(), Dtype::f64);
  const auto documents = documents_of_lengths(kLengths);
  const auto packed = testing::packed_loss(model, Dtype::f64, documents);
  const auto alone = testing::unpacked_loss(model, Dtype::f64, documents);
  EXPECT_NEAR(packed.loss, alone.loss, 1e-12 * std::abs(alone.loss));
  for (const auto& [name, gradient] : packed.gradients) {
    EXPECT_LT(testing::relative_error(gradient, alone.gradients.at(name)), 1e-12) << name;
  }
}

TEST_P(Packing, EqualsUnpackedInF32) {
  HybridModel model = testing::tiny_model(GetParam(), Dtype::f32);
  const auto documents = documents_of_lengths(kLengths);
  const auto packed = testing::packed_loss(model, Dtype::f32, documents);
  const auto alone = testing::unpacked_loss(model, Dtype::f32, documents);
  EXPECT_NEAR(packed.loss, alone.loss, 1e-5 * std::abs(alone.loss));
  for (const auto& [name, gradient] : packed.gradients) {
    EXPECT_LT(testing::relative_error(gradient, alone.gradients.at(name)), 1e-5) << name;
  }
}

TEST_P(Packing, DocumentsCannotSeeEachOther) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    HybridModel model = testing::tiny_model(GetParam(), Dtype::f32);
    const std::vector<int32_t> starts = {0, 13, 14, 64, 65};
    const SequenceLayout layout = SequenceLayout::packed(1, 130, starts);
    std::vector<int32_t> tokens = random_tokens(130, 37, 3);
    const auto logits = [&] {
      return model.logits(dtype, {layout, layout}, Tensor::from<int32_t>({130}, tokens));
    };
    const Tensor before = logits();
    tokens[30] = (tokens[30] + 1) % 37;  // in the document [14, 64)
    const Tensor after = logits();
    EXPECT_TRUE(testing::same_bits(before.slice_rows(0, 30), after.slice_rows(0, 30)));
    EXPECT_FALSE(testing::same_bits(before.slice_rows(30, 31), after.slice_rows(30, 31)));
    EXPECT_TRUE(testing::same_bits(before.slice_rows(64, 130), after.slice_rows(64, 130)));
  }
}

TEST_P(Packing, WithoutIsolationTheyDo) {
  // The test above must be able to fail.
  HybridModel model = testing::tiny_model(GetParam(), Dtype::f32);
  const SequenceLayout layout = SequenceLayout::unpacked(1, 40);
  std::vector<int32_t> tokens = random_tokens(40, 37, 3);
  const Tensor before = model.logits(Dtype::f32, {layout, layout}, Tensor::from<int32_t>({40}, tokens));
  tokens[30] = (tokens[30] + 1) % 37;
  const Tensor after = model.logits(Dtype::f32, {layout, layout}, Tensor::from<int32_t>({40}, tokens));
  EXPECT_FALSE(testing::same_bits(before.slice_rows(31, 40), after.slice_rows(31, 40)));
}

INSTANTIATE_TEST_SUITE_P(Models, Packing, ::testing::Values("mm", "wf", "mwmf"));

}  // namespace
}  // namespace sidewinder
