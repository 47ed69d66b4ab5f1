#include "tests/fault/alloc_guard.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
void* __sbrk(intptr_t);
}

namespace {

std::atomic<bool> armed{false};
std::atomic<uint64_t> count{0};
std::atomic<void (*)(const keel_test::Allocation&)> trap{nullptr};
keel_test::Allocation first;  // written by the thread that raises count from 0 to 1

void note(const char* function, const void* caller, size_t bytes) {
    if (!armed.load(std::memory_order_acquire)) return;
    const keel_test::Allocation allocation = {function, caller, bytes};
    if (count.fetch_add(1) == 0) first = allocation;
    if (const auto call = trap.load()) call(allocation);
}

}  // namespace

namespace keel_test {

void alloc_guard_arm(void (*on_allocation)(const Allocation&)) {
    first = {};
    count.store(0);
    trap.store(on_allocation);
    armed.store(true, std::memory_order_release);
}
void alloc_guard_disarm() {
    armed.store(false, std::memory_order_release);
}
uint64_t alloc_guard_count() {
    return count.load();
}
Allocation alloc_guard_first() {
    return first;
}

}  // namespace keel_test

#define NOTE(bytes) note(__func__, __builtin_return_address(0), bytes)

extern "C" {

void* malloc(size_t bytes) noexcept {
    NOTE(bytes);
    return __libc_malloc(bytes);
}
void* calloc(size_t items, size_t bytes) noexcept {
    NOTE(items * bytes);
    return __libc_calloc(items, bytes);
}
void* realloc(void* old, size_t bytes) noexcept {
    NOTE(bytes);
    return __libc_realloc(old, bytes);
}
void* reallocarray(void* old, size_t items, size_t bytes) noexcept {
    NOTE(items * bytes);
    size_t total;
    if (__builtin_mul_overflow(items, bytes, &total)) {
        errno = ENOMEM;
        return nullptr;
    }
    return __libc_realloc(old, total);
}
void free(void* data) noexcept {
    if (data) NOTE(0);
    __libc_free(data);
}
void* memalign(size_t align, size_t bytes) noexcept {
    NOTE(bytes);
    return __libc_memalign(align, bytes);
}
void* aligned_alloc(size_t align, size_t bytes) noexcept {
    NOTE(bytes);
    return __libc_memalign(align, bytes);
}
int posix_memalign(void** out, size_t align, size_t bytes) noexcept {
    NOTE(bytes);
    if (align < sizeof(void*) || (align & (align - 1))) return EINVAL;
    void* data = __libc_memalign(align, bytes);
    if (!data) return ENOMEM;
    *out = data;
    return 0;
}
void* mmap(void* address, size_t bytes, int protection, int flags, int descriptor, off_t offset) noexcept {
    NOTE(bytes);
    return reinterpret_cast<void*>(syscall(SYS_mmap, address, bytes, protection, flags, descriptor, offset));
}
void* mmap64(void* address, size_t bytes, int protection, int flags, int descriptor, off64_t offset) noexcept {
    NOTE(bytes);
    return reinterpret_cast<void*>(syscall(SYS_mmap, address, bytes, protection, flags, descriptor, offset));
}
void* sbrk(intptr_t bytes) noexcept {
    NOTE(static_cast<size_t>(bytes));
    return __sbrk(bytes);
}
int brk(void* end) noexcept {
    NOTE(0);
    const intptr_t bytes = static_cast<char*>(end) - static_cast<char*>(__sbrk(0));
    return __sbrk(bytes) == reinterpret_cast<void*>(-1) ? -1 : 0;
}

}  // extern "C"
