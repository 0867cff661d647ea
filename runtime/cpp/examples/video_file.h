// Frames of a video file, by FFmpeg's libraries: decoded one at a time, at the sampling instants of runtime/video.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

struct Picture {
    const std::uint8_t* rgb;
    std::ptrdiff_t stride;
    std::uint32_t width, height;
    double time_s;
};

// Calls `take` for each frame of the sample: the first at or after k / fps seconds, k = 0, 1, 2, ...; no frame twice.
// fps is a decimal number, as "0.5". Rotation metadata is not applied. Throws std::runtime_error.
void read_video(const std::string& path, const std::string& fps, const std::function<void(const Picture&)>& take);
