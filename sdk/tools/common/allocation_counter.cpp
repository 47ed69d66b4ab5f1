#include "sdk/tools/common/allocation_counter.h"

#include <errno.h>
#include <malloc.h>
#include <stddef.h>

#include <atomic>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEL_COUNT_HEAP 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define KEEL_COUNT_HEAP 0
#endif
#endif
#ifndef KEEL_COUNT_HEAP
#ifdef __GLIBC__
#define KEEL_COUNT_HEAP 1
#else
#define KEEL_COUNT_HEAP 0
#endif
#endif

namespace keel::tools {
namespace {
std::atomic<uint64_t> g_allocations{0};  // constant-initialised: malloc runs before any constructor
}
bool heap_is_counted() {
    return KEEL_COUNT_HEAP;
}
uint64_t heap_allocations() {
    return g_allocations.load(std::memory_order_relaxed);
}
}  // namespace keel::tools

#if KEEL_COUNT_HEAP
namespace {
void count() {
    keel::tools::g_allocations.fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

// glibc's own names for its allocator. A library that replaces malloc (mimalloc's shared object) replaces these too, so
// what is allocated here and what is freed here always meet in the same allocator.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

void* malloc(size_t bytes) {
    count();
    return __libc_malloc(bytes);
}
void* calloc(size_t n, size_t bytes) {
    count();
    return __libc_calloc(n, bytes);
}
void* realloc(void* p, size_t bytes) {
    count();
    return __libc_realloc(p, bytes);
}
void* reallocarray(void* p, size_t n, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(n, bytes, &total)) {
        errno = ENOMEM;
        return nullptr;
    }
    return realloc(p, total);
}
void* memalign(size_t align, size_t bytes) {
    count();
    return __libc_memalign(align, bytes);
}
void* aligned_alloc(size_t align, size_t bytes) {
    return memalign(align, bytes);
}
int posix_memalign(void** out, size_t align, size_t bytes) {
    if (align < sizeof(void*) || (align & (align - 1))) return EINVAL;
    void* p = memalign(align, bytes);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}
void* valloc(size_t bytes) {
    return memalign(4096, bytes);
}
void* pvalloc(size_t bytes) {
    return memalign(4096, (bytes + 4095) & ~size_t{4095});
}
void free(void* p) {
    __libc_free(p);
}
}

// Every form of new goes through malloc above, every form of delete through free.
namespace {
void* allocate(size_t bytes, size_t align) {
    return align > alignof(max_align_t) ? memalign(align, bytes) : malloc(bytes ? bytes : 1);
}
void* allocate_or_throw(size_t bytes, size_t align) {
    if (void* p = allocate(bytes, align)) return p;
    throw std::bad_alloc();
}
}  // namespace
void* operator new(size_t n) {
    return allocate_or_throw(n, 0);
}
void* operator new[](size_t n) {
    return allocate_or_throw(n, 0);
}
void* operator new(size_t n, const std::nothrow_t&) noexcept {
    return allocate(n, 0);
}
void* operator new[](size_t n, const std::nothrow_t&) noexcept {
    return allocate(n, 0);
}
void* operator new(size_t n, std::align_val_t a) {
    return allocate_or_throw(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, std::align_val_t a) {
    return allocate_or_throw(n, static_cast<size_t>(a));
}
void* operator new(size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
    return allocate(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
    return allocate(n, static_cast<size_t>(a));
}
void operator delete(void* p) noexcept {
    free(p);
}
void operator delete[](void* p) noexcept {
    free(p);
}
void operator delete(void* p, size_t) noexcept {
    free(p);
}
void operator delete[](void* p, size_t) noexcept {
    free(p);
}
void operator delete(void* p, const std::nothrow_t&) noexcept {
    free(p);
}
void operator delete[](void* p, const std::nothrow_t&) noexcept {
    free(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
    free(p);
}
void operator delete[](void* p, std::align_val_t) noexcept {
    free(p);
}
void operator delete(void* p, size_t, std::align_val_t) noexcept {
    free(p);
}
void operator delete[](void* p, size_t, std::align_val_t) noexcept {
    free(p);
}
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept {
    free(p);
}
void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept {
    free(p);
}
#endif
