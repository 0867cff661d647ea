// Linear layers of narrow weights as ONNX Runtime sees them: see plugins/linear/README.md, which has their inputs in order.
#pragma once

#include "../linear/linear_cpu.h"
#include "levels.h"
#include "ort_context.h"

namespace aurora {

// What the operators of this file share: reading weights, and the shapes of rows.
struct LinearOp {
    static constexpr std::size_t N_OUTPUTS = 1;
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;

protected:
    explicit LinearOp(const Kernels& kernels) : kernels_(kernels) {}

    static std::int64_t size(std::size_t value) { return static_cast<std::int64_t>(value); }

    static BlockWeights weights_of(const Attributes& attributes, const char* K, const char* N, const char* block_size) {
        BlockWeights weights{};
        weights.n_inputs = attributes.positive(K);
        weights.n_outputs = attributes.positive(N);
        const std::size_t block = weights.block_size = attributes.positive(block_size);
        if (block < 16 || block > 256 || (block & (block - 1)) != 0)
            refuse(attributes.api(),
                   std::string(block_size) + " is " + std::to_string(block) + ", not 16, 32, 64, 128 or 256");
        weights.bits = attributes.positive("bits");
        if (weights.bits != 8 && weights.bits != 4)
            refuse(attributes.api(), "bits is " + std::to_string(weights.bits) + ", not 8 or 4");
        return weights;
    }

    // The same weights, with codes and scales from two inputs.
    static BlockWeights read(const Context& context, BlockWeights weights, std::size_t index) {
        const std::int64_t N = size(weights.n_outputs), n_blocks = size(weights.n_blocks());
        weights.codes = context.data<std::uint8_t>(index, "codes", {N, n_blocks, size(weights.block_bytes())});
        weights.scales = context.data<float>(index + 1, "scales", {N * n_blocks});
        return weights;
    }

    // The shape of the result for input 0 of n_inputs numbers a row.
    static Shape shape_of_result(const Context& context, std::size_t n_inputs, std::size_t n_outputs) {
        Shape shape = context.shape(0);
        if (shape.empty() || shape.back() != size(n_inputs))
            refuse(context.api(), "the input has shape " + text_of(shape) + ", its last size is to be " +
                                      std::to_string(n_inputs));
        shape.back() = size(n_outputs);
        return shape;
    }

    const Kernels& kernels_;
};

struct BlockLinear : LinearOp {
    static constexpr const char* NAME = "BlockLinear";
    static constexpr std::size_t N_INPUTS = 3;
    static ort::ElementType input_type(std::size_t i) { return i == 1 ? ort::UINT8 : ort::FLOAT; }

    BlockLinear(const Attributes& attributes, const Kernels& kernels)
        : LinearOp(kernels), weights_(weights_of(attributes, "K", "N", "block_size")) {}

    void compute(const Context& context) const { run(context, shape(context), {}); }

protected:
    Shape shape(const Context& context) const { return shape_of_result(context, weights_.n_inputs, weights_.n_outputs); }

    void run(const Context& context, const Shape& shape, const Added& added) const {
        const BlockWeights weights = read(context, weights_, 1);
        const float* x = context.data<float>(0);
        float* y = context.output(0, shape);
        linear(kernels_, weights, x, element_count(shape) / weights_.n_outputs, added, y, context.parallel());
    }

    BlockWeights weights_;
};

struct BlockLinearAdd : BlockLinear {
    static constexpr const char* NAME = "BlockLinearAdd";
    static constexpr std::size_t N_INPUTS = 5;

    using BlockLinear::BlockLinear;

    void compute(const Context& context) const {
        const Shape result = shape(context);
        run(context, result, {context.data<float>(3, "bias", {size(weights_.n_outputs)}), context.data<float>(4, "residual", result)});
    }
};

// With GELU there are biases and a residual; with the squared ReLU, of RWKV, there are none.
template <Activation A>
struct BlockMlpOp : LinearOp {
    static constexpr bool ADDS = A == Activation::GELU;
    static constexpr const char* NAME = ADDS ? "BlockMlpGelu" : "BlockMlpSquaredRelu";
    static constexpr std::size_t N_INPUTS = ADDS ? 8 : 5, SECOND = ADDS ? 4 : 3;
    static ort::ElementType input_type(std::size_t i) { return i == 1 || i == SECOND ? ort::UINT8 : ort::FLOAT; }

    BlockMlpOp(const Attributes& attributes, const Kernels& kernels)
        : LinearOp(kernels),
          first_(weights_of(attributes, "K", "hidden", "block_size_1")),
          second_(weights_of(attributes, "hidden", "N", "block_size_2")) {}

    void compute(const Context& context) const {
        const Shape shape = shape_of_result(context, first_.n_inputs, second_.n_outputs);
        const auto bias = [&](std::size_t i, const BlockWeights& of) {
            return ADDS ? context.data<float>(i, "bias", {size(of.n_outputs)}) : nullptr;
        };
        const BlockMlp layers = {read(context, first_, 1), read(context, second_, SECOND), bias(3, first_), A};
        const Added added = {bias(6, second_), ADDS ? context.data<float>(7, "residual", shape) : nullptr};
        const float* x = context.data<float>(0);
        float* y = context.output(0, shape);
        mlp(kernels_, layers, x, element_count(shape) / second_.n_outputs, added, y, context.parallel());
    }

private:
    BlockWeights first_, second_;
};

}  // namespace aurora
