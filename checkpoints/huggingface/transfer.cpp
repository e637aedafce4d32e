#include "checkpoints/huggingface/transfer.h"

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>

#include "checkpoints/manifest.h"
#include "kernels/base/check.h"
#include "kernels/base/error.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

bool begins_with(const std::string& text, const std::string& beginning) {
  return text.compare(0, beginning.size(), beginning) == 0;
}

bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() >= ending.size() &&
         text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

// Wrappers of training programs put these before every name.
std::string common_prefix(const WeightFiles& files) {
  for (const std::string prefix : {"_orig_mod.", "module."}) {
    const auto has = [&](const StoredTensor* tensor) { return begins_with(tensor->name, prefix); };
    if (!files.tensors().empty() &&
        std::all_of(files.tensors().begin(), files.tensors().end(), has)) {
      return prefix;
    }
  }
  return "";
}

// Frequencies that follow from the config; old files carry them along.
bool is_derived(const std::string& name) { return ends_with(name, ".rotary_emb.inv_freq"); }

int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t result = 1;
  for (const int64_t size : shape) result *= size;
  return result;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Lists at most a few, so that a wrong family does not fill the screen.
void add_list(std::string& text, const std::string& heading,
              const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  constexpr size_t kShown = 8;
  text += fmt::format("\n    {} ({}):", heading, lines.size());
  for (size_t i = 0; i < std::min(lines.size(), kShown); ++i) text += "\n        " + lines[i];
  if (lines.size() > kShown) text += fmt::format("\n        and {} more", lines.size() - kShown);
}

// Every part of the table is in the files with its shape, and nothing else is.
void check_complete(const WeightFiles& files, const TensorTable& table, const std::string& prefix,
                    bool has_tied_head, std::vector<std::string>& notes) {
  std::vector<std::string> missing;
  std::vector<std::string> wrong;
  std::vector<std::string> surplus;
  std::set<std::string> wanted;
  for (const TensorRule& rule : table.rules) {
    for (const TensorPart& part : rule.parts) {
      wanted.insert(prefix + part.name);
      const StoredTensor* found = files.find(prefix + part.name);
      if (found == nullptr) {
        missing.push_back(part.name + " " + shape_text(part.shape));
      } else if (found->shape != part.shape) {
        wrong.push_back(fmt::format("{}: {} in the file, {} by config.json", found->name,
                                    found->shape_text(), shape_text(part.shape)));
      }
    }
  }
  if (has_tied_head) wanted.insert(prefix + table.head);
  int64_t derived = 0;
  for (const StoredTensor* tensor : files.tensors()) {
    if (wanted.count(tensor->name) != 0) continue;
    if (is_derived(tensor->name)) {
      ++derived;
    } else {
      surplus.push_back(tensor->name + " " + tensor->shape_text());
    }
  }
  if (derived > 0) {
    notes.push_back(fmt::format(
        "{} rotary_emb.inv_freq tensors are left out: they follow from config.json", derived));
  }
  if (missing.empty() && wrong.empty() && surplus.empty()) return;
  std::string text = "the weights do not fit config.json:";
  add_list(text, "missing", missing);
  add_list(text, "of another shape", wrong);
  add_list(text, "not known", surplus);
  throw Error(Blame::user, text);
}

Tensor take(const WeightFiles& files, const TensorRule& rule, const std::string& prefix,
            int64_t* rounded) {
  Tensor result = Tensor::empty(to_shape(rule.shape), Dtype::f32);
  int64_t begin = 0;
  for (const TensorPart& part : rule.parts) {
    const Tensor values = files.read_f32(prefix + part.name, rounded);
    std::copy_n(values.data<float>(), values.count(), result.data<float>() + begin);
    begin += values.count();
  }
  SIDEWINDER_ASSERT(begin == result.count());
  return result;
}

const ElementType& type_named(std::string_view name) {
  const ElementType* type = find_element_type(name);
  SIDEWINDER_REQUIRE(type != nullptr && is_convertible(*type),
                     "weights cannot be written as {}; use F32, BF16 or F16", name);
  return *type;
}

// The element type in which a part goes out.
ElementType type_of(const TensorPart& part, bool needs_f32, const float* values,
                    const std::optional<Origin>& origin, std::string_view wanted) {
  const ElementType& f32 = type_named("F32");
  if (!wanted.empty()) return needs_f32 ? f32 : type_named(wanted);
  if (!origin) return f32;
  const auto found = origin->types.find(part.name);
  if (found == origin->types.end()) return f32;
  const ElementType& type = type_named(found->second);
  if (!needs_f32 || type.bits >= 32) return type;
  const int64_t count = count_of(part.shape);
  std::vector<char> bytes(static_cast<size_t>(2 * count));
  return elements_from_f32(type, values, count, bytes.data()).rounded == 0 ? type : f32;
}

