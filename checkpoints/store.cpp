#include "checkpoints/store.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <set>
#include <string_view>
#include <system_error>

#include "checkpoints/durable.h"
#include "checkpoints/manifest.h"
#include "checkpoints/retention.h"
#include "checkpoints/verify.h"
#include "kernels/base/check.h"
#include "kernels/base/error.h"
#include "kernels/base/hdf5_file.h"
#include "kernels/base/log.h"
#include "kernels/base/text.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "tensors are stored as they lie in memory");

constexpr const char* kRankFile = "rank-0000.h5";
constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::string_view kTrashPrefix = ".trash-";
constexpr std::string_view kBadPrefix = ".bad-";

std::string step_name(int64_t step) { return fmt::format("{}{:09}", kStepPrefix, step); }

bool begins_with(std::string_view text, std::string_view beginning) {
  return text.substr(0, beginning.size()) == beginning;
}

// The step in a folder's name; nullopt for other names.
std::optional<int64_t> step_of(std::string_view name) {
  if (!begins_with(name, kStepPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kStepPrefix.size());
  if (digits.size() < 9 || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  return std::stoll(std::string(digits));
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> result;
  std::error_code problem;
  for (fs::directory_iterator i(folder, problem), end; !problem && i != end; i.increment(problem)) {
    result.push_back(i->path().filename().string());
  }
  if (problem && problem != std::errc::no_such_file_or_directory) {
    fail_environment("{}: cannot list the folder: {}", folder, problem.message());
  }
  return result;
}

// Removing is never worth stopping for: what is left is removed at the next start.
void remove_quietly(const std::string& path) {
  std::error_code problem;
  fs::remove_all(path, problem);
  if (problem) log_warning("{}: cannot remove: {}", path, problem.message());
}

// A name with this prefix that does not exist yet.
std::string unused_path(const std::string& folder, std::string_view prefix,
                        const std::string& name) {
  for (int i = 1;; ++i) {
    std::string path = fmt::format("{}/{}{}{}", folder, prefix, name,
                                   i == 1 ? std::string() : fmt::format("-{}", i));
    if (!path_exists(path)) return path;
  }
}

Hdf5Type stored_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return Hdf5Type::f32;
    case Dtype::bf16: return Hdf5Type::u16;  // HDF5 has no such type; the manifest says what it is
    case Dtype::f64: return Hdf5Type::f64;
    case Dtype::i32: break;
  }
  return Hdf5Type::i32;
}

bool is_plain_name(const std::string& name) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
  return !name.empty() && name.size() <= 1024 &&
         name.find_first_not_of(kAllowed) == std::string::npos;
}

void check_content(const CheckpointContent& content) {
  SIDEWINDER_REQUIRE(content.step >= 0, "checkpoint: step {} is negative", content.step);
  std::set<std::string> names;
  for (const NamedTensor& entry : content.tensors) {
    SIDEWINDER_REQUIRE(is_plain_name(entry.name),
                       "checkpoint: '{}' cannot name a tensor; use letters, digits and . _ - /",
                       entry.name);
    SIDEWINDER_REQUIRE(names.insert(entry.name).second,
                       "checkpoint: there are two tensors named {}", entry.name);
    SIDEWINDER_REQUIRE(entry.tensor.defined(), "checkpoint: tensor {} has no storage", entry.name);
    SIDEWINDER_REQUIRE(entry.tensor.device().kind == DeviceKind::cpu,
                       "checkpoint: tensor {} is not in host memory; copy it there first",
                       entry.name);
  }
}

// One line of JSON. Keys keep their order.
std::string normal_state(const std::string& text) {
  const auto state = nlohmann::ordered_json::parse(text.empty() ? "{}" : text, nullptr, false);
  SIDEWINDER_REQUIRE(state.is_object(), "checkpoint: the state is not a JSON object");
  return state.dump();
}

// Writes the tensors and returns their records. The digests are those of the memory, so that a
// wrong write is found by reading back.
std::vector<TensorRecord> write_tensors(const std::string& path, const CheckpointContent& content) {
  std::vector<TensorRecord> records;
  Hdf5Writer writer(path);
  writer.attribute("format", "sidewinder-checkpoint");
  writer.attribute("version", static_cast<uint64_t>(Manifest::kVersion));
  writer.attribute("step", static_cast<uint64_t>(content.step));
  for (const NamedTensor& entry : content.tensors) {
    const Tensor tensor = entry.tensor.contiguous() ? entry.tensor : entry.tensor.clone();
    TensorRecord record;
    record.name = entry.name;
    record.dtype = tensor.dtype();
    record.shape = to_sizes(tensor.shape());
    record.file = kRankFile;
    record.bytes = tensor.bytes();
    record.digest =
        tensor_digest(record.name, record.dtype, record.shape, tensor.raw(), record.bytes);
    writer.write(entry.name, stored_type(record.dtype),
                 std::vector<uint64_t>(record.shape.begin(), record.shape.end()), tensor.raw());
    records.push_back(std::move(record));
  }
  writer.close();
  flush_path(path);
  const Hdf5Reader reader(path);
  for (TensorRecord& record : records) record.offset = reader.dataset(record.name).file_offset;
  return records;
}

