#pragma once
// What speaks against rotary scaling and context extensions before any of them is run. Pure
// functions of options.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/options.h"
#include "trainer/context_schedule.h"

namespace sidewinder {

// Scaling that no query can see, or whose factor does not lead from the original context to the
// distances that queries of this block see in rows of `context` tokens; nothing where the block
// allows a mismatch or is not scaled. `path` is the block's, as in model.block.w, and `context_key`
// the key that says the context.
std::optional<ContextProblem> scaling_problem(const BlockOptions& block, const std::string& path,
                                              int64_t context, const std::string& context_key);

// A model and the rows it is trained with. If the model is made for longer ones (max_context),
// these count for scaling: rows may be shorter than the context that is aimed at.
struct ExtensionEnd {
  const ModelOptions& model;
  int64_t context;
};

// Whether `after` continues the weights of `before` at a longer context. Blocks are compared by
// their place, letters may differ. Problems:
//   - other blocks than before, or other heads, rotary parts or kinds of position
//   - blocks without rotary positions that are listed for scaling
//   - scaling from what is scaled already, instead of from the original base and context with the
//     total factor
//   - an original context that is not the one the model was trained at
//   - everything that scaling_problem() finds
//   - a context that does not grow, and no block that sees further than before
std::vector<ContextProblem> extension_problems(const ExtensionEnd& before,
                                               const ExtensionEnd& after);

}  // namespace sidewinder
