// Macros of vector code. Everything in a kernel header is inlined into the file of one instruction set.
#pragma once

#define KEEL_INLINE static inline __attribute__((always_inline))
// A function that stays one: inlined into a long one, its loops and those of others would spill each other's registers.
#define KEEL_NOINLINE static __attribute__((noinline))
// A function that stays one and is not copied for a constant argument either: knowing it makes it larger, and no
// faster.
#if defined(__clang__)
#define KEEL_ONE_COPY static __attribute__((noinline, unused))
#else
#define KEEL_ONE_COPY static __attribute__((noinline, noclone, unused))
#endif
// Behind the parameters of a lambda or a member function.
#define KEEL_ALWAYS_INLINE __attribute__((always_inline))
#if defined(__clang__)
#define KEEL_UNROLL _Pragma("unroll")
#else
#define KEEL_UNROLL _Pragma("GCC unroll 16")
#endif

// A loop stays one: GCC would unroll it, the one around an unrolled loop too. Clang does not.
#if defined(__clang__)
#define KEEL_KEEP_LOOP
#else
#define KEEL_KEEP_LOOP _Pragma("GCC unroll 1")
#endif

// Makes a scalar opaque to the compiler at this point, so that it stays the one it is: compilers replace a few pointers
// and a stride by one pointer per row, more than there are registers for. Costs no instruction.
#define KEEL_OPAQUE(x) __asm__("" : "+r"(x))
