// The thread team: every index once, whatever the sizes, spinning or parked; failed starts leave nothing behind.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "platform/platform.h"

#ifdef __linux__
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>

#include "platform/linux/cpu_quota.h"
#include "platform/threads.h"
#endif

namespace {

using namespace keel::platform;

struct Team {
    explicit Team(uint32_t threads, bool pin = false)
        : bytes(thread_team_bytes(threads)),
          memory(static_cast<uint8_t*>(::operator new (bytes + 4096, std::align_val_t{4096}))) {
        memset(memory, 0xA5, bytes + 4096);  // the team may not rely on zeros
        team = thread_team_start(memory, threads, pin, &reason);
    }
    ~Team() {
        if (team) thread_team_stop(team);
        for (size_t i = 0; i < 4096; ++i) EXPECT_EQ(memory[bytes + i], 0xA5) << "written behind the team's memory";
        ::operator delete (memory, std::align_val_t{4096});
    }
    Team(const Team&) = delete;

    size_t bytes;
    uint8_t* memory;
    const char* reason = nullptr;
    ThreadTeam* team;
};

void sleep_us(long us) {
    std::this_thread::sleep_for(std::chrono::microseconds(us));
}

// Plain, not atomic, on purpose: run() itself must order these writes, and ThreadSanitizer checks that it does.
struct Record {
    std::vector<uint32_t> hits;
    uint32_t workers[kMaxThreads];
    uint32_t begins[kMaxThreads], ends[kMaxThreads];
};

void count_hits(void* context, uint32_t worker, uint32_t begin, uint32_t end) {
    Record* record = static_cast<Record*>(context);
    record->workers[worker] += 1;
    record->begins[worker] = begin;
    record->ends[worker] = end;
    for (uint32_t i = begin; i < end; ++i) record->hits[i] += 1;
}

void check_run(ThreadTeam* team, uint32_t threads, uint32_t tasks, Record* record) {
    record->hits.assign(tasks, 0);
    memset(record->workers, 0, sizeof(record->workers));
    thread_team_run(team, tasks, count_hits, record);
    for (uint32_t i = 0; i < tasks; ++i) ASSERT_EQ(record->hits[i], 1u) << "index " << i << " of " << tasks;
    const uint64_t n = std::min(threads, tasks);
    for (uint32_t w = 0; w < kMaxThreads; ++w) {
        ASSERT_EQ(record->workers[w], w < n ? 1u : 0u) << "worker " << w << ", tasks " << tasks;
        if (w >= n) continue;
        ASSERT_EQ(record->begins[w], tasks * uint64_t{w} / n);
        ASSERT_EQ(record->ends[w], tasks * uint64_t{w + 1} / n);
    }
}

TEST(PlatformThreadTeam, PartitionCoversEveryIndexOnce) {
    for (uint32_t threads : {1u, 2u, 3u, 7u, 64u}) {
        Team team(threads);
        ASSERT_NE(team.team, nullptr) << threads;
        Record record;
        for (uint32_t tasks : {0u, 1u, 2u, 3u, 5u, 63u, 64u, 65u, 1000u}) check_run(team.team, threads, tasks, &record);
    }
}

// Two threads spin before they sleep where there are two cores; with more threads than cores they sleep at once.
class PlatformThreadTeamStress : public testing::TestWithParam<uint32_t> {};

TEST_P(PlatformThreadTeamStress, EveryIndexOnceWithParking) {
    constexpr uint32_t kRuns = 100'000;
    const uint32_t threads = GetParam();
    Team team(threads);
    ASSERT_NE(team.team, nullptr);
    Record record;
    uint32_t random = 1;
    for (uint32_t run = 0; run < kRuns; ++run) {
        random = random * 1664525u + 1013904223u;
        check_run(team.team, threads, (random >> 16) % 12, &record);
        if (HasFatalFailure()) return;
        // Past the spin bound now and then, so that both ways of waiting, and the change between them, are taken.
        if (run % 500 == 0) sleep_us(random >> 16 & 127);
    }
}

INSTANTIATE_TEST_SUITE_P(Threads, PlatformThreadTeamStress, testing::Values(2u, 3u));

TEST(PlatformThreadTeam, CallerWaitsForSlowWorkers) {
    Team team(3);
    ASSERT_NE(team.team, nullptr);
    uint32_t finished[3] = {};  // plain: ordered by run()
    for (int run = 0; run < 20; ++run) {
        memset(finished, 0, sizeof(finished));
        thread_team_run(
            team.team, 3,
            [](void* context, uint32_t worker, uint32_t, uint32_t) {
                sleep_us(worker * 400);  // far beyond the spin bound: the caller parks
                static_cast<uint32_t*>(context)[worker] = 1;
            },
            finished);
        ASSERT_EQ(finished[0] + finished[1] + finished[2], 3u);
    }
}

// Two workers that each need the other's progress: a team that ran them one after another would never finish.
TEST(PlatformThreadTeam, WorkersRunAtTheSameTime) {
    Team team(2);
    ASSERT_NE(team.team, nullptr);
    std::atomic<uint32_t> arrived{0};
    thread_team_run(
        team.team, 2,
        [](void* context, uint32_t, uint32_t, uint32_t) {
            auto* count = static_cast<std::atomic<uint32_t>*>(context);
            count->fetch_add(1);
            while (count->load() < 2) sleep_us(10);
        },
        &arrived);
    EXPECT_EQ(arrived.load(), 2u);
}

TEST(PlatformThreadTeam, RefusesImpossibleSizes) {
    EXPECT_EQ(thread_team_bytes(0), 0u);
    EXPECT_EQ(thread_team_bytes(kMaxThreads + 1), 0u);
    alignas(4096) static uint8_t memory[4096];
    const char* reason = nullptr;
    EXPECT_EQ(thread_team_start(memory, 0, false, &reason), nullptr);
    EXPECT_EQ(thread_team_start(memory, kMaxThreads + 1, false, &reason), nullptr);
    EXPECT_STREQ(reason, "a number of threads out of range");
    EXPECT_LE(thread_team_bytes(1), 4096u);  // no stack for the caller
}

TEST(PlatformThreadTeam, StartsAndStopsManyTimes) {
    for (int round = 0; round < 200; ++round) {
        Team team(3);
        ASSERT_NE(team.team, nullptr);
        Record record;
        if (round % 2) check_run(team.team, 3, 3, &record);
    }
}

#ifdef __linux__

uint64_t process_cpu_ns() {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<uint64_t>(used.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(used.tv_nsec);
}

TEST(PlatformThreadTeam, IdleTeamCostsNoCore) {
    Team team(4);
    ASSERT_NE(team.team, nullptr);
    Record record;
    check_run(team.team, 4, 4, &record);
    sleep_us(20'000);  // workers park
    const uint64_t before_ns = process_cpu_ns();
    sleep_us(200'000);
    EXPECT_LT(process_cpu_ns() - before_ns, 20'000'000u) << "a waiting worker keeps spinning";
}

TEST(PlatformThreadTeam, StacksLieInTheTeamsMemory) {
    Team team(3);
    ASSERT_NE(team.team, nullptr);
    uintptr_t where[3] = {};
    thread_team_run(
        team.team, 3,
        [](void* context, uint32_t worker, uint32_t, uint32_t) {
            static_cast<uintptr_t*>(context)[worker] = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
        },
        where);
    for (uint32_t w = 1; w < 3; ++w) {
        EXPECT_GE(where[w], reinterpret_cast<uintptr_t>(team.memory));
        EXPECT_LT(where[w], reinterpret_cast<uintptr_t>(team.memory) + team.bytes);
    }
}

TEST(PlatformThreadTeam, PinsWorkersToTheirCores) {
    cpu_set_t mine;
    ASSERT_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
    std::vector<int> cores;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
        if (CPU_ISSET(core, &mine)) cores.push_back(core);
    }
    EXPECT_EQ(usable_cores(), std::min<uint32_t>(static_cast<uint32_t>(cores.size()),
                                                 quota_cores("/proc/self/cgroup", "/sys/fs/cgroup")));

    constexpr uint32_t kThreads = 5;
    Team team(kThreads, true);
    ASSERT_NE(team.team, nullptr);
    cpu_set_t masks[kThreads];
    thread_team_run(
        team.team, kThreads,
        [](void* context, uint32_t worker, uint32_t, uint32_t) {
            cpu_set_t* mask = static_cast<cpu_set_t*>(context) + worker;
            CPU_ZERO(mask);
            sched_getaffinity(0, sizeof(*mask), mask);
        },
        masks);
    EXPECT_TRUE(CPU_EQUAL(&masks[0], &mine)) << "the application's own thread was bound";
    for (uint32_t w = 1; w < kThreads; ++w) {
        EXPECT_EQ(CPU_COUNT(&masks[w]), 1) << w;
        EXPECT_TRUE(CPU_ISSET(cores[w % cores.size()], &masks[w])) << w;
    }
}

TEST(PlatformThreadTeam, WorkersTakeNoSignalsOfTheApplication) {
    Team team(2);
    ASSERT_NE(team.team, nullptr);
    sigset_t masks[2];
    thread_team_run(
        team.team, 2,
        [](void* context, uint32_t worker, uint32_t, uint32_t) {
            pthread_sigmask(SIG_SETMASK, nullptr, static_cast<sigset_t*>(context) + worker);
        },
        masks);
    EXPECT_TRUE(sigismember(&masks[1], SIGINT));
    EXPECT_TRUE(sigismember(&masks[1], SIGALRM));
    EXPECT_FALSE(sigismember(&masks[1], SIGSEGV));
    EXPECT_FALSE(sigismember(&masks[0], SIGINT)) << "the caller's mask was not restored";
}

size_t threads_of_process() {
    size_t count = 0;
    for (auto it = std::filesystem::directory_iterator("/proc/self/task"); it != std::filesystem::directory_iterator();
         ++it) {
        ++count;
    }
    return count;
}

// In a child process under a user of its own that may have few threads: exit status 0 as promised, 77 when the system
// does not let us set the stage.
int start_beyond_the_limit() {
    const size_t before = threads_of_process();
    const struct rlimit few = {4, 4};
    if (setrlimit(RLIMIT_NPROC, &few) != 0 || setresuid(54'321, 54'321, 54'321) != 0) return 77;
    constexpr uint32_t kThreads = 16;
    void* memory = aligned_alloc(4096, thread_team_bytes(kThreads));
    const char* reason = nullptr;
    ThreadTeam* team = thread_team_start(memory, kThreads, false, &reason);
    if (team) return 77;  // the limit does not bind here
    if (std::string(reason).find("limit on threads") == std::string::npos) return 4;
    for (int wait = 0; threads_of_process() != before; ++wait) {
        if (wait == 1000) return 1;
        sleep_us(1000);  // a joined thread leaves the process table a moment later
    }
    // What is left must still serve: a team within the limit in the same memory.
    team = thread_team_start(memory, 2, false, &reason);
    if (!team) return 2;
    uint32_t done[2] = {};
    thread_team_run(
        team, 2,
        [](void* context, uint32_t worker, uint32_t, uint32_t) { static_cast<uint32_t*>(context)[worker] = 1; }, done);
    thread_team_stop(team);
    return done[0] && done[1] ? 0 : 3;
}

TEST(PlatformThreadTeam, FailedStartLeavesNothingRunning) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(start_beyond_the_limit());
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "skipped: this process may not limit its threads";
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

// A program whose thread-local data would not leave a frame on a stack of 256 KiB, as hosts with large runtimes have it:
// with it every engine of this program starts its threads.
thread_local volatile char thread_local_block[320'512];

TEST(PlatformThreadTeam, StacksHoldTheProgramsThreadLocalData) {
    EXPECT_GE(worker_stack_bytes(), sizeof thread_local_block + kThreadStackBytes);
    EXPECT_EQ(worker_stack_bytes() % 4096, 0u);
    Team team(2);
    ASSERT_NE(team.team, nullptr) << team.reason;
    char seen[2] = {};
    thread_local_block[sizeof thread_local_block - 1] = 7;
    thread_team_run(
        team.team, 2,
        [](void* context, uint32_t worker, uint32_t, uint32_t) {
            thread_local_block[0] = static_cast<char>(worker + 1);
            // The frame that the planned bytes promise beside the thread-local data.
            volatile char frame[kThreadStackBytes - 16 * 1024];
            for (size_t i = 0; i < sizeof frame; i += 1024) frame[i] = 1;
            static_cast<char*>(context)[worker] = static_cast<char>(thread_local_block[0] + frame[0] - 1);
        },
        seen);
    EXPECT_EQ(seen[0], 1);
    EXPECT_EQ(seen[1], 2);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Writes downwards from its frame, through the end of the stack and what lies before it, and then leaves the process.
void overflow_the_stack(void*, uint32_t worker, uint32_t, uint32_t) {
    if (worker == 0) return;
    const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    for (size_t below = 0; below < worker_stack_bytes() + 8192; below += 64)
        *reinterpret_cast<volatile char*>(here - below) = 1;
    _exit(1);
}

TEST(PlatformThreadTeam, OverflowingStackStopsAtAClosedPage) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        constexpr size_t kBefore = 1 << 20;  // writable memory in front of the team's, so that nothing else stops it
        auto* block = static_cast<uint8_t*>(::operator new (kBefore + thread_team_bytes(2), std::align_val_t{4096}));
        const char* reason = nullptr;
        ThreadTeam* team = thread_team_start(block + kBefore, 2, false, &reason);
        if (!team) _exit(2);
        thread_team_run(team, 2, overflow_the_stack, nullptr);
        _exit(3);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "wrote through the end of its stack";
    EXPECT_EQ(WTERMSIG(status), SIGSEGV);
}
#endif

#endif  // __linux__

}  // namespace
