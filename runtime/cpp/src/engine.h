// What runs the two graphs of a bundle. Session and model know this, never a library. Mirrors runtime/engine.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "contract.h"

namespace aurora {

class Cuda;
struct Manifest;

// Sizes of the contract that buffers are made of.
struct GraphSizes {
    std::size_t image_size;                    // S
    std::size_t n_patches, n_kept;             // P, K
    std::size_t width, vocabulary_size;        // E, V
    std::size_t n_layers, n_heads, head_size;  // L, H, N

    explicit GraphSizes(const AuroraConfig& config)
        : image_size(size(config.vision.image_size)), n_patches(size(config.vision.n_patches())),
          n_kept(size(config.tokens_per_frame())), width(size(config.language.width)),
          vocabulary_size(size(config.language.vocabulary_size)), n_layers(size(config.language.n_layers)),
          n_heads(size(config.language.n_heads())), head_size(size(config.language.head_size)) {}
    static std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

    std::size_t frame_bytes() const { return image_size * image_size * 3; }
    // Floats of att_shift, ffn_shift and wkv at batch 1.
    std::array<std::size_t, 3> state_floats() const {
        return {n_layers * width, n_layers * width, n_layers * n_heads * head_size * head_size};
    }
    std::size_t state_bytes() const {
        const auto sizes = state_floats();
        return (sizes[0] + sizes[1] + sizes[2]) * sizeof(float);
    }
};

// The vision graph with buffers of its own, for one frame at a time.
class Vision {
public:
    virtual ~Vision() = default;
    virtual std::uint8_t* frame() = 0;  // (S, S, 3), to be filled before run()
    virtual void run() = 0;
    // Of the last run.
    virtual const float* visual_tokens() const = 0;           // (K, E)
    virtual const std::int32_t* token_sizes() const = 0;      // (K)
    virtual const std::int32_t* token_of_patch() const = 0;   // (P)
};

// The language graph with a state of its own, which is zero at first.
class Loop {
public:
    virtual ~Loop() = default;
    virtual float* input() = 0;  // (MAX_CHUNK_TOKENS, E), to be filled before feed(); asked for again after it
    // Run the first n_tokens of the input, 1 to MAX_CHUNK_TOKENS, and move the state on. On a GPU it returns before the
    // work is done. If it throws, the state is as before; a fault of the GPU itself may be thrown by a later call.
    virtual void feed(std::size_t n_tokens) = 0;
    // The logits (V) after the last token that was fed, valid until the next feed().
    virtual const float* logits() = 0;
    virtual void read_state(const std::array<float*, 3>& arrays) const = 0;
    virtual void write_state(const std::array<const float*, 3>& arrays) = 0;
};

// Both graphs, opened on a device and checked against the contract. Threads may share it.
class Engine {
public:
    virtual ~Engine() = default;
    virtual const std::string& backend() const = 0;  // library and device, as a state file names it: onnxruntime-cpu
    virtual std::string version() const = 0;         // of the library
    virtual std::unique_ptr<Vision> open_vision() const = 0;
    virtual std::unique_ptr<Loop> open_loop() const = 0;
    virtual const Cuda* cuda() const { return nullptr; }  // whose memory frames may lie in; null: none
};

struct EngineOptions {
    bool cuda = false;
    int gpu = 0;              // as NVIDIA's driver counts
    int n_threads = 0;        // 0: the engine chooses
    std::string library;      // path of libonnxruntime; empty: found by the loader
    std::string tensorrt_library;  // path of libnvinfer; empty: found by the loader
    bool native_operators = true;
    bool emulated = false;    // of precisions whose products no CPU computes: they are those of float32
};

// A graph of the bundle, and what it takes and gives.
struct GraphFile {
    std::string path;
    GraphSpec spec;
};

// Throws Error: dependency (no ONNX Runtime, no GPU, or no operators for it), integrity (no graph), incompatible (another
// contract or operator), resources.
std::unique_ptr<Engine> open_onnx_engine(const GraphFile& vision, const GraphFile& language, const GraphSizes& sizes,
                                         const EngineOptions& options);

// The bundle's engines of TensorRT that fit this machine. Throws Error: unsupported (a libaurora without this backend),
// dependency (no driver, no TensorRT), usage (no such GPU), incompatible (no engines that fit), resources.
std::unique_ptr<Engine> open_tensorrt_engine(const std::string& bundle, const Manifest& manifest, const GraphSizes& sizes,
                                             const EngineOptions& options);

// The instruction set that the native operators use here; throws Error(usage) if AURORA_CPU_LEVEL asks for one in vain.
std::string native_level();

}  // namespace aurora
