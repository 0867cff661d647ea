// A bundle's files, opened: what all sessions over one model share, and nothing that changes.
// Mirrors runtime/opened_bundle.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "embeddings.h"
#include "engine.h"
#include "manifest.h"
#include "tokenizer.h"

namespace aurora {

enum class BackendChoice { automatic, onnxruntime, tensorrt };

struct ModelOptions {
    BackendChoice backend = BackendChoice::automatic;
    EngineOptions engine;
    bool verify = true;
    std::function<void(bool is_warning, const std::string& text)> log;
    // Called with path, bytes read since the last call, bytes of all files; true asks for an end.
    std::function<bool(const std::string& path, std::uint64_t n_bytes, std::uint64_t n_bytes_total)> progress;
};

// Immutable; safe to share between threads.
class Model {
public:
    // Opens a bundle: manifest, then digests, then the files themselves. Throws Error.
    static std::shared_ptr<const Model> open(const std::string& bundle, const ModelOptions& options);

    // Of given parts, for tests of the session without a backend.
    Model(Manifest manifest, Tokenizer tokenizer, Embeddings embeddings, std::unique_ptr<Engine> engine,
          const ModelOptions& options);

    const Manifest& manifest() const { return manifest_; }
    const AuroraConfig& config() const { return manifest_.config; }
    const Tokenizer& tokenizer() const { return tokenizer_; }
    const Embeddings& embeddings() const { return embeddings_; }
    const Engine& engine() const { return *engine_; }
    const GraphSizes& sizes() const { return sizes_; }
    const std::string& fingerprint() const { return fingerprint_; }
    const std::string& info() const { return info_; }
    // Whether a state has the same bits whether frames are read into it in one run of the language graph or in many: where
    // our operators sum in integers, a token has the same bits in a run of any length but 1.
    bool joins_runs() const { return joins_runs_; }

private:
    Manifest manifest_;
    GraphSizes sizes_;
    std::string fingerprint_;
    Tokenizer tokenizer_;
    Embeddings embeddings_;
    std::unique_ptr<Engine> engine_;
    std::string info_;
    bool joins_runs_;
};

}  // namespace aurora
