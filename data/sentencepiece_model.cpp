#include "data/sentencepiece_model.h"

#include <cstdio>
#include <cstring>
#include <set>

#include "kernels/base/error.h"

namespace sidewinder {
namespace {

constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // ▁, U+2581

[[noreturn]] void damaged(const std::string& name, const std::string& reason) {
  fail_environment(
      "{}: not a sound SentencePiece model: {}; copy the file again from where it came", name,
      reason);
}

// Protocol buffers on the wire: (field number, type) keys before values.
class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  // The next field; false at the end.
  bool next() {
    if (bytes_.empty()) return false;
    const uint64_t key = varint();
    field_ = key >> 3;
    if (field_ == 0 || field_ > 0x1fffffff) damaged(name_, "a field number is out of range");
    number_ = 0;
    content_ = {};
    switch (key & 7) {
      case 0:
        number_ = varint();
        type_ = 0;
        break;
      case 1:
        content_ = take(8);
        type_ = 1;
        break;
      case 2:
        content_ = take(varint());
        type_ = 2;
        break;
      case 5:
        content_ = take(4);
        type_ = 5;
        break;
      default: damaged(name_, "a field has an unknown wire type");
    }
    return true;
  }

  uint64_t field() const { return field_; }
  uint64_t number() const {
    if (type_ != 0) damaged(name_, "a number was expected");
    return number_;
  }
  std::string_view message() const {
    if (type_ != 2) damaged(name_, "a message or string was expected");
    return content_;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) damaged(name_, "it ends in the middle of a field");
      const auto byte = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
    damaged(name_, "a number is too long");
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size()) damaged(name_, "it ends in the middle of a field");
    const std::string_view result = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return result;
  }

  std::string_view bytes_;
  const std::string& name_;
  uint64_t field_ = 0;
  unsigned type_ = 0;
  uint64_t number_ = 0;
  std::string_view content_;
};

Piece parse_piece(std::string_view bytes, const std::string& name) {
  Piece piece;
  for (WireReader reader(bytes, name); reader.next();) {
    if (reader.field() == 1) piece.text = reader.message();
    if (reader.field() == 3) {
      if (reader.number() < 1 || reader.number() > 6) damaged(name, "a piece has an unknown type");
      piece.type = static_cast<PieceType>(reader.number());
    }
  }
  return piece;
}

void parse_trainer(std::string_view bytes, const std::string& name, SentencePieceModel& model) {
  for (WireReader reader(bytes, name); reader.next();) {
    if (reader.field() == 3) {
      if (reader.number() < 1 || reader.number() > 4) damaged(name, "the model type is unknown");
      model.kind = static_cast<SentencePieceModel::Kind>(reader.number());
    }
    if (reader.field() == 24) model.whitespace_as_suffix = reader.number() != 0;
    if (reader.field() == 35) model.byte_fallback = reader.number() != 0;
  }
}

void parse_normalizer(std::string_view bytes, const std::string& name, SentencePieceModel& model) {
  for (WireReader reader(bytes, name); reader.next();) {
    if (reader.field() == 2) model.character_map = reader.message();
    if (reader.field() == 3) model.dummy_prefix = reader.number() != 0;
    if (reader.field() == 4) model.remove_extra_whitespace = reader.number() != 0;
    if (reader.field() == 5) model.escape_whitespace = reader.number() != 0;
  }
}

