#include "tools/picture.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

constexpr double kWidth = 760;
constexpr double kHeight = 420;
constexpr double kLeft = 72;
constexpr double kTop = 44;
constexpr double kBottom = 58;
constexpr double kLegendLine = 20;
constexpr const char* kFont =
    "font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\" font-size=\"13\"";

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      default: result += c;
    }
  }
  return result;
}

// Elements of one picture.
class Svg {
 public:
  Svg(double width, double height) : width_(width), height_(height) {}

  void text(double x, double y, const std::string& text, const std::string& more = "") {
    body_ +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, more, escaped(text));
  }
  void line(double x1, double y1, double x2, double y2, const std::string& more) {
    body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1,
                         y1, x2, y2, more);
  }
  void rectangle(double x, double y, double width, double height, const std::string& more) {
    body_ +=
        fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" {}/>\n", x,
                    y, width, height, more);
  }
  void add(const std::string& element) { body_ += element + "\n"; }

  std::string finish() const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
        "viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\" {2} fill=\"#222\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{3}</svg>\n",
        width_, height_, kFont, body_);
  }

 private:
  double width_, height_;
  std::string body_;
};

// 0, 512, 1K, 1.5K, 64K, 1M.
std::string length_text(double value) {
  if (value < 1024) return fmt::format("{:g}", value);
  if (value < 1024 * 1024) return fmt::format("{:.3g}K", value / 1024);
  return fmt::format("{:.3g}M", value / (1024 * 1024));
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// Steps of 1, 2 or 5 times a power of ten that cut the range into at most seven.
double nice_step(Range range) {
  const double rough = (range.high - range.low) / 7;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

struct CurveStyle {
  const char* color;
  const char* dashes;
};
constexpr std::array<CurveStyle, 7> kStyles = {{{"#0072b2", ""},
                                                {"#d55e00", ""},
                                                {"#009e73", "7 4"},
                                                {"#cc79a7", "7 4"},
                                                {"#000000", "2 3"},
                                                {"#56b4e9", "2 3"},
                                                {"#e69f00", "10 3 2 3"}}};

// Circle, square, triangle, diamond in turn.
std::string mark(size_t curve, double x, double y) {
  const char* color = kStyles[curve % kStyles.size()].color;
  switch (curve % 4) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"/>", x, y,
                         color);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"7\" height=\"7\" fill=\"{}\"/>",
                         x - 3.5, y - 3.5, color);
    case 2:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l4.5 8h-9z\" fill=\"{}\"/>", x, y - 5, color);
    default:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z\" fill=\"{}\"/>", x,
                         y - 4.5, color);
  }
}

std::string stroke(size_t curve) {
  const CurveStyle& style = kStyles[curve % kStyles.size()];
  return fmt::format(
      "stroke=\"{}\" stroke-width=\"2\" fill=\"none\"{}", style.color,
      *style.dashes == '\0' ? "" : fmt::format(" stroke-dasharray=\"{}\"", style.dashes));
}

using Color = std::array<int, 3>;

// viridis (Smith and van der Walt 2015) at ninths, linear between.
Color color_of(double share) {
  constexpr std::array<Color, 9> kAnchors = {{{68, 1, 84},
                                              {71, 44, 122},
                                              {59, 81, 139},
                                              {44, 113, 142},
                                              {33, 144, 141},
                                              {39, 173, 129},
                                              {92, 200, 99},
                                              {170, 220, 50},
                                              {253, 231, 37}}};
  const double at = std::clamp(share, 0.0, 1.0) * (kAnchors.size() - 1);
  const auto left = std::min(static_cast<size_t>(at), kAnchors.size() - 2);
  const double rest = at - static_cast<double>(left);
  Color color{};
  for (size_t i = 0; i < 3; ++i) {
    color[i] = static_cast<int>(
        std::lround((1 - rest) * kAnchors[left][i] + rest * kAnchors[left + 1][i]));
  }
  return color;
}

std::string fill(const Color& color) {
  return fmt::format("fill=\"#{:02x}{:02x}{:02x}\"", color[0], color[1], color[2]);
}

// Black or white, whichever stands out.
const char* text_fill(const Color& color) {
  const double light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2];
  return light > 140 ? "#000000" : "#ffffff";
}

// "100", "95", "7": percent in a cell.
std::string percent(double share) { return fmt::format("{:.0f}", 100 * share); }

}  // namespace

