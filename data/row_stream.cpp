#include "data/row_stream.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "kernels/base/check.h"
#include "kernels/base/philox.h"

namespace sidewinder {
namespace {

std::vector<MixtureSource> sources_of(const std::vector<Corpus>& corpora,
                                      const DataOptions& options) {
  std::vector<MixtureSource> sources;
  for (size_t i = 0; i < corpora.size(); ++i) {
    sources.push_back({corpora[i].documents(), options.train[i].weight});
  }
  return sources;
}

// Joins pieces of a document that lie end to end, so that they can be cut anew.
std::vector<DocumentPiece> joined(std::vector<DocumentPiece> pieces) {
  std::sort(pieces.begin(), pieces.end(), [](const DocumentPiece& a, const DocumentPiece& b) {
    return std::tie(a.corpus, a.document, a.first) < std::tie(b.corpus, b.document, b.first);
  });
  std::vector<DocumentPiece> result;
  for (const DocumentPiece& piece : pieces) {
    DocumentPiece* last = result.empty() ? nullptr : &result.back();
    if (last != nullptr && last->corpus == piece.corpus && last->document == piece.document &&
        last->first + last->slots == piece.first) {
      last->slots += piece.slots;
    } else {
      result.push_back(piece);
    }
  }
  return result;
}

}  // namespace

bool last_token_has_slot(const DataOptions& options) {
  return !(options.isolate_attention && options.isolate_state && options.mask_joints);
}

RowStream::RowStream(std::vector<Corpus>& corpora, const DataOptions& options, uint64_t seed)
    : corpora_(corpora),
      options_(options),
      seed_(seed),
      last_has_slot_(last_token_has_slot(options)),
      mixture_(sources_of(corpora, options), seed),
      begun_(corpora.size(), 0) {
  start_.mixture = mixture_.places();
  start_.begun = begun_;
}

int64_t RowStream::whole_slots(const DocumentPiece& piece) const {
  return slots_of(corpora_[static_cast<size_t>(piece.corpus)].document_length(piece.document),
                  last_has_slot_);
}

bool RowStream::is_sound(const DocumentPiece& piece) const {
  if (piece.corpus < 0 || piece.corpus >= static_cast<int64_t>(corpora_.size())) return false;
  const Corpus& corpus = corpora_[static_cast<size_t>(piece.corpus)];
  if (piece.document < 0 || piece.document >= corpus.documents()) return false;
  const int64_t whole = whole_slots(piece);
  return piece.first >= 0 && piece.slots > 0 && piece.first <= whole &&
         piece.slots <= whole - piece.first;
}

void RowStream::check(const StreamPlace& place) const {
  bool good = place.plan >= 0 && place.row_length >= 0 && place.rows_taken >= 0 &&
              place.mixture.size() == corpora_.size() && place.begun.size() == corpora_.size();
  for (size_t i = 0; good && i < corpora_.size(); ++i) {
    const MixturePlace& entry = place.mixture[i];
    good = entry.epoch >= 0 && entry.position >= 0 && entry.position < corpora_[i].documents() &&
           entry.slots >= 0 && place.begun[i] >= 0;
  }
  const auto is_good = [&](const DocumentPiece& piece) { return is_sound(piece); };
  good = good && std::all_of(place.carry.begin(), place.carry.end(), is_good) &&
         std::all_of(place.deferred->begin(), place.deferred->end(), is_good);
  if (!good) {
    fail_environment(
        "the data cursor holds numbers that fit no place in this data; the checkpoint is "
        "damaged");
  }
}

void RowStream::go_to(const StreamPlace& place) {
  check(place);
  start_ = place;
  counts_ = place.counts;
  begun_ = place.begun;
  deferred_ = *place.deferred;
  mixture_.go_to(place.mixture);
  rows_.clear();
  planned_slots_ = 0;
  waiting_slots_ = 0;
  for (const DocumentPiece& piece : place.carry) planned_slots_ += piece.slots;
  for (const DocumentPiece& piece : deferred_) waiting_slots_ += piece.slots;
  if (place.row_length == 0) return;
  const int64_t taken = place.rows_taken;
  make_plan(place.row_length);
  if (taken > static_cast<int64_t>(rows_.size())) {
    fail_environment(
        "the data cursor says that {} rows of a plan of {} were taken; the checkpoint is damaged",
        taken, rows_.size());
  }
  for (int64_t i = 0; i < taken; ++i) next(place.row_length);
}

bool RowStream::must_wait(const DocumentPiece& piece, int64_t row_length) const {
  return options_.long_documents == LongDocuments::defer && piece.slots > row_length &&
         row_length < options_.longest_row;
}

DocumentPiece RowStream::admit(DocumentPiece whole, int64_t row_length) {
  if (whole.slots <= row_length) return whole;
  if (must_wait(whole, row_length)) {
    deferred_.push_back(whole);
    waiting_slots_ += whole.slots;
    whole.slots = 0;
  }
  if (options_.long_documents == LongDocuments::truncate) whole.slots = row_length;
  if (options_.long_documents == LongDocuments::drop) {
    counts_.dropped_tokens += whole.slots;
    ++counts_.documents;
    ++begun_[static_cast<size_t>(whole.corpus)];
    whole.slots = 0;
  }
  return whole;
}

void RowStream::make_plan(int64_t row_length) {
  std::vector<DocumentPiece> pieces;
  int64_t slots = 0;
  const int64_t room = options_.packing_buffer * row_length;
  planned_slots_ = 0;
  const auto add = [&](const DocumentPiece& whole) {
    const DocumentPiece piece = admit(whole, row_length);
    if (piece.slots == 0) return;
    pieces.push_back(piece);
    slots += piece.slots;
    planned_slots_ += whole.slots;
  };
  for (const DocumentPiece& piece : start_.carry) add(piece);

  std::vector<DocumentPiece> waited;
  waited.swap(deferred_);
  waiting_slots_ = 0;
  for (const DocumentPiece& piece : waited) {
    if (must_wait(piece, row_length) || 2 * slots >= room) {
      deferred_.push_back(piece);
      waiting_slots_ += piece.slots;
      continue;
    }
    add(piece);
    mixture_.took(piece.corpus, piece.slots);
  }

  // A plan is never empty, even if thousands of documents in a row give no slot.
  int64_t fruitless = 0;
  int64_t documents = 0;
  for (const Corpus& corpus : corpora_) documents += corpus.documents();
  while (slots < room) {
    const Mixture::Choice choice = mixture_.next();
    const int64_t tokens =
        corpora_[static_cast<size_t>(choice.corpus)].document_length(choice.document);
    const int64_t before = slots;
    const int64_t whole = slots_of(tokens, last_has_slot_);
    if (whole == 0) {  // a document of one token predicts nothing
      ++counts_.documents;
      ++begun_[static_cast<size_t>(choice.corpus)];
    }
    counts_.drawn_tokens += whole;
    add({choice.corpus, choice.document, 0, whole});
    mixture_.took(slots - before);
    fruitless = slots == before ? fruitless + 1 : 0;
    SIDEWINDER_REQUIRE(fruitless <= 2 * documents + 1000,
                       "no document of the training data fits in a row of {} tokens; raise the "
                       "context, or choose another policy for long documents than `drop` and "
                       "`defer`",
                       row_length);
  }

  std::vector<PackedRow> packed = pack_best_fit(pieces, row_length);
  const Permutation order(packed.size(), seed_,
                          Philox::hash("data.rows") + static_cast<uint64_t>(start_.plan));
  rows_.resize(packed.size());
  for (size_t i = 0; i < packed.size(); ++i) rows_[i] = std::move(packed[order(i)]);
  start_.row_length = row_length;
  start_.rows_taken = 0;
}

void RowStream::begin_next_plan(std::vector<DocumentPiece> carry) {
  ++start_.plan;
  start_.mixture = mixture_.places();
  start_.begun = begun_;
  start_.carry = std::move(carry);
  start_.deferred = std::make_shared<const std::vector<DocumentPiece>>(deferred_);
  start_.counts = counts_;
  rows_.clear();
}

PackedRow RowStream::next(int64_t row_length) {
  const bool exhausted = start_.rows_taken == static_cast<int64_t>(rows_.size());
  if (start_.row_length == 0) {
    make_plan(row_length);
  } else if (exhausted || row_length != start_.row_length) {
    std::vector<DocumentPiece> carry;
    for (size_t i = static_cast<size_t>(start_.rows_taken); i < rows_.size(); ++i) {
      carry.insert(carry.end(), rows_[i].begin(), rows_[i].end());
    }
    if (options_.long_documents == LongDocuments::truncate) {
      // Not yet truncated for good: the new row may hold more.
      for (DocumentPiece& piece : carry) {
        piece.slots = whole_slots(piece);
      }
    }
    begin_next_plan(joined(std::move(carry)));
    make_plan(row_length);
  }
  const PackedRow& row = rows_[static_cast<size_t>(start_.rows_taken++)];
  counts_.padding += row_length;
  for (const DocumentPiece& piece : row) {
    counts_.padding -= piece.slots;
    counts_.trained_tokens += piece.slots;
    const auto corpus = static_cast<size_t>(piece.corpus);
    if (piece.first == 0) {
      ++counts_.documents;
      ++begun_[corpus];
    }
    planned_slots_ -= piece.slots;
    if (options_.long_documents == LongDocuments::truncate) {
      counts_.dropped_tokens += whole_slots(piece) - piece.slots;
      planned_slots_ -= whole_slots(piece) - piece.slots;
    }
  }
  return row;
}

DataCounts RowStream::counts() const {
  DataCounts counts = counts_;
  counts.deferred_tokens = planned_slots_ + waiting_slots_;
  counts.epochs = 0;
  for (size_t corpus = 0; corpus < corpora_.size(); ++corpus) {
    counts.epochs = std::max(counts.epochs, begun_[corpus] / corpora_[corpus].documents());
  }
  return counts;
}

Batch empty_batch(int64_t rows, int64_t row_length) {
  SIDEWINDER_REQUIRE(
      rows >= 1 && row_length >= 1 && row_length <= std::numeric_limits<int32_t>::max() / rows,
      "a batch of {} rows of {} tokens is not possible; both must be at least 1, and "
      "there may be at most 2^31 tokens",
      rows, row_length);
  Batch batch;
  batch.rows = rows;
  batch.row_length = row_length;
  batch.tokens.assign(static_cast<size_t>(rows * row_length), 0);
  batch.targets.assign(static_cast<size_t>(rows * row_length), kIgnoredTarget);
  return batch;
}

void fill_row(std::vector<Corpus>& corpora, const PackedRow& pieces, const RowFill& fill,
              int64_t row, Batch& batch) {
  const int64_t begin = row * batch.row_length;
  int64_t at = begin;
  std::vector<int32_t> read;
  bool joint = false;  // the slot before lacks its target, which is the next token of the row
  for (const DocumentPiece& piece : pieces) {
    Corpus& corpus = corpora[static_cast<size_t>(piece.corpus)];
    const int64_t left = corpus.document_length(piece.document) - piece.first;
    const int64_t count = std::min(piece.slots + 1, left);
    read.resize(static_cast<size_t>(count));
    corpus.read(piece.document, piece.first, read);
    batch.document_starts.push_back(static_cast<int32_t>(at));
    batch.first_positions.push_back(fill.keep_positions ? static_cast<int32_t>(piece.first) : 0);
    std::copy_n(read.begin(), piece.slots, batch.tokens.begin() + at);
    std::copy(read.begin() + 1, read.end(), batch.targets.begin() + at);
    batch.num_targets += count - 1;
    if (joint) {
      batch.targets[static_cast<size_t>(at - 1)] = read[0];
      ++batch.num_targets;
    }
    joint = fill.last_has_slot && !fill.mask_joints && count == piece.slots;
    at += piece.slots;
  }
  const int64_t end = begin + batch.row_length;
  if (at < end) {
    batch.document_starts.push_back(static_cast<int32_t>(at));
    batch.first_positions.push_back(0);
    batch.num_padding += end - at;
  }
}

}  // namespace sidewinder
