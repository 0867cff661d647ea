#include "background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>

namespace aurora {
namespace {

TEST(Background, GivesWhatTheCallReturnedAndOwnsItMeanwhile) {
    const auto caller = std::this_thread::get_id();
    Background<std::unique_ptr<std::thread::id>> call([] { return std::make_unique<std::thread::id>(std::this_thread::get_id()); });
    EXPECT_NE(*call.get(), caller);
    Background<std::unique_ptr<int>> never_asked([] { return std::make_unique<int>(1); });  // LeakSanitizer sees the rest
}

TEST(Background, ThrowsWhatTheCallThrew) {
    Background<int> call([]() -> int { throw std::runtime_error("no graph"); });
    EXPECT_THROW(call.get(), std::runtime_error);
    Background<int> never_asked([]() -> int { throw std::runtime_error("lost"); });
}

TEST(Background, IsWaitedForIfSomethingElseIsThrown) {
    std::atomic<bool> is_done{false};
    try {
        Background<int> call([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            is_done = true;
            return 1;
        });
        throw std::runtime_error("digests");
    } catch (const std::runtime_error&) {
        EXPECT_TRUE(is_done);
    }
}

}  // namespace
}  // namespace aurora
