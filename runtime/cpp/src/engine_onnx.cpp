// Both graphs on ONNX Runtime. Mirrors runtime/engine_onnx.py.
#include <algorithm>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "contract.h"
#include "cuda_memory.h"
#include "engine.h"
#include "engine_onnx_cuda.h"
#include "error.h"
#include "onnxruntime_library.h"

extern "C" const char* aurora_cpu_level(const char** error);

namespace aurora {
namespace {

using Dimensions = std::vector<std::int64_t>;
using Options = Owned<OrtSessionOptions, ort::ReleaseSessionOptions>;
using Graph = Owned<OrtSession, ort::ReleaseSession>;
using Memory = Owned<OrtMemoryInfo, ort::ReleaseMemoryInfo>;
using Value = Owned<OrtValue, ort::ReleaseValue>;
using Binding = Owned<OrtIoBinding, ort::ReleaseIoBinding>;
using TypeInfo = Owned<OrtTypeInfo, ort::ReleaseTypeInfo>;

// One input or output; a size of -1 is free at run time.
struct Tensor {
    std::string name, type;
    Dimensions shape;
};

// The shape of the contract, with `free` for each letter.
Dimensions dimensions(const TensorSpec& spec, std::int64_t free) {
    Dimensions shape;
    for (const Size& size : spec.shape) {
        const auto* fixed = std::get_if<std::int64_t>(&size);
        shape.push_back(fixed == nullptr ? free : *fixed);
    }
    return shape;
}

std::string shape_text(const Dimensions& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i)
        text += (i ? ", " : "") + (shape[i] < 0 ? std::string("free") : std::to_string(shape[i]));
    return text + "]";
}

std::string type_name(int type) {
    if (type == ort::FLOAT) return "float32";
    if (type == ort::UINT8) return "uint8";
    if (type == ort::INT32) return "int32";
    return "type " + std::to_string(type);
}

std::string text_of(const Tensor& tensor) { return tensor.type + " " + shape_text(tensor.shape); }

// An opened graph, what it was made with, and what it says of itself.
struct OpenGraph {
    // Opens a graph and compares its inputs and outputs with the contract.
    OpenGraph(const OnnxRuntime& runtime, const GraphFile& file, const EngineOptions& options)
        : runtime(runtime), path(file.path), spec(file.spec), graph(runtime.api()) {
        Options made(runtime.api());
        runtime.check(ort::CreateSessionOptions::call(runtime.api(), made.out()), "session options");
        // ONNX Runtime's warnings are about its own optimiser, not about anything a user can change.
        runtime.check(ort::SetSessionLogSeverityLevel::call(runtime.api(), made.get(), ort::LOG_ERROR), "session options");
        if (options.n_threads > 0)
            runtime.check(ort::SetIntraOpNumThreads::call(runtime.api(), made.get(), options.n_threads), "n_threads");
        // What QuantizeLinear and DequantizeLinear say, neither more nor less: by itself ONNX Runtime would round the
        // activations of layers too whose weights alone are quantized, and has no products of 8-bit floats.
        add_entry(made, "session.qdq_matmulnbits_accuracy_level", "1");
        if (options.emulated) add_entry(made, "session.disable_quant_qdq", "1");
        // By itself a thread that has nothing to do burns its core for 20 ms and more, beside the one that opens the next
        // graph, or decodes the next frame. Between the operators of a run are microseconds. Before 1.26 nothing reads it.
        add_entry(made, "session.intra_op.spin_duration_us", "1000");
        if (options.cuda) append_cuda_provider(runtime, made.get(), options.gpu);
        // Operators replace the functions of the same names in a graph.
        if (options.native_operators && options.cuda) register_cuda_operators(runtime, made.get());
        if (options.native_operators && !options.cuda)
            runtime.check(RegisterCustomOps(made.get(), runtime.base()), "native operators");
        OrtStatus* status = ort::CreateSession::call(runtime.api(), runtime.env(), path.c_str(), made.get(), graph.out());
        try {
            runtime.check(status, path);
        } catch (const Error& error) {
            if (error.status() != Status::unexpected) throw;
            const std::string text = std::string(error.what()).substr(path.size() + 2);
            throw Error(Status::integrity, path + ": ONNX Runtime cannot open this graph: " + text, "build the bundle again");
        }
        const std::string found = differences();
        if (!found.empty())
            throw Error(Status::incompatible, path + ": the graph is not as the contract says: " + found,
                        "build the bundle again with this version of aurora-export");
    }

