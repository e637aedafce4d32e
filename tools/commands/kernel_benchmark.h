#pragma once
// What `sidewinder bench kernels` knows of one kernel on one shape.

#include <functional>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace sidewinder {

enum class WorkUnit : uint8_t {
  flops,        // limit: the arithmetic peak of the compute type
  bytes,        // limit: the copy bandwidth
  bytes_read,   // limit: the read bandwidth
  state_steps,  // one (token, channel, state) of the scan; limit: the rate of exponentials
};

struct KernelBenchmark {
  std::string kernel;
  std::string shape;
  Dtype compute;
  WorkUnit unit;
  double work = 0;  // units of one run
  // Bars; 0: none. Share of the limit (flops, bytes), or units per second and core (state_steps).
  double bar = 0;
  double mean_bar = 0;    // for the mean share of all shapes of this kernel and type that have one
  double most_times = 0;  // at most this many times the time of `other`
  double largest_error = 0;  // that check() may return
  // The relative error of the kernel on a small shape, against f64.
  std::function<double()> check;
  // Makes the operands and returns the function to be timed.
  std::function<std::function<void()>()> prepare;
  // What runs in turns with the kernel, if anything: its name, for the table, and how to make it.
  std::string other = {};
  std::function<std::function<void()>()> prepare_other = {};
  bool beyond_other = false;  // the time counted is what the kernel takes longer than `other`
};

std::vector<KernelBenchmark> product_benchmarks();   // matrix products, the output layer
std::vector<KernelBenchmark> sequence_benchmarks();  // attention, scan, convolution
std::vector<KernelBenchmark> row_benchmarks();       // norms, activations, optimizer, lookup

// Normal random numbers, the same for every type apart from rounding.
Tensor benchmark_tensor(Shape shape, Dtype dtype, uint64_t seed, double deviation = 1.0);
// ‖actual − exact‖ / ‖exact‖.
double benchmark_error(const Tensor& actual, const Tensor& exact);

}  // namespace sidewinder
