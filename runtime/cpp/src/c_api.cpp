// aurora.h over the modules: handles, and every exception turned into a status and a text.
#include "aurora.h"

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <vector>

#ifndef NDEBUG
#include <mutex>
#include <unordered_set>
#endif

#include "c_structs.h"
#include "error.h"
#include "session.h"
#include "version.h"

using aurora::Error;
using aurora::Session;
using aurora::Status;

struct aurora_model {
    std::shared_ptr<const aurora::Model> model;  // null after a failed open
    std::string error;
};

struct aurora_session {
    std::unique_ptr<Session> session;  // null after a failed aurora_session_new
    std::string error, info;
    std::vector<aurora::Frame> frames;  // of one call; kept for its memory
    std::atomic<bool> is_busy{false};
};

namespace {

#define AURORA_SAME(name, constant) static_assert(static_cast<int>(Status::name) == constant, "error.h is as aurora.h")
AURORA_SAME(ok, AURORA_OK);
AURORA_SAME(unexpected, AURORA_ERROR_UNEXPECTED);
AURORA_SAME(usage, AURORA_ERROR_USAGE);
AURORA_SAME(incompatible, AURORA_ERROR_INCOMPATIBLE);
AURORA_SAME(integrity, AURORA_ERROR_INTEGRITY);
AURORA_SAME(resources, AURORA_ERROR_RESOURCES);
AURORA_SAME(dependency, AURORA_ERROR_DEPENDENCY);
AURORA_SAME(unsupported, AURORA_ERROR_UNSUPPORTED);
AURORA_SAME(busy, AURORA_ERROR_BUSY);
AURORA_SAME(cancelled, AURORA_CANCELLED);

// The one global state, of builds with assertions only: which handles are open.
#ifndef NDEBUG
std::mutex open_mutex;
std::unordered_set<const void*>& open_handles() {
    static auto* const handles = new std::unordered_set<const void*>;  // outlives every other object
    return *handles;
}
void note_open(const void* handle) {
    const std::lock_guard<std::mutex> lock(open_mutex);
    open_handles().insert(handle);
}
void note_closed(const void* handle) {
    const std::lock_guard<std::mutex> lock(open_mutex);
    open_handles().erase(handle);
}
bool is_open(const void* handle) {
    const std::lock_guard<std::mutex> lock(open_mutex);
    return handle != nullptr && open_handles().count(handle) == 1;
}
#else
void note_open(const void*) {}
void note_closed(const void*) {}
bool is_open(const void* handle) { return handle != nullptr; }
#endif

// Runs an action; what it throws becomes a status, and a text in `error`. Throws nothing: a text that cannot be
// allocated is left out.
template <typename Action>
aurora_status guarded(std::string& error, const Action& action) noexcept {
    Status status = Status::unexpected;
    try {
        try {
            error.clear();
            return action();
        } catch (const Error& caught) {
            status = caught.status();
            error = caught.what();
            if (!caught.hint().empty()) error += " (" + caught.hint() + ")";
        } catch (const std::bad_alloc&) {
            status = Status::resources;
            error = "out of memory";
        } catch (const std::exception& caught) {
            error = caught.what();
        } catch (...) {
            error = "an unknown exception";
        }
    } catch (...) {
        error.clear();
    }
    return static_cast<aurora_status>(status);
}

// Marks a session as at work, for one call.
class Turn {
public:
    explicit Turn(aurora_session* handle) : handle_(handle), is_mine_(!handle->is_busy.exchange(true, std::memory_order_acquire)) {}
    ~Turn() {
        if (is_mine_) handle_->is_busy.store(false, std::memory_order_release);
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    bool is_mine() const { return is_mine_; }

private:
    aurora_session* handle_;
    bool is_mine_;
};

// A call on a session: action(Session&) returns nothing or a status.
template <typename Action>
aurora_status call(aurora_session* handle, const Action& action) noexcept {
    if (!is_open(handle)) return AURORA_ERROR_USAGE;
    const Turn turn(handle);
    if (!turn.is_mine()) return AURORA_ERROR_BUSY;
    return guarded(handle->error, [&] {
        if (handle->session == nullptr) throw Error(Status::usage, "this session could not be made", "close it");
        if constexpr (std::is_void_v<decltype(action(*handle->session))>) {
            action(*handle->session);
            return AURORA_OK;
        } else {
            return action(*handle->session);
        }
    });
}

template <typename Make>
aurora_status new_session(aurora_session** session, const Make& make) noexcept {
    if (session == nullptr) return AURORA_ERROR_USAGE;
    *session = new (std::nothrow) aurora_session;
    if (*session == nullptr) return AURORA_ERROR_RESOURCES;
    note_open(*session);
    return guarded((*session)->error, [&] {
        (*session)->session = make();
        return AURORA_OK;
    });
}

}  // namespace

uint32_t aurora_abi_version(void) { return AURORA_ABI_VERSION; }

const char* aurora_version(void) { return aurora::VERSION; }

const char* aurora_status_name(aurora_status status) {
    switch (status) {
#define AURORA_NAME(name) \
    case name:            \
        return #name
        AURORA_NAME(AURORA_OK);
        AURORA_NAME(AURORA_ERROR_UNEXPECTED);
        AURORA_NAME(AURORA_ERROR_USAGE);
        AURORA_NAME(AURORA_ERROR_INCOMPATIBLE);
        AURORA_NAME(AURORA_ERROR_INTEGRITY);
        AURORA_NAME(AURORA_ERROR_RESOURCES);
        AURORA_NAME(AURORA_ERROR_DEPENDENCY);
        AURORA_NAME(AURORA_ERROR_UNSUPPORTED);
        AURORA_NAME(AURORA_ERROR_BUSY);
        AURORA_NAME(AURORA_CANCELLED);
    }
    return "unknown";
}

aurora_status aurora_model_open(const char* bundle, const aurora_model_options* options, aurora_model** model) {
    if (model == nullptr) return AURORA_ERROR_USAGE;
    *model = new (std::nothrow) aurora_model;
    if (*model == nullptr) return AURORA_ERROR_RESOURCES;
    note_open(*model);
    return guarded((*model)->error, [&] {
        aurora::check_given(bundle, "bundle");
        (*model)->model = aurora::Model::open(bundle, aurora::model_options(options));
        return AURORA_OK;
    });
}

void aurora_model_close(aurora_model* model) {
    if (!is_open(model)) return;
    note_closed(model);
    delete model;
}

const char* aurora_model_last_error(const aurora_model* model) {
    return is_open(model) ? model->error.c_str() : "this is no open model";
}

const char* aurora_model_info(const aurora_model* model) {
    return is_open(model) && model->model != nullptr ? model->model->info().c_str() : nullptr;
}

aurora_status aurora_session_new(const aurora_model* model, aurora_session** session) {
    return new_session(session, [&] {
        if (!is_open(model) || model->model == nullptr) throw Error(Status::usage, "this is no open model");
        return std::make_unique<Session>(model->model);
    });
}

aurora_status aurora_session_clone(aurora_session* session, aurora_session** other) {
    if (other == nullptr) return AURORA_ERROR_USAGE;
    *other = nullptr;
    std::unique_ptr<Session> copy;
    const aurora_status status = call(session, [&](Session& from) { copy = from.clone(); });
    const aurora_status made = new_session(other, [&] {
        if (status != AURORA_OK) throw Error(static_cast<Status>(status), "the session cannot be cloned now");
        return std::move(copy);
    });
    return made;
}

aurora_status aurora_session_close(aurora_session* session) {
    if (session == nullptr) return AURORA_OK;
    if (!is_open(session)) return AURORA_ERROR_USAGE;
    if (session->is_busy.exchange(true, std::memory_order_acquire)) return AURORA_ERROR_BUSY;
    note_closed(session);
    delete session;
    return AURORA_OK;
}

const char* aurora_session_last_error(const aurora_session* session) {
    return is_open(session) ? session->error.c_str() : "this is no open session";
}

aurora_status aurora_session_watch(aurora_session* session, const aurora_frame* frame,
                                   const aurora_watch_options* options) {
    return call(session, [&](Session& self) {
        aurora::check_given(frame, "frame");
        self.watch(aurora::frame_of(frame), aurora::watch_options(options));
    });
}

aurora_status aurora_session_watch_frames(aurora_session* session, const aurora_frame* frames, size_t n_frames,
                                          const aurora_watch_options* options) {
    return call(session, [&](Session& self) {
        if (n_frames != 0) aurora::check_given(frames, "frames");
        session->frames.clear();
        for (std::size_t i = 0; i < n_frames; ++i) {
            const aurora_frame* frame = aurora::frame_at(frames, i);
            try {
                session->frames.push_back(aurora::frame_of(frame));
                self.check(session->frames.back());
            } catch (const Error& error) {
                throw Error(error.status(), "frames[" + std::to_string(i) + "]: " + error.what(), error.hint());
            }
        }
        self.watch(session->frames.data(), n_frames, aurora::watch_options(options));
    });
}

aurora_status aurora_session_visual_tokens(aurora_session* session, const float** tokens, size_t* n_tokens,
                                           size_t* width) {
    return call(session, [&](Session& self) {
        aurora::check_given(tokens, "tokens"), aurora::check_given(n_tokens, "n_tokens"), aurora::check_given(width, "width");
        if (self.visual_tokens() == nullptr) throw Error(Status::usage, "no frame was watched", "watch one first");
        *tokens = self.visual_tokens();
        *n_tokens = self.model().sizes().n_kept;
        *width = self.model().sizes().width;
    });
}

aurora_status aurora_session_logits(aurora_session* session, const float** logits, size_t* vocabulary_size) {
    return call(session, [&](Session& self) {
        aurora::check_given(logits, "logits"), aurora::check_given(vocabulary_size, "vocabulary_size");
        *logits = self.logits();
        if (*logits == nullptr) throw Error(Status::usage, "nothing was read", "watch a frame first");
        *vocabulary_size = self.model().sizes().vocabulary_size;
    });
}

aurora_status aurora_session_ask(aurora_session* session, const char* question, const aurora_ask_options* options,
                                 aurora_text_callback on_text, void* user, aurora_answer* answer) {
    return call(session, [&](Session& self) {
        aurora::check_given(question, "question");
        const std::size_t answer_size = answer == nullptr ? 0 : answer->size == 0 ? sizeof *answer : answer->size;
        if (answer != nullptr && answer_size < sizeof *answer) throw Error(Status::usage, "aurora_answer.size is too small");
        if (answer != nullptr) answer->end = AURORA_END_UNFINISHED, answer->n_tokens = 0, answer->question_s = answer->answer_s = 0;
        const auto show = [&](const std::string& text) {
            return on_text != nullptr && on_text(user, text.c_str(), text.size()) != 0;
        };
        const aurora::Answer made = self.ask(question, aurora::ask_options(options), show);
        if (answer != nullptr) {
            answer->end = static_cast<std::int32_t>(made.end);
            answer->n_tokens = made.n_tokens;
            answer->question_s = made.question_s;
            answer->answer_s = made.answer_s;
        }
        return made.cancelled ? AURORA_CANCELLED : AURORA_OK;
    });
}

aurora_status aurora_session_reset(aurora_session* session) {
    return call(session, [](Session& self) { self.reset(); });
}

aurora_status aurora_session_save(aurora_session* session, const char* path, int packed, uint64_t* n_bytes) {
    return call(session, [&](Session& self) {
        aurora::check_given(path, "path");
        const std::uint64_t written = self.save(path, packed != 0);
        if (n_bytes != nullptr) *n_bytes = written;
    });
}

aurora_status aurora_session_load(aurora_session* session, const char* path) {
    return call(session, [&](Session& self) {
        aurora::check_given(path, "path");
        self.load(path);
    });
}

aurora_status aurora_session_save_to(aurora_session* session, void* buffer, size_t* n_bytes) {
    return call(session, [&](Session& self) {
        aurora::check_given(n_bytes, "n_bytes");
        const std::string data = self.encode(false);
        if (buffer != nullptr && *n_bytes < data.size())
            throw Error(Status::usage, "the buffer has " + std::to_string(*n_bytes) + " bytes; the state needs " +
                                           std::to_string(data.size()));
        if (buffer != nullptr) std::memcpy(buffer, data.data(), data.size());
        *n_bytes = data.size();
    });
}

aurora_status aurora_session_load_from(aurora_session* session, const void* buffer, size_t n_bytes) {
    return call(session, [&](Session& self) {
        aurora::check_given(buffer, "buffer");
        self.decode({static_cast<const char*>(buffer), n_bytes}, "the state in memory");
    });
}

const char* aurora_session_info(aurora_session* session) {
    const aurora_status status = call(session, [&](Session& self) { session->info = self.info(); });
    return status == AURORA_OK ? session->info.c_str() : nullptr;
}
