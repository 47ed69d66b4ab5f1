// A team of threads in the caller's memory.
//
//     memory (4096-byte aligned)
//     | ThreadTeam | Worker 1 | Worker 2 | ... |pad to 4096| stack 1 | stack 2 | ...     stacks: threads.h
//
// Every worker has a mailbox of its own: the job and the gate that announces it share a cache line, so handing a job
// over moves one line, and a worker without work is not disturbed. Its answer is a second gate on a second line.
// Nothing else is shared, and all ordering rests on the gates' acquire and release; sleeping only saves the waiting
// thread's core.
//
// Waiting for a thread that needs the same core would keep it from running, so a thread spins only while the one it
// waits for was last seen on another core. On a busy machine both often share one, and a handover then costs two
// switches instead of two spin times.
//
// After thread_team_start a team makes no system call but those that sleep and wake (and reads the clock and the
// current core, in user space where the system provides that).
#include <atomic>
#include <new>

#include "platform/platform.h"
#include "platform/threads.h"

namespace keel::platform {

namespace {

using Task = void (*)(void* context, uint32_t worker, uint32_t begin, uint32_t end);

constexpr size_t kPageBytes = 4096;
// Two cache lines: processors that fetch lines in pairs would otherwise share between neighbours.
constexpr size_t kLineBytes = 128;
// Longer than the pause between two ops of a step, shorter than anybody's idle time.
constexpr uint64_t kSpinNs = 30'000;
constexpr uint32_t kPausesPerClockRead = 32;

// One thread opens, one other thread waits. The word counts openings in steps of two; its lowest bit says that the
// waiter sleeps and that the next opening must wake it.
struct Gate {
    std::atomic<uint32_t> word{0};
};
constexpr uint32_t kAsleep = 1, kOpening = 2;

void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#endif
}

// Everything the opener wrote before is visible to the waiter after.
void gate_open(Gate* gate) {
    const uint32_t next = (gate->word.load(std::memory_order_relaxed) & ~kAsleep) + kOpening;
    if (gate->word.exchange(next, std::memory_order_acq_rel) & kAsleep) wake_one(&gate->word);
}

// Waits until the gate has been opened since it read `seen`; returns what to pass as `seen` next time.
uint32_t gate_wait(Gate* gate, uint32_t seen, uint64_t spin_ns) {
    uint32_t word = gate->word.load(std::memory_order_acquire);
    if (word != seen) return word;
    if (spin_ns) {
        const uint64_t end_ns = now_ns() + spin_ns;
        do {
            for (uint32_t i = 0; i < kPausesPerClockRead; ++i) {
                word = gate->word.load(std::memory_order_acquire);
                if (word != seen) return word;
                pause_core();
            }
        } while (now_ns() < end_ns);
    }
    for (;;) {
        if ((word & ~kAsleep) != seen) return word;
        // Either the bit is set here, and an opening from now on wakes us, or the gate was opened meanwhile.
        if (word == seen && !gate->word.compare_exchange_strong(word, seen | kAsleep, std::memory_order_acquire))
            continue;
        // Returns at once when the word is no longer what we set, and may return early: hence the loop.
        sleep_on(&gate->word, seen | kAsleep);
        word = gate->word.load(std::memory_order_acquire);
    }
}

struct alignas(kLineBytes) Worker {
    // Written by the caller before it opens `start`.
    Gate start;
    uint32_t index = 0;
    Task task = nullptr;  // null: leave
    void* context = nullptr;
    uint32_t begin = 0, end = 0;
    uint64_t spin_ns = 0;
    int caller_core = -1;
    uint32_t done_seen = 0;  // the caller's own
    Thread thread = {};      // the caller's own
    // Written by the worker.
    alignas(kLineBytes) Gate done;
    std::atomic<int> core{-1};  // a hint for the caller, hence relaxed
};

void worker_main(void* argument) {
    Worker* self = static_cast<Worker*>(argument);
    uint32_t seen = 0;
    for (;;) {
        const int core = current_core();
        self->core.store(core, std::memory_order_relaxed);
        const uint64_t spin_ns = core == self->caller_core ? 0 : self->spin_ns;
        gate_open(&self->done);  // the first time: this thread has started
        seen = gate_wait(&self->start, seen, spin_ns);
        if (!self->task) return;
        self->task(self->context, self->index, self->begin, self->end);
    }
}

void finish(Worker* worker) {
    worker->task = nullptr;
    gate_open(&worker->start);
    join_thread(&worker->thread);
}

// Null, or why there is no worker.
const char* create_worker(Worker* worker, void* stack, bool pin) {
    worker->thread.entry = worker_main;
    worker->thread.argument = worker;
    switch (start_thread(&worker->thread, stack)) {
        case StartResult::kStarted:
            break;
        case StartResult::kRefused:
            return "the system refused a thread: a limit on threads, processes or memory is reached";
        case StartResult::kStackTooSmall:
            return "thread-local data of this program does not fit the planned stacks: it grew after the first "
                   "keel_plan";
    }
    // Its own start-up calls are behind it when this returns.
    worker->done_seen = gate_wait(&worker->done, worker->done_seen, worker->spin_ns);
    if (!pin || bind_thread(worker->thread, worker->index)) return nullptr;
    finish(worker);
    return "the system refused to bind a thread to a core";
}

}  // namespace

