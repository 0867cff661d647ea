// CUDA implementations of aurora::Wkv6 and aurora::Wkv7: raw pointers, sizes and a stream; no TensorRT, no ONNX Runtime.
//
// What they compute, and every shape: README.md. Arrays are contiguous and in device memory, aligned to 16 bytes.
// receptance, key, value (RWKV-7: removal and replacement too) and output are of `element_type`; log_decay, bonus and
// the states are float32 always, and so are all sums. `next_state` may be the same buffer as `state`, not one that
// overlaps it. Nothing is allocated, and nothing waits: the work is enqueued on `stream` and can be captured into
// a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>

#if defined(_WIN32)
#define AURORA_API __declspec(dllexport)
#else
#define AURORA_API __attribute__((visibility("default")))
#endif

extern "C" {

enum AuroraElementType : int32_t { AURORA_FLOAT32 = 0, AURORA_FLOAT16 = 1, AURORA_BFLOAT16 = 2 };

// How aurora::Wkv6 is computed. AUTO is the tensor form for float16 and bfloat16 from AURORA_WKV6_TENSOR_TOKENS tokens on,
// else the recurrent one, which gives the same bits wherever a text is cut. The numbers are value columns of a block of
// the tensor form; without one it is chosen by the multiprocessors of the device.
enum AuroraWkv6Form : int32_t {
  AURORA_WKV6_AUTO = 0,
  AURORA_WKV6_RECURRENT = 1,
  AURORA_WKV6_TENSOR = 2,
  AURORA_WKV6_TENSOR_16 = 16,
  AURORA_WKV6_TENSOR_64 = 64
};

// Two chunks of the tensor form: with fewer, none is fetched while another is computed, and the recurrence has no more
// than 15 steps to make, which a launch hides.
enum { AURORA_WKV6_TENSOR_TOKENS = 16 };

struct AuroraWkvSizes {
  int64_t n_sequences;  // B, at least 1
  int64_t n_tokens;     // T, at least 1
  int64_t n_heads;      // H, at least 1
  int64_t head_size;    // N, 64
};

// The operator's arguments, in the order of its ONNX schema.
struct AuroraWkv6Arrays {
  const void* receptance;
  const void* key;
  const void* value;
  const float* log_decay;
  const float* bonus;
  const float* state;
  void* output;
  float* next_state;
};

struct AuroraWkv7Arrays {
  const void* receptance;
  const float* log_decay;
  const void* key;
  const void* value;
  const void* removal;
  const void* replacement;
  const float* state;
  void* output;
  float* next_state;
};

// Why these sizes are refused, or null: one line, valid until the thread's next call of a function of this file.
AURORA_API const char* aurora_wkv_refusal(const AuroraWkvSizes* sizes, AuroraElementType element_type);

// Enqueue one call of the operator. Null if that worked; else why not, one line, valid as above, and nothing is enqueued.
AURORA_API const char* aurora_wkv6_enqueue(
    const AuroraWkv6Arrays* arrays, const AuroraWkvSizes* sizes, AuroraElementType element_type, cudaStream_t stream);
AURORA_API const char* aurora_wkv6_enqueue_form(
    const AuroraWkv6Arrays* arrays, const AuroraWkvSizes* sizes, AuroraElementType element_type, AuroraWkv6Form form,
    cudaStream_t stream);
AURORA_API const char* aurora_wkv7_enqueue(
    const AuroraWkv7Arrays* arrays, const AuroraWkvSizes* sizes, AuroraElementType element_type, cudaStream_t stream);
}
