// What gpu_stand_in.cpp shows a test: what happened on its GPU, what is left there, and what it shall not be able to do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

struct GpuStandIn {
    // Computes a graph over memory of the host, by the names of the contract.
    std::function<void(const std::string& graph, const std::map<std::string, void*>& arrays, std::size_t n_tokens)> run;

    std::vector<std::string> calls;  // what was enqueued, and when somebody waited
    std::size_t n_device = 0, n_pinned = 0, n_streams = 0, n_events = 0, n_graphs = 0, n_retained = 0, n_pushed = 0;
    std::size_t n_tensorrt = 0;  // its objects
    std::string plugins;         // the library that was loaded

    int init = 0, count = 2, version[4] = {0, 3, 0, 26};
    bool can_capture = true, can_run = true;
    std::size_t device_bytes = SIZE_MAX;

    std::function<std::vector<std::string>()> waiting;                  // in all streams
    std::function<std::uint64_t(std::size_t, int gpu)> allocate;        // memory of a GPU; to be given back by `free`
    std::function<void(std::uint64_t)> free;
    std::function<std::uint8_t*(std::uint64_t)> memory;                 // where the stand-in keeps what has an address
};

extern "C" GpuStandIn* gpu_stand_in();
