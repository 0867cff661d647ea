// As tests/runtime/test_cores.py: a thread for each core that this process is given time on.
#include <filesystem>
#include <map>

#include "cores.h"
#include "golden.h"

namespace aurora::tests {
namespace {

void write(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    write_file(path, content);
}

// A machine of `n` hardware threads, two to a core, in the control group a/b.
int cores_of(int n, const std::map<std::string, std::string>& quotas) {
    const Folder folder;
    std::vector<int> cpus;
    for (int cpu = 0; cpu < n; ++cpu) {
        const std::string first = std::to_string(cpu / 2 * 2), second = std::to_string(cpu / 2 * 2 + 1);
        write(folder / "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", first + "-" + second + "\n");
        cpus.push_back(cpu);
    }
    write(folder / "proc/self/cgroup", "1:name=systemd:/c\n0::/a/b\n");
    for (const auto& [group, quota] : quotas) write(folder / "sys/fs/cgroup/" + group + "/cpu.max", quota);
    return n_usable_cores(cpus, folder / "");
}

TEST(Cores, OneForEachPhysicalCore) { EXPECT_EQ(cores_of(8, {}), 4); }

TEST(Cores, AQuotaOfTheGroupOrOfOneAroundItCounts) {
    EXPECT_EQ(cores_of(8, {{"a", "250000 100000\n"}, {"a/b", "max 100000\n"}}), 3);
    EXPECT_EQ(cores_of(8, {{".", "100000 100000\n"}}), 1);
}

TEST(Cores, TheLowestQuotaCountsAndItIsNeverNone) {
    EXPECT_EQ(cores_of(8, {{"a", "200000 100000"}, {"a/b", "50000 100000"}}), 1);
}

TEST(Cores, NoQuota) {
    for (const char* quota : {"max 100000", "", "many", "0 0"}) EXPECT_EQ(cores_of(4, {{"a/b", quota}}), 2) << quota;
}

TEST(Cores, ASystemThatSaysNothing) {
    const Folder folder;
    EXPECT_EQ(n_usable_cores({0, 3, 5}, folder / ""), 3);
}

TEST(Cores, ThisMachine) {
    EXPECT_GE(n_usable_cores(), 1);
    EXPECT_LE(n_usable_cores(), static_cast<int>(usable_cpus().size()));
}

}  // namespace
}  // namespace aurora::tests
