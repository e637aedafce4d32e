// The one binary: parses the command line, runs a command, turns an Error into a message and an exit
// code.
#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/error.h"
#include "recipes/diagnostics.h"
#include "recipes/field.h"
#include "tools/assemble.h"
#include "tools/commands/bench_data.h"
#include "tools/commands/bench_documents.h"
#include "tools/commands/bench_kernels.h"
#include "tools/commands/bench_recipe.h"
#include "tools/commands/convert.h"
#include "tools/commands/doctor.h"
#include "tools/commands/eval.h"
#include "tools/commands/eval_lengths.h"
#include "tools/commands/eval_tasks.h"
#include "tools/commands/generate.h"
#include "tools/commands/inspect.h"
#include "tools/commands/plan.h"
#include "tools/commands/plot.h"
#include "tools/commands/recipe.h"
#include "tools/commands/selftest.h"
#include "tools/commands/show_pattern.h"
#include "tools/commands/show_rope.h"
#include "tools/commands/show_schedule.h"
#include "tools/commands/synthesize.h"
#include "tools/commands/task_spec.h"
#include "tools/commands/tokenize.h"
#include "tools/commands/train.h"

namespace sidewinder {
namespace {

using Run = std::function<ExitCode()>;

// An option whose value is a number. One outside of `range` is Error{user} before anything is read.
template <typename Number, typename Value>
CLI::Option* add_number(CLI::App& command, const std::string& name, Value& value,
                        const Range<Number>& range, const std::string& help) {
  return command.add_option(name, value, help)->check([name, range](const std::string& text) {
    Number number{};
    if (!CLI::detail::lexical_cast(text, number) || !std::isfinite(static_cast<double>(number)) ||
        !range.holds(number)) {
      FieldInfo info;
      info.type = std::is_integral_v<Number> ? "integer" : "number";
      info.range = range.text();
      fail_user("{} is {}; {}", name, text, info.wanted());
    }
    return std::string();
  });
}

// An option that names a file to write when the work is done; whether that can be is found out
// before.
CLI::Option* add_output(CLI::App& command, const std::string& name, std::string& path,
                        const std::string& help) {
  return command.add_option(name, path, help)
      ->type_name("FILE")
      ->check([name](const std::string& text) {
        check_output(name, text);
        return std::string();
      });
}

constexpr const char* kJsonHelp = "also write the result to FILE as JSON";

void add_json(CLI::App& command, std::string& path) {
  add_output(command, "--json", path, kJsonHelp);
}

void add_tokenize(CLI::App& app, Run& run) {
  auto options = std::make_shared<TokenizeCommand>();
  CLI::App& command = *app.add_subcommand(
      "tokenize", "Make a corpus of token shards from text; interrupted, it continues when started again");
  command.add_option("inputs", options->inputs,
                     "files and folders: UTF-8 text (a file is a document) or .jsonl (a record is one); "
                     "also as .gz, .xz, .zst")
      ->required();
  command.add_option("--output", options->output, "folder of the corpus")->type_name("FOLDER")->required();
  auto* tokenizer =
      command
          .add_option(
              "--tokenizer", options->tokenizer,
              "SentencePiece model, or bytes (id = byte, vocabulary 256); default: train one")
          ->type_name("FILE");
  add_number<int64_t>(command, "--vocabulary", options->vocabulary,
                      {.at_least = kLeastVocabulary, .at_most = kMostVocabulary},
                      "pieces of a trained tokenizer")
      ->excludes(tokenizer)
      ->capture_default_str();
  command.add_option("--model-type", options->model_type, "bpe or unigram, of a trained tokenizer")
      ->excludes(tokenizer)
      ->capture_default_str();
  add_number<int64_t>(command, "--sample-mib", options->sample_mib,
                      {.at_least = 1, .at_most = 1 << 20},
                      "text to train the tokenizer on, at most")
      ->excludes(tokenizer)
      ->capture_default_str();
  command.add_option("--field", options->field, "field of JSON records that holds the text")
      ->capture_default_str();
  command.add_option("--invalid", options->invalid,
                     "text that is not UTF-8: error, replace (by U+FFFD) or skip (the document)")
      ->capture_default_str();
  command.add_option("--bos", options->bos, "before each document: none, model (the model's id) or an id")
      ->capture_default_str();
  command.add_option("--eos", options->eos,
                     "after each document: none, model or an id (default: model; none for bytes)");
  add_number<double>(command, "--hold-out", options->hold_out, {.at_least = 0, .below = 1},
                     "share of documents kept for validation, by hash of their name; 0: none")
      ->capture_default_str();
  add_number<int64_t>(
      command, "--join-bytes", options->join_bytes, {.at_least = 0},
      "join short texts, with BOS and EOS around each, to documents of this size; 0: not")
      ->capture_default_str();
  command.add_flag("--keep-duplicates", options->keep_duplicates,
                   "keep texts equal to an earlier one, for made texts; default: the first alone");
  add_number<int64_t>(command, "--shard-tokens", options->shard_tokens, {.at_least = 1},
                      "tokens after which a shard is finished")
      ->capture_default_str();
  add_number<int64_t>(command, "--max-document-mib", options->max_document_mib,
                      {.at_least = 1, .at_most = 1 << 20}, "longer documents are an error")
      ->capture_default_str();
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return tokenize(*options); }; });
}

