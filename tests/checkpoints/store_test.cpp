#include "checkpoints/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>

#include "checkpoints/manifest.h"
#include "kernels/base/digest.h"
#include "kernels/base/error.h"
#include "kernels/base/hdf5_file.h"
#include "tests/checkpoints/sample.h"
#include "tests/support/small_disk.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;
using testing::file_text;
using testing::flip_bits;
using ::testing::HasSubstr;
using testing::same_content;
using testing::sample_content;
using testing::set_file_text;
using testing::TemporaryFolder;

const CheckpointOptions kKeepAll{.keep_last = 1000};

// The error of an action, or exit code 0 if there was none.
Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(ExitCode::success, "(nothing thrown)");
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

class StoreTest : public ::testing::Test {
 protected:
  std::string step_folder(int64_t step) const { return folder_ / fmt::format("step-{:09}", step); }
  std::string rank_file(int64_t step) const { return step_folder(step) + "/rank-0000.h5"; }
  std::string manifest_file(int64_t step) const { return step_folder(step) + "/manifest.json"; }
  void save(int64_t step, const CheckpointOptions& options = kKeepAll) {
    store_.save(sample_content(step), options);
  }

  TemporaryFolder folder_;
  Store store_{folder_.path()};
};

TEST_F(StoreTest, RoundTripKeepsEveryBit) {
  EXPECT_FALSE(store_.load_newest().has_value());
  save(7);
  const CheckpointContent loaded = load_checkpoint(step_folder(7));
  EXPECT_TRUE(same_content(loaded, sample_content(7)));
  EXPECT_EQ(loaded.folder, step_folder(7));
  EXPECT_TRUE(same_content(*store_.load_newest(), sample_content(7)));
  EXPECT_THAT(names_in(folder_.path()), ::testing::ElementsAre("step-000000007"));
  EXPECT_THAT(names_in(step_folder(7)), ::testing::ElementsAre("manifest.json", "rank-0000.h5"));
}

TEST_F(StoreTest, NanPayloadsAndViewsSurvive) {
  const Tensor wide = testing::random_normal({9, 12}, Dtype::f32, 1);
  const uint32_t payload = 0x7fc12345;
  std::memcpy(wide.data<float>() + 5, &payload, 4);
  CheckpointContent content;
  content.step = 1;
  content.tensors = {{"left", wide.columns(0, 6)}, {"right", wide.columns(6, 12)}};
  store_.save(content, kKeepAll);
  const CheckpointContent loaded = load_checkpoint(step_folder(1));
  EXPECT_TRUE(testing::same_bits(loaded.tensors[0].tensor, wide.columns(0, 6).clone()));
  EXPECT_TRUE(testing::same_bits(loaded.tensors[1].tensor, wide.columns(6, 12).clone()));
  EXPECT_EQ(loaded.state, "{}");
}

TEST_F(StoreTest, ShapesOfOneToManyElementsSurvive) {
  CheckpointContent content;
  content.step = 1;
  for (const int64_t size : {1, 2, 63, 64, 65, 1023, 1024, 1025, 4099}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
      content.tensors.push_back({fmt::format("{}/{}", name_of(dtype), size),
                                 testing::random_normal({size, 1, 3}, dtype, 5)});
    }
  }
  content.state = "{}";
  store_.save(content, kKeepAll);
  EXPECT_TRUE(same_content(load_checkpoint(step_folder(1)), content));
}

TEST_F(StoreTest, OtherProgramsCanReadTheTensors) {
  save(3);
  const CheckpointContent content = sample_content(3);
  const Hdf5Reader reader(rank_file(3));
  EXPECT_EQ(reader.text_attribute("format"), "sidewinder-checkpoint");
  EXPECT_EQ(reader.number_attribute("step"), 3U);
  const Tensor& weight = content.tensors[1].tensor;
  std::vector<uint16_t> bits(static_cast<size_t>(weight.count()));
  reader.read("blocks/0/mixer.weight", bits.data(), bits.size() * 2);
  EXPECT_EQ(std::memcmp(bits.data(), weight.raw(), weight.bytes()), 0);
  EXPECT_EQ(reader.dataset("blocks/0/mixer.weight").shape, (std::vector<uint64_t>{5, 3, 2, 7}));
}

TEST_F(StoreTest, SameContentGivesTheSameBytes) {
  save(3);
  const std::string bytes = file_text(rank_file(3)) + file_text(manifest_file(3));
  fs::remove_all(step_folder(3));
  save(3);
  EXPECT_TRUE(bytes == file_text(rank_file(3)) + file_text(manifest_file(3)));
}

