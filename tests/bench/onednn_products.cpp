// Matrix products of `sidewinder bench kernels` beside those of oneDNN, in one run (one minute a
// type):
//   cmake --build build/release --target bench_onednn && build/release/tests/bench_onednn
//   [bf16|f32]
// Exit code 1 if a product is slower than 0.97 of oneDNN's, or not the same.
// oneDNN is a referee here and nothing else: the program neither links nor needs it. Its weights
// are laid out beforehand as it likes them best (format_tag::any), as ours are packed beforehand;
// its weight gradient takes both operands as they are, as ours does.

#include <fmt/core.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <chrono>
#include <limits>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/peak.h"
#include "kernels/ops/matmul.h"
#include "tools/commands/kernel_benchmark.h"

namespace sidewinder {
namespace {

using dnnl::memory;

struct Shape2 {
  int64_t tokens, in, out;
};
constexpr Shape2 kShapes[] = {{8192, 256, 1024},
                              {4096, 512, 2048},
                              {4096, 768, 3072},
                              {2048, 1024, 2816},
                              {2048, 2048, 2048}};

double seconds_of(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

memory::data_type type_of(Dtype dtype) {
  return dtype == Dtype::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// c [m, n] = a [m, k] · b [k, n]; a and b may be read transposed. `weights` puts b into the layout
// that oneDNN prefers, once.
class OneDnnProduct {
 public:
  OneDnnProduct(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, Tensor& c,
                bool weights)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    const int64_t m = c.size(0);
    const int64_t n = c.size(1);
    const int64_t k = transpose_a ? a.size(0) : a.size(1);
    const auto tag = [](bool transposed) {
      return transposed ? memory::format_tag::ba : memory::format_tag::ab;
    };
    const memory::desc a_desc({m, k}, type_of(a.dtype()), tag(transpose_a));
    const memory::desc b_plain({k, n}, type_of(b.dtype()), tag(transpose_b));
    const memory::desc b_any({k, n}, type_of(b.dtype()), memory::format_tag::any);
    const memory::desc c_desc({m, n}, type_of(c.dtype()), memory::format_tag::ab);
    const dnnl::matmul::desc desc(a_desc, weights ? b_any : b_plain, c_desc);
    const dnnl::matmul::primitive_desc primitive(desc, engine_);
    matmul_ = dnnl::matmul(primitive);
    memory b_memory(b_plain, engine_, const_cast<void*>(b.raw()));
    if (primitive.weights_desc() != b_plain) {
      memory packed(primitive.weights_desc(), engine_);
      dnnl::reorder(b_memory, packed).execute(stream_, b_memory, packed);
      stream_.wait();
      b_memory = packed;
    }
    arguments_ = {{DNNL_ARG_SRC, memory(a_desc, engine_, const_cast<void*>(a.raw()))},
                  {DNNL_ARG_WEIGHTS, b_memory},
                  {DNNL_ARG_DST, memory(c_desc, engine_, c.raw())}};
  }

  void run() {
    matmul_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  std::unordered_map<int, memory> arguments_;
};

constexpr double kLeastRatio = 0.97;

struct Line {
  std::string pass;
  Dtype compute;
  double ours = 0, theirs = 0;  // share of the peak, mean over shapes
};

// Turns are taken, so that a busy neighbour hits both.
void compare(const std::function<void()>& ours, const std::function<void()>& theirs,
             double* our_best, double* their_best) {
  *our_best = *their_best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 12; ++round) {
    for (int i = 0; i < 4; ++i) *our_best = std::min(*our_best, seconds_of(ours));
    for (int i = 0; i < 4; ++i) *their_best = std::min(*their_best, seconds_of(theirs));
  }
}

int run(const std::string& only) {
  const int threads = static_cast<int>(ThreadPool::global().num_threads());
  omp_set_num_threads(threads);
  const dnnl_version_t* version = dnnl_version();
  fmt::print("{} threads, oneDNN {}.{}.{}\n\n{:18}{:22}{:6}{:>14}{:>14}{:>8}\n", threads,
             version->major, version->minor, version->patch, "product", "shape", "type",
             "ours GFLOP/s", "oneDNN", "ratio");
  int wrong = 0;
  int slow = 0;
  std::vector<Line> lines;
  for (const Dtype compute : {Dtype::bf16, Dtype::f32}) {
    if (!only.empty() && only != name_of(compute)) continue;
    const double peak = measure_peak_flops(compute, threads);
    for (const std::string pass : {"forward", "data gradient", "weight gradient"}) {
      Line line{pass, compute};
      for (const Shape2& s : kShapes) {
        const Tensor x = benchmark_tensor({s.tokens, s.in}, compute, 1);
        const Tensor dy = benchmark_tensor({s.tokens, s.out}, compute, 2);
        const Tensor weight = benchmark_tensor({s.out, s.in}, Dtype::f32, 3);
        const Tensor low = weight.to(compute);
        Tensor ours_out, theirs_out;
        std::function<void()> ours;
        std::unique_ptr<OneDnnProduct> theirs;
        if (pass == "forward") {
          theirs_out = Tensor::zeros({s.tokens, s.out}, compute);
          theirs = std::make_unique<OneDnnProduct>(x, false, low, true, theirs_out, true);
          ours = [&ours_out, x, compute,
                  packed = ops::pack_weight(weight, WeightUse::forward, compute)] {
            ours_out = Tensor();  // theirs writes into one place, too
            ours_out = ops::linear(x, packed, compute);
          };
        } else if (pass == "data gradient") {
          theirs_out = Tensor::zeros({s.tokens, s.in}, compute);
          theirs = std::make_unique<OneDnnProduct>(dy, false, low, false, theirs_out, true);
          ours = [&ours_out, dy, compute,
                  packed = ops::pack_weight(weight, WeightUse::backward, compute)] {
            ours_out = Tensor();
            ours_out = ops::linear(dy, packed, compute);
          };
        } else {
          theirs_out = Tensor::zeros({s.out, s.in}, Dtype::f32);
          theirs = std::make_unique<OneDnnProduct>(dy, true, x, false, theirs_out, false);
          // Ours adds to the gradient, so the first run alone can be compared.
          ours_out = Tensor::zeros({s.out, s.in}, Dtype::f32);
          ours = [&ours_out, x, dy, compute] { ops::weight_gradient(ours_out, dy, x, compute); };
        }
        ours();
        theirs->run();
        const double error = benchmark_error(ours_out, theirs_out);
        if (!(error < (compute == Dtype::bf16 ? 4e-3 : 1e-5))) {
          fmt::print("the results differ by {:.1e}\n", error);
          ++wrong;
        }
        double our_seconds = 0;
        double their_seconds = 0;
        compare(
            ours, [&] { theirs->run(); }, &our_seconds, &their_seconds);
        const double work = 2.0 * static_cast<double>(s.tokens * s.in * s.out);
        const double ratio = their_seconds / our_seconds;
        if (ratio < kLeastRatio) ++slow;
        fmt::print("{:18}{:22}{:6}{:>14.0f}{:>14.0f}{:>8.2f}{}\n", pass,
                   fmt::format("{} x {} -> {}", s.tokens, s.in, s.out), name_of(compute),
                   work / our_seconds / 1e9, work / their_seconds / 1e9, ratio,
                   ratio < kLeastRatio ? "  below" : "");
        std::fflush(stdout);
        line.ours += work / our_seconds / peak / static_cast<double>(std::size(kShapes));
        line.theirs += work / their_seconds / peak / static_cast<double>(std::size(kShapes));
      }
      lines.push_back(line);
    }
  }
  fmt::print("\nmean share of the register-only peak\n");
  for (const Line& line : lines) {
    fmt::print("{:26}{:6}ours {:.0f} %   oneDNN {:.0f} %   ratio {:.2f}\n", line.pass,
               name_of(line.compute), 100 * line.ours, 100 * line.theirs, line.ours / line.theirs);
  }
  fmt::print("\n{} products below {:.2f} of oneDNN's\n", slow, kLeastRatio);
  return wrong + slow == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sidewinder

int main(int count, char** arguments) { return sidewinder::run(count > 1 ? arguments[1] : ""); }
