// A bundle holds exactly the files of its manifest, with their digests.
#include <atomic>
#include <map>

#include "golden.h"
#include "manifest.h"

namespace aurora::tests {
namespace {

struct Bundle {
    Folder folder;
    Manifest manifest;

    Bundle() : manifest(manifest_from_text(golden("manifest.json")["manifest"].dump(), "M")) {
        write_file(folder / MANIFEST_NAME, "not read here");
        for (auto& [path, entry] : manifest.digests) {
            write_file(folder / path, path);
            entry = hash_file(folder / path);
        }
    }
    std::string refused(unsigned n_threads = 2) const {
        const Refusal found = refusal([&] { verify_files(folder.path(), manifest, {}, n_threads); });
        EXPECT_EQ(found.status, found.message.empty() ? Status::ok : Status::integrity);
        std::string message = found.message;
        for (std::size_t at; (at = message.find(folder.path())) != message.npos;) message.replace(at, folder.path().size(), "B");
        return message;
    }
};

TEST(BundleFiles, WholeBundle) {
    const Bundle bundle;
    for (const unsigned n_threads : {0u, 1u, 2u, 16u}) {
        std::map<std::string, std::uint64_t> seen;
        verify_files(bundle.folder.path(), bundle.manifest, [&](const std::string& path, std::uint64_t n) { seen[path] += n; }, n_threads);
        for (const auto& [path, entry] : bundle.manifest.digests) EXPECT_EQ(seen[path], entry.size);
    }
}

TEST(BundleFiles, FlippedByte) {
    for (const unsigned n_threads : {1u, 4u}) {
        const Bundle bundle;
        write_file(bundle.folder / "onnx/language.onnx.data", "onnx/language.onnx.datA");
        EXPECT_EQ(bundle.refused(n_threads),
                  "B/onnx/language.onnx.data: SHA-256 is " + hash_file(bundle.folder / "onnx/language.onnx.data").sha256 + ", the manifest says " +
                      bundle.manifest.digests.at("onnx/language.onnx.data").sha256);
    }
}

TEST(BundleFiles, MissingGrownAndUnknownFiles) {
    const Bundle bundle;
    std::filesystem::remove(bundle.folder / "onnx/vision.onnx");
    EXPECT_EQ(bundle.refused(), "B: onnx/vision.onnx is missing");
    write_file(bundle.folder / "onnx/vision.onnx", "onnx/vision.onnxx");
    EXPECT_EQ(bundle.refused(), "B/onnx/vision.onnx: expected 16 bytes, found 17");
    write_file(bundle.folder / "onnx/vision.onnx", "onnx/vision.onnx");
    EXPECT_EQ(bundle.refused(), "");
    write_file(bundle.folder / "onnx/more.bin", "");
    EXPECT_EQ(bundle.refused(), "B: onnx/more.bin is not in the manifest (1 such files)");
}

TEST(BundleFiles, LinksAndSpecialFilesAreRefused) {
    for (const std::string target : {"onnx/vision.onnx", "onnx"}) {
        const Bundle bundle;
        const Folder outside;
        std::filesystem::rename(bundle.folder / target, outside / "moved");
        std::filesystem::create_symlink(outside / "moved", bundle.folder / target);
        EXPECT_EQ(bundle.refused(), "B/" + target + ": a bundle holds plain files and folders only, no links");
    }
    const Bundle bundle;
    std::filesystem::remove(bundle.folder / "onnx/vision.onnx");
    std::filesystem::create_symlink("/dev/zero", bundle.folder / "onnx/vision.onnx");
    EXPECT_EQ(bundle.refused(), "B/onnx/vision.onnx: a bundle holds plain files and folders only, no links");
}

TEST(BundleFiles, AProgressThatThrowsEndsTheCheck) {
    const Bundle bundle;
    EXPECT_EQ(refusal([&] {
                  verify_files(bundle.folder.path(), bundle.manifest, [](const std::string&, std::uint64_t) { throw Error(Status::cancelled, "enough"); });
              }).message,
              "enough");
}

}  // namespace
}  // namespace aurora::tests
