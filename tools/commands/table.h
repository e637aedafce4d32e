#pragma once
// Tables for terminals.

#include <cstdint>
#include <string>
#include <vector>

namespace sidewinder {

using TableRow = std::vector<std::string>;

// Columns as wide as their widest cell, two spaces apart; the first row is the heading. Columns
// whose letter in `alignment` is 'r' are aligned to the right, others to the left.
std::string table_text(const std::vector<TableRow>& rows, const std::string& alignment);

std::string count_text(int64_t count);  // "12,345,678"
// One line: line breaks and control characters escaped, cut to about `columns` with an ellipsis at
// a character border.
std::string line_text(const std::string& text, size_t columns);

}  // namespace sidewinder
