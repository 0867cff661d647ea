// Where the weights of an ONNX file lie: other files of the bundle, and no other files. ONNX Runtime follows these paths,
// and releases before the one that Python asks for followed them out of the folder; here any may be loaded, so they are
// read before it sees the file. Mirrors what export/graph_lint.py and the digests make sure of on the other side.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.h"

namespace aurora {

// One tensor's data outside its ONNX file.
struct ExternalData {
    std::string location;
    std::uint64_t offset = 0, length = 0;  // 0: up to the end of the file
};

// All tensors of a ModelProto whose data lies outside: initializers, attributes, subgraphs, functions.
// Throws std::runtime_error that says what is wrong with the file.
std::vector<ExternalData> find_external_data(std::string_view model);

// Check a graph of the bundle, named by its role. Throws Error(integrity) for a file that is no protobuf, and for data
// that lies outside its folder, in a file that the manifest does not name, or behind that file's end.
void check_external_data(const std::string& bundle, const Manifest& manifest, const std::string& role);

}  // namespace aurora