// Writes a whole checkpoint, every byte flushed, into a folder that nobody looks at.
void write_folder(const std::string& folder, const CheckpointContent& content,
                  const std::string& state) {
  std::error_code problem;
  if (!fs::create_directory(folder, problem)) {
    fail_environment("{}: cannot create the folder: {}", folder, problem.message());
  }
  const std::string rank_path = folder + "/" + kRankFile;
  Manifest manifest;
  manifest.step = content.step;
  manifest.state = state;
  manifest.tensors = write_tensors(rank_path, content);
  manifest.files.push_back(record_of_file(rank_path, kRankFile));
  for (const TensorRecord& record : manifest.tensors) verify_tensor(folder, record);
  write_new_file(folder + "/" + Manifest::kFileName, manifest.text());
  flush_path(folder);
}

void set_aside(const std::string& folder, const FoundCheckpoint& found) {
  try {
    rename_path(found.folder,
                unused_path(folder, kBadPrefix, fs::path(found.folder).filename().string()));
  } catch (const Error& error) {
    log_warning("{}", error.what());
  }
}

struct Search {
  std::optional<CheckpointContent> newest;
  std::vector<FoundCheckpoint> damaged;
  bool changed_meanwhile = false;  // a folder vanished: its writer has deleted it
};

Search find_newest(const std::string& folder) {
  Search result;
  for (const FoundCheckpoint& found : list_checkpoints(folder)) {
    try {
      result.newest = load_checkpoint(found.folder);
      return result;
    } catch (const Error& error) {
      if (!path_exists(found.folder)) {
        result.changed_meanwhile = true;
        continue;
      }
      // What stopped us may not be the checkpoint's fault: no permission, no memory, a newer
      // format.
      if (dynamic_cast<const DamagedCheckpoint*>(&error) == nullptr) throw;
      log_line(LogLevel::error, fmt::format("damaged checkpoint passed over: {}", error.what()));
      result.damaged.push_back(found);
    }
  }
  return result;
}

[[noreturn]] void fail_no_checkpoint(const std::string& path) {
  fail_user("{}: there is no checkpoint; name a checkpoint folder (step-…) or a run folder", path);
}

}  // namespace

void fail_all_damaged(const std::string& folder) {
  fail_environment(
      "{0}: all checkpoints are damaged (`sidewinder inspect {0}` says how); restore one from a "
      "copy, or start anew with --fresh or in another folder",
      folder);
}

void fail_damaged(const DamagedCheckpoint& problem, const std::string& folder) {
  const std::string run = fs::path(folder).lexically_normal().parent_path().string();
  throw DamagedCheckpoint(fmt::format(
      "{}; the checkpoint is damaged: restore it from a copy, or use another one of its "
      "run (`sidewinder inspect {}` lists them)",
      problem.what(), run.empty() ? "." : run));
}

void Store::remove_leftovers() const {
  for (const std::string& name : names_in(folder_)) {
    if (!begins_with(name, kTemporaryPrefix) && !begins_with(name, kTrashPrefix)) continue;
    if (begins_with(name, kTemporaryPrefix)) {
      log_info("{}/{}: removing what an interrupted save left", folder_, name);
    }
    remove_quietly(folder_ + "/" + name);
  }
}

void require_room(const std::string& folder, const CheckpointContent& content) {
  // A tensor takes its bytes, rounded up to 4 KiB, and 4 KiB of description; the manifest about
  // 400 bytes a tensor and the state.
  uint64_t needed = (uint64_t{1} << 20) + 2 * content.state.size();
  for (const NamedTensor& entry : content.tensors) {
    needed += entry.tensor.bytes() + 3 * 4096 + entry.name.size();
  }
  const uint64_t free = free_bytes(folder);
  if (free < needed) {
    fail_environment(
        "{}: a checkpoint needs {} but only {} are free; free some space, or keep fewer "
        "checkpoints ([checkpoint] keep_last, keep_every)",
        folder, bytes_text(needed), bytes_text(free));
  }
}

