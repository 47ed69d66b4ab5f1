// Threads of the system, which reserves their stacks and guards them, and WaitOnAddress.
#include "platform/threads.h"

#include "platform/platform.h"
#include "platform/windows/system.h"

namespace keel::platform {

namespace {

DWORD WINAPI enter(void* argument) {
    const Thread* thread = static_cast<Thread*>(argument);
    thread->entry(thread->argument);
    return 0;
}

}  // namespace

void sleep_on(std::atomic<uint32_t>* word, uint32_t value) {
    static_assert(sizeof *word == sizeof value);
    WaitOnAddress(word, &value, sizeof value, INFINITE);
}

void wake_one(std::atomic<uint32_t>* word) {
    WakeByAddressSingle(word);
}

size_t worker_stack_bytes() {
    return 0;
}

StartResult start_thread(Thread* thread, void*) {
    const HANDLE handle =
        CreateThread(nullptr, kThreadStackBytes, enter, thread, STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
    if (!handle) return StartResult::kRefused;
    thread->handle = reinterpret_cast<uintptr_t>(handle);
    return StartResult::kStarted;
}

void join_thread(Thread* thread) {
    const HANDLE handle = reinterpret_cast<HANDLE>(thread->handle);
    WaitForSingleObject(handle, INFINITE);
    CloseHandle(handle);
}

bool bind_thread(const Thread& thread, uint32_t n) {
    DWORD_PTR mine, of_the_system;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &of_the_system) || mine == 0) return false;
    for (n %= usable_cores(); n > 0; --n) mine &= mine - 1;
    return SetThreadAffinityMask(reinterpret_cast<HANDLE>(thread.handle), mine & (~mine + 1)) != 0;
}

int current_core() {
    return static_cast<int>(GetCurrentProcessorNumber());
}

}  // namespace keel::platform
