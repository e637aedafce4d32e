#pragma once
// The ids of short texts that were encoded before: natural text repeats its words.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sidewinder {

// A table of bounded size, for one thread at a time. When it is full it begins anew, so that a
// change of language does not leave it useless.
class SegmentCache {
 public:
  static constexpr size_t kLongestSegment = 48;  // bytes; longer ones seldom come again

  SegmentCache() { clear(); }

  // The ids, valid until the next add(); none if the segment is not known.
  std::optional<std::span<const int32_t>> find(std::string_view segment) const;
  // Whether this was asked of the segment before (nearly always right; a wrong answer does no harm).
  // A segment that comes only once is not worth adding.
  bool seen_before(std::string_view segment);
  // A segment that find() does not know, of at most kLongestSegment bytes.
  void add(std::string_view segment, std::span<const int32_t> ids);

 private:
  struct Slot {
    uint64_t digest = 0;
    uint32_t text = 0;  // where the segment's text and ids begin
    uint32_t ids = 0;
    uint16_t text_bytes = 0;  // 0: the slot is free
    uint16_t num_ids = 0;
  };

  void clear();
  // The slot of the segment, or the free one where it would stand.
  size_t slot_of(std::string_view segment, uint64_t digest) const;

  std::vector<Slot> slots_;
  std::vector<uint64_t> seen_;  // digests, each where it falls, the newest stays
  size_t used_ = 0;
  std::string texts_;
  std::vector<int32_t> ids_;
};

}  // namespace sidewinder
