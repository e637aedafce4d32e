// Two small published models, through convert and through the kernels, against numbers that
// independent programs computed in f64.

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "tests/support/huggingface_folder.h"
#include "tests/support/program.h"
#include "tests/support/shared_data.h"
#include "tests/support/temporary_folder.h"
#include "tools/assemble.h"
#include "tools/huggingface.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::run_program;
using testing::TemporaryFolder;

fs::path model_folder(const std::string& name) {
  return *testing::shared_data() / "checkpoints" / name;
}

json expected(const std::string& name) {
  return json::parse(testing::read_file((model_folder(name) / "expected.json").string()));
}

std::string stories_tokenizer() { return (model_folder("stories260k") / "tok512.model").string(); }

TrainedModel load(const std::string& name, Precision precision) {
  return load_trained_model(
      model_folder(name).string(),
      {precision, name == "stories260k" ? stories_tokenizer() : std::string("bytes")});
}

Layouts one_document(int64_t tokens) {
  return {SequenceLayout::unpacked(1, tokens), SequenceLayout::unpacked(1, tokens)};
}

// Summed negative log-likelihood of ids[1:] given the ids before.
double loss_of(TrainedModel& model, const std::vector<int32_t>& ids) {
  const int64_t count = static_cast<int64_t>(ids.size()) - 1;
  const std::vector<int32_t> tokens(ids.begin(), ids.end() - 1);
  const std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  return model.model
      ->loss(nullptr, dtype_of(model.recipe.train.precision), one_document(count),
             Tensor::from<int32_t>({count}, tokens), Tensor::from<int32_t>({count}, targets), {})
      .loss.value()
      .at(0);
}

// Logits behind the last of `ids`, by the whole row and by the carried state.
void expect_logits(TrainedModel& model, const std::vector<int32_t>& ids, const json& values,
                   double tolerance) {
  const Dtype dtype = dtype_of(model.recipe.train.precision);
  const int64_t count = static_cast<int64_t>(ids.size());
  const Tensor all =
      model.model->logits(dtype, one_document(count), Tensor::from<int32_t>({count}, ids));
  GenerationState state;
  Tensor next;
  for (const int32_t id : ids) next = model.model->next_logits(dtype, {id}, state);
  const auto reference = values.get<std::vector<double>>();
  ASSERT_EQ(static_cast<int64_t>(reference.size()), next.count());
  double largest = 0;
  for (const double value : reference) largest = std::max(largest, std::abs(value));
  double worst = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    // The file gives nine digits.
    const double written = 0.6e-8 * std::pow(10, std::floor(std::log10(std::abs(reference[i]))));
    const int64_t row = (count - 1) * next.count();
    for (const double value :
         {all.at(row + static_cast<int64_t>(i)), next.at(static_cast<int64_t>(i))}) {
      worst = std::max(worst, std::max(0.0, std::abs(value - reference[i]) - written) / largest);
    }
  }
  EXPECT_LE(worst, tolerance);
  ::testing::Test::RecordProperty("worst_logit", fmt::format("{:.2e}", worst));
}

std::vector<int32_t> greedy(TrainedModel& model, std::vector<int32_t> ids, size_t length) {
  const Dtype dtype = dtype_of(model.recipe.train.precision);
  GenerationState state;
  Tensor logits = model.model->next_logits(dtype, ids, state);
  while (ids.size() < length) {
    const std::vector<double> values = logits.values();
    ids.push_back(
        static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin()));
    logits = model.model->next_logits(dtype, {ids.back()}, state);
  }
  return ids;
}

struct Bar {
  Precision precision;
  double loss;    // relative
  double logits;  // of the largest
};
constexpr Bar kBars[] = {{Precision::f64, 1e-9, 1e-9}, {Precision::f32, 1e-5, 1e-5}};

