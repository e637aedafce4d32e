#pragma once
// The stream of batches of a run: a weighted mixture of corpora, shuffled per epoch, packed into
// rows.
//
// The stream is a pure function of (shards, options, seed, row plans): neither the number of worker
// threads nor of ranks changes it. A Cursor names a place in it; a loader made with that cursor
// continues with exactly the batch that would have come next.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/options.h"

namespace sidewinder {

// Where a run stands: the argument of every schedule.
struct Progress {
  int64_t step = 0;
  int64_t row_slots = 0;  // tokens and padding consumed so far
  bool operator==(const Progress&) const = default;
};

// All that is needed to continue a data stream at the same token, as text (JSON).
struct Cursor {
  std::string text;
};

// What became of the documents so far, in slots (see packer.h). Whatever the policy for long
// documents, at any place in the stream:
//   drawn_tokens = trained_tokens + dropped_tokens + deferred_tokens
//   row slots consumed = trained_tokens + padding
struct DataCounts {
  int64_t documents = 0;       // begun
  int64_t drawn_tokens = 0;    // of the documents taken from the mixture
  int64_t trained_tokens = 0;  // slots filled
  int64_t dropped_tokens = 0;  // by the long-document policy
  int64_t deferred_tokens =
      0;                      // drawn and yet to come: in rows planned, or waiting for longer rows
  int64_t padding = 0;        // row slots without a token
  int64_t cut_documents = 0;  // times that a document went on with an empty state against the
                              // policy `continue_state`, because the rows of a step became fewer
  int64_t epochs = 0;  // times that every document of the corpus seen most often was begun
};

class Loader {
 public:
  using PlanFunction = std::function<RowPlan(const Progress&)>;

  // Opens and checks all shards (Error{environment} for damage, Error{user} for wrong options, e.g.
  // corpora of different tokenizers). Starts the prefetch thread.
  Loader(const DataOptions& options, uint64_t seed, PlanFunction plan, const Progress& start = {},
         const Cursor& cursor = {});
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The batch of the next step. Waits for the prefetch thread; rethrows its errors.
  Batch next();
  // The place after the last batch that next() returned (prefetched ones do not count).
  Cursor cursor() const;
  DataCounts counts() const;
  double seconds_waited() const;  // in next(), since the start

  int64_t vocabulary() const;
  int64_t tokens_per_epoch() const;  // of all corpora together
  // Identifies shards and tokenizer; the same for the same data.
  std::string data_digest() const;
  std::string tokenizer_digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Held-out documents, without mixture or shuffle: rows of `row_length`, packed by best fit, every
// prediction once (long documents are always continued). Used by validation and `eval`. With
// `continue_state` rows are lanes: a document goes on in the same row of the next batch, as in
// training, and a lane without a document while later ones have some is a row of padding.
class DocumentRows {
 public:
  // max_tokens 0: all. Otherwise whole documents, always the same ones, drawn from all parts of the
  // folder until they have that many tokens or just above.
  DocumentRows(const std::string& folder, const DataOptions& options, int64_t max_tokens);
  ~DocumentRows();
  // Up to `rows` rows; a batch with rows == 0 at the end. The row length stays the same, and with
  // lanes their number.
  Batch next(int64_t rows, int64_t row_length);
  // UTF-8 bytes of the text of exactly the documents used, for bits per byte.
  int64_t num_bytes() const;
  int64_t vocabulary() const;
  const std::string& tokenizer_digest() const;
  std::string part_folder() const;  // see Corpus
  int64_t tokens() const;           // of the documents used

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sidewinder
