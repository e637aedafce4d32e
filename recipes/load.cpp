#include "recipes/load.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>

namespace sidewinder {
namespace {

Place place_of(const toml::source_position& position, const Place& source) {
  Place place = source;
  if (source.precedence > 0) return place;  // an argument is short enough to be named as a whole
  place.line = static_cast<int>(position.line);
  place.column = static_cast<int>(position.column);
  return place;
}

Node convert(const toml::node& value, const Place& source) {
  Node node;
  node.place = place_of(value.source().begin, source);
  switch (value.type()) {
    case toml::node_type::boolean:
      node.kind = Node::Kind::boolean;
      node.boolean = value.as_boolean()->get();
      break;
    case toml::node_type::integer:
      node.kind = Node::Kind::integer;
      node.integer = value.as_integer()->get();
      break;
    case toml::node_type::floating_point:
      node.kind = Node::Kind::number;
      node.number = value.as_floating_point()->get();
      break;
    case toml::node_type::string:
      node.kind = Node::Kind::string;
      node.string = value.as_string()->get();
      break;
    case toml::node_type::array:
      node.kind = Node::Kind::array;
      for (const toml::node& item : *value.as_array()) node.items.push_back(convert(item, source));
      break;
    case toml::node_type::table:
      for (const auto& [key, item] : *value.as_table()) {
        Node child = convert(item, source);
        child.key = key.str();
        child.key_place = place_of(key.source().begin, source);
        node.items.push_back(std::move(child));
      }
      break;
    default: node.kind = Node::Kind::date;
  }
  return node;
}

// Where the text of a line begins: the library points behind a key that is given twice.
int first_column(std::string_view text, int line) {
  for (int i = 1; i < line; ++i) text.remove_prefix(std::min(text.find('\n') + 1, text.size()));
  const size_t blanks = text.find_first_not_of(" \t");
  return blanks == std::string_view::npos ? 1 : static_cast<int>(blanks) + 1;
}

// What the library says of common mistakes, and clearer words for it.
struct SyntaxHint {
  const char* sign;
  const char* what;
  const char* advice;
};
constexpr SyntaxHint kSyntaxHints[] = {
    {"could not determine value type", "this is not a value",
     "use a number, true, false, a \"string\" in quotes or a [list]"},
    {"unescaped control characters", "a string does not end on its line", "close the quotes"},
    {"is not representable in 64 bits", "a number is too long", "use at most 18 digits"},
    {"could not be interpreted as a value", "a number cannot be represented",
     "use one of at most 1.8e308"},
    {"utf-8", "not UTF-8 text", "save the file as UTF-8"},
};

Problem syntax_problem(const toml::parse_error& error, std::string_view text, const Place& source) {
  Problem problem;
  problem.place = place_of(error.source().begin, source);
  std::string description(error.description());
  std::smatch match;
  static const std::regex twice("cannot redefine existing ([a-z-]+) '([^']*)'");
  if (std::regex_search(description, match, twice)) {
    if (problem.place.line > 0) problem.place.column = first_column(text, problem.place.line);
    problem.what = fmt::format("`{}` is given twice", match[2].str());
    problem.advice = match[1] == "table" ? "join the two tables into one" : "keep one of the two";
    return problem;
  }
  for (const SyntaxHint& hint : kSyntaxHints) {
    if (description.find(hint.sign) == std::string::npos) continue;
    problem.what = hint.what;
    problem.advice = hint.advice;
    return problem;
  }
  static const std::regex preamble("^Error while parsing ([a-z -]+): ");
  static const std::regex line_end("'\\\\n'");
  problem.what = "not valid TOML: " + std::regex_replace(description, preamble, "$1: ");
  problem.what = std::regex_replace(problem.what, line_end, "the end of the line");
  problem.advice = "a line is key = value, [table] or # comment; https://toml.io has the rules";
  return problem;
}

std::optional<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) return std::nullopt;  // opening a folder works
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string why_unreadable(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return "no such file";
  return std::filesystem::is_directory(status) ? "is a folder, not a file" : "cannot be read";
}

// Reads a recipe and, below it, what it extends.
class FileReader {
 public:
  explicit FileReader(Problems& problems) : problems_(problems) {}

  std::optional<Node> read(const std::filesystem::path& path, const Problem& if_absent) {
    const std::optional<std::string> text = read_file(path.string());
    if (!text) {
      problems_.add(if_absent);
      return std::nullopt;
    }
    const int precedence = -static_cast<int>(chain_.size());
    chain_.push_back(path);
    std::optional<Node> tree = parse_toml(*text, path.string(), precedence, problems_);
    return tree ? with_base(std::move(*tree), path) : std::nullopt;
  }

 private:
  std::optional<Node> with_base(Node tree, const std::filesystem::path& path) {
    const auto is_extends = [](const Node& item) { return item.key == "extends"; };
    const auto found = std::find_if(tree.items.begin(), tree.items.end(), is_extends);
    if (found == tree.items.end()) return tree;
    const Node extends = *found;
    tree.items.erase(found);
    if (extends.kind != Node::Kind::string) {
      problems_.add({extends.place, "extends",
                     fmt::format("{} is {}", extends.value_text(), extends.kind_text()),
                     "use the name of one recipe file, in quotes, relative to this one"});
      return std::nullopt;
    }
    const auto base_path = (path.parent_path() / extends.string).lexically_normal();
    if (is_cycle(base_path, extends)) return std::nullopt;
    std::optional<Node> base =
        read(base_path, {extends.place, "extends",
                         base_path.string() + ": " + why_unreadable(base_path.string()),
                         "the name is relative to the folder of this file"});
    if (base) overlay(*base, tree);
    return base;
  }

