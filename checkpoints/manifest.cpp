#include "checkpoints/manifest.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "kernels/base/check.h"
#include "kernels/base/digest.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "sidewinder-checkpoint";
constexpr std::string_view kTailBegin = ",\n\"digest\": \"";
constexpr std::string_view kTailEnd = "\"\n}\n";
constexpr size_t kDigestLength = 32;
constexpr size_t kMaxTensors = 1000000;
constexpr size_t kMaxNameBytes = 4096;

std::string json_text(const std::string& text) { return Json(text).dump(); }

// One record a line, so that people can read and compare manifests.
template <typename Record, typename ToText>
std::string lines(const std::vector<Record>& records, ToText to_text) {
  std::string result = "[";
  for (size_t i = 0; i < records.size(); ++i) {
    result += i == 0 ? "\n" : ",\n";
    result += to_text(records[i]);
  }
  return result + "\n]";
}

std::string text_of(const FileRecord& file) {
  return fmt::format("{{\"name\": {}, \"bytes\": {}, \"digest\": \"{}\"}}", json_text(file.name),
                     file.bytes, file.digest);
}

std::string text_of(const TensorRecord& tensor) {
  return fmt::format(
      "{{\"name\": {}, \"dtype\": \"{}\", \"shape\": {}, \"file\": {}, \"offset\": {}, "
      "\"bytes\": {}, \"digest\": \"{}\"}}",
      json_text(tensor.name), name_of(tensor.dtype), Json(tensor.shape).dump(),
      json_text(tensor.file), tensor.offset, tensor.bytes, tensor.digest);
}

// Reads values and reports what is wrong under the name of the manifest.
class ManifestReader {
 public:
  explicit ManifestReader(const std::string& path) : path_(path) {}

  template <typename... Parts>
  [[noreturn]] void fail(fmt::format_string<Parts...> message, Parts&&... parts) const {
    throw DamagedCheckpoint(path_ + ": " + fmt::format(message, std::forward<Parts>(parts)...));
  }

  const Json& member(const Json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end()) fail("{} is missing", key);
    return *found;
  }

  uint64_t number(const Json& object, const char* key) const {
    return number_of(member(object, key), key);
  }

  uint64_t number_of(const Json& value, const char* key) const {
    // Below 2^63, so that sums of two cannot wrap.
    if (!value.is_number_unsigned() ||
        value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
      fail("{} is {} where a count is needed", key, value.dump());
    }
    return value.get<uint64_t>();
  }

  std::string text(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_string()) fail("{} is {} where a text is needed", key, value.dump());
    return value.get<std::string>();
  }

  std::string digest(const Json& object) const {
    std::string value = text(object, "digest");
    if (value.size() != kDigestLength ||
        value.find_first_not_of("0123456789abcdef") != std::string::npos) {
      fail("digest is '{}' where 32 hexadecimal digits are needed", value);
    }
    return value;
  }

  const Json& array(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_array()) fail("{} is not a list", key);
    if (value.size() > kMaxTensors) fail("{} has {} entries, which is too many", key, value.size());
    for (const Json& entry : value) {
      if (!entry.is_object()) fail("{} has an entry that is not an object", key);
    }
    return value;
  }

 private:
  std::string path_;
};

FileRecord read_file_record(const ManifestReader& reader, const Json& entry) {
  FileRecord file;
  file.name = reader.text(entry, "name");
  if (file.name.empty() || file.name.size() > 255 || file.name.front() == '.' ||
      file.name.find_first_of(std::string("/\0", 2)) != std::string::npos ||
      file.name == Manifest::kFileName) {
    reader.fail("{} is not the name of a file of a checkpoint", json_text(file.name));
  }
  file.bytes = reader.number(entry, "bytes");
  file.digest = reader.digest(entry);
  return file;
}

Dtype read_dtype(const ManifestReader& reader, const std::string& name) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64, Dtype::i32}) {
    if (name_of(dtype) == name) return dtype;
  }
  reader.fail("'{}' is not an element type", name);
}

// The bytes of a tensor; nullopt if they do not fit in 63 bits.
std::optional<uint64_t> bytes_of(const TensorRecord& tensor) {
  if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) return 0;
  uint64_t result = size_of(tensor.dtype);
  for (const int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(result, static_cast<uint64_t>(size), &result) ||
        result > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return std::nullopt;
    }
  }
  return result;
}

TensorRecord read_tensor_record(const ManifestReader& reader, const Json& entry) {
  TensorRecord tensor;
  tensor.name = reader.text(entry, "name");
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    reader.fail("a tensor has a name of {} bytes", tensor.name.size());
  }
  tensor.dtype = read_dtype(reader, reader.text(entry, "dtype"));
  const Json& shape = reader.member(entry, "shape");
  if (!shape.is_array() || shape.size() > Shape::kMaxRank) {
    reader.fail("tensor {}: shape is not a list of at most {} sizes", tensor.name,
                static_cast<int>(Shape::kMaxRank));
  }
  for (const Json& size : shape) {
    tensor.shape.push_back(static_cast<int64_t>(reader.number_of(size, "shape")));
  }
  tensor.file = reader.text(entry, "file");
  tensor.offset = reader.number(entry, "offset");
  tensor.bytes = reader.number(entry, "bytes");
  tensor.digest = reader.digest(entry);
  const std::optional<uint64_t> needed = bytes_of(tensor);
  if (!needed || *needed != tensor.bytes) {
    reader.fail("tensor {}: {} bytes do not fit its shape and type", tensor.name, tensor.bytes);
  }
  return tensor;
}

