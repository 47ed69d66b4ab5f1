// The main program of tests whose kernels read what tests have on their heap and stack: both are page-locked memory,
// which a GPU reads and writes by the host's addresses. Tests are the same that run on the executor.
#include <gtest/gtest.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <mutex>
#include <new>

#include "platform/cuda/driver.h"
#include "tests/fenced_memory.h"

namespace {

namespace cuda = keel::platform::cuda;

constexpr size_t kHeapBytes = 512u << 20, kStackBytes = 8u << 20, kClasses = 32;

// Blocks of powers of two; given back ones are taken again.
struct Heap {
    std::mutex mutex;
    uint8_t *next, *end;
    void* free[kClasses];
    bool tried;  // to get it
};
constinit Heap heap = {};

// In front of every block.
struct Header {
    void* block;
    uint32_t size_class;
    bool pinned;
};
static_assert(sizeof(Header) == 16);

void get_heap() {
    cuda::Driver driver;
    cuda::Context context;
    int device;
    void* memory;
    if (cuda::load_driver(&driver)) return;
    if (driver.device_get(&device, 0) || driver.primary_retain(&context, device) || driver.context_push(context) ||
        driver.host_allocate(&memory, kHeapBytes, cuda::kHostAllocPortable))
        return;
    heap.next = static_cast<uint8_t*>(memory);
    heap.end = heap.next + kHeapBytes;
}

void* allocate(size_t bytes, size_t align) {
    align = align < sizeof(Header) ? sizeof(Header) : align;
    const size_t room = bytes + align + sizeof(Header);
    uint32_t size_class = 5;
    while ((size_t{1} << size_class) < room) ++size_class;
    void* block = nullptr;
    {
        std::unique_lock<std::mutex> lock(heap.mutex);
        if (!heap.tried) {
            heap.tried = true;  // what getting it allocates itself is malloc's
            lock.unlock();
            get_heap();
            lock.lock();
        }
        if (size_class < kClasses && heap.free[size_class]) {
            block = heap.free[size_class];
            memcpy(&heap.free[size_class], block, sizeof block);
        } else if (static_cast<size_t>(heap.end - heap.next) >= size_t{1} << size_class) {
            block = heap.next;
            heap.next += size_t{1} << size_class;
        }
    }
    const bool pinned = block != nullptr;
    if (!pinned && heap.next) return nullptr;
    if (!pinned) block = malloc(room);
    if (!block) return nullptr;
    const uintptr_t data = (reinterpret_cast<uintptr_t>(block) + sizeof(Header) + align - 1) / align * align;
    const Header header = {block, size_class, pinned};
    memcpy(reinterpret_cast<void*>(data - sizeof header), &header, sizeof header);
    return reinterpret_cast<void*>(data);
}

void give_back(void* data) {
    if (!data) return;
    Header header;
    memcpy(&header, static_cast<uint8_t*>(data) - sizeof header, sizeof header);
    if (!header.pinned) return ::free(header.block);
    const std::lock_guard<std::mutex> lock(heap.mutex);
    memcpy(header.block, &heap.free[header.size_class], sizeof(void*));
    heap.free[header.size_class] = header.block;
}

void* need(void* data) {
    if (!data) throw std::bad_alloc();
    return data;
}

void* run_tests(void* result) {
    *static_cast<int*>(result) = RUN_ALL_TESTS();
    return nullptr;
}

}  // namespace

void* operator new(size_t bytes) {
    return need(allocate(bytes, 16));
}
void* operator new(size_t bytes, std::align_val_t align) {
    return need(allocate(bytes, static_cast<size_t>(align)));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
    return allocate(bytes, 16);
}
void operator delete(void* data) noexcept {
    give_back(data);
}
void operator delete(void* data, size_t) noexcept {
    give_back(data);
}
void operator delete(void* data, std::align_val_t) noexcept {
    give_back(data);
}
void operator delete(void* data, size_t, std::align_val_t) noexcept {
    give_back(data);
}

int main(int count, char** arguments) {
    testing::InitGoogleTest(&count, arguments);
    if (!heap.next) {
        fputs("this machine has no CUDA driver, or it has no page-locked memory\n", stderr);
        return 2;
    }
    keel_test::page_source() = {[](uint64_t bytes) {
                                    void* pages = allocate(static_cast<size_t>(bytes), 4096);
                                    return pages ? memset(pages, 0, static_cast<size_t>(bytes)) : nullptr;
                                },
                                give_back};
    void* const stack = need(allocate(kStackBytes, 4096));
    pthread_attr_t attributes;
    pthread_t thread;
    int failed = 2;
    if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, kStackBytes) ||
        pthread_create(&thread, &attributes, run_tests, &failed) || pthread_join(thread, nullptr))
        fputs("no thread with a stack of its own\n", stderr);
    return failed;
}
