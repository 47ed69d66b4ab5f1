// Every intrinsic and PTX instruction that kernels use, twice: for nvcc, and as calls of the executor that runs kernels
// on the CPU (tests/simt). Nothing else in kernels/cuda knows which of the two compiles it.
//
// Warps are whole and meet as a whole: there are no masks. Arithmetic that must not be fused is that of
// kernels/formats/numeric.h.
#pragma once
#include <stdint.h>

#include "kernels/cuda/kernels.h"
#include "kernels/formats/numeric.h"

namespace keel::cuda {

using namespace keel::kernels;

// What a lane loads at once.
struct alignas(16) Words4 {
    uint32_t x, y, z, w;
};
struct alignas(8) Words2 {
    uint32_t x, y;
};

#if defined(__CUDACC__)

// Blocks that shall fit a multiprocessor at least. Without a number, ptxas keeps those of small blocks to 96 registers.
constexpr uint32_t least_blocks(uint32_t threads) {
    return threads <= 128 ? 65536 / (threads * 255) : 0;
}

// A function of kernels.
#define KEEL_GPU __device__ __forceinline__
// One that is called, where copies of it would be large and a call costs nothing.
#define KEEL_GPU_CALLED __device__ __noinline__
// KEEL_GPU_KERNEL(name) { ... } defines a kernel of kernels.h; its body reads `args`. Beside these an entry point takes
// where its first thread writes when the launch began; null: nowhere. KEEL_GPU_KERNEL_OF: so many blocks shall fit.
//
// A launch may begin while the one before it is running (compute capability 9.0): its threads wait for the end of that
// before they touch what it or an earlier one reads or writes. KEEL_GPU_KERNEL does so first of all. A body of
// KEEL_GPU_EARLY_KERNEL calls wait_for_launch(began) itself, once in every thread, and may read weights and the step's
// arrays before: these were there before the step's first launch.
#define KEEL_GPU_KERNEL(name) KEEL_GPU_KERNEL_OF(name, least_blocks(kernel_traits_##name::kThreads))
#define KEEL_GPU_KERNEL_OF(name, blocks)                                                            \
    static KEEL_GPU void name##_body(const kernel_traits_##name::Arguments& args);                  \
    extern "C" __global__ void __launch_bounds__(kernel_traits_##name::kThreads, blocks)            \
        name(const __grid_constant__ kernel_traits_##name::Arguments args, uint64_t* const began) { \
        let_next_begin();                                                                           \
        wait_for_launch(began);                                                                     \
        name##_body(args);                                                                          \
    }                                                                                               \
    static KEEL_GPU void name##_body([[maybe_unused]] const kernel_traits_##name::Arguments& args)
#define KEEL_GPU_EARLY_KERNEL(name) KEEL_GPU_EARLY_KERNEL_OF(name, least_blocks(kernel_traits_##name::kThreads))
#define KEEL_GPU_EARLY_KERNEL_OF(name, blocks)                                                      \
    static KEEL_GPU void name##_body(const kernel_traits_##name::Arguments& args, uint64_t* began); \
    extern "C" __global__ void __launch_bounds__(kernel_traits_##name::kThreads, blocks)            \
        name(const __grid_constant__ kernel_traits_##name::Arguments args, uint64_t* const began) { \
        let_next_begin();                                                                           \
        name##_body(args, began);                                                                   \
    }                                                                                               \
    static KEEL_GPU void name##_body(const kernel_traits_##name::Arguments& args, uint64_t* began)
// Before a loop whose counter indexes registers; before one of much code, which nvcc would repeat.
#define KEEL_UNROLL _Pragma("unroll")
// Before one that is to stay a loop, for its registers.
#define KEEL_NO_UNROLL _Pragma("unroll 1")

extern __shared__ __align__(16) uint8_t dynamic_shared[];
KEEL_GPU uint8_t* shared_memory() {
    return dynamic_shared;
}
KEEL_GPU uint32_t thread_x() {
    return threadIdx.x;
}
// The same, read anew: what follows from it is not kept in registers from before.
KEEL_GPU uint32_t thread_x_again() {
    uint32_t x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
KEEL_GPU uint32_t block_x() {
    return blockIdx.x;
}
KEEL_GPU uint32_t block_y() {
    return blockIdx.y;
}
KEEL_GPU uint32_t block_z() {
    return blockIdx.z;
}
KEEL_GPU uint32_t grid_x() {
    return gridDim.x;
}
KEEL_GPU uint32_t block_threads() {
    return blockDim.x;
}
// p, which is known to point to global memory.
KEEL_GPU const uint8_t* in_global(const uint8_t* p) {
    __builtin_assume(__isGlobal(p));
    return p;
}
// v, of which the compiler knows nothing: what follows from it is worked out here, and not kept in registers around a
// loop.
KEEL_GPU uint32_t anew(uint32_t v) {
    asm volatile("" : "+r"(v));
    return v;
}
// The same of a pointer to global memory: it is kept, and not worked out again within a loop.
KEEL_GPU const uint8_t* kept(const uint8_t* p) {
    asm("" : "+l"(p));
    return in_global(p);
}
// v, which is the same in all lanes of a warp: so the compiler knows it.
KEEL_GPU uint32_t same_in_warp(uint32_t v) {
    return __shfl_sync(~0u, v, 0);
}
// A clock of the whole GPU.
KEEL_GPU uint64_t timer_ns() {
    uint64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

// From here on the next launch may begin, as soon as all blocks of this one have said so: before this one ends.
KEEL_GPU void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Waits until the launch before this one has ended, and all that it wrote is there. Then the first thread writes
// `began`.
KEEL_GPU void wait_for_launch(uint64_t* began) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    if (began && (threadIdx.x | blockIdx.x | blockIdx.y) == 0) *began = timer_ns();
}

KEEL_GPU void sync_block() {
    __syncthreads();
}
// Called once by all threads of blocks that share work, each with its share: whether the shares of those that have come
// here are all of it, this one's the last. Then every thread of it sees what they wrote before, and the counter is 0
// again, as it was at first.
KEEL_GPU bool last_of_blocks(uint32_t* counter, uint32_t share, uint32_t all) {
    __syncthreads();
    bool last = false;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(counter, share) + share == all;
        if (last) *counter = 0;
        __threadfence();
    }
    return __syncthreads_or(last);
}
KEEL_GPU void sync_warp() {
    __syncwarp();
}
// Called once by all threads of a block: the number of the block in the order in which those of its launch begin. So a
// block may wait for what those with lower numbers do: they have begun, in whatever order that is. `told` is a word of
// shared memory, and the counter 0 before the launch and again when all its `blocks` have begun.
KEEL_GPU uint32_t take_ticket(uint32_t* counter, uint32_t blocks, uint32_t* told) {
    if (threadIdx.x == 0) *told = atomicInc(counter, blocks - 1);
    __syncthreads();
    return __shfl_sync(~0u, *told, 0);
}
// Called by all threads of a block: adds one to a counter, 0 at first, for all that they wrote before, which is there
// for who awaits the counter: a warp, until all blocks that raise it have.
KEEL_GPU void raise_count(uint32_t* counter) {
    __syncthreads();
    if (threadIdx.x) return;
    __threadfence();
    atomicAdd(counter, 1);
}
KEEL_GPU void await_count(const uint32_t* counter, uint32_t all) {
    if (threadIdx.x % 32 == 0) {
        uint32_t now;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
        while (now < all);
    }
    __syncwarp();
}
// Warps of a block that work one after another: warp `to`, of eight at most, may go on from await_turn(to), and finds
// what this warp and those before it wrote. It has taken the turn before. The turn of warp 0 is the barrier of
// sync_block: no warp comes there before that is over. Barriers whose number is in a register take all sixteen of a
// block, and most architectures have few for a multiprocessor.
#if __CUDA_ARCH__ == 900
KEEL_GPU void pass_turn(uint32_t to) {
    asm volatile("bar.arrive %0, 64;" ::"r"(to) : "memory");
}
KEEL_GPU void await_turn(uint32_t own) {
    asm volatile("bar.sync %0, 64;" ::"r"(own) : "memory");
}
#else
#define KEEL_TURN(instruction, n)                              \
    case n:                                                    \
        asm volatile(instruction " " #n ", 64;" ::: "memory"); \
        break
#define KEEL_TURNS(instruction, which) \
    switch (which) {                   \
        KEEL_TURN(instruction, 0);     \
        KEEL_TURN(instruction, 1);     \
        KEEL_TURN(instruction, 2);     \
        KEEL_TURN(instruction, 3);     \
        KEEL_TURN(instruction, 4);     \
        KEEL_TURN(instruction, 5);     \
        KEEL_TURN(instruction, 6);     \
        KEEL_TURN(instruction, 7);     \
    }
KEEL_GPU void pass_turn(uint32_t to){KEEL_TURNS("bar.arrive", to)} KEEL_GPU void await_turn(uint32_t own) {
    KEEL_TURNS("bar.sync", own)
}
#endif
// The value of lane `from`, mod 32.
KEEL_GPU uint32_t shuffle(uint32_t v, uint32_t from) {
    return __shfl_sync(~0u, v, from);
}
KEEL_GPU float shuffle(float v, uint32_t from) {
    return __shfl_sync(~0u, v, from);
}
// Bit l: what lane l says.
KEEL_GPU uint32_t ballot(bool v) {
    return __ballot_sync(~0u, v);
}

// Bytes of a (0 to 3) and b (4 to 7), by the four digits of `which`, the lowest first.
KEEL_GPU uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t which) {
    return __byte_perm(a, b, which);
}
// c + the products of four pairs of int8; of two pairs int16 x int8, the lower or upper two of b.
KEEL_GPU int32_t dp4a(uint32_t a, uint32_t b, int32_t c) {
    return __dp4a(int32_t(a), int32_t(b), c);
}
KEEL_GPU int32_t dp2a_lo(uint32_t a, uint32_t b, int32_t c) {
    return __dp2a_lo(int32_t(a), int32_t(b), c);
}
KEEL_GPU int32_t dp2a_hi(uint32_t a, uint32_t b, int32_t c) {
    return __dp2a_hi(int32_t(a), int32_t(b), c);
}

// c += a b of int8, operands spread over the warp as PTX says: m16n8k32, and m16n8k16, which is its first half.
KEEL_GPU void mma_s8(int32_t c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same, d = c + a b with one number for all of c.
KEEL_GPU void mma_s8_from(int32_t d[4], int32_t c, const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c));
}
KEEL_GPU void mma_s8(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}

// c += a b and d = a b of uint8 in a.
KEEL_GPU void mma_u8(int32_t c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
KEEL_GPU void mma_u8_first(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}

// The larger one, NaN if one is; of two zeros +0 if one is.
KEEL_GPU float largest(float a, float b) {
    float most;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
    return most;
}

// ldmatrix: four matrices of eight rows of 16 bytes in shared memory; lane l says where row l % 8 of matrix l / 8 lies,
// and gets of row l / 4 of each the word l % 4.
KEEL_GPU void load_matrices(uint32_t w[4], const uint32_t* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(uint32_t(__cvta_generic_to_shared(row))));
}

KEEL_GPU float widen_f16(uint32_t half) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(uint16_t(half)));
    return f;
}

