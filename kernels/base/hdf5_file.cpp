#include "kernels/base/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/error.h"

namespace sidewinder {
namespace {

constexpr hsize_t kAlignment = 4096;
constexpr size_t kMaxAttributeBytes = size_t{64} << 20;

// Holds the one lock around every call of the library. Error stacks belong to threads, so automatic
// printing is switched off in whichever thread comes.
class Session {
 public:
  Session() : lock_(mutex()) {
    // Without this an exit() in the middle of a save would have the library finish the file, which
    // would then look whole. It has to come before the first other call.
    static const bool exit_handler_off = H5dont_atexit() >= 0;
    static_cast<void>(exit_handler_off);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  std::lock_guard<std::mutex> lock_;
};

herr_t append_description(unsigned /*depth*/, const H5E_error2_t* entry, void* text) {
  std::string& result = *static_cast<std::string*>(text);
  if (entry->desc == nullptr || *entry->desc == '\0') return 0;
  if (!result.empty()) result += ": ";
  result += entry->desc;
  return 0;
}

// What the system said, if it said something; otherwise the library's error stack, outermost call
// first.
std::string error_stack() {
  std::string result;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, &append_description, &result);
  H5Eclear2(H5E_DEFAULT);
  const std::string mark = "error message = '";
  if (const size_t begin = result.find(mark); begin != std::string::npos) {
    const size_t end = result.find('\'', begin + mark.size());
    if (end != std::string::npos) {
      return result.substr(begin + mark.size(), end - begin - mark.size());
    }
  }
  return result.empty() ? "no reason given by the HDF5 library" : result;
}

[[noreturn]] void fail(const std::string& path, const std::string& action) {
  const std::string reason = error_stack();
  fail_environment("{}: cannot {}: {}", path, action, reason);
}

// An identifier of the library that closes itself. Lives and dies inside a Session.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close closer, const std::string& path, const std::string& action)
      : id_(id), close_(closer) {
    if (id_ < 0) fail(path, action);
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }

  hid_t id() const { return id_; }
  bool open() const { return id_ >= 0; }
  // Closes now and says whether that worked.
  bool close() { return close_(std::exchange(id_, H5I_INVALID_HID)) >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

void check(herr_t status, const std::string& path, const std::string& action) {
  if (status < 0) fail(path, action);
}

hid_t stored_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::u8: return H5T_STD_U8LE;
    case Hdf5Type::u16: return H5T_STD_U16LE;
    case Hdf5Type::i32: return H5T_STD_I32LE;
    case Hdf5Type::u32: return H5T_STD_U32LE;
    case Hdf5Type::u64: return H5T_STD_U64LE;
    case Hdf5Type::f32: return H5T_IEEE_F32LE;
    case Hdf5Type::f64: break;
  }
  return H5T_IEEE_F64LE;
}

hid_t memory_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::u8: return H5T_NATIVE_UINT8;
    case Hdf5Type::u16: return H5T_NATIVE_UINT16;
    case Hdf5Type::i32: return H5T_NATIVE_INT32;
    case Hdf5Type::u32: return H5T_NATIVE_UINT32;
    case Hdf5Type::u64: return H5T_NATIVE_UINT64;
    case Hdf5Type::f32: return H5T_NATIVE_FLOAT;
    case Hdf5Type::f64: break;
  }
  return H5T_NATIVE_DOUBLE;
}

constexpr Hdf5Type kTypes[] = {Hdf5Type::u8,  Hdf5Type::u16, Hdf5Type::i32, Hdf5Type::u32,
                               Hdf5Type::u64, Hdf5Type::f32, Hdf5Type::f64};

// The product of the sizes, and with `unit` bytes each; nullopt if it does not fit in 63 bits.
std::optional<uint64_t> product(std::span<const uint64_t> shape, uint64_t unit) {
  constexpr uint64_t kLimit = uint64_t{1} << 63;
  // A size of zero makes the product zero, however large the others are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  uint64_t result = unit;
  for (const uint64_t size : shape) {
    if (__builtin_mul_overflow(result, size, &result) || result >= kLimit) return std::nullopt;
  }
  return result;
}

