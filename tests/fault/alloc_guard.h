// Catches every heap allocation of the process. Linking alloc_guard.cpp into a test program replaces the C library's
// allocation functions (operator new ends in malloc) and mmap, brk, sbrk; unarmed they only pass the call on.
// The guard allocates nothing, takes no lock and makes no system call of its own. Not for sanitizer builds, which
// replace the same functions.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel_test {

struct Allocation {
    const char* function;  // static text; null: none
    const void* caller;    // return address
    size_t bytes;          // as asked; 0 for free
};

// From now on every call, from any thread, is counted; the first is kept; each is given to `trap`, when there is one,
// before it happens. free(nullptr) does not count.
void alloc_guard_arm(void (*trap)(const Allocation&) = nullptr);
void alloc_guard_disarm();
uint64_t alloc_guard_count();  // since the last arm
Allocation alloc_guard_first();

}  // namespace keel_test
