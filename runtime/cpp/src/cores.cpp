#include "cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

namespace aurora {
namespace {

constexpr std::size_t MAX_CPUS = std::size_t{1} << 16;

// What a file holds; nothing if it cannot be read.
std::optional<std::string> content(const std::string& path) {
    std::ifstream file(path);
    if (!file) return std::nullopt;
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (file.bad()) return std::nullopt;
    return text;
}

// What the hardware threads of one core have in common; where the system does not say, each is its own.
std::string core_of(int cpu, const std::string& system) {
    const std::string number = std::to_string(cpu);
    return content(system + "sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list").value_or(number);
}

// The control group of this process and those that it is in, from the root on; version 2.
std::vector<std::string> groups(const std::string& system) {
    std::vector<std::string> found{""};
    std::istringstream lines(content(system + "proc/self/cgroup").value_or(""));
    for (std::string line; std::getline(lines, line);) {
        if (line.compare(0, 3, "0::") != 0) continue;
        std::istringstream parts(line.substr(3));
        for (std::string part; std::getline(parts, part, '/');)
            if (!part.empty() && part != "..") found.push_back(found.back() + part + "/");
        break;
    }
    return found;
}

// cpu.max: microseconds of each period, or `max`.
std::optional<long long> quota_in(const std::string& group) {
    std::istringstream text(content(group + "cpu.max").value_or(""));
    long long allowed = 0, period = 0;
    if (!(text >> allowed >> period) || period <= 0) return std::nullopt;
    return std::max(1LL, allowed / period + (allowed % period > 0));
}

}  // namespace

std::vector<int> usable_cpus() {
    std::vector<int> cpus;
    for (std::size_t n_cpus = 1024; n_cpus <= MAX_CPUS && cpus.empty(); n_cpus *= 2) {  // a larger machine refuses a small set
        cpu_set_t* set = CPU_ALLOC(n_cpus);
        if (set == nullptr) break;
        const std::size_t n_bytes = CPU_ALLOC_SIZE(n_cpus);
        if (sched_getaffinity(0, n_bytes, set) == 0)
            for (std::size_t i = 0; i < n_cpus; ++i)
                if (CPU_ISSET_S(i, n_bytes, set)) cpus.push_back(static_cast<int>(i));
        CPU_FREE(set);
    }
    if (cpus.empty()) {
        cpus.resize(std::max(1u, std::thread::hardware_concurrency()));
        std::iota(cpus.begin(), cpus.end(), 0);
    }
    return cpus;
}

int n_usable_cores(const std::vector<int>& cpus, const std::string& system) {
    std::set<std::string> cores;
    for (const int cpu : cpus) cores.insert(core_of(cpu, system));
    long long n = static_cast<long long>(cores.size());
    for (const std::string& group : groups(system))
        if (const auto quota = quota_in(system + "sys/fs/cgroup/" + group)) n = std::min(n, *quota);
    return static_cast<int>(std::max(1LL, n));
}

}  // namespace aurora
