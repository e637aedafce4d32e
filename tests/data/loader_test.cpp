#include "data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "data/mixture.h"
#include "kernels/base/digest.h"
#include "kernels/base/error.h"
#include "tests/support/message_of.h"
#include "tests/support/small_corpus.h"
#include "tests/support/temporary_folder.h"

namespace sidewinder {
namespace {

using testing::Documents;
using testing::message_of;
using testing::TemporaryFolder;

DataOptions options_for(const std::vector<std::string>& folders) {
  DataOptions options;
  for (const std::string& folder : folders) options.train.push_back({folder, folder, 1.0});
  options.packing_buffer = 5;
  options.prefetch = 2;
  return options;
}

Loader::PlanFunction fixed(int64_t rows, int64_t row_length) {
  return [=](const Progress&) { return RowPlan{rows, row_length}; };
}

bool same(const Batch& a, const Batch& b) {
  return a.rows == b.rows && a.row_length == b.row_length && a.tokens == b.tokens &&
         a.targets == b.targets && a.document_starts == b.document_starts &&
         a.first_positions == b.first_positions && a.num_targets == b.num_targets &&
         a.num_padding == b.num_padding && a.carried == b.carried && a.goes_on == b.goes_on;
}

// Documents whose ids are all different, so that a pair (input, target) names its place.
Documents distinct_documents(const std::vector<int64_t>& lengths, int32_t first = 1) {
  Documents documents;
  for (const int64_t length : lengths) {
    std::vector<int32_t>& document = documents.emplace_back();
    for (int64_t i = 0; i < length; ++i) document.push_back(first++);
  }
  return documents;
}

// The vocabulary of shards with more than 65536 ids, which are stored as u32.
constexpr int64_t kWide = 200'000;

using Pairs = std::map<std::pair<int32_t, int32_t>, int64_t>;

Pairs pairs_of(const Documents& documents) {
  Pairs pairs;
  for (const auto& document : documents) {
    for (size_t i = 0; i + 1 < document.size(); ++i) ++pairs[{document[i], document[i + 1]}];
  }
  return pairs;
}

void add_pairs(const Batch& batch, Pairs& pairs) {
  for (size_t t = 0; t < batch.tokens.size(); ++t) {
    if (batch.targets[t] != kIgnoredTarget) ++pairs[{batch.tokens[t], batch.targets[t]}];
  }
}

// What must hold of any batch.
void check_batch(const Batch& batch) {
  const auto slots = static_cast<size_t>(batch.rows * batch.row_length);
  ASSERT_EQ(batch.tokens.size(), slots);
  ASSERT_EQ(batch.targets.size(), slots);
  ASSERT_EQ(batch.document_starts.size(), batch.first_positions.size());
  EXPECT_TRUE(std::is_sorted(batch.document_starts.begin(), batch.document_starts.end()));
  for (int64_t row = 0; row < batch.rows; ++row) {
    EXPECT_TRUE(std::binary_search(batch.document_starts.begin(), batch.document_starts.end(),
                                   static_cast<int32_t>(row * batch.row_length)));
  }
  EXPECT_EQ(batch.num_targets,
            std::count_if(batch.targets.begin(), batch.targets.end(),
                          [](int32_t target) { return target != kIgnoredTarget; }));
}

// The pairs of the documents that a mixture of one corpus draws up to a place.
Pairs drawn_pairs(const Documents& documents, uint64_t seed, int64_t draws) {
  Mixture mixture({{static_cast<int64_t>(documents.size()), 1.0}}, seed);
  Pairs pairs;
  for (int64_t i = 0; i < draws; ++i) {
    const auto& document = documents[static_cast<size_t>(mixture.next().document)];
    for (size_t k = 0; k + 1 < document.size(); ++k) ++pairs[{document[k], document[k + 1]}];
    mixture.took(1);
  }
  return pairs;
}

// Reads rows one by one. Whenever all rows of a plan are taken, what was seen must be exactly the
// pairs of all documents drawn so far, each as often as it was drawn. Returns how often that was.
int check_every_plan(const Documents& documents, const DataOptions& options, uint64_t seed,
                     const std::function<int64_t(int64_t)>& row_length_at, int64_t steps) {
  using nlohmann::json;
  Loader loader(options, seed, [&](const Progress& progress) {
    return RowPlan{1, row_length_at(progress.step)};
  });
  Pairs seen;
  Pairs seen_before;
  json before;
  int plans = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = loader.next();
    check_batch(batch);
    add_pairs(batch, seen);
    const json now = json::parse(loader.cursor().text);
    if (!before.is_null() && now["plan"] != before["plan"] && now["carry"].empty()) {
      const json& place = now["mixture"][0];
      const int64_t draws = place[0].get<int64_t>() * static_cast<int64_t>(documents.size()) +
                            place[1].get<int64_t>();
      EXPECT_EQ(seen_before, drawn_pairs(documents, seed, draws)) << "step " << step;
      ++plans;
    }
    before = now;
    seen_before = seen;
  }
  return plans;
}

TEST(Loader, GivesEveryPredictionOfEveryDocumentOnceAnEpoch) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    const TemporaryFolder folder;
    std::vector<int64_t> lengths = testing::random_lengths(40, 150, seed);
    lengths.insert(lengths.end(), {1, 2, 8, 9, 16, 17, 18});  // around the row length of 16
    const Documents documents = distinct_documents(lengths);
    testing::write_corpus(folder.path(), documents, kWide, 13);
    for (const int64_t row_length : {1, 7, 16, 200}) {
      EXPECT_GE(check_every_plan(
                    documents, options_for({folder.path()}), seed,
                    [=](int64_t) { return row_length; }, 400),
                3);
    }
  }
}