CLI::Option* add_sets(CLI::App& command, std::vector<std::string>& sets) {
  return command
      .add_option("--set", sets, "override a recipe key, e.g. --set train.steps=100; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

void add_synthesize(CLI::App& app, Run& run) {
  auto options = std::make_shared<SynthesizeCommand>();
  CLI::App& command = *app.add_subcommand(
      "synthesize", "Write training documents of a retrieval task as JSON lines");
  command.add_option("task", options->task, "as in eval --tasks, e.g. passkey or copy:most=4:distance=16")
      ->required();
  add_output(command, "output", options->output, "JSONL file to write")->required();
  add_number<int64_t>(command, "--documents", options->documents, {.at_least = 1}, "how many")
      ->capture_default_str();
  command.add_option("--lengths", options->lengths, "tokens of a document; several: each draws one")
      ->type_name("N,N,…")
      ->capture_default_str();
  command.add_option("--tokenizer", options->tokenizer, "SentencePiece model that counts them, or bytes")
      ->type_name("FILE")
      ->capture_default_str();
  command.add_option("--haystack", options->haystack, "text file or folder to hide things in (default: noise)")
      ->type_name("PATH");
  add_number<int64_t>(command, "--seed", options->seed, {.at_least = 0},
                      "the same seed gives the same documents")
      ->capture_default_str();
  command.footer([] { return "\n" + task_help(); });
  command.callback([options, &run] { run = [options] { return synthesize(*options); }; });
}

void add_recipe(CLI::App& app, Run& run) {
  struct Options {
    std::string path, key, output, json_path;
    std::vector<std::string> sets;
  };
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand("recipe", "Check, show and explain recipes");
  command.require_subcommand(1);
  const auto code = [](int value) { return static_cast<ExitCode>(value); };
  CLI::App& check = *command.add_subcommand("check", "Read a recipe and report every mistake in it");
  check.add_option("recipe", options->path, "recipe file (TOML)")->required();
  add_sets(check, options->sets);
  add_json(check, options->json_path);
  check.callback([=, &run] {
    run = [=] { return code(recipe_check(options->path, options->sets, options->json_path)); };
  });
  CLI::App& show = *command.add_subcommand("show", "Print a recipe with all defaults");
  show.add_option("recipe", options->path, "recipe file (TOML)")->required();
  add_sets(show, options->sets);
  add_json(show, options->json_path);
  show.callback([=, &run] {
    run = [=] { return code(recipe_show(options->path, options->sets, options->json_path)); };
  });
  CLI::App& explain = *command.add_subcommand("explain", "What a key or a section means");
  explain.add_option("key", options->key, "e.g. train.precision or train")->required();
  add_json(explain, options->json_path);
  explain.callback([=, &run] { run = [=] { return code(recipe_explain(options->key, options->json_path)); }; });
  CLI::App& docs = *command.add_subcommand("docs", "Write the reference page of all keys");
  add_output(docs, "output", options->output, "file to write (default: standard output)");
  docs.callback([=, &run] { run = [=] { return code(recipe_docs(options->output)); }; });
}

void add_show_schedule(CLI::App& show, Run& run) {
  auto options = std::make_shared<ShowScheduleCommand>();
  CLI::App& command =
      *show.add_subcommand("schedule", "How the context of a recipe grows: lengths, rows, windows");
  command.add_option("recipe", options->recipe, "recipe file (TOML)")->required();
  add_sets(command, options->sets);
  add_number<int64_t>(command, "--rows", options->rows, {.at_least = 0},
                      "rows of the table, at most; 0: all")
      ->capture_default_str();
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return show_schedule(*options); }; });
}

