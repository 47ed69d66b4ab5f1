// The only room with operating-system calls. Linux first; nothing here leaks a POSIX type, so another system is another
// source file. Nothing allocates: thread stacks come from the caller.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel::platform {

uint64_t now_ns();  // monotonic clock

// ---- files ----
// Maps a whole regular file read-only. 0 ok, 1 cannot open (missing, not readable, or no regular file), 2 cannot map.
// An empty file maps as data = nullptr, bytes = 0. A file cut short by others while it is mapped faults (SIGBUS) when
// read.
int map_file(const char* path, const void** data, uint64_t* bytes);
void unmap_file(const void* data, uint64_t bytes);
// Touches and locks pages of a mapping. False when the system refuses the lock.
bool lock_pages(const void* data, uint64_t bytes);
void unlock_pages(const void* data, uint64_t bytes);

// ---- cores ----
// Cores in the caller's affinity mask, or what the CPU quota of its control groups is worth where that is less; at
// least 1. A quota counts rounded down: a team that uses more than its share is stopped for the rest of the period.
uint32_t usable_cores();
// Asks the system to let this process use AMX tile registers, which is due before the first such instruction. False
// when it refuses, or knows none. Threads that exist already may use them as well.
bool allow_tile_registers();
// Whether this is a 64-bit ARM processor with NEON, its dot products (FEAT_DotProd) and its int8 matrix products
// (FEAT_I8MM).
bool have_arm_integer_products();

// ---- caches ----
uint64_t last_level_cache_bytes();  // the largest cache of the first core; 0 when the system does not say

// ---- a fixed team of threads ----
// Workers spin for a bounded time, then sleep (futex), so an idle engine costs no core. run() gives task indices
// 0..tasks-1 out statically: worker i of n = min(threads, tasks) runs the contiguous range [tasks*i/n, tasks*(i+1)/n);
// the caller is worker 0, so one task is a plain call. Static partition; results never depend on it (NUMERICS).
// One thread at a time calls run or stop, and no task calls run on its own team.
struct ThreadTeam;  // placed by the caller
constexpr uint32_t kMaxThreads = 64;
constexpr size_t kThreadStackBytes = 256 * 1024;  // each worker's stack, from the caller's memory

// Memory of the team, stacks included; to be 4096-byte aligned. 0 when threads is not in 1..kMaxThreads.
uint64_t thread_team_bytes(uint32_t threads);
// Starts threads - 1 workers and returns when they wait for work: from then on a team makes no system call but futex.
// Null when threads is out of range or the system refuses (and then none is left running). pin: bind worker i to the
// i-th usable core, going round; the calling thread, worker 0, belongs to the application and is left as it is.
ThreadTeam* thread_team_start(void* memory, uint32_t threads, bool pin);
void thread_team_stop(ThreadTeam* team);  // joins the workers; the memory is free afterwards
// Runs task(context, worker, begin, end) on every worker with a non-empty range; returns when all are done.
void thread_team_run(ThreadTeam* team, uint32_t tasks,
                     void (*task)(void* context, uint32_t worker, uint32_t begin, uint32_t end), void* context);

}  // namespace keel::platform