// A load of what is read once.
KEEL_GPU Words4 load_once(const Words4* p) {
    const uint4 v = __ldcs(reinterpret_cast<const uint4*>(p));
    return {v.x, v.y, v.z, v.w};
}

// Adds to shared memory that other threads add to as well; what was there.
KEEL_GPU uint32_t atomic_add(uint32_t* to, uint32_t v) {
    return atomicAdd(to, v);
}
KEEL_GPU uint64_t atomic_add(uint64_t* to, uint64_t v) {
    return atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(v));
}

// Asks for the line of p in the second cache.
KEEL_GPU void prefetch(const void* p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// cp.async: 16 bytes to shared memory, there when the thread has waited for their group.
KEEL_GPU void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from)
                 : "memory");
}
// The same of 8 and of 4 bytes.
KEEL_GPU void copy8(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from)
                 : "memory");
}
KEEL_GPU void copy4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from)
                 : "memory");
}
KEEL_GPU void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most PENDING groups of this thread are on their way.
template <int PENDING>
KEEL_GPU void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#else

}  // namespace keel::cuda
#include "tests/simt/simt.h"
namespace keel::cuda {

#define KEEL_GPU_KERNEL(name)                                                    \
    static void name##_body(const kernel_traits_##name::Arguments& args);        \
    void name(const void* args);                                                 \
    void name(const void* args) {                                                \
        wait_for_launch(nullptr);                                                \
        name##_body(*static_cast<const kernel_traits_##name::Arguments*>(args)); \
    }                                                                            \
    static void name##_body([[maybe_unused]] const kernel_traits_##name::Arguments& args)
#define KEEL_GPU_KERNEL_OF(name, blocks) KEEL_GPU_KERNEL(name)
#define KEEL_GPU_EARLY_KERNEL(name)                                                        \
    static void name##_body(const kernel_traits_##name::Arguments& args, uint64_t* began); \
    void name(const void* args);                                                           \
    void name(const void* args) {                                                          \
        name##_body(*static_cast<const kernel_traits_##name::Arguments*>(args), nullptr);  \
    }                                                                                      \
    static void name##_body(const kernel_traits_##name::Arguments& args, uint64_t* began)
#define KEEL_GPU_EARLY_KERNEL_OF(name, blocks) KEEL_GPU_EARLY_KERNEL(name)
#define KEEL_GPU inline
#define KEEL_GPU_CALLED inline
#define KEEL_UNROLL
#define KEEL_NO_UNROLL
// The line that calls: by default arguments, which are evaluated there.
#define KEEL_SITE const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE()

KEEL_GPU uint8_t* shared_memory() {
    return simt::shared_memory();
}
KEEL_GPU uint32_t thread_x() {
    return simt::thread_index().x;
}
KEEL_GPU uint32_t thread_x_again() {
    return simt::thread_index().x;
}
KEEL_GPU uint32_t block_x() {
    return simt::block_index().x;
}
KEEL_GPU uint32_t block_y() {
    return simt::block_index().y;
}
KEEL_GPU uint32_t block_z() {
    return simt::block_index().z;
}
KEEL_GPU uint32_t grid_x() {
    return simt::grid_size().x;
}
KEEL_GPU uint32_t block_threads() {
    return simt::block_size().x;
}
KEEL_GPU uint32_t anew(uint32_t v) {
    return v;
}
KEEL_GPU const uint8_t* kept(const uint8_t* p) {
    return p;
}
KEEL_GPU uint32_t same_in_warp(uint32_t v) {
    return v;
}
KEEL_GPU uint64_t timer_ns() {
    return simt::timer_ns();
}

KEEL_GPU void let_next_begin() {}
KEEL_GPU void wait_for_launch(uint64_t*, KEEL_SITE) {
    simt::wait_for_launch({file, line});
}

KEEL_GPU void sync_block(KEEL_SITE) {
    simt::block_barrier({file, line});
}
KEEL_GPU bool last_of_blocks(uint32_t* counter, uint32_t share, uint32_t all, KEEL_SITE) {
    return simt::last_of_blocks(counter, share, all, {file, line});
}
KEEL_GPU void sync_warp(KEEL_SITE) {
    simt::warp_barrier({file, line});
}
KEEL_GPU uint32_t take_ticket(uint32_t* counter, uint32_t blocks, uint32_t* told, KEEL_SITE) {
    return simt::take_ticket(counter, blocks, told, {file, line});
}
KEEL_GPU void raise_count(uint32_t* counter, KEEL_SITE) {
    simt::raise_count(counter, {file, line});
}
KEEL_GPU void await_count(const uint32_t* counter, uint32_t all, KEEL_SITE) {
    simt::await_count(counter, all, {file, line});
}
KEEL_GPU void pass_turn(uint32_t to, KEEL_SITE) {
    simt::pass_turn(to, {file, line});
}
KEEL_GPU void await_turn(uint32_t own, KEEL_SITE) {
    simt::await_turn(own, {file, line});
}
KEEL_GPU uint32_t shuffle(uint32_t v, uint32_t from, KEEL_SITE) {
    return simt::shuffle(v, from, {file, line});
}
KEEL_GPU float shuffle(float v, uint32_t from, KEEL_SITE) {
    return f32_from_bits(simt::shuffle(f32_bits(v), from, {file, line}));
}
KEEL_GPU uint32_t ballot(bool v, KEEL_SITE) {
    return simt::ballot(v, {file, line});
}

KEEL_GPU uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t which) {
    const uint64_t both = a | uint64_t{b} << 32;
    uint32_t out = 0;
    for (uint32_t i = 0; i < 4; ++i) out |= static_cast<uint32_t>(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    return out;
}
KEEL_GPU int32_t byte_of(uint32_t v, uint32_t i) {
    return static_cast<int8_t>(v >> 8 * i);
}
KEEL_GPU int32_t half_of(uint32_t v, uint32_t i) {
    return static_cast<int16_t>(v >> 16 * i);
}
KEEL_GPU int32_t dp4a(uint32_t a, uint32_t b, int32_t c) {
    for (uint32_t i = 0; i < 4; ++i) c += byte_of(a, i) * byte_of(b, i);
    return c;
}
KEEL_GPU int32_t dp2a_lo(uint32_t a, uint32_t b, int32_t c) {
    return c + half_of(a, 0) * byte_of(b, 0) + half_of(a, 1) * byte_of(b, 1);
}
KEEL_GPU int32_t dp2a_hi(uint32_t a, uint32_t b, int32_t c) {
    return dp2a_lo(a, b >> 16, c);
}

KEEL_GPU void mma_s8(int32_t c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, KEEL_SITE) {
    const uint32_t b[2] = {b0, b1};
    simt::mma_m16n8k32(c, a, b, {file, line});
}
KEEL_GPU void mma_s8_from(int32_t d[4], int32_t c, const uint32_t a[4], uint32_t b0, uint32_t b1, KEEL_SITE) {
    const uint32_t b[2] = {b0, b1};
    for (uint32_t i = 0; i < 4; ++i) d[i] = c;
    simt::mma_m16n8k32(d, a, b, {file, line});
}
KEEL_GPU void mma_s8(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t b, KEEL_SITE) {
    // Zeros in place of the other sixteen.
    const uint32_t a[4] = {a0, a1, 0, 0}, both[2] = {b, 0};
    simt::mma_m16n8k32(c, a, both, {file, line});
}

KEEL_GPU void mma_u8(int32_t c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, KEEL_SITE) {
    const uint32_t b[2] = {b0, b1};
    simt::mma_m16n8k32(c, a, b, {file, line}, true);
}
KEEL_GPU void mma_u8_first(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, KEEL_SITE) {
    const uint32_t b[2] = {b0, b1};
    for (uint32_t i = 0; i < 4; ++i) d[i] = 0;
    simt::mma_m16n8k32(d, a, b, {file, line}, true);
}

KEEL_GPU float largest(float a, float b) {
    if (a == b) return f32_bits(a) & 0x80000000u ? b : a;
    return b > a || b != b ? b : a;
}

KEEL_GPU void load_matrices(uint32_t w[4], const uint32_t* row, KEEL_SITE) {
    const uint32_t lane = thread_x() % 32;
    const uint64_t mine = reinterpret_cast<uintptr_t>(row);
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t from = 8 * i + lane / 4;
        const uint64_t low = simt::shuffle(static_cast<uint32_t>(mine), from, {file, line}),
                       high = simt::shuffle(static_cast<uint32_t>(mine >> 32), from, {file, line});
        w[i] = reinterpret_cast<const uint32_t*>(static_cast<uintptr_t>(high << 32 | low))[lane % 4];
    }
}

