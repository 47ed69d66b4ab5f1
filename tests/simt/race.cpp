// Race checker: kernels compiled with -fsanitize=thread call the functions at the end of this file at every access of
// memory; ThreadSanitizer's own runtime is not linked. Two accesses of a byte by different GPU threads, one of them a
// write, need a barrier between them: of the warp for its lanes, of the block for its threads, of the grid for blocks;
// or turns that warps of a block pass on, or counters that blocks raise and others await. Shuffles and matrix
// instructions order nothing in memory. Atomic accesses are not looked at.
#include <stdio.h>

#include <unordered_map>

#include "tests/simt/simt.h"

namespace {

struct Access {
    bool any;
    simt::Place by;
};
// What is kept of a byte: its last writer and two readers. With two that no barrier orders, a third adds little: a
// write that races with it alone would have to be ordered behind both of the others.
struct Byte {
    Access write, read[2];
};
constexpr uintptr_t kLineBytes = 16;
struct Line {
    Byte byte[kLineBytes];
};

thread_local std::unordered_map<uintptr_t, Line> lines;
thread_local bool busy;

// Whether the access came before what the running thread, which is at `now`, does next.
bool ordered(const Access& before, const simt::Place& now) {
    if (!before.any) return true;
    const simt::Place& then = before.by;
    if (then.grid_epoch != now.grid_epoch) return true;
    if (then.block != now.block) return simt::ordered_by_counts(then, now);
    if (then.thread == now.thread || then.block_epoch != now.block_epoch) return true;
    if (then.thread / 32 == now.thread / 32 && then.warp_epoch != now.warp_epoch) return true;
    return simt::ordered_by_turns(then, now);
}

void complain(const void* p, bool write, bool earlier_write, const simt::Place& now, const simt::Place& then,
              void* pc) {
    const int64_t offset = simt::shared_offset(p);
    char place[64], text[256];
    if (offset >= 0)
        snprintf(place, sizeof place, "shared memory + %lld", static_cast<long long>(offset));
    else
        snprintf(place, sizeof place, "global memory %p", p);
    snprintf(text, sizeof text, "race: %s of %s by thread %u of block %u after %s by thread %u of block %u, at %p",
             write ? "write" : "read", place, now.thread, now.block, earlier_write ? "write" : "read", then.thread,
             then.block, pc);
    simt::fail(text);
}

void access(const void* p, uint32_t bytes, bool write, void* pc) {
    const simt::Place* now = simt::running_place();
    if (!now || busy || simt::on_own_stack(p)) return;
    busy = true;
    Line* line = nullptr;
    uintptr_t number = 0;
    for (uint32_t i = 0; i < bytes; ++i) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(p) + i;
        if (!line || at / kLineBytes != number) {
            number = at / kLineBytes;
            line = &lines[number];
        }
        Byte& byte = line->byte[at % kLineBytes];
        const Access* conflict = ordered(byte.write, *now) ? nullptr : &byte.write;
        for (Access& read : byte.read)
            if (write && !conflict && !ordered(read, *now)) conflict = &read;
        if (conflict) {
            complain(reinterpret_cast<const void*>(at), write, conflict == &byte.write, *now, conflict->by, pc);
            break;
        }
        if (write)
            byte.write = {true, *now};
        else if (byte.read[0].any && byte.read[0].by.thread != now->thread && !ordered(byte.read[0], *now))
            byte.read[1] = {true, *now};
        else
            byte.read[0] = {true, *now};
    }
    busy = false;
}

void forget(const void* p, uint64_t bytes) {
    if (!bytes) return;
    const uintptr_t first = reinterpret_cast<uintptr_t>(p) / kLineBytes;
    for (uintptr_t n = first; n <= (reinterpret_cast<uintptr_t>(p) + bytes - 1) / kLineBytes; ++n) lines.erase(n);
}

constexpr simt::Watcher kWatcher = {
    [] { lines.clear(); },
    [](const void* p, uint32_t bytes, bool write) { access(p, bytes, write, nullptr); },
    forget,
};
[[maybe_unused]] const bool installed = (simt::set_watcher(&kWatcher), true);

}  // namespace

// What the compiler calls. The names are reserved for it.
#define SIMT_ACCESS(n)                                    \
    void __tsan_read##n(void* p) {                        \
        access(p, n, false, __builtin_return_address(0)); \
    }                                                     \
    void __tsan_write##n(void* p) {                       \
        access(p, n, true, __builtin_return_address(0));  \
    }                                                     \
    void __tsan_unaligned_read##n(void* p) {              \
        access(p, n, false, __builtin_return_address(0)); \
    }                                                     \
    void __tsan_unaligned_write##n(void* p) {             \
        access(p, n, true, __builtin_return_address(0));  \
    }
#pragma GCC diagnostic ignored "-Wmissing-declarations"
extern "C" {
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
void __tsan_read_range(void* p, unsigned long n) {
    access(p, static_cast<uint32_t>(n), false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long n) {
    access(p, static_cast<uint32_t>(n), true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