struct ThreadTeam {
    uint32_t threads;
    uint64_t spin_ns;
};

namespace {

constexpr size_t kHeadBytes = kLineBytes;
static_assert(sizeof(ThreadTeam) <= kHeadBytes);

// Worker `index` >= 1; worker 0 is the caller and needs no record.
Worker* worker_at(ThreadTeam* team, uint32_t index) {
    return reinterpret_cast<Worker*>(reinterpret_cast<uint8_t*>(team) + kHeadBytes) + (index - 1);
}

size_t stacks_offset(uint32_t threads) {
    return (kHeadBytes + (threads - 1) * sizeof(Worker) + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

uint64_t thread_team_bytes(uint32_t threads) {
    if (threads == 0 || threads > kMaxThreads) return 0;
    return stacks_offset(threads) + uint64_t{threads - 1} * worker_stack_bytes();
}

ThreadTeam* thread_team_start(void* memory, uint32_t threads, bool pin, const char** reason) {
    *reason = "a number of threads out of range";
    if (threads == 0 || threads > kMaxThreads) return nullptr;
    ThreadTeam* team = new (memory) ThreadTeam;
    team->threads = threads;
    // A waiting thread may keep a core only if no other thread of the team needs it.
    team->spin_ns = threads <= usable_cores() ? kSpinNs : 0;

    uint8_t* stack = static_cast<uint8_t*>(memory) + stacks_offset(threads);
    uint32_t started = 1;
    for (; started < threads; ++started, stack += worker_stack_bytes()) {
        Worker* worker = new (worker_at(team, started)) Worker;
        worker->index = started;
        worker->spin_ns = team->spin_ns;
        *reason = create_worker(worker, stack, pin);
        if (*reason) break;
    }
    if (started == threads) return team;
    while (--started > 0) finish(worker_at(team, started));
    return nullptr;
}

void thread_team_stop(ThreadTeam* team) {
    for (uint32_t i = 1; i < team->threads; ++i) finish(worker_at(team, i));
    team->threads = 1;
}

void thread_team_run(ThreadTeam* team, uint32_t tasks, Task task, void* context) {
    if (tasks == 0) return;
    const uint32_t n = tasks < team->threads ? tasks : team->threads;
    const auto edge = [=](uint32_t i) { return static_cast<uint32_t>(uint64_t{tasks} * i / n); };
    const int core = current_core();
    for (uint32_t i = 1; i < n; ++i) {
        Worker* worker = worker_at(team, i);
        worker->task = task;
        worker->context = context;
        worker->begin = edge(i);
        worker->end = edge(i + 1);
        worker->caller_core = core;
        gate_open(&worker->start);
    }
    task(context, 0, 0, edge(1));
    for (uint32_t i = 1; i < n; ++i) {
        Worker* worker = worker_at(team, i);
        const bool shares_core = worker->core.load(std::memory_order_relaxed) == core;
        worker->done_seen = gate_wait(&worker->done, worker->done_seen, shares_core ? 0 : team->spin_ns);
    }
}

}  // namespace keel::platform
