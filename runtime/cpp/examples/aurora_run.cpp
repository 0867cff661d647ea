// aurora-run: watches a video, asks, prints the answer as it comes.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "aurora.hpp"
#ifdef AURORA_RUN_HAS_FFMPEG
#include "video_file.h"
#endif

namespace {

constexpr const char* USAGE = R"(aurora-run BUNDLE VIDEO --prompt TEXT [options]
aurora-run BUNDLE - --raw-size 640x480 --prompt TEXT    raw RGB frames on stdin, 3 bytes a pixel
aurora-run BUNDLE STATE.aurstate --prompt TEXT          what was watched before
aurora-run BUNDLE --bench                               times, as one JSON object

  --fps N            frames a second of video that are watched (1)
  --device NAME      cpu, cuda, tensorrt; cuda:1 is the second GPU (cpu)
  --threads N        of one operator (0: the engine chooses)
  --max-tokens N     (256)
  --temperature X    (0: always the most likely token)
  --seed N           (0)
  --save FILE        the state after the answer
  --skip-verification  only where the bundle's digests were checked before
  --bench-frames N   watched by --bench (4)       --bench-tokens N   answered by --bench (64)
ONNX Runtime is found by AURORA_ONNXRUNTIME=/path/to/libonnxruntime.so, or by the loader.
)";

struct Options {
    std::string bundle, source, prompt, fps = "1", save;
    std::uint32_t raw_width = 0, raw_height = 0, bench_frames = 4, bench_tokens = 64;
    bool is_bench = false;
    aurora_model_options model = aurora::model_options();
    aurora_ask_options ask = aurora::ask_options();
};

struct UsageFault {
    std::string what;
};

std::uint64_t whole(const std::string& name, const char* text, std::uint64_t most) {
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value > most)
        throw UsageFault{name + " is " + text + "; it must be a whole number up to " + std::to_string(most)};
    return value;
}

Options parse(int argc, char** argv) {
    Options options;
    std::vector<std::string> places;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const auto value = [&]() -> const char* {
            if (i + 1 >= argc) throw UsageFault{name + " wants a value"};
            return argv[++i];
        };
        const auto number = [&](std::uint64_t most) { return whole(name, value(), most); };
        if (name == "--prompt") options.prompt = value();
        else if (name == "--fps") options.fps = value();
        else if (name == "--save") options.save = value();
        else if (name == "--device") options.model.device_name = value();
        else if (name == "--threads") options.model.n_threads = static_cast<std::int32_t>(number(1024));
        else if (name == "--max-tokens") options.ask.max_tokens = static_cast<std::uint32_t>(number(1000000));
        else if (name == "--temperature") options.ask.temperature = std::atof(value());
        else if (name == "--seed") options.ask.seed = number(UINT64_MAX);
        else if (name == "--skip-verification") options.model.skip_verification = 1;
        else if (name == "--bench") options.is_bench = true;
        else if (name == "--bench-frames") options.bench_frames = static_cast<std::uint32_t>(number(100000));
        else if (name == "--bench-tokens") options.bench_tokens = static_cast<std::uint32_t>(number(100000));
        else if (name == "--raw-size") {
            const std::string size = value();
            const std::size_t x = size.find('x');
            if (x == std::string::npos) throw UsageFault{"--raw-size is " + size + "; write it as 640x480"};
            options.raw_width = static_cast<std::uint32_t>(whole(name, size.substr(0, x).c_str(), 16384));
            options.raw_height = static_cast<std::uint32_t>(whole(name, size.c_str() + x + 1, 16384));
        } else if (name.size() > 1 && name[0] == '-') throw UsageFault{"unknown option " + name};
        else places.push_back(name);
    }
    const std::size_t wanted = options.is_bench ? 1 : 2;
    if (places.size() != wanted) throw UsageFault{"BUNDLE" + std::string(wanted == 2 ? " and VIDEO" : "") + " expected"};
    options.bundle = places[0];
    if (wanted == 2) options.source = places[1];
    if (!options.is_bench && options.prompt.empty()) throw UsageFault{"--prompt is missing"};
    return options;
}

// Whole frames on stdin; what is left of one at the end is refused.
void watch_stdin(aurora::Session& session, const Options& options) {
    if (options.raw_width == 0 || options.raw_height == 0) throw UsageFault{"- wants --raw-size"};
    std::vector<std::uint8_t> pixels(std::size_t{options.raw_width} * options.raw_height * 3);
    bool is_first = true;
    for (;;) {
        const std::size_t n = std::fread(pixels.data(), 1, pixels.size(), stdin);
        if (n == 0) break;
        if (n != pixels.size()) throw UsageFault{"the last frame has " + std::to_string(n) + " bytes of " + std::to_string(pixels.size())};
        session.watch(aurora::rgb(pixels.data(), options.raw_width, options.raw_height),
                      is_first ? options.prompt.c_str() : nullptr);
        is_first = false;
    }
    if (is_first) throw UsageFault{"no frames on stdin"};
}

// Frames of one call: memory for these is used.
constexpr std::size_t N_TOGETHER = 4;

