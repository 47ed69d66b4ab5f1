// A CUDA driver for machines without one: it takes the place of platform/cuda/driver.cpp. Device memory is host memory
// that nobody but the driver can touch; work lies in a queue per stream, and is done late and in pieces, its kernels by
// the executor of tests/simt. Any call can be made to fail.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace keel_test {

struct FakeDriver {
    // How it behaves.
    uint32_t commands_per_query = 3;  // of a stream that are done before an event's query looks
    bool split_launches = false;      // a launch's blocks are run in two pieces
    int capability_major = 9;
    bool overlap_launches = true;        // those that may begin before the one in front of them has ended do so
    size_t shared_limit = 0;             // of the context; 0: not limited
    bool present = true;                 // false: there is no driver
    uint64_t fail_at = 0;                // the call with this number fails, counted from 1; 0: none
    bool lost = false;                   // every call fails from now on
    int fail_with = 719;                 // CUDA_ERROR_LAUNCH_FAILED
    std::function<void()> in_next_wait;  // called once, by the next call that waits for a stream, before it does

    // Its clock goes on by what launches of a kernel take.
    uint64_t clock_ns = 1000000;
    std::function<uint64_t(const std::string& kernel)> launch_ns = [](const std::string&) { return uint64_t{1000}; };

    // What it saw, since reset().
    uint64_t calls = 0;
    uint64_t allocations = 0, module_loads = 0, launches = 0, overlapping_launches = 0, bytes_to_host = 0,
             event_queries = 0, event_waits = 0, instantiations = 0, graph_launches = 0;
    int64_t open_objects = 0;  // allocations, streams, events, modules and contexts that were not given back
    std::string fault;         // the first thing that a GPU would not have accepted

    // A kernel that modules have beside the listed ones.
    static void add_kernel(const char* name, void (*kernel)(const void* args), uint32_t args_bytes,
                           uint32_t max_threads);

    static FakeDriver& get();
    static void reset();  // no engine is alive
};

// Memory of a region of the device's or a pinned one, that tests allocate themselves; freed by address.
void* fake_region_allocate(int kind, uint64_t bytes, uint64_t align_bytes);
void fake_region_free(int kind, void* data);

}  // namespace keel_test