bool is_valid_name(const std::string& name) {
  return !name.empty() && name.front() != '/' && name.back() != '/' &&
         name.find("//") == std::string::npos && name.find('\0') == std::string::npos &&
         name != "." && name.find("./") == std::string::npos &&
         (name.size() < 2 || name.substr(name.size() - 2) != "/.");
}

Handle make_space(std::span<const uint64_t> shape, const std::string& path,
                  const std::string& action) {
  if (shape.empty()) return Handle(H5Screate(H5S_SCALAR), &H5Sclose, path, action);
  const std::vector<hsize_t> sizes(shape.begin(), shape.end());
  return Handle(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), &H5Sclose,
                path, action);
}

}  // namespace

size_t size_of(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::u8: return 1;
    case Hdf5Type::u16: return 2;
    case Hdf5Type::i32:
    case Hdf5Type::u32:
    case Hdf5Type::f32: return 4;
    case Hdf5Type::u64:
    case Hdf5Type::f64: break;
  }
  return 8;
}

struct Hdf5Writer::State {
  std::string path;
  Handle file;

  // A dataset whose space in the file is taken at once and not filled.
  Handle create(const std::string& name, Hdf5Type type, std::span<const uint64_t> shape) {
    SIDEWINDER_REQUIRE(is_valid_name(name),
                       "{}: '{}' cannot name a dataset; use words separated by single slashes",
                       path, name);
    SIDEWINDER_REQUIRE(product(shape, size_of(type)).has_value(),
                       "{}: dataset {} has more elements than a file can hold", path, name);
    const std::string action = "create dataset " + name;
    const Handle space = make_space(shape, path, action);
    create_groups(name);
    const Handle layout(H5Pcreate(H5P_DATASET_CREATE), &H5Pclose, path, action);
    check(H5Pset_layout(layout.id(), H5D_CONTIGUOUS), path, action);
    check(H5Pset_alloc_time(layout.id(), H5D_ALLOC_TIME_EARLY), path, action);
    check(H5Pset_fill_time(layout.id(), H5D_FILL_TIME_NEVER), path, action);
    check(H5Pset_obj_track_times(layout.id(), false), path, action);  // same content, same bytes
    return Handle(H5Dcreate2(file.id(), name.c_str(), stored_type(type), space.id(), H5P_DEFAULT,
                             layout.id(), H5P_DEFAULT),
                  &H5Dclose, path, action);
  }

  // Every group on the way to `name` that does not exist yet.
  void create_groups(const std::string& name) {
    const std::string action = "create the groups of dataset " + name;
    for (size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1)) {
      const std::string group = name.substr(0, end);
      const htri_t exists = H5Lexists(file.id(), group.c_str(), H5P_DEFAULT);
      if (exists < 0) fail(path, action);
      if (exists > 0) continue;
      const Handle times(H5Pcreate(H5P_GROUP_CREATE), &H5Pclose, path, action);
      check(H5Pset_obj_track_times(times.id(), false), path, action);
      const Handle made(H5Gcreate2(file.id(), group.c_str(), H5P_DEFAULT, times.id(), H5P_DEFAULT),
                        &H5Gclose, path, action);
    }
  }

  void attribute(const std::string& name, hid_t type, hid_t memory, const void* value) {
    SIDEWINDER_ASSERT(file.open());
    const std::string action = "write attribute " + name;
    const Handle space(H5Screate(H5S_SCALAR), &H5Sclose, path, action);
    Handle made(H5Acreate2(file.id(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
                &H5Aclose, path, action);
    check(H5Awrite(made.id(), memory, value), path, action);
    if (!made.close()) fail(path, action);
  }
};

Hdf5Writer::Hdf5Writer(const std::string& path) : state_(std::make_unique<State>()) {
  const Session session;
  state_->path = path;
  const std::string action = "create the file";
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), &H5Pclose, path, action);
  check(H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110), path, action);
  check(H5Pset_alignment(access.id(), 1, kAlignment), path, action);
  check(H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG), path, action);
  // The library's own locking fails on some cluster file systems; here every file has one writer,
  // and a name that nobody reads before the file is closed.
  check(H5Pset_file_locking(access.id(), false, true), path, action);
  const Handle times(H5Pcreate(H5P_FILE_CREATE), &H5Pclose, path, action);
  check(H5Pset_obj_track_times(times.id(), false), path, action);
  state_->file = Handle(H5Fcreate(path.c_str(), H5F_ACC_EXCL, times.id(), access.id()), &H5Fclose,
                        path, action);
}

