// The tables that ONNX Runtime calls, made of operators in C++.
//
// An operator is a class with NAME, N_INPUTS, N_OUTPUTS, input_type(i), STATE_INPUT and STATE_OUTPUT (-1 without a state),
// compute(context), and output_type(i) unless all outputs are float32. The functions that the runtime calls are made from it by OpTable. Nothing is thrown through them.
#pragma once

#include <exception>

#include "ort_context.h"

namespace aurora {

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
auto output_type(std::size_t i, int) -> decltype(Op::output_type(i)) {
    return Op::output_type(i);
}
template <typename Op>
ort::ElementType output_type(std::size_t, long) {
    return ort::FLOAT;
}

// Backend: has PROVIDER, the execution provider's name or nullptr for the CPU, and make<Op>(attributes).
template <typename Op, typename Backend>
struct OpTable : ort::CustomOp {
    struct Kernel {
        Api api;
        Op op;
    };

    OpTable() : ort::CustomOp{} {
        version = ort::MIN_VERSION;
        get_name = [](const CustomOp*) { return Op::NAME; };
        get_execution_provider = [](const CustomOp*) -> const char* { return Backend::PROVIDER; };
        get_input_type = [](const CustomOp*, std::size_t i) { return Op::input_type(i); };
        get_input_count = [](const CustomOp*) { return Op::N_INPUTS; };
        get_output_type = [](const CustomOp*, std::size_t i) { return output_type<Op>(i, 0); };
        get_output_count = [](const CustomOp*) { return Op::N_OUTPUTS; };
        get_input_characteristic = [](const CustomOp*, std::size_t) { return ort::REQUIRED; };
        get_output_characteristic = [](const CustomOp*, std::size_t) { return ort::REQUIRED; };
        get_input_memory_type = [](const CustomOp*, std::size_t) { return 0; };
        get_variadic_input_min_arity = get_variadic_output_min_arity = [](const CustomOp*) { return 1; };
        get_variadic_input_homogeneity = get_variadic_output_homogeneity = [](const CustomOp*) { return 1; };
        get_start_version = [](const CustomOp*) { return 1; };
        get_end_version = [](const CustomOp*) { return 1; };
        create_kernel_v2 = [](const CustomOp*, Api api, const OrtKernelInfo* info, void** kernel) {
            return status_of(api, [&] { *kernel = new Kernel{api, Backend::template make<Op>(Attributes(api, info))}; });
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

// Give a session the operators of a library, in domain `aurora`. One set of operators in a process: that of the first call.
inline OrtStatus* register_operators(
    Api api, OrtSessionOptions* options, const ort::CustomOp* const* operators, std::size_t n_operators) {
    return status_of(api, [&] {
        // The runtime keeps no copy: a domain lives as long as sessions may, which is as long as the process.
        static OrtCustomOpDomain* domain = [&] {
            OrtCustomOpDomain* made;
            check(ort::CreateCustomOpDomain::call(api, "aurora", &made));
            for (std::size_t i = 0; i < n_operators; ++i) check(ort::CustomOpDomainAdd::call(api, made, operators[i]));
            return made;
        }();
        check(ort::AddCustomOpDomain::call(api, options, domain));
    });
}

}  // namespace aurora