    void add_entry(const Options& made, const char* key, const char* value) const {
        runtime.check(ort::AddSessionConfigEntry::call(runtime.api(), made.get(), key, value), "session options");
    }

    // What it has otherwise than the contract; empty if nothing.
    std::string differences() const {
        std::string text;
        for (const bool is_input : {true, false}) {
            const char* kind = is_input ? "input " : "output ";
            std::vector<Tensor> found = tensors(is_input);
            for (const TensorSpec& expected : is_input ? spec.inputs : spec.outputs) {
                const Tensor want{expected.name, expected.dtype, dimensions(expected, -1)};
                std::size_t i = 0;
                while (i < found.size() && found[i].name != want.name) ++i;
                std::string difference;
                if (i == found.size()) {
                    difference = want.name + " is missing";
                } else {
                    if (found[i].type != want.type || found[i].shape != want.shape)
                        difference = want.name + " is " + text_of(found[i]) + ", expected " + text_of(want);
                    found.erase(found.begin() + static_cast<std::ptrdiff_t>(i));
                }
                if (!difference.empty()) text += (text.empty() ? "" : "; ") + (kind + difference);
            }
            for (const Tensor& extra : found) text += (text.empty() ? "" : "; ") + (kind + extra.name + " is unknown");
        }
        return text;
    }

    std::vector<Tensor> tensors(bool is_input) const {
        const OrtTable api = runtime.api();
        std::size_t n = 0;
        runtime.check(is_input ? ort::SessionGetInputCount::call(api, graph.get(), &n)
                               : ort::SessionGetOutputCount::call(api, graph.get(), &n), path);
        std::vector<Tensor> all(n);
        for (std::size_t i = 0; i < n; ++i) {
            OrtAllocator* allocator = nullptr;
            char* name = nullptr;
            runtime.check(ort::GetAllocatorWithDefaultOptions::call(api, &allocator), path);
            runtime.check(is_input ? ort::SessionGetInputName::call(api, graph.get(), i, allocator, &name)
                                   : ort::SessionGetOutputName::call(api, graph.get(), i, allocator, &name), path);
            all[i].name = name;
            runtime.check(ort::AllocatorFree::call(api, allocator, name), path);
            TypeInfo type_info(api);
            runtime.check(is_input ? ort::SessionGetInputTypeInfo::call(api, graph.get(), i, type_info.out())
                                   : ort::SessionGetOutputTypeInfo::call(api, graph.get(), i, type_info.out()), path);
            const OrtTensorTypeAndShapeInfo* info = nullptr;
            runtime.check(ort::CastTypeInfoToTensorInfo::call(api, type_info.get(), &info), path);
            if (info == nullptr) throw Error(Status::incompatible, path + ": " + all[i].name + " is no tensor");
            int type = 0;
            runtime.check(ort::GetTensorElementType::call(api, info, &type), path);
            all[i].type = type_name(type);
            std::size_t n_dimensions = 0;
            runtime.check(ort::GetDimensionsCount::call(api, info, &n_dimensions), path);
            all[i].shape.resize(n_dimensions);
            runtime.check(ort::GetDimensions::call(api, info, all[i].shape.data(), n_dimensions), path);
        }
        return all;
    }

    const OnnxRuntime& runtime;
    std::string path;
    GraphSpec spec;
    Graph graph;
};

// Buffers bound to inputs and outputs once, so that a run allocates nothing of ours.
class Buffers {
public:
    Buffers(const OpenGraph& graph, const OrtMemoryInfo* memory) : graph_(graph), memory_(memory), binding_(api()) {
        check(ort::CreateIoBinding::call(api(), graph_.graph.get(), binding_.out()));
    }

    template <typename T>
    void bind_input(const char* name, T* data, const Dimensions& shape) {
        bind(name, data, sizeof(T), type_of(data), shape, true);
    }
    template <typename T>
    void bind_output(const char* name, T* data, const Dimensions& shape) {
        bind(name, data, sizeof(T), type_of(data), shape, false);
    }
    void run() const { check(ort::RunWithBinding::call(api(), graph_.graph.get(), nullptr, binding_.get())); }

private:
    static int type_of(const float*) { return ort::FLOAT; }
    static int type_of(const std::uint8_t*) { return ort::UINT8; }
    static int type_of(const std::int32_t*) { return ort::INT32; }
    OrtTable api() const { return graph_.runtime.api(); }
    void check(OrtStatus* status) const { graph_.runtime.check(status, graph_.path); }

