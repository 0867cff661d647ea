// The operator library of ONNX Runtime: its operators of domain `aurora`, on the kernels of this folder's neighbours.
//
// An operator is a class with NAME, N_INPUTS, N_OUTPUTS, input_type(i), a constructor from the node's attributes and a
// level, and compute(context). The functions that the runtime calls are made from it by OpTable. Nothing is thrown through them.
#include <exception>

#include "../linear/linear_cpu.h"
#include "../wkv/wkv_cpu.h"
#include "levels.h"
#include "ort_context.h"

namespace aurora {
namespace {

std::size_t positive(const Attributes& attributes, const char* name) {
    const std::int64_t value = attributes.integer(name);
    if (value < 1) refuse(attributes.api(), std::string(name) + " is " + std::to_string(value) + ", not positive");
    return static_cast<std::size_t>(value);
}

// aurora::Wkv6 and aurora::Wkv7: see plugins/wkv/README.md. The inputs are in its order.
template <int Version>
struct Wkv {
    static constexpr const char* NAME = Version == 6 ? "Wkv6" : "Wkv7";
    static constexpr std::size_t N_INPUTS = Version == 6 ? 6 : 7, N_OUTPUTS = 2;
    static constexpr int STATE_INPUT = N_INPUTS - 1, STATE_OUTPUT = 1;
    static ort::ElementType input_type(std::size_t) { return ort::FLOAT; }

    Wkv(const Attributes&, const Kernels& kernels) : kernels_(kernels) {}

    void compute(const Context& context) const {
        const Shape tokens = context.shape(0);
        if (tokens.size() != 4) refuse(context.api(), "receptance has shape " + text_of(tokens) + ", not (B, T, H, N)");
        const std::int64_t B = tokens[0], T = tokens[1], H = tokens[2], N = tokens[3];
        if (N > static_cast<std::int64_t>(WKV_MAX_HEAD_SIZE))
            refuse(context.api(), "heads of " + std::to_string(N) + " are larger than 256");
        if (T < 1) refuse(context.api(), "there are no tokens");
        const Shape state = {B, H, N, N};
        const auto token = [&](std::size_t i, const char* name) { return context.data<float>(i, name, tokens); };
        WkvHead all{};
        all.receptance = token(0, "receptance");
        if (Version == 6) {
            all.key = token(1, "key"), all.value = token(2, "value"), all.log_decay = token(3, "log_decay");
            all.bonus = context.data<float>(4, "bonus", {H, N});
        } else {
            all.log_decay = token(1, "log_decay"), all.key = token(2, "key"), all.value = token(3, "value");
            all.removal = token(4, "removal"), all.replacement = token(5, "replacement");
        }
        all.state = context.data<float>(STATE_INPUT, "state", state);
        all.output = context.output(0, tokens);
        all.next_state = context.output(STATE_OUTPUT, state);
        const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
        wkv(kernels_, {size(B), size(T), size(H), size(N)}, all, context.parallel());
    }

private:
    const Kernels& kernels_;
};

// aurora::BlockLinear: see plugins/linear/README.md.
struct BlockLinear {
    static constexpr const char* NAME = "BlockLinear";
    static constexpr std::size_t N_INPUTS = 3, N_OUTPUTS = 1;
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;
    static ort::ElementType input_type(std::size_t i) { return i == 1 ? ort::UINT8 : ort::FLOAT; }

    BlockLinear(const Attributes& attributes, const Kernels& kernels) : kernels_(kernels) {
        weights_.n_inputs = positive(attributes, "K");
        weights_.n_outputs = positive(attributes, "N");
        weights_.block_size = positive(attributes, "block_size");
        const std::size_t block = weights_.block_size;
        if (block < 16 || block > 256 || (block & (block - 1)) != 0)
            refuse(attributes.api(), "block_size is " + std::to_string(block) + ", not 16, 32, 64, 128 or 256");
        if (positive(attributes, "bits") != 8) refuse(attributes.api(), "bits is not 8");
    }

    void compute(const Context& context) const {
        Shape shape = context.shape(0);
        const auto size = [](std::size_t value) { return static_cast<std::int64_t>(value); };
        if (shape.empty() || shape.back() != size(weights_.n_inputs))
            refuse(context.api(), "the input has shape " + text_of(shape) + ", its last size is to be " +
                                      std::to_string(weights_.n_inputs));
        const std::int64_t N = size(weights_.n_outputs), n_blocks = size(weights_.n_blocks());
        BlockWeights weights = weights_;
        weights.codes = context.data<std::uint8_t>(1, "codes", {N, n_blocks, size(weights_.block_size)});
        weights.scales = context.data<float>(2, "scales", {N * n_blocks});
        const float* x = context.data<float>(0);
        shape.back() = N;
        float* y = context.output(0, shape);
        linear(kernels_, weights, x, element_count(shape) / weights_.n_outputs, y, context.parallel());
    }

private:
    const Kernels& kernels_;
    BlockWeights weights_{};
};

// Of the sessions that are opened now.
const Kernels& level(Api api) {
    const char* error = nullptr;
    const Kernels* chosen = choose_level(&error);
    if (chosen == nullptr) refuse(api, error);
    return *chosen;
}

// Turns what is thrown into what the runtime understands.
template <typename Action>
OrtStatus* status_of(Api api, const Action& action) {
    try {
        action();
        return nullptr;
    } catch (const OrtFailure& failure) {
        return failure.status;
    } catch (const std::exception& error) {
        return ort::CreateStatus::call(api, ort::FAIL, error.what());
    }
}

template <typename Op>
struct OpTable : ort::CustomOp {
    struct Kernel {
        Api api;
        Op op;
    };

