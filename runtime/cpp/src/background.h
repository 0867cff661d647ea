// A call in a thread of its own, and its result.
#pragma once

#include <exception>
#include <functional>
#include <system_error>
#include <thread>
#include <utility>

namespace aurora {

// As std::async, of whose templates the library would grow by 40 kB. It is waited for before it is destroyed.
template <typename Result>
class Background {
public:
    explicit Background(std::function<Result()> call) : call_(std::move(call)) {
        try {
            thread_ = std::thread([this] { run(); });
        } catch (const std::system_error&) {
            // No thread to be had: get() makes the call.
        }
    }
    ~Background() {
        if (thread_.joinable()) thread_.join();
    }
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;

    // What the call returned; throws what it threw. Once.
    Result get() {
        if (thread_.joinable())
            thread_.join();
        else
            run();
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        return std::move(result_);
    }

private:
    void run() noexcept {
        try {
            result_ = call_();
        } catch (...) {
            error_ = std::current_exception();
        }
    }

    std::function<Result()> call_;
    Result result_{};
    std::exception_ptr error_;
    std::thread thread_;  // the last: it uses the others
};

}  // namespace aurora
