#pragma once
// JSON of files that others made: an object, nothing twice, not nested without end.

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace sidewinder {

struct StrictJsonLimits {
  size_t depth = 32;         // objects and lists inside each other
  size_t members = 1000000;  // of the outermost object
};

// The object, its members in the order of the text. Error{environment} with `where` in front for
// bad syntax, text that is not UTF-8, anything behind the object, a key twice in one object, and
// more than the limits allow.
nlohmann::ordered_json parse_strict_json(std::string_view text, const std::string& where,
                                         const StrictJsonLimits& limits = {});

}  // namespace sidewinder
