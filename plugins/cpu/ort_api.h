// The part of ONNX Runtime's C interface that an operator library needs, declared here because its wheels carry no
// headers (and Debian no package). Names and meaning are those of onnxruntime_c_api.h.
//
// OrtApi is a table of function pointers that only ever grows at its end: an entry keeps its place for good. It is taken
// as an array, with the places of the few entries that are used. OrtCustomOp is a table that we fill, of the layout that
// its first field names. MIN_VERSION is the oldest runtime with all of them; `tests/plugins/test_cpu_library.py` runs
// every entry that is used here.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;

namespace ort {

constexpr std::uint32_t MIN_VERSION = 18;  // of the interface: ONNX Runtime 1.18

enum ElementType : int { FLOAT = 1, UINT8 = 2, INT8 = 3, INT64 = 7 };
enum Characteristic : int { REQUIRED = 0, OPTIONAL = 1 };
enum ErrorCode : int { FAIL = 1, INVALID_ARGUMENT = 2 };

struct ApiBase {
    const void* const* (*get_api)(std::uint32_t version);  // nullptr if the runtime is older than `version`
    const char* (*get_version)();
};

// Layout of version 18; `op` is always the table itself.
struct CustomOp {
    std::uint32_t version;
    void* (*create_kernel)(const CustomOp*, const void* const*, const OrtKernelInfo*);
    const char* (*get_name)(const CustomOp*);
    const char* (*get_execution_provider)(const CustomOp*);
    ElementType (*get_input_type)(const CustomOp*, std::size_t);
    std::size_t (*get_input_count)(const CustomOp*);
    ElementType (*get_output_type)(const CustomOp*, std::size_t);
    std::size_t (*get_output_count)(const CustomOp*);
    void (*compute)(void*, OrtKernelContext*);
    void (*destroy)(void*);
    Characteristic (*get_input_characteristic)(const CustomOp*, std::size_t);
    Characteristic (*get_output_characteristic)(const CustomOp*, std::size_t);
    int (*get_input_memory_type)(const CustomOp*, std::size_t);
    int (*get_variadic_input_min_arity)(const CustomOp*);
    int (*get_variadic_input_homogeneity)(const CustomOp*);
    int (*get_variadic_output_min_arity)(const CustomOp*);
    int (*get_variadic_output_homogeneity)(const CustomOp*);
    OrtStatus* (*create_kernel_v2)(const CustomOp*, const void* const*, const OrtKernelInfo*, void** kernel);
    OrtStatus* (*compute_v2)(void* kernel, OrtKernelContext*);
    OrtStatus* (*infer_output_shape)(const CustomOp*, void*);
    int (*get_start_version)(const CustomOp*);
    int (*get_end_version)(const CustomOp*);
    std::size_t (*get_may_inplace)(int** input_index, int** output_index);
    void (*release_may_inplace)(int* input_index, int* output_index);
    std::size_t (*get_alias_map)(int** input_index, int** output_index);
    void (*release_alias_map)(int* input_index, int* output_index);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "the layout that version 18 stands for");

// A place in OrtApi with the type of what is there.
template <std::size_t Place, typename Function>
struct Entry;
template <std::size_t Place, typename Result, typename... Arguments>
struct Entry<Place, Result(Arguments...)> {
    static Result call(const void* const* api, Arguments... arguments) {
        Result (*function)(Arguments...);
        static_assert(sizeof function == sizeof *api, "pointers to functions fit in the table");
        __builtin_memcpy(&function, &api[Place], sizeof function);
        return function(arguments...);
    }
};

using Work = void (*)(void* context, std::size_t index);

using CreateStatus = Entry<0, OrtStatus*(ErrorCode, const char*)>;
using CreateCustomOpDomain = Entry<26, OrtStatus*(const char*, OrtCustomOpDomain**)>;
using CustomOpDomainAdd = Entry<27, OrtStatus*(OrtCustomOpDomain*, const CustomOp*)>;
using AddCustomOpDomain = Entry<28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>;
using GetTensorMutableData = Entry<51, OrtStatus*(OrtValue*, void**)>;
using GetDimensionsCount = Entry<61, OrtStatus*(const OrtTensorTypeAndShapeInfo*, std::size_t*)>;
using GetDimensions = Entry<62, OrtStatus*(const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t)>;
using GetTensorTypeAndShape = Entry<65, OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>;
using KernelInfoGetAttributeFloat = Entry<85, OrtStatus*(const OrtKernelInfo*, const char*, float*)>;
using KernelInfoGetAttributeInt = Entry<86, OrtStatus*(const OrtKernelInfo*, const char*, std::int64_t*)>;
using KernelContextGetInput = Entry<90, OrtStatus*(const OrtKernelContext*, std::size_t, const OrtValue**)>;
using KernelContextGetOutput =
    Entry<91, OrtStatus*(OrtKernelContext*, std::size_t, const std::int64_t*, std::size_t, OrtValue**)>;
using ReleaseTensorTypeAndShapeInfo = Entry<99, void(OrtTensorTypeAndShapeInfo*)>;
using KernelContextGetGpuComputeStream = Entry<193, OrtStatus*(const OrtKernelContext*, void** stream)>;
using KernelContextParallelFor =
    Entry<274, OrtStatus*(const OrtKernelContext*, Work, std::size_t total, std::size_t n_batches, void*)>;

}  // namespace ort
