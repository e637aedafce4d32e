// One block per vector of `width` elements; sums go through a tree in shared memory, so their order
// depends on the width alone. The weight gradient is formed like on the CPU: one partial sum per
// fixed run of vectors, added in order.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/check.h"
#include "kernels/cuda/rms_norm.h"

namespace sidewinder::cuda {
namespace {

constexpr int kThreads = 256;  // a power of two: the tree halves it

__device__ float as_float(float value) { return value; }
__device__ float as_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void assign(float& to, float value) { to = value; }
__device__ void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

// Where vector `index` of a row-strided tensor begins: `groups` vectors lie side by side in a row.
struct Layout {
  int64_t groups, width, stride;
  __host__ __device__ int64_t offset(int64_t index) const {
    return index / groups * stride + index % groups * width;
  }
};

// The sum of one value per thread, given to all threads.
__device__ float block_sum(float value) {
  __shared__ float sums[kThreads];
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  const float sum = sums[0];
  __syncthreads();  // before the next call writes
  return sum;
}

template <typename Y, typename X>
__global__ void __launch_bounds__(kThreads)
    forward(Y* y, float* rstd, const X* x, const float* weight, Layout y_layout, Layout x_layout,
            float eps) {
  const int64_t index = blockIdx.x;
  const int64_t width = x_layout.width;
  x += x_layout.offset(index);
  y += y_layout.offset(index);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float value = as_float(x[i]);
    sum += value * value;
  }
  const float scale = 1.0F / sqrtf(block_sum(sum) / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) rstd[index] = scale;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    assign(y[i], as_float(x[i]) * scale * weight[i]);
  }
}

template <typename DX, typename DY, typename X>
__global__ void __launch_bounds__(kThreads)
    backward_x(DX* dx, DY* y, const DY* dy, const X* x, const float* weight, const float* rstd,
               Layout dx_layout, Layout y_layout, Layout dy_layout, Layout x_layout,
               bool accumulate) {
  const int64_t index = blockIdx.x;
  const int64_t width = x_layout.width;
  x += x_layout.offset(index);
  dy += dy_layout.offset(index);
  dx += dx_layout.offset(index);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    sum += as_float(dy[i]) * weight[i] * as_float(x[i]);
  }
  const float scale = rstd[index];
  const float mean = block_sum(sum) * scale / static_cast<float>(width);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float normal = as_float(x[i]) * scale;
    const float value = scale * (as_float(dy[i]) * weight[i] - normal * mean);
    assign(dx[i], accumulate ? as_float(dx[i]) + value : value);
    // After the last reading of dy[i], in whose place it may be.
    if (y != nullptr) assign(y[y_layout.offset(index) + i], normal * weight[i]);
  }
}

// partial[block, i] = Σ dy·x̂ over the vectors of the block; a thread owns a column.
template <typename DY, typename X>
__global__ void __launch_bounds__(kThreads)
    partial_dweight(float* partial, const DY* dy, const X* x, const float* rstd, Layout dy_layout,
                    Layout x_layout, int64_t vectors, int64_t vectors_per_block) {
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= x_layout.width) return;
  const int64_t begin = blockIdx.x * vectors_per_block;
  const int64_t end = begin + vectors_per_block < vectors ? begin + vectors_per_block : vectors;
  float sum = 0;
  for (int64_t index = begin; index < end; ++index) {
    sum += as_float(dy[dy_layout.offset(index) + i]) * as_float(x[x_layout.offset(index) + i]) *
           rstd[index];
  }
  partial[blockIdx.x * x_layout.width + i] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_partials(float* dweight, const float* partial, int64_t width, int64_t blocks) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= width) return;
  float sum = dweight[i];
  for (int64_t block = 0; block < blocks; ++block) sum += partial[block * width + i];
  dweight[i] = sum;
}

Layout layout_of(const Tensor& tensor, int64_t width) {
  return {tensor.width() / width, width, tensor.row_stride()};
}

unsigned blocks_of(int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

// Calls function(pointer) with the elements of a tensor in their CUDA type.
template <typename Function>
void with_type(const Tensor& tensor, Function&& function) {
  switch (tensor.dtype()) {
    case Dtype::f32: return function(static_cast<float*>(tensor.raw()));
    case Dtype::bf16: return function(static_cast<__nv_bfloat16*>(tensor.raw()));
    case Dtype::f64:
    case Dtype::i32: break;
  }
  fail_user("rms_norm: {} is not available on CUDA; use f32 or bf16", name_of(tensor.dtype()));
}

}  // namespace

void rms_norm(Stream stream, const RmsNormArgs& args) {
  const int64_t vectors = args.rstd.count();
  if (vectors == 0) return;
  const int64_t width = args.weight.count();
  const auto queue = static_cast<cudaStream_t>(stream.handle);
  with_type(args.y, [&](auto* y) {
    with_type(args.x, [&](auto* x) {
      forward<<<static_cast<unsigned>(vectors), kThreads, 0, queue>>>(
          y, args.rstd.data<float>(), x, args.weight.data<float>(), layout_of(args.y, width),
          layout_of(args.x, width), args.eps);
    });
  });
  check(cudaGetLastError(), "rms_norm");
}

void rms_norm_backward(Stream stream, const RmsNormBackwardArgs& args) {
  const int64_t vectors = args.rstd.count();
  if (vectors == 0) return;
  const int64_t width = args.weight.count();
  const auto queue = static_cast<cudaStream_t>(stream.handle);
  const Layout x_layout = layout_of(args.x, width);
  const Layout dy_layout = layout_of(args.dy, width);
  const Layout dx_layout = layout_of(args.dx, width);
  const Layout y_layout = args.y.defined() ? layout_of(args.y, width) : dy_layout;
  const float* const weight = args.weight.data<float>();
  const float* const rstd = args.rstd.data<float>();
  constexpr int64_t kVectorsPerBlock = 128;
  const int64_t blocks = (vectors + kVectorsPerBlock - 1) / kVectorsPerBlock;
  float* partial = nullptr;
  check(cudaMallocAsync(reinterpret_cast<void**>(&partial),
                        static_cast<size_t>(blocks * width) * sizeof(float), queue),
        "allocating partial sums of rms_norm_backward");
  with_type(args.dy, [&](auto* dy) {
    with_type(args.x, [&](auto* x) {
      // Before dx and y are written, which may be in the place of dy.
      partial_dweight<<<dim3(static_cast<unsigned>(blocks), blocks_of(width)), kThreads, 0,
                        queue>>>(partial, dy, x, rstd, dy_layout, x_layout, vectors,
                                 kVectorsPerBlock);
      with_type(args.dx, [&](auto* dx) {
        backward_x<<<static_cast<unsigned>(vectors), kThreads, 0, queue>>>(
            dx, args.y.defined() ? static_cast<decltype(dy)>(args.y.raw()) : nullptr, dy, x, weight,
            rstd, dx_layout, y_layout, dy_layout, x_layout, args.accumulate);
      });
    });
  });
  add_partials<<<blocks_of(width), kThreads, 0, queue>>>(args.dweight.data<float>(), partial, width,
                                                         blocks);
  check(cudaGetLastError(), "rms_norm_backward");
  check(cudaFreeAsync(partial, queue), "freeing partial sums of rms_norm_backward");
}

}  // namespace sidewinder::cuda
