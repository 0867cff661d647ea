// The pieces of an RWKV-6 block as operators of ONNX Runtime: see plugins/mix/README.md. Their inputs are in the order of
// plugins/mix/__init__.py.
#pragma once

#include "../mix/mix_cpu.h"
#include "levels.h"
#include "ort_table.h"

namespace aurora {

struct Piece {
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;
    static ort::ElementType input_type(std::size_t) { return ort::FLOAT; }

    Piece(const Attributes&, const Kernels& kernels) : kernels_(kernels) {}

protected:
    // Shape (B, T, E) of input 0.
    static Shape tokens_of(const Context& context) {
        const Shape shape = context.shape(0);
        if (shape.size() != 3 || shape[1] < 1)
            refuse(context.api(), "x has shape " + text_of(shape) + ", not (B, T, E) with a token at least");
        return shape;
    }
    static Tokens tokens(const Shape& shape) {
        return {static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]), static_cast<std::size_t>(shape[2])};
    }

    const Kernels& kernels_;
};

// A piece with a norm in it.
struct NormPiece : Piece {
    NormPiece(const Attributes& attributes, const Kernels& kernels)
        : Piece(attributes, kernels), epsilon_(attributes.number("epsilon")) {}

protected:
    float epsilon_;
};

// The low-rank matrices are of floats, or of 8-bit codes, each followed by its scales.
template <bool IsInt8>
struct TimeMixInputs6 : NormPiece {
    static constexpr const char* NAME = IsInt8 ? "TimeMixInputs6Int8" : "TimeMixInputs6";
    static constexpr std::size_t N_INPUTS = IsInt8 ? 19 : 15, N_OUTPUTS = 6;
    static constexpr std::size_t INPUTS_OF_MATRIX = IsInt8 ? 2 : 1;
    static constexpr std::size_t MIX_IN = 10, MIX_OUT = MIX_IN + INPUTS_OF_MATRIX, DECAY = MIX_OUT + INPUTS_OF_MATRIX;
    static constexpr std::size_t DECAY_IN = DECAY + 1, DECAY_OUT = DECAY_IN + INPUTS_OF_MATRIX;
    static ort::ElementType input_type(std::size_t i) {
        const bool is_matrix = i == MIX_IN || i == MIX_OUT || i == DECAY_IN || i == DECAY_OUT;
        return IsInt8 && is_matrix ? ort::INT8 : ort::FLOAT;
    }

    using NormPiece::NormPiece;

    void compute(const Context& context) const {
        const Shape x = tokens_of(context);
        const std::int64_t B = x[0], E = x[2];
        TimeMix mix{};
        mix.x = context.data<float>(0);
        mix.shift = context.data<float>(1, "shift", {B, E});
        mix.norm_weight = context.data<float>(2, "ln1.weight", {E});
        mix.norm_bias = context.data<float>(3, "ln1.bias", {E});
        mix.epsilon = epsilon_;
        mix.mix_x = context.data<float>(4, "time_maa_x", {1, 1, E});
        for (std::size_t j = 0; j < N_MIXES; ++j) mix.mixes[j] = context.data<float>(5 + j, "time_maa", {1, 1, E});
        const Shape out = context.shape(MIX_OUT), decay_in = context.shape(DECAY_IN);
        if (out.size() != 3 || decay_in.size() != 2) refuse(context.api(), "the low-rank matrices have other shapes");
        const std::int64_t m = out[1], d = decay_in[1];
        mix.mix_rank = static_cast<std::size_t>(m);
        mix.decay_rank = static_cast<std::size_t>(d);
        mix.mix_in = matrix(context, MIX_IN, "time_maa_w1", {E, 5 * m}, {1, 5 * m});
        mix.mix_out[0] = matrix(context, MIX_OUT, "time_maa_w2", {5, m, E}, {5, 1, E});
        for (std::size_t j = 1; j < N_MIXES; ++j) mix.mix_out[j] = after(mix.mix_out[j - 1], m * E, E);
        mix.decay = context.data<float>(DECAY, "time_decay", {1, 1, E});
        mix.decay_in = matrix(context, DECAY_IN, "time_decay_w1", {E, d}, {1, d});
        mix.decay_out = matrix(context, DECAY_OUT, "time_decay_w2", {d, E}, {1, E});
        // The model mixes decay, key, value, receptance, gate; the outputs are receptance, key, value, gate.
        const std::size_t mix_of_output[] = {3, 1, 2, 4};
        for (std::size_t i = 0; i < 4; ++i) mix.mixed[mix_of_output[i]] = context.output(i, x);
        mix.log_decay = context.output(4, x);
        mix.next_shift = context.output(5, {B, E});
        time_mix_inputs(kernels_, tokens(x), mix, context.parallel());
    }

private:
    static Matrix matrix(const Context& context, std::size_t i, const char* name, const Shape& shape, const Shape& scales) {
        if (!IsInt8) return {context.data<float>(i, name, shape), nullptr, nullptr};
        return {nullptr, context.data<std::int8_t>(i, name, shape), context.data<float>(i + 1, name, scales)};
    }
    static Matrix after(const Matrix& matrix, std::int64_t n_weights, std::int64_t n_scales) {
        if (!IsInt8) return {matrix.floats + n_weights, nullptr, nullptr};
        return {nullptr, matrix.codes + n_weights, matrix.scales + n_scales};
    }
};