std::string svg_of(const CurvePicture& picture) {
  Range x;
  Range y;
  size_t longest_name = 0;
  for (const Curve& curve : picture.curves) {
    longest_name = std::max(longest_name, curve.name.size());
    for (const auto& [px, py] : curve.points) {
      SIDEWINDER_REQUIRE(px > 0 && std::isfinite(py),
                         "curve \"{}\" of \"{}\" has the point ({}, {}); x must be positive and y "
                         "finite",
                         curve.name, picture.title, px, py);
      x.add(px);
      y.add(py);
    }
  }
  SIDEWINDER_REQUIRE(x.low <= x.high, "there is nothing to draw in \"{}\"", picture.title);
  if (picture.marked_x) x.add(*picture.marked_x);
  if (x.low == x.high) x = {x.low / 2, x.high * 2};
  if (y.high - y.low < 1e-9) y = {y.low - 0.5, y.high + 0.5};
  const double step = nice_step(y);
  y = {std::floor(y.low / step) * step, std::ceil(y.high / step) * step};

  // The legend stands to the right, as wide as its longest name.
  const double legend = std::clamp(8.0 * static_cast<double>(longest_name) + 60, 120.0, 420.0);
  const double right = kWidth - 20;
  const double bottom =
      std::max(kHeight - kBottom, kTop + kLegendLine * static_cast<double>(picture.curves.size()));
  Svg svg(right + legend, bottom + kBottom);
  const auto px = [&](double value) {
    return kLeft + (std::log2(value) - std::log2(x.low)) / (std::log2(x.high) - std::log2(x.low)) *
                       (right - kLeft);
  };
  const auto py = [&](double value) {
    return bottom - (value - y.low) / (y.high - y.low) * (bottom - kTop);
  };
  svg.text(kLeft, 24, picture.title, "font-size=\"16\" font-weight=\"600\"");
  const int decimals = std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9)));
  for (int i = 0; i <= std::lround((y.high - y.low) / step); ++i) {
    const double value = y.low + i * step;
    svg.line(kLeft, py(value), right, py(value), "stroke=\"#dddddd\"");
    svg.text(kLeft - 8, py(value) + 4, fmt::format("{:.{}f}", value, decimals),
             "text-anchor=\"end\"");
  }
  const double first = std::ceil(std::log2(x.low) - 1e-9);
  const double last = std::floor(std::log2(x.high) + 1e-9);
  const double every = std::max(1.0, std::ceil((last - first) / 12));
  for (double exponent = first; exponent <= last; exponent += every) {
    const double at = px(std::exp2(exponent));
    svg.line(at, bottom, at, bottom + 5, "stroke=\"#222222\"");
    svg.text(at, bottom + 20, length_text(std::exp2(exponent)), "text-anchor=\"middle\"");
  }
  svg.line(kLeft, bottom, right, bottom, "stroke=\"#222222\"");
  svg.line(kLeft, kTop, kLeft, bottom, "stroke=\"#222222\"");
  svg.text((kLeft + right) / 2, bottom + 42, picture.x_label, "text-anchor=\"middle\"");
  const double middle = (kTop + bottom) / 2;
  svg.text(18, middle, picture.y_label,
           fmt::format("text-anchor=\"middle\" transform=\"rotate(-90 18 {:.1f})\"", middle));
  if (picture.marked_x) {
    const double at = px(*picture.marked_x);
    svg.line(at, kTop, at, bottom, "stroke=\"#777777\" stroke-dasharray=\"4 4\"");
    const bool at_right = at > (kLeft + right) / 2;
    svg.text(at + (at_right ? -6 : 6), kTop + 12, picture.mark_label,
             fmt::format("fill=\"#555555\" text-anchor=\"{}\"", at_right ? "end" : "start"));
  }
  for (size_t i = 0; i < picture.curves.size(); ++i) {
    const Curve& curve = picture.curves[i];
    std::string points;
    for (const auto& [vx, vy] : curve.points)
      points += fmt::format("{:.1f},{:.1f} ", px(vx), py(vy));
    svg.add(fmt::format("<polyline points=\"{}\" {}/>", points, stroke(i)));
    for (const auto& [vx, vy] : curve.points) svg.add(mark(i, px(vx), py(vy)));
    const double at = kTop + 10 + kLegendLine * static_cast<double>(i);
    svg.line(right + 16, at, right + 44, at, stroke(i));
    svg.add(mark(i, right + 30, at));
    svg.text(right + 50, at + 4, curve.name);
  }
  return svg.finish();
}

