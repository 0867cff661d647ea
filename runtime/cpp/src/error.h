// What every module throws. It becomes a status and a text at the C interface, and never crosses it.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace aurora {

// As aurora_status in aurora.h; c_api.cpp asserts that the numbers agree.
enum class Status : int {
    ok = 0,
    unexpected = 1,
    usage = 2,
    incompatible = 3,
    integrity = 4,
    resources = 6,
    dependency = 7,
    unsupported = 9,
    busy = 10,
    cancelled = 11,
};

// what() is the message; the hint, which may be empty, says what to do.
class Error : public std::runtime_error {
public:
    Error(Status status, const std::string& message, std::string hint = {})
        : std::runtime_error(message), status_(status), hint_(std::move(hint)) {}
    Status status() const noexcept { return status_; }
    const std::string& hint() const noexcept { return hint_; }

private:
    Status status_;
    std::string hint_;
};

}  // namespace aurora
