#pragma once
// Pictures of results as SVG, and pages that hold them: no scripts, no fonts or files from outside.
// Colours are told apart by people with the common forms of colour blindness: curves by Okabe and
// Ito's palette, dashes and marks; heat maps by viridis, with the number in every cell.

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sidewinder {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // ascending x
};

struct CurvePicture {
  std::string title;
  std::string x_label;  // of a logarithmic axis of base 2, labelled 512, 1K, 2K, …
  std::string y_label;
  std::vector<Curve> curves;
  std::optional<double> marked_x;  // a vertical line, e.g. at the context of training
  std::string mark_label;
};

struct HeatPicture {
  std::string title;
  std::string x_label, y_label;
  std::vector<std::string> columns, rows;
  // [row][column], from 0 to 1; none: not measured
  std::vector<std::vector<std::optional<double>>> values;
};

// One SVG element with its own size. Error{user} if there is nothing to draw.
std::string svg_of(const CurvePicture& picture);
std::string svg_of(const HeatPicture& picture);

// Several pictures below each other as one SVG document.
std::string svg_document(const std::vector<std::string>& svgs);

struct Figure {
  std::string svg;
  std::string caption;
};
std::string html_page(const std::string& title, const std::string& lead,
                      const std::vector<Figure>& figures);

}  // namespace sidewinder
