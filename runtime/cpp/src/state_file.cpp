#include "state_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <new>

#include "atomic_file.h"
#include "error.h"
#include "packing.h"
#include "sha256.h"
#include "state_header.h"
#include "text.h"

namespace aurora {
namespace {

constexpr std::size_t VALUE_BYTES = sizeof(float);

std::uint64_t n_values_of(const std::vector<std::int64_t>& shape) {
    std::uint64_t n = 1;
    for (const std::int64_t size : shape) n *= static_cast<std::uint64_t>(size);
    return n;
}

[[noreturn]] void damaged(const std::string& name, const std::string& what) { throw Error(Status::integrity, name + ": " + what, SAVE_AGAIN); }

void append_entry(std::string& header, const std::string& key, const std::string& value) {
    header += json_of_text(key) + ":" + json_of_text(value) + ",";
}

std::string metadata_of(const StateHeader& h, bool packed) {
    std::string text;
    append_entry(text, "format_version", FORMAT_VERSION);
    append_entry(text, "fingerprint", h.fingerprint);
    append_entry(text, "precision", h.precision);
    append_entry(text, "backend", h.backend);
    append_entry(text, "phase", h.phase);
    append_entry(text, "tokens_seen", std::to_string(h.tokens_seen));
    append_entry(text, "frames_seen", std::to_string(h.frames_seen));
    if (h.position_s) append_entry(text, "position_s", text_of_number(*h.position_s));
    if (h.video_digest) append_entry(text, "video_digest", *h.video_digest);
    if (h.prompt_form) append_entry(text, "prompt_form", *h.prompt_form);
    if (h.primed_for) append_entry(text, "primed_for", *h.primed_for);
    if (h.sampling) append_entry(text, "sampling", *h.sampling);
    if (h.parent_digest) append_entry(text, "parent_digest", *h.parent_digest);
    append_entry(text, "encoding", packed ? "packed" : "raw");
    text.pop_back();
    return text;
}

void check_arrays(const State& state, const std::array<std::vector<std::int64_t>, N_STATES>& shapes) {
    for (std::size_t i = 0; i < N_STATES; ++i)
        if (state.arrays[i].size() != n_values_of(shapes[i]))
            throw Error(Status::usage, std::string(STATE_NAMES[i]) + " has " + std::to_string(state.arrays[i].size()) + " values, expected " +
                                           std::to_string(n_values_of(shapes[i])));
}

State read_state(const StateSource& source, const AuroraConfig& config, const std::string& fingerprint) {
    const std::string& name = source.name();
    const StateLayout layout = read_layout(source);
    if (layout.file.header.fingerprint != fingerprint)
        throw Error(Status::incompatible, name + ": state of the model " + layout.file.header.fingerprint + "; this bundle is " + fingerprint,
                    "open the bundle that saved it, or watch the video again with this one");
    const auto shapes = shapes_of_state(config);
    const bool is_packed = layout.file.encoding == "packed";
    for (std::size_t i = 0; i < N_STATES && !is_packed; ++i)
        if (layout.tensors[i].shape != shapes[i])
            damaged(name, std::string(STATE_NAMES[i]) + " has the shape " + text_of_shape(layout.tensors[i].shape, '[', ']') + ", expected " +
                              text_of_shape(shapes[i], '[', ']'));
    State state;
    state.header = layout.file.header;
    for (std::size_t i = 0; i < N_STATES; ++i) {
        std::vector<float>& array = state.arrays[i];
        array.resize(n_values_of(shapes[i]));
        const TensorPlace& place = layout.tensors[i];
        if (is_packed) {
            std::uint64_t at = place.begin;
            const auto piece = [&](std::uint8_t* to, std::size_t n_bytes) {
                const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(n_bytes, place.end - at));
                source.read(at, to, n);
                at += n;
                return n;
            };
            try {
                unpack(piece, array.data(), array.size(), text_of_shape(shapes[i], '(', ')'));
            } catch (const Error&) {
                throw;
            } catch (const std::runtime_error& error) {
                damaged(name, std::string("a packed tensor is damaged: ") + error.what());
            }
        } else {
            source.read(place.begin, array.data(), array.size() * VALUE_BYTES);
        }
    }
    for (std::size_t i = 0; i < N_STATES; ++i)
        if (!std::all_of(state.arrays[i].begin(), state.arrays[i].end(), [](float value) { return std::isfinite(value); }))
            damaged(name, std::string(STATE_NAMES[i]) + " holds values that are not finite");
    return state;
}

// Memory that is not there is told as such, with what it was for.
template <class Call>
auto with_memory_told(const std::string& name, const Call& call) {
    try {
        return call();
    } catch (const std::bad_alloc&) {
        throw Error(Status::resources, name + ": out of memory", "a state of the 2B model takes 13 MB, and twice that while it is packed");
    }
}

}  // namespace

