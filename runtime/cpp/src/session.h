// A conversation about a video: frames and text go into one recurrent state, an answer comes out.
// Mirrors runtime/session.py, which draws the data flow.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "cuda_frames.h"
#include "frames.h"
#include "model.h"
#include "sampling.h"
#include "state_file.h"

namespace aurora {

enum class AnswerEnd { unfinished = 0, stop = 1, length = 2 };

struct AskOptions {
    SamplingOptions sampling;
    std::uint32_t max_tokens = 256;
    std::vector<std::string> stop;
};

struct Answer {
    AnswerEnd end = AnswerEnd::unfinished;
    bool cancelled = false;
    std::uint32_t n_tokens = 0;
    double question_s = 0, answer_s = 0;
};

struct WatchOptions {
    std::optional<std::string_view> prompt;
    std::string_view sampling = "as given";
};

// Where the pixels of a frame are: in memory of the host, or of the model's GPU, behind the work of a CUstream.
struct FrameMemory {
    bool is_cuda = false;
    void* stream = nullptr;
};

struct Frame {
    std::variant<RgbFrame, Nv12Frame> pixels;
    FrameMemory memory;
    std::optional<double> time_s;
};

// Not for several threads at once; c_api.cpp sees to that.
class Session {
public:
    explicit Session(std::shared_ptr<const Model> model);

    // Throws Error: usage for a frame that cannot be, unsupported for one in the memory of a GPU that the model does not use.
    void check(const Frame& frame);

    // Read frames, and the text before each, into the state: the same as one call for each. Throws Error, and nothing has
    // changed: as check for any of them, usage for none at all and for a prompt in mid-video. An error of the engine leaves
    // the state, and what is said of it, before or after one of the frames.
    void watch(const Frame* frames, std::size_t n_frames, const WatchOptions& options);
    void watch(const Frame& frame, const WatchOptions& options) { watch(&frame, 1, options); }

    // Answer in pieces, each a whole text; `on_text` returns true to cancel.
    Answer ask(std::string_view question, const AskOptions& options, const std::function<bool(const std::string&)>& on_text);

    void reset();
    std::unique_ptr<Session> clone() const;

    // The state as the bytes of a `.aurstate` file, and back. `name` stands in messages.
    std::string encode(bool packed) const;
    void decode(std::string_view bytes, const std::string& name);
    std::uint64_t save(const std::string& path, bool packed) const;
    void load(const std::string& path);

    const Model& model() const { return *model_; }
    const float* visual_tokens() const { return has_frame_ ? vision_->visual_tokens() : nullptr; }  // (K, E)
    const float* logits() { return has_logits_ ? loop_->logits() : nullptr; }                        // (V)
    std::string info() const;

private:
    enum Stage { RESIZE, VISION, PREFILL, QUESTION, ANSWER, N_STAGES };

    // Frames whose tokens wait in the loop's input, and what is said of the state once they are in it.
    struct Waiting {
        std::int64_t n_frames = 0, n_text_tokens = 0;
        Sha256::Digest video_digest;
        std::optional<double> position_s;
    };
    void move_on(Waiting& waiting, bool begins_video, const WatchOptions& options);

    // The saved state that this session continues.
    struct Loaded {
        std::string digest;
        std::int64_t tokens_seen;
    };

    // Text and tokens on their way into the language graph, cut into runs of MAX_CHUNK_TOKENS. At least one is fed.
    void feed_ids(const Ids& ids) { feed_ids(ids.data(), ids.size()); }
    void feed_ids(const std::int32_t* ids, std::size_t n_ids);
    void feed_rows(const float* rows, std::size_t n_rows);
    void finish_feed();
    void resize(const Frame& frame);
    DeviceFrames& device_frames();
    bool is_run_full() const;

    Ids ids_before_video(const WatchOptions& options) const;
    State zero_state() const;
    StateHeader header() const;
    State state() const;
    State state_to_save() const;
    void continue_from(const State& state);
    void continue_from_file(const State& state);

    std::shared_ptr<const Model> model_;
    std::unique_ptr<Vision> vision_;
    std::unique_ptr<Loop> loop_;
    Resizer resizer_;
    Ids separator_;
    StateHeader header_;  // without video_digest, which is kept as bytes
    std::array<std::uint8_t, 32> video_digest_{};
    std::optional<Loaded> loaded_;
    std::optional<DeviceFrames> device_frames_;
    bool has_logits_ = false;
    std::size_t n_pending_ = 0;  // rows in the loop's input that were not run yet
    bool has_frame_ = false;
    std::int64_t n_frames_ = 0, n_visual_tokens_ = 0, n_text_tokens_ = 0, n_answer_tokens_ = 0;
    std::array<double, N_STAGES> seconds_{};
};

}  // namespace aurora
