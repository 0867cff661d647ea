// Both graphs on ONNX Runtime, which is loaded when a model is opened. Mirrors runtime/engine_onnx.py.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "contract.h"
#include "cuda_memory.h"
#include "engine.h"
#include "error.h"
#include "ort_session_api.h"

extern "C" const char* aurora_cpu_level(const char** error);

namespace aurora {
namespace {

using Table = const void* const*;
using Dimensions = std::vector<std::int64_t>;

constexpr const char* INSTALL_HINT =
    "install ONNX Runtime 1.18 or newer and name its libonnxruntime.so in the option onnxruntime_library or in "
    "AURORA_ONNXRUNTIME; the PyPI package onnxruntime holds one in onnxruntime/capi";

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// ONNX Runtime as it was found. It is never unloaded: its threads and exit handlers may outlive every session.
struct Runtime {
    const ort::ApiBase* base = nullptr;
    Table api = nullptr;
    std::string version;

    explicit Runtime(const std::string& path) {
        std::vector<std::string> candidates{path};
        const char* named = std::getenv("AURORA_ONNXRUNTIME");
        if (path.empty()) {
            candidates.clear();
            if (named != nullptr && *named != '\0')
                candidates.emplace_back(named);
            else
                candidates = {"libonnxruntime.so.1", "libonnxruntime.so"};
        }
        void* library = nullptr;
        std::string reason;
        for (const std::string& candidate : candidates) {
            library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
            if (library != nullptr) break;
            const char* error = dlerror();
            if (reason.empty()) reason = error == nullptr ? candidate : error;
        }
        if (library == nullptr) throw Error(Status::dependency, "ONNX Runtime cannot be loaded: " + reason, INSTALL_HINT);
        void* symbol = dlsym(library, "OrtGetApiBase");
        const std::string name = candidates.size() == 1 ? candidates[0] : "libonnxruntime";
        dlclose(library);  // it stays, see above; so does the symbol
        if (symbol == nullptr) throw Error(Status::dependency, name + " is not ONNX Runtime", INSTALL_HINT);
        const ort::ApiBase* (*get_base)();
        static_assert(sizeof get_base == sizeof symbol, "pointers to functions fit in void*");
        std::memcpy(&get_base, &symbol, sizeof get_base);
        base = get_base();
        version = base->get_version();
        api = base->get_api(ort::MIN_VERSION);
        if (api == nullptr)
            throw Error(Status::dependency, name + " is ONNX Runtime " + version + "; 1.18 or newer is needed", INSTALL_HINT);
    }

    // Throws what a status says; `what` begins the message.
    void check(OrtStatus* status, const std::string& what) const {
        if (status == nullptr) return;
        const int code = ort::GetErrorCode::call(api, status);
        const std::string text = ort::GetErrorMessage::call(api, status);
        ort::ReleaseStatus::call(api, status);
        const std::string lower = lower_case(text);
        if (lower.find("bad_alloc") != std::string::npos || lower.find("failed to allocate memory") != std::string::npos)
            throw Error(Status::resources, "ONNX Runtime ran out of memory: " + first_line(text),
                        "close other programs, or use a smaller model");
        if (code == ort::NOT_IMPLEMENTED)
            throw Error(Status::incompatible,
                        what + ": ONNX Runtime " + version + " lacks an operator of this graph: " + first_line(text),
                        "install a newer ONNX Runtime");
        throw Error(Status::unexpected, what + ": " + first_line(text));
    }

