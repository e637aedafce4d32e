#include "data/row_stream.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

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

int64_t slots_in(const std::vector<PackedRow>& rows) {
  int64_t slots = 0;
  for (const PackedRow& row : rows) {
    for (const DocumentPiece& piece : row) slots += piece.slots;
  }
  return slots;
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
  good = good && place.lane >= 0 && place.lane <= static_cast<int64_t>(place.lanes.size()) &&
         (!place.lanes.empty() || place.row_length == 0 ||
          options_.long_documents != LongDocuments::continue_state);
  for (const PackedRow& left : place.lanes) {
    good = good && std::all_of(left.begin(), left.end(), is_good);
  }
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
  lanes_ = place.lanes;
  rows_.clear();
  next_row_ = 0;
  planned_slots_ = slots_in(lanes_);
  waiting_slots_ = 0;
  for (const DocumentPiece& piece : place.carry) planned_slots_ += piece.slots;
  for (const DocumentPiece& piece : deferred_) waiting_slots_ += piece.slots;
  if (place.row_length == 0) return;
  const int64_t taken = place.rows_taken;
  make_plan(place.row_length);
  const auto lanes = static_cast<int64_t>(lanes_.size());
  for (int64_t i = 0; i < taken; ++i) {
    next(place.row_length, lanes == 0 ? 0 : (place.lane + i) % lanes, lanes);
    if (start_.plan == place.plan) continue;
    fail_environment(
        "the data cursor says that {} rows were taken of a plan that has {}; the checkpoint is "
        "damaged",
        taken, i);
  }
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
  planned_slots_ = slots_in(lanes_);
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

  // A lane whose last row has room for others, and none as yet.
  const auto takes_more = [](const PackedRow& left) { return left.size() == 1; };
  std::vector<DocumentPiece> begun;
  for (const PackedRow& left : lanes_) {
    if (takes_more(left)) begun.push_back(left.front());
  }
  std::vector<PackedRow> packed = options_.long_documents == LongDocuments::continue_state
                                      ? pack_whole(pieces, row_length, begun)
                                      : pack_best_fit(pieces, row_length);
  size_t filled = 0;
  for (PackedRow& left : lanes_) {
    if (takes_more(left)) left = std::move(packed[filled++]);
  }
  packed.erase(packed.begin(), packed.begin() + static_cast<int64_t>(filled));
  const Permutation order(packed.size(), seed_,
                          Philox::hash("data.rows") + static_cast<uint64_t>(start_.plan));
  rows_.resize(packed.size());
  for (size_t i = 0; i < packed.size(); ++i) rows_[i] = std::move(packed[order(i)]);
  next_row_ = 0;
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
  start_.lanes = lanes_;
  rows_.clear();
  next_row_ = 0;
}

std::vector<DocumentPiece> RowStream::give_back(int64_t lanes) {
  std::vector<DocumentPiece> pieces;
  for (size_t i = next_row_; i < rows_.size(); ++i) {
    pieces.insert(pieces.end(), rows_[i].begin(), rows_[i].end());
  }
  if (options_.long_documents == LongDocuments::truncate) {
    // Not yet truncated for good: the new row may hold more.
    for (DocumentPiece& piece : pieces) piece.slots = whole_slots(piece);
  }
  // Lanes keep the document that is under way; what would have followed it is planned anew.
  for (size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].empty()) continue;
    const bool stays = static_cast<int64_t>(i) < lanes;
    counts_.cut_documents += stays ? 0 : 1;
    pieces.insert(pieces.end(), lanes_[i].begin() + (stays ? 1 : 0), lanes_[i].end());
    lanes_[i].resize(stays ? 1 : 0);
  }
  return joined(std::move(pieces));
}

PackedRow RowStream::next(int64_t row_length, int64_t lane, int64_t lanes) {
  const bool by_lanes = options_.long_documents == LongDocuments::continue_state;
  if (!by_lanes) lane = lanes = 0;
  SIDEWINDER_ASSERT(lane <= lanes);
  const bool changes = start_.row_length != 0 && (row_length != start_.row_length ||
                                                  lanes != static_cast<int64_t>(lanes_.size()));
  if (changes) begin_next_plan(give_back(lanes));
  if (changes || start_.row_length == 0) {
    lanes_.resize(static_cast<size_t>(lanes));
    start_.lanes = lanes_;
    start_.lane = lane;
    make_plan(row_length);
  }
  const bool continues = by_lanes && !lanes_[static_cast<size_t>(lane)].empty();
  while (!continues && next_row_ == rows_.size()) {
    begin_next_plan({});
    start_.lane = lane;
    make_plan(row_length);
  }
  ++start_.rows_taken;
  carried_ = continues;
  PackedRow row = by_lanes ? next_of_lane(row_length, lane) : rows_[next_row_++];
  goes_on_ = by_lanes && !lanes_[static_cast<size_t>(lane)].empty();
  count(row, row_length);
  return row;
}

PackedRow RowStream::next_of_lane(int64_t row_length, int64_t lane) {
  PackedRow& left = lanes_[static_cast<size_t>(lane)];
  if (left.empty()) left = rows_[next_row_++];
  return take_row(left, row_length);
}

void RowStream::count(const PackedRow& row, int64_t row_length) {
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

PackedRow take_row(PackedRow& left, int64_t row_length) {
  DocumentPiece& first = left.front();
  if (first.slots <= row_length) return std::exchange(left, {});
  const DocumentPiece piece = {first.corpus, first.document, first.first, row_length};
  first.first += row_length;
  first.slots -= row_length;
  return {piece};
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
  batch.carried.assign(static_cast<size_t>(rows), 0);
  batch.goes_on.assign(static_cast<size_t>(rows), 0);
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
