#include "tools/commands/train.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "data/corpus.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/base/text.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/peak.h"
#include "kernels/tensor/allocator.h"
#include "tools/assemble.h"
#include "tools/commands/extension.h"
#include "tools/memory_plan.h"

namespace sidewinder {
namespace {

namespace fs = std::filesystem;

bool has_checkpoints(const std::string& folder) {
  return !list_checkpoints(folder).empty();
}

// folder, or folder-2, folder-3, … : the first without checkpoints.
std::string fresh_folder(const std::string& folder) {
  std::string candidate = folder;
  for (int i = 2; has_checkpoints(candidate); ++i) candidate = fmt::format("{}-{}", folder, i);
  return candidate;
}

void refuse_changed_keys(const CheckpointContent& content, const Recipe& recipe) {
  const nlohmann::json state = nlohmann::json::parse(content.state);
  const std::vector<std::string> conflicts =
      resume_conflicts(state.at("recipe").get<std::string>(), recipe);
  if (conflicts.empty()) return;
  std::string text = fmt::format("{} continues a run at step {}, but keys changed that may not:",
                                 recipe.run.folder, content.step);
  for (const std::string& conflict : conflicts) text += "\n    " + conflict;
  throw Error(Blame::user, text + "\nset them back, or pass --fresh to start anew beside the old run");
}

// The folder of a run, made if need be, and its lock. What was made goes away again, unless the run
// is begun.
class RunFolder {
 public:
  explicit RunFolder(const std::string& path) : path_(path) {
    std::error_code failed;
    is_new_ = fs::create_directories(path, failed);
    if (failed) {
      fail_environment(
          "cannot create the run folder {}: {}; set run.folder to a place that can be "
          "written",
          path, failed.message());
    }
    lock_.emplace(path);
  }
  ~RunFolder() {
    std::error_code ignored;
    if (is_new_) fs::remove_all(path_, ignored);
  }
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  void begin_run() { is_new_ = false; }

