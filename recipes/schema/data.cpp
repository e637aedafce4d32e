#include "recipes/schema.h"

namespace sidewinder {

Section data_section() {
  using Options = DataOptions;
  const Table<CorpusOptions> corpus = {
      "A corpus to train on: a folder of token shards made by `sidewinder tokenize`.",
      {
          field("name", &CorpusOptions::name, "its name in metrics and messages").required(),
          field("folder", &CorpusOptions::folder, "folder of token shards").required(),
          field("weight", &CorpusOptions::weight,
                "share of the training row slots, relative to the other corpora",
                {.above = 0, .below = 1e9}),
      }};
  return section<Options>(
      "data", &Recipe::data,
      {"What the run reads and how rows are packed from it.",
       {
           field("validation", &Options::validation,
                 "folder of token shards held out for validation; empty: no validation")
               .may_change_on_resume(),
           field(
               "long_documents", &Options::long_documents,
               "documents longer than a row: continue_reset puts the pieces into later rows, each "
               "with positions and states of its own; continue_positions does so but lets the "
               "positions go on; continue_state puts them into consecutive steps, each piece going "
               "on from the scan and convolution states and the window of keys that the one before "
               "left (no gradient flows back), in validation too; truncate keeps the first row's worth; drop "
               "leaves them out; defer lets them wait until rows are long enough (see [context]), "
               "at most half of the rows then being theirs; in rows of train.context it is "
               "continue_reset",
               {{"continue_reset", LongDocuments::continue_reset},
                {"continue_positions", LongDocuments::continue_positions},
                {"continue_state", LongDocuments::continue_state},
                {"truncate", LongDocuments::truncate},
                {"drop", LongDocuments::drop},
                {"defer", LongDocuments::defer}}),
           field("packing_buffer", &Options::packing_buffer, "rows planned together by best fit",
                 {.at_least = 1, .at_most = 10'000'000}),
           field("isolate_attention", &Options::isolate_attention,
                 "attention sees its own document only"),
           field("isolate_state", &Options::isolate_state,
                 "convolution and scan start anew at each document"),
           field("mask_joints", &Options::mask_joints,
                 "no loss where the target belongs to another document"),
           field("prefetch", &Options::prefetch, "batches made ahead", {.at_least = 1})
               .may_change_on_resume(),
       },
       {list_of_tables("train", &Options::train, corpus)}});
}

}  // namespace sidewinder