  bool is_cycle(const std::filesystem::path& next, const Node& extends) {
    std::error_code error;
    const auto same = [&](const auto& path) {
      return std::filesystem::equivalent(path, next, error);
    };
    const auto first = std::find_if(chain_.begin(), chain_.end(), same);
    if (first == chain_.end()) return false;
    std::string circle;
    for (auto path = first; path != chain_.end(); ++path) circle += path->string() + " → ";
    problems_.add({extends.place, "extends", "goes in a circle: " + circle + first->string(),
                   "remove `extends` from one of them"});
    return true;
  }

  Problems& problems_;
  std::vector<std::filesystem::path> chain_;
};

// "key.of.value=…", one of the --set arguments.
class Override {
 public:
  Override(const std::string& argument, int precedence, Problems& problems)
      : argument_(argument), problems_(problems) {
    place_.source = "--set " + argument;
    place_.precedence = precedence;
  }

  void apply(Node& root) const {
    static const std::regex form("([A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*)\\s*=([^]*)");
    std::smatch match;
    if (!std::regex_match(argument_, match, form)) {
      problems_.add({place_, "", "not of the form key=value", "write --set train.steps=100"});
      return;
    }
    const std::optional<Node> value = read_value(match[3]);
    if (value) put(root, match[1], *value);
  }

 private:
  // TOML if it reads as such, otherwise a string: the shell has taken the quotes off.
  std::optional<Node> read_value(const std::string& text) const {
    Problems syntax;
    std::optional<Node> tree =
        parse_toml("value = " + text, place_.source, place_.precedence, syntax);
    if (tree && tree->items.size() == 1) return tree->items.front();
    const size_t first = text.find_first_not_of(" \t");
    const bool is_bare = first == std::string::npos ||
                         (std::string_view("\"'[{").find(text[first]) == std::string_view::npos &&
                          text.find('\n') == std::string::npos);
    if (!is_bare) {
      problems_.add({place_, "", "the value is not valid TOML",
                     "use a number, true, false, a word, a \"string\" or a [list]"});
      return std::nullopt;
    }
    Node node;
    node.kind = Node::Kind::string;
    if (first != std::string::npos) {
      node.string = text.substr(first, text.find_last_not_of(" \t") + 1 - first);
    }
    node.place = place_;
    return node;
  }

  // Tables on the way are made where they are missing; members of lists are named by number.
  void put(Node& root, const std::string& path, Node value) const {
    Node* node = &root;
    size_t begin = 0;
    while (true) {
      const size_t dot = path.find('.', begin);
      const std::string key = path.substr(begin, dot - begin);
      node = node->kind == Node::Kind::array ? member(*node, key, path) : child(*node, key);
      if (node == nullptr) return;
      if (dot == std::string::npos) break;
      begin = dot + 1;
    }
    value.key = node->key;
    value.key_place = place_;
    if (node->is_table() && value.is_table()) {
      overlay(*node, value);
    } else {
      *node = std::move(value);
    }
  }

  Node* member(Node& list, const std::string& key, const std::string& path) const {
    size_t index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (error == std::errc() && end == key.data() + key.size() && index < list.items.size()) {
      return &list.items[index];
    }
    const size_t end_of_list = path.find(list.key) + list.key.size();
    problems_.add(
        {place_, path, fmt::format("`{}` is not the number of a member of the list", key),
         fmt::format("members are numbered from 0, as in {}.0.folder; there {}",
                     path.substr(0, end_of_list),
                     list.items.size() == 1 ? "is 1" : fmt::format("are {}", list.items.size()))});
    return nullptr;
  }

  Node* child(Node& node, const std::string& key) const {
    if (!node.is_table()) {
      Node table;
      table.key = node.key;
      table.place = table.key_place = place_;
      node = std::move(table);
    }
    if (Node* const existing = node.find(key)) return existing;
    Node table;
    table.key = key;
    table.place = table.key_place = place_;
    node.items.push_back(std::move(table));
    return &node.items.back();
  }

  std::string argument_;
  Place place_;
  Problems& problems_;
};

}  // namespace

std::optional<Node> parse_toml(std::string_view text, const std::string& source, int precedence,
                               Problems& problems) {
  Place place;
  place.source = source;
  place.precedence = precedence;
  try {
    const toml::table table = toml::parse(text, source);
    Node root = convert(table, place);
    root.place = place;  // the file as a whole
    return root;
  } catch (const toml::parse_error& error) {
    problems.add(syntax_problem(error, text, place));
    return std::nullopt;
  }
}

std::optional<Node> load_tree(const std::string& path,
                              const std::vector<std::string>& set_overrides, Problems& problems) {
  Place place;
  place.source = path;
  std::optional<Node> tree =
      FileReader(problems).read(path, {place, "", why_unreadable(path),
                                       "give the path of a recipe, as in recipes/smoke/copy.toml"});
  if (tree) apply_overrides(*tree, set_overrides, problems);
  return tree;
}

void apply_overrides(Node& tree, const std::vector<std::string>& set_overrides,
                     Problems& problems) {
  int precedence = 0;
  for (const std::string& argument : set_overrides) {
    Override(argument, ++precedence, problems).apply(tree);
  }
}

}  // namespace sidewinder
