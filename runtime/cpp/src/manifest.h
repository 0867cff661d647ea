// The bundle's manifest: what is in the bundle, and the digests that are checked before any file is opened.
// Mirrors core/manifest.py; docs/BUNDLE.md describes the format. Stricter than Python in JSON (json_text.h, fields.h)
// and in sizes, which end at config.h's MAX_SIZE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config.h"
#include "contract.h"
#include "sha256.h"

namespace aurora {

constexpr const char* MANIFEST_NAME = "manifest.json";
// major.minor: another major is refused; a newer minor is read with a warning, its unknown keys left out.
constexpr const char* SCHEMA_VERSION = "1.3";
constexpr std::size_t MAX_MANIFEST_BYTES = std::size_t{16} << 20;
// Of a bundle; ours have about ten, and some dozens with engines.
constexpr std::size_t MAX_FILES = 10'000;

struct Measured {
    double error, limit;
    std::string metric;
};

struct EngineVariant {
    std::map<std::string, std::string> files;    // graph -> path inside the bundle
    std::map<std::string, std::string> builder;  // package -> version; engines open with this version only
    std::optional<std::string> gpu;        // that it was built on
    std::vector<std::string> compatible;   // with newer releases, or a level of hardware
    std::vector<std::string> compute_capabilities;
    // graph -> for each profile, letter of the contract -> least, usual and most
    std::map<std::string, std::vector<std::map<std::string, std::array<std::int64_t, 3>>>> profiles;
};

struct Manifest {
    std::string schema_version, name, created;
    std::map<std::string, std::string> source;
    std::string precision;  // fp32, fp16, int8, int4, int8-qdq, fp8-qdq, int4-qdq
    AuroraConfig config;
    std::map<std::string, GraphSpec> contract;
    std::map<std::string, std::string> files;  // role -> path inside the bundle
    std::map<std::string, FileEntry> digests;  // every file of the bundle but this one
    std::map<std::string, std::vector<std::string>> layer_outputs;
    std::int64_t residual_divisor = 1;
    std::map<std::string, std::string> tools;
    std::map<std::string, Measured> verified_outputs;
    std::int64_t merge_flips = 0, n_frames = 0, n_tokens = 0;  // of the verification
    std::map<std::string, EngineVariant> engines;

    // Identity of the model as a state sees it: SHA-256 over config, precision and the model's files.
    std::string fingerprint() const;

    // Type of the embedding table: float32 or float16.
    const char* embeddings_dtype() const { return precision == "fp32" ? "float32" : "float16"; }
};

// Read and validate a bundle's manifest; no other file is opened. `warn` is told of a newer minor version.
// Throws Error: usage if there is no such folder, integrity that names file, key and what is wrong, or incompatible for
// another major version.
Manifest read_manifest(const std::string& bundle, const std::function<void(const std::string&)>& warn = {});

// The same for the content of the file; `path` stands in messages.
Manifest manifest_from_text(std::string_view text, const std::string& path, const std::function<void(const std::string&)>& warn = {});

// Throws Error(incompatible) if the contract is not that of this version.
void check_contract(const std::string& bundle, const Manifest& manifest);

// Refuse a path that could leave the bundle. Throws Error(integrity).
void check_relative_path(std::string_view relative, const std::string& named_in);

// Check that the bundle holds exactly the manifest's files: names and sizes first, then SHA-256 of each, by n_threads.
// progress: called with a file's relative path and the bytes of it that were read since the last call, by one thread at
// a time, which need not be the caller's. Throws Error(integrity) that names the file, what was expected and found.
void verify_files(const std::string& bundle, const Manifest& manifest,
                  const std::function<void(const std::string&, std::uint64_t)>& progress = {}, unsigned n_threads = 2);

// The file that has a role.
std::string resolve(const std::string& bundle, const Manifest& manifest, const std::string& role);

}  // namespace aurora
