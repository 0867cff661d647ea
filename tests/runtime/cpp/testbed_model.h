// The testbed's model for tests in C++, through aurora.hpp: `make cpp` says where it and ONNX Runtime are.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "aurora.hpp"

inline std::string testbed_bundle() {
    const char* path = std::getenv("AURORA_TEST_BUNDLE");
    if (path == nullptr) throw std::runtime_error("AURORA_TEST_BUNDLE names no bundle: run these tests by `make cpp`");
    return path;
}

inline aurora::Model open_testbed(std::int32_t n_threads = 1) {
    aurora_model_options options = aurora::model_options();
    options.n_threads = n_threads;
    return aurora::Model(testbed_bundle(), options);
}

constexpr std::uint32_t SIDE = 96;

// A picture that differs by `seed`.
inline std::vector<std::uint8_t> picture(std::uint32_t seed) {
    std::vector<std::uint8_t> pixels(SIDE * SIDE * 3);
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * (seed + 1) / 7 + seed * 40);
    return pixels;
}
