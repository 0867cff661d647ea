// aurora.h over the modules: handles, options, and every exception turned into a status and a text.
#include "aurora.h"

#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#ifndef NDEBUG
#include <mutex>
#include <unordered_set>
#endif

#include "cores.h"
#include "device.h"
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

// Size of a struct in version 1 of the interface, which a size of 0 stands for.
template <typename Struct>
constexpr std::size_t FIRST_SIZE = sizeof(Struct);
template <>
constexpr std::size_t FIRST_SIZE<aurora_model_options> = offsetof(aurora_model_options, device_name);
template <>
constexpr std::size_t FIRST_SIZE<aurora_frame> = offsetof(aurora_frame, cuda_stream);

// A struct of the caller, which may be of an older or newer header, as ours.
template <typename Struct>
Struct taken(const Struct* given, const char* name) {
    Struct ours{};
    if (given == nullptr) return ours;
    const std::size_t size = given->size == 0 ? FIRST_SIZE<Struct> : given->size;
    if (size < sizeof(std::size_t)) throw Error(Status::usage, std::string(name) + ".size is " + std::to_string(size));
    std::memcpy(&ours, given, size < sizeof ours ? size : sizeof ours);
    const char* bytes = reinterpret_cast<const char*>(given);
    for (std::size_t i = sizeof ours; i < size; ++i)
        if (bytes[i] != 0)
            throw Error(Status::usage, std::string(name) + " has fields that this libaurora does not know",
                        "install the libaurora that the header belongs to, or leave these fields 0");
    return ours;
}

void check_choice(const char* name, std::int32_t value, std::int32_t last) {
    if (value < 0 || value > last)
        throw Error(Status::usage, std::string(name) + " is " + std::to_string(value) + "; 0 to " + std::to_string(last) +
                                       " are known");
}

void check_given(const void* pointer, const char* name) {
    if (pointer == nullptr) throw Error(Status::usage, std::string(name) + " is NULL");
}

aurora::ModelOptions model_options(const aurora_model_options* given) {
    const aurora_model_options options = taken(given, "aurora_model_options");
    check_choice("backend", options.backend, AURORA_BACKEND_TENSORRT);
    check_choice("device", options.device, AURORA_DEVICE_CUDA);
    if (options.n_threads < 0) throw Error(Status::usage, "n_threads is " + std::to_string(options.n_threads) + ", below 0");
    aurora::Device device;
    if (options.device_name != nullptr) {
        if (options.backend != AURORA_BACKEND_AUTO || options.device != AURORA_DEVICE_CPU)
            throw Error(Status::usage, "device_name is given beside backend or device", "give one of them, and leave the others 0");
        device = aurora::parse_device(options.device_name);
    }
    if (options.reserved != 0) throw Error(Status::usage, "aurora_model_options.reserved is not 0");
    aurora::ModelOptions made;
    made.backend = static_cast<aurora::BackendChoice>(options.backend);
    if (device.backend == aurora::DeviceBackend::tensorrt) made.backend = aurora::BackendChoice::tensorrt;
    made.engine.cuda = options.device == AURORA_DEVICE_CUDA || device.backend == aurora::DeviceBackend::cuda;
    made.engine.gpu = device.index;
    if (options.tensorrt_library != nullptr) made.engine.tensorrt_library = options.tensorrt_library;
    made.engine.n_threads = options.n_threads > 0 ? options.n_threads : aurora::n_usable_cores();
    if (options.onnxruntime_library != nullptr) made.engine.library = options.onnxruntime_library;
    made.engine.native_operators = options.no_native_operators == 0;
    made.verify = options.skip_verification == 0;
    if (options.log != nullptr)
        made.log = [options](bool is_warning, const std::string& text) {
            options.log(options.log_user, is_warning ? AURORA_LOG_WARNING : AURORA_LOG_DEBUG, text.c_str());
        };
    if (options.progress != nullptr)
        made.progress = [options](const std::string& path, std::uint64_t n_bytes, std::uint64_t n_bytes_total) {
            return options.progress(options.progress_user, path.c_str(), n_bytes, n_bytes_total) != 0;
        };
    return made;
}

