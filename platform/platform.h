// The only room with operating-system calls: platform/linux and platform/windows, one of which is built. Nothing here
// leaks a type of a system. Nothing allocates: thread stacks come from the caller, but on Windows, which keeps them
// itself.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel::platform {

uint64_t now_ns();  // monotonic clock

// ---- files ----
enum class FileResult {
    kOk,
    kMissing,     // no such file, or no such directory on the way
    kForbidden,   // no permission
    kNotAFile,    // a directory, pipe or device
    kTooMany,     // no free file descriptor
    kUnreadable,  // every other refusal to open
    kUnmappable   // open, but the system cannot map it
};
// An open file with all of its bytes mapped read-only.
struct MappedFile {
    intptr_t handle;
    const void* data;  // null when it is empty
    uint64_t bytes;
};
// Opens and maps a whole regular file; `path` is UTF-8. *out is untouched on failure. Where others may cut the file
// short while it is mapped (Linux), reading the mapping behind its new end is a fault (SIGBUS).
FileResult map_file(const char* path, MappedFile* out);
void unmap_file(const MappedFile& file);
// Copies bytes of the file as it is now, which needs no mapping. False when it ends early or cannot be read.
bool read_file(intptr_t handle, uint64_t offset, void* dst, uint64_t bytes);
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
// What a 64-bit ARM processor has of FEAT_AdvSIMD (NEON), FEAT_DotProd and FEAT_I8MM; nothing on any other.
struct ArmFeatures {
    bool neon, dotprod, i8mm;
};
ArmFeatures arm_features();

// ---- caches ----
uint64_t last_level_cache_bytes();  // the largest cache of the first core; 0 when the system does not say

// ---- a fixed team of threads ----
// Workers spin for a bounded time, then sleep, so an idle engine costs no core. run() gives task indices
// 0..tasks-1 out statically: worker i of n = min(threads, tasks) runs the contiguous range [tasks*i/n, tasks*(i+1)/n);
// the caller is worker 0, so one task is a plain call. Static partition; results never depend on it (NUMERICS).
// One thread at a time calls run or stop, and no task calls run on its own team.
struct ThreadTeam;  // placed by the caller
constexpr uint32_t kMaxThreads = 64;
constexpr size_t kThreadStackBytes = 256 * 1024;  // of each worker, beside the program's thread-local data

// Memory of the team, stacks included; to be 4096-byte aligned. 0 when threads is not in 1..kMaxThreads. The same in
// every call of a process.
uint64_t thread_team_bytes(uint32_t threads);
// Starts threads - 1 workers and returns when they wait for work: from then on a team makes no system call but those
// that sleep and wake. Null when threads is out of range or the system refuses (and then none is left running); *reason
// says why, static text. pin: bind worker i to the i-th usable core, going round; the calling thread, worker 0, belongs
// to the application and is left as it is. Until thread_team_stop a page in front of each stack is closed to everybody.
ThreadTeam* thread_team_start(void* memory, uint32_t threads, bool pin, const char** reason);
void thread_team_stop(ThreadTeam* team);  // joins the workers; the memory is free afterwards
// Runs task(context, worker, begin, end) on every worker with a non-empty range; returns when all are done.
void thread_team_run(ThreadTeam* team, uint32_t tasks,
                     void (*task)(void* context, uint32_t worker, uint32_t begin, uint32_t end), void* context);

}  // namespace keel::platform