void add_show_pattern(CLI::App& show, Run& run) {
  auto options = std::make_shared<ShowPatternCommand>();
  CLI::App& command = *show.add_subcommand(
      "pattern", "Which keys each query sees: a grid, the visible pairs and the tiles to visit");
  command.add_option("name", options->name, "full, window, dilated, ...; one that is unknown lists all")
      ->required();
  add_number<int64_t>(command, "--length", options->length, {}, "tokens of the document")
      ->capture_default_str();
  add_number<int64_t>(command, "--tile", options->tile, {}, "queries and keys of a square tile")
      ->capture_default_str();
  // Named as the keys of [model.block.<letter>].
  for (auto& [key, value] : options->values) {
    std::string flag = "--" + key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    add_number<int64_t>(command, flag, value, {}, "as in a recipe");
  }
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return show_pattern(*options); }; });
}

void add_show_rope(CLI::App& show, Run& run) {
  auto options = std::make_shared<ShowRopeCommand>();
  CLI::App& command = *show.add_subcommand(
      "rope", "How the attention blocks of a recipe turn positions, pair by pair");
  command.add_option("recipe", options->recipe, "recipe file (TOML)")->required();
  add_sets(command, options->sets);
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return show_rope(*options); }; });
}

void add_show(CLI::App& app, Run& run) {
  CLI::App& command =
      *app.add_subcommand("show", "Print what follows from a recipe, or from a pattern of attention");
  command.require_subcommand(1);
  add_show_rope(command, run);
  add_show_schedule(command, run);
  add_show_pattern(command, run);
}

void add_training(CLI::App& app, Run& run, const std::string& name, const std::string& help) {
  auto options = std::make_shared<TrainCommand>();
  options->needs_extension = name == "extend";
  CLI::App& command = *app.add_subcommand(name, help);
  command.add_option("recipe", options->recipe, "recipe file (TOML)")->required();
  add_sets(command, options->sets);
  command.add_flag("--fresh", options->fresh, "start anew in a folder beside a run that has checkpoints");
  command.add_flag("--allow-different-cpu", options->allow_different_cpu,
                   "continue although another instruction set made the checkpoint (other bits)");
  command.add_flag("--allow-too-little-memory", options->allow_too_little_memory,
                   "start although the run needs more memory than there is (see `plan`)");
  // Checked when there is a run folder: it may lie there.
  command.add_option("--json", options->json_path, kJsonHelp)->type_name("FILE");
  command.callback([options, &run] { run = [options] { return train(*options); }; });
}

void add_plan(CLI::App& app, Run& run) {
  auto options = std::make_shared<PlanCommand>();
  CLI::App& command = *app.add_subcommand(
      "plan", "What a run will cost: FLOPs, memory and time, by context length, without running it");
  command.add_option("recipe", options->recipe,
                     "recipe file (TOML); without one, the cost tables that are usually quoted");
  add_sets(command, options->sets);
  add_number<int64_t>(command, "--lengths", options->lengths, {.at_least = 1},
                      "of the tables (default: 1K to 2M)")
      ->delimiter(',')
      ->type_name("N,N,...");
  add_number<double>(command, "--mfu", options->mfu, {.at_most = 1, .above = 0},
                     "share of the machine's peak to suppose for the time")
      ->capture_default_str();
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return plan(*options); }; });
}