TEST(Loader, LosesNothingWhenTheRowLengthChanges) {
  const TemporaryFolder folder;
  const Documents documents = distinct_documents(testing::random_lengths(50, 120, 4));
  testing::write_corpus(folder.path(), documents, kWide);
  for (const int64_t every : {1, 2, 3, 7}) {
    // Changes for a while, at each place within plans, then stays, so that plans are emptied.
    const auto row_length_at = [=](int64_t step) {
      const int64_t phase = step / every;
      return phase % 50 < 25 ? 8 + 5 * (phase % 11) : 20;
    };
    EXPECT_GE(check_every_plan(documents, options_for({folder.path()}), 9, row_length_at, 800), 3);
  }
}

TEST(Loader, ContinuesAfterEveryStepWithTheSameBatches) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  testing::write_corpus(a.path(), distinct_documents(testing::random_lengths(20, 60, 1)), kWide, 7);
  testing::write_corpus(b.path(), distinct_documents(testing::random_lengths(9, 200, 2), 50'000),
                        kWide, 4);
  // Row length and number of rows change, twice in the middle of a plan.
  const auto plan = [](const Progress& progress) {
    if (progress.step < 7) return RowPlan{2, 16};
    if (progress.step < 12) return RowPlan{3, 24};
    if (progress.step < 20) return RowPlan{4, 24};
    return RowPlan{1, 96};
  };
  for (const LongDocuments policy :
       {LongDocuments::continue_reset, LongDocuments::continue_positions,
        LongDocuments::continue_state, LongDocuments::truncate, LongDocuments::drop,
        LongDocuments::defer}) {
    for (const bool joints : {true, false}) {
      DataOptions options = options_for({a.path(), b.path()});
      options.longest_row = 96;
      options.train[1].weight = 2.5;
      options.long_documents = policy;
      options.mask_joints = joints;
      constexpr int64_t kSteps = 60;  // several epochs of both corpora
      std::vector<Batch> batches;
      std::vector<std::string> cursors;
      std::vector<DataCounts> counts;
      Loader loader(options, 42, plan);
      Progress progress;
      std::vector<Progress> progresses;
      for (int64_t step = 0; step < kSteps; ++step) {
        cursors.push_back(loader.cursor().text);
        counts.push_back(loader.counts());
        progresses.push_back(progress);
        batches.push_back(loader.next());
        check_batch(batches.back());
        ++progress.step;
        progress.row_slots += batches.back().rows * batches.back().row_length;
      }
      EXPECT_GE(loader.counts().epochs, 2);
      for (int64_t start = 0; start < kSteps; ++start) {
        const auto first = static_cast<size_t>(start);
        Loader resumed(options, 42, plan, progresses[first], Cursor{cursors[first]});
        EXPECT_EQ(resumed.counts().trained_tokens, counts[first].trained_tokens);
        for (int64_t step = start; step < std::min(kSteps, start + 15); ++step) {
          const auto i = static_cast<size_t>(step);
          EXPECT_EQ(resumed.cursor().text, cursors[i]);
          ASSERT_TRUE(same(resumed.next(), batches[i])) << "start " << start << " step " << step;
        }
      }
    }
  }
}

TEST(Loader, DependsOnRowSlotsAloneNotOnRowsPerStep) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), distinct_documents(testing::random_lengths(40, 90, 3)),
                        kWide);
  const DataOptions options = options_for({folder.path()});
  Loader wide(options, 1, fixed(6, 16));
  Loader narrow(options, 1, fixed(2, 16));
  for (int step = 0; step < 20; ++step) {
    const Batch expected = wide.next();
    std::vector<int32_t> tokens;
    for (int part = 0; part < 3; ++part) {
      const Batch batch = narrow.next();
      tokens.insert(tokens.end(), batch.tokens.begin(), batch.tokens.end());
    }
    EXPECT_EQ(tokens, expected.tokens);
    EXPECT_EQ(wide.cursor().text, narrow.cursor().text);
  }
}