    OpTable() : ort::CustomOp{} {
        version = ort::MIN_VERSION;
        get_name = [](const CustomOp*) { return Op::NAME; };
        get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // CPU
        get_input_type = [](const CustomOp*, std::size_t i) { return Op::input_type(i); };
        get_input_count = [](const CustomOp*) { return Op::N_INPUTS; };
        get_output_type = [](const CustomOp*, std::size_t) { return ort::FLOAT; };
        get_output_count = [](const CustomOp*) { return Op::N_OUTPUTS; };
        get_input_characteristic = [](const CustomOp*, std::size_t) { return ort::REQUIRED; };
        get_output_characteristic = [](const CustomOp*, std::size_t) { return ort::REQUIRED; };
        get_input_memory_type = [](const CustomOp*, std::size_t) { return 0; };
        get_variadic_input_min_arity = get_variadic_output_min_arity = [](const CustomOp*) { return 1; };
        get_variadic_input_homogeneity = get_variadic_output_homogeneity = [](const CustomOp*) { return 1; };
        get_start_version = [](const CustomOp*) { return 1; };
        get_end_version = [](const CustomOp*) { return 1; };
        create_kernel_v2 = [](const CustomOp*, Api api, const OrtKernelInfo* info, void** kernel) {
            return status_of(api, [&] { *kernel = new Kernel{api, Op(Attributes(api, info), level(api))}; });
        };
        compute_v2 = [](void* self, OrtKernelContext* context) {
            const Kernel& kernel = *static_cast<const Kernel*>(self);
            return status_of(kernel.api, [&] { kernel.op.compute(Context(kernel.api, context)); });
        };
        destroy = [](void* self) { delete static_cast<Kernel*>(self); };
        // The state may be updated where it is.
        get_may_inplace = [](int** input, int** output) -> std::size_t {
            if (Op::STATE_INPUT < 0) return 0;
            *input = new int(Op::STATE_INPUT);
            *output = new int(Op::STATE_OUTPUT);
            return 1;
        };
        release_may_inplace = [](int* input, int* output) { delete input, delete output; };
        get_alias_map = [](int**, int**) -> std::size_t { return 0; };
        release_alias_map = [](int*, int*) {};
    }
};

OrtStatus* add_domain(Api api, OrtSessionOptions* options) {
    static const OpTable<Wkv<6>> wkv6;
    static const OpTable<Wkv<7>> wkv7;
    static const OpTable<BlockLinear> block_linear;
    return status_of(api, [&] {
        // The runtime keeps no copy: a domain lives as long as sessions may, which is as long as the process.
        static OrtCustomOpDomain* domain = [&] {
            OrtCustomOpDomain* made;
            check(ort::CreateCustomOpDomain::call(api, "aurora", &made));
            for (const ort::CustomOp* op : {static_cast<const ort::CustomOp*>(&wkv6),
                                            static_cast<const ort::CustomOp*>(&wkv7),
                                            static_cast<const ort::CustomOp*>(&block_linear)})
                check(ort::CustomOpDomainAdd::call(api, made, op));
            return made;
        }();
        check(ort::AddCustomOpDomain::call(api, options, domain));
    });
}

}  // namespace
}  // namespace aurora

#define AURORA_EXPORT extern "C" __attribute__((visibility("default")))

// What ONNX Runtime looks up in an operator library.
AURORA_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const ort::ApiBase* base) {
    const aurora::Api api = base->get_api(ort::MIN_VERSION);
    if (api == nullptr) return ort::CreateStatus::call(base->get_api(1), ort::FAIL, "ONNX Runtime 1.18 or newer is needed");
    return aurora::add_domain(api, options);
}

// The level that is or would be used, or nullptr, and why in `error`.
AURORA_EXPORT const char* aurora_cpu_level(const char** error) {
    const aurora::Kernels* chosen = aurora::choose_level(error);
    return chosen == nullptr ? nullptr : chosen->name;
}

// Name of level i of this library, the best first, and whether this machine runs it; nullptr past the last.
AURORA_EXPORT const char* aurora_cpu_level_name(std::size_t i, int* is_supported) {
    std::size_t n;
    const aurora::Kernels* const* levels = aurora::all_levels(&n);
    if (i >= n) return nullptr;
    *is_supported = levels[i]->is_supported();
    return levels[i]->name;
}