TEST_F(StoreTest, EveryBitFlipIsNoticed) {
  save(1);
  std::mt19937_64 random(20240501);
  for (const std::string& path : {manifest_file(1), rank_file(1)}) {
    // Every byte of the manifest, a sample of the rest.
    const size_t size = fs::file_size(path);
    const bool all = path == manifest_file(1);
    for (size_t i = 0; i < (all ? size : 2000); ++i) {
      const size_t place = all ? i : random() % size;
      const int mask = 1 << random() % 8;
      flip_bits(path, place, mask);
      ASSERT_THROW(load_checkpoint(step_folder(1)), DamagedCheckpoint) << path << " byte " << place;
      flip_bits(path, place, mask);
    }
  }
  EXPECT_TRUE(same_content(load_checkpoint(step_folder(1)), sample_content(1)));
}

TEST_F(StoreTest, TruncationAndGrowthAreNoticed) {
  save(1);
  for (const std::string& path : {manifest_file(1), rank_file(1)}) {
    const std::string sound = file_text(path);
    std::vector<size_t> sizes = {0, 1, sound.size() - 1};
    for (size_t size = 4096; size < sound.size(); size += 4096) sizes.push_back(size);
    for (const size_t size : sizes) {
      set_file_text(path, sound.substr(0, size));
      EXPECT_THROW(load_checkpoint(step_folder(1)), DamagedCheckpoint) << path << " " << size;
    }
    set_file_text(path, sound + '\0');
    EXPECT_THROW(load_checkpoint(step_folder(1)), DamagedCheckpoint) << path;
    set_file_text(path, sound);
  }
  EXPECT_TRUE(same_content(load_checkpoint(step_folder(1)), sample_content(1)));
}

TEST_F(StoreTest, ZeroedAndCopiedPagesAreNoticed) {
  save(1);
  const std::string sound = file_text(rank_file(1));
  int damaged = 0;
  for (size_t page = 0; page + 4096 <= sound.size(); page += 4096) {
    for (const bool zero : {true, false}) {
      std::string text = sound;
      text.replace(page, 4096, zero ? std::string(4096, '\0') : sound.substr(0, 4096));
      if (text == sound) continue;
      set_file_text(rank_file(1), text);
      EXPECT_THROW(load_checkpoint(step_folder(1)), DamagedCheckpoint) << page;
      ++damaged;
    }
  }
  EXPECT_GT(damaged, 10);
}

TEST_F(StoreTest, MissingAndSwappedFilesAreNoticed) {
  save(1);
  save(2);
  const auto swap_paths = [&](const std::string& a, const std::string& b) {
    fs::rename(a, folder_ / "third");
    fs::rename(b, a);
    fs::rename(folder_ / "third", b);
  };
  const std::vector<std::pair<std::string, std::string>> swaps = {
      {rank_file(1), rank_file(2)},
      {manifest_file(1), manifest_file(2)},
      {step_folder(1), step_folder(2)},
      {manifest_file(1), rank_file(1)}};
  for (const auto& [a, b] : swaps) {
    swap_paths(a, b);
    EXPECT_THROW(load_checkpoint(step_folder(1)), DamagedCheckpoint) << a;
    swap_paths(a, b);
  }
  for (const std::string& path : {manifest_file(1), rank_file(1)}) {
    const std::string sound = file_text(path);
    fs::remove(path);
    EXPECT_THAT(error_of([&] { load_checkpoint(step_folder(1)); }).what(),
                HasSubstr(path + ": is missing"));
    fs::create_directory(path);
    EXPECT_THAT(error_of([&] { load_checkpoint(step_folder(1)); }).what(),
                HasSubstr(path + ": is not a file"));
    fs::remove(path);
    set_file_text(path, sound);
  }
  EXPECT_TRUE(same_content(load_checkpoint(step_folder(1)), sample_content(1)));
}

