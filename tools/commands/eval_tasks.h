#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace sidewinder {

struct EvalTasksCommand {
  std::string model;      // run, checkpoint or Hugging Face folder
  std::string precision;  // f32, bf16 or f64; empty: the recipe's
  std::string tokenizer;  // file, or "bytes"; empty: the one of the run
  std::string tasks;      // "passkey,niah:needles=4"
  std::string lengths;    // "1024,2048"; empty: the recipe's context
  int64_t depths = 11;    // so many from 0 to 1; 1: the middle
  int64_t trials = 20;    // of each length and depth
  std::string haystack;   // text file or folder; empty: noise
  uint64_t seed = 0;
  bool bos = false;
  std::string trials_path;  // JSONL with every trial, or empty
  std::vector<std::string> sets;  // key=value, over the recipe of the model
  std::string json_path;
  std::string report_path;  // HTML page with pictures
};

// Asks the model tasks of data/tasks and prints scores by length and depth. The JSON:
//
//   {"model": …, "step": …, "trials": 20, "seed": 0, "haystack": "noise",
//    "tasks": [{"task": "passkey", "mean": 0.95,
//               "cells": [{"length": 1024, "depth": 0.1, "trials": 20, "score": 0.95}, …]}, …],
//    "ruler": {"by_length": [{"length": 4096, "score": 95.5}, …], "mean": …, "increasing": …,
//              "decreasing": …, "effective_length": …}}
//
// Scores are from 0 to 1 (RULER's, as published, in percent), depths from 0 (begin) to 1 (end);
// tasks that draw their places have cells without depth.
ExitCode eval_tasks(const EvalTasksCommand& command);

}  // namespace sidewinder