    // The binding holds the value; the value is on our memory.
    void bind(const char* name, void* data, std::size_t element, int type, const Dimensions& shape, bool is_input) {
        std::size_t n_bytes = element;
        for (const std::int64_t size : shape) n_bytes *= static_cast<std::size_t>(size);
        Value value(api());
        check(ort::CreateTensorWithDataAsOrtValue::call(api(), memory_, data, n_bytes, shape.data(), shape.size(), type,
                                                        value.out()));
        check(is_input ? ort::BindInput::call(api(), binding_.get(), name, value.get())
                       : ort::BindOutput::call(api(), binding_.get(), name, value.get()));
    }

    const OpenGraph& graph_;
    const OrtMemoryInfo* memory_;
    Binding binding_;
};

class OnnxVision : public Vision {
public:
    OnnxVision(const OpenGraph& graph, const OrtMemoryInfo* memory, const GraphSizes& sizes)
        : frame_(sizes.frame_bytes()), tokens_(sizes.n_kept * sizes.width), sizes_(sizes.n_kept),
          token_of_patch_(sizes.n_patches), buffers_(graph, memory) {
        const GraphSpec& spec = graph.spec;
        buffers_.bind_input(FRAMES, frame_.data(), dimensions(spec.inputs[0], 1));
        buffers_.bind_output(VISUAL_TOKENS, tokens_.data(), dimensions(spec.outputs[0], 1));
        buffers_.bind_output(TOKEN_SIZES, sizes_.data(), dimensions(spec.outputs[1], 1));
        buffers_.bind_output(TOKEN_OF_PATCH, token_of_patch_.data(), dimensions(spec.outputs[2], 1));
    }
    std::uint8_t* frame() override { return frame_.data(); }
    void run() override { buffers_.run(); }
    const float* visual_tokens() const override { return tokens_.data(); }
    const std::int32_t* token_sizes() const override { return sizes_.data(); }
    const std::int32_t* token_of_patch() const override { return token_of_patch_.data(); }

private:
    std::vector<std::uint8_t> frame_;
    std::vector<float> tokens_;
    std::vector<std::int32_t> sizes_, token_of_patch_;
    Buffers buffers_;
};

// Two sets of state buffers, read and written in turn; for each direction a binding for chunks and one for single tokens.
class OnnxLoop : public Loop {
public:
    OnnxLoop(const OpenGraph& graph, const OrtMemoryInfo* memory, const GraphSizes& sizes)
        : width_(sizes.width), input_(static_cast<std::size_t>(MAX_CHUNK_TOKENS) * sizes.width), logits_(sizes.vocabulary_size) {
        for (auto& set : sets_)
            for (std::size_t i = 0; i < 3; ++i) set[i].resize(sizes.state_floats()[i]);
        bindings_.reserve(4);
        for (std::size_t i = 0; i < 4; ++i) {
            bindings_.emplace_back(graph, memory);
            auto &from = sets_[i / 2], &to = sets_[1 - i / 2];
            for (std::size_t j = 0; j < 3; ++j) {
                const Dimensions shape = dimensions(graph.spec.inputs[1 + j], 1);
                bindings_[i].bind_input(STATE_NAMES[j], from[j].data(), shape);
                bindings_[i].bind_output(NEXT_STATE_NAMES[j], to[j].data(), shape);
            }
            bindings_[i].bind_output(LOGITS, logits_.data(), {1, static_cast<std::int64_t>(logits_.size())});
        }
    }

    float* input() override { return input_.data(); }

    void feed(std::size_t n_tokens) override {
        const std::size_t i = 2 * current_ + (n_tokens == 1 ? 0 : 1);
        if (n_bound_[i] != n_tokens) {
            bindings_[i].bind_input(EMBEDDINGS, input_.data(),
                                    {1, static_cast<std::int64_t>(n_tokens), static_cast<std::int64_t>(width_)});
            n_bound_[i] = n_tokens;
        }
        bindings_[i].run();
        current_ = 1 - current_;
    }

    const float* logits() override { return logits_.data(); }

    void read_state(const std::array<float*, 3>& arrays) const override {
        for (std::size_t i = 0; i < 3; ++i) std::copy(sets_[current_][i].begin(), sets_[current_][i].end(), arrays[i]);
    }