TEST_F(StoreTest, TheNewestSoundOneIsUsedAndDamagedOnesAreSetAside) {
  for (const int64_t step : {100, 200, 300}) save(step);
  std::string text = file_text(rank_file(300));
  text[text.size() / 2] ^= 1;
  set_file_text(rank_file(300), text);
  fs::remove(manifest_file(200));
  ::testing::internal::CaptureStderr();
  const auto loaded = store_.load_newest();
  const std::string log = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_TRUE(same_content(*loaded, sample_content(100)));
  EXPECT_THAT(log, HasSubstr(rank_file(300) + ": its bytes have digest"));
  EXPECT_THAT(log, HasSubstr(manifest_file(200) + ": is missing"));
  EXPECT_THAT(
      names_in(folder_.path()),
      ::testing::ElementsAre(".bad-step-000000200", ".bad-step-000000300", "step-000000100"));
  // The same damage once more finds a free name.
  save(300);
  fs::remove(manifest_file(300));
  store_.load_newest();
  EXPECT_TRUE(fs::exists(folder_ / ".bad-step-000000300-2"));
}

TEST_F(StoreTest, OnlyDamagedOnesAreAnErrorAndStayInPlace) {
  save(100);
  save(200);
  fs::remove(rank_file(100));
  fs::remove(rank_file(200));
  for (int i = 0; i < 2; ++i) {
    const Error error = error_of([&] { store_.load_newest(); });
    EXPECT_EQ(error.exit_code(), ExitCode::environment);
    EXPECT_THAT(error.what(), HasSubstr("all checkpoints are damaged"));
  }
  EXPECT_EQ(store_.list().size(), 2U);
  // A run must not begin from scratch beside one that was set aside.
  fs::remove_all(step_folder(100));
  fs::rename(step_folder(200), folder_ / ".bad-step-000000200");
  EXPECT_EQ(error_of([&] { store_.load_newest(); }).exit_code(), ExitCode::environment);
  EXPECT_EQ(error_of([&] { load_checkpoint_or_newest(folder_.path()); }).exit_code(),
            ExitCode::environment);
}

TEST_F(StoreTest, AnotherFormatVersionIsNotCalledDamage) {
  save(1);
  save(2);
  Manifest manifest = Manifest::parse(file_text(manifest_file(2)), "manifest");
  std::string text = manifest.text();
  const std::string version = "\"version\": 1";
  text.replace(text.find(version), version.size(), "\"version\": 2");
  const size_t tail = text.rfind(",\n\"digest\"");
  Digest digest;
  digest.update(text.substr(0, tail));
  text.replace(tail + 13, 32, digest.text());
  set_file_text(manifest_file(2), text);
  const Error error = error_of([&] { store_.load_newest(); });
  EXPECT_THAT(error.what(), HasSubstr("has format version 2, this program reads 1"));
  EXPECT_EQ(store_.list().size(), 2U);
}

TEST_F(StoreTest, RetentionKeepsTheNewestAndTheMultiples) {
  const CheckpointOptions options{.keep_last = 2, .keep_every = 400};
  for (int64_t step = 100; step <= 1000; step += 100) save(step, options);
  std::vector<int64_t> steps;
  for (const FoundCheckpoint& found : store_.list()) steps.push_back(found.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{1000, 900, 800, 400}));
  EXPECT_THAT(names_in(folder_.path()), ::testing::ElementsAre("step-000000400", "step-000000800",
                                                               "step-000000900", "step-000001000"));
}

TEST_F(StoreTest, RetentionNeverDeletesWhatWasJustSaved) {
  save(500);
  save(600);
  save(100, {.keep_last = 0});
  save(200, {.keep_last = 1});
  std::vector<int64_t> steps;
  for (const FoundCheckpoint& found : store_.list()) steps.push_back(found.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{600, 500, 200}));
}

TEST_F(StoreTest, ACheckpointOfTheSameStepIsReplaced) {
  save(5);
  CheckpointContent other = sample_content(6);
  other.step = 5;
  store_.save(other, kKeepAll);
  EXPECT_TRUE(same_content(load_checkpoint(step_folder(5)), other));
  EXPECT_THAT(names_in(folder_.path()), ::testing::ElementsAre("step-000000005"));
}

TEST_F(StoreTest, LeftoversAreRemovedAtTheStart) {
  save(5);
  fs::copy(step_folder(5), folder_ / ".tmp-step-000000006");
  fs::copy(step_folder(5), folder_ / ".trash-step-000000004-2");
  fs::copy(step_folder(5), folder_ / ".bad-step-000000003");
  Store(folder_.path()).load_newest();
  EXPECT_THAT(names_in(folder_.path()),
              ::testing::ElementsAre(".bad-step-000000003", "step-000000005"));
}

TEST_F(StoreTest, OtherNamesAreNotCheckpoints) {
  save(5);
  for (const char* name : {"step-5", "step-00000000x", "notes", "step-0000000060000000000000"}) {
    fs::create_directory(folder_ / name);
  }
  EXPECT_EQ(store_.list().size(), 1U);
}

