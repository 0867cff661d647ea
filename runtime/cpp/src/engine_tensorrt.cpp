// Both graphs as engines of TensorRT: buffers on the GPU, a state that stays there, the step as a CUDA graph.
// Mirrors runtime/engine_tensorrt.py, whose first lines draw the two streams: feed() returns when the work is enqueued, so
// the next frame is resized and encoded while the GPU still reads this one.
// Tested against stand-ins for TensorRT and CUDA; never run on a GPU so far.
#include <optional>

#include "engine.h"
#include "engine_files.h"
#include "error.h"
#include "tensorrt_library.h"

namespace aurora {

#ifndef AURORA_TENSORRT

std::unique_ptr<Engine> open_tensorrt_engine(const std::string&, const Manifest&, const GraphSizes&, const EngineOptions&) {
    throw Error(Status::unsupported, "this libaurora was compiled without TensorRT's headers, and has no TensorRT backend",
                "compile it where they are (-DTENSORRT_ROOT=/path/to/TensorRT, see docs/EMBEDDING.md), or use the device cpu or cuda");
}

#else

namespace {

constexpr int STEP = 0, PREFILL = 1;  // profiles of a language engine

// The shape of the contract, with `free` for each letter.
nvinfer1::Dims dims(const TensorSpec& spec, std::int64_t free) {
    nvinfer1::Dims shape{};
    shape.nbDims = static_cast<std::int32_t>(spec.shape.size());
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
        const auto* fixed = std::get_if<std::int64_t>(&spec.shape[i]);
        shape.d[i] = fixed == nullptr ? free : *fixed;
    }
    return shape;
}

class TensorRtVision : public Vision {
public:
    TensorRtVision(TensorRtGraph& graph, const GraphSizes& sizes)
        : TensorRtVision(graph, Cuda::Current(graph.cuda()),
                         {{sizes.frame_bytes(), sizes.n_kept * sizes.width * sizeof(float), sizes.n_kept * sizeof(std::int32_t),
                           sizes.n_patches * sizeof(std::int32_t)}}) {}

    std::uint8_t* frame() override { return host_[0].as<std::uint8_t>(); }

    void run() override {
        const Cuda::Current current(graph_.cuda());
        const Stream& stream = graph_.stream();
        try {
            const std::lock_guard<std::mutex> lock(graph_.mutex());
            stream.copy_in(device_[0].address(), host_[0].as<void>(), host_[0].n_bytes());
            graph_.execute(STEP, tensors_);
            for (std::size_t i = 1; i < host_.size(); ++i)
                stream.copy_out(host_[i].as<void>(), device_[i].address(), host_[i].n_bytes());
            stream.record(done_);
        } catch (...) {
            stream.wait_quietly();  // the frame may be filled again, or go
            throw;
        }
        done_.wait();
    }

    const float* visual_tokens() const override { return host_[1].as<float>(); }
    const std::int32_t* token_sizes() const override { return host_[2].as<std::int32_t>(); }
    const std::int32_t* token_of_patch() const override { return host_[3].as<std::int32_t>(); }

private:
    TensorRtVision(TensorRtGraph& graph, const Cuda::Current&, const std::array<std::size_t, 4>& n_bytes)
        : graph_(graph), done_(graph.cuda()) {
        const GraphSpec& spec = graph.spec();
        for (std::size_t i = 0; i < n_bytes.size(); ++i) {
            device_.emplace_back(graph.cuda(), n_bytes[i]);
            host_.emplace_back(graph.cuda(), n_bytes[i]);
            const TensorSpec& tensor = i == 0 ? spec.inputs[0] : spec.outputs[i - 1];
            tensors_.push_back({tensor.name.c_str(), device_[i].address(), i == 0, dims(tensor, 1)});
        }
    }