void add_model_options(CLI::App& command, std::string& precision, std::string& tokenizer,
                       std::vector<std::string>& sets) {
  command.add_option("--precision", precision, "compute in f32, bf16 or f64 (default: the recipe's)");
  command.add_option("--tokenizer", tokenizer,
                     "of a Hugging Face folder that has no tokenizer.model: file, or bytes")
      ->type_name("FILE");
  command
      .add_option("--set", sets,
                  "use the model with another key of its recipe, e.g. --set "
                  "model.block.f.rope_scaling=dynamic; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

void add_eval(CLI::App& app, Run& run) {
  auto options = std::make_shared<EvalCommand>();
  auto tasks = std::make_shared<EvalTasksCommand>();
  auto by_length = std::make_shared<EvalLengthsCommand>();
  CLI::App& command = *app.add_subcommand(
      "eval", "Loss, perplexity and bits per byte of a text or shards; scores of retrieval tasks");
  command.add_option("model", options->model, "run, checkpoint or Hugging Face folder")->required();
  add_model_options(command, options->precision, options->tokenizer, options->sets);
  auto* data = command.add_option("--data", options->data, "folder of token shards")->type_name("FOLDER");
  auto* text = command.add_option("--text", options->text, "UTF-8 text file, one document")->type_name("FILE");
  auto* context = add_number<int64_t>(command, "--context", options->context, {.at_least = 1},
                                      "tokens per row (default: the recipe's)");
  auto* most = add_number<int64_t>(command, "--max-tokens", options->max_tokens, {.at_least = 0},
                                   "stop after this many (default: all)");
  auto* baselines =
      command.add_flag("--baselines", options->baselines,
                       "compare with unigram and bigram models counted on the run's training tokens");
  auto* named =
      command.add_option("--tasks", tasks->tasks, "instead: tasks, e.g. passkey,niah:needles=4 (see below)")
          ->type_name("TASK,TASK,…")
          ->group("Retrieval tasks");
  for (CLI::Option* other : {data, text, context, most, baselines}) named->excludes(other);
  const auto of_tasks = [&](CLI::Option* option) {
    return option->needs(named)->group("Retrieval tasks");
  };
  using Options = std::vector<CLI::Option*>;
  auto* lengths =
      command
          .add_option("--lengths", by_length->lengths,
                      "perplexity at these context lengths; of tasks: tokens of prompt and answer")
          ->type_name("N,N,…");
  auto* stream = command.add_flag(
      "--stream", by_length->stream,
      "in one pass that carries caches and states, in bounded memory; for positions within the "
      "cache see rope_positions (recipe explain)");
  std::vector<std::pair<CLI::Option*, Options>> of_lengths;  // each needs one of those
  const auto add_length = [&](CLI::Option* option, const Options& needed) {
    of_lengths.emplace_back(option, needed);
    return option->excludes(named)->group("Perplexity by length");
  };
  add_length(stream, {stream});
  for (CLI::Option* other : {context, baselines}) other->excludes(lengths)->excludes(stream);
  add_length(
      add_number<int64_t>(command, "--stride", by_length->stride, {.at_least = 0},
                          "a window of each length every so many tokens (default: no overlap)"),
      {lengths});
  add_length(command.add_flag("--single-window", by_length->single_window,
                              "instead: the first tokens of every document that is as long"),
             {lengths});
  add_length(add_number<int64_t>(command, "--chunk", by_length->chunk, {.at_least = 1},
                                 "tokens of a stream read at once"),
             {stream})
      ->capture_default_str();
  add_length(command.add_flag("--join", by_length->join, "all documents as one"),
             {lengths, stream});
  add_output(command, "--report", options->report_path, "also write a page with pictures to FILE")
      ->type_name("FILE.html");
  of_tasks(add_number<int64_t>(command, "--depths", tasks->depths, {.at_least = 1, .at_most = 1000},
                               "how many places from begin to end"))
      ->capture_default_str();
  of_tasks(add_number<int64_t>(command, "--trials", tasks->trials, {.at_least = 1},
                               "examples of each length and depth"))
      ->capture_default_str();
  of_tasks(command.add_option("--haystack", tasks->haystack,
                              "text file or folder to hide things in (default: noise)"))
      ->type_name("PATH");
  of_tasks(add_number<int64_t>(command, "--seed", tasks->seed, {.at_least = 0},
                               "the same seed gives the same examples"))
      ->capture_default_str();
  of_tasks(command.add_flag("--bos", tasks->bos, "start prompts with the tokenizer's BOS"));
  of_tasks(add_output(command, "--trials-to", tasks->trials_path,
                      "also write every trial to FILE as JSON lines"));
  add_json(command, options->json_path);
  command.footer([] { return "\n" + task_help() + "\nA setting is written behind its task: kv:pairs=75. ruler means all of RULER's tasks."; });
  command.callback([options, tasks, by_length, of_lengths, &run] {
    run = [options, tasks, by_length, of_lengths] {
      const bool is_by_length = !by_length->lengths.empty() || by_length->stream;
      for (const auto& [option, needed] : of_lengths) {
        std::vector<std::string> names;
        size_t given = 0;
        for (const CLI::Option* other : needed) {
          names.push_back(other->get_name());
          given += other->count();
        }
        SIDEWINDER_REQUIRE(option->count() == 0 || given > 0,
                           "{} has no effect without {}; add it, or leave {} out",
                           option->get_name(), word_list(names, "or"), option->get_name());
      }
      if (tasks->tasks.empty() && is_by_length) {
        EvalLengthsCommand& one = *by_length;
        one.model = options->model;
        one.precision = options->precision;
        one.tokenizer = options->tokenizer;
        one.data = options->data;
        one.text = options->text;
        one.max_tokens = options->max_tokens;
        one.sets = options->sets;
        one.json_path = options->json_path;
        one.report_path = options->report_path;
        return eval_lengths(one);
      }
      if (tasks->tasks.empty()) return eval(*options);
      tasks->lengths = by_length->lengths;
      tasks->model = options->model;
      tasks->precision = options->precision;
      tasks->tokenizer = options->tokenizer;
      tasks->sets = options->sets;
      tasks->json_path = options->json_path;
      tasks->report_path = options->report_path;
      return eval_tasks(*tasks);
    };
  });
}

void add_plot(CLI::App& app, Run& run) {
  auto options = std::make_shared<PlotCommand>();
  CLI::App& command = *app.add_subcommand(
      "plot", "Draw results of eval: loss by length and position, heat maps of tasks");
  command.add_option("results", options->results, "JSON files that eval --json wrote")->required();
  add_output(command, "-o,--output", options->output, "FILE.svg or FILE.html")->required();
  command.add_option("--names", options->names, "for the legends, one per file (default: file names)")
      ->delimiter(',');
  command.callback([options, &run] { run = [options] { return plot(*options); }; });
}

void add_generate(CLI::App& app, Run& run) {
  auto options = std::make_shared<GenerateCommand>();
  CLI::App& command = *app.add_subcommand("generate", "Continue a prompt, token by token");
  command.add_option("model", options->model, "run, checkpoint or Hugging Face folder")->required();
  add_model_options(command, options->precision, options->tokenizer, options->sets);
  command.add_option("--prompt", options->prompt, "text to continue");
  command.add_flag("--bos", options->bos, "begin with the tokenizer's BOS, as imported models mostly want");
  add_number<int64_t>(command, "--tokens", options->tokens, {.at_least = 1}, "how many at most")
      ->capture_default_str();
  add_number<double>(command, "--temperature", options->temperature, {.at_least = 0},
                     "0: always the most likely token")
      ->capture_default_str();
  add_number<int64_t>(command, "--top-k", options->top_k, {.at_least = 0},
                      "choose among the k most likely; 0: all")
      ->capture_default_str();
  add_number<double>(command, "--top-p", options->top_p, {.at_most = 1, .above = 0},
                     "choose among the most likely that hold this probability")
      ->capture_default_str();
  add_number<int64_t>(command, "--seed", options->seed, {.at_least = 0},
                      "the same seed gives the same text")
      ->capture_default_str();
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return generate(*options); }; });
}