KEEL_GPU float widen_f16(uint32_t half) {
    return f16_to_f32(static_cast<uint16_t>(half));
}

KEEL_GPU Words4 load_once(const Words4* p) {
    return *p;
}

// No access that a barrier has to order: the race checker is not to see it.
template <class T>
__attribute__((no_sanitize("thread"), noinline)) T atomic_add(T* to, T v) {
    const T before = *to;
    *to = before + v;
    return before;
}
KEEL_GPU const uint8_t* in_global(const uint8_t* p) {
    return p;
}
KEEL_GPU void prefetch(const void*) {}

KEEL_GPU void copy16(void* to, const void* from, KEEL_SITE) {
    simt::copy_async(to, from, 16, {file, line});
}
KEEL_GPU void copy8(void* to, const void* from, KEEL_SITE) {
    simt::copy_async(to, from, 8, {file, line});
}
KEEL_GPU void copy4(void* to, const void* from, KEEL_SITE) {
    simt::copy_async(to, from, 4, {file, line});
}
KEEL_GPU void copy_commit(KEEL_SITE) {
    simt::copy_commit({file, line});
}
template <int PENDING>
KEEL_GPU void copy_wait(KEEL_SITE) {
    simt::copy_wait(PENDING, {file, line});
}
#undef KEEL_SITE

#endif

}  // namespace keel::cuda
