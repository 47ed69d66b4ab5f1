// The guards can fail: each kind of forbidden act is committed once and must be caught; a thread team at work must not
// be.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <new>

#include "platform/platform.h"
#include "tests/fault/alloc_guard.h"
#include "tests/fault/guarded_child.h"

namespace {

using keel_test::ChildResult;
using keel_test::run_in_child;

std::atomic<void*> keep;  // where results go that a compiler must not remove

struct Sin {
    const char* name;
    const char* caught_as;
    void (*body)();
};
void PrintTo(const Sin& sin, std::ostream* out) {
    *out << sin.name;
}

void seal() {
    keel_test::child_forbid_allocation();
    keel_test::child_forbid_system_calls();
}

alignas(4096) uint8_t team_memory[2 << 20];

template <class Task>
void on_worker(Task task) {
    using namespace keel::platform;
    const char* reason;
    ThreadTeam* team = thread_team_start(team_memory, 2, false, &reason);
    CHILD_CHECK(team != nullptr);
    seal();
    thread_team_run(team, 2, task, nullptr);
}

const Sin kSins[] = {
    {"malloc", "malloc", [] { seal(), keep = malloc(10); }},
    {"calloc", "calloc", [] { seal(), keep = calloc(10, 2); }},
    {"realloc", "realloc", [] { seal(), keep = realloc(keep, 10); }},
    {"free", "free",
     [] {
         keep = malloc(10);
         seal();
         free(keep);
     }},
    {"posix_memalign", "posix_memalign",
     [] {
         void* data = nullptr;
         seal();
         CHILD_CHECK(posix_memalign(&data, 64, 64) == 0);
         keep = data;
     }},
    {"aligned_alloc", "aligned_alloc", [] { seal(), keep = aligned_alloc(64, 64); }},
    {"operator new", "malloc", [] { seal(), keep = new char[10]; }},
    {"aligned operator new", "align", [] { seal(), keep = ::operator new (64, std::align_val_t{64}); }},
    {"strdup", "malloc", [] { seal(), keep = strdup("text"); }},
    {"mmap", "mmap", [] { seal(), keep = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }},
    {"sbrk", "sbrk", [] { seal(), keep = sbrk(4096); }},
    {"write", "system call", [] { seal(), (void)!write(STDOUT_FILENO, "x", 1); }},
    {"open", "system call", [] { seal(), (void)open("/dev/null", O_RDONLY); }},
    {"sched_yield", "system call", [] { seal(), sched_yield(); }},
    {"nanosleep", "system call",
     [] {
         const struct timespec moment = {0, 1000};
         seal();
         nanosleep(&moment, nullptr);
     }},
    {"malloc on a worker", "malloc",
     [] { on_worker([](void*, uint32_t worker, uint32_t, uint32_t) { keep = worker ? malloc(10) : nullptr; }); }},
    {"write on a worker", "system call",
     [] {
         on_worker([](void*, uint32_t worker, uint32_t, uint32_t) {
             if (worker) (void)!write(2, "x", 1);
         });
     }},
    {"printed before the seal", "wrote to stdout: 'said'", [] { (void)!write(STDOUT_FILENO, "said", 4), seal(); }},
    {"left in a buffer", "waiting in a buffer", [] { printf("said"), seal(); }},
    {"failed check", "1 == 2 is false", [] { seal(), CHILD_CHECK(1 == 2); }},
    {"wrong status", "KEEL_E_BUSY",
     [] {
         seal();
         CHILD_STATUS(KEEL_OK, KEEL_E_BUSY);
     }},
    {"crash", "signal", [] { *static_cast<volatile int*>(nullptr) = 1; }},
    {"early exit", "exit status 9", [] { _exit(9); }},
};

class Guards : public testing::TestWithParam<Sin> {};

TEST_P(Guards, Catch) {
    const ChildResult result = run_in_child(GetParam().body);
    if (result.skipped) GTEST_SKIP() << result.text;
    EXPECT_FALSE(result.ok);
    EXPECT_NE(result.text.find(GetParam().caught_as), std::string::npos) << result.text;
}

INSTANTIATE_TEST_SUITE_P(Each, Guards, testing::ValuesIn(kSins), [](const auto& info) {
    std::string name = info.param.name;
    for (char& c : name) c = isalnum(static_cast<unsigned char>(c)) ? c : '_';
    return name;
});

// Workers spin, park and wake under the seal: the only calls are futex and the clock.
TEST(GuardsPass, ThreadTeamAtWork) {
    const ChildResult result = run_in_child([] {
        using namespace keel::platform;
        CHILD_CHECK(thread_team_bytes(3) <= sizeof(team_memory));
        const char* reason;
        ThreadTeam* team = thread_team_start(team_memory, 3, true, &reason);
        CHILD_CHECK(team != nullptr);
        seal();
        uint64_t sums[3] = {};
        for (int run = 0; run < 2000; ++run) {
            thread_team_run(
                team, 3,
                [](void* context, uint32_t worker, uint32_t begin, uint32_t end) {
                    static_cast<uint64_t*>(context)[worker] += end - begin;
                },
                sums);
            if (run % 100 == 0) {
                for (const uint64_t end_ns = now_ns() + 200'000; now_ns() < end_ns;) {  // workers park meanwhile
                }
            }
        }
        CHILD_CHECK(sums[0] + sums[1] + sums[2] == 6000);
    });
    if (result.skipped) GTEST_SKIP() << result.text;
    EXPECT_TRUE(result.ok) << result.text;
}

TEST(GuardsPass, EmptyBody) {
    const ChildResult result = run_in_child([] {});
    EXPECT_TRUE(result.ok) << result.text;
}

TEST(GuardsPass, CountsWithoutTrap) {
    keel_test::alloc_guard_arm();
    keep = malloc(123);
    free(keep);
    keel_test::alloc_guard_disarm();
    EXPECT_EQ(keel_test::alloc_guard_count(), 2u);
    EXPECT_STREQ(keel_test::alloc_guard_first().function, "malloc");
    EXPECT_EQ(keel_test::alloc_guard_first().bytes, 123u);
    keep = malloc(1);
    free(keep);
    EXPECT_EQ(keel_test::alloc_guard_count(), 2u) << "counted while disarmed";
}

}  // namespace