std::variant<aurora::RgbFrame, aurora::Nv12Frame> pixels_of(const aurora_frame& frame) {
    check_choice("format", frame.format, AURORA_NV12);
    check_choice("memory", frame.memory, AURORA_MEMORY_CUDA);
    check_choice("colour", frame.colour, AURORA_BT601_FULL);
    if (frame.memory == AURORA_MEMORY_HOST && frame.cuda_stream != nullptr)
        throw Error(Status::usage, "frame.cuda_stream is given, and frame.memory is AURORA_MEMORY_HOST",
                    "set frame.memory to AURORA_MEMORY_CUDA, or leave cuda_stream NULL");
    check_given(frame.data[0], "frame.data[0]");
    const auto stride = [&](int plane, std::size_t row_bytes) {
        return frame.stride[plane] == 0 ? static_cast<std::ptrdiff_t>(row_bytes) : frame.stride[plane];
    };
    const std::size_t width = frame.width;
    if (frame.format == AURORA_RGB24) return aurora::RgbFrame{frame.data[0], stride(0, width * 3), frame.width, frame.height};
    check_given(frame.data[1], "frame.data[1]");
    aurora::Nv12Frame view{frame.data[0], stride(0, width), frame.data[1], stride(1, (width + 1) / 2 * 2), frame.width,
                           frame.height};
    view.matrix = frame.colour >= AURORA_BT601_LIMITED ? aurora::ColourMatrix::bt601 : aurora::ColourMatrix::bt709;
    view.range = frame.colour % 2 == 1 ? aurora::ColourRange::full : aurora::ColourRange::limited;
    return view;
}

aurora::Frame frame_of(const aurora_frame* given) {
    const aurora_frame frame = taken(given, "aurora_frame");
    aurora::Frame made{pixels_of(frame), {frame.memory == AURORA_MEMORY_CUDA, frame.cuda_stream}, {}};
    if (frame.has_time != 0) made.time_s = frame.time_s;
    return made;
}

// Frame i of an array of the caller, whose structs may be larger or smaller than ours.
const aurora_frame* frame_at(const aurora_frame* frames, std::size_t i) {
    const std::size_t size = frames->size;
    if (size == 0) throw Error(Status::usage, "frames[0].size is 0", "set the size of every frame of an array: it leads to the next");
    if (size < FIRST_SIZE<aurora_frame>) throw Error(Status::usage, "frames[0].size is " + std::to_string(size));
    const auto* frame = reinterpret_cast<const aurora_frame*>(reinterpret_cast<const char*>(frames) + i * size);
    if (frame->size != size)
        throw Error(Status::usage, "frames[" + std::to_string(i) + "].size is " + std::to_string(frame->size) +
                                       ", and that of frames[0] " + std::to_string(size));
    return frame;
}

aurora::WatchOptions watch_options(const aurora_watch_options* given) {
    const aurora_watch_options options = taken(given, "aurora_watch_options");
    aurora::WatchOptions made;
    if (options.prompt != nullptr) made.prompt = options.prompt;
    if (options.sampling != nullptr) made.sampling = options.sampling;
    return made;
}

aurora::AskOptions ask_options(const aurora_ask_options* given) {
    const aurora_ask_options options = taken(given, "aurora_ask_options");
    aurora::AskOptions made;
    if (options.max_tokens != 0) made.max_tokens = options.max_tokens;
    made.sampling.top_k = options.top_k;
    made.sampling.temperature = options.temperature;
    if (options.top_p != 0) made.sampling.top_p = options.top_p;
    made.sampling.presence_penalty = options.presence_penalty;
    made.sampling.frequency_penalty = options.frequency_penalty;
    if (options.penalty_decay != 0) made.sampling.penalty_decay = options.penalty_decay;
    made.sampling.seed = options.seed;
    if (options.n_stop != 0) check_given(options.stop, "stop");
    for (std::size_t i = 0; i < options.n_stop; ++i) {
        check_given(options.stop[i], "a text of stop");
        made.stop.emplace_back(options.stop[i]);
    }
    return made;
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
        check_given(bundle, "bundle");
        (*model)->model = aurora::Model::open(bundle, model_options(options));
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
        check_given(frame, "frame");
        self.watch(frame_of(frame), watch_options(options));
    });
}

