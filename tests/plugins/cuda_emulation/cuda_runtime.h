// Runs CUDA kernels on a CPU, so that their index arithmetic, their tiles and their barriers are executed where there is
// no GPU. It stands in the place of the CUDA headers: the .cu files are compiled as they are, as C++.
//
// Each thread of a block is a fiber. A fiber runs until it reaches a barrier or a shuffle, then another one runs; which,
// is the schedule: in order, in reverse, or shuffled by a seed. Results that depend on it are a missing barrier. A
// barrier that not every thread of the block reaches, or a shuffle that not every lane of a warp reaches, is an error of
// the launch. Blocks run one after the other and begin with what the one before left in shared memory.
//
// It is no proof of the kernels on a GPU: memory order, rounding of expf, registers and speed are the device's own.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline dim3 threadIdx(0), blockIdx(0);

namespace emulation {

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  unsigned mask;
  int lane_mask;
  float given, received;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned current;
inline unsigned schedule_seed;
inline std::function<void()> body;

constexpr size_t kStackBytes = 128 * 1024;

inline void run_fiber() {
  body();
  fibers[current].state = State::kDone;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void wait_at(State state) {
  const unsigned self = current;
  fibers[self].state = state;
  swapcontext(&fibers[self].context, &scheduler);
}

inline bool all_are(unsigned from, unsigned to, State state) {
  return std::all_of(fibers.begin() + from, fibers.begin() + to, [=](const Fiber& f) { return f.state == state; });
}

// Let those go on whose partners have all arrived. False if nobody can.
inline bool release() {
  const unsigned n = static_cast<unsigned>(fibers.size());
  if (all_are(0, n, State::kAtBarrier)) {
    for (Fiber& fiber : fibers) fiber.state = State::kReady;
    return true;
  }
  bool any = false;
  for (unsigned warp = 0; warp < n; warp += 32) {
    if (!all_are(warp, warp + 32, State::kAtShuffle)) continue;
    for (unsigned i = 0; i < 32; ++i) {
      Fiber& fiber = fibers[warp + i];
      if (fiber.mask != 0xffffffffu || fiber.lane_mask != fibers[warp].lane_mask) return false;
      fiber.received = fibers[warp + (i ^ static_cast<unsigned>(fiber.lane_mask))].given;
      fiber.state = State::kReady;
    }
    any = true;
  }
  return any;
}

inline cudaError_t run_block(unsigned n_threads, unsigned block) {
  blockIdx.x = block;
  fibers.resize(n_threads);
  for (Fiber& fiber : fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    fiber.state = State::kReady;
  }
  std::vector<unsigned> order(n_threads);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937 random(schedule_seed);
  if (schedule_seed == 1) std::reverse(order.begin(), order.end());
  while (!all_are(0, n_threads, State::kDone)) {
    if (schedule_seed > 1) std::shuffle(order.begin(), order.end(), random);
    bool ran = false;
    for (const unsigned thread : order) {
      if (fibers[thread].state != State::kReady) continue;
      current = thread;
      threadIdx.x = thread;
      swapcontext(&scheduler, &fibers[thread].context);
      ran = true;
    }
    if (!ran && !release()) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait_at(emulation::State::kAtBarrier); }

inline float __shfl_xor_sync(unsigned mask, float value, int lane_mask) {
  emulation::Fiber& self = emulation::fibers[emulation::current];
  self.mask = mask;
  self.lane_mask = lane_mask;
  self.given = value;
  emulation::wait_at(emulation::State::kAtShuffle);
  return self.received;
}

template <typename Argument>
cudaError_t cudaLaunchKernel(
    void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t) {
  if (block.x % 32 != 0 || shared_bytes != 0 || grid.x == 0) return cudaErrorInvalidConfiguration;
  auto& argument = *static_cast<typename std::decay<Argument>::type*>(arguments[0]);
  emulation::body = [kernel, &argument] { kernel(argument); };
  for (unsigned i = 0; i < grid.x; ++i) {
    if (const cudaError_t error = emulation::run_block(block.x, i)) return error;
  }
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "emulation: bad launch"
                                                : "emulation: threads wait at different barriers";
}

extern "C" __attribute__((used, visibility("default"))) inline void emulation_set_schedule(unsigned seed) {
  emulation::schedule_seed = seed;
}
