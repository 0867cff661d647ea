// The rules of aurora.h for threads, under ThreadSanitizer: one model for many sessions, a session for one thread at a time.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "testbed_model.h"

namespace {

using aurora::Session;

std::string watch_and_ask(const aurora::Model& model, std::uint32_t seed) {
    Session session(model);
    for (std::uint32_t i = 0; i < 3; ++i) session.watch(aurora::rgb(picture(seed + i).data(), SIDE, SIDE));
    std::string text = session.ask("What is shown?");
    const std::vector<std::uint8_t> state = session.save();
    session.load({state.data(), state.size()});
    return text + session.clone().ask("How many objects appear?");
}

// The first of all, so that ONNX Runtime meets our operators in several threads at once.
TEST(Threads, ModelsOpenAndCloseSideBySide) {
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < 3; ++i)
        threads.emplace_back([i] {
            for (int again = 0; again < 2; ++again) watch_and_ask(open_testbed(2), i);  // 2: both graphs of each at once too
        });
    for (std::thread& thread : threads) thread.join();
}

TEST(Threads, OneModelServesManySessions) {
    const aurora::Model model = open_testbed();
    constexpr std::uint32_t N = 4;
    std::vector<std::string> expected, found(N);
    for (std::uint32_t i = 0; i < N; ++i) expected.push_back(watch_and_ask(model, 10 * i));
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < N; ++i)
        threads.emplace_back([&, i] {
            for (int again = 0; again < 3; ++again) {
                found[i] = watch_and_ask(model, 10 * i);
                if (found[i] != expected[i]) return;
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(found, expected);
}

TEST(Threads, ASecondThreadInASessionIsTurnedAway) {
    const aurora::Model model = open_testbed();
    Session session(model);
    session.watch(aurora::rgb(picture(0).data(), SIDE, SIDE));
    std::atomic<int> n_turned_away{0}, n_done{0};
    aurora_ask_options options = aurora::ask_options();
    options.temperature = 1000;
    session.ask("What?", [&](std::string_view) {
        std::thread([&] { n_turned_away += aurora_session_reset(session.get()) == AURORA_ERROR_BUSY; }).join();
        std::thread([&] { n_done += aurora_session_close(session.get()) == AURORA_OK; }).join();
        return true;
    }, options);
    EXPECT_EQ(n_turned_away, 1);
    EXPECT_EQ(n_done, 0);
    std::vector<std::thread> threads;  // all at once: each call is whole, or was turned away
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int j = 0; j < 50; ++j) {
                const aurora_status status = aurora_session_reset(session.get());
                if (status != AURORA_OK && status != AURORA_ERROR_BUSY) n_done += 1;
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(n_done, 0);
}

TEST(Threads, ASessionMovesBetweenThreads) {
    const aurora::Model model = open_testbed();
    Session session(model);
    for (std::uint32_t i = 0; i < 3; ++i)
        std::thread([&] { session.watch(aurora::rgb(picture(i).data(), SIDE, SIDE)); }).join();
    std::string text;
    std::thread([&] { text = session.ask("What is shown?"); }).join();
    EXPECT_FALSE(text.empty());
}

}  // namespace
