// The recurrences of RWKV-6 and RWKV-7: part of kernel_tests.cpp.
#pragma once

#include "../../plugins/wkv/wkv_cpu.h"
#include "kernel_checks.h"

namespace {

struct WkvCase {
    std::size_t B, T, H, N;
    float log_decay;  // NaN: drawn
    bool in_place;
    int n_threads;
};

void test_wkv(const Kernels& kernels, const WkvCase& c, bool is_6) {
    const std::size_t n = c.B * c.T * c.H * c.N, n_state = c.B * c.H * c.N * c.N;
    const auto r = normal(n), k = normal(n), v = normal(n), a = normal(n, 0.1f), b = normal(n, 0.1f), u = normal(c.H * c.N);
    auto w = normal(n);
    for (float& value : w) value = std::isnan(c.log_decay) ? -std::exp(2 * value) : c.log_decay;
    const auto state = normal(n_state);
    std::vector<double> s(state.begin(), state.end()), y(n);
    for (std::size_t q = 0; q < c.B * c.H; ++q) {
        double* S = &s[q * c.N * c.N];
        for (std::size_t t = 0; t < c.T; ++t) {
            const std::size_t at = ((q / c.H * c.T + t) * c.H + q % c.H) * c.N;
            for (std::size_t j = 0; j < c.N; ++j) {
                double removed = 0, total = 0;
                for (std::size_t i = 0; i < c.N; ++i) removed += is_6 ? 0.0 : a[at + i] * S[i * c.N + j];
                for (std::size_t i = 0; i < c.N; ++i) {
                    const double own = static_cast<double>(k[at + i]) * v[at + j], before = S[i * c.N + j];
                    double& after = S[i * c.N + j];
                    after = std::exp(static_cast<double>(w[at + i])) * before + own + (is_6 ? 0.0 : b[at + i] * removed);
                    total += r[at + i] * (is_6 ? before + u[q % c.H * c.N + i] * own : after);
                }
                y[at + j] = total;
            }
        }
    }
    Buffer<float> output(n), copy(n_state), next(n_state);
    std::copy(state.begin(), state.end(), copy.begin());
    WkvHead all{};
    all.receptance = r.data(), all.key = k.data(), all.value = v.data(), all.log_decay = w.data();
    if (is_6)
        all.bonus = u.data();
    else
        all.removal = a.data(), all.replacement = b.data();
    all.state = copy.data();
    all.next_state = c.in_place ? copy.data() : next.data();
    all.output = output.data();
    int n_threads = c.n_threads;
    wkv(kernels, {c.B, c.T, c.H, c.N}, all, threads(&n_threads));
    const char* name = is_6 ? "wkv6" : "wkv7";
    // What RWKV-7 removes from a state is of the state: an error is carried on, and may grow.
    const double bound = is_6 ? 2e-6 : 5e-6;
    expect_all_near(name, kernels.name, output, y, bound);
    expect_all_near(name, kernels.name, c.in_place ? copy : next, s, bound);
    if (!c.in_place) expect_all_near("state that is only read", kernels.name, copy, std::vector<float>(state.begin(), state.end()), 0);
}

}  // namespace
