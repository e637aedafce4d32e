#pragma once
// The limits of this machine, measured: arithmetic by loops that use registers alone, memory by
// streams over more than the caches hold. Utilisation (MFU) and the shares that `sidewinder bench`
// prints are relative to these, taken in the same process, because clocks and neighbours vary.

#include <cstdint>

#include "kernels/tensor/tensor.h"

namespace sidewinder {

// Per second, of `threads` threads together. Each is the best of several short bursts.
struct MachinePeak {
  int threads = 1;
  double f32_flops = 0;       // a multiply-add counts as two
  double bf16_flops = 0;      // that of f32 where the CPU has no bf16 instructions
  double exp_rate = 0;        // exponentials of f32, to about 1e-7
  double read_bandwidth = 0;  // bytes
  double copy_bandwidth = 0;  // bytes read plus bytes written
};

// Takes about a quarter of a second and 256 MiB. `threads` is at most the size of the pool.
MachinePeak measure_peak(int threads);

// Streams over memory, for turns with a kernel that memory limits: what a machine of several
// tenants gives can double or halve within a minute, so only rates of the same moments can be
// compared.
class MemoryStreams {
 public:
  explicit MemoryStreams(int threads);  // takes 256 MiB

  // One pass of a few milliseconds; bytes per second, as in MachinePeak.
  double read() const;
  double copy() const;

 private:
  int threads_;
  Tensor from_, to_;
};

// As in MachinePeak, in about 40 ms.
double measure_exp_rate(int threads);

// Arithmetic only, in about 30 ms. `compute`: f32, bf16 or f64.
double measure_peak_flops(Dtype compute, int threads);

// measure_peak_flops with all threads of the pool, measured at the first call and then remembered
// (per type, instruction-set level and size of the pool).
double peak_flops(Dtype compute);

}  // namespace sidewinder
