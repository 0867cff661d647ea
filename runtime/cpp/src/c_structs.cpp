// Structs of aurora.h as the modules take them.
#include "c_structs.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <variant>

#include "cores.h"
#include "device.h"
#include "error.h"

namespace aurora {
namespace {

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

std::variant<RgbFrame, Nv12Frame> pixels_of(const aurora_frame& frame) {
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
    if (frame.format == AURORA_RGB24) return RgbFrame{frame.data[0], stride(0, width * 3), frame.width, frame.height};
    check_given(frame.data[1], "frame.data[1]");
    Nv12Frame view{frame.data[0], stride(0, width), frame.data[1], stride(1, (width + 1) / 2 * 2), frame.width,
                           frame.height};
    view.matrix = frame.colour >= AURORA_BT601_LIMITED ? ColourMatrix::bt601 : ColourMatrix::bt709;
    view.range = frame.colour % 2 == 1 ? ColourRange::full : ColourRange::limited;
    return view;
}

}  // namespace

void check_given(const void* pointer, const char* name) {
    if (pointer == nullptr) throw Error(Status::usage, std::string(name) + " is NULL");
}

ModelOptions model_options(const aurora_model_options* given) {
    const aurora_model_options options = taken(given, "aurora_model_options");
    check_choice("backend", options.backend, AURORA_BACKEND_TENSORRT);
    check_choice("device", options.device, AURORA_DEVICE_CUDA);
    if (options.n_threads < 0) throw Error(Status::usage, "n_threads is " + std::to_string(options.n_threads) + ", below 0");
    Device device;
    if (options.device_name != nullptr) {
        if (options.backend != AURORA_BACKEND_AUTO || options.device != AURORA_DEVICE_CPU)
            throw Error(Status::usage, "device_name is given beside backend or device", "give one of them, and leave the others 0");
        device = parse_device(options.device_name);
    }
    if (options.reserved != 0) throw Error(Status::usage, "aurora_model_options.reserved is not 0");
    ModelOptions made;
    made.backend = static_cast<BackendChoice>(options.backend);
    if (device.backend == DeviceBackend::tensorrt) made.backend = BackendChoice::tensorrt;
    made.engine.cuda = options.device == AURORA_DEVICE_CUDA || device.backend == DeviceBackend::cuda;
    made.engine.gpu = device.index;
    if (options.tensorrt_library != nullptr) made.engine.tensorrt_library = options.tensorrt_library;
    made.engine.n_threads = options.n_threads > 0 ? options.n_threads : n_usable_cores();
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

Frame frame_of(const aurora_frame* given) {
    const aurora_frame frame = taken(given, "aurora_frame");
    Frame made{pixels_of(frame), {frame.memory == AURORA_MEMORY_CUDA, frame.cuda_stream}, {}};
    if (frame.has_time != 0) made.time_s = frame.time_s;
    return made;
}

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

WatchOptions watch_options(const aurora_watch_options* given) {
    const aurora_watch_options options = taken(given, "aurora_watch_options");
    WatchOptions made;
    if (options.prompt != nullptr) made.prompt = options.prompt;
    if (options.sampling != nullptr) made.sampling = options.sampling;
    return made;
}

AskOptions ask_options(const aurora_ask_options* given) {
    const aurora_ask_options options = taken(given, "aurora_ask_options");
    AskOptions made;
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

}  // namespace aurora