std::string svg_of(const HeatPicture& picture) {
  SIDEWINDER_REQUIRE(!picture.columns.empty() && !picture.rows.empty(),
                     "there is nothing to draw in \"{}\"", picture.title);
  const auto columns = static_cast<double>(picture.columns.size());
  const auto rows = static_cast<double>(picture.rows.size());
  const double cell_width = std::clamp(600 / columns, 34.0, 90.0);
  const double cell_height = std::clamp(360 / rows, 22.0, 44.0);
  const double right = kLeft + columns * cell_width;
  const double bottom = kTop + rows * cell_height;
  Svg svg(std::max(right + 90, 60 + 9.0 * static_cast<double>(picture.title.size())),
          bottom + kBottom);
  svg.text(kLeft, 24, picture.title, "font-size=\"16\" font-weight=\"600\"");
  for (size_t r = 0; r < picture.rows.size(); ++r) {
    const double top = kTop + static_cast<double>(r) * cell_height;
    svg.text(kLeft - 8, top + cell_height / 2 + 4, picture.rows[r], "text-anchor=\"end\"");
    for (size_t c = 0; c < picture.columns.size(); ++c) {
      const double left = kLeft + static_cast<double>(c) * cell_width;
      const std::optional<double>& value = picture.values[r][c];
      const Color color = value ? color_of(*value) : Color{235, 235, 235};
      svg.rectangle(left, top, cell_width, cell_height, fill(color) + " stroke=\"#ffffff\"");
      svg.text(
          left + cell_width / 2, top + cell_height / 2 + 4, value ? percent(*value) : "–",
          fmt::format("text-anchor=\"middle\" font-size=\"12\" fill=\"{}\"", text_fill(color)));
    }
  }
  for (size_t c = 0; c < picture.columns.size(); ++c) {
    svg.text(kLeft + (static_cast<double>(c) + 0.5) * cell_width, bottom + 20, picture.columns[c],
             "text-anchor=\"middle\"");
  }
  svg.text((kLeft + right) / 2, bottom + 42, picture.x_label, "text-anchor=\"middle\"");
  const double middle = (kTop + bottom) / 2;
  svg.text(18, middle, picture.y_label,
           fmt::format("text-anchor=\"middle\" transform=\"rotate(-90 18 {:.1f})\"", middle));
  // The scale, from 100 % at the top to 0 at the bottom.
  constexpr int kSteps = 50;
  const double height = (bottom - kTop) / kSteps;
  for (int i = 0; i < kSteps; ++i) {
    svg.rectangle(right + 18, kTop + i * height, 16, height + 0.5,
                  fill(color_of(1 - (i + 0.5) / kSteps)));
  }
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    svg.text(right + 38, bottom - share * (bottom - kTop) + 4, percent(share) + " %");
  }
  return svg.finish();
}

std::string svg_document(const std::vector<std::string>& svgs) {
  if (svgs.size() == 1) return svgs.front();
  double top = 0;
  double width = 0;
  std::string body;
  for (const std::string& svg : svgs) {
    const auto number_after = [&svg](const char* name) {
      return std::strtod(svg.c_str() + svg.find(name) + std::string(name).size(), nullptr);
    };
    body += fmt::format("<svg y=\"{:.0f}\"", top) + svg.substr(4);
    top += number_after("height=\"");
    width = std::max(width, number_after("width=\""));
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 "
      "0 "
      "{0:.0f} {1:.0f}\">\n{2}</svg>\n",
      width, top, body);
}

std::string html_page(const std::string& title, const std::string& lead,
                      const std::vector<Figure>& figures) {
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>{0}</title>\n<style>\n"
      "body {{ font-family: system-ui, Arial, sans-serif; margin: 2rem auto; max-width: 75rem; "
      "padding: 0 1rem; color: #222; background: #fff; }}\n"
      "figure {{ margin: 2rem 0; }}\nfigure svg {{ max-width: 100%; height: auto; }}\n"
      "figcaption {{ color: #444; max-width: 48rem; }}\n</style>\n</head>\n<body>\n<h1>{0}</h1>\n"
      "<p>{1}</p>\n",
      escaped(title), escaped(lead));
  for (const Figure& figure : figures) {
    page += fmt::format("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", figure.svg,
                        escaped(figure.caption));
  }
  return page + "</body>\n</html>\n";
}

}  // namespace sidewinder
