#include "mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "golden.h"

namespace aurora::tests {
namespace {

TEST(MappedFile, HoldsAWholeFile) {
    const Folder folder;
    write_file(folder / "a", std::string("a\0b", 3));
    MappedFile first(folder / "a", "no file", "");
    const MappedFile file(std::move(first));
    EXPECT_EQ(file.content(), std::string_view("a\0b", 3));
    EXPECT_EQ(first.size(), 0U);  // NOLINT: it is empty, not undefined
    EXPECT_EQ(first.data(), nullptr);
}

TEST(MappedFile, RefusesWhatIsNoPlainFile) {
    const Folder folder;
    write_file(folder / "empty", "");
    std::filesystem::create_symlink("/etc/passwd", folder / "link");
    ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);  // nobody writes: it must not be waited for
    const std::pair<std::string, std::string> wrong[] = {{"none", "cannot be read: No such file or directory"},
                                                         {"link", "cannot be read: Too many levels of symbolic links"},
                                                         {"", "is no plain file"},
                                                         {"pipe", "is no plain file"},
                                                         {"empty", "is empty"}};
    for (const auto& [name, what] : wrong) {
        const Refusal found = refusal([&, name = name] { MappedFile(folder / name, "no table", "build it"); });
        EXPECT_EQ(found.message, (folder / name) + ": no table: it " + what);
        EXPECT_EQ(found.status, Status::integrity);
        EXPECT_EQ(found.hint, "build it");
    }
}

}  // namespace
}  // namespace aurora::tests
