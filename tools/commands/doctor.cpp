#include "tools/commands/doctor.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>

#include "kernels/base/check.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/peak.h"
#include "kernels/ops/plugin.h"

namespace sidewinder {
namespace {

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The value of the first line "name ... : value" of a file like /proc/cpuinfo; "unknown" if none.
std::string value_of(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, name.size(), name) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "unknown";
}

double gib_of_meminfo(std::string_view name) {
  return std::strtod(value_of("/proc/meminfo", name).c_str(), nullptr) / (1024.0 * 1024.0);
}

// The memory limit of the control group (version 2), if there is one.
std::optional<double> gib_of_group_limit() {
  const std::string text = first_line("/sys/fs/cgroup/memory.max");
  if (text.empty() || text == "max") return std::nullopt;
  return std::strtod(text.c_str(), nullptr) / (1024.0 * 1024.0 * 1024.0);
}

int usable_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

std::string kernels_text() {
  const bool chosen = active_isa() != best_isa();
  return fmt::format(
      "{} ({})", name_of(active_isa()),
      chosen ? fmt::format("set by SIDEWINDER_ISA; this CPU can run {}", name_of(best_isa()))
             : "the best this CPU can run");
}

std::string kernels_note() {
  switch (active_isa()) {
    case Isa::avx512_amx: return "bf16 products by AMX tiles, f32 sums; right in a trial";
    case Isa::amx_model: return "a model of AMX tiles in software: very slow, for tests";
    case Isa::avx512_bf16:
      return fmt::format("bf16 products by AVX512-BF16 instructions, f32 sums{}{}",
                         amx_refusal().empty() ? "" : "; AMX is not used: ", amx_refusal());
    case Isa::avx512: return "no AVX512-BF16: products of bf16 tensors run in f32";
    case Isa::avx2: return "no AVX-512: about half as fast per clock, bf16 products run in f32";
    case Isa::generic: break;
  }
  return "no AVX2 with FMA: slow, for checks only";
}

std::string threads_text() {
  const char* set = std::getenv("SIDEWINDER_THREADS");
  return fmt::format("{} of {} usable cores{}", ThreadPool::global().num_threads(), usable_cores(),
                     set == nullptr ? "" : ", set by SIDEWINDER_THREADS");
}

// Writing to fresh memory for the first time: bytes per second, and the share of it that lies in
// huge pages.
struct FirstTouch {
  double rate = 0;
  double huge_share = 0;
};

FirstTouch first_touch(int advice) {
  constexpr size_t kBytes = size_t{64} << 20;
  constexpr size_t kHugePage = size_t{2} << 20;
  constexpr size_t kPage = 4096;
  const auto huge_kib = [] {
    return std::strtod(value_of("/proc/self/smaps_rollup", "AnonHugePages").c_str(), nullptr);
  };
  FirstTouch result;
  for (int round = 0; round < 3; ++round) {
    void* const raw = mmap(nullptr, kBytes + kHugePage, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) return result;
    void* aligned = raw;
    size_t room = kBytes + kHugePage;
    std::align(kHugePage, kBytes, aligned, room);
    auto* const memory = static_cast<volatile char*>(aligned);
    madvise(const_cast<char*>(memory), kBytes, advice);
    const double before = huge_kib();
    const auto begin = std::chrono::steady_clock::now();
    for (size_t at = 0; at < kBytes; at += kPage) memory[at] = 1;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    result.rate = std::max(result.rate, static_cast<double>(kBytes) / seconds);
    result.huge_share = (huge_kib() - before) * 1024 / static_cast<double>(kBytes);
    munmap(raw, kBytes + kHugePage);
  }
  return result;
}

// Tensors lie in regions that ask for huge pages (kernels/tensor/allocator.h).
std::string huge_pages_text() {
  const std::string line = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t begin = line.find('[');
  const std::string mode =
      begin == std::string::npos ? "" : line.substr(begin + 1, line.find(']') - begin - 1);
  const FirstTouch asked = first_touch(MADV_HUGEPAGE);
  const FirstTouch plain = first_touch(MADV_NOHUGEPAGE);
  std::string text = mode.empty() ? "not available" : "mode " + mode;
  if (asked.huge_share > 0.5) {
    text += ": tensors ask for them and get them";
  } else {
    text += mode == "never" ? ": tensors get none; `madvise` is better"
                            : ": tensors ask for them but get none";
  }
  return text + fmt::format("; first use of memory {:.1f} GB/s, {:.1f} GB/s in 4 KiB pages",
                            asked.rate / 1e9, plain.rate / 1e9);
}

int numa_nodes() {
  int nodes = 0;
  std::error_code problem;
  for (std::filesystem::directory_iterator i("/sys/devices/system/node", problem), end;
       !problem && i != end; i.increment(problem)) {
    const std::string name = i->path().filename().string();
    const bool is_node = name.substr(0, 4) == "node" && name.size() > 4 &&
                         name.find_first_not_of("0123456789", 4) == std::string::npos;
    nodes += is_node ? 1 : 0;
  }
  return std::max(1, nodes);
}

std::string numa_text() {
  const int nodes = numa_nodes();
  if (nodes == 1) return "1 node: all memory is equally near";
  return fmt::format(
      "{} nodes: memory is of the node whose thread writes it first, and work goes to any thread; "
      "`numactl --interleave=all sidewinder ...` spreads it evenly",
      nodes);
}

std::string pinning_text() {
  const auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int usable = usable_cores();
  std::string text = "none: the system places the threads, and no work belongs to one of them";
  if (usable < online) text += fmt::format("; {} of {} cores are allowed", usable, online);
  return text;
}

std::string system_text() {
  utsname name{};
  uname(&name);
  const std::string distribution = [] {
    std::ifstream file("/etc/os-release");
    for (std::string line; std::getline(file, line);) {
      constexpr std::string_view kKey = "PRETTY_NAME=";
      if (line.compare(0, kKey.size(), kKey) != 0) continue;
      std::string text = line.substr(kKey.size());
      std::erase(text, '"');
      return text;
    }
    return std::string("unknown distribution");
  }();
  return fmt::format("{}, {} {}, {}", distribution, name.sysname, name.release, name.machine);
}

std::string memory_text() {
  std::string text = fmt::format("{:.1f} GiB, {:.1f} GiB available", gib_of_meminfo("MemTotal"),
                                 gib_of_meminfo("MemAvailable"));
  if (const std::optional<double> limit = gib_of_group_limit()) {
    text += fmt::format(", limited to {:.1f} GiB by the control group", *limit);
  }
  return text;
}

nlohmann::json json_of(const MachinePeak& peak) {
  return {{"threads", peak.threads},
          {"f32_flops", peak.f32_flops},
          {"bf16_flops", peak.bf16_flops},
          {"exp_rate", peak.exp_rate},
          {"read_bandwidth", peak.read_bandwidth},
          {"copy_bandwidth", peak.copy_bandwidth}};
}

void print_limits(const MachinePeak& one, const MachinePeak& all) {
  const std::string threads = fmt::format("{} threads", all.threads);
  fmt::print("\n{:<26} {:>12} {:>12}\n", "measured limits", "1 thread", threads);
  const auto row = [](const char* name, double first, double second, const char* unit) {
    fmt::print("  {:<24} {:>12.1f} {:>12.1f} {}\n", name, first / 1e9, second / 1e9, unit);
  };
  row("f32 arithmetic", one.f32_flops, all.f32_flops, "GFLOP/s");
  row("bf16 arithmetic", one.bf16_flops, all.bf16_flops, "GFLOP/s");
  row("exponentials", one.exp_rate, all.exp_rate, "G/s");
  row("memory, read", one.read_bandwidth, all.read_bandwidth, "GB/s");
  row("memory, copy", one.copy_bandwidth, all.copy_bandwidth, "GB/s");
}

struct Line {
  std::string name;  // of the JSON key too, with spaces as underscores
  std::string text;
};

void print_lines(const std::vector<Line>& lines) {
  for (const Line& line : lines) fmt::print("{:<14} {}\n", line.name, line.text);
}

}  // namespace

