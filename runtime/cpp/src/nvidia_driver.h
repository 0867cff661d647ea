// NVIDIA's driver, by its own library, which is loaded when a GPU is asked for: no CUDA toolkit is needed to compile or to
// run this. What it says of this machine mirrors core/nvidia_driver.py, and is asked before any object of TensorRT is
// made: without a driver TensorRT's runtime gives back an object that looks alive, and crashes the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace aurora {

constexpr const char* DRIVER_LIBRARY = "libcuda.so.1";  // comes with the driver, not with CUDA

using CuResult = int;              // CUresult
using CuDevice = int;              // CUdevice
using DeviceAddress = std::uint64_t;  // CUdeviceptr
using CuContext = struct CUctx_st*;
using CuStream = struct CUstream_st*;  // the same object as the runtime's cudaStream_t
using CuEvent = struct CUevent_st*;
using CuGraph = struct CUgraph_st*;
using CuGraphExec = struct CUgraphExec_st*;

// CUDA_MEMCPY2D of the driver's interface.
struct CuCopy2d {
    std::size_t source_x, source_y;
    int source_type;
    const void* source_host;
    DeviceAddress source_device;
    void* source_array;
    std::size_t source_pitch;
    std::size_t target_x, target_y;
    int target_type;
    void* target_host;
    DeviceAddress target_device;
    void* target_array;
    std::size_t target_pitch;
    std::size_t width_bytes, height;
};

// The functions that are used here, under their names and with their types in the driver's public interface.
struct Driver {
    // Throws Error(dependency) with the reason if there is no driver, or one that lacks a function.
    explicit Driver(const std::string& library = DRIVER_LIBRARY);

    CuResult (*cuInit)(unsigned flags);
    CuResult (*cuDriverGetVersion)(int*);
    CuResult (*cuDeviceGetCount)(int*);
    CuResult (*cuDeviceGet)(CuDevice*, int index);
    CuResult (*cuDeviceGetName)(char*, int n_bytes, CuDevice);
    CuResult (*cuDeviceGetAttribute)(int*, int attribute, CuDevice);
    CuResult (*cuDeviceTotalMem_v2)(std::size_t*, CuDevice);
    CuResult (*cuGetErrorName)(CuResult, const char**);
    CuResult (*cuGetErrorString)(CuResult, const char**);
    CuResult (*cuDevicePrimaryCtxRetain)(CuContext*, CuDevice);
    CuResult (*cuDevicePrimaryCtxRelease_v2)(CuDevice);
    CuResult (*cuCtxPushCurrent_v2)(CuContext);
    CuResult (*cuCtxPopCurrent_v2)(CuContext*);
    CuResult (*cuMemAlloc_v2)(DeviceAddress*, std::size_t);
    CuResult (*cuMemFree_v2)(DeviceAddress);
    CuResult (*cuMemHostAlloc)(void**, std::size_t, unsigned flags);
    CuResult (*cuMemFreeHost)(void*);
    CuResult (*cuMemcpyHtoDAsync_v2)(DeviceAddress, const void*, std::size_t, CuStream);
    CuResult (*cuMemcpyDtoHAsync_v2)(void*, DeviceAddress, std::size_t, CuStream);
    CuResult (*cuMemcpy2DAsync_v2)(const CuCopy2d*, CuStream);
    CuResult (*cuPointerGetAttribute)(void*, int attribute, DeviceAddress);
    CuResult (*cuStreamCreate)(CuStream*, unsigned flags);
    CuResult (*cuStreamDestroy_v2)(CuStream);
    CuResult (*cuStreamSynchronize)(CuStream);
    CuResult (*cuStreamBeginCapture_v2)(CuStream, int mode);
    CuResult (*cuStreamEndCapture)(CuStream, CuGraph*);
    CuResult (*cuGraphInstantiateWithFlags)(CuGraphExec*, CuGraph, unsigned long long flags);
    CuResult (*cuGraphDestroy)(CuGraph);
    CuResult (*cuGraphExecDestroy)(CuGraphExec);
    CuResult (*cuGraphLaunch)(CuGraphExec, CuStream);
    CuResult (*cuEventCreate)(CuEvent*, unsigned flags);
    CuResult (*cuEventDestroy_v2)(CuEvent);
    CuResult (*cuEventRecord)(CuEvent, CuStream);
    CuResult (*cuEventSynchronize)(CuEvent);

    // CUDA_ERROR_UNKNOWN, or "error 12345" for a number that it does not know.
    std::string error_name(CuResult code) const;
};

// One GPU, as the driver counts them.
struct Gpu {
    int index = 0;
    CuDevice device = 0;
    std::string name, compute_capability;  // as 8.7
    std::size_t memory_bytes = 0;
    std::string driver;  // newest version of CUDA that the driver runs, as 13.0
};

// All GPUs that this process may use, one at least. Throws Error(dependency) with the reason if there is none.
std::vector<Gpu> gpus(const Driver& driver);

// One GPU. Throws Error: dependency if there is none at all, usage if there is none of that number.
Gpu gpu(const Driver& driver, int index);

}  // namespace aurora
