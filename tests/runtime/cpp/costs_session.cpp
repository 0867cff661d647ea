// What the session itself costs, with an engine that costs nothing: allocations of a frame and of a token, and time.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <stdexcept>

#include "aurora.h"
#include "session.h"

namespace {
std::atomic<std::size_t> n_allocations{0};
}

void* operator new(std::size_t size) {
    n_allocations.fetch_add(1, std::memory_order_relaxed);
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}
void* operator new[](std::size_t size) { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace aurora;

class IdleVision : public Vision {
public:
    explicit IdleVision(const GraphSizes& sizes)
        : frame_(sizes.frame_bytes()), tokens_(sizes.n_kept * sizes.width), sizes_(sizes.n_kept), patches_(sizes.n_patches) {}
    std::uint8_t* frame() override { return frame_.data(); }
    void run() override {}
    const float* visual_tokens() const override { return tokens_.data(); }
    const std::int32_t* token_sizes() const override { return sizes_.data(); }
    const std::int32_t* token_of_patch() const override { return patches_.data(); }

private:
    std::vector<std::uint8_t> frame_;
    std::vector<float> tokens_;
    std::vector<std::int32_t> sizes_, patches_;
};

// Its answers go around the vocabulary, and never stop.
class IdleLoop : public Loop {
public:
    explicit IdleLoop(const GraphSizes& sizes)
        : input_(static_cast<std::size_t>(MAX_CHUNK_TOKENS) * sizes.width), logits_(sizes.vocabulary_size) {}
    float* input() override { return input_.data(); }
    void feed(std::size_t n_tokens) override {
        logits_[token_] = 0;
        token_ = token_ % 300 + 1;
        logits_[token_] = 1;
        n_tokens_ += n_tokens;
    }
    const float* logits() override { return logits_.data(); }
    void read_state(const std::array<float*, 3>&) const override {}
    void write_state(const std::array<const float*, 3>&) override {}

private:
    std::vector<float> input_, logits_;
    std::size_t token_ = 1, n_tokens_ = 0;
};

class IdleEngine : public Engine {
public:
    explicit IdleEngine(const GraphSizes& sizes) : sizes_(sizes) {}
    const std::string& backend() const override { return name_; }
    std::string version() const override { return "none"; }
    std::unique_ptr<Vision> open_vision() const override { return std::make_unique<IdleVision>(sizes_); }
    std::unique_ptr<Loop> open_loop() const override { return std::make_unique<IdleLoop>(sizes_); }

private:
    GraphSizes sizes_;
    std::string name_ = "idle-cpu";
};

// The testbed's tokenizer and embeddings; `vocabulary_size` rows of logits.
std::shared_ptr<const aurora::Model> idle_model(std::int64_t vocabulary_size) {
    const char* path = std::getenv("AURORA_TEST_BUNDLE");
    if (path == nullptr) throw std::runtime_error("AURORA_TEST_BUNDLE names no bundle: run these tests by `make cpp`");
    const std::string bundle = path;
    Manifest manifest = read_manifest(bundle);
    Tokenizer tokenizer = Tokenizer::from_file(resolve(bundle, manifest, "vocabulary"));
    Embeddings embeddings = Embeddings::open(resolve(bundle, manifest, "embeddings"), manifest.config.language.vocabulary_size,
                                             manifest.config.language.width, manifest.embeddings_dtype());
    manifest.config.language.vocabulary_size = vocabulary_size;
    const GraphSizes sizes(manifest.config);
    return std::make_shared<const aurora::Model>(std::move(manifest), std::move(tokenizer), std::move(embeddings),
                                                 std::make_unique<IdleEngine>(sizes), ModelOptions());
}

double thread_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

TEST(Costs, AFrameAllocatesNothingAfterTheFirst) {
    aurora::Session session(idle_model(352));
    const std::vector<std::uint8_t> rgb(640 * 480 * 3, 9), uv(640 * 480 / 2, 128);
    const Frame frame{RgbFrame{rgb.data(), 640 * 3, 640, 480}, {}, 1.5};
    const Frame camera{Nv12Frame{rgb.data(), 640, uv.data(), 640, 640, 480}, {}, 2.5};
    const std::array<Frame, 3> together{frame, camera, frame};
    const auto watch = [&] {
        session.watch(frame, {}), session.watch(camera, {});
        session.watch(together.data(), together.size(), {});
    };
    for (int i = 0; i < 2; ++i) watch();
    const std::size_t before = n_allocations;
    for (int i = 0; i < 50; ++i) watch();
    EXPECT_EQ(n_allocations - before, 0U);
}

// With the array that the C interface makes of the caller's.
TEST(Costs, FramesOfTheCInterfaceAllocateNothingAfterTheFirst) {
    aurora_model* model = nullptr;
    aurora_model_options options{};
    options.n_threads = 1;  // with more, how often differs
    ASSERT_EQ(aurora_model_open(std::getenv("AURORA_TEST_BUNDLE"), &options, &model), AURORA_OK);
    aurora_session* session = nullptr;
    ASSERT_EQ(aurora_session_new(model, &session), AURORA_OK);
    const std::vector<std::uint8_t> rgb(64 * 64 * 3, 9);
    std::array<aurora_frame, 4> frames{};
    for (aurora_frame& frame : frames)
        frame.size = sizeof frame, frame.data[0] = rgb.data(), frame.width = frame.height = 64;
    // ONNX Runtime allocates too, by the same operator: thousands of times a frame, and the same for every frame.
    const auto allocations = [&](const auto& watch) {
        watch();
        const std::size_t before = n_allocations;
        for (int i = 0; i < 10; ++i) EXPECT_EQ(watch(), AURORA_OK);
        return n_allocations - before;
    };
    const auto alone = [&] { return aurora_session_watch(session, frames.data(), nullptr); };
    const auto together = [&] { return aurora_session_watch_frames(session, frames.data(), frames.size(), nullptr); };
    allocations(together);
    const std::size_t n_alone = allocations(alone), n_together = allocations(together);
    EXPECT_EQ(n_together, frames.size() * n_alone);
    EXPECT_EQ(aurora_session_close(session), AURORA_OK);
    aurora_model_close(model);
}

TEST(Costs, ATokenAllocatesOnceAtMost) {
    aurora::Session session(idle_model(352));
    const std::vector<std::uint8_t> rgb(640 * 480 * 3, 9);
    session.watch(Frame{RgbFrame{rgb.data(), 640 * 3, 640, 480}, {}, {}}, {});
    aurora::AskOptions options;
    const auto allocations = [&](std::uint32_t n_tokens) {
        options.max_tokens = n_tokens;
        const std::size_t before = n_allocations;
        EXPECT_EQ(session.ask("What is shown?", options, [](const std::string&) { return false; }).n_tokens, n_tokens);
        return n_allocations - before;
    };
    allocations(10);
    const std::size_t few = allocations(10), many = allocations(1010);
    std::printf("allocations of a token: %.3f\n", static_cast<double>(many - few) / 1000);
    EXPECT_LE(many - few, 1000U);
}

TEST(Costs, ATokenTakesUnder50MicrosecondsBesideTheEngine) {
    aurora::Session session(idle_model(65536));  // as many as World models have
    const std::vector<std::uint8_t> rgb(640 * 480 * 3, 9);
    session.watch(Frame{RgbFrame{rgb.data(), 640 * 3, 640, 480}, {}, {}}, {});
    aurora::AskOptions options;
    options.max_tokens = 500;
    double best = 1;
    for (int i = 0; i < 5; ++i) {  // the lowest, of this thread's time: other programs on the machine only add
        const double began = thread_seconds();
        const Answer answer = session.ask("What is shown?", options, [](const std::string&) { return false; });
        best = std::min(best, (thread_seconds() - began) / answer.n_tokens);
    }
    std::printf("a token beside the engine: %.2f us\n", 1e6 * best);
    EXPECT_LT(best, 50e-6);
}

}  // namespace
