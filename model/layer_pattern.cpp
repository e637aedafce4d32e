#include "model/layer_pattern.h"

#include "kernels/base/check.h"

namespace sidewinder {

std::string expand_layers(const ModelOptions& options) {
  std::string letters;
  for (const char letter : options.layers) {
    if (letter == ' ') continue;
    SIDEWINDER_REQUIRE(options.blocks.count(std::string(1, letter)) == 1,
                       "model.layers names block \"{0}\", which has no table; add "
                       "[model.block.{0}] with its mixer",
                       letter);
    letters += letter;
  }
  SIDEWINDER_REQUIRE(!letters.empty() && options.repeat >= 1,
                     "model.layers is empty; name at least one block, e.g. layers = \"mw\"");
  std::string all;
  for (int64_t i = 0; i < options.repeat; ++i) all += letters;
  return all;
}

}  // namespace sidewinder