aurora_status aurora_session_watch_frames(aurora_session* session, const aurora_frame* frames, size_t n_frames,
                                          const aurora_watch_options* options) {
    return call(session, [&](Session& self) {
        if (n_frames != 0) check_given(frames, "frames");
        session->frames.clear();
        for (std::size_t i = 0; i < n_frames; ++i) {
            const aurora_frame* frame = frame_at(frames, i);
            try {
                session->frames.push_back(frame_of(frame));
                self.check(session->frames.back());
            } catch (const Error& error) {
                throw Error(error.status(), "frames[" + std::to_string(i) + "]: " + error.what(), error.hint());
            }
        }
        self.watch(session->frames.data(), n_frames, watch_options(options));
    });
}

aurora_status aurora_session_visual_tokens(aurora_session* session, const float** tokens, size_t* n_tokens,
                                           size_t* width) {
    return call(session, [&](Session& self) {
        check_given(tokens, "tokens"), check_given(n_tokens, "n_tokens"), check_given(width, "width");
        if (self.visual_tokens() == nullptr) throw Error(Status::usage, "no frame was watched", "watch one first");
        *tokens = self.visual_tokens();
        *n_tokens = self.model().sizes().n_kept;
        *width = self.model().sizes().width;
    });
}

aurora_status aurora_session_logits(aurora_session* session, const float** logits, size_t* vocabulary_size) {
    return call(session, [&](Session& self) {
        check_given(logits, "logits"), check_given(vocabulary_size, "vocabulary_size");
        *logits = self.logits();
        if (*logits == nullptr) throw Error(Status::usage, "nothing was read", "watch a frame first");
        *vocabulary_size = self.model().sizes().vocabulary_size;
    });
}

aurora_status aurora_session_ask(aurora_session* session, const char* question, const aurora_ask_options* options,
                                 aurora_text_callback on_text, void* user, aurora_answer* answer) {
    return call(session, [&](Session& self) {
        check_given(question, "question");
        const std::size_t answer_size = answer == nullptr ? 0 : answer->size == 0 ? sizeof *answer : answer->size;
        if (answer != nullptr && answer_size < sizeof *answer) throw Error(Status::usage, "aurora_answer.size is too small");
        if (answer != nullptr) answer->end = AURORA_END_UNFINISHED, answer->n_tokens = 0, answer->question_s = answer->answer_s = 0;
        const auto show = [&](const std::string& text) {
            return on_text != nullptr && on_text(user, text.c_str(), text.size()) != 0;
        };
        const aurora::Answer made = self.ask(question, ask_options(options), show);
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
        check_given(path, "path");
        const std::uint64_t written = self.save(path, packed != 0);
        if (n_bytes != nullptr) *n_bytes = written;
    });
}

aurora_status aurora_session_load(aurora_session* session, const char* path) {
    return call(session, [&](Session& self) {
        check_given(path, "path");
        self.load(path);
    });
}

aurora_status aurora_session_save_to(aurora_session* session, void* buffer, size_t* n_bytes) {
    return call(session, [&](Session& self) {
        check_given(n_bytes, "n_bytes");
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
        check_given(buffer, "buffer");
        self.decode({static_cast<const char*>(buffer), n_bytes}, "the state in memory");
    });
}

const char* aurora_session_info(aurora_session* session) {
    const aurora_status status = call(session, [&](Session& self) { session->info = self.info(); });
    return status == AURORA_OK ? session->info.c_str() : nullptr;
}
