// The part of ONNX Runtime's C interface that runs graphs. As plugins/cpu/ort_api.h, and for its reason, the places of the
// entries are declared here: OrtApi is a table that only ever grows at its end, so a header of 8,000 lines would add
// nothing but a version to keep up with. tests/runtime/cpp runs every entry that is used.
#pragma once

#include "../../../plugins/cpu/ort_api.h"

struct OrtEnv;
struct OrtSession;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtTypeInfo;
struct OrtAllocator;
struct OrtIoBinding;
struct OrtCUDAProviderOptionsV2;

// Of plugins/cpu/ort_library.cpp, which is part of this library.
extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const ort::ApiBase* base);

namespace ort {

constexpr int INT32 = 6;                          // ElementType, beside FLOAT and UINT8
constexpr int LOG_ERROR = 3;                      // OrtLoggingLevel
constexpr int ARENA_ALLOCATOR = 1;                // OrtAllocatorType
constexpr int MEMORY_DEFAULT = 0;                 // OrtMemType
constexpr int NO_SUCH_FILE = 3, NOT_IMPLEMENTED = 9;  // OrtErrorCode

using GetErrorCode = Entry<1, int(const OrtStatus*)>;
using GetErrorMessage = Entry<2, const char*(const OrtStatus*)>;
using CreateEnv = Entry<3, OrtStatus*(int severity, const char* log_id, OrtEnv**)>;
using DisableTelemetryEvents = Entry<6, OrtStatus*(const OrtEnv*)>;
using CreateSession = Entry<7, OrtStatus*(const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**)>;
using CreateSessionFromArray =
    Entry<8, OrtStatus*(const OrtEnv*, const void* model, std::size_t, const OrtSessionOptions*, OrtSession**)>;
using CreateSessionOptions = Entry<10, OrtStatus*(OrtSessionOptions**)>;
using SetSessionLogSeverityLevel = Entry<22, OrtStatus*(OrtSessionOptions*, int)>;
using SetIntraOpNumThreads = Entry<24, OrtStatus*(OrtSessionOptions*, int)>;
using SessionGetInputCount = Entry<30, OrtStatus*(const OrtSession*, std::size_t*)>;
using SessionGetOutputCount = Entry<31, OrtStatus*(const OrtSession*, std::size_t*)>;
using SessionGetInputTypeInfo = Entry<33, OrtStatus*(const OrtSession*, std::size_t, OrtTypeInfo**)>;
using SessionGetOutputTypeInfo = Entry<34, OrtStatus*(const OrtSession*, std::size_t, OrtTypeInfo**)>;
using SessionGetInputName = Entry<36, OrtStatus*(const OrtSession*, std::size_t, OrtAllocator*, char**)>;
using SessionGetOutputName = Entry<37, OrtStatus*(const OrtSession*, std::size_t, OrtAllocator*, char**)>;
using CreateTensorWithDataAsOrtValue =
    Entry<49, OrtStatus*(const OrtMemoryInfo*, void*, std::size_t, const std::int64_t*, std::size_t, int, OrtValue**)>;
using CastTypeInfoToTensorInfo = Entry<55, OrtStatus*(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**)>;
using GetTensorElementType = Entry<60, OrtStatus*(const OrtTensorTypeAndShapeInfo*, int*)>;
using CreateCpuMemoryInfo = Entry<69, OrtStatus*(int allocator_type, int memory_type, OrtMemoryInfo**)>;
using AllocatorFree = Entry<76, OrtStatus*(OrtAllocator*, void*)>;
using GetAllocatorWithDefaultOptions = Entry<78, OrtStatus*(OrtAllocator**)>;
using ReleaseEnv = Entry<92, void(OrtEnv*)>;
using ReleaseStatus = Entry<93, void(OrtStatus*)>;
using ReleaseMemoryInfo = Entry<94, void(OrtMemoryInfo*)>;
using ReleaseSession = Entry<95, void(OrtSession*)>;
using ReleaseValue = Entry<96, void(OrtValue*)>;
using ReleaseTypeInfo = Entry<98, void(OrtTypeInfo*)>;
using ReleaseSessionOptions = Entry<100, void(OrtSessionOptions*)>;
using AddSessionConfigEntry = Entry<130, OrtStatus*(OrtSessionOptions*, const char* key, const char* value)>;
using RunWithBinding = Entry<133, OrtStatus*(OrtSession*, const OrtRunOptions*, const OrtIoBinding*)>;
using CreateIoBinding = Entry<134, OrtStatus*(OrtSession*, OrtIoBinding**)>;
using ReleaseIoBinding = Entry<135, void(OrtIoBinding*)>;
using BindInput = Entry<136, OrtStatus*(OrtIoBinding*, const char*, const OrtValue*)>;
using BindOutput = Entry<137, OrtStatus*(OrtIoBinding*, const char*, const OrtValue*)>;
using AppendCudaProvider = Entry<204, OrtStatus*(OrtSessionOptions*, const OrtCUDAProviderOptionsV2*)>;
using CreateCudaProviderOptions = Entry<205, OrtStatus*(OrtCUDAProviderOptionsV2**)>;
using UpdateCudaProviderOptions =
    Entry<206, OrtStatus*(OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values, std::size_t)>;
using ReleaseCudaProviderOptions = Entry<208, void(OrtCUDAProviderOptionsV2*)>;

}  // namespace ort
