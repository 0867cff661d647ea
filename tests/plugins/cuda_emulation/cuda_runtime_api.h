// Part of the emulation: see cuda_runtime.h.
#pragma once

typedef int cudaError_t;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719;
typedef struct CUstream_st* cudaStream_t;