TEST_F(StoreTest, NamesAndContentAreChecked) {
  const auto message = [&](const CheckpointContent& content) {
    const Error error = error_of([&] { store_.save(content, kKeepAll); });
    EXPECT_EQ(error.exit_code(), ExitCode::user);
    return std::string(error.what());
  };
  const Tensor tensor = Tensor::zeros({2}, Dtype::f32);
  CheckpointContent content;
  content.tensors = {{"a b", tensor}};
  EXPECT_THAT(message(content), HasSubstr("'a b' cannot name a tensor"));
  content.tensors = {{"a/", tensor}};
  EXPECT_THAT(message(content), HasSubstr("'a/' cannot name a dataset"));
  content.tensors = {{"a", tensor}, {"a", tensor}};
  EXPECT_THAT(message(content), HasSubstr("two tensors named a"));
  content.tensors = {{"a", Tensor()}};
  EXPECT_THAT(message(content), HasSubstr("tensor a has no storage"));
  content.tensors = {};
  content.state = "[1]";
  EXPECT_THAT(message(content), HasSubstr("not a JSON object"));
  content.state = "{\"a\": ";
  EXPECT_THAT(message(content), HasSubstr("not a JSON object"));
  content.state = "";
  content.step = -1;
  EXPECT_THAT(message(content), HasSubstr("step -1 is negative"));
  EXPECT_THAT(names_in(folder_.path()), ::testing::IsEmpty());
}

TEST_F(StoreTest, AnyPathToACheckpointIsFound) {
  EXPECT_THAT(error_of([&] { load_checkpoint_or_newest(folder_.path()); }).what(),
              HasSubstr("there is no checkpoint"));
  EXPECT_EQ(error_of([&] { load_checkpoint_or_newest(folder_ / "none"); }).exit_code(),
            ExitCode::user);
  save(1);
  save(2);
  EXPECT_EQ(load_checkpoint_or_newest(folder_.path()).step, 2);
  EXPECT_EQ(load_checkpoint_or_newest(folder_.path() + "/").step, 2);
  EXPECT_EQ(load_checkpoint_or_newest(step_folder(1) + "/").step, 1);
  // A copy under another name is a checkpoint as well.
  fs::copy(step_folder(1), folder_ / "copy");
  EXPECT_EQ(load_checkpoint_or_newest(folder_ / "copy").step, 1);
  // A run folder, and a damaged newest: passed over, not renamed.
  fs::create_directories(folder_ / "run/checkpoints");
  fs::rename(step_folder(1), folder_ / "run/checkpoints/step-000000001");
  fs::rename(step_folder(2), folder_ / "run/checkpoints/step-000000002");
  fs::remove(folder_ / "run/checkpoints/step-000000002/rank-0000.h5");
  EXPECT_EQ(load_checkpoint_or_newest(folder_ / "run").step, 1);
  EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/step-000000002"));
  // Named by itself it is refused.
  EXPECT_THROW(load_checkpoint_or_newest(folder_ / "run/checkpoints/step-000000002"),
               DamagedCheckpoint);
}

// Runs `body` in a child process and returns what it returns, or minus the signal that ended it.
int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F(StoreTest, AWriteErrorLeavesThePreviousCheckpoint) {
  save(1);
  CheckpointContent large = sample_content(2);
  large.tensors.push_back({"large", testing::random_normal({100000}, Dtype::f32, 3)});
  // The system reports a file-size limit like a full disk. The limits stop the save in the middle
  // of the tensors, at their end, and in the manifest.
  for (const rlim_t limit : {rlim_t{200000}, rlim_t{410000}, rlim_t{100}}) {
    const int code = in_child([&] {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit limits = {limit, limit};
      setrlimit(RLIMIT_FSIZE, &limits);
      const Error error = error_of([&] { store_.save(large, {.keep_last = 1}); });
      return static_cast<int>(error.exit_code());
    });
    EXPECT_EQ(code, static_cast<int>(ExitCode::environment)) << limit;
    EXPECT_THAT(names_in(folder_.path()), ::testing::ElementsAre("step-000000001"));
    EXPECT_TRUE(same_content(*store_.load_newest(), sample_content(1)));
  }
  store_.save(large, {.keep_last = 1});
  EXPECT_TRUE(same_content(*store_.load_newest(), large));
}

