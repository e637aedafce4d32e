#include "tools/picture.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "tools/commands/plot.h"

namespace sidewinder {
namespace {

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

CurvePicture two_curves() {
  return {.title = "Loss <here>",
          .x_label = "tokens",
          .y_label = "nats",
          .curves = {{"a & b", {{512, 3.0}, {1024, 2.5}, {2048, 2.75}}}, {"c", {{512, 2.0}}}},
          .marked_x = 1024,
          .mark_label = "trained"};
}

TEST(CurvePicture, LabelsPowersOfTwoAndRoundSteps) {
  const std::string svg = svg_of(two_curves());
  for (const char* label : {">512<", ">1K<", ">2K<", ">2.0<", ">2.4<", ">3.0<", ">trained<"}) {
    EXPECT_EQ(count_of(svg, label), 1U) << label;
  }
  EXPECT_EQ(count_of(svg, "<polyline"), 2U);
}

TEST(CurvePicture, EscapesTexts) {
  const std::string svg = svg_of(two_curves());
  EXPECT_EQ(count_of(svg, "Loss &lt;here&gt;"), 1U);
  EXPECT_EQ(count_of(svg, "a &amp; b"), 1U);
}

TEST(CurvePicture, PutsPointsWhereTheyBelong) {
  // 512 and 2048 are the ends of the axis (72 and 740), 1024 its middle; 2.0 and 3.0 are the ends
  // of the other one (362 and 44).
  const std::string svg = svg_of(two_curves());
  EXPECT_NE(svg.find("points=\"72.0,44.0 406.0,203.0 740.0,123.5 \""), std::string::npos) << svg;
}

TEST(CurvePicture, RefusesNothingAndPointsWithoutPlace) {
  EXPECT_THROW(svg_of(CurvePicture{}), Error);
  CurvePicture zero = two_curves();
  zero.curves[0].points[0].first = 0;
  EXPECT_THROW(svg_of(zero), Error);
}

HeatPicture small_map() {
  return {.title = "passkey",
          .x_label = "length",
          .y_label = "depth",
          .columns = {"512", "1024"},
          .rows = {"0", "50"},
          .values = {{1.0, 0.0}, {0.95, std::nullopt}}};
}

TEST(HeatPicture, ShowsNumbersOnReadableColors) {
  const std::string svg = svg_of(small_map());
  EXPECT_NE(svg.find("fill=\"#000000\">100<"), std::string::npos) << svg;  // on yellow
  EXPECT_NE(svg.find("fill=\"#ffffff\">0<"), std::string::npos);           // on violet
  EXPECT_NE(svg.find(">95<"), std::string::npos);
  EXPECT_NE(svg.find(">–<"), std::string::npos);
  for (const char* label : {">0 %<", ">25 %<", ">50 %<", ">75 %<", ">100 %<"}) {
    EXPECT_EQ(count_of(svg, label), 1U) << label;
  }
}

TEST(SvgDocument, StacksPictures) {
  const std::string one = svg_of(small_map());
  const std::string both = svg_document({one, svg_of(two_curves())});
  EXPECT_EQ(count_of(both, "<svg "), 3U);
  EXPECT_EQ(count_of(both, "</svg>"), 3U);
  EXPECT_NE(both.find("<svg y=\"0\" xmlns"), std::string::npos);
}

TEST(HtmlPage, LoadsNothingAndRunsNothing) {
  const std::string page = html_page("Title", "Lead", {{svg_of(two_curves()), "Caption"}});
  for (const char* part : {"<script", "<link", "src=", "href=", "url(", "@import"}) {
    EXPECT_EQ(count_of(page, part), 0U) << part;
  }
  EXPECT_EQ(count_of(page, "<svg "), 1U);
  EXPECT_EQ(count_of(page, "<figcaption>Caption</figcaption>"), 1U);
}

nlohmann::json window(int64_t length, double loss) {
  return {{"convention", "strided"},
          {"length", length},
          {"stride", length},
          {"loss", loss},
          {"by_position",
           {{{"first", 0}, {"last", 0}, {"loss", loss}, {"targets", 1}},
            {{"first", 1}, {"last", 1}, {"loss", loss}, {"targets", 1}}}}};
}

TEST(FiguresOf, DrawLengthsPositionsAndTasks) {
  const nlohmann::json perplexity = {{"by_length", {window(512, 3.0), window(1024, 2.9)}},
                                     {"trained_context", 512}};
  const nlohmann::json tasks = {
      {"tasks",
       {{{"task", "passkey"},
         {"cells",
          {{{"length", 512}, {"depth", 0.0}, {"trials", 20}, {"score", 1.0}},
           {{"length", 512}, {"depth", 1.0}, {"trials", 20}, {"score", 0.5}}}}},
        {{"task", "mqar"}, {"cells", {{{"length", 512}, {"trials", 20}, {"score", 0.25}}}}}}}};
  const std::vector<Figure> figures = figures_of({{"one", perplexity}, {"two", tasks}});
  ASSERT_EQ(figures.size(), 4U);
  EXPECT_NE(figures[0].svg.find("Loss against context length"), std::string::npos);
  EXPECT_NE(figures[1].svg.find(">one, window 1024<"), std::string::npos);
  EXPECT_EQ(figures[1].svg.find("window 512"), std::string::npos);  // of several, the longest
  EXPECT_NE(figures[2].svg.find(">two, passkey<"), std::string::npos);
  EXPECT_NE(figures[2].caption.find("20 trials per cell"), std::string::npos);
  EXPECT_NE(figures[3].svg.find(">two, mqar<"), std::string::npos);
}

TEST(FiguresOf, RefuseResultsWithNothingToDraw) {
  EXPECT_THROW(figures_of({{"plan", {{"recipe", "x"}}}}), Error);
}

TEST(Plot, RefusesOtherFormats) {
  EXPECT_THROW(plot({.results = {"a.json"}, .names = {}, .output = "picture.png"}), Error);
}

}  // namespace
}  // namespace sidewinder
