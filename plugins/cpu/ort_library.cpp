// The operator library of ONNX Runtime: its operators of domain `aurora`, on the kernels of this folder's neighbours.
//
// An operator is a class as ort_table.h says, with a constructor from the node's attributes and a level.

#include "../attention/attention_cpu.h"
#include "../mix/mix_cpu.h"
#include "../wkv/wkv_cpu.h"
#include "levels.h"
#include "ort_linear.h"
#include "ort_table.h"

namespace aurora {
namespace {

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

// aurora::HeadsAttention: see plugins/attention/README.md.
struct HeadsAttentionOp {
    static constexpr const char* NAME = "HeadsAttention";
    static constexpr std::size_t N_INPUTS = 6, N_OUTPUTS = 2;
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;
    static ort::ElementType input_type(std::size_t) { return ort::FLOAT; }

    HeadsAttentionOp(const Attributes& attributes, const Kernels& kernels)
        : kernels_(kernels), n_heads_(attributes.positive("n_heads")), scale_(attributes.number("scale")) {}

    void compute(const Context& context) const {
        const Shape x = context.shape(0);
        const std::int64_t heads = static_cast<std::int64_t>(n_heads_);
        if (x.size() != 3 || x[1] < 1 || x[2] < heads || x[2] % heads != 0)
            refuse(context.api(), "query has shape " + text_of(x) + ", not (F, T, D) with a token and " +
                                      std::to_string(heads) + " heads");
        const std::int64_t N = x[2] / heads;
        if (N > static_cast<std::int64_t>(STRIP_OUTPUTS))
            refuse(context.api(), "heads of " + std::to_string(N) + " are larger than " + std::to_string(STRIP_OUTPUTS));
        const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
        HeadsAttention all{};
        all.n_frames = size(x[0]), all.n_tokens = size(x[1]), all.n_heads = n_heads_, all.head_size = size(N);
        all.scale = scale_;
        all.query = context.data<float>(0);
        all.key = context.data<float>(1, "key", x);
        all.value = context.data<float>(2, "value", x);
        all.query_bias = context.data<float>(3, "query_bias", {x[2]});
        all.key_bias = context.data<float>(4, "key_bias", {x[2]});
        all.value_bias = context.data<float>(5, "value_bias", {x[2]});
        all.mixed = context.output(0, x);
        all.metric = context.output(1, {x[0], x[1], N});
        heads_attention(kernels_, all, context.parallel());
    }

private:
    const Kernels& kernels_;
    std::size_t n_heads_;
    float scale_;
};

// The pieces of an RWKV-6 block: see plugins/mix/README.md. Their inputs are in the order of plugins/mix/__init__.py.
struct Piece {
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;
    static ort::ElementType input_type(std::size_t) { return ort::FLOAT; }

protected:
    explicit Piece(const Kernels& kernels) : kernels_(kernels) {}

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

// The low-rank matrices are of floats, or of 8-bit codes, each followed by its scales.
template <bool IsInt8>
struct TimeMixInputs6 : Piece {
    static constexpr const char* NAME = IsInt8 ? "TimeMixInputs6Int8" : "TimeMixInputs6";
    static constexpr std::size_t N_INPUTS = IsInt8 ? 19 : 15, N_OUTPUTS = 6;
    static constexpr std::size_t INPUTS_OF_MATRIX = IsInt8 ? 2 : 1;
    static constexpr std::size_t MIX_IN = 10, MIX_OUT = MIX_IN + INPUTS_OF_MATRIX, DECAY = MIX_OUT + INPUTS_OF_MATRIX;
    static constexpr std::size_t DECAY_IN = DECAY + 1, DECAY_OUT = DECAY_IN + INPUTS_OF_MATRIX;
    static ort::ElementType input_type(std::size_t i) {
        const bool is_matrix = i == MIX_IN || i == MIX_OUT || i == DECAY_IN || i == DECAY_OUT;
        return IsInt8 && is_matrix ? ort::INT8 : ort::FLOAT;
    }

    TimeMixInputs6(const Attributes& attributes, const Kernels& kernels)
        : Piece(kernels), epsilon_(attributes.number("epsilon")) {}

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