    TensorRtGraph& graph_;
    std::vector<DeviceArray> device_;  // frame, visual_tokens, token_sizes, token_of_patch
    std::vector<PinnedArray> host_;
    std::vector<BoundTensor> tensors_;
    Event done_;
};

// The arrays of one recurrence: two sets of states, read and written in turn, and what goes in and comes out. Embeddings
// wait in one of two pinned arrays until the stream has copied them, while the other one is filled.
struct LoopBuffers {
    LoopBuffers(const TensorRtGraph& graph, const GraphSizes& sizes)
        : cuda(graph.cuda()), n_bytes{sizes.state_floats()[0] * sizeof(float), sizes.state_floats()[1] * sizeof(float),
                                      sizes.state_floats()[2] * sizeof(float)},
          token_bytes(sizes.width * sizeof(float)), embeddings(cuda, MAX_CHUNK_TOKENS * token_bytes),
          logits(cuda, sizes.vocabulary_size * sizeof(float)), host_logits(cuda, logits.n_bytes()), done(cuda) {
        for (std::size_t i = 0; i < 2; ++i) {
            for (std::size_t j = 0; j < N_STATES; ++j) sets[i].emplace_back(cuda, n_bytes[j]);
            host_embeddings.emplace_back(cuda, embeddings.n_bytes());
            copied.emplace_back(cuda);
        }
        const GraphSpec& spec = graph.spec();
        for (std::size_t i = 0; i < 2; ++i) {
            tensors[i].push_back({EMBEDDINGS, embeddings.address(), true, dims(spec.inputs[0], 1)});
            tensors[i].push_back({LOGITS, logits.address(), false, dims(spec.outputs[0], 1)});
            for (std::size_t j = 0; j < N_STATES; ++j) {
                tensors[i].push_back({STATE_NAMES[j], sets[i][j].address(), true, dims(spec.inputs[1 + j], 1)});
                tensors[i].push_back({NEXT_STATE_NAMES[j], sets[1 - i][j].address(), false, dims(spec.inputs[1 + j], 1)});
            }
        }
    }

    const Cuda& cuda;
    std::array<std::size_t, N_STATES> n_bytes;
    std::size_t token_bytes;
    std::array<std::vector<DeviceArray>, 2> sets;
    DeviceArray embeddings, logits;
    std::vector<PinnedArray> host_embeddings;
    std::vector<Event> copied;
    PinnedArray host_logits;
    Event done;
    std::array<std::vector<BoundTensor>, 2> tensors;    // for the direction away from each set
    std::array<std::optional<CapturedWork>, 2> steps;   // of the two directions
    bool can_capture = true, has_stepped = false;
};

// Buffers of loops that are gone, with what was captured over them: nobody uses them any more.
struct FreeBuffers {
    std::mutex mutex;
    std::vector<std::unique_ptr<LoopBuffers>> buffers;
};

class TensorRtLoop : public Loop {
public:
    TensorRtLoop(TensorRtGraph& graph, const GraphSizes& sizes, FreeBuffers& free) : graph_(graph), free_(free) {
        {
            const std::lock_guard<std::mutex> lock(free.mutex);
            if (!free.buffers.empty()) {
                buffers_ = std::move(free.buffers.back());
                free.buffers.pop_back();
            }
        }
        const Cuda::Current current(graph.cuda());
        if (buffers_ == nullptr) buffers_ = std::make_unique<LoopBuffers>(graph, sizes);
        const std::vector<float> zeros(buffers_->n_bytes[2] / sizeof(float) + buffers_->n_bytes[0] / sizeof(float));
        write_state({zeros.data(), zeros.data(), zeros.data()});
    }

    ~TensorRtLoop() override {
        try {
            const std::lock_guard<std::mutex> lock(free_.mutex);
            free_.buffers.push_back(std::move(buffers_));
        } catch (...) {
            graph_.stream().wait_quietly();  // without memory to keep them, they go
        }
    }

    float* input() override {
        if (!is_input_free_) {
            const Cuda::Current current(graph_.cuda());
            buffers_->copied[turn_].wait();
            is_input_free_ = true;
        }
        return buffers_->host_embeddings[turn_].as<float>();
    }

    void feed(std::size_t n_tokens) override {
        if (n_tokens < 1 || n_tokens > MAX_CHUNK_TOKENS)
            throw Error(Status::unexpected, std::to_string(n_tokens) + " tokens in one run; 1 to " +
                                                std::to_string(MAX_CHUNK_TOKENS) + " are possible");
        const Cuda::Current current(graph_.cuda());
        const std::lock_guard<std::mutex> lock(graph_.mutex());
        LoopBuffers& buffers = *buffers_;
        is_input_free_ = false;
        graph_.stream().copy_in(buffers.embeddings.address(), buffers.host_embeddings[turn_].as<void>(), n_tokens * buffers.token_bytes);
        graph_.stream().record(buffers.copied[turn_]);
        if (n_tokens == 1)
            step();
        else
            execute(graph_.n_profiles() > 1 ? PREFILL : STEP, n_tokens);
        turn_ = 1 - turn_, current_ = 1 - current_;
        has_logits_ = false;
    }