    static std::string lower_case(std::string text) {
        for (char& c : text)
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        return text;
    }
};

// Owns one object of ONNX Runtime.
template <typename T, typename Release>
class Owned {
public:
    explicit Owned(Table api) : api_(api) {}
    Owned(Owned&& other) noexcept : api_(other.api_), pointer_(std::exchange(other.pointer_, nullptr)) {}
    Owned& operator=(Owned&& other) noexcept {
        std::swap(api_, other.api_);
        std::swap(pointer_, other.pointer_);
        return *this;
    }
    ~Owned() {
        if (pointer_ != nullptr) Release::call(api_, pointer_);
    }
    T* get() const { return pointer_; }
    T** out() { return &pointer_; }

private:
    Table api_;
    T* pointer_ = nullptr;
};
using Env = Owned<OrtEnv, ort::ReleaseEnv>;
using Options = Owned<OrtSessionOptions, ort::ReleaseSessionOptions>;
using Graph = Owned<OrtSession, ort::ReleaseSession>;
using Memory = Owned<OrtMemoryInfo, ort::ReleaseMemoryInfo>;
using Value = Owned<OrtValue, ort::ReleaseValue>;
using Binding = Owned<OrtIoBinding, ort::ReleaseIoBinding>;
using TypeInfo = Owned<OrtTypeInfo, ort::ReleaseTypeInfo>;
using CudaOptions = Owned<OrtCUDAProviderOptionsV2, ort::ReleaseCudaProviderOptions>;

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
    OpenGraph(const Runtime& runtime, const OrtEnv* env, const std::string& path, const GraphSpec& spec,
              const EngineOptions& options)
        : runtime(runtime), path(path), spec(spec), graph(runtime.api) {
        Options made(runtime.api);
        runtime.check(ort::CreateSessionOptions::call(runtime.api, made.out()), "session options");
        // ONNX Runtime's warnings are about its own optimiser, not about anything a user can change.
        runtime.check(ort::SetSessionLogSeverityLevel::call(runtime.api, made.get(), ort::LOG_ERROR), "session options");
        if (options.n_threads > 0)
            runtime.check(ort::SetIntraOpNumThreads::call(runtime.api, made.get(), options.n_threads), "n_threads");
        // What QuantizeLinear and DequantizeLinear say, neither more nor less: by itself ONNX Runtime would round the
        // activations of layers too whose weights alone are quantized, and has no products of 8-bit floats.
        add_entry(made, "session.qdq_matmulnbits_accuracy_level", "1");
        if (options.emulated) add_entry(made, "session.disable_quant_qdq", "1");
        if (options.cuda) append_cuda(made, options.gpu);
        // They are for the CPU, and replace the functions of the same names in a graph.
        if (options.native_operators && !options.cuda)
            runtime.check(RegisterCustomOps(made.get(), runtime.base), "native operators");
        OrtStatus* status = ort::CreateSession::call(runtime.api, env, path.c_str(), made.get(), graph.out());
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
        runtime.check(ort::AddSessionConfigEntry::call(runtime.api, made.get(), key, value), "session options");
    }

    void append_cuda(const Options& made, int gpu) const {
        CudaOptions cuda(runtime.api);
        OrtStatus* status = ort::CreateCudaProviderOptions::call(runtime.api, cuda.out());
        // TF32 is off: merging compares similarities, and the recurrence sums for long.
        const std::string index = std::to_string(gpu);
        const char *keys[] = {"device_id", "use_tf32"}, *values[] = {index.c_str(), "0"};
        if (status == nullptr) status = ort::UpdateCudaProviderOptions::call(runtime.api, cuda.get(), keys, values, 2);
        if (status == nullptr) status = ort::AppendCudaProvider::call(runtime.api, made.get(), cuda.get());
        try {
            runtime.check(status, "CUDA");
        } catch (const Error& error) {
            throw Error(Status::dependency, std::string("ONNX Runtime cannot use a GPU: ") + error.what(),
                        "install onnxruntime-gpu with its CUDA libraries, or use the CPU");
        }
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
        const Table api = runtime.api;
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

    const Runtime& runtime;
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
    Table api() const { return graph_.runtime.api; }
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

class OnnxEngine : public Engine {
public:
    OnnxEngine(const GraphFile& vision, const GraphFile& language, const GraphSizes& sizes, const EngineOptions& options)
        : sizes_(sizes), backend_(options.cuda ? "onnxruntime-cuda" : "onnxruntime-cpu"), runtime_(options.library),
          env_(made_env()), memory_(runtime_.api), vision_(runtime_, env_.get(), vision.path, vision.spec, options),
          language_(runtime_, env_.get(), language.path, language.spec, options) {
        if (options.cuda) cuda_.emplace(options.gpu);
        runtime_.check(ort::CreateCpuMemoryInfo::call(runtime_.api, ort::ARENA_ALLOCATOR, ort::MEMORY_DEFAULT, memory_.out()),
                       "memory");
    }

    const std::string& backend() const override { return backend_; }
    const Cuda* cuda() const override { return cuda_ ? &*cuda_ : nullptr; }
    std::string version() const override { return "ONNX Runtime " + runtime_.version; }
    std::unique_ptr<Vision> open_vision() const override {
        return std::make_unique<OnnxVision>(vision_, memory_.get(), sizes_);
    }
    std::unique_ptr<Loop> open_loop() const override {
        return std::make_unique<OnnxLoop>(language_, memory_.get(), sizes_);
    }

private:
    Env made_env() const {
        Env env(runtime_.api);
        runtime_.check(ort::CreateEnv::call(runtime_.api, ort::LOG_ERROR, "aurora", env.out()), "environment");
        return env;
    }

    GraphSizes sizes_;
    std::string backend_;
    std::optional<Cuda> cuda_;
    Runtime runtime_;
    Env env_;
    Memory memory_;
    OpenGraph vision_, language_;
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
