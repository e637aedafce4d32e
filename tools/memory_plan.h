#pragma once
// How much memory a recipe's training takes, found by a dry run of its first step
// (kernels/tensor/dry_run.h), and whether this machine has it.

#include <cstdint>
#include <string>

#include "recipes/recipe.h"

namespace sidewinder {

struct MemoryPlan {
  int64_t parameter_bytes = 0;
  int64_t moment_bytes = 0;  // of the optimizer
  // Activations kept for the backward pass, gradients, weights as products read them, work space:
  // what there is of each when their sum is greatest.
  int64_t step_bytes = 0;
  int64_t copy_bytes = 0;  // of the state, that a checkpoint is written from while training goes on
  int64_t peak_bytes = 0;  // high-water mark of tensors while training: the sum
  int64_t resume_bytes = 0;  // the same while a checkpoint is read: it stands beside what it fills

  int64_t state_bytes() const { return parameter_bytes + moment_bytes; }
};

// Rows are full and one document each, the dearest case. Of micro-batches of millions of tokens,
// which take memory to go through, what shorter ones need is continued in a line. Error{user} for
// f64, whose kernels compute in a dry run.
MemoryPlan plan_memory(const Recipe& recipe);

// What this process may still take: available memory of the machine, or what its control groups
// leave if that is less.
int64_t available_memory();

// What tensors take beside the parameters, at most, while the losses of one row are computed.
int64_t evaluation_bytes(const Recipe& recipe, int64_t row_length);
// Error{environment} if this machine does not have that. `option` is what gives the length. What
// f64 takes is not known.
void require_memory_to_evaluate(const Recipe& recipe, int64_t row_length,
                                const std::string& option);

// Empty if the recipe fits into `available` bytes; otherwise what it needs and which changes would
// make it fit, each with what it then needs.
std::string memory_problem(const Recipe& recipe, int64_t available);

}  // namespace sidewinder
