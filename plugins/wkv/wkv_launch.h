// Checks before a launch, and the launch itself.
#pragma once

#include <cuda_runtime.h>

#include <initializer_list>
#include <type_traits>

#include "wkv_device_sizes.h"
#include "wkv_kernel.h"

namespace aurora {

struct NamedArray {
  const char* name;
  const void* address;
};

// Text as printf makes it, in a buffer of the thread that the next message overwrites.
const char* message(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Why these addresses are refused, or null.
const char* refused_arrays(
    std::initializer_list<NamedArray> arrays, const void* state, const void* next_state, const AuroraWkvSizes& sizes);

// n_slices: blocks of a head.
unsigned n_blocks(const AuroraWkvSizes& sizes, int n_slices = kSlices);

template <typename Arguments>
const char* launch(
    void (*kernel)(Arguments), int n_threads, typename std::decay<Arguments>::type& arguments, unsigned n_blocks,
    cudaStream_t stream) {
  void* parameters[] = {&arguments};
  const cudaError_t error = cudaLaunchKernel(kernel, dim3(n_blocks), dim3(n_threads), parameters, 0, stream);
  return error == cudaSuccess ? nullptr : message("CUDA: %s", cudaGetErrorString(error));
}

}  // namespace aurora
