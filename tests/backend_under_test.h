// The backend of test engines whose configuration names none. A test program that links tests/cuda/use_cuda.cpp runs
// its tests on the CUDA backend.
#pragma once
#include <cstdint>
#include <new>

#include "keel/keel.h"

namespace keel_test {

struct BackendUnderTest {
    const keel_backend* backend = nullptr;  // null: the CPU's
    const void* options = nullptr;          // keel_config.backend_options
    // Memory of regions that are a device's, and what it reads and writes of the host's.
    void* (*allocate)(int kind, uint64_t bytes, uint64_t align_bytes) = nullptr;
    void (*release)(int kind, void* data) = nullptr;
};
inline BackendUnderTest& backend_under_test() {
    static BackendUnderTest backend;
    return backend;
}

inline bool is_device_region(int kind) {
    return kind == KEEL_REGION_PINNED || (kind >= KEEL_REGION_DEVICE_SCRATCH && kind < KEEL_REGION_COUNT);
}
inline void* allocate_region(int kind, uint64_t bytes, uint64_t align_bytes) {
    const BackendUnderTest& under_test = backend_under_test();
    return under_test.allocate && is_device_region(kind) ? under_test.allocate(kind, bytes, align_bytes)
                                                         : ::operator new(bytes, std::align_val_t(align_bytes));
}
inline void release_region(int kind, void* data, uint64_t align_bytes) {
    const BackendUnderTest& under_test = backend_under_test();
    if (under_test.release && is_device_region(kind))
        under_test.release(kind, data);
    else
        ::operator delete(data, std::align_val_t(align_bytes));
}

}  // namespace keel_test
