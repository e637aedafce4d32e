#include "kernels/reference/adamw.h"

namespace sidewinder::reference {

void adamw(const AdamwArgs& args) {
  for (int64_t i = 0; i < args.weight.count(); ++i) {
    adamw_element(args.weight.data<double>()[i], args.m.data<double>()[i], args.v.data<double>()[i],
                  args.gradient.data<double>()[i], args.coefficients);
  }
}

}  // namespace sidewinder::reference
