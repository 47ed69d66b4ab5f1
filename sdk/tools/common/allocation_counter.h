// Counts every heap allocation of the process, whoever asks: the keel command replaces malloc and its relatives and
// operator new. This is how "allocations after init: 0" is a measurement and not a claim.
#pragma once
#include <stdint.h>

namespace keel::tools {

// False where the C library has no entry points to forward to, and under sanitizers, which bring their own malloc.
bool heap_is_counted();
// Allocations since the start of the process, all threads.
uint64_t heap_allocations();

}  // namespace keel::tools