Hdf5Writer::~Hdf5Writer() {
  if (!state_) return;
  const Session session;
  if (!state_->file.open()) return;
  state_->file.close();
  // Closing makes the file look finished, which it is not.
  std::error_code ignored;
  std::filesystem::remove(state_->path, ignored);
}

Hdf5Writer::Hdf5Writer(Hdf5Writer&&) noexcept = default;

Hdf5Writer& Hdf5Writer::operator=(Hdf5Writer&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

void Hdf5Writer::write(const std::string& name, Hdf5Type type, std::span<const uint64_t> shape,
                       const void* data) {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  SIDEWINDER_ASSERT(state_->file.open());
  Handle dataset = state_->create(name, type, shape);
  const std::string action = "write dataset " + name;
  if (*product(shape, 1) > 0) {
    check(H5Dwrite(dataset.id(), memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
          state_->path, action);
  }
  if (!dataset.close()) fail(state_->path, action);
}

void Hdf5Writer::attribute(const std::string& name, const std::string& text) {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  SIDEWINDER_REQUIRE(text.find('\0') == std::string::npos,
                     "{}: the text of attribute {} contains a zero byte", state_->path, name);
  const std::string action = "write attribute " + name;
  const Handle type(H5Tcopy(H5T_C_S1), &H5Tclose, state_->path, action);
  check(H5Tset_size(type.id(), text.size() + 1), state_->path, action);
  check(H5Tset_strpad(type.id(), H5T_STR_NULLTERM), state_->path, action);
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), state_->path, action);
  state_->attribute(name, type.id(), type.id(), text.c_str());
}