// Every tensor lies inside its file, and no two share a byte.
void check_places(const ManifestReader& reader, const Manifest& manifest) {
  std::map<std::string, uint64_t> sizes;
  for (const FileRecord& file : manifest.files) {
    if (!sizes.emplace(file.name, file.bytes).second) {
      reader.fail("file {} is listed twice", file.name);
    }
  }
  std::set<std::string> names;
  std::map<std::string, std::vector<const TensorRecord*>> by_file;
  for (const TensorRecord& tensor : manifest.tensors) {
    if (!names.insert(tensor.name).second) reader.fail("tensor {} is listed twice", tensor.name);
    const auto file = sizes.find(tensor.file);
    if (file == sizes.end()) {
      reader.fail("tensor {} lies in {}, which is not listed", tensor.name, tensor.file);
    }
    if (tensor.offset > file->second || tensor.bytes > file->second - tensor.offset) {
      reader.fail("tensor {} lies outside {}", tensor.name, tensor.file);
    }
    if (tensor.bytes > 0) by_file[tensor.file].push_back(&tensor);
  }
  for (auto& [file, tensors] : by_file) {
    std::sort(tensors.begin(), tensors.end(),
              [](const TensorRecord* a, const TensorRecord* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < tensors.size(); ++i) {
      if (tensors[i - 1]->offset + tensors[i - 1]->bytes > tensors[i]->offset) {
        reader.fail("tensors {} and {} overlap in {}", tensors[i - 1]->name, tensors[i]->name,
                    file);
      }
    }
  }
}

}  // namespace

std::string Manifest::text() const {
  const std::string body = fmt::format(
      "{{\n\"format\": \"{}\",\n\"version\": {},\n\"step\": {},\n\"files\": {},\n\"tensors\": "
      "{},\n\"state\": {}",
      kFormat, kVersion, step, lines(files, [](const FileRecord& file) { return text_of(file); }),
      lines(tensors, [](const TensorRecord& tensor) { return text_of(tensor); }), state);
  return fmt::format("{}{}{}{}", body, kTailBegin, digest_of(body), kTailEnd);
}

Manifest Manifest::parse(const std::string& text, const std::string& path) {
  const ManifestReader reader(path);
  const std::string_view all = text;
  const size_t tail_length = kTailBegin.size() + kDigestLength + kTailEnd.size();
  if (all.size() < tail_length) reader.fail("is too short to be a manifest");
  const std::string_view body = all.substr(0, all.size() - tail_length);
  const std::string_view tail = all.substr(body.size());
  if (tail.substr(0, kTailBegin.size()) != kTailBegin ||
      tail.substr(tail.size() - kTailEnd.size()) != kTailEnd) {
    reader.fail("does not end with a digest; it is cut off or damaged");
  }
  const std::string digest = digest_of(body);
  if (tail.substr(kTailBegin.size(), kDigestLength) != digest) {
    reader.fail("its bytes have digest {}, but {} is written in it", digest,
                tail.substr(kTailBegin.size(), kDigestLength));
  }
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) reader.fail("is not a JSON object");
  if (reader.text(json, "format") != kFormat) {
    reader.fail("has format '{}', not '{}'", reader.text(json, "format"), kFormat);
  }
  const uint64_t version = reader.number(json, "version");
  if (version != uint64_t{kVersion}) {
    fail_environment(
        "{}: has format version {}, this program reads {}; use the release that wrote it", path,
        version, kVersion);
  }
  Manifest manifest;
  manifest.step = static_cast<int64_t>(reader.number(json, "step"));
  for (const Json& entry : reader.array(json, "files")) {
    manifest.files.push_back(read_file_record(reader, entry));
  }
  for (const Json& entry : reader.array(json, "tensors")) {
    manifest.tensors.push_back(read_tensor_record(reader, entry));
  }
  check_places(reader, manifest);
  const Json& state = reader.member(json, "state");
  if (!state.is_object()) reader.fail("state is not an object");
  manifest.state = state.dump();
  return manifest;
}

Digest begin_tensor_digest(const std::string& name, Dtype dtype,
                           const std::vector<int64_t>& shape) {
  // name 0 dtype 0 sizes separated by commas 0 elements
  std::string header = name + '\0' + std::string(name_of(dtype)) + '\0';
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) header += ',';
    header += std::to_string(shape[i]);
  }
  header += '\0';
  Digest digest;
  digest.update(header);
  return digest;
}

std::string tensor_digest(const std::string& name, Dtype dtype, const std::vector<int64_t>& shape,
                          const void* data, uint64_t bytes) {
  Digest digest = begin_tensor_digest(name, dtype, shape);
  digest.update(data, bytes);
  return digest.text();
}

Shape to_shape(const std::vector<int64_t>& sizes) {
  switch (sizes.size()) {
    case 0: return {};
    case 1: return {sizes[0]};
    case 2: return {sizes[0], sizes[1]};
    case 3: return {sizes[0], sizes[1], sizes[2]};
    default: break;
  }
  SIDEWINDER_ASSERT(sizes.size() == 4);
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

std::vector<int64_t> to_sizes(const Shape& shape) {
  std::vector<int64_t> sizes;
  sizes.reserve(static_cast<size_t>(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i) sizes.push_back(shape[i]);
  return sizes;
}

}  // namespace sidewinder