TEST(RealModels, StoriesHasItsPublishedLossesLogitsAndText) {
  SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
  const json stored = expected("stories260k");
  for (const Bar& bar : kBars) {
    TrainedModel model = load("stories260k", bar.precision);
    double sum = 0;
    int64_t predictions = 0;
    for (const json& story : stored["stories"]) {
      const auto ids = story["ids"].get<std::vector<int32_t>>();
      // The file's text through the tokenizer gives its ids.
      std::vector<int32_t> encoded = model.tokenizer->encode(story["text"].get<std::string>());
      encoded.insert(encoded.begin(), *model.tokenizer->bos());
      EXPECT_EQ(encoded, ids);
      const double loss = loss_of(model, ids);
      EXPECT_NEAR(loss / story["nll_sum"].get<double>(), 1.0, bar.loss);
      sum += loss;
      predictions += static_cast<int64_t>(ids.size()) - 1;
    }
    EXPECT_EQ(predictions, 1804);
    EXPECT_NEAR(sum / 1804 / stored["mean_nll_all_stories"].get<double>(), 1.0, bar.loss);
    expect_logits(model, stored["logits_first"]["ids"].get<std::vector<int32_t>>(),
                  stored["logits_first"]["last_position_logits"], bar.logits);
    const auto ids = stored["greedy"]["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(greedy(model, {1}, ids.size()), ids);
    EXPECT_EQ(model.tokenizer->decode(ids), stored["greedy"]["text"].get<std::string>());
  }
}

TEST(RealModels, MambaHasItsLossesLogitsAndText) {
  SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
  const json stored = expected("mamba-bytes-147k");
  const std::string text =
      testing::read_file((*testing::shared_data() / "text" / "tinyshakespeare.txt").string());
  for (const Bar& bar : kBars) {
    TrainedModel model = load("mamba-bytes-147k", bar.precision);
    for (const json& piece : stored["pieces"]) {
      const size_t begin = 1003854 + piece["offset"].get<size_t>();
      std::vector<int32_t> ids;
      for (size_t i = 0; i < piece["bytes"].get<size_t>(); ++i) {
        ids.push_back(static_cast<unsigned char>(text[begin + i]));
      }
      EXPECT_NEAR(loss_of(model, ids) / piece["nll_sum"].get<double>(), 1.0, bar.loss);
    }
    expect_logits(model, stored["logits_last_position"]["ids"].get<std::vector<int32_t>>(),
                  stored["logits_last_position"]["values"], bar.logits);
    const auto ids = stored["greedy"]["bytes"].get<std::vector<int32_t>>();
    const std::vector<int32_t> prompt(ids.begin(), ids.begin() + 7);
    EXPECT_EQ(greedy(model, prompt, ids.size()), ids);
  }
}

TEST(RealModels, ComeBackFromConvertByteForByte) {
  SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
  const TemporaryFolder folder;
  for (const std::string name : {"stories260k", "mamba-bytes-147k"}) {
    const std::string from = model_folder(name).string();
    std::vector<std::string> arguments = {"convert", from, name};
    if (name == "stories260k") {
      const auto refused = run_program(arguments, folder.path());
      EXPECT_EQ(refused.exit_code, 2);
      EXPECT_NE(refused.errors.find("has no tokenizer.model; pass --tokenizer FILE"),
                std::string::npos);
      arguments.insert(arguments.end(), {"--tokenizer", stories_tokenizer()});
    }
    const auto imported = run_program(arguments, folder.path());
    ASSERT_EQ(imported.exit_code, 0) << imported.errors;
    const auto exported = run_program({"convert", name, name + "-back"}, folder.path());
    ASSERT_EQ(exported.exit_code, 0) << exported.errors;
    EXPECT_EQ(testing::tensor_bytes(folder / (name + "-back")), testing::tensor_bytes(from));
    EXPECT_EQ(json::parse(testing::read_file(folder / (name + "-back/config.json"))),
              json::parse(testing::read_file(from + "/config.json")));
  }
  EXPECT_EQ(testing::read_file(folder / "stories260k-back/tokenizer.model"),
            testing::read_file(stories_tokenizer()));
}

TEST(RealModels, TheProgramWritesTheStoredText) {
  SIDEWINDER_SKIP_WITHOUT_SHARED_DATA()
  const TemporaryFolder folder;
  const json stories = expected("stories260k");
  auto result = run_program(
      {"generate", model_folder("stories260k").string(), "--tokenizer", stories_tokenizer(),
       "--bos", "--temperature", "0", "--tokens", "200", "--json", "made.json"},
      folder.path());
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  json made = json::parse(testing::read_file(folder / "made.json"));
  EXPECT_EQ(made["text"], stories["greedy"]["text"]);
  const json mamba = expected("mamba-bytes-147k");
  const std::string prompt = mamba["greedy"]["prompt"];
  result = run_program({"generate", model_folder("mamba-bytes-147k").string(), "--prompt", prompt,
                        "--temperature", "0", "--tokens", "200", "--json", "made.json"},
                       folder.path());
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_EQ(result.output, mamba["greedy"]["text"].get<std::string>() + "\n");
}

}  // namespace
}  // namespace sidewinder
