// The only room with operating-system calls. Linux first; nothing here leaks a POSIX type, so another system is another
// source file. Nothing allocates: thread stacks come from the caller.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel::platform {

uint64_t now_ns();  // monotonic clock

// ---- files ----
// Maps a whole file read-only. 0 ok, 1 cannot open, 2 cannot map. An empty file maps as data = nullptr, bytes = 0.
int map_file(const char* path, const void** data, uint64_t* bytes);
void unmap_file(const void* data, uint64_t bytes);
// Touches and locks pages of a mapping. False when the system refuses the lock.
bool lock_pages(const void* data, uint64_t bytes);
void unlock_pages(const void* data, uint64_t bytes);

// ---- cores ----
uint32_t usable_cores();  // cores in the caller's affinity mask, at least 1

// ---- a fixed team of threads ----
// Workers spin for a bounded time, then sleep (futex), so an idle engine costs no core. run() gives task indices
// 0..tasks-1 out statically: worker i of n runs the contiguous range [tasks*i/n, tasks*(i+1)/n); the caller is worker 0.
// Static partition; results never depend on it (NUMERICS).
struct ThreadTeam;  // placed by the caller
constexpr uint32_t kMaxThreads = 64;
constexpr size_t kThreadStackBytes = 256 * 1024;  // each worker's stack, from the caller's memory

uint64_t thread_team_bytes(uint32_t threads);     // memory of the team, stacks included; 4096-byte aligned
// Starts threads - 1 workers. Null when the system refuses (and then none is left running). pin: bind worker i to the
// i-th usable core.
ThreadTeam* thread_team_start(void* memory, uint32_t threads, bool pin);
void thread_team_stop(ThreadTeam* team);
// Runs task(context, worker, begin, end) on every worker with a non-empty range; returns when all are done.
void thread_team_run(ThreadTeam* team, uint32_t tasks, void (*task)(void* context, uint32_t worker, uint32_t begin, uint32_t end), void* context);

}  // namespace keel::platform