struct ChannelMixInputs6 : NormPiece {
    static constexpr const char* NAME = "ChannelMixInputs6";
    static constexpr std::size_t N_INPUTS = 7, N_OUTPUTS = 4;

    using NormPiece::NormPiece;

    void compute(const Context& context) const {
        const Shape x = tokens_of(context);
        const std::int64_t B = x[0], E = x[2];
        ChannelMix mix{};
        mix.x = context.data<float>(0);
        mix.update = context.data<float>(1, "update", x);
        mix.shift = context.data<float>(2, "shift", {B, E});
        mix.norm_weight = context.data<float>(3, "ln2.weight", {E});
        mix.norm_bias = context.data<float>(4, "ln2.bias", {E});
        mix.epsilon = epsilon_;
        mix.mix_key = context.data<float>(5, "time_maa_k", {1, 1, E});
        mix.mix_receptance = context.data<float>(6, "time_maa_r", {1, 1, E});
        mix.sum = context.output(0, x);
        mix.key = context.output(1, x);
        mix.receptance = context.output(2, x);
        mix.next_shift = context.output(3, {B, E});
        channel_mix_inputs(kernels_, tokens(x), mix, context.parallel());
    }
};

struct HeadNormGate6 : NormPiece {
    static constexpr const char* NAME = "HeadNormGate6";
    static constexpr std::size_t N_INPUTS = 4, N_OUTPUTS = 1;

    using NormPiece::NormPiece;

    void compute(const Context& context) const {
        const Shape y = context.shape(0);
        if (y.size() != 4) refuse(context.api(), "y has shape " + text_of(y) + ", not (B, T, H, N)");
        const std::int64_t E = y[2] * y[3];
        const Shape flat = {y[0], y[1], E};
        const float* gate = context.data<float>(1, "gate", flat);
        const float* weight = context.data<float>(2, "ln_x.weight", {E});
        const float* bias = context.data<float>(3, "ln_x.bias", {E});
        head_norm_gate(kernels_, tokens(flat), static_cast<std::size_t>(y[3]), context.data<float>(0), gate, weight, bias,
                       epsilon_, context.output(0, flat), context.parallel());
    }
};

struct ReluSquare : Piece {
    static constexpr const char* NAME = "ReluSquare";
    static constexpr std::size_t N_INPUTS = 1, N_OUTPUTS = 1;

    using Piece::Piece;

    void compute(const Context& context) const {
        const Shape x = context.shape(0);
        relu_square(kernels_, context.data<float>(0), element_count(x), context.output(0, x), context.parallel());
    }
};

struct ChannelMixOutput6 : Piece {
    static constexpr const char* NAME = "ChannelMixOutput6";
    static constexpr std::size_t N_INPUTS = 3, N_OUTPUTS = 1;

    using Piece::Piece;

    void compute(const Context& context) const {
        const Shape x = context.shape(0);
        const float* receptance = context.data<float>(1, "receptance", x);
        const float* value = context.data<float>(2, "value", x);
        channel_mix_output(kernels_, context.data<float>(0), receptance, value, element_count(x), context.output(0, x),
                           context.parallel());
    }
};

}  // namespace aurora
