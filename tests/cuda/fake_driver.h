// A CUDA driver for machines without one: it takes the place of platform/cuda/driver.cpp. Device memory is host memory
// that nobody but the driver can touch; work lies in a queue per stream, and is done late and in pieces, its kernels by
// the executor of tests/simt. Any call can be made to fail.
#pragma once
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace keel_test {

struct FakeDriver {
    // How it behaves.
    uint32_t commands_per_query = 3;  // of a stream that are done before an event's query looks
    bool split_launches = false;      // a launch's blocks are run in two pieces
    int capability_major = 9;
    size_t cache_bytes = 1 << 10;        // less than any model has
    bool overlap_launches = true;        // those that may begin before the one in front of them has ended do so
    size_t shared_limit = 0;             // of the context; 0: not limited
    bool present = true;                 // false: there is no driver
    uint64_t fail_at = 0;                // the call with this number fails, counted from 1; 0: none
    bool lost = false;                   // every call fails from now on
    int fail_with = 719;                 // CUDA_ERROR_LAUNCH_FAILED
    bool cublas_present = true;          // false: there is no cuBLASLt (fake_cublaslt.cpp)
    uint64_t cublas_fail_at = 0;         // as fail_at, of its calls
    std::function<void()> in_next_wait;  // called once, by the next call that waits for a stream, before it does

    // Its clock goes on by what launches of a kernel take.
    uint64_t clock_ns = 1000000;
    std::function<uint64_t(const std::string& kernel)> launch_ns = [](const std::string&) { return uint64_t{1000}; };

    // What it saw, since reset().
    uint64_t calls = 0;
    uint64_t allocations = 0, module_loads = 0, launches = 0, overlapping_launches = 0, windows = 0, bytes_to_host = 0,
             event_queries = 0, event_waits = 0, instantiations = 0, graph_launches = 0, cublas_calls = 0,
             cublas_products = 0;
    uint64_t longest_copy = 0;  // between host and device, in bytes
    int64_t open_objects = 0;   // allocations, streams, events, modules, contexts, and the library's, not given back
    std::string fault;          // the first thing that a GPU would not have accepted

    // A kernel that modules have beside the listed ones.
    static void add_kernel(const char* name, void (*kernel)(const void* args), uint32_t args_bytes,
                           uint32_t max_threads);

    static FakeDriver& get();
    static void reset();  // no engine is alive
};

// For libraries that work on the driver's streams: its lock, what a GPU would not have accepted, whether bytes are all
// in one allocation of device memory, and work behind what a stream has, which may touch that memory.
std::recursive_mutex& fake_mutex();
void fake_fault(const std::string& text);
bool fake_on_device(const void* data, uint64_t bytes);
bool fake_put(void* stream, std::function<int()> work);  // false: no such stream

// Memory of a region of the device's or a pinned one, that tests allocate themselves; freed by address.
void* fake_region_allocate(int kind, uint64_t bytes, uint64_t align_bytes);
void fake_region_free(int kind, void* data);

}  // namespace keel_test
