#include "model/layers/rope_tables.h"

#include <algorithm>

namespace sidewinder {

const RopeTable& RopeTables::of(const RopeOptions& options, int64_t positions, int64_t length,
                                Dtype dtype) {
  auto entry = std::find_if(entries_.begin(), entries_.end(),
                            [&](const Entry& of) { return of.options == options; });
  if (entry == entries_.end()) entry = entries_.insert(entry, Entry{options, 0, {}});
  RopeTable& table = entry->table;
  const int64_t length_class = rope_length_class(options, length);
  if (!table.cosine.defined() || table.cosine.size(0) < positions ||
      table.cosine.dtype() != dtype || entry->length_class != length_class) {
    // Doubled, so that generation does not make it anew for every token; dynamic frequencies do.
    int64_t size = 1024;
    while (size < positions) size *= 2;
    if (options.scaling.kind == RopeScalingKind::dynamic) size = positions;
    table = ops::rope_table(options, size, dtype, length);
    entry->length_class = length_class;
  }
  return table;
}

}  // namespace sidewinder
