#include "checkpoints/safetensors.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <string_view>

#include "checkpoints/strict_json.h"
#include "kernels/base/check.h"
#include "kernels/base/error.h"

namespace sidewinder {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr uint64_t kMaxHeader = 100'000'000;  // as in the reference implementation
constexpr uint64_t kMaxNumber = uint64_t{1} << 53;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxName = 1024;
constexpr size_t kAlignment = 4096;
constexpr const char* kMetadata = "__metadata__";

// Reads one entry of the header; says what is wrong under the names of file and tensor.
class HeaderReader {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  template <typename... Parts>
  [[noreturn]] void fail(fmt::format_string<Parts...> message, Parts&&... parts) const {
    throw Error(Blame::environment, path_ + ": not a sound safetensors file: " +
                                        fmt::format(message, std::forward<Parts>(parts)...));
  }

  uint64_t number(const std::string& name, const char* what, const Json& value) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxNumber) {
      fail("tensor {}: {} has {} where a whole number up to 2^53 is needed", name, what,
           value.dump());
    }
    return value.get<uint64_t>();
  }

  StoredTensor tensor(const std::string& name, const Json& entry) const {
    check_name(name);
    if (!entry.is_object()) fail("tensor {}: its entry is not an object", name);
    for (const auto& [key, value] : entry.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        fail("tensor {}: unknown key {}: {}", name, key, value.dump());
      }
    }
    StoredTensor result;
    result.name = name;
    result.type = type(name, entry);
    read_shape(entry, result);
    read_place(entry, result);
    return result;
  }

 private:
  void check_name(const std::string& name) const {
    if (name.empty() || name.size() > kMaxName) {
      fail("a tensor has a name of {} bytes; 1 to {} are possible", name.size(), kMaxName);
    }
    for (const char c : name) {
      if (static_cast<unsigned char>(c) < 32 || c == 127) {
        fail("the name {} has a control character", Json(name).dump());
      }
    }
  }

  const Json& member(const std::string& name, const Json& entry, const char* key) const {
    const auto found = entry.find(key);
    if (found == entry.end()) fail("tensor {}: {} is missing", name, key);
    return *found;
  }

  ElementType type(const std::string& name, const Json& entry) const {
    const Json& value = member(name, entry, "dtype");
    const ElementType* found =
        value.is_string() ? find_element_type(value.get_ref<const std::string&>()) : nullptr;
    if (found == nullptr) fail("tensor {}: unknown dtype {}", name, value.dump());
    return *found;
  }

  void read_shape(const Json& entry, StoredTensor& result) const {
    const Json& shape = member(result.name, entry, "shape");
    if (!shape.is_array() || shape.size() > kMaxRank) {
      fail("tensor {}: shape is {} where a list of at most {} sizes is needed", result.name,
           shape.dump(), kMaxRank);
    }
    uint64_t bits = static_cast<uint64_t>(result.type.bits);
    bool overflow = false;
    bool is_empty = false;
    for (const Json& size : shape) {
      const uint64_t value = number(result.name, "shape", size);
      result.shape.push_back(static_cast<int64_t>(value));
      is_empty = is_empty || value == 0;
      overflow = overflow || __builtin_mul_overflow(bits, value, &bits);
    }
    if (is_empty) {
      bits = 0;
    } else if (overflow) {
      fail("tensor {}: shape {} has more elements than can be counted", result.name, shape.dump());
    }
    if (bits % 8 != 0) {
      fail("tensor {}: shape {} of {}-bit elements ends within a byte", result.name, shape.dump(),
           result.type.bits);
    }
    result.bytes = bits / 8;
  }

  void read_place(const Json& entry, StoredTensor& result) const {
    const Json& offsets = member(result.name, entry, "data_offsets");
    if (!offsets.is_array() || offsets.size() != 2) {
      fail("tensor {}: data_offsets is {} where [begin, end] is needed", result.name,
           offsets.dump());
    }
    result.begin = number(result.name, "data_offsets", offsets[0]);
    const uint64_t end = number(result.name, "data_offsets", offsets[1]);
    if (end < result.begin || end - result.begin != result.bytes) {
      fail("tensor {}: data_offsets {} do not hold the {} bytes of {} {}", result.name,
           offsets.dump(), result.bytes, result.type.name, result.shape_text());
    }
  }

  const std::string& path_;
};

// Every byte of the data belongs to exactly one tensor.
void check_tiling(const HeaderReader& reader, const std::vector<StoredTensor>& tensors,
                  uint64_t data_bytes) {
  uint64_t end = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin + tensor.bytes > data_bytes) {
      reader.fail("tensor {} ends at byte {} of the data, which has {}", tensor.name,
                  tensor.begin + tensor.bytes, data_bytes);
    }
    if (tensor.begin < end) {
      reader.fail("tensor {} begins at byte {}, where another one lies up to {}", tensor.name,
                  tensor.begin, end);
    }
    if (tensor.begin > end) {
      reader.fail("bytes {} to {} of the data, before tensor {}, belong to none", end,
                  tensor.begin - 1, tensor.name);
    }
    end = tensor.begin + tensor.bytes;
  }
  if (end != data_bytes) {
    reader.fail("the last {} of {} bytes of data belong to no tensor", data_bytes - end,
                data_bytes);
  }
}

