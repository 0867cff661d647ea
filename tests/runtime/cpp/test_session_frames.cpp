// Frames watched together, with an engine that notes what it is given: the same tokens as one by one, in fewer runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "error.h"
#include "session.h"

namespace aurora {
namespace {

constexpr std::size_t SIDE = 96;

// What both graphs were given, and where they are to fail.
struct Notes {
    std::vector<float> rows;
    std::vector<std::size_t> runs;
    int n_visions = 0, fails_at_vision = 0, fails_at_run = 0;
};

class NotingVision : public Vision {
public:
    NotingVision(const GraphSizes& sizes, Notes& notes)
        : notes_(notes), frame_(sizes.frame_bytes()), tokens_(sizes.n_kept * sizes.width), numbers_(sizes.n_patches) {}
    std::uint8_t* frame() override { return frame_.data(); }
    void run() override {
        if (++notes_.n_visions == notes_.fails_at_vision) throw std::runtime_error("vision");
        for (std::size_t i = 0; i < tokens_.size(); ++i) tokens_[i] = frame_[i % frame_.size()] + static_cast<float>(i);
    }
    const float* visual_tokens() const override { return tokens_.data(); }
    const std::int32_t* token_sizes() const override { return numbers_.data(); }
    const std::int32_t* token_of_patch() const override { return numbers_.data(); }

private:
    Notes& notes_;
    std::vector<std::uint8_t> frame_;
    std::vector<float> tokens_;
    std::vector<std::int32_t> numbers_;
};

class NotingLoop : public Loop {
public:
    NotingLoop(const GraphSizes& sizes, Notes& notes)
        : notes_(notes), width_(sizes.width), input_(static_cast<std::size_t>(MAX_CHUNK_TOKENS) * sizes.width),
          logits_(sizes.vocabulary_size) {}
    float* input() override { return input_.data(); }
    void feed(std::size_t n_tokens) override {
        ASSERT_LE(n_tokens, static_cast<std::size_t>(MAX_CHUNK_TOKENS));
        notes_.runs.push_back(n_tokens);
        if (static_cast<int>(notes_.runs.size()) == notes_.fails_at_run) throw std::runtime_error("run");
        notes_.rows.insert(notes_.rows.end(), input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(n_tokens * width_));
    }
    const float* logits() override { return logits_.data(); }
    void read_state(const std::array<float*, 3>&) const override {}
    void write_state(const std::array<const float*, 3>&) override {}

private:
    Notes& notes_;
    std::size_t width_;
    std::vector<float> input_, logits_;
};

class NotingEngine : public Engine {
public:
    NotingEngine(const GraphSizes& sizes, Notes& notes) : sizes_(sizes), notes_(notes) {}
    const std::string& backend() const override { return name_; }
    std::string version() const override { return "none"; }
    std::unique_ptr<Vision> open_vision() const override { return std::make_unique<NotingVision>(sizes_, notes_); }
    std::unique_ptr<Loop> open_loop() const override { return std::make_unique<NotingLoop>(sizes_, notes_); }

private:
    GraphSizes sizes_;
    Notes& notes_;
    std::string name_ = "noting-cpu";
};

// A session of the testbed's model on that engine.
struct Watcher {
    explicit Watcher(const std::string& precision = "int8", const ModelOptions& options = {}) {
        const char* path = std::getenv("AURORA_TEST_BUNDLE");
        if (path == nullptr) throw std::runtime_error("AURORA_TEST_BUNDLE names no bundle: run these tests by `make cpp`");
        const std::string bundle = path;
        Manifest manifest = read_manifest(bundle);
        manifest.precision = precision;
        Tokenizer tokenizer = Tokenizer::from_file(resolve(bundle, manifest, "vocabulary"));
        const GraphSizes sizes(manifest.config);
        Embeddings table = Embeddings::open(resolve(bundle, manifest, "embeddings"), manifest.config.language.vocabulary_size,
                                            manifest.config.language.width, "float32");
        session = std::make_unique<Session>(std::make_shared<const Model>(std::move(manifest), std::move(tokenizer), std::move(table),
                                                                          std::make_unique<NotingEngine>(sizes, notes), options));
    }
    // The header, and what was counted, without the seconds.
    std::string said() const { return session->info().substr(0, session->info().find("\"seconds\"")); }
    bool is_as(const Watcher& other) const { return notes.rows == other.notes.rows && said() == other.said(); }

    Notes notes;
    std::unique_ptr<Session> session;
};

// Frames of RGB and NV12 in turns, each another picture at another time.
class FramesTogether : public ::testing::Test {
protected:
    explicit FramesTogether(std::size_t n = 60) {
        for (std::size_t i = 0; i < n; ++i) {
            pictures.emplace_back(SIDE * SIDE * 3);
            for (std::size_t j = 0; j < pictures[i].size(); ++j) pictures[i][j] = static_cast<std::uint8_t>(j * (i + 1) / 7 + i * 40);
        }
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint8_t* data = pictures[i].data();
            const auto side = static_cast<std::ptrdiff_t>(SIDE);
            Frame frame{RgbFrame{data, 3 * side, side, side}, {}, 0.5 * static_cast<double>(i)};
            if (i % 3 == 1) frame.pixels = Nv12Frame{data, side, data + side * side, side, side, side};
            if (i % 5 == 4) frame.time_s.reset();
            frames.push_back(frame);
        }
    }
    void watch_alone(Watcher& watcher, const WatchOptions& first = {}, std::size_t n = SIZE_MAX) const {
        WatchOptions options = first;
        for (std::size_t i = 0; i < std::min(n, frames.size()); ++i) {
            watcher.session->watch(frames[i], options);
            options.prompt.reset();
        }
    }
    void watch_together(Watcher& watcher, const WatchOptions& options = {}) const {
        watcher.session->watch(frames.data(), frames.size(), options);
    }

