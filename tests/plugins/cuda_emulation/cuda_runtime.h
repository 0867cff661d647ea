// Runs CUDA kernels on a CPU, so that their index arithmetic, their tiles and their barriers are executed where there is
// no GPU. It stands in the place of the CUDA headers: the .cu files are compiled as they are, as C++.
//
// Each thread of a block is a fiber. A fiber runs until it reaches a barrier or something that a warp does together (a
// shuffle, a product, __syncwarp), then another one runs; which, is the schedule: in order, in reverse, or shuffled by a
// seed. Results that depend on it are a missing barrier. A barrier that not every thread of the block reaches, or a
// shuffle that not every lane of a warp reaches, is an error of the launch. Blocks run one after the other and begin with
// what the one before left in shared memory.
//
// It is no proof of the kernels on a GPU: memory order, rounding of expf, registers and speed are the device's own.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
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

enum class State { kReady, kAtBarrier, kAtExchange, kDone };

constexpr unsigned kLanes = 32;
using Given = std::array<float, 6>;  // to the other lanes of a warp
using Exchanged = std::array<Given, kLanes>;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  int call;  // what the lanes do together, which has to be the same
  Given given;
};

inline std::vector<Fiber> fibers;
inline std::vector<Exchanged> exchanged;  // of each warp, until its next exchange
inline ucontext_t scheduler;
inline unsigned current;
inline unsigned schedule_seed;
inline int n_multiprocessors = 16;
inline unsigned n_blocks;  // of the last launch
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
  for (unsigned first = 0; first < n; first += kLanes) {
    if (!all_are(first, first + kLanes, State::kAtExchange)) continue;
    for (unsigned i = 0; i < kLanes; ++i) {
      Fiber& fiber = fibers[first + i];
      if (fiber.call != fibers[first].call) return false;
      exchanged[first / kLanes][i] = fiber.given;
      fiber.state = State::kReady;
    }
    any = true;
  }
  return any;
}

// What every lane of the warp gave. call: the same in all of them.
inline const Exchanged& exchange(int call, const Given& given) {
  Fiber& self = fibers[current];
  self.call = call;
  self.given = given;
  wait_at(State::kAtExchange);
  return exchanged[current / kLanes];
}

constexpr int kShuffle = 0, kProduct = 100, kSyncWarp = 101, kNotTheWholeWarp = 1000;  // shuffles: and the lanes' mask

inline cudaError_t run_block(unsigned n_threads, unsigned block) {
  blockIdx.x = block;
  fibers.resize(n_threads);
  exchanged.resize(n_threads / kLanes);
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

using std::min;

inline void __syncthreads() { emulation::wait_at(emulation::State::kAtBarrier); }

inline void __syncwarp() { emulation::exchange(emulation::kSyncWarp, {}); }

// A mask that leaves lanes out is not emulated: each of them waits for another call.
inline float __shfl_xor_sync(unsigned mask, float value, int lane_mask) {
  const unsigned lane = emulation::current % emulation::kLanes;
  const int call = mask == 0xffffffffu ? emulation::kShuffle + lane_mask
                                       : emulation::kNotTheWholeWarp + static_cast<int>(lane);
  return emulation::exchange(call, {value})[lane ^ static_cast<unsigned>(lane_mask)][0];
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::n_multiprocessors;
  return cudaSuccess;
}

template <typename Argument>
cudaError_t cudaLaunchKernel(
    void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t) {
  if (block.x % 32 != 0 || shared_bytes != 0 || grid.x == 0) return cudaErrorInvalidConfiguration;
  emulation::n_blocks = grid.x;
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

extern "C" __attribute__((used, visibility("default"))) inline void emulation_set_multiprocessors(int n) {
  emulation::n_multiprocessors = n;
}

extern "C" __attribute__((used, visibility("default"))) inline unsigned emulation_n_blocks() {
  return emulation::n_blocks;
}