// The normalisation rules: a double array (the format of darts-clone) from source to an offset in a
// table of zero-terminated replacements. Visits every rule, and checks every step that a walk by
// any text could take.
class CharacterMap {
 public:
  CharacterMap(std::string_view blob, const std::string& name) : name_(name) {
    uint32_t trie_bytes = 0;
    if (blob.size() < sizeof trie_bytes) damaged(name, "the normalisation rules are cut short");
    std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
    blob.remove_prefix(sizeof trie_bytes);
    if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes >= blob.size()) {
      damaged(name, "the normalisation rules have a wrong size");
    }
    units_.resize(trie_bytes / 4);
    std::memcpy(units_.data(), blob.data(), trie_bytes);
    replacements_ = blob.substr(trie_bytes);
    if (replacements_.back() != '\0') damaged(name, "the normalisation rules have no end mark");
  }

  // visit(source, replacement) for every rule.
  template <typename Visit>
  void for_each_rule(Visit&& visit) {
    steps_ = 0;
    std::string source;
    walk(0, offset(units_[0]), source, 0, visit);
  }

 private:
  static uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & (1U << 9)) >> 6); }
  // The label of a leaf has bit 31 set, so that it equals no byte.
  static uint32_t label(uint32_t unit) { return unit & ((1U << 31) | 0xff); }
  static bool has_leaf(uint32_t unit) { return ((unit >> 8) & 1) == 1; }

  template <typename Visit>
  void walk(uint32_t node, uint32_t node_offset, std::string& source, int rules_on_path,
            Visit&& visit) {
    constexpr size_t kLongestSource = 64;
    // Equal tails are shared, so the number of paths is not bounded by the number of units.
    constexpr int64_t kMostSteps = 1 << 20;
    constexpr int kMostRulesOnPath = 32;  // the library's result buffer
    if (source.size() > kLongestSource) damaged(name_, "a normalisation rule is too long");
    const uint32_t base = node ^ node_offset;
    // The library reads there for every byte; a sound table is padded to whole blocks of 256 units.
    if ((base | 0xffU) >= units_.size()) {
      damaged(name_, "a normalisation rule points outside its table");
    }
    for (uint32_t byte = 1; byte < 256; ++byte) {
      const uint32_t child = base ^ byte;
      const uint32_t unit = units_[child];
      if (label(unit) != byte) continue;
      if (++steps_ > kMostSteps) damaged(name_, "there are too many normalisation rules");
      source.push_back(static_cast<char>(byte));
      const uint32_t child_offset = offset(unit);
      int rules = rules_on_path;
      if (has_leaf(unit)) {
        const uint32_t leaf = child ^ child_offset;
        if (leaf >= units_.size()) damaged(name_, "a normalisation rule points outside its table");
        const uint32_t value = units_[leaf] & 0x7fffffffU;
        if (value >= replacements_.size()) {
          damaged(name_, "a normalisation rule has no replacement");
        }
        if (++rules > kMostRulesOnPath) damaged(name_, "too many normalisation rules overlap");
        visit(std::string_view(source), std::string_view(replacements_.data() + value));
      }
      walk(child, child_offset, source, rules, visit);
      source.pop_back();
    }
  }

  const std::string& name_;
  std::vector<uint32_t> units_;
  int64_t steps_ = 0;
  std::string_view replacements_;
};

