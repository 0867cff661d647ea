#include "atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>

#include "error.h"

namespace aurora {
namespace {

std::string temporary_name(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::size_t begin = slash == path.npos ? 0 : slash + 1;
    char digits[16];
    std::snprintf(digits, sizeof digits, ".%08x.tmp", static_cast<unsigned>(std::random_device{}()));
    return path.substr(0, begin) + "." + path.substr(begin) + digits;
}

// errno of what failed; 0 if all is written and on the disk.
int write_and_flush(int descriptor, std::string_view data) {
    while (!data.empty()) {
        const ssize_t n = ::write(descriptor, data.data(), data.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        data.remove_prefix(static_cast<std::size_t>(n));
    }
    return ::fsync(descriptor) == 0 ? 0 : errno;
}

}  // namespace

void write_atomically(const std::string& path, std::string_view data, const std::string& what) {
    const std::string temporary = temporary_name(path);
    const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int problem = descriptor < 0 ? errno : write_and_flush(descriptor, data);
    if (descriptor >= 0 && ::close(descriptor) != 0 && !problem) problem = errno;
    if (!problem && ::rename(temporary.c_str(), path.c_str()) != 0) problem = errno;
    if (!problem) return;
    if (descriptor >= 0) ::unlink(temporary.c_str());
    if (problem == ENOSPC || problem == EDQUOT)
        throw Error(Status::resources, path + ": the disk is full", what + " needs " + std::to_string(data.size()) + " bytes");
    throw Error(Status::usage, path + ": cannot be written: " + std::strerror(problem));
}

}  // namespace aurora
