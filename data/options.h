#pragma once
// What a run reads and how rows are packed from it.

#include <cstdint>
#include <string>
#include <vector>

namespace sidewinder {

// A folder of token shards made by `sidewinder tokenize`.
struct CorpusOptions {
  std::string name;
  std::string folder;
  double weight = 1.0;  // share of the training tokens, relative to the other corpora
};

enum class LongDocuments : uint8_t {
  continue_reset,      // pieces go into other rows; positions and states start anew at each
  continue_positions,  // the same, but positions go on (states start anew)
  continue_state,      // pieces follow each other in one lane; positions and states go on
  truncate,            // the first row's worth is kept
  drop,                // documents longer than a row are left out
  defer,               // they wait until rows can hold them; in the longest rows as continue_reset
};

struct DataOptions {
  std::vector<CorpusOptions> train;  // [[data.train]]
  std::string validation;            // folder of token shards; empty: no validation
  LongDocuments long_documents = LongDocuments::continue_reset;
  int64_t packing_buffer = 256;  // rows planned together by best fit; part of what defines the data
  bool isolate_attention = true;  // attention sees its own document only
  bool isolate_state = true;      // convolution and scan start anew at each document
  bool mask_joints = true;        // no loss where the target belongs to another document
  int64_t prefetch = 4;           // batches made ahead
  int64_t longest_row = 0;  // of the run, what `defer` may wait for; 0: rows keep their length
};

}  // namespace sidewinder
