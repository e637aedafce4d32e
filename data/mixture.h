#pragma once
// The endless sequence of documents of a run: per corpus, epoch after epoch, each in an order of
// its own; among corpora, always from the one that lies furthest behind its share of the row slots.
// A pure function of (corpora, weights, seed), whatever rows are made of it.

#include <cstdint>
#include <span>
#include <vector>

namespace sidewinder {

// A pseudo-random permutation of [0, size), one value at a time and without a table: a Feistel
// network on the next power of four, repeated until the value falls into the range.
class Permutation {
 public:
  Permutation(uint64_t size, uint64_t seed, uint64_t tag);
  uint64_t operator()(uint64_t i) const;

 private:
  static constexpr int kRounds = 8;
  uint64_t size_;
  unsigned half_bits_;
  uint64_t keys_[kRounds];
};

struct MixtureSource {
  int64_t documents = 0;
  double weight = 1.0;
};

// The place in the sequence: per corpus.
struct MixturePlace {
  int64_t epoch = 0;
  int64_t position = 0;  // documents taken in this epoch
  int64_t slots = 0;     // taken in all
  bool operator==(const MixturePlace&) const = default;
};

class Mixture {
 public:
  Mixture(std::vector<MixtureSource> sources, uint64_t seed);

  struct Choice {
    int32_t corpus = 0;
    int64_t document = 0;
  };
  // The next document. The caller then says how many row slots it fills, before the next call; of
  // one that is put off, 0 at first and the rest when it is taken.
  Choice next();
  void took(int64_t slots) { took(static_cast<int32_t>(last_), slots); }
  void took(int32_t corpus, int64_t slots) { places_[static_cast<size_t>(corpus)].slots += slots; }

  const std::vector<MixturePlace>& places() const { return places_; }
  void go_to(std::vector<MixturePlace> places);

 private:
  void start_epoch(size_t corpus);

  std::vector<MixtureSource> sources_;
  uint64_t seed_;
  std::vector<double> shares_;
  std::vector<MixturePlace> places_;
  std::vector<Permutation> orders_;
  size_t last_ = 0;
};

}  // namespace sidewinder
