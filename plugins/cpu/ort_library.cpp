// The operator library of ONNX Runtime: its operators of domain `aurora`, on the kernels of this folder's neighbours.
//
// An operator is a class as ort_table.h says, with a constructor from the node's attributes and a level.

#include "../attention/attention_cpu.h"
#include "../linear/linear_cpu.h"
#include "../merge/merge_cpu.h"
#include "../wkv/wkv_cpu.h"
#include "levels.h"
#include "ort_pieces.h"
#include "ort_table.h"

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
        weights_.bits = positive(attributes, "bits");
        if (weights_.bits != 8 && weights_.bits != 4)
            refuse(attributes.api(), "bits is " + std::to_string(weights_.bits) + ", not 8 or 4");
    }

    void compute(const Context& context) const {
        Shape shape = context.shape(0);
        const auto size = [](std::size_t value) { return static_cast<std::int64_t>(value); };
        if (shape.empty() || shape.back() != size(weights_.n_inputs))
            refuse(context.api(), "the input has shape " + text_of(shape) + ", its last size is to be " +
                                      std::to_string(weights_.n_inputs));
        const std::int64_t N = size(weights_.n_outputs), n_blocks = size(weights_.n_blocks());
        BlockWeights weights = weights_;
        weights.codes = context.data<std::uint8_t>(1, "codes", {N, n_blocks, size(weights_.block_bytes())});
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

// aurora::HeadsAttention: see plugins/attention/README.md.
struct HeadsAttentionOp {
    static constexpr const char* NAME = "HeadsAttention";
    static constexpr std::size_t N_INPUTS = 6, N_OUTPUTS = 2;
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;
    static ort::ElementType input_type(std::size_t) { return ort::FLOAT; }

    HeadsAttentionOp(const Attributes& attributes, const Kernels& kernels)
        : kernels_(kernels), n_heads_(positive(attributes, "n_heads")), scale_(attributes.number("scale")) {}

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

// aurora::MergeTokens: see plugins/merge/README.md.
struct MergeTokensOp {
    static constexpr const char* NAME = "MergeTokens";
    static constexpr std::size_t N_INPUTS = 4, N_OUTPUTS = 3;
    static constexpr int STATE_INPUT = -1, STATE_OUTPUT = -1;
    static ort::ElementType input_type(std::size_t i) { return i == 3 ? ort::INT64 : ort::FLOAT; }
    static ort::ElementType output_type(std::size_t i) { return i == 2 ? ort::INT64 : ort::FLOAT; }

    MergeTokensOp(const Attributes& attributes, const Kernels& kernels) : kernels_(kernels) {
        all_.n_merged = positive(attributes, "r");
        all_.protect_first = attributes.integer("protect_first") != 0;
        all_.first_apart = attributes.integer("first_apart") != 0;
        const std::int64_t order = attributes.integer("order");
        if (order < -1 || order > 1) refuse(attributes.api(), "order is " + std::to_string(order) + ", not -1, 0 or 1");
        all_.order = static_cast<int>(order);
    }

    void compute(const Context& context) const {
        const Shape x = context.shape(0), metric = context.shape(1), owner = context.shape(3);
        const std::int64_t r = static_cast<std::int64_t>(all_.n_merged), n_kept = all_.protect_first || all_.first_apart;
        if (x.size() != 3 || (x[1] - n_kept) / 2 < r)
            refuse(context.api(), "x has shape " + text_of(x) + ", not (F, T, D) with tokens to merge " + std::to_string(r));
        if (metric.size() != 3) refuse(context.api(), "metric has shape " + text_of(metric) + ", not (F, T, M)");
        if (owner.size() != 2) refuse(context.api(), "owner has shape " + text_of(owner) + ", not (F, P)");
        const std::int64_t F = x[0], T = x[1];
        const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
        MergeTokens all = all_;
        all.n_frames = size(F), all.n_tokens = size(T), all.width = size(x[2]);
        all.metric_size = size(metric[2]), all.n_patches = size(owner[1]);
        all.x = context.data<float>(0);
        all.metric = context.data<float>(1, "metric", {F, T, metric[2]});
        all.sizes = context.data<float>(2, "sizes", {F, T});
        all.owner = context.data<std::int64_t>(3, "owner", {F, owner[1]});
        if (const char* wrong = wrong_tokens(all)) refuse(context.api(), wrong);
        all.merged = context.output(0, {F, T - r, x[2]});
        all.merged_sizes = context.output(1, {F, T - r});
        all.merged_owner = context.output<std::int64_t>(2, owner);
        merge_tokens(kernels_, all, context.parallel());
    }

private:
    const Kernels& kernels_;
    MergeTokens all_{};
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
    static const CpuOp<HeadsAttentionOp> heads_attention;
    static const CpuOp<MergeTokensOp> merge_tokens;
    static const CpuOp<TimeMixInputs6<true>> time_mix_inputs_6_int8;
    static const CpuOp<TimeMixInputs6<false>> time_mix_inputs_6;  // of bundles before format 1.3
    static const CpuOp<HeadNormGate6> head_norm_gate_6;
    static const CpuOp<ChannelMixInputs6> channel_mix_inputs_6;
    static const CpuOp<ReluSquare> relu_square;
    static const CpuOp<ChannelMixOutput6> channel_mix_output_6;
    static const ort::CustomOp* const all[] = {&wkv6,
                                               &wkv7,
                                               &block_linear,
                                               &heads_attention,
                                               &merge_tokens,
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
