#include "data/loader.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "data/corpus.h"
#include "data/cursor.h"
#include "data/row_stream.h"
#include "kernels/base/check.h"
#include "kernels/base/digest.h"

namespace sidewinder {
namespace {

void check_options(const DataOptions& options) {
  SIDEWINDER_REQUIRE(!options.train.empty(),
                     "there is no training data; name at least one corpus in [[data.train]]");
  SIDEWINDER_REQUIRE(options.packing_buffer >= 1 && options.packing_buffer <= 10'000'000,
                     "data.packing_buffer is {}; it must be from 1 to 10000000 rows",
                     options.packing_buffer);
  SIDEWINDER_REQUIRE(options.prefetch >= 0, "data.prefetch is {}; it must be 0 or more",
                     options.prefetch);
  for (const CorpusOptions& corpus : options.train) {
    SIDEWINDER_REQUIRE(
        corpus.weight > 0 && corpus.weight < 1e9,
        "corpus {} has weight {}; weights must be above 0 (leave out a corpus that is "
        "not wanted) and below 1e9",
        corpus.folder, corpus.weight);
  }
}

std::vector<Corpus> open_corpora(const DataOptions& options) {
  check_options(options);
  std::vector<Corpus> corpora;
  for (const CorpusOptions& corpus : options.train) corpora.emplace_back(corpus.folder);
  const CorpusIndex& first = corpora.front().index();
  for (const Corpus& corpus : corpora) {
    SIDEWINDER_REQUIRE(
        corpus.index().tokenizer_digest == first.tokenizer_digest,
        "{} and {} were made with different tokenizers (digests {} and {}); make all "
        "corpora of a run with the same one (`sidewinder tokenize --tokenizer`)",
        corpora.front().folder(), corpus.folder(), first.tokenizer_digest,
        corpus.index().tokenizer_digest);
  }
  return corpora;
}

}  // namespace

struct Loader::State {
  DataOptions options;
  PlanFunction plan;
  std::vector<Corpus> corpora;
  StreamIdentity identity;
  std::string tokenizer_digest;

  // A batch, and the place after it.
  struct Made {
    Batch batch;
    StreamPlace place;
    DataCounts counts;
  };

  // Of the thread that makes batches.
  RowStream stream;
  Progress progress;

  // Of the caller of next().
  StreamPlace place;
  DataCounts counts;
  double seconds_waited = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Made> ready;
  std::exception_ptr error;
  bool stopping = false;
  std::thread worker;

  State(const DataOptions& data_options, uint64_t seed, PlanFunction plan_function,
        const Progress& start, const Cursor& cursor)
      : options(data_options),
        plan(std::move(plan_function)),
        corpora(open_corpora(options)),
        stream(corpora, options, seed),
        progress(start) {
    Digest digest;
    for (const Corpus& corpus : corpora) {
      digest.update(corpus.digest().data(), corpus.digest().size());
    }
    identity = identity_of(digest.text(), seed, options);
    tokenizer_digest = corpora.front().index().tokenizer_digest;
    if (!cursor.text.empty()) {
      stream.go_to(place_from_json(cursor.text, identity, corpora.size()));
    }
    place = stream.place();
    counts = stream.counts();
  }

  Made make() {
    const RowPlan wanted = plan(progress);
    Made made;
    made.batch = empty_batch(wanted.rows, wanted.row_length);
    const RowFill fill = {
        .last_has_slot = last_token_has_slot(options),
        .mask_joints = options.mask_joints,
        .keep_positions = options.long_documents == LongDocuments::continue_positions ||
                          options.long_documents == LongDocuments::continue_state};
    for (int64_t row = 0; row < wanted.rows; ++row) {
      fill_row(corpora, stream.next(wanted.row_length, row, wanted.rows), fill, row, made.batch);
      made.batch.carried[static_cast<size_t>(row)] = stream.carried() ? 1 : 0;
      made.batch.goes_on[static_cast<size_t>(row)] = stream.goes_on() ? 1 : 0;
    }
    ++progress.step;
    progress.row_slots += wanted.rows * wanted.row_length;
    made.place = stream.place();
    made.counts = stream.counts();
    return made;
  }

  void work() {
    const auto limit = static_cast<size_t>(options.prefetch);
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return stopping || ready.size() < limit; });
        if (stopping) return;
      }
      try {
        Made made = make();
        const std::lock_guard<std::mutex> lock(mutex);
        ready.push_back(std::move(made));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        error = std::current_exception();
      }
      changed.notify_all();
      const std::lock_guard<std::mutex> lock(mutex);
      if (error) return;
    }
  }

  Made take() {
    if (options.prefetch == 0) return make();
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return !ready.empty() || error; });
    if (ready.empty()) std::rethrow_exception(error);  // batches made before it come first
    Made made = std::move(ready.front());
    ready.pop_front();
    lock.unlock();
    changed.notify_all();
    return made;
  }
};

Loader::Loader(const DataOptions& options, uint64_t seed, PlanFunction plan, const Progress& start,
               const Cursor& cursor)
    : state_(std::make_unique<State>(options, seed, std::move(plan), start, cursor)) {
  if (options.prefetch > 0) state_->worker = std::thread([state = state_.get()] { state->work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  if (state_->worker.joinable()) state_->worker.join();
}

Batch Loader::next() {
  const auto begin = std::chrono::steady_clock::now();
  State::Made made = state_->take();
  state_->seconds_waited +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  state_->place = std::move(made.place);
  state_->counts = made.counts;
  return std::move(made.batch);
}

Cursor Loader::cursor() const { return {to_json(state_->place, state_->identity)}; }
DataCounts Loader::counts() const { return state_->counts; }
double Loader::seconds_waited() const { return state_->seconds_waited; }
int64_t Loader::vocabulary() const { return state_->corpora.front().vocabulary(); }

int64_t Loader::tokens_per_epoch() const {
  int64_t tokens = 0;
  for (const Corpus& corpus : state_->corpora) tokens += corpus.tokens();
  return tokens;
}

std::string Loader::data_digest() const { return state_->identity.data_digest; }
std::string Loader::tokenizer_digest() const { return state_->tokenizer_digest; }

}  // namespace sidewinder