TEST(Loader, PredictsJointsOnlyIfTheyAreNotMasked) {
  const TemporaryFolder folder;
  const Documents documents = distinct_documents({5, 4, 3});
  testing::write_corpus(folder.path(), documents, kWide);
  const auto one_row = [&](bool isolate, bool mask) {
    DataOptions options = options_for({folder.path()});
    options.packing_buffer = 1;
    options.isolate_attention = isolate;
    options.mask_joints = mask;
    return Loader(options, 0, fixed(1, 12)).next();
  };
  // Isolated and masked: documents of n tokens take n - 1 slots, so all three and more fit.
  const Batch apart = one_row(true, true);
  EXPECT_EQ(apart.num_targets + apart.num_padding, 12);
  // Otherwise every token has a slot: 5 + 4 + 3 = 12.
  const Batch joined = one_row(false, false);
  ASSERT_EQ(joined.document_starts, (std::vector<int32_t>{0, 5, 9}));
  EXPECT_EQ(joined.tokens, (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_EQ(joined.targets, (std::vector<int32_t>{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, -1}));
  EXPECT_EQ(joined.num_targets, 11);
  const Batch masked = one_row(false, true);
  EXPECT_EQ(masked.tokens, joined.tokens);
  EXPECT_EQ(masked.targets, (std::vector<int32_t>{2, 3, 4, 5, -1, 7, 8, 9, -1, 11, 12, -1}));
  EXPECT_EQ(masked.num_targets, 9);
  const Batch isolated = one_row(true, false);
  EXPECT_EQ(isolated.tokens, joined.tokens);
  EXPECT_EQ(isolated.targets, joined.targets);
}

TEST(Loader, ContinuedPiecesOverlapByOneTokenAndMayKeepPositions) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), distinct_documents({10}), kWide);
  DataOptions options = options_for({folder.path()});
  options.packing_buffer = 2;
  options.long_documents = LongDocuments::continue_positions;
  Loader loader(options, 0, fixed(3, 4));
  const Batch batch = loader.next();                      // 9 slots: 4, 4 and 1 (rows are shuffled)
  std::map<int32_t, std::pair<int32_t, int32_t>> pieces;  // first token → (position, last target)
  for (int64_t row = 0; row < 3; ++row) {
    const auto at = static_cast<size_t>(row * 4);
    int32_t last = 0;
    for (size_t i = at; i < at + 4; ++i) last = std::max(last, batch.targets[i]);
    const auto start = std::find(batch.document_starts.begin(), batch.document_starts.end(),
                                 static_cast<int32_t>(at));
    ASSERT_NE(start, batch.document_starts.end());
    pieces[batch.tokens[at]] = {
        batch.first_positions[static_cast<size_t>(start - batch.document_starts.begin())], last};
  }
  EXPECT_EQ(pieces, (std::map<int32_t, std::pair<int32_t, int32_t>>{
                        {1, {0, 5}}, {5, {4, 9}}, {9, {8, 10}}}));
  EXPECT_EQ(batch.num_padding, 3);
}

TEST(Loader, PoliciesForLongDocumentsAccountForEverySlot) {
  const TemporaryFolder folder;
  const Documents documents = distinct_documents({30, 5, 9, 12, 40, 3, 1});
  testing::write_corpus(folder.path(), documents, kWide);
  for (const LongDocuments policy : {LongDocuments::truncate, LongDocuments::drop}) {
    DataOptions options = options_for({folder.path()});
    options.long_documents = policy;
    Loader loader(options, 1, fixed(1, 8));
    Pairs seen;
    int64_t padding = 0;
    int64_t slots = 0;
    for (int step = 0; step < 200; ++step) {
      const Batch batch = loader.next();
      add_pairs(batch, seen);
      padding += batch.num_padding;
      slots += batch.row_length;
      const DataCounts counts = loader.counts();
      EXPECT_EQ(counts.trained_tokens + counts.padding, slots);
      EXPECT_EQ(counts.padding, padding);
    }
    const bool truncate = policy == LongDocuments::truncate;
    EXPECT_EQ(seen.count({8, 9}), truncate ? 1U : 0U);    // the 8th prediction of the first
    EXPECT_EQ(seen.count({9, 10}), 0U);                   // its 9th
    EXPECT_EQ(seen.count({36, 37}), 1U);                  // the third document fits exactly
    EXPECT_EQ(seen.count({60, 61}), truncate ? 1U : 0U);  // in the fifth
    // Over whole epochs, slots begun are trained or dropped.
    const DataCounts counts = loader.counts();
    const int64_t per_epoch = 29 + 4 + 8 + 11 + 39 + 2;
    const double epochs = static_cast<double>(counts.documents) / 7;
    EXPECT_NEAR(static_cast<double>(counts.trained_tokens + counts.dropped_tokens),
                epochs * per_epoch, 3 * per_epoch);
  }
}