std::string State::digest() const {
    Sha256 digest;
    for (const std::vector<float>& array : arrays) digest.update(array.data(), array.size() * VALUE_BYTES);
    return digest.hex();
}

std::size_t State::n_bytes() const {
    std::size_t n = 0;
    for (const std::vector<float>& array : arrays) n += array.size() * VALUE_BYTES;
    return n;
}

std::array<std::vector<std::int64_t>, N_STATES> shapes_of_state(const AuroraConfig& config) {
    std::array<std::vector<std::int64_t>, N_STATES> shapes;
    const std::map<std::string, GraphSpec> specs = graphs(config);
    double n_bytes = 0;  // of sizes up to MAX_SIZE each; in doubles it cannot overflow
    for (std::size_t i = 0; i < N_STATES; ++i) {
        double n_values = 1;
        for (const TensorSpec& spec : specs.at("language").inputs) {
            if (spec.name != STATE_NAMES[i]) continue;
            for (const Size& size : spec.shape) {
                const auto* fixed = std::get_if<std::int64_t>(&size);
                shapes[i].push_back(fixed ? *fixed : 1);
                n_values *= static_cast<double>(shapes[i].back());
            }
        }
        n_bytes += n_values * VALUE_BYTES;
    }
    if (n_bytes > static_cast<double>(MAX_STATE_BYTES))
        throw Error(Status::incompatible, "a state of this model has " + text_of_number(n_bytes) + " bytes; at most " + std::to_string(MAX_STATE_BYTES) + " are possible",
                    "the sizes in the bundle's config are not those of a real model");
    return shapes;
}

State zero_state(const AuroraConfig& config, const std::string& fingerprint, const std::string& precision, const std::string& backend) {
    State state;
    state.header.fingerprint = fingerprint, state.header.precision = precision, state.header.backend = backend;
    const auto shapes = shapes_of_state(config);
    for (std::size_t i = 0; i < N_STATES; ++i) state.arrays[i].assign(n_values_of(shapes[i]), 0.0f);
    return state;
}

StateFile read_state_header(const std::string& path) {
    const FileSource source(path);
    return read_layout(source).file;
}

State load_state(const std::string& path, const AuroraConfig& config, const std::string& fingerprint) {
    return with_memory_told(path, [&] { return read_state(FileSource(path), config, fingerprint); });
}

State state_from_bytes(std::string_view bytes, const AuroraConfig& config, const std::string& fingerprint, const std::string& name) {
    return with_memory_told(name, [&] { return read_state(MemorySource(bytes, name), config, fingerprint); });
}

std::string bytes_from_state(const State& state, const AuroraConfig& config, bool packed) {
    return with_memory_told("the state", [&] {
        const auto shapes = shapes_of_state(config);
        check_arrays(state, shapes);
        std::array<std::vector<std::uint8_t>, N_STATES> contents;
        std::string header = "{\"__metadata__\":{" + metadata_of(state.header, packed) + "}";
        std::size_t end = 0;
        for (std::size_t i = 0; i < N_STATES; ++i) {
            if (packed) contents[i] = pack(state.arrays[i].data(), state.arrays[i].size());
            const std::size_t begin = end;
            end += packed ? contents[i].size() : state.arrays[i].size() * VALUE_BYTES;
            const std::string shape = packed ? "[" + std::to_string(contents[i].size()) + "]" : text_of_shape(shapes[i], '[', ']');
            header += ",\"" + std::string(STATE_NAMES[i]) + "\":{\"dtype\":\"" + (packed ? "U8" : "F32") + "\",\"shape\":" + shape +
                      ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
        }
        header += "}";
        // Spaces, so that the tensors begin at a multiple of 8, as safetensors has it.
        header.resize((header.size() + 7) / 8 * 8, ' ');
        if (header.size() > MAX_STATE_HEADER_BYTES)
            throw Error(Status::usage, "the header of the state has " + std::to_string(header.size()) + " bytes; at most " + std::to_string(MAX_STATE_HEADER_BYTES) + " are possible");
        std::string bytes;
        bytes.reserve(8 + header.size() + end);
        for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i));
        bytes += header;
        for (std::size_t i = 0; i < N_STATES; ++i) {
            if (packed)
                bytes.append(reinterpret_cast<const char*>(contents[i].data()), contents[i].size());
            else
                bytes.append(reinterpret_cast<const char*>(state.arrays[i].data()), state.arrays[i].size() * VALUE_BYTES);
        }
        return bytes;
    });
}

std::uint64_t save_state(const std::string& path, const State& state, const AuroraConfig& config, bool packed) {
    const std::string bytes = bytes_from_state(state, config, packed);
    write_atomically(path, bytes, "a state of this model");
    return bytes.size();
}

}  // namespace aurora
