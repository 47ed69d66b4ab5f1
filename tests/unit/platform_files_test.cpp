// Files, page locking, clock, cores.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "keel/keel.h"
#include "platform/linux/cpu_quota.h"
#include "platform/platform.h"
#include "tests/test_paths.h"

namespace {

using namespace keel::platform;

class PlatformFiles : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (std::filesystem::temp_directory_path() / "keel_files_XXXXXX").string();
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        directory_ = pattern;
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }
    std::string path(const char* name) const { return directory_ + "/" + name; }
    std::string write(const char* name, const std::string& text) const {
        std::ofstream(path(name), std::ios::binary) << text;
        return path(name);
    }

    std::string directory_;
};

int untouched;
const void* const kUntouched = &untouched;

TEST_F(PlatformFiles, MapsEveryByte) {
    std::string text(100'001, '\0');
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 131 >> 3);
    MappedFile file;
    ASSERT_EQ(map_file(write("full", text).c_str(), &file), FileResult::kOk);
    ASSERT_EQ(file.bytes, text.size());
    EXPECT_EQ(std::string(static_cast<const char*>(file.data), file.bytes), text);
    std::string copy(70'000, 0);
    EXPECT_TRUE(read_file(file.handle, 30'001, copy.data(), copy.size()));
    EXPECT_EQ(copy, text.substr(30'001));
    EXPECT_FALSE(read_file(file.handle, 30'002, copy.data(), copy.size())) << "a byte behind the end";
    unmap_file(file);
    unsigned char resident;
    EXPECT_NE(mincore(const_cast<void*>(file.data), 4096, &resident), 0) << "still mapped";
}

TEST_F(PlatformFiles, EmptyFileIsNullAndZero) {
    MappedFile file = {-1, kUntouched, 99};
    ASSERT_EQ(map_file(write("empty", "").c_str(), &file), FileResult::kOk);
    EXPECT_EQ(file.data, nullptr);
    EXPECT_EQ(file.bytes, 0u);
    unmap_file(file);
}

TEST_F(PlatformFiles, RefusesWhatIsNoFile) {
    ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
    const std::pair<std::string, FileResult> refused[] = {
        {path("missing"), FileResult::kMissing},
        {write("file", "x") + "/below", FileResult::kMissing},
        {"", FileResult::kMissing},
        {directory_, FileResult::kNotAFile},
        {path("pipe"), FileResult::kNotAFile},  // and does not hang
        {"/dev/zero", FileResult::kNotAFile},
        {std::string(5000, 'x'), FileResult::kUnreadable},
    };
    for (const auto& [name, result] : refused) {
        MappedFile file = {-1, kUntouched, 99};
        EXPECT_EQ(map_file(name.c_str(), &file), result) << name;
        EXPECT_EQ(file.data, kUntouched) << name;
        EXPECT_EQ(file.bytes, 99u) << name;
    }
}

// What a caller of keel.h sees of it.
TEST_F(PlatformFiles, RefusalsHaveStatusesOfTheirOwn) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    EXPECT_EQ(keel_reader_open_file(path("missing").c_str(), &reader), KEEL_E_FILE_MISSING);
    EXPECT_EQ(keel_reader_open_file(directory_.c_str(), &reader), KEEL_E_FILE_KIND);
    const std::string closed = write("closed", "x");
    ASSERT_EQ(chmod(closed.c_str(), 0), 0);
    ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        if (geteuid() == 0 && setresuid(54'321, 54'321, 54'321) != 0) _exit(77);  // root may read everything
        if (keel_reader_open_file(closed.c_str(), &reader) != KEEL_E_FILE_PERMISSION) _exit(1);
        const struct rlimit none = {0, 0};
        if (setrlimit(RLIMIT_NOFILE, &none) != 0) _exit(77);
        _exit(keel_reader_open_file("/proc/self/status", &reader) == KEEL_E_PLATFORM ? 0 : 2);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "skipped: this process may not give up its privileges";
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(PlatformFiles, UnmappableSizeIsItsOwnError) {
    const std::string name = write("sparse", "x");
    // Larger than any address space. Not every file system can hold such a hole.
    if (truncate(name.c_str(), off_t{1} << 60) != 0 && truncate(name.c_str(), off_t{1} << 50) != 0) {
        // A lowered limit on address space serves instead.
        ASSERT_EQ(truncate(name.c_str(), off_t{1} << 32), 0);
    }
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const struct rlimit limit = {rlim_t{1} << 31, rlim_t{1} << 31};
        setrlimit(RLIMIT_AS, &limit);
        MappedFile file;
        _exit(map_file(name.c_str(), &file) == FileResult::kUnmappable ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(PlatformFiles, LeavesNoDescriptorOpen) {
    const std::string name = write("small", "abc");
    const int before = open("/dev/null", O_RDONLY);
    close(before);
    MappedFile file, none;
    ASSERT_EQ(map_file(name.c_str(), &file), FileResult::kOk);
    unmap_file(file);
    EXPECT_EQ(map_file(directory_.c_str(), &none), FileResult::kNotAFile);
    const int after = open("/dev/null", O_RDONLY);
    close(after);
    EXPECT_EQ(before, after);
}

// Sanitizers turn mlock into a call that always succeeds and locks nothing.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kLocksAreReal = false;
#else
constexpr bool kLocksAreReal = true;
#endif

uint64_t locked_kb() {
    std::ifstream status("/proc/self/status");
    std::string word;
    while (status >> word) {
        if (word == "VmLck:") {
            uint64_t kb = 0;
            status >> kb;
            return kb;
        }
    }
    return 0;
}

TEST_F(PlatformFiles, LocksAndUnlocksPages) {
    if (!kLocksAreReal) GTEST_SKIP() << "skipped: no page locks under this sanitizer";
    MappedFile file;
    ASSERT_EQ(map_file(write("lock", std::string(64 * 1024, 'k')).c_str(), &file), FileResult::kOk);
    const void* data = file.data;
    const uint64_t bytes = file.bytes;
    const uint64_t before_kb = locked_kb();
    if (!lock_pages(data, bytes)) {
        unmap_file(file);
        GTEST_SKIP() << "skipped: this process may not lock 64 KiB";
    }
    EXPECT_EQ(locked_kb(), before_kb + 64);
    unsigned char resident[16] = {};
    ASSERT_EQ(mincore(const_cast<void*>(data), bytes, resident), 0);
    for (unsigned char page : resident) EXPECT_TRUE(page & 1);
    unlock_pages(data, bytes);
    EXPECT_EQ(locked_kb(), before_kb);
    unmap_file(file);
    EXPECT_TRUE(lock_pages(nullptr, 0));
}

TEST_F(PlatformFiles, RefusedLockIsFalse) {
    if (!kLocksAreReal) GTEST_SKIP() << "skipped: no page locks under this sanitizer";
    const std::string name = write("refused", std::string(64 * 1024, 'k'));
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        MappedFile file;
        const struct rlimit limit = {16 * 1024, 16 * 1024};
        if (map_file(name.c_str(), &file) != FileResult::kOk) _exit(2);
        if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) _exit(77);
        if (geteuid() == 0 && setresuid(54'321, 54'321, 54'321) != 0) _exit(77);  // root is above the limit
        _exit(lock_pages(file.data, file.bytes) ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "skipped: this process may not give up its privileges";
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(PlatformClock, GoesForwardAtTheRightPace) {
    const uint64_t before = now_ns();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const uint64_t passed = now_ns() - before;
    EXPECT_GE(passed, 20'000'000u);
    EXPECT_LT(passed, 2'000'000'000u);
}

TEST(PlatformCores, FollowTheCallersAffinity) {
    std::thread([] {
        cpu_set_t mine, one;
        ASSERT_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
        const uint32_t quota = quota_cores("/proc/self/cgroup", "/sys/fs/cgroup");
        EXPECT_EQ(usable_cores(), std::min(static_cast<uint32_t>(CPU_COUNT(&mine)), quota));
        CPU_ZERO(&one);
        for (int core = 0; core < CPU_SETSIZE; ++core) {
            if (CPU_ISSET(core, &mine)) {
                CPU_SET(core, &one);
                break;
            }
        }
        ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
        EXPECT_EQ(usable_cores(), 1u);
    }).join();
}

// A made-up /proc/self/cgroup and tree of control groups.
class PlatformCpuQuota : public testing::Test {
  protected:
    std::filesystem::path root_ = keel_test::temp_path("cpu_quota_test");
    void SetUp() override { std::filesystem::remove_all(root_); }
    void TearDown() override { std::filesystem::remove_all(root_); }
    void write(const std::string& path, const std::string& text) const {
        std::filesystem::create_directories((root_ / path).parent_path());
        std::ofstream(root_ / path) << text;
    }
    uint32_t cores(const std::string& groups) const {
        write("groups", groups);
        return quota_cores((root_ / "groups").c_str(), (root_ / "sys").c_str());
    }
};

TEST_F(PlatformCpuQuota, VersionTwoCountsEveryGroupAbove) {
    const std::string groups = "0::/slice/service\n";
    EXPECT_EQ(cores(groups), kNoQuota) << "no files";
    write("sys/slice/service/cpu.max", "max 100000\n");
    EXPECT_EQ(cores(groups), kNoQuota);
    write("sys/slice/service/cpu.max", "400000 100000\n");
    EXPECT_EQ(cores(groups), 4u);
    write("sys/slice/cpu.max", "250000 100000\n");
    EXPECT_EQ(cores(groups), 2u) << "the tighter one of the group above, rounded down";
    write("sys/cpu.max", "30000 100000\n");
    EXPECT_EQ(cores(groups), 1u) << "a part of a core is one";
    EXPECT_EQ(cores("0::/elsewhere\n"), 1u) << "of a container only the root is visible";
    EXPECT_EQ(cores("0::/"), 1u);
}

TEST_F(PlatformCpuQuota, VersionOneAndMixedMounts) {
    const std::string groups = "9:memory:/m\n4:cpuset:/c\n2:cpu,cpuacct:/job\n0::/\n";
    EXPECT_EQ(cores(groups), kNoQuota);
    write("sys/cpu/job/cpu.cfs_quota_us", "-1\n");
    write("sys/cpu/job/cpu.cfs_period_us", "50000\n");
    EXPECT_EQ(cores(groups), kNoQuota);
    write("sys/cpu/job/cpu.cfs_quota_us", "150000\n");
    EXPECT_EQ(cores(groups), 3u);
    write("sys/unified/cpu.max", "200000 100000\n");
    EXPECT_EQ(cores(groups), 2u);
    write("sys/cpu/c/cpu.cfs_quota_us", "1000\n");
    write("sys/cpu/c/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(cores(groups), 2u) << "the group of another controller";
}

TEST_F(PlatformCpuQuota, NonsenseIsNoQuota) {
    write("sys/cpu.max", "many 100000\n");
    for (const char* groups : {"", "\n", "0", "0:", "0::", "0::/a/b/c\nxyz\n::\n", "1:cpu\n"})
        EXPECT_EQ(cores(groups), kNoQuota) << groups;
    write("sys/cpu.max", "100000 0\n");
    EXPECT_EQ(cores("0::/\n"), kNoQuota);
    write("sys/cpu.max", "99999999999999999999999999 1\n");
    EXPECT_EQ(cores("0::/\n"), kNoQuota);
    std::string longer = "0::/";
    longer.append(3000, 'x').append("\n");
    EXPECT_EQ(cores(longer), kNoQuota) << "longer than any path";
    EXPECT_EQ(quota_cores((root_ / "nowhere").c_str(), root_.c_str()), kNoQuota);
}

// Either the system does not say, or it is the largest of the sizes it lists.
TEST(PlatformCaches, LastLevelCacheIsTheLargestListed) {
    uint64_t largest = 0;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/cpu/cpu0/cache", none)) {
        std::ifstream in(entry.path() / "size");
        uint64_t size = 0;
        char unit = 0;
        if (in >> size >> unit) largest = std::max(largest, unit == 'M' ? size << 20 : size << 10);
    }
    EXPECT_EQ(last_level_cache_bytes(), largest);
}

}  // namespace