// What the counts of the stream claim, against the batches themselves.
TEST(Loader, EveryPolicyAccountsForEverySlotAcrossStages) {
  const TemporaryFolder folder;
  const Documents documents = distinct_documents(testing::random_lengths(60, 150, 5));
  testing::write_corpus(folder.path(), documents, kWide);
  const std::vector<int64_t> lengths = {8, 16, 64};  // stages of 20, 20 and 60 steps
  const auto plan = [&](const Progress& progress) {
    const int64_t length = lengths[static_cast<size_t>(std::min<int64_t>(2, progress.step / 20))];
    return RowPlan{64 / length, length};
  };
  for (const LongDocuments policy :
       {LongDocuments::continue_reset, LongDocuments::continue_positions,
        LongDocuments::continue_state, LongDocuments::truncate, LongDocuments::drop,
        LongDocuments::defer}) {
    SCOPED_TRACE(static_cast<int>(policy));
    DataOptions options = options_for({folder.path()});
    options.long_documents = policy;
    options.longest_row = 64;
    Loader loader(options, 3, plan);
    int64_t targets = 0;
    int64_t slots = 0;
    bool dropped = false;
    bool deferred_long = false;
    for (int64_t step = 0; step < 100; ++step) {
      const Batch batch = loader.next();
      targets += batch.num_targets;
      slots += batch.rows * batch.row_length;
      const DataCounts counts = loader.counts();
      ASSERT_EQ(counts.trained_tokens, targets);
      ASSERT_EQ(counts.trained_tokens + counts.padding, slots);
      ASSERT_EQ(counts.drawn_tokens,
                counts.trained_tokens + counts.dropped_tokens + counts.deferred_tokens)
          << step;
      dropped = dropped || counts.dropped_tokens > 0;
      // More than a plan of 5 rows can hold: documents wait.
      deferred_long = deferred_long || (step < 20 && counts.deferred_tokens > 3 * 5 * 8);
    }
    const bool may_drop = policy == LongDocuments::truncate || policy == LongDocuments::drop;
    EXPECT_EQ(dropped, may_drop);
    EXPECT_TRUE(deferred_long || policy != LongDocuments::defer);
  }
}

TEST(Loader, DeferredDocumentsComeWholeOnceTheyFit) {
  const TemporaryFolder folder;
  // Long ones (41 tokens, 40 slots) and short ones (5 tokens), told apart by their ids.
  std::vector<int64_t> lengths(40, 5);
  lengths.insert(lengths.end(), 12, 41);
  lengths.push_back(121);  // longer than any row
  const Documents documents = distinct_documents(lengths);
  const int32_t first_long = documents[40].front();
  const int32_t first_longest = documents.back().front();
  testing::write_corpus(folder.path(), documents, kWide);
  DataOptions options = options_for({folder.path()});
  options.long_documents = LongDocuments::defer;
  options.longest_row = 48;
  constexpr int64_t kEdge = 30;
  Loader loader(options, 4, [&](const Progress& progress) {
    return progress.step < kEdge ? RowPlan{6, 8} : RowPlan{1, 48};
  });
  Pairs seen;
  for (int64_t step = 0; step < kEdge; ++step) {
    const Batch batch = loader.next();
    for (const int32_t token : batch.tokens) ASSERT_LT(token, first_long);
  }
  const int64_t waiting = loader.counts().deferred_tokens;
  EXPECT_GE(waiting, 12 * 40 + 120);
  int64_t long_starts = 0;
  int64_t short_starts = 0;
  for (int64_t step = 0; step < 30; ++step) {
    const Batch batch = loader.next();
    check_batch(batch);
    for (const int32_t start : batch.document_starts) {
      const int32_t token = batch.tokens[static_cast<size_t>(start)];
      if (token == 0) continue;  // padding
      if (token < first_long) {
        ++short_starts;
      } else if (token < first_longest) {
        EXPECT_EQ((token - first_long) % 41, 0) << "a document that fits was cut";
        ++long_starts;
      } else {
        EXPECT_EQ((token - first_longest) % 48, 0);  // pieces of a row each
      }
    }
  }
  EXPECT_GE(long_starts, 12);
  EXPECT_GE(short_starts, 12);
  EXPECT_EQ(loader.counts().dropped_tokens, 0);
}

