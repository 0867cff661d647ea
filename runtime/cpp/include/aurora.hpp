// aurora.hpp: aurora.h for C++17. Handles that close themselves, exceptions, views of memory; header-only.
//
//     aurora::Model model("my.aurora");
//     aurora::Session session(model);
//     session.watch(aurora::rgb(pixels, width, height));
//     session.ask("What happened?", [](std::string_view text) { std::cout << text << std::flush; });
//
// Everything that aurora.h says of ownership and threads holds here. All functions throw aurora::Exception.
#ifndef AURORA_HPP
#define AURORA_HPP

#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "aurora.h"

namespace aurora {
// An inner namespace, so that a program that links libaurora.a does not meet the classes inside of it.
inline namespace wrapper_1 {

class Exception : public std::runtime_error {
public:
    Exception(aurora_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
    aurora_status status() const noexcept { return status_; }

private:
    aurora_status status_;
};

// Memory of somebody else; std::span for C++17.
template <typename T>
struct Span {
    const T* data;
    std::size_t size;
    const T* begin() const { return data; }
    const T* end() const { return data + size; }
    const T& operator[](std::size_t i) const { return data[i]; }
};

// Rows of tokens, (n_tokens, width).
struct TokensView {
    Span<float> all;
    std::size_t n_tokens, width;
    Span<float> operator[](std::size_t i) const { return {all.data + i * width, width}; }
};

inline aurora_frame rgb(const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height, std::ptrdiff_t stride = 0) {
    aurora_frame frame{};
    frame.size = sizeof frame;
    frame.data[0] = pixels;
    frame.stride[0] = stride;
    frame.width = width;
    frame.height = height;
    return frame;
}

inline aurora_frame nv12(const std::uint8_t* y, std::ptrdiff_t y_stride, const std::uint8_t* uv, std::ptrdiff_t uv_stride,
                         std::uint32_t width, std::uint32_t height, aurora_colour colour = AURORA_BT709_LIMITED) {
    aurora_frame frame = rgb(y, width, height, y_stride);
    frame.format = AURORA_NV12;
    frame.data[1] = uv;
    frame.stride[1] = uv_stride;
    frame.colour = colour;
    return frame;
}

// The same frame, its planes being addresses of the model's GPU; see aurora_frame.cuda_stream.
inline aurora_frame in_cuda_memory(aurora_frame frame, void* stream = nullptr) {
    frame.memory = AURORA_MEMORY_CUDA;
    frame.cuda_stream = stream;
    return frame;
}

inline aurora_model_options model_options() {
    aurora_model_options options{};
    options.size = sizeof options;
    return options;
}

inline aurora_ask_options ask_options() {
    aurora_ask_options options{};
    options.size = sizeof options;
    return options;
}

class Model {
public:
    explicit Model(const std::string& bundle, const aurora_model_options& options = model_options()) {
        const aurora_status status = aurora_model_open(bundle.c_str(), &options, &handle_);
        if (status == AURORA_OK) return;
        const std::string text = aurora_model_last_error(handle_);
        aurora_model_close(handle_);
        throw Exception(status, text);
    }
    Model(Model&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Model& operator=(Model&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Model() { aurora_model_close(handle_); }

    std::string info() const { return aurora_model_info(handle_); }
    const aurora_model* get() const { return handle_; }

private:
    aurora_model* handle_ = nullptr;
};

class Session {
public:
    explicit Session(const Model& model) { check_new(aurora_session_new(model.get(), &handle_)); }
    Session(Session&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Session& operator=(Session&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Session() { aurora_session_close(handle_); }

    Session clone() const {
        Session other;
        other.check_new(aurora_session_clone(handle_, &other.handle_));
        return other;
    }

    // prompt: the question, if it is known before the first frame; or nullptr.
    void watch(const aurora_frame& frame, const char* prompt = nullptr) {
        const aurora_watch_options options = watch_options(prompt);
        check(aurora_session_watch(handle_, &frame, &options));
    }
    // The same state as by one call for each, sooner; prompt: at the first.
    void watch_frames(Span<aurora_frame> frames, const char* prompt = nullptr) {
        const aurora_watch_options options = watch_options(prompt);
        check(aurora_session_watch_frames(handle_, frames.data, frames.size, &options));
    }

    // on_text may return void, or true to end the answer; what it throws ends the answer and comes out of here.
    template <typename OnText>
    aurora_answer ask(const std::string& question, OnText&& on_text, const aurora_ask_options& options = ask_options()) {
        Sink<std::decay_t<OnText>> sink{on_text, nullptr};
        aurora_answer answer{};
        answer.size = sizeof answer;
        const aurora_status status = aurora_session_ask(handle_, question.c_str(), &options, sink.callback, &sink, &answer);
        if (sink.thrown != nullptr) std::rethrow_exception(sink.thrown);
        if (status != AURORA_CANCELLED) check(status);
        return answer;
    }
    std::string ask(const std::string& question, const aurora_ask_options& options = ask_options()) {
        std::string text;
        ask(question, [&](std::string_view piece) { text += piece; }, options);
        return text;
    }

    void reset() { check(aurora_session_reset(handle_)); }

    std::uint64_t save(const std::string& path, bool packed = false) {
        std::uint64_t n_bytes = 0;
        check(aurora_session_save(handle_, path.c_str(), packed, &n_bytes));
        return n_bytes;
    }
    void load(const std::string& path) { check(aurora_session_load(handle_, path.c_str())); }

    std::vector<std::uint8_t> save() {
        std::size_t n_bytes = 0;
        check(aurora_session_save_to(handle_, nullptr, &n_bytes));
        std::vector<std::uint8_t> bytes(n_bytes);
        check(aurora_session_save_to(handle_, bytes.data(), &n_bytes));
        return bytes;
    }
    void load(Span<std::uint8_t> bytes) { check(aurora_session_load_from(handle_, bytes.data, bytes.size)); }

    // Valid until the next call on this session.
    TokensView visual_tokens() {
        const float* data = nullptr;
        std::size_t n_tokens = 0, width = 0;
        check(aurora_session_visual_tokens(handle_, &data, &n_tokens, &width));
        return {{data, n_tokens * width}, n_tokens, width};
    }
    Span<float> logits() {
        const float* data = nullptr;
        std::size_t n = 0;
        check(aurora_session_logits(handle_, &data, &n));
        return {data, n};
    }

    std::string info() {
        const char* text = aurora_session_info(handle_);
        if (text == nullptr) throw Exception(AURORA_ERROR_UNEXPECTED, aurora_session_last_error(handle_));
        return text;
    }
    aurora_session* get() const { return handle_; }

private:
    template <typename OnText>
    struct Sink {
        OnText& on_text;
        std::exception_ptr thrown;

        static int callback(void* self, const char* text, std::size_t n_bytes) noexcept {
            Sink& sink = *static_cast<Sink*>(self);
            try {
                const std::string_view piece(text, n_bytes);
                if constexpr (std::is_void_v<decltype(sink.on_text(piece))>)
                    return sink.on_text(piece), 0;
                else
                    return sink.on_text(piece) ? 1 : 0;
            } catch (...) {
                sink.thrown = std::current_exception();
                return 1;
            }
        }
    };

    Session() = default;

    static aurora_watch_options watch_options(const char* prompt) {
        aurora_watch_options options{};
        options.size = sizeof options;
        options.prompt = prompt;
        return options;
    }
    void check(aurora_status status) const {
        if (status == AURORA_OK) return;
        if (status == AURORA_ERROR_BUSY) throw Exception(status, "the session is at work in another call");
        throw Exception(status, aurora_session_last_error(handle_));
    }
    void check_new(aurora_status status) {
        if (status == AURORA_OK) return;
        const std::string text = aurora_session_last_error(handle_);
        aurora_session_close(std::exchange(handle_, nullptr));
        throw Exception(status, text);
    }

    aurora_session* handle_ = nullptr;
};

}  // namespace wrapper_1
}  // namespace aurora
#endif
