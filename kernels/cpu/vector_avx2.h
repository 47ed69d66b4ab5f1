// What the AVX2 products with 8-bit activations need beside the intrinsics. Only *_avx2.cpp files include this.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/inline.h"
#include "kernels/numeric.h"

// Makes a vector opaque to the compiler at this point. Integer sums may be reordered, and are, into trees that need
// more registers than there are; this keeps the chain as written (and costs no instruction).
#define KEEL_KEEP_ORDER(v) __asm__("" : "+x"(v))

namespace keel::kernels {

KEEL_INLINE void prefetch_lines(const uint8_t* p, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T0);
}

}  // namespace keel::kernels
#endif
