// Threads on stacks in the caller's memory, and the futex.
#include "platform/threads.h"

#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "platform/linux/affinity.h"
#include "platform/platform.h"

namespace keel::platform {

namespace {

constexpr size_t kUnitBytes = 4096;  // what memory of the team is aligned to; pages may be larger

constexpr size_t round_up(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

void futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
    static_assert(sizeof *word == sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free);
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, nullptr, nullptr, 0);
}

int add_thread_local_bytes(struct dl_phdr_info* module, size_t, void* sum) {
    for (int i = 0; i < module->dlpi_phnum; ++i) {
        const auto& segment = module->dlpi_phdr[i];
        if (segment.p_type == PT_TLS) *static_cast<size_t*>(sum) += segment.p_memsz + segment.p_align;
    }
    return 0;
}

// The C library puts thread-local data, its own included, at the top of a new thread's stack.
size_t thread_local_bytes() {
    constexpr size_t kOfTheLibrary = 16 * 1024;  // its thread record, and room it keeps for what is loaded later
    // Once: plan and init must agree, whatever was loaded between them. What is loaded by dlopen has its data elsewhere.
    static std::atomic<size_t> measured{0};
    size_t bytes = measured.load(std::memory_order_relaxed);
    if (bytes) return bytes;
    dl_iterate_phdr(add_thread_local_bytes, &bytes);
    bytes = round_up(bytes + kOfTheLibrary, kUnitBytes);
    size_t first = 0;
    return measured.compare_exchange_strong(first, bytes, std::memory_order_relaxed) ? bytes : first;
}

// Sanitizers widen stack frames.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEL_SANITIZED_STACKS
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KEEL_SANITIZED_STACKS
#endif
#endif
#ifdef KEEL_SANITIZED_STACKS
constexpr size_t kFrameBytes = kThreadStackBytes + 1024 * 1024;
#else
constexpr size_t kFrameBytes = kThreadStackBytes;
#endif

size_t page_bytes() {
    return static_cast<size_t>(getauxval(AT_PAGESZ));
}

// Of a stack's memory, what is in front of its first whole page, and that page.
size_t guard_bytes() {
    return 2 * page_bytes() - kUnitBytes;
}

void* enter(void* argument) {
    const Thread* thread = static_cast<Thread*>(argument);
    thread->entry(thread->argument);
    return nullptr;
}

}  // namespace

void sleep_on(std::atomic<uint32_t>* word, uint32_t value) {
    futex(word, FUTEX_WAIT_PRIVATE, value);
}

void wake_one(std::atomic<uint32_t>* word) {
    futex(word, FUTEX_WAKE_PRIVATE, 1);
}

size_t worker_stack_bytes() {
    return guard_bytes() + kFrameBytes + thread_local_bytes();
}

StartResult start_thread(Thread* thread, void* stack) {
    const size_t page = page_bytes();
    uint8_t* closed = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uintptr_t>(stack), page));
    uint8_t* low = closed + page;
    const size_t bytes = static_cast<size_t>(static_cast<uint8_t*>(stack) + worker_stack_bytes() - low);

    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return StartResult::kRefused;
    pthread_t handle;
    int error = pthread_attr_setstack(&attributes, low, bytes);
    if (error == 0) {
        // Memory of huge pages or of a device can refuse: then there is no guard, and the stack is as large all the
        // same.
        thread->closed_page = mprotect(closed, page, PROT_NONE) == 0 ? closed : nullptr;
        // The application's signal handlers must not run on a small stack. Faults stay with the thread that caused them.
        sigset_t blocked, previous;
        sigfillset(&blocked);
        for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&blocked, fault);
        pthread_sigmask(SIG_SETMASK, &blocked, &previous);
        error = pthread_create(&handle, &attributes, enter, thread);
        pthread_sigmask(SIG_SETMASK, &previous, nullptr);
        if (error != 0 && thread->closed_page) mprotect(closed, page, PROT_READ | PROT_WRITE);
    }
    pthread_attr_destroy(&attributes);
    if (error == EINVAL) return StartResult::kStackTooSmall;
    if (error != 0) return StartResult::kRefused;
    static_assert(sizeof handle <= sizeof thread->handle);
    memcpy(&thread->handle, &handle, sizeof handle);
    return StartResult::kStarted;
}

void join_thread(Thread* thread) {
    pthread_t handle;
    memcpy(&handle, &thread->handle, sizeof handle);
    pthread_join(handle, nullptr);
    if (thread->closed_page) mprotect(thread->closed_page, page_bytes(), PROT_READ | PROT_WRITE);
    thread->closed_page = nullptr;
}

bool bind_thread(const Thread& thread, uint32_t n) {
    CoreMask cores;
    if (!affinity_of_caller(&cores)) return false;
    const uint32_t count = core_count(cores);
    if (count == 0) return false;
    const CoreMask one = nth_core(cores, n % count);
    pthread_t handle;
    memcpy(&handle, &thread.handle, sizeof handle);
    return pthread_setaffinity_np(handle, sizeof one.words, reinterpret_cast<const cpu_set_t*>(one.words)) == 0;
}

int current_core() {
    return sched_getcpu();
}

}  // namespace keel::platform
