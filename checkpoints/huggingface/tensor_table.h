#pragma once
// How the tensors of a foreign model lie in ours: each of ours is one of theirs, or several of
// theirs one below the other (queries, keys and values; gate and up). Nothing is transposed: both
// sides store the weights of y = x · Wᵀ as [out, in].

#include <cstdint>
#include <string>
#include <vector>

namespace sidewinder {

struct TensorPart {
  std::string name;
  std::vector<int64_t> shape;  // sizes of 1 may be more or less than in ours
};

struct TensorRule {
  std::string name;  // ours, without "model/"
  std::vector<int64_t> shape;
  std::vector<TensorPart> parts;  // theirs
  bool needs_f32 = false;         // is never written rounded: decay rates suffer
};

struct TensorTable {
  std::vector<TensorRule> rules;
  std::string embedding;  // their names
  std::string head;       // absent from the rules when tied; may be in a file nevertheless
};

}  // namespace sidewinder