int doctor(const std::string& json_path) {
  const std::vector<Line> machine = {
      {"sidewinder", SIDEWINDER_VERSION},
      {"system", system_text()},
      {"processor", value_of("/proc/cpuinfo", "model name")},
      {"kernels", kernels_text()},
      {"kernels note", kernels_note()},
      {"threads", threads_text()},
      {"memory", memory_text()},
      {"huge pages", huge_pages_text()},
      {"NUMA", numa_text()},
      {"pinning", pinning_text()},
      {"compiled with", SIDEWINDER_BUILT_WITH},
  };
  print_lines(machine);
  std::fflush(stdout);
  const int threads = ThreadPool::global().num_threads();
  const MachinePeak one = measure_peak(1);
  const MachinePeak all = threads == 1 ? one : measure_peak(threads);
  print_limits(one, all);
  const PluginReport plugin = load_cuda_plugin();
  fmt::print("\n{:<14} {} ({})\n", "CUDA plugin", plugin.status, plugin.path);
  if (json_path.empty()) return 0;

  nlohmann::json report = {{"limits_one_thread", json_of(one)},
                           {"limits", json_of(all)},
                           {"cuda_plugin",
                            {{"loaded", plugin.loaded},
                             {"path", plugin.path},
                             {"devices", plugin.num_devices},
                             {"status", plugin.status}}}};
  for (const Line& line : machine) {
    std::string key = line.name;
    for (char& c : key) c = c == ' ' ? '_' : c;
    report[key] = line.text;
  }
  std::ofstream file(json_path);
  file << report.dump(2) << "\n";
  file.close();
  if (!file) {
    fail_environment("doctor: cannot write {}; check that its folder exists and has space",
                     json_path);
  }
  return 0;
}

}  // namespace sidewinder
