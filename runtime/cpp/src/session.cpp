#include "session.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "error.h"
#include "prompt.h"
#include "stop_texts.h"
#include "text.h"

namespace aurora {
namespace {

constexpr const char *EMPTY = "empty", *WATCHING = "watching", *ANSWERED = "answered";  // StateHeader.phase
constexpr const char* TURN_END = "\n\n";  // ends a turn in the World format; prompt.h's turn_ids has it in front

// Adds the time since the last lap to a stage.
class Clock {
public:
    double lap() {
        const auto now = std::chrono::steady_clock::now();
        const double seconds = std::chrono::duration<double>(now - last_).count();
        last_ = now;
        return seconds;
    }

private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// 64 hexadecimal digits, as the state's reader has checked.
Sha256::Digest bytes_from_hex(const std::string& text) {
    Sha256::Digest bytes{};
    const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<std::uint8_t>(digit(text.at(2 * i)) * 16 + digit(text.at(2 * i + 1)));
    return bytes;
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model)
    : model_(std::move(model)), vision_(model_->engine().open_vision()), loop_(model_->engine().open_loop()),
      resizer_(model_->config().vision.image_size, model_->config().frames.resize, model_->config().frames.pad_value()),
      separator_(separator_ids(model_->config().prompt, model_->tokenizer())), header_(zero_state().header) {}

State Session::zero_state() const {
    return aurora::zero_state(model_->config(), model_->fingerprint(), model_->manifest().precision,
                              model_->engine().backend());
}

void Session::check(const Frame& frame) {
    if (!frame.memory.is_cuda)
        std::visit([](const auto& view) { check_frame(view); }, frame.pixels);
    else
        std::visit([&](const auto& view) { device_frames().check(view); }, frame.pixels);
}

void Session::watch(const Frame* frames, std::size_t n_frames, const WatchOptions& options) {
    if (options.prompt && header_.phase == WATCHING)
        throw Error(Status::usage, "the prompt must come before the first frame, and this session is watching already",
                    "reset the session first, or pass the question when asking");
    if (count_characters(options.sampling) > 40)
        throw Error(Status::usage, "sampling has over 40 characters", "name the rule, as \"1 fps\"");
    if (n_frames == 0) throw Error(Status::usage, "there are no frames to watch", "pass at least one picture");
    for (std::size_t i = 0; i < n_frames; ++i) check(frames[i]);
    const bool begins_video = header_.phase != WATCHING;
    const Ids* before = &separator_;
    Ids prefix;
    if (begins_video) {
        prefix = ids_before_video(options);
        before = &prefix;
    }
    n_pending_ = 0;
    Waiting waiting{0, 0, video_digest_, std::nullopt};
    for (std::size_t i = 0; i < n_frames; ++i) {
        Clock clock;
        resize(frames[i]);
        seconds_[RESIZE] += clock.lap();
        vision_->run();
        has_frame_ = true;
        seconds_[VISION] += clock.lap();
        feed_ids(*before);
        feed_rows(vision_->visual_tokens(), model_->sizes().n_kept);
        const bool is_run = i + 1 == n_frames || is_run_full();
        if (is_run) finish_feed();
        Sha256 digest;  // a GPU may be at work meanwhile
        digest.update(waiting.video_digest.data(), waiting.video_digest.size());
        digest.update(vision_->frame(), model_->sizes().frame_bytes());
        waiting.video_digest = digest.finish();
        waiting.position_s = frames[i].time_s;
        waiting.n_frames += 1;
        waiting.n_text_tokens += static_cast<std::int64_t>(before->size());
        before = &separator_;
        if (is_run) move_on(waiting, begins_video && header_.phase != WATCHING, options);
        seconds_[PREFILL] += clock.lap();
    }
}

// Whether the next frame of the video is to go into a run of its own. A run reads all weights once, however many tokens it
// has: two frames of 92 tokens take less in one than in two. One token alone takes another way to its results.
bool Session::is_run_full() const {
    const std::size_t n_next = separator_.size() + model_->sizes().n_kept;
    return !model_->joins_runs() || n_pending_ == 1 || n_next == 1 || n_pending_ + n_next > MAX_CHUNK_TOKENS;
}

// Say in the header what the state has just seen, and let nothing wait.
void Session::move_on(Waiting& waiting, bool begins_video, const WatchOptions& options) {
    if (begins_video) {
        // Only this sandwich reads the question before the frames.
        const bool primed = options.prompt && model_->config().prompt.sandwich == "duplicate";
        header_.prompt_form = primed ? "primed" : "generic";
        header_.primed_for.reset();
        if (primed) header_.primed_for = first_characters(*options.prompt, MAX_PRIMED_FOR);
    }
    if (header_.frames_seen == 0)
        header_.sampling = std::string(options.sampling);
    else if (header_.sampling != options.sampling)
        header_.sampling = "mixed";
    const std::int64_t n_visual_tokens = waiting.n_frames * static_cast<std::int64_t>(model_->sizes().n_kept);
    video_digest_ = waiting.video_digest;
    header_.phase = WATCHING;
    header_.tokens_seen += waiting.n_text_tokens + n_visual_tokens;
    header_.frames_seen += waiting.n_frames;
    header_.position_s = waiting.position_s;
    n_frames_ += waiting.n_frames;
    n_visual_tokens_ += n_visual_tokens;
    n_text_tokens_ += waiting.n_text_tokens;
    waiting.n_frames = waiting.n_text_tokens = 0;
}

// Frames of a GPU are copied first, so that they give the same bits as any other.
void Session::resize(const Frame& frame) {
    std::visit(
        [&](const auto& view) {
            resizer_.resize(frame.memory.is_cuda ? device_frames().to_host(view, frame.memory.stream) : view, vision_->frame());
        },
        frame.pixels);
}

DeviceFrames& Session::device_frames() {
    const Cuda* cuda = model_->engine().cuda();
    if (cuda == nullptr)
        throw Error(Status::unsupported,
                    "the frame is in the memory of a GPU, and the model was opened on " + model_->engine().backend(),
                    "open the model on that GPU, or copy the frame to host memory");
    if (!device_frames_) device_frames_.emplace(*cuda);
    return *device_frames_;
}

// What stands before the first frame of a video.
Ids Session::ids_before_video(const WatchOptions& options) const {
    const Tokenizer& tokenizer = model_->tokenizer();
    PromptConfig config = model_->config().prompt;
    if (header_.phase == EMPTY) return prefix_ids(config, tokenizer, options.prompt);
    // A new video after an answer is a new turn of the same sequence: an empty line, and no second start of text.
    config.bos = false;
    Ids ids = tokenizer.encode(TURN_END);
    const Ids prefix = prefix_ids(config, tokenizer, options.prompt);
    ids.insert(ids.end(), prefix.begin(), prefix.end());
    return ids;
}

Answer Session::ask(std::string_view question, const AskOptions& options,
                    const std::function<bool(const std::string&)>& on_text) {
    const PromptConfig& config = model_->config().prompt;
    const Tokenizer& tokenizer = model_->tokenizer();
    if (header_.phase == EMPTY)
        throw Error(Status::usage, "nothing was watched yet", "watch a frame before asking");
    if (options.max_tokens < 1) throw Error(Status::usage, "max_tokens is 0; at least 1 is needed");
    std::vector<std::string> texts = config.stop_texts;
    texts.insert(texts.end(), options.stop.begin(), options.stop.end());
    StopTexts stops(std::move(texts));
    Sampler sampler(options.sampling);
    const Ids ids = header_.phase == WATCHING ? suffix_ids(config, tokenizer, question)
                                                     : turn_ids(config, tokenizer, question);
    Answer answer;
    Clock clock;
    n_pending_ = 0;
    feed_ids(ids);
    finish_feed();
    header_.phase = ANSWERED;
    header_.tokens_seen += static_cast<std::int64_t>(ids.size());
    n_text_tokens_ += static_cast<std::int64_t>(ids.size());
    answer.question_s = clock.lap();
    seconds_[QUESTION] += answer.question_s;

    const std::size_t n_logits = model_->sizes().vocabulary_size;
    StreamDecoder decoder(tokenizer);
    const auto shown = [&](const std::string& text) { return !text.empty() && on_text && on_text(text); };
    bool stopped = false;
    while (!stopped && !answer.cancelled && answer.n_tokens < options.max_tokens) {
        clock.lap();
        const std::int32_t token = sampler.next(loop_->logits(), n_logits);
        if (std::find(config.stop_ids.begin(), config.stop_ids.end(), token) != config.stop_ids.end()) {
            answer.end = AnswerEnd::stop;
            break;
        }
        // A token is in the state before it is shown: nobody need come back for more.
        n_pending_ = 0;
        feed_ids(&token, 1);
        finish_feed();
        header_.tokens_seen += 1;
        n_answer_tokens_ += 1;
        answer.n_tokens += 1;
        const auto piece = stops.push(decoder.push(token));
        stopped = piece.stopped;
        const double seconds = clock.lap();
        answer.answer_s += seconds;
        seconds_[ANSWER] += seconds;
        answer.cancelled = shown(piece.text) && !stopped;
        if (stopped) answer.end = AnswerEnd::stop;
    }
    if (stopped || answer.cancelled) return answer;
    if (answer.end == AnswerEnd::unfinished) answer.end = AnswerEnd::length;
    const auto rest = stops.push(decoder.flush());
    shown(rest.stopped ? rest.text : rest.text + stops.flush());
    return answer;
}

void Session::feed_ids(const std::int32_t* ids, std::size_t n_ids) {
    const std::size_t width = model_->sizes().width;
    for (std::size_t i = 0; i < n_ids; ++i) {
        if (n_pending_ == MAX_CHUNK_TOKENS) finish_feed();
        model_->embeddings().row(ids[i], loop_->input() + n_pending_ * width);
        ++n_pending_;
    }
}

void Session::feed_rows(const float* rows, std::size_t n_rows) {
    const std::size_t width = model_->sizes().width;
    for (std::size_t i = 0; i < n_rows;) {
        if (n_pending_ == MAX_CHUNK_TOKENS) finish_feed();
        const std::size_t n = std::min<std::size_t>(n_rows - i, MAX_CHUNK_TOKENS - n_pending_);
        std::memcpy(loop_->input() + n_pending_ * width, rows + i * width, n * width * sizeof(float));
        n_pending_ += n;
        i += n;
    }
}

void Session::finish_feed() {
    loop_->feed(n_pending_);
    has_logits_ = true;
    n_pending_ = 0;
}

void Session::reset() {
    continue_from(zero_state());
}

std::unique_ptr<Session> Session::clone() const {
    auto other = std::make_unique<Session>(model_);
    other->continue_from(state());
    other->loaded_ = loaded_;
    return other;
}

State Session::state() const {
    State state = zero_state();
    loop_->read_state({state.arrays[0].data(), state.arrays[1].data(), state.arrays[2].data()});
    state.header = header();
    return state;
}

StateHeader Session::header() const {
    StateHeader header = header_;
    if (header.frames_seen > 0) header.video_digest = hex_from_bytes(video_digest_.data(), video_digest_.size());
    return header;
}

void Session::continue_from(const State& state) {
    loop_->write_state({state.arrays[0].data(), state.arrays[1].data(), state.arrays[2].data()});
    header_ = state.header;
    video_digest_ = {};
    if (header_.video_digest) video_digest_ = bytes_from_hex(*header_.video_digest);
    loaded_.reset();
    has_logits_ = false;
    has_frame_ = false;
}

State Session::state_to_save() const {
    State saved = state();
    if (loaded_ && saved.header.tokens_seen > loaded_->tokens_seen) saved.header.parent_digest = loaded_->digest;
    return saved;
}

std::string Session::encode(bool packed) const { return bytes_from_state(state_to_save(), model_->config(), packed); }

void Session::decode(std::string_view bytes, const std::string& name) {
    continue_from_file(state_from_bytes(bytes, model_->config(), model_->fingerprint(), name));
}

std::uint64_t Session::save(const std::string& path, bool packed) const {
    return save_state(path, state_to_save(), model_->config(), packed);
}

void Session::load(const std::string& path) {
    continue_from_file(load_state(path, model_->config(), model_->fingerprint()));
}

void Session::continue_from_file(const State& state) {
    continue_from(state);
    loaded_ = Loaded{state.digest(), state.header.tokens_seen};
}

std::string Session::info() const {
    const StateHeader header = this->header();
    const auto or_null = [](const auto& value) { return value ? Json(*value) : Json(); };
    const Json info = {{"fingerprint", header.fingerprint},
                       {"precision", header.precision},
                       {"backend", header.backend},
                       {"phase", header.phase},
                       {"tokens_seen", header.tokens_seen},
                       {"frames_seen", header.frames_seen},
                       {"position_s", or_null(header.position_s)},
                       {"video_digest", or_null(header.video_digest)},
                       {"prompt_form", or_null(header.prompt_form)},
                       {"primed_for", or_null(header.primed_for)},
                       {"sampling", or_null(header.sampling)},
                       {"parent_digest", or_null(header.parent_digest)},
                       {"n_frames", n_frames_},
                       {"n_visual_tokens", n_visual_tokens_},
                       {"n_text_tokens", n_text_tokens_},
                       {"n_answer_tokens", n_answer_tokens_},
                       {"seconds",
                        {{"resize", seconds_[RESIZE]},
                         {"vision", seconds_[VISION]},
                         {"prefill", seconds_[PREFILL]},
                         {"question", seconds_[QUESTION]},
                         {"answer", seconds_[ANSWER]}}}};
    return info.dump(-1, ' ', true);
}

}  // namespace aurora