 private:
  std::string path_;
  bool is_new_ = false;
  std::optional<FolderLock> lock_;
};

void copy_tokenizer(const Recipe& recipe) {
  const std::string source = tokenizer_file(recipe.data);
  if (source.empty()) return;  // bytes
  const std::string copy = tokenizer_path(recipe.run.folder);
  std::error_code failed;
  fs::copy_file(source, copy, fs::copy_options::overwrite_existing, failed);
  if (failed) {
    fail_environment("{}: cannot be copied to {}: {}; it belongs to the corpus", source, copy,
                     failed.message());
  }
}

void log_header(HybridModel& model, const Recipe& recipe, const Trainer& trainer, double peak) {
  const SequenceLayout row = SequenceLayout::unpacked(1, recipe.train.context);
  const double flops = model.training_flops(row, recipe.train.context) /
                       static_cast<double>(recipe.train.context);
  log_info("model: {:.2f} M parameters, layers \"{}\" x {}, context {}",
           static_cast<double>(model.num_parameters()) * 1e-6, recipe.model.layers,
           recipe.model.repeat, recipe.train.context);
  log_info("FLOPs per token {:.1f} M: 6 x matrix elements (head included) + 12 x head widths x visible "
           "pairs; scans and recompute count as none. MFU divides by the register-only peak of this "
           "machine, {:.0f} GFLOP/s",
           flops * 1e-6, peak * 1e-9);
  log_info("data: {} tokens per epoch; {} threads, {} kernels",
           trainer.loader().tokens_per_epoch(), ThreadPool::global().num_threads(),
           name_of(active_isa()));
}

// Since the process was started, the loading of its libraries included; accurate to the ticks of
// /proc, hundredths. 0 if that cannot be read.
double seconds_since_start() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;  // proc(5): starttime is the 22nd
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         std::strtod(field.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void print_summary(const Recipe& recipe, Trainer& trainer, ExitCode code) {
  fmt::print("\nrun folder   {}\n", recipe.run.folder);
  fmt::print("steps        {} of {}\n", trainer.steps_done(), recipe.train.steps);
  const RunSummary& summary = trainer.summary();
  if (summary.steps > 0) {
    fmt::print("train loss   {:.4f} nats per token (last {} steps)\n", summary.recent_loss,
               summary.recent_steps);
    fmt::print("speed        {:.0f} tokens/s", summary.tokens_per_second);
    if (summary.mfu > 0) fmt::print(", MFU {:.1f} %", 100 * summary.mfu);
    fmt::print("\ndata         waited for {:.2f} % of the time\n", 100 * summary.wait_share);
    if (summary.saves > 0) {
      fmt::print("checkpoints  {} saved while training went on; it waited {:.3f} s for each\n",
                 summary.saves, summary.stall_seconds / static_cast<double>(summary.saves));
    }
    fmt::print("memory       {} at most\n",
               bytes_text(static_cast<uint64_t>(allocator_of({}).statistics().bytes_peak)));
  }
  if (const auto validation = trainer.last_validation()) {
    fmt::print("validation   {:.4f} nats per token, {:.4f} bits per byte\n", validation->loss,
               validation->bits_per_byte());
  }
  if (code == ExitCode::success) {
    fmt::print("next         sidewinder generate {} --prompt \"...\"\n", recipe.run.folder);
  }
}

}  // namespace

ExitCode train(const TrainCommand& command) {
  Recipe recipe = load_recipe(command.recipe, command.sets);
  if (!command.allow_too_little_memory) {
    const std::string problem = memory_problem(recipe, available_memory());
    if (!problem.empty()) fail_environment("{}", problem);
  }
  SIDEWINDER_REQUIRE(!command.needs_extension || recipe.extend.from_context > 0,
                     "{} has no [extend] section; set extend.from_context to the context that the "
                     "model in init.from was trained at, or use `sidewinder train`",
                     command.recipe);
  if (command.fresh) recipe.run.folder = fresh_folder(recipe.run.folder);
  const std::string& start = recipe.init.from;
  if (!start.empty() && !fs::exists(start) && !has_checkpoints(recipe.run.folder)) {
    fail_user("init.from is {}, but there is no such folder; train that model first, or set init.from "
              "to a run, checkpoint or Hugging Face folder",
              start);
  }
  RunFolder folder(recipe.run.folder);
  check_output("--json", command.json_path);
  log_to_file((fs::path(recipe.run.folder) / "train.log").string());

  const std::unique_ptr<HybridModel> model = make_model(recipe);
  std::optional<CheckpointContent> checkpoint = Store(recipe.run.folder).load_newest();
  std::string origin;
  std::string source_tokenizer;  // digest
  if (checkpoint) {
    refuse_changed_keys(*checkpoint, recipe);
    origin = origin_of(*checkpoint);
    log_info("continuing {} after step {}", recipe.run.folder, checkpoint->step);
  } else if (!recipe.init.from.empty()) {
    const CheckpointContent source = load_weights_of(recipe.init.from);
    origin = origin_of(source);
    source_tokenizer = nlohmann::json::parse(source.state).value("tokenizer_digest", "");
    load_weights(*model, source, recipe.init.from);
    log_info("weights from {} (step {})", recipe.init.from, source.step);
  }
  TrainerOptions options = trainer_options(recipe);
  std::optional<Extension> extension;
  if (recipe.extend.from_context > 0) {
    extension.emplace(recipe, *model);
    if (!checkpoint) {
      extension->measure_start();
    } else {
      extension->refuse_failed(checkpoint->step);
    }
    options.at_stage_end = [&extension](int64_t step, const ContextPlan& plan) {
      return extension->at_stage_end(step, plan.length);
    };
  }
  options.instruction_set = std::string(name_of(active_isa()));
  options.origin = origin;
  options.allow_different_cpu = command.allow_different_cpu;
  options.peak_flops = peak_flops(dtype_of(recipe.train.precision));
  Trainer trainer(*model, options, checkpoint);
  checkpoint.reset();  // three times the parameters
  const std::string data_tokenizer = trainer.loader().tokenizer_digest();
  SIDEWINDER_REQUIRE(source_tokenizer.empty() || source_tokenizer == data_tokenizer,
                     "init.from, {}, was trained with the tokenizer of digest {} but the data was "
                     "made with {}; its ids mean other texts; tokenize the data with the tokenizer of "
                     "{}",
                     recipe.init.from, source_tokenizer, data_tokenizer, recipe.init.from);
  copy_tokenizer(recipe);  // of data that is known to be the run's
  log_header(*model, recipe, trainer, options.peak_flops);
  const double startup = seconds_since_start();
  log_info("first step {:.2f} s after the start", startup);
  folder.begin_run();
  const ExitCode code = trainer.run();
  print_summary(recipe, trainer, code);
  if (extension) extension->print();

  if (!command.json_path.empty()) {
    const RunSummary& summary = trainer.summary();
    nlohmann::json result = {{"run_folder", recipe.run.folder},
                             {"steps", trainer.steps_done()},
                             {"train_loss", summary.recent_loss},
                             {"tokens_per_second", summary.tokens_per_second},
                             {"mfu", summary.mfu},
                             {"startup_seconds", startup},
                             {"data_wait_share", summary.wait_share},
                             {"background_saves", summary.saves},
                             {"stall_seconds", summary.stall_seconds},
                             {"copy_seconds", summary.copy_seconds},
                             {"peak_memory_bytes", allocator_of({}).statistics().bytes_peak},
                             {"peak_flops", options.peak_flops}};
    if (const auto validation = trainer.last_validation()) {
      result["validation_loss"] = validation->loss;
      result["validation_targets"] = validation->targets;
      result["validation_bits_per_byte"] = validation->bits_per_byte();
    }
    write_text_file(command.json_path, result.dump(2));
  }
  return code;
}

}  // namespace sidewinder