// Follows the lanes: a document that is longer than a row has its pieces in consecutive steps of one
// lane, each at the beginning of its row, and no other document is cut.
TEST(Loader, LanesCarryLongDocumentsOn) {
  const TemporaryFolder folder;
  std::vector<int64_t> lengths = testing::random_lengths(50, 120, 8);
  for (int64_t& length : lengths) ++length;  // one of a single token would have no slot
  const Documents documents = distinct_documents(lengths);
  testing::write_corpus(folder.path(), documents, kWide);
  std::map<int32_t, int64_t> slots_from;  // by first token
  for (const auto& document : documents) {
    slots_from[document.front()] = static_cast<int64_t>(document.size()) - 1;
  }
  DataOptions options = options_for({folder.path()});
  options.long_documents = LongDocuments::continue_state;
  options.packing_buffer = 50;
  constexpr int64_t kRows = 6;
  constexpr int64_t kLength = 16;
  Loader loader(options, 2, fixed(kRows, kLength));
  struct Lane {
    int32_t next_token = 0;
    int32_t next_position = 0;
  };
  std::vector<Lane> lanes(kRows);
  Pairs seen;
  int64_t carried = 0;
  int64_t begun = 0;
  for (int64_t step = 0; step < 300; ++step) {
    const Batch batch = loader.next();
    check_batch(batch);
    add_pairs(batch, seen);
    for (size_t i = 0; i < batch.document_starts.size(); ++i) {
      const int32_t start = batch.document_starts[i];
      const size_t row = static_cast<size_t>(start / kLength);
      const int32_t token = batch.tokens[static_cast<size_t>(start)];
      const int64_t end = i + 1 < batch.document_starts.size() ? batch.document_starts[i + 1]
                                                               : kRows * kLength;
      const bool is_last = end % kLength == 0;
      const bool goes_on = is_last && batch.goes_on[row] == 1;
      if (start % kLength == 0 && batch.carried[row] == 1) {
        ++carried;
        EXPECT_EQ(token, lanes[row].next_token);
        EXPECT_EQ(batch.first_positions[i], lanes[row].next_position);
      } else {
        EXPECT_EQ(batch.first_positions[i], 0);
        if (token == 0) continue;  // padding
        ASSERT_EQ(slots_from.count(token), 1U) << "a document begins in its middle";
        ++begun;
        // Cut only if it must be.
        if (slots_from[token] <= kLength) {
          EXPECT_EQ(slots_from[token], end - start);
        }
        EXPECT_EQ(slots_from[token] > kLength, goes_on);
      }
      if (!goes_on) continue;
      lanes[row].next_token = batch.tokens[static_cast<size_t>(end - 1)] + 1;
      lanes[row].next_position = batch.first_positions[i] + static_cast<int32_t>(end - start);
    }
  }
  EXPECT_GT(carried, 1000);
  EXPECT_EQ(loader.counts().cut_documents, 0);
  EXPECT_EQ(loader.counts().documents, begun);
  // Every pair of the data equally often, but for documents under way and in the plan.
  for (const auto& [pair, count] : pairs_of(documents)) {
    EXPECT_NEAR(static_cast<double>(seen[pair]), static_cast<double>(loader.counts().epochs), 2.0);
  }
  // Best fit leaves little room although rows with a last piece are shared too.
  EXPECT_LT(static_cast<double>(loader.counts().padding), 0.03 * 300 * kRows * kLength);
}

// Ranks take rows of a step; which documents they see, and from which states on, is theirs alone.
TEST(Loader, ADocumentStaysWithTheRankThatBeganIt) {
  const TemporaryFolder folder;
  const Documents documents = distinct_documents(testing::random_lengths(50, 200, 6));
  testing::write_corpus(folder.path(), documents, kWide);
  DataOptions options = options_for({folder.path()});
  options.long_documents = LongDocuments::continue_state;
  constexpr int64_t kRows = 12;
  Loader loader(options, 5, fixed(kRows, 8));
  std::vector<Batch> batches;
  batches.reserve(100);
  for (int step = 0; step < 100; ++step) batches.push_back(loader.next());
  for (const int64_t ranks : {2, 3, 4, 12}) {
    const int64_t rows_per_rank = kRows / ranks;
    // By rank, the tokens with which documents under way go on.
    std::vector<std::multiset<int32_t>> awaited(static_cast<size_t>(ranks));
    for (const Batch& batch : batches) {
      std::vector<std::multiset<int32_t>> next(static_cast<size_t>(ranks));
      for (int64_t row = 0; row < kRows; ++row) {
        const auto rank = static_cast<size_t>(row / rows_per_rank);
        const auto first = static_cast<size_t>(row * 8);
        if (batch.carried[static_cast<size_t>(row)] == 1) {
          const auto found = awaited[rank].find(batch.tokens[first]);
          ASSERT_NE(found, awaited[rank].end());
          awaited[rank].erase(found);
        }
        if (batch.goes_on[static_cast<size_t>(row)] == 1) {
          next[rank].insert(batch.tokens[first + 7] + 1);
        }
      }
      for (const std::multiset<int32_t>& left : awaited) EXPECT_TRUE(left.empty());
      awaited = next;
    }
  }
}