void Hdf5Writer::attribute(const std::string& name, uint64_t value) {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  state_->attribute(name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

void Hdf5Writer::close() {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  SIDEWINDER_ASSERT(state_->file.open());
  if (state_->file.close()) return;
  const std::string reason = error_stack();
  std::error_code ignored;
  std::filesystem::remove(state_->path, ignored);
  fail_environment("{}: cannot close the file: {}", state_->path, reason);
}

struct Hdf5Reader::State {
  // The dataset that read_at() keeps open.
  struct Kept {
    std::string name;
    Handle dataset;
    Handle in_file;
  };

  std::string path;
  Handle file;
  uint64_t file_bytes = 0;
  Kept kept;

  bool has(const std::string& name) const {
    if (!is_valid_name(name)) return false;
    // Every group on the way has to exist before the library may be asked for the next one.
    for (size_t end = name.find('/');; end = name.find('/', end + 1)) {
      const std::string part = name.substr(0, end);
      const std::string action = "look for " + name;
      const htri_t exists = H5Lexists(file.id(), part.c_str(), H5P_DEFAULT);
      if (exists < 0) fail(path, action);
      if (exists == 0) return false;
      H5L_info_t link;
      check(H5Lget_info(file.id(), part.c_str(), &link, H5P_DEFAULT), path, action);
      if (link.type != H5L_TYPE_HARD) return false;  // soft and external links lead elsewhere
      if (end == std::string::npos) return true;
    }
  }

  Handle open(const std::string& name) const {
    if (!has(name)) {
      fail_environment(
          "{}: there is no dataset {}; the file was made by something else or is damaged", path,
          name);
    }
    return Handle(H5Dopen2(file.id(), name.c_str(), H5P_DEFAULT), &H5Dclose, path,
                  "open dataset " + name);
  }

  Hdf5Type type_of(const Handle& dataset, const std::string& name) const {
    const std::string action = "read the type of dataset " + name;
    const Handle type(H5Dget_type(dataset.id()), &H5Tclose, path, action);
    for (const Hdf5Type candidate : kTypes) {
      const htri_t equal = H5Tequal(type.id(), stored_type(candidate));
      if (equal < 0) fail(path, action);
      if (equal > 0) return candidate;
    }
    fail_environment("{}: dataset {} has an element type that is not used here", path, name);
  }

  std::vector<uint64_t> shape_of(const Handle& dataset, const std::string& name) const {
    const std::string action = "read the shape of dataset " + name;
    const Handle space(H5Dget_space(dataset.id()), &H5Sclose, path, action);
    const H5S_class_t kind = H5Sget_simple_extent_type(space.id());
    if (kind != H5S_SCALAR && kind != H5S_SIMPLE) {
      fail_environment("{}: dataset {} has no shape", path, name);
    }
    const int rank = H5Sget_simple_extent_ndims(space.id());
    if (rank < 0) fail(path, action);
    std::vector<hsize_t> sizes(static_cast<size_t>(rank));
    if (rank > 0) {
      check(H5Sget_simple_extent_dims(space.id(), sizes.data(), nullptr), path, action);
    }
    return {sizes.begin(), sizes.end()};
  }

  Hdf5Dataset describe(const Handle& dataset, const std::string& name) const {
    Hdf5Dataset result;
    result.name = name;
    result.type = type_of(dataset, name);
    result.shape = shape_of(dataset, name);
    const std::optional<uint64_t> bytes = product(result.shape, size_of(result.type));
    if (!bytes) fail_environment("{}: the shape of dataset {} is too large", path, name);
    result.bytes = *bytes;
    const std::string action = "read the layout of dataset " + name;
    const Handle layout(H5Dget_create_plist(dataset.id()), &H5Pclose, path, action);
    if (H5Pget_layout(layout.id()) != H5D_CONTIGUOUS || H5Pget_external_count(layout.id()) != 0) {
      fail_environment("{}: dataset {} is not one contiguous piece of the file", path, name);
    }
    if (result.bytes == 0) return result;
    const haddr_t offset = H5Dget_offset(dataset.id());
    if (offset == HADDR_UNDEF || offset > file_bytes || result.bytes > file_bytes - offset) {
      fail_environment(
          "{}: the bytes of dataset {} lie outside the file; it is truncated or damaged", path,
          name);
    }
    result.file_offset = offset;
    return result;
  }

  Handle open_attribute(const std::string& name) const {
    const std::string action = "read attribute " + name;
    const htri_t exists = H5Aexists(file.id(), name.c_str());
    if (exists < 0) fail(path, action);
    if (exists == 0) {
      fail_environment(
          "{}: there is no attribute {}; the file was made by something else or is damaged", path,
          name);
    }
    return Handle(H5Aopen(file.id(), name.c_str(), H5P_DEFAULT), &H5Aclose, path, action);
  }
};

Hdf5Reader::Hdf5Reader(const std::string& path) : state_(std::make_unique<State>()) {
  const Session session;
  state_->path = path;
  const std::string action = "open the file";
  std::error_code problem;
  state_->file_bytes = std::filesystem::file_size(path, problem);
  if (problem) fail_environment("{}: cannot {}: {}", path, action, problem.message());
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), &H5Pclose, path, action);
  check(H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG), path, action);
  check(H5Pset_file_locking(access.id(), false, true), path, action);
  state_->file =
      Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), &H5Fclose, path, action);
}

Hdf5Reader::~Hdf5Reader() {
  if (!state_) return;
  const Session session;
  state_.reset();
}

Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;

Hdf5Reader& Hdf5Reader::operator=(Hdf5Reader&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

bool Hdf5Reader::has(const std::string& name) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  return state_->has(name);
}

