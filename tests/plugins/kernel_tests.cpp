// The native kernels on raw memory, every instruction set of this machine, against the same formulas in double.
// Buffers are heap blocks of exactly the size needed, or one float off their alignment: a sanitizer sees every step past
// an end. Prints what fails, and ends with exit code 1 then.
#include "attention_tests.h"
#include "linear_tests.h"
#include "merge_tests.h"
#include "mix_tests.h"
#include "mlp_tests.h"
#include "wkv_tests.h"

int main() {
    std::size_t n_levels;
    const Kernels* const* levels = all_levels(&n_levels);
    for (std::size_t i = 0; i < n_levels; ++i) {
        const Kernels& kernels = *levels[i];
        if (!kernels.is_supported()) {
            std::printf("%s: not on this machine\n", kernels.name);
            continue;
        }
        const int before = n_checks;
        for (bool is_6 : {true, false}) {
            for (bool in_place : {false, true}) {
                for (std::size_t N : {1, 5, 8, 16, 20, 64, 100, 256}) test_wkv(kernels, {1, 3, 2, N, NAN, in_place, 2}, is_6);
                test_wkv(kernels, {2, 17, 3, 64, NAN, in_place, 3}, is_6);
                for (float log_decay : {0.0f, -1e-30f, -87.4f, -1e4f, -INFINITY}) test_wkv(kernels, {1, 2, 1, 64, log_decay, in_place, 1}, is_6);
            }
        }
        for (std::size_t block : {16, 32, 64, 128, 256})
            for (std::size_t T : {1, 2, 5, 14, 15, 29})
                for (std::size_t K : {1, 100, 256, 1300})
                    for (std::size_t N : {1, 16, 35})
                        for (std::size_t bits : {8, 4}) test_linear(kernels, bits, T, K, N, block, static_cast<int>(1 + T % 3));
        for (std::size_t block : {32, 128})  // more than a panel and a strip
            for (std::size_t bits : {8, 4}) test_linear(kernels, bits, 70, 700, 130, block, 2);
        test_linear(kernels, 8, 18, 4096, 20, 128, 2);  // rows that would fall on each other in the cache are copied
        test_linear(kernels, 8, 545, 40, 9, 32, 2);  // more panels than are taken at once
        test_all_of_mlp(kernels);
        test_attention(kernels, 1, 1, 1, 1, 1);
        test_attention(kernels, 2, 19, 3, 10, 2);
        test_attention(kernels, 1, 32, 1, 10, 1);  // whole vectors of tokens, and of no head
        test_attention(kernels, 1, 130, 2, 64, 3);
        test_attention(kernels, 1, 530, 1, 8, 1);
        test_merges(kernels);
        for (std::size_t E : {3, 20, 64, 600})
            for (const Tokens& tokens : {Tokens{1, 1, E}, Tokens{1, 2, E}, Tokens{2, 1, E}, Tokens{3, 19, E}}) {
                for (bool is_int8 : {false, true})
                    test_time_mix(kernels, tokens, 3, 5, static_cast<int>(tokens.n_rows() % 3) + 1, is_int8);
                test_channel_mix(kernels, tokens, static_cast<int>(tokens.n_rows() % 3) + 1);
            }
        for (bool is_int8 : {false, true})  // chunks of many rows, and more inputs than are multiplied at once
            test_time_mix(kernels, {1, 260, 300}, 9, 40, 2, is_int8);
        std::printf("%s: %d values compared\n", kernels.name, n_checks - before);
    }
    if (n_failures) std::printf("%d of %d differ\n", n_failures, n_checks);
    return n_failures ? 1 : 0;
}