    std::vector<std::vector<std::uint8_t>> pictures;
    std::vector<Frame> frames;
};

TEST_F(FramesTogether, AreTheSameTokensInAsFewRunsAsFit) {
    Watcher alone, together;
    watch_alone(alone), watch_together(together);
    EXPECT_TRUE(together.is_as(alone));
    EXPECT_EQ(alone.notes.runs.size(), frames.size());
    const std::size_t one = alone.notes.runs[1], fit = (256 - alone.notes.runs[0]) / one + 1;
    ASSERT_GT(fit, 10U);
    EXPECT_EQ(together.notes.runs.size(), 1 + (frames.size() - fit + 256 / one - 1) / (256 / one));
    EXPECT_EQ(together.notes.runs[0], alone.notes.runs[0] + (fit - 1) * one);
    EXPECT_EQ(together.notes.runs[1], 256 / one * one);
    const std::vector<float> last(alone.session->visual_tokens(), alone.session->visual_tokens() + 100);
    EXPECT_EQ(last, std::vector<float>(together.session->visual_tokens(), together.session->visual_tokens() + 100));
    watch_alone(alone), watch_together(together);  // more of the same video
    EXPECT_TRUE(together.is_as(alone));
    alone.session->ask("What?", {}, {}), together.session->ask("What?", {}, {});
    WatchOptions options;
    options.sampling = "1 fps";
    watch_alone(alone, options), watch_together(together, options);  // a second video
    EXPECT_TRUE(together.is_as(alone));
}

TEST_F(FramesTogether, AfterAPromptThatFillsRuns) {
    // With 245 the first frame leaves one token over, which is not to be joined.
    frames.resize(4);
    for (const std::size_t n : {243U, 244U, 245U, 246U, 500U}) {
        const std::string prompt(n, '~');
        WatchOptions options;
        options.prompt = prompt;
        Watcher alone, together;
        watch_alone(alone, options), watch_together(together, options);
        EXPECT_TRUE(together.is_as(alone)) << n;
        for (const Watcher* watcher : {&alone, &together})
            EXPECT_EQ(std::count(watcher->notes.runs.begin(), watcher->notes.runs.end(), 1U), n == 245 ? 1 : 0) << n;
    }
}

TEST_F(FramesTogether, ARunForEachWhereRunsRoundTheirOwnWay) {
    ModelOptions plain, cuda, tensorrt;
    plain.engine.native_operators = false;
    cuda.engine.cuda = true;
    tensorrt.backend = BackendChoice::tensorrt;
    Watcher alone;
    watch_alone(alone);
    for (const auto& [precision, options] : {std::pair{"fp32", ModelOptions()}, std::pair{"fp8-qdq", ModelOptions()},
                                             std::pair{"int8", plain}, std::pair{"int8", cuda}, std::pair{"int4", tensorrt}}) {
        Watcher together(precision, options);
        watch_together(together);
        EXPECT_EQ(together.notes.runs, alone.notes.runs) << precision;
        EXPECT_EQ(together.notes.rows, alone.notes.rows);
    }
    Watcher int4("int4");
    watch_together(int4);
    EXPECT_LT(int4.notes.runs.size(), 5U);
}

TEST_F(FramesTogether, ARefusedOneIsRefusedBeforeAnythingRan) {
    Watcher watcher;
    watch_alone(watcher, {}, 2);
    const std::string before = watcher.said();
    const auto expect_refused = [&](const std::vector<Frame>& given, const WatchOptions& options, Status status) {
        try {
            watcher.session->watch(given.data(), given.size(), options);
            ADD_FAILURE();
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), status);
        }
        EXPECT_EQ(watcher.said(), before);
        EXPECT_EQ(watcher.notes.n_visions, 2);
    };
    std::vector<Frame> bad = frames;
    std::get<RgbFrame>(bad.back().pixels = frames[0].pixels).row_stride = 5;
    expect_refused(bad, {}, Status::usage);
    bad = frames;
    bad[40].memory.is_cuda = true;
    expect_refused(bad, {}, Status::unsupported);
    expect_refused({}, {}, Status::usage);
    WatchOptions options;
    options.prompt = "What?";
    expect_refused(frames, options, Status::usage);
}

TEST_F(FramesTogether, AFailureOfTheEngineLeavesTheStateBehindOneOfThem) {
    for (const auto& [vision, run] : {std::pair{1, 0}, {40, 0}, {0, 1}, {0, 2}}) {
        Watcher watcher, expected;
        watcher.notes.fails_at_vision = vision, watcher.notes.fails_at_run = run;
        EXPECT_THROW(watch_together(watcher), std::runtime_error);
        watcher.notes.fails_at_vision = watcher.notes.fails_at_run = 0;
        const std::string frames_seen = "\"frames_seen\":", said = watcher.said();
        const std::size_t n = std::stoul(said.substr(said.find(frames_seen) + frames_seen.size()));
        EXPECT_EQ(n > 0, vision == 40 || run == 2);
        watch_alone(expected, {}, n);
        EXPECT_TRUE(watcher.is_as(expected)) << watcher.said() << expected.said();
        watch_together(watcher), watch_alone(expected);  // and it goes on
        EXPECT_TRUE(watcher.is_as(expected));
    }
}

}  // namespace
}  // namespace aurora