TEST(Loader, LanesThatGoAreCountedAndTheirDocumentsGoOn) {
  const TemporaryFolder folder;
  // Two documents that are under way all the time.
  const Documents documents = distinct_documents({2001, 3001});
  testing::write_corpus(folder.path(), documents, kWide);
  DataOptions options = options_for({folder.path()});
  options.packing_buffer = 1;
  options.long_documents = LongDocuments::continue_state;
  Loader loader(options, 1, [](const Progress& progress) {
    if (progress.step < 10) return RowPlan{2, 8};
    if (progress.step < 20) return RowPlan{2, 16};  // longer rows cut nothing
    return RowPlan{1, 32};
  });
  std::vector<int32_t> last(2);
  for (int step = 0; step < 20; ++step) {
    const Batch batch = loader.next();
    for (size_t row = 0; row < 2; ++row) {
      EXPECT_EQ(batch.carried[row], step > 0 ? 1 : 0) << step;
      const auto first = static_cast<size_t>(batch.row_length) * row;
      if (step > 0) {
        EXPECT_EQ(batch.tokens[first], last[row] + 1);
      }
      last[row] = batch.tokens[first + static_cast<size_t>(batch.row_length) - 1];
    }
  }
  EXPECT_EQ(loader.counts().cut_documents, 0);
  Pairs seen;
  for (int step = 20; step < 600; ++step) {
    const Batch batch = loader.next();
    if (step == 20) {
      EXPECT_EQ(batch.carried, std::vector<uint8_t>{1});
      EXPECT_EQ(batch.tokens[0], last[0] + 1);
      EXPECT_EQ(loader.counts().cut_documents, 1);
    }
    add_pairs(batch, seen);
  }
  EXPECT_EQ(loader.counts().cut_documents, 1);
  // The document whose lane is gone goes on from its next token.
  const std::pair<int32_t, int32_t> next = {last[1] + 1, last[1] + 2};
  EXPECT_GE(seen[next], 1);
}

TEST(Loader, MixesCorporaBySlots) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  testing::write_corpus(a.path(), distinct_documents(testing::random_lengths(100, 50, 1)), kWide);
  testing::write_corpus(b.path(), distinct_documents(testing::random_lengths(100, 300, 2), 100'000),
                        kWide);
  DataOptions options = options_for({a.path(), b.path()});
  options.train[0].weight = 3;
  Loader loader(options, 0, fixed(8, 64));
  int64_t of_a = 0;
  int64_t of_b = 0;
  for (int step = 0; step < 200; ++step) {
    const Batch batch = loader.next();
    for (size_t t = 0; t < batch.tokens.size(); ++t) {
      if (batch.targets[t] != kIgnoredTarget) ++(batch.tokens[t] < 100'000 ? of_a : of_b);
    }
  }
  EXPECT_NEAR(static_cast<double>(of_a) / static_cast<double>(of_a + of_b), 0.75, 0.005);
}

// A run that continues with a newer program must see the same rows. If this digest has to change,
// cursors of older checkpoints must be refused: raise kVersion in cursor.cpp.
TEST(Loader, TheStreamIsTheSameAsEver) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  testing::write_corpus(a.path(), distinct_documents(testing::random_lengths(100, 80, 1)), kWide);
  testing::write_corpus(b.path(), distinct_documents(testing::random_lengths(30, 300, 2), 100'000),
                        kWide);
  DataOptions options = options_for({a.path(), b.path()});
  options.train[0].weight = 2;
  options.packing_buffer = 16;
  Loader loader(options, 7, [](const Progress& progress) {
    return RowPlan{4, progress.step < 25 ? 32 : 48};
  });
  Digest digest;
  for (int step = 0; step < 50; ++step) {
    const Batch batch = loader.next();
    digest.update(batch.tokens.data(), batch.tokens.size() * sizeof(int32_t));
    digest.update(batch.targets.data(), batch.targets.size() * sizeof(int32_t));
    digest.update(batch.document_starts.data(), batch.document_starts.size() * sizeof(int32_t));
  }
  EXPECT_EQ(digest.text(), "a06d6e66d3cb8445d13c3b71255a5ccc");
}

TEST(Loader, SeedAndNothingElseChangesTheOrder) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), distinct_documents(testing::random_lengths(40, 30, 1)),
                        kWide);
  DataOptions options = options_for({folder.path()});
  Loader a(options, 1, fixed(4, 16));
  options.prefetch = 0;
  Loader b(options, 1, fixed(4, 16));
  Loader c(options, 2, fixed(4, 16));
  const Batch first = a.next();
  EXPECT_TRUE(same(first, b.next()));
  EXPECT_FALSE(same(first, c.next()));
  EXPECT_EQ(a.data_digest(), c.data_digest());
}

