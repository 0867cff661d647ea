// Runs a libFuzzer target where clang is missing: every file of a corpus, then random changes of them, for a time.
// It does not see which code was reached, as libFuzzer does; with the sanitizers it finds what plain inputs break.
//
//   fuzz_manifest [-max_total_time=SECONDS] [-seed=NUMBER] CORPUS_FOLDER...     as libFuzzer, but that nothing is added to
//                                                           the first folder; an input that ends the process is in ./crash-input
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "sampling.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t MAX_BYTES = 1 << 16;

// What breaks readers: limits of integers, brackets, quotes, bytes of UTF-8.
const std::vector<std::string> PIECES = {"\xff\xff\xff\xff", std::string(8, '\xff'), std::string(4, '\0'), "\x80",       "[",      "{",         "\"",      "9223372036854775808",
                                         "-1",               "1e999",                "null",               "\\ud800",    "../",    "\xed\xa0\x80", "\n",    "' 1\n",
                                         "\xf0\x9f\x98",     "18446744073709551615", "NaN",                "0.1",        "true",   "[[[[[[[[", "\x7f\xff\xff\xff"};

std::string changed(std::string input, const std::vector<std::string>& corpus, aurora::SplitMix64& random) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random.next_uint64() % (n ? n : 1)); };
    for (std::size_t n_changes = 1 + below(6); n_changes--;) {
        const std::size_t at = below(input.size() + 1), n = std::min(below(16), input.size() - at);
        switch (below(7)) {
            case 0: input.insert(at, PIECES[below(PIECES.size())]); break;
            case 1: input.erase(at, n); break;
            case 2: input.resize(at); break;
            case 3: input.insert(at, input.substr(at, n)); break;
            case 4: {
                const std::string& other = corpus[below(corpus.size())];
                const std::size_t from = below(other.size() + 1);
                input.replace(at, n, other.substr(from, below(64)));
                break;
            }
            default:
                if (at < input.size()) input[at] = static_cast<char>(below(3) ? random.next_uint64() : input[at] ^ (1u << below(8)));
        }
    }
    if (input.size() > MAX_BYTES) input.resize(MAX_BYTES);
    return input;
}

void run(const std::string& input) {
    // A copy of exactly this size, so that AddressSanitizer sees a read behind it.
    const std::vector<std::uint8_t> bytes(input.begin(), input.end());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

void read_corpus(const std::string& folder, std::vector<std::string>& corpus) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        std::ifstream file(entry.path(), std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
}

std::string running;

void keep_input() { std::ofstream("crash-input", std::ios::binary) << running; }

void keep_input_and_end(int signal) {
    keep_input();
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

}  // namespace

// Called by the sanitizers before they end the process.
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

int main(int argc, char** argv) {
    double seconds = 4;
    std::uint64_t seed = 1;
    std::vector<std::string> corpus;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const std::size_t equals = argument.find('=');
        const std::string value = equals == argument.npos ? "" : argument.substr(equals + 1);
        if (argument.rfind("-max_total_time=", 0) == 0) {
            seconds = std::atof(value.c_str());
        } else if (argument.rfind("-seed=", 0) == 0) {
            seed = std::strtoull(value.c_str(), nullptr, 10);
        } else if (argument[0] == '-') {
            std::fprintf(stderr, "%s: unknown option %s\n", argv[0], argv[i]);
            return 2;
        } else {
            read_corpus(argument, corpus);
        }
    }
    if (corpus.empty()) {
        std::fprintf(stderr, "usage: %s [-max_total_time=SECONDS] [-seed=NUMBER] CORPUS_FOLDER...   (with files in one of them)\n", argv[0]);
        return 2;
    }
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep_input);
    // Of a trap in a target, and of an exception that nothing caught.
    for (const int signal : {SIGILL, SIGTRAP, SIGABRT}) std::signal(signal, keep_input_and_end);
    for (const std::string& input : corpus) run(running = input);
    aurora::SplitMix64 random(seed);
    std::size_t n_inputs = corpus.size();
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (; std::chrono::steady_clock::now() < end; ++n_inputs)
        run(running = changed(corpus[static_cast<std::size_t>(random.next_uint64() % corpus.size())], corpus, random));
    std::printf("%s: %zu inputs from %zu files, seed %llu\n", argv[0], n_inputs, corpus.size(), static_cast<unsigned long long>(seed));
    return 0;
}
