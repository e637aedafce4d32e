#include "data/mixture.h"

#include <bit>
#include <string>

#include "kernels/base/check.h"
#include "kernels/base/philox.h"

namespace sidewinder {
namespace {

// The finalizer of SplitMix64 (Steele et al. 2014).
uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

Permutation::Permutation(uint64_t size, uint64_t seed, uint64_t tag) : size_(size) {
  SIDEWINDER_ASSERT(size >= 1 && size < (uint64_t{1} << 62));
  const auto bits = static_cast<unsigned>(std::bit_width(size - 1));
  half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
  const Philox philox(seed, tag);
  for (int round = 0; round < kRounds; ++round) {
    keys_[round] = philox.bits(static_cast<uint64_t>(round));
  }
}

uint64_t Permutation::operator()(uint64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {
    uint64_t left = i >> half_bits_;
    uint64_t right = i & mask;
    for (const uint64_t key : keys_) {
      const uint64_t mixed = left ^ (scramble(right + key) >> (64 - half_bits_));
      left = right;
      right = mixed;
    }
    i = left << half_bits_ | right;
  } while (i >= size_);
  return i;
}

Mixture::Mixture(std::vector<MixtureSource> sources, uint64_t seed)
    : sources_(std::move(sources)), seed_(seed), places_(sources_.size()) {
  SIDEWINDER_ASSERT(!sources_.empty());
  double sum = 0;
  for (const MixtureSource& source : sources_) sum += source.weight;
  for (const MixtureSource& source : sources_) shares_.push_back(source.weight / sum);
  go_to(places_);
}

void Mixture::start_epoch(size_t corpus) {
  const uint64_t tag = Philox::hash("data.shuffle/" + std::to_string(corpus)) +
                       static_cast<uint64_t>(places_[corpus].epoch);
  orders_[corpus] = Permutation(static_cast<uint64_t>(sources_[corpus].documents), seed_, tag);
}

void Mixture::go_to(std::vector<MixturePlace> places) {
  SIDEWINDER_ASSERT(places.size() == sources_.size());
  places_ = std::move(places);
  orders_.assign(sources_.size(), Permutation(1, 0, 0));
  for (size_t corpus = 0; corpus < sources_.size(); ++corpus) start_epoch(corpus);
}

Mixture::Choice Mixture::next() {
  int64_t total = 0;
  for (const MixturePlace& place : places_) total += place.slots;
  // Behind by most slots; the first of equals. At the start all are equal and the largest share
  // goes first, so that a small one waits for its turn.
  size_t best = 0;
  double most = 0;
  for (size_t corpus = 0; corpus < sources_.size(); ++corpus) {
    const double behind = shares_[corpus] * (static_cast<double>(total) + 1) -
                          static_cast<double>(places_[corpus].slots);
    if (corpus == 0 || behind > most) {
      best = corpus;
      most = behind;
    }
  }
  MixturePlace& place = places_[best];
  const uint64_t document = orders_[best](static_cast<uint64_t>(place.position));
  if (++place.position == sources_[best].documents) {
    place.position = 0;
    ++place.epoch;
    start_epoch(best);
  }
  last_ = best;
  return {static_cast<int32_t>(best), static_cast<int64_t>(document)};
}

}  // namespace sidewinder