    void write_state(const std::array<const float*, 3>& arrays) override {
        for (std::size_t i = 0; i < 3; ++i) std::copy_n(arrays[i], sets_[current_][i].size(), sets_[current_][i].begin());
    }

private:
    std::size_t width_;
    std::vector<float> input_, logits_;
    std::array<std::array<std::vector<float>, 3>, 2> sets_;
    std::vector<Buffers> bindings_;
    std::array<std::size_t, 4> n_bound_{};  // tokens that a binding's input has now
    std::size_t current_ = 0;
};

// y = Identity(x), opset 17, as a ModelProto.
constexpr std::string_view IDENTITY =
    "\x08\x08:+\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01gZ\t\n\x01x\x12\x04\n\x02\x08\x01" "b\t\n\x01y\x12\x04\n\x02\x08\x01"
    "B\x02\x10\x11";

// Lets ONNX Runtime note the domain of our operators. It does so in a table of the whole process, when the first session
// with them is made, and without a lock: of two first ones at once, one fails (its issue 22663).
void note_domain(const OnnxRuntime& runtime) {
    Options made(runtime.api());
    Graph graph(runtime.api());
    runtime.check(ort::CreateSessionOptions::call(runtime.api(), made.out()), "session options");
    runtime.check(ort::SetIntraOpNumThreads::call(runtime.api(), made.get(), 1), "session options");
    runtime.check(RegisterCustomOps(made.get(), runtime.base()), "native operators");
    runtime.check(ort::CreateSessionFromArray::call(runtime.api(), runtime.env(), IDENTITY.data(), IDENTITY.size(), made.get(),
                                                    graph.out()), "native operators");
}

struct OpenGraphs {
    std::unique_ptr<OpenGraph> vision, language;
};

// On a CPU both at once, where there is a second thread for it. Errors are those of one after the other: vision's first.
OpenGraphs open_graphs(const OnnxRuntime& runtime, const GraphFile& vision, const GraphFile& language,
                       const EngineOptions& options) {
    static std::mutex first_session;
    std::unique_lock<std::mutex> alone(first_session);
    if (!options.cuda) {
        if (options.native_operators) note_domain(runtime);
        alone.unlock();
    }
    const auto open = [&](const GraphFile& file) { return std::make_unique<OpenGraph>(runtime, file, options); };
    std::future<std::unique_ptr<OpenGraph>> beside;  // its destructor waits, should vision throw
    try {
        if (options.n_threads != 1 && !options.cuda) beside = std::async(std::launch::async, open, std::cref(language));
    } catch (const std::system_error&) {
        // No thread to be had: this one opens both.
    }
    OpenGraphs graphs;
    graphs.vision = open(vision);
    graphs.language = beside.valid() ? beside.get() : open(language);
    return graphs;
}

class OnnxEngine : public Engine {
public:
    OnnxEngine(const GraphFile& vision, const GraphFile& language, const GraphSizes& sizes, const EngineOptions& options)
        : sizes_(sizes), backend_(options.cuda ? "onnxruntime-cuda" : "onnxruntime-cpu"), runtime_(options.library),
          memory_(runtime_.api()), graphs_(open_graphs(runtime_, vision, language, options)) {
        if (options.cuda) cuda_.emplace(options.gpu);
        runtime_.check(ort::CreateCpuMemoryInfo::call(runtime_.api(), ort::ARENA_ALLOCATOR, ort::MEMORY_DEFAULT, memory_.out()),
                        "memory");
    }

    const std::string& backend() const override { return backend_; }
    const Cuda* cuda() const override { return cuda_ ? &*cuda_ : nullptr; }
    std::string version() const override { return "ONNX Runtime " + runtime_.version(); }
    std::unique_ptr<Vision> open_vision() const override {
        return std::make_unique<OnnxVision>(*graphs_.vision, memory_.get(), sizes_);
    }
    std::unique_ptr<Loop> open_loop() const override {
        return std::make_unique<OnnxLoop>(*graphs_.language, memory_.get(), sizes_);
    }

private:
    GraphSizes sizes_;
    std::string backend_;
    std::optional<Cuda> cuda_;
    OnnxRuntime runtime_;  // before everything that was made with it
    Memory memory_;
    OpenGraphs graphs_;
};

}  // namespace

std::string native_level() {
    const char* error = nullptr;
    const char* level = aurora_cpu_level(&error);
    if (level == nullptr) throw Error(Status::usage, error, "unset AURORA_CPU_LEVEL");
    return level;
}

std::unique_ptr<Engine> open_onnx_engine(const GraphFile& vision, const GraphFile& language, const GraphSizes& sizes,
                                         const EngineOptions& options) {
    if (options.native_operators && !options.cuda) native_level();
    return std::make_unique<OnnxEngine>(vision, language, sizes, options);
}

}  // namespace aurora