void add_convert(CLI::App& app, Run& run) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App& command = *app.add_subcommand(
      "convert", "Turn a Hugging Face model (llama, mistral, mamba) into a run folder, or a run into one");
  command.add_option("from", options->from, "Hugging Face folder, or run or checkpoint folder")->required();
  command.add_option("to", options->to, "folder to make")->required();
  command.add_option("--tokenizer", options->tokenizer,
                     "SentencePiece model, or bytes (default: the one in FROM)")
      ->type_name("FILE");
  command.add_option("--dtype", options->type,
                     "weights of a Hugging Face folder: f32, bf16 or f16 (default: as they came, else f32)");
  command.add_option("--max-file-size", options->max_file_bytes,
                     "of the files with the weights of a Hugging Face folder, as in 2GB")
      ->transform(CLI::AsSizeValue(true))
      ->transform([](const std::string& text) {
        SIDEWINDER_REQUIRE(text.find_first_of("123456789") != std::string::npos && text[0] != '-',
                           "--max-file-size is {}; use a size above 0, as in 2GB", text);
        return text;
      })
      ->default_str("5GB");
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return convert(*options); }; });
}

void add_inspect(CLI::App& app, Run& run) {
  auto options = std::make_shared<InspectCommand>();
  CLI::App& command = *app.add_subcommand("inspect", "Show checkpoints, models, corpora and shards as tables");
  command.add_option("path", options->path,
                     "run, checkpoint, Hugging Face or corpus folder, a .safetensors file or a token shard")
      ->required();
  command.add_flag("--tensors", options->tensors, "of a checkpoint or model: the values of every tensor");
  add_json(command, options->json_path);
  command.callback([options, &run] { run = [options] { return inspect(*options); }; });
}

