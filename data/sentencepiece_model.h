#pragma once
// What a SentencePiece model file says, read without the library: a structure check (the library
// may crash on damaged files), and where a text may be cut without changing its ids.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sidewinder {

// sentencepiece_model.proto, ModelProto.SentencePiece.Type
enum class PieceType : uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

struct Piece {
  std::string text;
  PieceType type = PieceType::normal;
};

struct SentencePieceModel {
  std::vector<Piece> pieces;  // id = index
  enum class Kind : uint8_t { unigram = 1, bpe = 2, word = 3, character = 4 };
  Kind kind = Kind::unigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  bool dummy_prefix = true;
  bool remove_extra_whitespace = true;
  bool escape_whitespace = true;
  std::string character_map;  // the compiled normalisation rules; empty: identity
};

// Reads and checks the serialized ModelProto; `name` is for messages. Error{environment} if it is
// not a sound model: wire format, piece list, byte pieces, and the automaton of the normalisation
// rules.
SentencePieceModel parse_sentencepiece(std::string_view bytes, const std::string& name);

// Places where a text can be cut so that encoding the parts gives the ids of the whole.
//
// A cut is a space between two printable ASCII characters, "a c", that the model treats simply. The
// left part ends with `a`; the right part is "c…" if the model adds a dummy prefix (its ▁ then
// stands for the space) and " c…" if not. Why the ids are the same:
//  1. Normalisation. It replaces the longest rule match at each place, from left to right. No rule
//     longer than one byte contains a space or has an ASCII character after its first byte, and
//     neither ' ' nor `a` nor `c` alone is replaced; no user-defined piece contains a space. So a
//     match never reaches over the cut, `a` is output as `a`, and the state after it is "previous
//     output was not a space". The space then gives one ▁ in the whole text, as the dummy prefix
//     (or the space itself) does in the right part. Removal of extra spaces acts at the outer ends
//     only, since `a` and `c` are not spaces.
//  2. Segmentation. No piece of the vocabulary contains `a` directly before ▁. BPE merges two
//     neighbours only into a piece, so no merge reaches over the cut, and merges on either side are
//     ordered by score, then place, among themselves: the other side cannot change them. In Viterbi
//     (unigram), no edge reaches over the cut, so the best path of the whole is the best paths of
//     the parts. (The library sums path scores in 32 bits; in very long calls rounding may tip
//     nearly equal paths, so there the parts are the more exact answer. BPE compares exact scores.)
//  3. Neighbouring unknown pieces are fused by the library. ▁ is a piece of its own (or unknown
//     characters become bytes), so the right part does not begin with an unknown piece.
class CutRule {
 public:
  CutRule() = default;
  explicit CutRule(const SentencePieceModel& model);

  // Whether the model allows any cut.
  bool possible() const { return possible_; }
  // Parts of at least `least_bytes` (but the last) that are encoded one by one.
  std::vector<std::string_view> split(std::string_view text, size_t least_bytes) const;
  // Takes the first of these parts off the text.
  std::string_view take(std::string_view& text, size_t least_bytes) const;

 private:
  bool possible_ = false;
  bool drop_space_ = true;
  std::array<bool, 128> before_{};  // `a`
  std::array<bool, 128> after_{};   // `c`
};

}  // namespace sidewinder
