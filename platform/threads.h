// What the thread team asks of the operating system, one implementation per system: threads, sleeping on a word, cores.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <atomic>

namespace keel::platform {

// ---- sleeping ----
// Sleeps while *word is `value`, until wake_one; may return early, so the caller looks again. A wake_one after *word
// was changed is never missed.
void sleep_on(std::atomic<uint32_t>* word, uint32_t value);
void wake_one(std::atomic<uint32_t>* word);

// ---- threads ----
// Bytes of the caller's memory that one worker's stack takes, a multiple of 4096; 0 where the system keeps stacks
// itself. The same in every call of a process.
//
//     | page that nobody may touch | stack: kThreadStackBytes, and the program's thread-local data |
size_t worker_stack_bytes();

enum class StartResult {
    kStarted,
    kRefused,       // no more threads or processes for this user, or no memory for one
    kStackTooSmall  // the program's thread-local data grew since the first call of worker_stack_bytes
};

struct Thread {
    void (*entry)(void* argument) = nullptr;
    void* argument = nullptr;
    uintptr_t handle = 0;
    void* closed_page = nullptr;  // of its stack; null where the system does not close memory of this kind
};

// Runs thread->entry(argument) on a thread of its own, whose stack is `stack`: 4096-byte aligned, worker_stack_bytes()
// bytes. *thread stays where it is until join_thread. The application's signal handlers do not run on it.
StartResult start_thread(Thread* thread, void* stack);
// Waits for its end; all of the stack may be written again afterwards.
void join_thread(Thread* thread);
// Binds it to the n-th core, going round, of the caller's affinity mask. False when the system refuses.
bool bind_thread(const Thread& thread, uint32_t n);

// The core that the caller runs on, or -1: a hint.
int current_core();

}  // namespace keel::platform