using ::testing::HasSubstr;

TEST(Loader, RefusesACursorOfAnotherStream) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), distinct_documents({5, 6, 7}), kWide);
  const DataOptions options = options_for({folder.path()});
  Loader loader(options, 1, fixed(1, 8));
  loader.next();
  const Cursor cursor = loader.cursor();
  const auto open = [&](const DataOptions& with, uint64_t seed, const Cursor& from) {
    return [=] { Loader(with, seed, fixed(1, 8), {}, from); };
  };
  EXPECT_THAT(message_of(open(options, 2, cursor)),
              HasSubstr("made with seed = 1, but here it is 2"));
  DataOptions other = options;
  other.packing_buffer = 7;
  EXPECT_THAT(message_of(open(other, 1, cursor)), HasSubstr("packing_buffer = 5"));
  other = options;
  other.long_documents = LongDocuments::drop;
  EXPECT_THAT(message_of(open(other, 1, cursor)), HasSubstr("long_documents"));
  const TemporaryFolder second;
  testing::write_corpus(second.path(), distinct_documents({5, 6, 8}), kWide);
  other = options_for({second.path()});
  EXPECT_THAT(message_of(open(other, 1, cursor)), HasSubstr("data_digest"));
  EXPECT_THAT(message_of(open(options, 1, Cursor{"{\"version\":1}"}), ExitCode::environment),
              HasSubstr("the data cursor cannot be read"));
  EXPECT_THAT(message_of(open(options, 1, Cursor{"not json"}), ExitCode::environment),
              HasSubstr("the data cursor cannot be read"));
  // Numbers that no stream has written.
  for (const char* change :
       {R"({"rows_taken": 99})", R"({"rows_taken": -1})", R"({"row_length": -3})",
        R"({"mixture": [[0, 3, 0]]})", R"({"mixture": [[-1, 0, 0]]})",
        R"({"carry": [[0, 9, 0, 1]]})", R"({"carry": [[1, 0, 0, 1]]})",
        R"({"carry": [[0, 0, 2, 9]]})", R"({"plan": -4})", R"({"begun": [-1]})"}) {
    nlohmann::json changed = nlohmann::json::parse(cursor.text);
    changed.update(nlohmann::json::parse(change));
    EXPECT_THAT(message_of(open(options, 1, Cursor{changed.dump()}), ExitCode::environment),
                HasSubstr("cursor"))
        << change;
  }
}

TEST(Loader, RefusesWrongOptions) {
  const TemporaryFolder folder;
  testing::write_corpus(folder.path(), distinct_documents({5, 6, 7}), kWide);
  const auto open = [](const DataOptions& options) {
    return [=] { Loader(options, 1, fixed(1, 8)).next(); };
  };
  EXPECT_THAT(message_of(open(DataOptions{})), HasSubstr("no training data"));
  DataOptions options = options_for({folder.path()});
  options.train[0].weight = 0;
  EXPECT_THAT(message_of(open(options)), HasSubstr("weights must be above 0"));
  options = options_for({folder / "nowhere"});
  EXPECT_THAT(message_of(open(options), ExitCode::environment), HasSubstr("no such folder"));
  options = options_for({folder.path()});
  options.long_documents = LongDocuments::drop;
  const auto too_short = [=] { Loader(options, 1, fixed(1, 3)).next(); };
  EXPECT_THAT(message_of(too_short),
              HasSubstr("no document of the training data fits in a row of 3 tokens"));
  const auto no_rows = [=] { Loader(options, 1, fixed(0, 3)).next(); };
  EXPECT_THAT(message_of(no_rows), HasSubstr("a batch of 0 rows"));
}

