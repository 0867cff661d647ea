#include "model.h"

#include <utility>

#include "cuda_libraries.h"
#include "error.h"
#include "external_data.h"
#include "version.h"

namespace aurora {
namespace {

void verify(const std::string& bundle, const Manifest& manifest, const ModelOptions& options) {
    if (!options.progress) {
        verify_files(bundle, manifest);
        return;
    }
    std::uint64_t total = 0;
    for (const auto& [path, entry] : manifest.digests) total += entry.size;
    verify_files(bundle, manifest, [&](const std::string& path, std::uint64_t n_bytes) {
        if (options.progress(path, n_bytes, total)) throw Error(Status::cancelled, "opening was cancelled");
    });
}

std::unique_ptr<Engine> open_engine(const std::string& bundle, const Manifest& manifest, const GraphSizes& sizes,
                                    const ModelOptions& options) {
    if (options.backend == BackendChoice::tensorrt)
        return open_tensorrt_engine(bundle, manifest, sizes, options.engine);
    const auto graph = [&](const char* name) {
        return GraphFile{resolve(bundle, manifest, name), manifest.contract.at(name)};
    };
    EngineOptions engine = options.engine;
    engine.emulated = manifest.precision == "fp8-qdq";
    return open_onnx_engine(graph("vision"), graph("language"), sizes, engine);
}

}  // namespace

std::shared_ptr<const Model> Model::open(const std::string& bundle, const ModelOptions& options) {
    const auto warn = [&](const std::string& text) {
        if (options.log) options.log(true, text);
    };
    Manifest manifest = read_manifest(bundle, warn);
    check_contract(bundle, manifest);
    if (options.engine.cuda && options.backend != BackendChoice::tensorrt && are_cuda_libraries_off())
        warn(std::string(CUDA_FOLDER) + " is off: WKV runs as the graph's own function, slowly");
    if (options.verify) verify(bundle, manifest, options);
    for (const char* graph : {"vision", "language"}) check_external_data(bundle, manifest, graph);
    Tokenizer tokenizer = Tokenizer::from_file(resolve(bundle, manifest, "vocabulary"));
    const GraphSizes sizes(manifest.config);
    const std::int64_t n_rows = manifest.config.language.vocabulary_size;
    if (tokenizer.vocabulary_size() > n_rows)
        throw Error(Status::integrity,
                    bundle + ": the vocabulary has ids up to " + std::to_string(tokenizer.vocabulary_size() - 1) +
                        "; the model has " + std::to_string(n_rows) + " rows",
                    "build the bundle again with the checkpoint's own vocabulary");
    Embeddings embeddings = Embeddings::open(resolve(bundle, manifest, "embeddings"), sizes.vocabulary_size, sizes.width,
                                             manifest.embeddings_dtype());
    std::unique_ptr<Engine> engine = open_engine(bundle, manifest, sizes, options);
    if (options.log) options.log(false, "opened " + bundle + " on " + engine->version() + ", " + engine->backend());
    return std::make_shared<const Model>(std::move(manifest), std::move(tokenizer), std::move(embeddings),
                                         std::move(engine), options);
}

Model::Model(Manifest manifest, Tokenizer tokenizer, Embeddings embeddings, std::unique_ptr<Engine> engine,
             const ModelOptions& options)
    : manifest_(std::move(manifest)), sizes_(manifest_.config), fingerprint_(manifest_.fingerprint()),
      tokenizer_(std::move(tokenizer)), embeddings_(std::move(embeddings)), engine_(std::move(engine)) {
    const bool native = options.engine.native_operators && !options.engine.cuda && options.backend != BackendChoice::tensorrt;
    joins_runs_ = native && (manifest_.precision == "int8" || manifest_.precision == "int4");
    Json info = {{"name", manifest_.name},
                 {"precision", manifest_.precision},
                 {"backend", engine_->backend()},
                 {"engine", engine_->version()},
                 {"library", VERSION},
                 {"fingerprint", fingerprint_},
                 {"profile", manifest_.config.profile},
                 {"image_size", sizes_.image_size},
                 {"tokens_per_frame", sizes_.n_kept},
                 {"width", sizes_.width},
                 {"vocabulary_size", sizes_.vocabulary_size},
                 {"state_bytes", sizes_.state_bytes()},
                 {"n_threads", options.engine.n_threads},
                 {"native_operators", native ? Json(native_level()) : Json()}};
    info_ = info.dump(-1, ' ', true);
}

}  // namespace aurora