void add_bench(CLI::App& app, Run& run) {
  struct Options {
    std::string what;
    BenchKernelsOptions kernels;
    BenchDataOptions data;
    BenchRecipeCommand recipe;
    bool documents = false;
    std::string json_path;
  };
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand("bench", "Speed of the kernels, of the data path, or of real steps of a recipe");
  command.add_option("what", options->what, "\"kernels\", \"data\", or a recipe file")->required();
  using Kinds = std::vector<std::string>;
  std::vector<std::pair<CLI::Option*, Kinds>> of_kinds;  // options that others would ignore
  const auto only_in = [&](const Kinds& kinds, CLI::Option* option) {
    of_kinds.emplace_back(option, kinds);
    return option->group("Of bench " + word_list(kinds, "or"));
  };
  const Kinds recipes = {"RECIPE", "RECIPE --documents"};
  only_in({"kernels", "data", "RECIPE --documents"},
          command.add_flag("--check", options->kernels.check, "exit with 1 if a bar is missed"));
  only_in({"kernels", "data"}, command.add_option("--only", options->kernels.only,
                                                  "those whose name contains this; repeatable"))
      ->allow_extra_args(false);
  only_in({"data"}, command.add_option("--text", options->data.text,
                                       "text file to tokenize instead of a made-up one"));
  only_in({"data"}, command.add_option("--tokenizer", options->data.tokenizers,
                                       "SentencePiece model instead of trained ones; repeatable"))
      ->allow_extra_args(false);
  only_in(recipes, add_number<int64_t>(command, "--steps", options->recipe.steps, {.at_least = 1},
                                       "steps to measure"))
      ->capture_default_str();
  only_in({"RECIPE --documents"},
          command.add_flag("--documents", options->documents,
                           "what short documents and random lengths do to the time of a step"));
  only_in({"RECIPE"}, command.add_flag("--profile", options->recipe.profile,
                                       "time, share of the peak and idle threads by operation"));
  only_in(recipes, add_sets(command, options->recipe.sets));
  add_json(command, options->json_path);
  command.callback([options, of_kinds, &run] {
    run = [options, of_kinds] {
      const bool is_recipe = options->what != "kernels" && options->what != "data";
      const std::string kind = !is_recipe           ? options->what
                               : options->documents ? "RECIPE --documents"
                                                    : "RECIPE";
      for (const auto& [option, kinds] : of_kinds) {
        SIDEWINDER_REQUIRE(
            option->count() == 0 || std::find(kinds.begin(), kinds.end(), kind) != kinds.end(),
            "{} has no effect in bench {}; leave it out, or use it in bench {}", option->get_name(),
            kind, word_list(kinds, "or"));
      }
      if (options->what == "kernels") {
        options->kernels.json_path = options->json_path;
        return bench_kernels(options->kernels);
      }
      if (options->what == "data") {
        options->data.check = options->kernels.check;
        options->data.only = options->kernels.only;
        options->data.json_path = options->json_path;
        return bench_data(options->data);
      }
      if (options->documents) {
        return bench_documents({.recipe = options->what,
                                .sets = options->recipe.sets,
                                .steps = options->recipe.steps,
                                .check = options->kernels.check,
                                .json_path = options->json_path});
      }
      options->recipe.recipe = options->what;
      options->recipe.json_path = options->json_path;
      return bench_recipe(options->recipe);
    };
  });
}

void add_doctor(CLI::App& app, Run& run) {
  auto json_path = std::make_shared<std::string>();
  CLI::App& command = *app.add_subcommand(
      "doctor", "What was found: processor, kernels, memory, libraries, CUDA plugin");
  add_json(command, *json_path);
  command.callback([json_path, &run] {
    run = [json_path] { return static_cast<ExitCode>(doctor(*json_path)); };
  });
}

