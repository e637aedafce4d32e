#pragma once
// From the sequence of documents to the sequence of packed rows, and the place in it.
//
// Rows are planned together: documents are taken until they fill `packing_buffer` rows, packed by
// best fit, and the rows shuffled. A plan is a pure function of the place where it starts, so a
// place in the stream is that start and the number of rows taken since. When the row length
// changes, the documents of the rows not taken are carried into a new plan.
//
// Documents that wait for longer rows (LongDocuments::defer) come, once they fit, in the order in
// which they were drawn, and fill at most half of a plan: the rest is drawn anew, so that the first
// long rows are not all of one kind.
//
// With LongDocuments::continue_state row i of every step is lane i. Documents longer than a row are
// planned whole, and the lane that takes one has its pieces in consecutive steps, each at the
// beginning of its row; what remains in the lanes when a plan ends is part of the place. When the
// row length changes they go on at the new length. When lanes become fewer, the documents of those
// that are gone go back into the plan: they go on in another lane with an empty state, which is
// counted.

#include <cstdint>
#include <memory>
#include <vector>

#include "data/corpus.h"
#include "data/loader.h"
#include "data/mixture.h"
#include "data/options.h"
#include "data/packer.h"

namespace sidewinder {

// Slots that a document of `tokens` tokens takes. Its last token predicts nothing of its own
// document, so where documents are strangers to each other it needs no slot.
bool last_token_has_slot(const DataOptions& options);
inline int64_t slots_of(int64_t tokens, bool last_has_slot) {
  return last_has_slot || tokens == 0 ? tokens : tokens - 1;
}

struct StreamPlace {
  // At the start of the plan.
  int64_t plan = 0;  // plans made before
  std::vector<MixturePlace> mixture;
  std::vector<int64_t> begun;        // per corpus: documents begun
  std::vector<DocumentPiece> carry;  // of the plan before, to be packed first
  // Documents that wait for longer rows; shared, since places are copied with every batch.
  std::shared_ptr<const std::vector<DocumentPiece>> deferred =
      std::make_shared<const std::vector<DocumentPiece>>();
  DataCounts counts;
  // Within it.
  int64_t row_length = 0;  // 0: no row has been taken yet
  int64_t rows_taken = 0;
  // continue_state, at the start of the plan.
  std::vector<PackedRow> lanes;  // what remains of the rows of each; empty: nothing
  int64_t lane = 0;              // whose turn it is
};

class RowStream {
 public:
  RowStream(std::vector<Corpus>& corpora, const DataOptions& options, uint64_t seed);

  void go_to(const StreamPlace& place);
  // The next row: row `lane` of a step of `lanes` rows, which matters for continue_state alone.
  PackedRow next(int64_t row_length, int64_t lane = 0, int64_t lanes = 1);
  // Whether the row just returned begins where the one before in its lane ended, and whether the
  // next one there will begin where it ends.
  bool carried() const { return carried_; }
  bool goes_on() const { return goes_on_; }
  const StreamPlace& place() const { return start_; }
  DataCounts counts() const;

 private:
  void check(const StreamPlace& place) const;
  bool is_sound(const DocumentPiece& piece) const;
  void make_plan(int64_t row_length);
  void begin_next_plan(std::vector<DocumentPiece> carry);
  // The rows that are left, as pieces, the next plan being for other rows or another number of
  // lanes.
  std::vector<DocumentPiece> give_back(int64_t lanes);
  PackedRow next_of_lane(int64_t row_length, int64_t lane);
  void count(const PackedRow& row, int64_t row_length);
  // Whether a piece has to wait for longer rows.
  bool must_wait(const DocumentPiece& piece, int64_t row_length) const;
  // The piece with which a document enters a plan; without slots if the policy leaves it out.
  DocumentPiece admit(DocumentPiece whole, int64_t row_length);
  int64_t whole_slots(const DocumentPiece& piece) const;

  std::vector<Corpus>& corpora_;
  DataOptions options_;
  uint64_t seed_;
  bool last_has_slot_;
  Mixture mixture_;
  StreamPlace start_;            // with rows_taken kept current
  std::vector<PackedRow> rows_;  // of the current plan, in the order in which they are taken
  size_t next_row_ = 0;          // of rows_
  std::vector<PackedRow> lanes_;
  bool carried_ = false;
  bool goes_on_ = false;
  // Current, where start_ has the values at the start of the plan.
  DataCounts counts_;
  std::vector<int64_t> begun_;
  std::vector<DocumentPiece> deferred_;
  int64_t planned_slots_ = 0;  // of the rows not taken, before truncation
  int64_t waiting_slots_ = 0;  // of deferred_
};

// Takes a row from what is left of a lane, whose first piece may be longer: a part of that alone, or
// all.
PackedRow take_row(PackedRow& left, int64_t row_length);

// Fills row `row` of `batch` (whose vectors have their size) from the pieces of a row.
struct RowFill {
  bool last_has_slot = false;
  bool mask_joints = true;
  bool keep_positions = false;
};
void fill_row(std::vector<Corpus>& corpora, const PackedRow& pieces, const RowFill& fill,
              int64_t row, Batch& batch);
Batch empty_batch(int64_t rows, int64_t row_length);

}  // namespace sidewinder
