#pragma once
// The text form of a place in a row stream.

#include <string>

#include "data/loader.h"
#include "data/row_stream.h"

namespace sidewinder {

// What else defines the stream; a cursor is refused where it differs.
struct StreamIdentity {
  std::string data_digest;
  uint64_t seed = 0;
  int64_t packing_buffer = 0;
  std::string long_documents;
  bool last_token_has_slot = false;
};
StreamIdentity identity_of(const std::string& data_digest, uint64_t seed,
                           const DataOptions& options);

std::string to_json(const StreamPlace& place, const StreamIdentity& identity);
// Error{user} if the cursor belongs to another stream, Error{environment} if it is damaged.
StreamPlace place_from_json(const std::string& text, const StreamIdentity& identity,
                            size_t num_corpora);

}  // namespace sidewinder