void check_pieces(const SentencePieceModel& model, const std::string& name) {
  if (model.pieces.empty()) damaged(name, "it has no pieces");
  if (model.pieces.size() > (size_t{1} << 30)) damaged(name, "it has too many pieces");
  std::set<std::string_view> seen;
  size_t num_unknown = 0;
  size_t num_bytes = 0;
  for (const Piece& piece : model.pieces) {
    if (piece.text.empty()) damaged(name, "a piece is empty");
    if (piece.text.find('\0') != std::string::npos) damaged(name, "a piece contains a zero byte");
    if (!seen.insert(piece.text).second) {
      damaged(name, fmt::format("piece \"{}\" occurs twice", piece.text));
    }
    if (piece.type == PieceType::unknown) ++num_unknown;
    if (piece.type == PieceType::byte) {
      ++num_bytes;
      unsigned value = 0;
      char rest = 0;
      if (piece.text.size() != 6 ||
          std::sscanf(piece.text.c_str(), "<0x%2X%c", &value, &rest) != 2 || rest != '>') {
        damaged(name, fmt::format("byte piece \"{}\" is not of the form <0xAB>", piece.text));
      }
    }
  }
  if (num_unknown != 1) damaged(name, "it must have one piece for unknown text");
  if (model.byte_fallback ? num_bytes != 256 : num_bytes != 0) {
    damaged(name, fmt::format("it has {} byte pieces, but byte fallback is {}", num_bytes,
                              model.byte_fallback ? "on" : "off"));
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece(std::string_view bytes, const std::string& name) {
  SentencePieceModel model;
  for (WireReader reader(bytes, name); reader.next();) {
    if (reader.field() == 1) model.pieces.push_back(parse_piece(reader.message(), name));
    if (reader.field() == 2) parse_trainer(reader.message(), name, model);
    if (reader.field() == 3) parse_normalizer(reader.message(), name, model);
    if (reader.field() == 5) {
      SentencePieceModel backwards;  // the rules used when decoding
      parse_normalizer(reader.message(), name, backwards);
      if (!backwards.character_map.empty()) {
        CharacterMap(backwards.character_map, name).for_each_rule([](auto, auto) {});
      }
    }
  }
  check_pieces(model, name);
  if (!model.character_map.empty()) {
    CharacterMap(model.character_map, name).for_each_rule([](auto, auto) {});
  }
  return model;
}

CutRule::CutRule(const SentencePieceModel& model) {
  using Kind = SentencePieceModel::Kind;
  if (model.kind != Kind::bpe && model.kind != Kind::unigram) return;
  if (model.whitespace_as_suffix) return;
  // Without a dummy prefix the right part keeps its space, which must then not be removed.
  if (!model.dummy_prefix && model.remove_extra_whitespace) return;
  drop_space_ = model.dummy_prefix;

  for (unsigned char c = 0x21; c < 0x7f; ++c) before_[c] = after_[c] = true;
  const std::string_view space = model.escape_whitespace ? kSpaceSymbol : std::string_view(" ");
  bool space_is_piece = false;
  for (const Piece& piece : model.pieces) {
    if (piece.type == PieceType::user_defined && piece.text.find(' ') != std::string::npos) return;
    if (piece.text == space && piece.type == PieceType::normal) space_is_piece = true;
    // Any type: an unused piece takes part in merges too.
    for (const std::string_view symbol : {kSpaceSymbol, std::string_view(" ")}) {
      for (size_t at = piece.text.find(symbol, 1); at != std::string::npos;
           at = piece.text.find(symbol, at + 1)) {
        const auto previous = static_cast<unsigned char>(piece.text[at - 1]);
        if (previous < 128) before_[previous] = false;
      }
    }
  }
  if (!space_is_piece && !model.byte_fallback) return;

  bool simple = true;
  if (!model.character_map.empty()) {
    CharacterMap(model.character_map, "tokenizer model")
        .for_each_rule([&](std::string_view source, std::string_view replacement) {
          if (source.size() == 1) {
            if (source == replacement) return;
            const auto c = static_cast<unsigned char>(source[0]);
            if (c == ' ') simple = false;
            if (c < 128) before_[c] = after_[c] = false;
            return;
          }
          if (source.find(' ') != std::string_view::npos) simple = false;
          for (size_t i = 1; i < source.size(); ++i) {
            const auto c = static_cast<unsigned char>(source[i]);
            if (c < 128) before_[c] = false;
          }
        });
  }
  possible_ = simple;
}

std::string_view CutRule::take(std::string_view& text, size_t least_bytes) const {
  size_t space = possible_ && text.size() > least_bytes ? text.find(' ', least_bytes)
                                                        : std::string_view::npos;
  for (; space != std::string_view::npos; space = text.find(' ', space + 1)) {
    if (space + 1 >= text.size() || space == 0) continue;
    const auto a = static_cast<unsigned char>(text[space - 1]);
    const auto c = static_cast<unsigned char>(text[space + 1]);
    if (a < 128 && c < 128 && before_[a] && after_[c]) break;
  }
  const std::string_view part = text.substr(0, space);
  text.remove_prefix(space == std::string_view::npos ? text.size() : space + (drop_space_ ? 1 : 0));
  return part;
}

std::vector<std::string_view> CutRule::split(std::string_view text, size_t least_bytes) const {
  std::vector<std::string_view> parts;
  do {
    parts.push_back(take(text, least_bytes));
  } while (!text.empty());
  return parts;
}

}  // namespace sidewinder