void add_selftest(CLI::App& app, Run& run) {
  auto json_path = std::make_shared<std::string>();
  CLI::App& command =
      *app.add_subcommand("selftest", "Check every operation's results and gradients on this machine");
  add_json(command, *json_path);
  command.callback([json_path, &run] { run = [json_path] { return selftest(*json_path); }; });
}

// Error{user} where words name a command that there is not, or stop before one: the library only says
// that a subcommand is required.
void check_command(const CLI::App& app, int argc, char** argv) {
  const CLI::App* at = &app;
  std::string path;
  for (int i = 1;; ++i) {
    std::vector<std::string> names;
    const CLI::App* next = nullptr;
    for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; })) {
      names.push_back(command->get_name());
      if (i < argc && names.back() == argv[i]) next = command;
    }
    if (names.empty() || (i < argc && argv[i][0] == '-')) return;
    if (i == argc) {
      fail_user("name a command: sidewinder{} {}", path, word_list(names, "or"));
    }
    path += std::string(" ") + argv[i];
    if (next == nullptr) {
      const std::string nearest = nearest_name(argv[i], names);
      fail_user("there is no command \"{}\"{}\nthere are: {}", path.substr(1),
                nearest.empty() ? "" : "; did you mean " + nearest + "?", word_list(names));
    }
    at = next;
  }
}

ExitCode run_program(int argc, char** argv) {
  CLI::App app{"Sidewinder trains hybrid Mamba and attention language models from recipe files.",
               "sidewinder"};
  app.set_version_flag("--version", SIDEWINDER_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 a bar of bench --check is missed, 2 wrong recipe or argument,\n"
      "3 environment or data, 70 bug, 75 saved and wants to be started again, 79 too many\n"
      "non-finite steps. `sidewinder COMMAND --help` lists a command's options.");
  Run run;
  add_tokenize(app, run);
  add_training(app, run, "train", "Train a model from a recipe, or continue its run");
  add_training(app, run, "extend",
               "Extend the context of a trained model by a recipe with [extend], measured at every stage");
  add_plan(app, run);
  add_eval(app, run);
  add_plot(app, run);
  add_generate(app, run);
  add_convert(app, run);
  add_inspect(app, run);
  add_recipe(app, run);
  add_show(app, run);
  add_bench(app, run);
  add_selftest(app, run);
  add_doctor(app, run);
  add_synthesize(app, run);
  check_command(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ExitCode::success : ExitCode::user;
  }
  return run();
}

}  // namespace
}  // namespace sidewinder

namespace {

// fmt::print would throw where standard error cannot be written.
void complain(const std::string& text) { std::fputs((text + "\n").c_str(), stderr); }

}  // namespace

int main(int argc, char** argv) {
  using sidewinder::ExitCode;
  // A limit on the size of files is then an error of the write, as a full disk is.
  std::signal(SIGXFSZ, SIG_IGN);
  ExitCode code = ExitCode::bug;
  try {
    code = sidewinder::run_program(argc, argv);
  } catch (const sidewinder::Error& error) {
    // A recipe error begins with file:line:column, which editors look for at the start of a line.
    complain(fmt::format("sidewinder: stopped\n{}", error.what()));
    code = error.exit_code();
  } catch (const std::filesystem::filesystem_error& error) {
    complain(fmt::format("sidewinder: stopped\n{}; name a path that can be used", error.what()));
    code = ExitCode::environment;
  } catch (const std::system_error& error) {
    complain(fmt::format("sidewinder: stopped\n{}; see whether a disk is full or a limit of the "
                         "system is reached",
                         error.what()));
    code = ExitCode::environment;
  } catch (const std::bad_alloc&) {
    complain("sidewinder: out of memory; use a smaller model, context or micro-batch");
    code = ExitCode::environment;
  } catch (const std::exception& error) {
    complain(fmt::format("sidewinder: internal error: {}; this is a bug, please report it",
                         error.what()));
  }
  // A program that closed its standard output does not want it.
  if (std::fflush(stdout) != 0 && errno != EBADF && code == ExitCode::success) {
    complain(fmt::format("sidewinder: stopped\nstandard output cannot be written: {}; results are "
                         "missing there; make room or use another place",
                         std::strerror(errno)));
    code = ExitCode::environment;
  }
  return static_cast<int>(code);
}
