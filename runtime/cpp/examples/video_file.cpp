#include "video_file.h"

#include <memory>
#include <stdexcept>
#include <vector>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>
}

namespace {

__extension__ typedef __int128 Wide;

template <auto Free>
struct Deleter {
    template <typename T>
    void operator()(T* pointer) const {
        Free(&pointer);
    }
};
using Container = std::unique_ptr<AVFormatContext, Deleter<avformat_close_input>>;
using Codec = std::unique_ptr<AVCodecContext, Deleter<avcodec_free_context>>;
using Frame = std::unique_ptr<AVFrame, Deleter<av_frame_free>>;
using Packet = std::unique_ptr<AVPacket, Deleter<av_packet_free>>;
struct FreeScaler {
    void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};

// A decimal number as a fraction, exactly.
AVRational fraction(const std::string& text) {
    std::size_t used = 0;
    std::int64_t numerator = 0, denominator = 1;
    bool after_point = false, any = false;
    for (; used < text.size() && used < 10; ++used) {
        if (text[used] == '.' && !after_point) {
            after_point = true;
        } else if (text[used] >= '0' && text[used] <= '9') {
            numerator = numerator * 10 + (text[used] - '0');
            if (after_point) denominator *= 10;
            any = true;
        } else {
            break;
        }
    }
    if (used != text.size() || !any || numerator == 0 || numerator / denominator > 1000)
        throw std::runtime_error("fps is " + text + "; it must be a decimal number over 0, at most 1000");
    AVRational rate;
    av_reduce(&rate.num, &rate.den, numerator, denominator, INT32_MAX);
    return rate;
}

class Reader {
public:
    explicit Reader(const std::string& path) : path_(path) {
        AVFormatContext* container = nullptr;
        if (avformat_open_input(&container, path.c_str(), nullptr, nullptr) < 0) fail("cannot be read as a video");
        container_.reset(container);
        const AVCodec* decoder = nullptr;
        if (avformat_find_stream_info(container, nullptr) < 0) fail("cannot be read as a video");
        index_ = av_find_best_stream(container, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
        if (index_ < 0 || decoder == nullptr) fail("has no video that can be decoded");
        codec_.reset(avcodec_alloc_context3(decoder));
        if (codec_ == nullptr || avcodec_parameters_to_context(codec_.get(), stream()->codecpar) < 0 ||
            avcodec_open2(codec_.get(), decoder, nullptr) < 0)
            fail("cannot be decoded");
    }

    void read(AVRational rate, const std::function<void(const Picture&)>& take) {
        const Packet packet(av_packet_alloc());
        const Frame frame(av_frame_alloc());
        if (packet == nullptr || frame == nullptr) fail("out of memory");
        bool is_end = false;
        while (!is_end) {
            is_end = av_read_frame(container_.get(), packet.get()) < 0;
            if (!is_end && packet->stream_index != index_) {
                av_packet_unref(packet.get());
                continue;
            }
            // Of a damaged file, what can be decoded is used.
            avcodec_send_packet(codec_.get(), is_end ? nullptr : packet.get());
            av_packet_unref(packet.get());
            while (avcodec_receive_frame(codec_.get(), frame.get()) >= 0) {
                if (is_wanted(*frame, rate)) give(*frame, take);
                av_frame_unref(frame.get());
            }
        }
        if (n_frames_ == 0) fail("not one frame can be decoded");
    }

private:
    [[noreturn]] void fail(const std::string& what) const { throw std::runtime_error(path_ + ": " + what); }
    AVStream* stream() const { return container_->streams[index_]; }

    bool is_wanted(const AVFrame& frame, AVRational rate) {
        const AVRational base = stream()->time_base;
        const std::int64_t stamp = frame.best_effort_timestamp == AV_NOPTS_VALUE ? n_frames_ : frame.best_effort_timestamp;
        if (n_frames_++ == 0) start_ = stamp;
        time_s_ = static_cast<double>(stamp - start_) * av_q2d(base);
        // floor(time * rate), exactly
        const Wide above = static_cast<Wide>(stamp - start_) * base.num * rate.num, below = static_cast<Wide>(base.den) * rate.den;
        const Wide instant = above / below;
        if (above < 0 || instant < next_instant_) return false;
        next_instant_ = instant + 1;
        return true;
    }

    void give(const AVFrame& frame, const std::function<void(const Picture&)>& take) {
        const auto format = static_cast<AVPixelFormat>(frame.format);
        scaler_.reset(sws_getCachedContext(scaler_.release(), frame.width, frame.height, format, frame.width, frame.height,
                                           AV_PIX_FMT_RGB24, SWS_BILINEAR, nullptr, nullptr, nullptr));
        if (scaler_ == nullptr) fail("frames of a kind that cannot be converted");
        const int stride = (frame.width * 3 + 31) / 32 * 32;
        pixels_.resize(static_cast<std::size_t>(stride) * static_cast<std::size_t>(frame.height) + 64);
        std::uint8_t* planes[] = {pixels_.data()};
        sws_scale(scaler_.get(), frame.data, frame.linesize, 0, frame.height, planes, &stride);
        take({pixels_.data(), stride, static_cast<std::uint32_t>(frame.width), static_cast<std::uint32_t>(frame.height), time_s_});
    }

    std::string path_;
    Container container_;
    Codec codec_;
    std::unique_ptr<SwsContext, FreeScaler> scaler_;
    std::vector<std::uint8_t> pixels_;
    int index_ = -1;
    std::int64_t n_frames_ = 0, start_ = 0;
    Wide next_instant_ = 0;
    double time_s_ = 0;
};

}  // namespace

void read_video(const std::string& path, const std::string& fps, const std::function<void(const Picture&)>& take) {
    const AVRational rate = fraction(fps);
    av_log_set_level(AV_LOG_FATAL);
    Reader(path).read(rate, take);
}