TEST(DocumentRows, GivesEveryPredictionOnceAndEnds) {
  const TemporaryFolder folder;
  const Documents train = distinct_documents({4}, 100'000);
  const Documents validation = distinct_documents(testing::random_lengths(70, 90, 8));
  testing::write_corpus(folder.path(), train, kWide, 20, validation);
  for (const int64_t row_length : {5, 32, 500}) {
    DocumentRows rows(folder / "validation", options_for({folder.path()}), 0);
    Pairs seen;
    for (;;) {
      const Batch batch = rows.next(3, row_length);
      if (batch.rows == 0) break;
      check_batch(batch);
      add_pairs(batch, seen);
    }
    EXPECT_EQ(seen, pairs_of(validation));
    EXPECT_EQ(rows.next(3, row_length).rows, 0);
    int64_t tokens = 0;
    for (const auto& document : validation) tokens += static_cast<int64_t>(document.size());
    EXPECT_EQ(rows.num_bytes(), 2 * tokens);
    EXPECT_EQ(rows.vocabulary(), kWide);
  }
}

TEST(DocumentRows, LanesHoldTheDocumentsInOrder) {
  const TemporaryFolder folder;
  std::vector<int64_t> lengths = testing::random_lengths(40, 60, 8);
  lengths.push_back(300);  // goes on alone in the end
  const Documents validation = distinct_documents(lengths);
  testing::write_corpus(folder.path(), distinct_documents({4}, 100'000), kWide, 20, validation);
  DataOptions options = options_for({folder.path()});
  options.long_documents = LongDocuments::continue_state;
  constexpr int64_t kRows = 4;
  constexpr int64_t kLength = 16;
  DocumentRows rows(folder / "validation", options, 0);
  Pairs seen;
  std::vector<int32_t> expected(kRows, -1);  // the next token of the lane's document, if it goes on
  std::vector<int32_t> position(kRows, 0);
  int64_t carried = 0;
  int64_t padding_rows = 0;
  int64_t trimmed = 0;
  for (;;) {
    const Batch batch = rows.next(kRows, kLength);
    if (batch.rows == 0) break;
    check_batch(batch);
    add_pairs(batch, seen);
    ASSERT_EQ(static_cast<int64_t>(batch.carried.size()), batch.rows);
    trimmed += kRows - batch.rows;
    for (int64_t row = 0; row < kRows; ++row) {
      const auto lane = static_cast<size_t>(row);
      if (row >= batch.rows) {
        EXPECT_EQ(expected[lane], -1);
        continue;
      }
      const auto first = static_cast<size_t>(row * kLength);
      const size_t last = first + kLength - 1;
      const auto start = std::find(batch.document_starts.begin(), batch.document_starts.end(),
                                   static_cast<int32_t>(first));
      const int32_t at =
          batch.first_positions[static_cast<size_t>(start - batch.document_starts.begin())];
      EXPECT_EQ(batch.carried[lane], expected[lane] >= 0 ? 1 : 0);
      if (expected[lane] >= 0) {
        EXPECT_EQ(batch.tokens[first], expected[lane]);
        EXPECT_EQ(at, position[lane]);
        ++carried;
      } else {
        EXPECT_EQ(at, 0);
      }
      padding_rows += batch.targets[first] == kIgnoredTarget ? 1 : 0;
      const bool goes_on = batch.goes_on[lane] == 1;
      expected[lane] = goes_on ? batch.targets[last] : -1;
      position[lane] = at + static_cast<int32_t>(kLength);
    }
  }
  EXPECT_EQ(seen, pairs_of(validation));
  EXPECT_GT(carried, 30);
  EXPECT_GT(trimmed + padding_rows, 10);
  EXPECT_THAT(message_of([&] {
                DocumentRows again(folder / "validation", options, 0);
                again.next(2, 16);
                again.next(3, 16);
              }),
              HasSubstr("validation batches must keep their rows where documents go on: 2, then 3"));
}

TEST(DocumentRows, CountsTheBytesOfTheDocumentsItUses) {
  const TemporaryFolder folder;
  const Documents validation = distinct_documents(testing::random_lengths(200, 40, 8));
  testing::write_corpus(folder.path(), distinct_documents({4}), kWide, 20, validation);
  DocumentRows rows(folder / "validation", options_for({folder.path()}), 300);
  Pairs seen;
  for (Batch batch = rows.next(2, 16); batch.rows > 0; batch = rows.next(2, 16)) {
    add_pairs(batch, seen);
  }
  int64_t tokens = 0;
  for (const auto& document : validation) {
    if (document.size() < 2) continue;
    if (seen.count({document[0], document[1]}) == 0) continue;
    for (size_t i = 0; i + 1 < document.size(); ++i) {
      EXPECT_EQ(seen.count({document[i], document[i + 1]}), 1U);
    }
    tokens += static_cast<int64_t>(document.size());
  }
  EXPECT_GE(tokens, 300 - 40);
  EXPECT_LE(tokens, 300 + 40);
  EXPECT_GE(rows.num_bytes(), 2 * tokens);  // documents of one token count as well
  EXPECT_LE(rows.num_bytes(), 2 * (tokens + 40));
}

}  // namespace
}  // namespace sidewinder
