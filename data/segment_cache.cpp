#include "data/segment_cache.h"

#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/digest.h"

namespace sidewinder {
namespace {

constexpr size_t kSlots = size_t{1} << 16;
constexpr size_t kMostUsed = kSlots / 4 * 3;

}  // namespace

void SegmentCache::clear() {
  slots_.assign(kSlots, Slot{});
  seen_.assign(kSlots, 0);
  used_ = 0;
  texts_.clear();
  ids_.clear();
}

bool SegmentCache::seen_before(std::string_view segment) {
  const uint64_t digest = digest64(segment);
  return std::exchange(seen_[digest % kSlots], digest) == digest;
}

size_t SegmentCache::slot_of(std::string_view segment, uint64_t digest) const {
  for (size_t i = digest % kSlots;; i = (i + 1) % kSlots) {
    const Slot& slot = slots_[i];
    if (slot.text_bytes == 0) return i;
    if (slot.digest != digest || slot.text_bytes != segment.size()) continue;
    if (std::string_view(texts_).substr(slot.text, slot.text_bytes) == segment) return i;
  }
}

std::optional<std::span<const int32_t>> SegmentCache::find(std::string_view segment) const {
  const Slot& slot = slots_[slot_of(segment, digest64(segment))];
  if (slot.text_bytes == 0) return std::nullopt;
  return std::span(ids_).subspan(slot.ids, slot.num_ids);
}

void SegmentCache::add(std::string_view segment, std::span<const int32_t> ids) {
  SIDEWINDER_ASSERT(!segment.empty() && segment.size() <= kLongestSegment);
  if (ids.size() > UINT16_MAX) return;  // normalisation may turn one character into many
  if (used_ == kMostUsed) clear();
  const uint64_t digest = digest64(segment);
  Slot& slot = slots_[slot_of(segment, digest)];
  slot.digest = digest;
  slot.text = static_cast<uint32_t>(texts_.size());
  slot.ids = static_cast<uint32_t>(ids_.size());
  slot.text_bytes = static_cast<uint16_t>(segment.size());
  slot.num_ids = static_cast<uint16_t>(ids.size());
  texts_ += segment;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++used_;
}

}  // namespace sidewinder