    float epsilon_;
};

struct ChannelMixInputs6 : Piece {
    static constexpr const char* NAME = "ChannelMixInputs6";
    static constexpr std::size_t N_INPUTS = 7, N_OUTPUTS = 4;

    ChannelMixInputs6(const Attributes& attributes, const Kernels& kernels)
        : Piece(kernels), epsilon_(attributes.number("epsilon")) {}

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

private:
    float epsilon_;
};

struct HeadNormGate6 : Piece {
    static constexpr const char* NAME = "HeadNormGate6";
    static constexpr std::size_t N_INPUTS = 4, N_OUTPUTS = 1;

    HeadNormGate6(const Attributes& attributes, const Kernels& kernels)
        : Piece(kernels), epsilon_(attributes.number("epsilon")) {}

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

private:
    float epsilon_;
};

struct ReluSquare : Piece {
    static constexpr const char* NAME = "ReluSquare";
    static constexpr std::size_t N_INPUTS = 1, N_OUTPUTS = 1;

    ReluSquare(const Attributes&, const Kernels& kernels) : Piece(kernels) {}

    void compute(const Context& context) const {
        const Shape x = context.shape(0);
        relu_square(kernels_, context.data<float>(0), element_count(x), context.output(0, x), context.parallel());
    }
};

struct ChannelMixOutput6 : Piece {
    static constexpr const char* NAME = "ChannelMixOutput6";
    static constexpr std::size_t N_INPUTS = 3, N_OUTPUTS = 1;

    ChannelMixOutput6(const Attributes&, const Kernels& kernels) : Piece(kernels) {}

    void compute(const Context& context) const {
        const Shape x = context.shape(0);
        const float* receptance = context.data<float>(1, "receptance", x);
        const float* value = context.data<float>(2, "value", x);
        channel_mix_output(kernels_, context.data<float>(0), receptance, value, element_count(x), context.output(0, x),
                           context.parallel());
    }
};

// Of the sessions that are opened now.
const Kernels& level(Api api) {
    const char* error = nullptr;
    const Kernels* chosen = choose_level(&error);
    if (chosen == nullptr) refuse(api, error);
    return *chosen;
}

// Operators of this library: for the CPU, made with the level that is chosen now.
struct Cpu {
    static constexpr const char* PROVIDER = nullptr;

    template <typename Op>
    static Op make(const Attributes& attributes) {
        return Op(attributes, level(attributes.api()));
    }
};

template <typename Op>
using CpuOp = OpTable<Op, Cpu>;

OrtStatus* add_domain(Api api, OrtSessionOptions* options) {
    static const CpuOp<Wkv<6>> wkv6;
    static const CpuOp<Wkv<7>> wkv7;
    static const CpuOp<BlockLinear> block_linear;
    static const CpuOp<BlockLinearAdd> block_linear_add;
    static const CpuOp<BlockMlpOp<Activation::GELU>> block_mlp_gelu;
    static const CpuOp<BlockMlpOp<Activation::SQUARED_RELU>> block_mlp_squared_relu;
    static const CpuOp<HeadsAttentionOp> heads_attention;
    static const CpuOp<TimeMixInputs6<true>> time_mix_inputs_6_int8;
    static const CpuOp<TimeMixInputs6<false>> time_mix_inputs_6;  // of bundles before format 1.3
    static const CpuOp<HeadNormGate6> head_norm_gate_6;
    static const CpuOp<ChannelMixInputs6> channel_mix_inputs_6;
    static const CpuOp<ReluSquare> relu_square;
    static const CpuOp<ChannelMixOutput6> channel_mix_output_6;
    static const ort::CustomOp* const all[] = {&wkv6,
                                               &wkv7,
                                               &block_linear,
                                               &block_linear_add,
                                               &block_mlp_gelu,
                                               &block_mlp_squared_relu,
                                               &heads_attention,
                                               &time_mix_inputs_6_int8,
                                               &time_mix_inputs_6,
                                               &head_norm_gate_6,
                                               &channel_mix_inputs_6,
                                               &relu_square,
                                               &channel_mix_output_6};
    return register_operators(api, options, all, sizeof all / sizeof all[0]);
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
