// verify_files of manifest.h. Mirrors verify_files and _files_on_disk of core/manifest.py; the digests are made by several
// threads, which Python leaves out.
#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>

#include "error.h"
#include "manifest.h"

namespace aurora {
namespace {

namespace fs = std::filesystem;

constexpr const char* HINT = "copy the bundle again from where it came from, or build it again";

[[noreturn]] void refuse(const std::string& message, const char* hint = HINT) { throw Error(Status::integrity, message, hint); }

// Relative path -> size of every file in the bundle. Refuses a link and a special file.
std::map<std::string, std::uint64_t> files_on_disk(const std::string& bundle) {
    std::map<std::string, std::uint64_t> found;
    try {
        for (const fs::directory_entry& entry : fs::recursive_directory_iterator(bundle)) {
            const fs::file_status status = entry.symlink_status();
            if (status.type() == fs::file_type::directory) continue;
            if (status.type() != fs::file_type::regular)
                refuse(entry.path().string() + ": a bundle holds plain files and folders only, no links", "copy the file itself");
            if (found.size() >= MAX_FILES + 1) refuse(bundle + ": over " + std::to_string(MAX_FILES) + " files");
            found[entry.path().lexically_relative(bundle).generic_string()] = entry.file_size();
        }
    } catch (const fs::filesystem_error& error) {
        refuse(error.path1().string() + ": cannot be read: " + error.code().message());
    }
    return found;
}

// What is wrong with one file; empty if nothing.
struct Finding {
    std::string message;
    std::exception_ptr error;
};

}  // namespace

void verify_files(const std::string& bundle, const Manifest& manifest,
                  const std::function<void(const std::string&, std::uint64_t)>& progress, unsigned n_threads) {
    const std::map<std::string, std::uint64_t> found = files_on_disk(bundle);
    std::vector<const std::pair<const std::string, FileEntry>*> files;
    for (const auto& entry : manifest.digests) {
        files.push_back(&entry);
        const auto on_disk = found.find(entry.first);
        if (on_disk == found.end()) refuse(bundle + ": " + entry.first + " is missing");
        if (on_disk->second != entry.second.size)
            refuse(bundle + "/" + entry.first + ": expected " + std::to_string(entry.second.size) + " bytes, found " + std::to_string(on_disk->second));
    }
    std::vector<std::string> unknown;
    for (const auto& entry : found)
        if (entry.first != MANIFEST_NAME && !manifest.digests.count(entry.first)) unknown.push_back(entry.first);
    if (!unknown.empty())
        refuse(bundle + ": " + unknown[0] + " is not in the manifest (" + std::to_string(unknown.size()) + " such files)",
               "remove files that are not part of the bundle");

    // The largest first, so that no thread is left with it at the end.
    std::vector<std::size_t> order(files.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return files[a]->second.size > files[b]->second.size; });
    std::vector<Finding> findings(files.size());
    std::atomic<std::size_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex reporting;
    const auto work = [&] {
        for (std::size_t at; !failed && (at = next++) < order.size();) {
            const std::size_t i = order[at];
            const auto& [relative, expected] = *files[i];
            try {
                const FileEntry entry = hash_file(bundle + "/" + relative, [&, name = &relative](std::uint64_t n) {
                    const std::lock_guard<std::mutex> lock(reporting);
                    if (progress) progress(*name, n);
                });
                if (entry.sha256 != expected.sha256)
                    findings[i].message = bundle + "/" + relative + ": SHA-256 is " + entry.sha256 + ", the manifest says " + expected.sha256;
            } catch (...) {
                findings[i].error = std::current_exception();
            }
            if (findings[i].error || !findings[i].message.empty()) failed = true;
        }
    };
    std::vector<std::thread> threads;
    try {
        for (unsigned i = 1; i < n_threads && i < files.size(); ++i) threads.emplace_back(work);
    } catch (const std::system_error&) {
        // No thread to be had: those that are there, this one at least, do the work.
    }
    work();
    for (std::thread& thread : threads) thread.join();
    for (const Finding& finding : findings) {
        if (finding.error) std::rethrow_exception(finding.error);
        if (!finding.message.empty()) refuse(finding.message);
    }
}

}  // namespace aurora
