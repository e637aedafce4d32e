#include <algorithm>
#include <numeric>
#include <utility>

#include "data/corpus.h"
#include "data/loader.h"
#include "data/mixture.h"
#include "data/row_stream.h"
#include "kernels/base/check.h"

namespace sidewinder {

struct DocumentRows::State {
  std::vector<Corpus> corpora;  // one
  DataOptions options;
  std::vector<int64_t> documents;
  size_t next_document = 0;
  int64_t num_bytes = 0;
  int64_t num_tokens = 0;
  int64_t row_length = 0;
  std::vector<PackedRow> planned;
  size_t next_planned = 0;
  std::vector<PackedRow> lanes;  // what is left of each, if documents go on with their states

  Corpus& corpus() { return corpora.front(); }
  bool by_lanes() const { return options.long_documents == LongDocuments::continue_state; }

  // The next row of a lane, or none.
  PackedRow next_of(PackedRow& lane) {
    if (lane.empty()) {
      if (next_planned == planned.size() && !plan()) return {};
      lane = std::move(planned[next_planned++]);
    }
    return by_lanes() ? take_row(lane, row_length) : std::exchange(lane, {});
  }

  // Packs the documents that follow into about packing_buffer rows.
  bool plan() {
    const bool last_has_slot = last_token_has_slot(options);
    std::vector<DocumentPiece> pieces;
    int64_t slots = 0;
    while (next_document < documents.size() && slots < options.packing_buffer * row_length) {
      const int64_t document = documents[next_document++];
      const int64_t whole = slots_of(corpus().document_length(document), last_has_slot);
      if (whole == 0) continue;
      pieces.push_back({0, document, 0, whole});
      slots += whole;
    }
    planned = by_lanes() ? pack_whole(pieces, row_length) : pack_best_fit(pieces, row_length);
    next_planned = 0;
    return !planned.empty();
  }
};

DocumentRows::DocumentRows(const std::string& folder, const DataOptions& options,
                           int64_t max_tokens)
    : state_(std::make_unique<State>()) {
  SIDEWINDER_REQUIRE(max_tokens >= 0, "the number of validation tokens is {}; 0 means all",
                     max_tokens);
  SIDEWINDER_REQUIRE(options.packing_buffer >= 1,
                     "data.packing_buffer is {}; it must be at least 1", options.packing_buffer);
  state_->options = options;
  state_->corpora.emplace_back(folder);
  Corpus& corpus = state_->corpus();
  const auto count = static_cast<size_t>(corpus.documents());
  state_->documents.resize(count);
  std::iota(state_->documents.begin(), state_->documents.end(), 0);
  if (max_tokens > 0 && corpus.tokens() > max_tokens) {
    // A part that stands for the whole: shards are in the order of file names, so the first
    // documents would be all of one kind.
    const Permutation order(count, 0, 0);
    int64_t tokens = 0;
    size_t used = 0;
    for (; used < count && tokens < max_tokens; ++used) {
      state_->documents[used] = static_cast<int64_t>(order(used));
      tokens += corpus.document_length(state_->documents[used]);
    }
    state_->documents.resize(used);
    std::sort(state_->documents.begin(), state_->documents.end());
  }
  for (const int64_t document : state_->documents) {
    state_->num_bytes += corpus.document_bytes(document);
    state_->num_tokens += corpus.document_length(document);
  }
}

DocumentRows::~DocumentRows() = default;

Batch DocumentRows::next(int64_t rows, int64_t row_length) {
  Batch batch = empty_batch(rows, row_length);
  SIDEWINDER_REQUIRE(state_->row_length == 0 || state_->row_length == row_length,
                     "validation rows must keep their length: {} tokens, then {}",
                     state_->row_length, row_length);
  state_->row_length = row_length;
  std::vector<PackedRow>& lanes = state_->lanes;
  if (lanes.empty()) lanes.resize(static_cast<size_t>(rows));
  SIDEWINDER_REQUIRE(!state_->by_lanes() || static_cast<int64_t>(lanes.size()) == rows,
                     "validation batches must keep their rows where documents go on: {}, then {}",
                     lanes.size(), rows);
  lanes.resize(static_cast<size_t>(rows));
  const RowFill fill = {
      .last_has_slot = last_token_has_slot(state_->options),
      .mask_joints = state_->options.mask_joints,
      .keep_positions = state_->options.long_documents == LongDocuments::continue_positions ||
                        state_->by_lanes()};
  // Lanes that have come to their end while others go on give rows of padding, the last ones none.
  int64_t filled = 0;
  for (size_t row = 0; row < lanes.size(); ++row) {
    batch.carried[row] = lanes[row].empty() ? 0 : 1;
    const PackedRow pieces = state_->next_of(lanes[row]);
    batch.goes_on[row] = lanes[row].empty() ? 0 : 1;
    if (!pieces.empty()) filled = static_cast<int64_t>(row) + 1;
    fill_row(state_->corpora, pieces, fill, static_cast<int64_t>(row), batch);
  }
  batch.rows = filled;
  batch.num_padding -= (rows - filled) * row_length;
  while (!batch.document_starts.empty() && batch.document_starts.back() >= filled * row_length) {
    batch.document_starts.pop_back();
    batch.first_positions.pop_back();
  }
  batch.carried.resize(static_cast<size_t>(filled));
  batch.goes_on.resize(static_cast<size_t>(filled));
  batch.tokens.resize(static_cast<size_t>(filled * row_length));
  batch.targets.resize(static_cast<size_t>(filled * row_length));
  return batch;
}

int64_t DocumentRows::num_bytes() const { return state_->num_bytes; }
int64_t DocumentRows::vocabulary() const { return state_->corpora.front().vocabulary(); }
const std::string& DocumentRows::tokenizer_digest() const {
  return state_->corpora.front().index().tokenizer_digest;
}
int64_t DocumentRows::tokens() const { return state_->num_tokens; }
std::string DocumentRows::part_folder() const { return state_->corpus().part_folder(); }

}  // namespace sidewinder
