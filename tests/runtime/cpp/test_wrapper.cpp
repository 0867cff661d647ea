// aurora.hpp over the C interface over ONNX Runtime, as a program in C++ uses them; under the sanitizers.
#include <gtest/gtest.h>

#include "testbed_model.h"

namespace {

using aurora::Exception;
using aurora::Session;

TEST(Wrapper, WatchesAsksAndSaves) {
    const aurora::Model model = open_testbed();
    Session session(model);
    for (std::uint32_t i = 0; i < 3; ++i) session.watch(aurora::rgb(picture(i).data(), SIDE, SIDE));
    Session other = session.clone();
    const std::string answer = session.ask("What is shown?");
    EXPECT_FALSE(answer.empty());
    EXPECT_EQ(answer, other.ask("What is shown?"));
    const std::vector<std::uint8_t> state = session.save();
    Session third(model);
    third.load({state.data(), state.size()});
    EXPECT_EQ(third.save(), state);
    EXPECT_NE(third.info().find("\"phase\":\"answered\""), std::string::npos);
}

TEST(Wrapper, WatchesFramesTogether) {
    const aurora::Model model = open_testbed();
    std::vector<std::vector<std::uint8_t>> pictures;
    std::vector<aurora_frame> frames;
    for (std::uint32_t i = 0; i < 3; ++i) {
        pictures.push_back(picture(i));
        frames.push_back(aurora::rgb(pictures.back().data(), SIDE, SIDE));
    }
    Session together(model), alone(model);
    together.watch_frames({frames.data(), frames.size()}, "What is shown?");
    for (std::size_t i = 0; i < 3; ++i) alone.watch(frames[i], i == 0 ? "What is shown?" : nullptr);
    EXPECT_EQ(together.save(), alone.save());
    EXPECT_THROW(together.watch_frames({nullptr, 2}), Exception);
    EXPECT_THROW(together.watch_frames({frames.data(), 0}), Exception);
    EXPECT_EQ(together.save(), alone.save());
}

TEST(Wrapper, TakesNv12) {
    const aurora::Model model = open_testbed();
    Session session(model);
    const std::vector<std::uint8_t> grey(SIDE * SIDE, 126), none(SIDE * SIDE / 2, 128);
    session.watch(aurora::nv12(grey.data(), SIDE, none.data(), SIDE, SIDE, SIDE));
    const aurora::TokensView tokens = session.visual_tokens();
    const std::vector<float> seen(tokens.all.begin(), tokens.all.end());
    const std::vector<std::uint8_t> rgb(SIDE * SIDE * 3, 128);  // (126 - 16) * 255 / 219
    Session other(model);
    other.watch(aurora::rgb(rgb.data(), SIDE, SIDE));
    const aurora::TokensView expected = other.visual_tokens();
    EXPECT_EQ(seen, std::vector<float>(expected.all.begin(), expected.all.end()));
}

TEST(Wrapper, CancelsAndPassesExceptionsOn) {
    const aurora::Model model = open_testbed();
    Session session(model);
    session.watch(aurora::rgb(picture(1).data(), SIDE, SIDE));
    aurora_ask_options options = aurora::ask_options();
    options.temperature = 1000;  // nearly any token, so that there are many
    const aurora_answer cut = session.ask("What?", [](std::string_view) { return true; }, options);
    EXPECT_EQ(cut.end, AURORA_END_UNFINISHED);
    EXPECT_THROW(session.ask("What?", [](std::string_view) -> void { throw std::out_of_range("mine"); }, options),
                 std::out_of_range);
    EXPECT_FALSE(session.ask("What?").empty());
}

TEST(Wrapper, ThrowsWithStatusAndText) {
    try {
        aurora::Model model("/no/such/bundle");
        FAIL();
    } catch (const Exception& error) {
        EXPECT_EQ(error.status(), AURORA_ERROR_USAGE);
        EXPECT_NE(std::string(error.what()).find("no such bundle"), std::string::npos);
    }
}

// Of builds with assertions, which this one is.
TEST(CInterface, KnowsHandlesThatWereClosed) {
    aurora_model* model = nullptr;
    ASSERT_EQ(aurora_model_open(testbed_bundle().c_str(), nullptr, &model), AURORA_OK);
    aurora_session* session = nullptr;
    ASSERT_EQ(aurora_session_new(model, &session), AURORA_OK);
    ASSERT_EQ(aurora_session_close(session), AURORA_OK);
    EXPECT_EQ(aurora_session_close(session), AURORA_ERROR_USAGE);
    EXPECT_EQ(aurora_session_reset(session), AURORA_ERROR_USAGE);
    EXPECT_EQ(aurora_session_info(session), nullptr);
    aurora_model_close(model);
    aurora_model_close(model);
    EXPECT_EQ(aurora_model_info(model), nullptr);
    EXPECT_EQ(aurora_session_new(model, &session), AURORA_ERROR_USAGE);
    EXPECT_EQ(aurora_session_close(session), AURORA_OK);
}

}  // namespace