std::string header_text(const std::vector<TensorToStore>& tensors,
                        const std::vector<uint64_t>& sizes,
                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t begin = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    header.get_ref<Json::object_t&>().Container::emplace_back(
        tensors[i].name, Json{{"dtype", tensors[i].type.name},
                              {"shape", tensors[i].shape},
                              {"data_offsets", {begin, begin + sizes[i]}}});
    begin += sizes[i];
  }
  std::string text = header.dump();
  const size_t used = 8 + text.size();
  text.append((kAlignment - used % kAlignment) % kAlignment, ' ');
  return text;
}

void write_all(const std::string& path, const std::vector<TensorToStore>& tensors,
               const std::vector<uint64_t>& sizes,
               const std::map<std::string, std::string>& metadata) {
  const OpenFile file(path, O_WRONLY | O_CREAT | O_TRUNC);
  const std::string header = header_text(tensors, sizes, metadata);
  const uint64_t length = header.size();
  file.write({reinterpret_cast<const char*>(&length), sizeof(length)});
  file.write(header);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<char> bytes = tensors[i].bytes();
    SIDEWINDER_ASSERT(bytes.size() == sizes[i]);
    file.write({bytes.data(), bytes.size()});
  }
  file.flush();
}

}  // namespace

int64_t StoredTensor::count() const {
  int64_t result = 1;
  for (const int64_t size : shape) {
    if (size == 0) return 0;
  }
  for (const int64_t size : shape) result *= size;
  return result;
}

std::string StoredTensor::shape_text() const {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : path_(path), file_(std::make_unique<OpenFile>(path, O_RDONLY)) {
  const HeaderReader reader(path_);
  const uint64_t size = file_->bytes();
  uint64_t length = 0;
  if (size < sizeof(length) || !file_->read(&length, sizeof(length), 0)) {
    reader.fail("it has {} bytes, less than the 8 of its header's length", size);
  }
  if (length > kMaxHeader || length > size - sizeof(length)) {
    reader.fail("its header would have {} bytes, but {}", length,
                length > kMaxHeader ? fmt::format("at most {} are allowed", kMaxHeader)
                                    : fmt::format("the file ends after {}", size - sizeof(length)));
  }
  std::string text(length, '\0');
  if (!file_->read(text.data(), length, sizeof(length))) reader.fail("its header is cut off");
  if (text.empty() || text.front() != '{') reader.fail("its header does not begin with a brace");
  const Json header =
      parse_strict_json(text, path_ + ": not a sound safetensors file: its header", {.depth = 4});
  data_begin_ = sizeof(length) + length;
  for (const auto& [name, entry] : header.items()) {
    if (name != kMetadata) {
      tensors_.push_back(reader.tensor(name, entry));
      continue;
    }
    if (!entry.is_object()) reader.fail("{} is not an object", kMetadata);
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) reader.fail("{}: {} is not a text", kMetadata, key);
      metadata_[key] = value.get<std::string>();
    }
  }
  // Empty tensors share their place with the one behind them.
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const StoredTensor& a, const StoredTensor& b) {
                     return a.begin != b.begin ? a.begin < b.begin : a.bytes < b.bytes;
                   });
  check_tiling(reader, tensors_, size - data_begin_);
  for (const StoredTensor& tensor : tensors_) by_name_[tensor.name] = &tensor;
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::vector<char> SafetensorsFile::read(const StoredTensor& tensor) const {
  std::vector<char> bytes(tensor.bytes);
  if (!file_->read(bytes.data(), bytes.size(), data_begin_ + tensor.begin)) {
    fail_environment("{}: tensor {} is cut off; the file changed while it was read", path_,
                     tensor.name);
  }
  return bytes;
}

uint64_t TensorToStore::num_bytes() const {
  const StoredTensor stored{name, type, shape, 0, 0};
  return static_cast<uint64_t>(stored.count()) * static_cast<uint64_t>(type.bits) / 8;
}

void write_safetensors(const std::string& path, std::vector<TensorToStore> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToStore& a, const TensorToStore& b) {
    return a.type.bits != b.type.bits ? a.type.bits > b.type.bits : a.name < b.name;
  });
  std::vector<uint64_t> sizes;
  std::set<std::string> names;
  for (const TensorToStore& tensor : tensors) {
    SIDEWINDER_REQUIRE(tensor.name != kMetadata && names.insert(tensor.name).second,
                       "{}: there are two tensors named {}", path, tensor.name);
    sizes.push_back(tensor.num_bytes());
  }
  const std::string temporary = path + ".tmp";
  try {
    write_all(temporary, tensors, sizes, metadata);
    const SafetensorsFile written(temporary);
    SIDEWINDER_ASSERT(written.tensors().size() == tensors.size());
    rename_path(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  const std::string folder = std::filesystem::path(path).parent_path().string();
  flush_path(folder.empty() ? "." : folder);
}

}  // namespace sidewinder
