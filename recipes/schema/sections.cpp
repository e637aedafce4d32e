#include "recipes/schema.h"

namespace sidewinder {

const std::vector<Section>& sections() {
  static const std::vector<Section> all = {
      run_section(),     model_section(),     data_section(),          train_section(),
      context_section(), optimizer_section(), learning_rate_section(), checkpoint_section(),
      init_section(),    extend_section(),
  };
  return all;
}

}  // namespace sidewinder