void Store::save(const CheckpointContent& content, const CheckpointOptions& options) {
  check_content(content);
  const std::string state = normal_state(content.state);
  create_folder(folder_);
  remove_leftovers();
  require_room(folder_, content);
  const std::string name = step_name(content.step);
  const std::string final_path = folder_ + "/" + name;
  const std::string temporary = unused_path(folder_, kTemporaryPrefix, name);
  try {
    write_folder(temporary, content, state);
    if (!path_exists(final_path)) {
      rename_path(temporary, final_path);
    } else if (!exchange_paths(temporary, final_path)) {
      fail_environment(
          "{}: there is a checkpoint of this step already, and this file system cannot "
          "replace it in one step; move it away",
          final_path);
    }
  } catch (...) {
    remove_quietly(temporary);
    throw;
  }
  flush_path(folder_);
  if (path_exists(temporary)) remove_quietly(temporary);  // the one that was replaced
  apply_retention(content.step, options);
}

void Store::apply_retention(int64_t saved, const CheckpointOptions& options) {
  std::vector<int64_t> steps;
  for (const FoundCheckpoint& found : list()) steps.push_back(found.step);
  for (const int64_t step : steps_to_delete(steps, saved, options)) {
    const std::string path = folder_ + "/" + step_name(step);
    try {
      // First out of sight, in one step: a half-deleted checkpoint must not look like a damaged
      // one.
      rename_path(path, unused_path(folder_, kTrashPrefix, step_name(step)));
    } catch (const Error& error) {
      log_warning("{}", error.what());
    }
  }
  remove_leftovers();
}

std::vector<FoundCheckpoint> Store::list() const { return list_checkpoints(folder_); }

std::optional<CheckpointContent> Store::load_newest() const {
  remove_leftovers();
  Search search = find_newest(folder_);
  if (!search.newest) {
    if (search.damaged.empty() && list_set_aside(folder_).empty()) return std::nullopt;
    fail_all_damaged(folder_);
  }
  for (const FoundCheckpoint& found : search.damaged) set_aside(folder_, found);
  return std::move(search.newest);
}

std::vector<FoundCheckpoint> list_checkpoints(const std::string& folder) {
  std::vector<FoundCheckpoint> result;
  for (const std::string& name : names_in(folder)) {
    const std::optional<int64_t> step = step_of(name);
    if (step) result.push_back({(fs::path(folder) / name).string(), *step});
  }
  std::sort(result.begin(), result.end(),
            [](const FoundCheckpoint& a, const FoundCheckpoint& b) { return a.step > b.step; });
  return result;
}

std::vector<std::string> list_set_aside(const std::string& folder) {
  std::vector<std::string> result;
  for (const std::string& name : names_in(folder)) {
    if (begins_with(name, kBadPrefix)) result.push_back((fs::path(folder) / name).string());
  }
  std::sort(result.begin(), result.end());
  return result;
}

CheckpointContent load_checkpoint(const std::string& folder) {
  const Manifest manifest = read_manifest(folder);
  const std::optional<int64_t> expected =
      step_of(fs::path(folder).lexically_normal().filename().string());
  if (expected && *expected != manifest.step) {
    throw DamagedCheckpoint(fmt::format("{}: the manifest is of step {}", folder, manifest.step));
  }
  for (const FileRecord& file : manifest.files) verify_file(folder, file);
  CheckpointContent content;
  content.step = manifest.step;
  content.state = manifest.state;
  content.folder = folder;
  for (const TensorRecord& record : manifest.tensors) {
    content.tensors.push_back({record.name, read_tensor(folder, record)});
  }
  return content;
}

CheckpointContent load_checkpoint_or_newest(const std::string& path) {
  std::string folder = path;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  if (!fs::is_directory(folder)) fail_no_checkpoint(path);
  if (path_exists(folder + "/" + Manifest::kFileName) ||
      step_of(fs::path(folder).filename().string())) {
    try {
      return load_checkpoint(folder);
    } catch (const DamagedCheckpoint& problem) {
      fail_damaged(problem, folder);
    }
  }
  if (list_checkpoints(folder).empty() && path_exists(folder + "/checkpoints")) {
    folder += "/checkpoints";
  }
  // A run that is still writing may delete a checkpoint while it is being read; then look again.
  for (int attempt = 0; attempt < 10; ++attempt) {
    Search search = find_newest(folder);
    if (search.newest) return std::move(*search.newest);
    if (search.changed_meanwhile) continue;
    if (!search.damaged.empty() || !list_set_aside(folder).empty()) fail_all_damaged(folder);
    break;
  }
  fail_no_checkpoint(path);
}

}  // namespace sidewinder