// One of their tensors: rows of one of ours.
TensorToStore part_to_store(const std::string& name, const TensorPart& part, const Tensor& tensor,
                            int64_t begin, const ElementType& type,
                            const std::function<void(const std::string&)>& note) {
  TensorToStore result{name, type, part.shape, {}};
  result.bytes = [=, shape = part.shape] {
    const int64_t count = count_of(shape);
    std::vector<char> bytes(static_cast<size_t>(count) * static_cast<size_t>(type.bits) / 8);
    const Narrowed narrowed =
        elements_from_f32(type, tensor.data<float>() + begin, count, bytes.data());
    SIDEWINDER_REQUIRE(
        narrowed.overflowed == 0,
        "tensor {} has {} elements that are too large for {}; write it as F32 or BF16", name,
        narrowed.overflowed, type.name);
    if (narrowed.rounded > 0) {
      note(fmt::format("{}: {} of {} elements rounded to {}", name, narrowed.rounded, count,
                       type.name));
    }
    return bytes;
  };
  return result;
}

}  // namespace

std::string Origin::json() const {
  const Json json = {{"format", "huggingface"},        {"config", config}, {"prefix", prefix},
                     {"has_tied_head", has_tied_head}, {"types", types},   {"metadata", metadata}};
  return json.dump();
}

std::optional<Origin> Origin::parse(const std::string& text) {
  if (text.empty() || text == "null") return std::nullopt;
  try {
    const Json json = Json::parse(text);
    Origin origin;
    origin.config = json.at("config");
    origin.prefix = json.at("prefix");
    origin.has_tied_head = json.at("has_tied_head");
    origin.types = json.at("types").get<std::map<std::string, std::string>>();
    origin.metadata = json.at("metadata").get<std::map<std::string, std::string>>();
    return origin;
  } catch (const nlohmann::json::exception& error) {
    fail_environment("the origin noted in the checkpoint cannot be read: {}", error.what());
  }
}

HeadInFile head_in_file(const WeightFiles& files, const TensorTable& table) {
  const std::string prefix = common_prefix(files);
  const StoredTensor* head = files.find(prefix + table.head);
  const StoredTensor* embedding = files.find(prefix + table.embedding);
  if (head == nullptr || embedding == nullptr) return HeadInFile::absent;
  const bool same = head->type.name == embedding->type.name && head->shape == embedding->shape &&
                    files.read(head->name) == files.read(embedding->name);
  return same ? HeadInFile::like_embedding : HeadInFile::other;
}

TakenWeights take_weights(const WeightFiles& files, const TensorTable& table) {
  TakenWeights result;
  Origin& origin = result.origin;
  origin.prefix = common_prefix(files);
  origin.metadata = files.metadata();
  const bool is_tied =
      std::none_of(table.rules.begin(), table.rules.end(),
                   [&](const TensorRule& rule) { return rule.parts.front().name == table.head; });
  origin.has_tied_head = is_tied && head_in_file(files, table) == HeadInFile::like_embedding;
  check_complete(files, table, origin.prefix, origin.has_tied_head, result.notes);
  int64_t rounded = 0;
  for (const TensorRule& rule : table.rules) {
    result.tensors.push_back({"model/" + rule.name, take(files, rule, origin.prefix, &rounded)});
    for (const TensorPart& part : rule.parts) {
      origin.types[part.name] = files.find(origin.prefix + part.name)->type.name;
    }
  }
  if (rounded > 0) {
    result.notes.push_back(fmt::format(
        "{} elements of F64 tensors were rounded to f32, the type of weights here", rounded));
  }
  return result;
}

GivenWeights give_weights(const std::map<std::string, Tensor>& ours, const TensorTable& table,
                          const std::optional<Origin>& origin, std::string_view type,
                          const std::function<void(const std::string&)>& note) {
  GivenWeights result;
  result.metadata =
      origin ? origin->metadata : std::map<std::string, std::string>{{"format", "pt"}};
  const std::string prefix = origin ? origin->prefix : "";
  for (const TensorRule& rule : table.rules) {
    const auto found = ours.find(rule.name);
    SIDEWINDER_REQUIRE(found != ours.end(), "the checkpoint has no tensor {}", rule.name);
    const Tensor tensor =
        found->second.dtype() == Dtype::f32 ? found->second : found->second.to(Dtype::f32);
    SIDEWINDER_REQUIRE(tensor.shape() == to_shape(rule.shape),
                       "tensor {} is {} in the checkpoint where its recipe makes it {}", rule.name,
                       tensor.shape().text(), shape_text(rule.shape));
    int64_t begin = 0;
    for (const TensorPart& part : rule.parts) {
      const ElementType part_type =
          type_of(part, rule.needs_f32, tensor.data<float>() + begin, origin, type);
      result.tensors.push_back(
          part_to_store(prefix + part.name, part, tensor, begin, part_type, note));
      if (origin && origin->has_tied_head && part.name == table.embedding) {
        result.tensors.push_back(
            part_to_store(prefix + table.head, part, tensor, begin, part_type, note));
      }
      begin += count_of(part.shape);
    }
  }
  return result;
}

}  // namespace sidewinder
