// A file that appears whole or not at all. Mirrors _write_atomically of runtime/state.py.
#pragma once

#include <string>
#include <string_view>

namespace aurora {

// Write to a temporary name beside the file, flush to disk, rename; an existing file is replaced, and is untouched if
// this fails. `what` stands in the hint. Throws Error: resources (disk full), usage (cannot be written).
void write_atomically(const std::string& path, std::string_view data, const std::string& what);

}  // namespace aurora
