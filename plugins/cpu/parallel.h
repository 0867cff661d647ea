// How a kernel spreads work: it knows a callback, and not whose threads they are.
#pragma once

#include <cstddef>

namespace aurora {

struct Parallel {
    // Call work(context, i) for each i < n, in any order and on any thread, and return when all are done.
    void (*run)(void* pool, std::size_t n, void (*work)(void* context, std::size_t i), void* context);
    void* pool;

    template <typename Work>
    void operator()(std::size_t n, const Work& work) const {
        run(pool, n, [](void* context, std::size_t i) { (*static_cast<const Work*>(context))(i); },
            const_cast<void*>(static_cast<const void*>(&work)));
    }
};

// On the thread of the caller.
inline Parallel one_thread() {
    return {[](void*, std::size_t n, void (*work)(void*, std::size_t), void* context) {
                for (std::size_t i = 0; i < n; ++i) work(context, i);
            },
            nullptr};
}

}  // namespace aurora
