#include "merge_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace aurora {
namespace {

// Tokens of one piece of work.
constexpr std::size_t ROWS_AT_ONCE = 16;

constexpr std::int32_t NONE = -1;

// A size times a number of tokens stays exact in float32 far beyond this.
constexpr float LARGEST_SIZE = 4194304;

std::size_t pieces(std::size_t n) { return (n + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE; }

// Positions of a frame's tokens: those of set A and B, with token 0 apart or not.
struct Sets {
    std::size_t first, n_a, n_b;

    explicit Sets(const MergeTokens& all)
        : first(all.first_apart), n_a((all.n_tokens - first + 1) / 2), n_b((all.n_tokens - first) / 2) {}
    std::size_t a(std::size_t i) const { return first + 2 * i; }
    std::size_t b(std::size_t i) const { return first + 2 * i + 1; }
};

// What is decided about one frame; kept from one call to the next.
struct Frame {
    std::vector<float> rows, partners, row, best, sizes, unsorted_sizes;
    std::vector<std::int32_t> partner, ranked, first_source, next_source, token_of, unsorted, by_size, position_of;
    std::vector<std::int64_t> key;

    void reserve(const MergeTokens& all, const Sets& sets) {
        const std::size_t n_after = all.n_tokens - all.n_merged;
        rows.resize(sets.n_a * all.metric_size), row.resize(all.metric_size);
        partners.assign(all.metric_size * stride(sets), 0);
        best.resize(sets.n_a), partner.resize(sets.n_a), ranked.resize(sets.n_a), next_source.resize(sets.n_a);
        first_source.assign(all.n_tokens, NONE);
        sizes.resize(n_after), token_of.resize(n_after), by_size.resize(n_after), key.resize(n_after);
        position_of.resize(all.n_tokens);
    }

    // Partners in rows of inputs, filled up to what any level multiplies at a time.
    static std::size_t stride(const Sets& sets) { return (sets.n_b + 63) / 64 * 64; }

    Partners all_partners(const MergeTokens& all, const Sets& sets) const {
        return {sets.n_b, stride(sets), all.metric_size, partners.data()};
    }

    void normalise(const Kernels& kernels, const MergeTokens& all, const Sets& sets, const float* metric) {
        const std::size_t n = all.metric_size;
        for (std::size_t i = 0; i < sets.n_a; ++i) kernels.normalise_row(metric + sets.a(i) * n, n, &rows[i * n]);
        for (std::size_t i = 0; i < sets.n_b; ++i) {
            kernels.normalise_row(metric + sets.b(i) * n, n, row.data());
            for (std::size_t j = 0; j < n; ++j) partners[j * stride(sets) + i] = row[j];
        }
    }

    // Whom the most similar of set A join, in what order tokens stand then, and where each old one is among them.
    void decide(const MergeTokens& all, const Sets& sets, const float* old_sizes) {
        if (all.protect_first && !all.first_apart) best[0] = -INFINITY;
        for (std::size_t i = 0; i < sets.n_a; ++i) ranked[i] = static_cast<std::int32_t>(i);
        const auto is_ahead = [&](std::int32_t i, std::int32_t j) {
            const float mine = best[static_cast<std::size_t>(i)], theirs = best[static_cast<std::size_t>(j)];
            return mine > theirs || (mine == theirs && i < j);
        };
        const auto end = ranked.begin() + static_cast<std::ptrdiff_t>(all.n_merged);
        std::partial_sort(ranked.begin(), end, ranked.end(), is_ahead);
        std::sort(end, ranked.end());
        // Sources of a target, the most similar first.
        for (std::size_t rank = all.n_merged; rank-- > 0;) {
            const std::int32_t source = ranked[rank];
            std::int32_t& first = first_source[sets.b(static_cast<std::size_t>(partner[static_cast<std::size_t>(source)]))];
            next_source[static_cast<std::size_t>(source)] = first;
            first = source;
        }
        std::size_t n = 0;
        if (all.first_apart) token_of[n++] = 0;
        for (auto i = end; i != ranked.end(); ++i) token_of[n++] = static_cast<std::int32_t>(sets.a(static_cast<std::size_t>(*i)));
        for (std::size_t i = 0; i < sets.n_b; ++i) token_of[n++] = static_cast<std::int32_t>(sets.b(i));
        for (std::size_t i = 0; i < n; ++i) sizes[i] = size_after(sets, old_sizes, static_cast<std::size_t>(token_of[i]));
        sort(all);
        for (std::size_t i = 0; i < n; ++i) position_of[static_cast<std::size_t>(token_of[i])] = static_cast<std::int32_t>(i);
        for (std::size_t rank = 0; rank < all.n_merged; ++rank) {
            const std::size_t source = static_cast<std::size_t>(ranked[rank]);
            position_of[sets.a(source)] = position_of[sets.b(static_cast<std::size_t>(partner[source]))];
        }
    }

    float size_after(const Sets& sets, const float* old_sizes, std::size_t token) const {
        float size = old_sizes[token];
        for (std::int32_t i = first_source[token]; i != NONE; i = next_source[static_cast<std::size_t>(i)])
            size += old_sizes[sets.a(static_cast<std::size_t>(i))];
        return size;
    }

    // By the numbers that the function in a graph sorts by, of which no two are equal.
    void sort(const MergeTokens& all) {
        if (all.order == 0) return;
        const std::size_t n_fixed = all.protect_first, n = token_of.size() - n_fixed;
        for (std::size_t i = 0; i < n; ++i) {
            const float scaled = sizes[n_fixed + i] * static_cast<float>(n);
            key[i] = static_cast<std::int64_t>(scaled) * all.order + static_cast<std::int64_t>(i);
            by_size[i] = static_cast<std::int32_t>(i);
        }
        std::sort(by_size.begin(), by_size.begin() + static_cast<std::ptrdiff_t>(n), [&](std::int32_t i, std::int32_t j) {
            const std::int64_t mine = key[static_cast<std::size_t>(i)], theirs = key[static_cast<std::size_t>(j)];
            return mine < theirs || (mine == theirs && i < j);  // equal only where sizes are no integers
        });
        unsorted = token_of, unsorted_sizes = sizes;
        for (std::size_t i = 0; i < n; ++i) {
            const std::size_t from = n_fixed + static_cast<std::size_t>(by_size[i]);
            token_of[n_fixed + i] = unsorted[from], sizes[n_fixed + i] = unsorted_sizes[from];
        }
    }
};

void write_row(const Kernels& kernels, const MergeTokens& all, const Sets& sets, const Frame& frame, std::size_t f, std::size_t i) {
    const std::size_t D = all.width, token = static_cast<std::size_t>(frame.token_of[i]);
    const float* x = all.x + f * all.n_tokens * D;
    const float* sizes = all.sizes + f * all.n_tokens;
    float* out = all.merged + (f * (all.n_tokens - all.n_merged) + i) * D;
    const bool is_b = token >= sets.first && (token - sets.first) % 2 == 1, is_alone = frame.first_source[token] == NONE;
    if (!is_b || (is_alone && sizes[token] == 1)) {
        std::memcpy(out, x + token * D, D * sizeof(float));
        return;
    }
    for (std::int32_t s = frame.first_source[token]; s != NONE; s = frame.next_source[static_cast<std::size_t>(s)]) {
        const std::size_t source = sets.a(static_cast<std::size_t>(s));
        kernels.weigh_row(x + source * D, sizes[source], D, s == frame.first_source[token], out);
    }
    kernels.average_row(x + token * D, sizes[token], frame.sizes[i], D, !is_alone, out);
}

}  // namespace

const char* wrong_tokens(const MergeTokens& all) {
    for (std::size_t i = 0; i < all.n_frames * all.n_tokens; ++i)
        if (!(all.sizes[i] >= 1 && all.sizes[i] <= LARGEST_SIZE)) return "sizes are not all from 1 to 4194304";
    for (std::size_t i = 0; i < all.n_frames * all.n_patches; ++i)
        if (all.owner[i] < 0 || all.owner[i] >= static_cast<std::int64_t>(all.n_tokens))
            return "owner names a token that does not exist";
    return nullptr;
}

void merge_tokens(const Kernels& kernels, const MergeTokens& all, const Parallel& parallel) {
    thread_local std::vector<Frame> memory;
    std::vector<Frame>& frames = memory;  // of this thread: those that help see it by this name
    const Sets sets(all);
    const std::size_t T = all.n_tokens, n_after = T - all.n_merged, P = all.n_patches;
    if (frames.size() < all.n_frames) frames.resize(all.n_frames);
    parallel(all.n_frames, [&](std::size_t f) {
        frames[f].reserve(all, sets);
        frames[f].normalise(kernels, all, sets, all.metric + f * T * all.metric_size);
    });
    const std::size_t n_pieces = pieces(sets.n_a), n_row_pieces = pieces(n_after);
    parallel(all.n_frames * n_pieces, [&](std::size_t i) {
        Frame& frame = frames[i / n_pieces];
        const std::size_t row = i % n_pieces * ROWS_AT_ONCE;
        kernels.best_partners(&frame.rows[row * all.metric_size], std::min(ROWS_AT_ONCE, sets.n_a - row),
                              frame.all_partners(all, sets), &frame.best[row], &frame.partner[row]);
    });
    parallel(all.n_frames, [&](std::size_t f) {
        Frame& frame = frames[f];
        frame.decide(all, sets, all.sizes + f * T);
        std::copy(frame.sizes.begin(), frame.sizes.end(), all.merged_sizes + f * n_after);
        for (std::size_t i = f * P; i < (f + 1) * P; ++i)
            all.merged_owner[i] = frame.position_of[static_cast<std::size_t>(all.owner[i])];
    });
    parallel(all.n_frames * n_row_pieces, [&](std::size_t i) {
        const std::size_t f = i / n_row_pieces, first = i % n_row_pieces * ROWS_AT_ONCE;
        for (std::size_t row = first; row < std::min(first + ROWS_AT_ONCE, n_after); ++row)
            write_row(kernels, all, sets, frames[f], f, row);
    });
}

}  // namespace aurora
