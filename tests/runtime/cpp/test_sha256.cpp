// The vectors of FIPS 180-4 and NIST's examples, by both implementations, however the message is cut.
#include "sha256.h"

#include "golden.h"

namespace aurora::tests {
namespace {

std::string digest(const std::string& message, bool fast, std::size_t piece) {
    Sha256 sha(fast);
    for (std::size_t at = 0; at < message.size(); at += piece) sha.update(message.data() + at, std::min(piece, message.size() - at));
    return sha.hex();
}

TEST(Sha256, PublishedVectors) {
    const std::vector<std::pair<std::string, std::string>> vectors = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
        {std::string(1'000'000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (const auto& [message, expected] : vectors)
        for (const bool fast : {false, true})
            for (const std::size_t piece : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{1000}, message.size() + 1})
                if (message.size() / piece < 100'000) {
                    EXPECT_EQ(digest(message, fast, piece), expected) << fast << " " << piece;
                }
}

// Every length around the ends of blocks, and both implementations agree.
TEST(Sha256, InstructionsEqualPlainCode) {
    if (!has_sha_instructions()) GTEST_SKIP() << "this processor has no SHA instructions";
    SplitMix64 random(1);
    std::string message;
    for (std::size_t size = 0; size < 300; ++size) {
        EXPECT_EQ(digest(message, true, 1000), digest(message, false, 7));
        message += static_cast<char>(random.next_uint64());
    }
}

TEST(Sha256, File) {
    const Folder folder;
    const std::string content(3'500'000, 'x');
    write_file(folder / "f", content);
    std::uint64_t n_seen = 0;
    const FileEntry entry = hash_file(folder / "f", [&](std::uint64_t n) { n_seen += n; });
    EXPECT_EQ(entry.size, content.size());
    EXPECT_EQ(n_seen, content.size());
    EXPECT_EQ(entry.sha256, digest(content, false, 1 << 20));
}

TEST(Sha256, FileThatCannotBeRead) {
    const Folder folder;
    EXPECT_EQ(refusal([&] { hash_file(folder / "none"); }).message, (folder / "none") + ": cannot be read: No such file or directory");
    std::filesystem::create_symlink("/etc/passwd", folder / "link");
    EXPECT_EQ(refusal([&] { hash_file(folder / "link"); }).status, Status::integrity);
    EXPECT_EQ(refusal([&] { hash_file(folder.path()); }).status, Status::integrity);
}

}  // namespace
}  // namespace aurora::tests
