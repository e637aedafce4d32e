#pragma once
// Documents that go on in later steps (LongDocuments::continue_state). Row i of every step is lane
// i: where the last document of a row goes on, the next row of the lane starts from the states that
// the row left, as constants: no gradient flows back into the step before.
//
// The states cannot be had again from the data, since the weights that made them are gone. So they
// are saved with the run, of the documents under way alone.

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/store.h"
#include "data/batch.h"
#include "model/model.h"
#include "trainer/context_schedule.h"
#include "trainer/options.h"

namespace sidewinder {

// What keeps documents from going on with their states, in terms of recipe keys.
std::vector<ContextProblem> lane_problems(const DataOptions& data, const ModelOptions& model);

class Lanes {
 public:
  // Of a model with these blocks, one letter each.
  explicit Lanes(std::string letters) : letters_(std::move(letters)) {}

  // Lanes from `rows` on are gone.
  void resize(int64_t rows) { lanes_.resize(static_cast<size_t>(rows)); }
  // What the rows of a micro-batch start from, the first of them being lane `first`; empty if none
  // is carried. A carried row whose lane has no state starts from an empty one.
  LaneStates before(const Batch& micro, int64_t first) const;
  // Keeps what rows left whose last documents go on.
  void keep(const Batch& micro, int64_t first, const LaneStates& after);

  // Documents under way.
  int64_t count() const;
  void clear() { lanes_.assign(lanes_.size(), {}); }
  // Attention of all blocks of a letter starts anew in them.
  void forget_keys(char letter);

  // lanes/3/blocks.0/scan and so on.
  void save(std::vector<NamedTensor>& tensors) const;
  // Error{environment} for names or shapes that no run of this model saves.
  void load(const std::vector<NamedTensor>& tensors, int64_t rows);

 private:
  std::string letters_;
  std::vector<LaneStates> lanes_;  // of one row each; empty: no document is under way
};

}  // namespace sidewinder