Hdf5Dataset Hdf5Reader::dataset(const std::string& name) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  return state_->describe(state_->open(name), name);
}

void Hdf5Reader::read(const std::string& name, void* data, size_t bytes) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  const Handle dataset = state_->open(name);
  const Hdf5Dataset found = state_->describe(dataset, name);
  if (found.bytes != bytes) {
    fail_environment("{}: dataset {} has {} bytes where {} are expected", state_->path, name,
                     found.bytes, bytes);
  }
  if (bytes == 0) return;
  check(H5Dread(dataset.id(), memory_type(found.type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
        state_->path, "read dataset " + name);
}

void Hdf5Reader::read_at(const std::string& name, uint64_t first, uint64_t count, Hdf5Type type,
                         void* data) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  const std::string action = "read a piece of dataset " + name;
  State::Kept& kept = state_->kept;
  if (kept.name != name) {
    const Hdf5Dataset found = state_->describe(state_->open(name), name);
    SIDEWINDER_REQUIRE(found.shape.size() == 1, "{}: dataset {} has {} dimensions, not one",
                       state_->path, name, found.shape.size());
    kept.dataset = state_->open(name);
    kept.in_file = Handle(H5Dget_space(kept.dataset.id()), &H5Sclose, state_->path, action);
    kept.name = name;
  }
  const hsize_t begin = first;
  const hsize_t size = count;
  check(H5Sselect_hyperslab(kept.in_file.id(), H5S_SELECT_SET, &begin, nullptr, &size, nullptr),
        state_->path, action);
  const Handle in_memory(H5Screate_simple(1, &size, nullptr), &H5Sclose, state_->path, action);
  check(H5Dread(kept.dataset.id(), memory_type(type), in_memory.id(), kept.in_file.id(),
                H5P_DEFAULT, data),
        state_->path, action);
}

bool Hdf5Reader::has_attribute(const std::string& name) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  const htri_t exists = H5Aexists(state_->file.id(), name.c_str());
  if (exists < 0) fail(state_->path, "look for attribute " + name);
  return exists > 0;
}

std::string Hdf5Reader::text_attribute(const std::string& name) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  const std::string action = "read attribute " + name;
  const Handle attribute = state_->open_attribute(name);
  const Handle type(H5Aget_type(attribute.id()), &H5Tclose, state_->path, action);
  const Handle space(H5Aget_space(attribute.id()), &H5Sclose, state_->path, action);
  const htri_t variable = H5Tis_variable_str(type.id());
  const size_t size = H5Tget_size(type.id());
  if (H5Tget_class(type.id()) != H5T_STRING || variable != 0 || size == 0 ||
      H5Sget_simple_extent_type(space.id()) != H5S_SCALAR) {
    fail_environment("{}: attribute {} is not a text of fixed length", state_->path, name);
  }
  if (size > kMaxAttributeBytes) {
    fail_environment("{}: attribute {} has {} bytes, more than the {} allowed", state_->path, name,
                     size, kMaxAttributeBytes);
  }
  std::string text(size, '\0');
  check(H5Aread(attribute.id(), type.id(), text.data()), state_->path, action);
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

uint64_t Hdf5Reader::number_attribute(const std::string& name) const {
  SIDEWINDER_ASSERT(state_);
  const Session session;
  const std::string action = "read attribute " + name;
  const Handle attribute = state_->open_attribute(name);
  const Handle type(H5Aget_type(attribute.id()), &H5Tclose, state_->path, action);
  const Handle space(H5Aget_space(attribute.id()), &H5Sclose, state_->path, action);
  const htri_t equal = H5Tequal(type.id(), H5T_STD_U64LE);
  if (equal <= 0 || H5Sget_simple_extent_type(space.id()) != H5S_SCALAR) {
    fail_environment("{}: attribute {} is not one unsigned 64-bit number", state_->path, name);
  }
  uint64_t value = 0;
  check(H5Aread(attribute.id(), H5T_NATIVE_UINT64, &value), state_->path, action);
  return value;
}

}  // namespace sidewinder