TEST_F(StoreTest, AFullDiskIsReportedBeforeAndDuringASave) {
  const std::string disk = folder_ / "disk";
  const testing::SmallDisk small(disk, "size=600k,nr_inodes=6");
  if (!small.mounted()) {
    GTEST_SKIP() << "no small file system can be mounted here: " << std::strerror(errno);
  }
  Store store(disk);
  const Error before = error_of([&] { store.save(sample_content(1), kKeepAll); });
  EXPECT_EQ(before.exit_code(), ExitCode::environment);
  EXPECT_THAT(before.what(), HasSubstr("a checkpoint needs 1.1 MiB but only 600.0 KiB are free"));
  ASSERT_TRUE(small.resize("size=9m,nr_inodes=6"));
  store.save(sample_content(1), kKeepAll);
  // Room for bytes, but not for another folder with two files.
  const Error during = error_of([&] { store.save(sample_content(2), kKeepAll); });
  EXPECT_EQ(during.exit_code(), ExitCode::environment);
  EXPECT_THAT(during.what(), HasSubstr("No space left on device"));
  EXPECT_THAT(names_in(disk), ::testing::ElementsAre("step-000000001"));
  EXPECT_TRUE(same_content(*store.load_newest(), sample_content(1)));
}

TEST_F(StoreTest, AKillAtAnyTimeLeavesTheLastCheckpoint) {
  std::mt19937_64 random(7);
  const auto begin = std::chrono::steady_clock::now();
  save(1);
  save(2);
  const auto two_saves = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - begin);
  int64_t last = 2;
  int saved = 0;
  for (int trial = 0; trial < 40; ++trial) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      for (int64_t step = last + 1;; ++step) {
        store_.save(sample_content(step), {.keep_last = 2});
        if (write(pipe_ends[1], &step, sizeof(step)) != sizeof(step)) _exit(1);
      }
    }
    close(pipe_ends[1]);
    std::this_thread::sleep_for(two_saves * static_cast<int64_t>(random() % 1000) / 500);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    int64_t acknowledged = 0;
    while (read(pipe_ends[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged)) {
      last = acknowledged;
      ++saved;
    }
    close(pipe_ends[0]);
    const auto loaded = store_.load_newest();
    ASSERT_TRUE(loaded.has_value());
    ASSERT_GE(loaded->step, last);
    ASSERT_TRUE(same_content(*loaded, sample_content(loaded->step)));
    for (const std::string& name : names_in(folder_.path())) ASSERT_NE(name[0], '.') << name;
    last = loaded->step;
  }
  EXPECT_GT(saved, 0);
}

TEST(FolderLock, ASecondProcessIsToldWhoHasTheFolder) {
  const TemporaryFolder folder;
  const FolderLock lock(folder / "run");
  const int code = in_child([&] {
    const Error error = error_of([&] { const FolderLock second(folder / "run"); });
    char host[256] = {};
    gethostname(host, sizeof(host) - 1);
    const std::string holder = fmt::format("is in use by process {} on {};", getppid(), host);
    if (std::string(error.what()).find(holder) == std::string::npos) return 100;
    return static_cast<int>(error.exit_code());
  });
  EXPECT_EQ(code, static_cast<int>(ExitCode::user));
}

TEST(FolderLock, ItEndsWithItsHolder) {
  const TemporaryFolder folder;
  { const FolderLock lock(folder.path()); }
  EXPECT_EQ(file_text(folder / "LOCK"), "");
  const int code = in_child([&] {
    const FolderLock lock(folder.path());
    kill(getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(code, -SIGKILL);
  EXPECT_NE(file_text(folder / "LOCK"), "");
  const FolderLock lock(folder.path());
}

TEST(FolderLock, AFolderThatTakesNoCheckpointIsRefused) {
  const TemporaryFolder folder;
  { const FolderLock lock(folder / "run"); }
  fs::permissions(folder.path(), fs::perms{0755});
  fs::permissions(folder / "run", fs::perms{0555});
  fs::permissions(folder / "run/LOCK", fs::perms{0666});
  const int code = in_child([&] {
    if (geteuid() == 0 && seteuid(65534) != 0) return 100;  // root may write anywhere
    const Error error = error_of([&] { const FolderLock lock(folder / "run"); });
    const std::string wanted = (folder / "run") + ": cannot be written: Permission denied; ";
    return std::string(error.what()).rfind(wanted, 0) == 0 ? static_cast<int>(error.exit_code())
                                                           : 101;
  });
  EXPECT_EQ(code, static_cast<int>(ExitCode::environment));
}

}  // namespace
}  // namespace sidewinder
