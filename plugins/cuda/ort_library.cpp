// The operator library of ONNX Runtime's CUDA provider: aurora::Wkv6 and aurora::Wkv7 on the kernels of ../wkv.
//
// An operator enqueues its kernel on the stream that the runtime gives it, and neither allocates nor waits, so that a
// session can be captured into a CUDA graph. The other operators of ours are written out by the runtime as the functions
// that the graph carries.
#include "../cpu/ort_table.h"
#include "../wkv/wkv_kernel.h"

namespace aurora {
namespace {

// Inputs are in the order of plugins/wkv/README.md. All arrays are in the device's memory.
template <int Version>
struct Wkv {
    static constexpr const char* NAME = Version == 6 ? "Wkv6" : "Wkv7";
    static constexpr std::size_t N_INPUTS = Version == 6 ? 6 : 7, N_OUTPUTS = 2;
    static constexpr int STATE_INPUT = N_INPUTS - 1, STATE_OUTPUT = 1;
    static ort::ElementType input_type(std::size_t) { return ort::FLOAT; }

    void compute(const Context& context) const {
        const Shape tokens = context.shape(0);
        if (tokens.size() != 4) refuse(context.api(), "receptance has shape " + text_of(tokens) + ", not (B, T, H, N)");
        const AuroraWkvSizes sizes{tokens[0], tokens[1], tokens[2], tokens[3]};
        if (const char* refusal = aurora_wkv_refusal(&sizes, AURORA_FLOAT32)) refuse(context.api(), refusal);
        const Shape state = {tokens[0], tokens[2], tokens[3], tokens[3]};
        const auto token = [&](std::size_t i, const char* name) { return context.data<float>(i, name, tokens); };
        const auto stream = static_cast<cudaStream_t>(context.stream());
        const float* before = context.data<float>(STATE_INPUT, "state", state);
        const char* refusal;
        if constexpr (Version == 6) {
            const AuroraWkv6Arrays arrays{token(0, "receptance"),
                                          token(1, "key"),
                                          token(2, "value"),
                                          token(3, "log_decay"),
                                          context.data<float>(4, "bonus", {tokens[2], tokens[3]}),
                                          before,
                                          context.output(0, tokens),
                                          context.output(STATE_OUTPUT, state)};
            refusal = aurora_wkv6_enqueue(&arrays, &sizes, AURORA_FLOAT32, stream);
        } else {
            const AuroraWkv7Arrays arrays{token(0, "receptance"),
                                          token(1, "log_decay"),
                                          token(2, "key"),
                                          token(3, "value"),
                                          token(4, "removal"),
                                          token(5, "replacement"),
                                          before,
                                          context.output(0, tokens),
                                          context.output(STATE_OUTPUT, state)};
            refusal = aurora_wkv7_enqueue(&arrays, &sizes, AURORA_FLOAT32, stream);
        }
        if (refusal != nullptr) refuse(context.api(), std::string(NAME) + ": " + refusal);
    }
};

struct Cuda {
#ifdef AURORA_EMULATED  // the tests: emulated kernels, which run on a CPU
    static constexpr const char* PROVIDER = nullptr;
#else
    static constexpr const char* PROVIDER = "CUDAExecutionProvider";
#endif

    template <typename Op>
    static Op make(const Attributes&) {
        return Op();
    }
};

}  // namespace
}  // namespace aurora

#define AURORA_EXPORT extern "C" __attribute__((visibility("default")))

// What ONNX Runtime looks up in an operator library.
AURORA_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const ort::ApiBase* base) {
    static const aurora::OpTable<aurora::Wkv<6>, aurora::Cuda> wkv6;
    static const aurora::OpTable<aurora::Wkv<7>, aurora::Cuda> wkv7;
    static const ort::CustomOp* const all[] = {&wkv6, &wkv7};
    const aurora::Api api = base->get_api(ort::MIN_VERSION);
    if (api == nullptr) return ort::CreateStatus::call(base->get_api(1), ort::FAIL, "ONNX Runtime 1.18 or newer is needed");
    return aurora::register_operators(api, options, all, sizeof all / sizeof all[0]);
}

// The execution provider that these operators are for, or null for the CPU, on which only emulated kernels run.
AURORA_EXPORT const char* aurora_cuda_provider() { return aurora::Cuda::PROVIDER; }
