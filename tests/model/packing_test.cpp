// The law of packing: documents in one row behave as if each were alone.
#include <gtest/gtest.h>

#include "tests/support/models.h"
#include "tests/support/random.h"

namespace sidewinder {
namespace {

using testing::random_tokens;

std::vector<std::vector<int32_t>> documents_of_lengths(const std::vector<int64_t>& lengths) {
  std::vector<std::vector<int32_t>> documents;
  documents.reserve(lengths.size());
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

// Every document has ids of its own, so the rows of the embedding's gradient are those of its
// inputs. Tokens of one document are changed in turn (all, or every third); what the others get stays
// bit for bit, in whole rows and in chunks whose edges are not those of documents.
TEST_P(Packing, NothingLeaksInEitherDirection) {
  const std::vector<int64_t> lengths = {13, 1, 21, 1, 30};
  constexpr size_t kChanged = 2;
  constexpr int32_t kIds = 7;  // of each document
  std::vector<int32_t> starts;
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  for (size_t i = 0; i < lengths.size(); ++i) {
    starts.push_back(static_cast<int32_t>(tokens.size()));
    for (const int32_t token : random_tokens(lengths[i], kIds, 10 + i)) {
      tokens.push_back(token + static_cast<int32_t>(i) * kIds);
    }
    // Targets are not shifted tokens here: they must not change with them.
    for (const int32_t target : random_tokens(lengths[i], 37, 20 + i)) targets.push_back(target);
  }
  const auto count = static_cast<int64_t>(tokens.size());
  const SequenceLayout layout = SequenceLayout::packed(1, count, starts);
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    HybridModel model = testing::tiny_model(GetParam(), Dtype::f32, /*tied=*/false);
    for (const int64_t chunk : {0, 17}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + ", chunk " + std::to_string(chunk));
      struct Seen {
        Tensor losses, gradients;
      };
      const auto run = [&] {
        model.visit([](Parameter& parameter) { parameter.zero_gradient(); });
        Seen seen;
        seen.losses = model
                          .loss_and_gradients(dtype, {layout, layout},
                                              Tensor::from<int32_t>({count}, tokens),
                                              Tensor::from<int32_t>({count}, targets),
                                              {.scale = 1.0 / 64, .chunk = chunk}, {})
                          .token_loss.clone();
        model.visit([&](Parameter& parameter) {
          if (parameter.name() == "embedding.weight") seen.gradients = parameter.gradient().clone();
        });
        return seen;
      };
      const Seen before = run();
      const int64_t stride = dtype == Dtype::f32 && chunk == 0 ? 1 : 3;
      for (int64_t t = starts[kChanged]; t < starts[kChanged + 1]; t += stride) {
        int32_t& token = tokens[static_cast<size_t>(t)];
        const int32_t kept = token;
        const auto first_id = static_cast<int32_t>(kChanged) * kIds;
        token = first_id + (token - first_id + 1) % kIds;
        const Seen after = run();
        token = kept;
        EXPECT_FALSE(testing::same_bits(before.losses, after.losses)) << t;
        for (size_t i = 0; i < lengths.size(); ++i) {
          if (i == kChanged) continue;
          const auto same = [&](const Tensor& a, const Tensor& b, int64_t begin, int64_t end) {
            return testing::same_bits(a.slice_rows(begin, end), b.slice_rows(begin, end));
          };
          ASSERT_TRUE(same(before.losses, after.losses, starts[i], starts[i] + lengths[i]))
              << "token " << t << ", document " << i;
          const auto id = static_cast<int64_t>(i) * kIds;
          ASSERT_TRUE(same(before.gradients, after.gradients, id, id + kIds))
              << "token " << t << ", document " << i;
        }
      }
    }
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
