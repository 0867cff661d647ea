// A state's arrays in fewer bytes, without loss: the bytes of all values by significance, then zlib.
// Mirrors runtime/packing.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace aurora {

// False if this library was built without zlib: then pack and Unpacker throw Error(dependency).
bool can_pack();

std::vector<std::uint8_t> pack(const float* values, std::size_t n_values);

// Gives up to n_bytes of the packed stream, and how many it gave; 0 at its end.
using PackedSource = std::function<std::size_t(std::uint8_t* to, std::size_t n_bytes)>;

// The values of `pack`, bit for bit. Reads the stream piece by piece and never makes more bytes than n_values need,
// whatever the data would expand to. Throws std::runtime_error if it is not one of exactly this size.
// `shape` stands in the message.
void unpack(const PackedSource& source, float* values, std::size_t n_values, const std::string& shape);

}  // namespace aurora