void watch_file(aurora::Session& session, const Options& options) {
#ifdef AURORA_RUN_HAS_FFMPEG
    std::array<std::vector<std::uint8_t>, N_TOGETHER> pixels;
    std::array<aurora_frame, N_TOGETHER> frames;
    std::size_t n_waiting = 0;
    const char* prompt = options.prompt.c_str();
    const auto watch = [&] {
        session.watch_frames({frames.data(), std::exchange(n_waiting, 0)}, std::exchange(prompt, nullptr));
    };
    read_video(options.source, options.fps, [&](const Picture& picture) {
        pixels[n_waiting].assign(picture.rgb, picture.rgb + picture.stride * static_cast<std::ptrdiff_t>(picture.height));
        aurora_frame frame = aurora::rgb(pixels[n_waiting].data(), picture.width, picture.height, picture.stride);
        frame.has_time = 1;
        frame.time_s = picture.time_s;
        frames[n_waiting++] = frame;
        if (n_waiting == N_TOGETHER) watch();
    });
    if (n_waiting > 0) watch();
#else
    (void)session;
    throw UsageFault{options.source + ": this aurora-run was built without FFmpeg's libraries; pipe raw frames into it:\n"
                     "  ffmpeg -i VIDEO -r 1 -f rawvideo -pix_fmt rgb24 - | aurora-run BUNDLE - --raw-size WxH --prompt TEXT"};
#endif
}

int run(const Options& options) {
    const aurora::Model model(options.bundle, options.model);
    aurora::Session session(model);
    const std::string suffix = ".aurstate";
    const std::string& source = options.source;
    if (source == "-") watch_stdin(session, options);
    else if (source.size() > suffix.size() && source.compare(source.size() - suffix.size(), suffix.size(), suffix) == 0)
        session.load(source);
    else watch_file(session, options);
    session.ask(options.prompt, [](std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        return std::fflush(stdout) != 0;  // nobody reads any more
    }, options.ask);
    std::puts("");
    if (!options.save.empty()) session.save(options.save);
    std::fprintf(stderr, "%s\n", session.info().c_str());
    return 0;
}

double seconds_since(std::chrono::steady_clock::time_point began) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// One frame and one answer to warm up, then frames alone, frames by the call for several, and an answer of (nearly) random
// tokens are timed.
int bench(const Options& options) {
    auto began = std::chrono::steady_clock::now();
    const aurora::Model model(options.bundle, options.model);
    const double open_s = seconds_since(began);
    aurora::Session session(model);
    std::mt19937 random(1);
    std::vector<std::uint8_t> pixels(640 * 480 * 3);
    for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(random());
    const aurora_frame frame = aurora::rgb(pixels.data(), 640, 480);
    session.watch(frame);
    std::vector<double> frame_s;
    for (std::uint32_t i = 0; i < options.bench_frames; ++i) {
        began = std::chrono::steady_clock::now();
        session.watch(frame);
        frame_s.push_back(seconds_since(began));
    }
    const std::vector<aurora_frame> frames(N_TOGETHER, frame);
    std::vector<double> together_s;
    for (std::size_t i = 0; i < options.bench_frames; i += N_TOGETHER) {
        began = std::chrono::steady_clock::now();
        session.watch_frames({frames.data(), frames.size()});
        together_s.push_back(seconds_since(began) / N_TOGETHER);
    }
    aurora_ask_options ask = options.ask;
    ask.temperature = 1000;  // every token about as likely, so that the answer is as long as it may be
    ask.max_tokens = 4;
    session.ask("What happens?", [](std::string_view) {}, ask);
    std::uint32_t n_tokens = 0;
    double answer_s = 0;
    for (ask.seed = 1; n_tokens < options.bench_tokens; ++ask.seed) {
        ask.max_tokens = options.bench_tokens - n_tokens;
        const aurora_answer answer = session.ask("What happens?", [](std::string_view) {}, ask);
        n_tokens += answer.n_tokens;
        answer_s += answer.answer_s;
    }
    const auto median_ms = [](const std::vector<double>& seconds) { return seconds.empty() ? 0 : 1000 * median(seconds); };
    std::printf("{\"open_ms\": %.3f, \"n_frames\": %u, \"frame_ms\": %.3f, \"frame_together_ms\": %.3f, \"n_tokens\": %u, \"token_ms\": %.4f, \"model\": %s, "
                "\"session\": %s}\n",
                1000 * open_s, options.bench_frames, median_ms(frame_s), median_ms(together_s), n_tokens,
                n_tokens == 0 ? 0 : 1000 * answer_s / n_tokens, model.info().c_str(), session.info().c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    // Nothing of what is watched is anybody else's business: some builds of ONNX Runtime report to their maker.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    if (argc == 2 && std::strcmp(argv[1], "--help") == 0) return std::fputs(USAGE, stdout), 0;
    try {
        const Options options = parse(argc, argv);
        return options.is_bench ? bench(options) : run(options);
    } catch (const UsageFault& fault) {
        return std::fprintf(stderr, "error: %s\n\n%s", fault.what.c_str(), USAGE), AURORA_ERROR_USAGE;
    } catch (const aurora::Exception& error) {
        return std::fprintf(stderr, "error: %s\n", error.what()), error.status();
    } catch (const std::exception& error) {
        return std::fprintf(stderr, "error: %s\n", error.what()), AURORA_ERROR_INTEGRITY;
    }
}