    const float* logits() override {
        if (!has_logits_) {
            const Cuda::Current current(graph_.cuda());
            {
                const std::lock_guard<std::mutex> lock(graph_.mutex());
                graph_.stream().copy_out(buffers_->host_logits.as<void>(), buffers_->logits.address(), buffers_->logits.n_bytes());
                graph_.stream().record(buffers_->done);
            }
            buffers_->done.wait();
            has_logits_ = true;
        }
        return buffers_->host_logits.as<float>();
    }

    void read_state(const std::array<float*, 3>& arrays) const override {
        const Cuda::Current current(graph_.cuda());
        const std::lock_guard<std::mutex> lock(graph_.mutex());
        for (std::size_t i = 0; i < N_STATES; ++i)
            graph_.stream().copy_out(arrays[i], buffers_->sets[current_][i].address(), buffers_->n_bytes[i]);
        graph_.stream().wait();
    }

    void write_state(const std::array<const float*, 3>& arrays) override {
        const Cuda::Current current(graph_.cuda());
        const std::lock_guard<std::mutex> lock(graph_.mutex());
        for (std::size_t i = 0; i < N_STATES; ++i)
            graph_.stream().copy_in(buffers_->sets[current_][i].address(), arrays[i], buffers_->n_bytes[i]);
        graph_.stream().wait();
    }

private:
    // Captured when it comes a second time: the first one lets TensorRT settle what depends on shapes.
    void step() {
        LoopBuffers& buffers = *buffers_;
        std::optional<CapturedWork>& work = buffers.steps[current_];
        if (buffers.has_stepped && buffers.can_capture && !work) {
            try {
                work.emplace(graph_.stream().capture([this] { execute(STEP, 1); }));
            } catch (const Error& error) {
                if (error.status() != Status::unexpected) throw;
                buffers.can_capture = false;
            }
        }
        if (work)
            graph_.stream().launch(*work);
        else
            execute(STEP, 1);
        buffers.has_stepped = true;
    }

    void execute(int profile, std::size_t n_tokens) {
        std::vector<BoundTensor>& tensors = buffers_->tensors[current_];
        tensors[0].shape.d[1] = static_cast<std::int64_t>(n_tokens);
        graph_.execute(profile, tensors);
    }

    TensorRtGraph& graph_;
    FreeBuffers& free_;
    std::unique_ptr<LoopBuffers> buffers_;
    std::size_t current_ = 0, turn_ = 0;
    bool is_input_free_ = false, has_logits_ = false;
};

class TensorRtEngine : public Engine {
public:
    TensorRtEngine(const std::string& bundle, const Manifest& manifest, const GraphSizes& sizes, const EngineOptions& options)
        : sizes_(sizes), library_(options.gpu, options.tensorrt_library),
          variant_(fitting_engines(bundle, manifest, library_.cuda().gpu(), library_.version())),
          vision_(opened(bundle, manifest, "vision")), language_(opened(bundle, manifest, "language")) {}

    const std::string& backend() const override { return backend_; }
    std::string version() const override { return "TensorRT " + library_.version(); }
    std::unique_ptr<Vision> open_vision() const override { return std::make_unique<TensorRtVision>(*vision_, sizes_); }
    std::unique_ptr<Loop> open_loop() const override { return std::make_unique<TensorRtLoop>(*language_, sizes_, free_); }
    const Cuda* cuda() const override { return &library_.cuda(); }

private:
    std::unique_ptr<TensorRtGraph> opened(const std::string& bundle, const Manifest& manifest, const char* name) {
        const auto file = variant_.files.find(name);
        const auto profiles = variant_.profiles.find(name);
        if (file == variant_.files.end() || profiles == variant_.profiles.end() || profiles->second.empty())
            throw Error(Status::incompatible, bundle + ": the engines have no file or no profiles of the " + name + " graph",
                        "build the engines again with this version of aurora-export");
        const Cuda::Current current(library_.cuda());
        return std::make_unique<TensorRtGraph>(library_, bundle + "/" + file->second, manifest.contract.at(name), profiles->second);
    }

    GraphSizes sizes_;
    std::string backend_ = "tensorrt";
    TensorRt library_;
    EngineVariant variant_;
    std::unique_ptr<TensorRtGraph> vision_, language_;
    mutable FreeBuffers free_;
};

}  // namespace

std::unique_ptr<Engine> open_tensorrt_engine(const std::string& bundle, const Manifest& manifest, const GraphSizes& sizes,
                                             const EngineOptions& options) {
    return std::make_unique<TensorRtEngine>(bundle, manifest, sizes, options);
}

#endif

}  // namespace aurora
