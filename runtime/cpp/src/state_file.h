// Where a model stands in a video and a conversation, as an object, as bytes and as a `.aurstate` file.
// Mirrors runtime/state.py; docs/STATES.md describes the format. A file may come from a stranger: nothing is allocated
// before its sizes have been compared with what the model's contract says.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "contract.h"

namespace aurora {

constexpr std::size_t MAX_STATE_HEADER_BYTES = std::size_t{64} << 10;
constexpr std::size_t MAX_PRIMED_FOR = 500;  // characters that the header keeps of a question
// Of the arrays; the largest RWKV models need 70 MB. A bundle whose config says more is refused.
constexpr std::uint64_t MAX_STATE_BYTES = std::uint64_t{1} << 30;

// What a state belongs to and how far it has come; the fields of StateHeader in Python.
struct StateHeader {
    std::string fingerprint, precision, backend;
    std::string phase = "empty";  // empty, watching, answered
    std::int64_t tokens_seen = 0, frames_seen = 0;
    std::optional<double> position_s;
    std::optional<std::string> video_digest;  // 64 hex digits
    std::optional<std::string> prompt_form;   // generic, primed
    std::optional<std::string> primed_for, sampling, parent_digest;
};

struct State {
    StateHeader header;
    std::array<std::vector<float>, N_STATES> arrays;  // in the order of STATE_NAMES, shapes as shapes_of_state

    // SHA-256 over the arrays: two states with one digest are the same.
    std::string digest() const;
    std::size_t n_bytes() const;
};

// Shapes at B = 1. Throws Error(incompatible) if they need more than MAX_STATE_BYTES.
std::array<std::vector<std::int64_t>, N_STATES> shapes_of_state(const AuroraConfig& config);

// The state before anything was read.
State zero_state(const AuroraConfig& config, const std::string& fingerprint, const std::string& precision, const std::string& backend);

// What a state file says of itself; its tensors were not read.
struct StateFile {
    StateHeader header;
    std::string format_version, encoding;
    std::uint64_t n_bytes;
};

// The functions below throw Error: usage (no such file), incompatible (another model, a newer format), integrity
// (damaged or hostile), resources (disk full, out of memory). `name` stands in messages.

StateFile read_state_header(const std::string& path);

State load_state(const std::string& path, const AuroraConfig& config, const std::string& fingerprint);

State state_from_bytes(std::string_view bytes, const AuroraConfig& config, const std::string& fingerprint, const std::string& name = "state");

// The content of a file. packed: compress without loss.
std::string bytes_from_state(const State& state, const AuroraConfig& config, bool packed = false);

// Write a `.aurstate` file, whole or not at all; an existing one is replaced. Returns its size.
std::uint64_t save_state(const std::string& path, const State& state, const AuroraConfig& config, bool packed = false);

}  // namespace aurora
