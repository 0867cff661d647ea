#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"

namespace aurora {
namespace {

struct Descriptor {
    explicit Descriptor(const std::string& path) : value(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {}
    ~Descriptor() {
        if (value >= 0) ::close(value);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    int value;
};

}  // namespace

MappedFile::MappedFile(const std::string& path, const std::string& expected, const std::string& hint) {
    const auto refuse = [&](const std::string& what) { throw Error(Status::integrity, path + ": " + expected + ": it " + what, hint); };
    const Descriptor file(path);
    struct stat status {};
    if (file.value < 0 || ::fstat(file.value, &status) != 0) refuse(std::string("cannot be read: ") + std::strerror(errno));
    if (!S_ISREG(status.st_mode)) refuse("is no plain file");
    if (status.st_size == 0) refuse("is empty");
    size_ = static_cast<std::size_t>(status.st_size);
    void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
    if (map == MAP_FAILED)
        throw Error(Status::resources, path + ": cannot be mapped: " + std::strerror(errno), "its size is " + std::to_string(size_) + " bytes");
    data_ = map;
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace aurora
