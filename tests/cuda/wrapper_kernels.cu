#include "kernels/cuda/device.cuh"
#include "tests/cuda/wrapper_kernels.h"

namespace keel::cuda {
namespace {

KEEL_GPU uint32_t grid_thread() {
    return (block_y() * grid_x() + block_x()) * kWrapperThreads + thread_x();
}
KEEL_GPU int32_t as_int(uint32_t v) {
    return static_cast<int32_t>(v);
}
KEEL_GPU double as_f64(const uint32_t* words) {
    return f64_from_bits(uint64_t{words[1]} << 32 | words[0]);
}
KEEL_GPU void put_f64(uint32_t* words, double x) {
    words[0] = static_cast<uint32_t>(f64_bits(x));
    words[1] = static_cast<uint32_t>(f64_bits(x) >> 32);
}

}  // namespace

// A kernel whose threads read `in` and write `out`.
#define KEEL_WRAPPER(name)                                                           \
    KEEL_GPU void name##_of(const uint32_t* in, uint32_t* out);                      \
    KEEL_GPU_KERNEL(wrapper_##name) {                                                \
        const uint32_t thread = grid_thread();                                       \
        name##_of(args.in + uint64_t{thread} * kernel_traits_wrapper_##name::kIn,    \
                  args.out + uint64_t{thread} * kernel_traits_wrapper_##name::kOut); \
    }                                                                                \
    KEEL_GPU void name##_of([[maybe_unused]] const uint32_t* in, [[maybe_unused]] uint32_t* out)

KEEL_WRAPPER(place) {
    out[0] = anew(thread_x());
    out[1] = block_x();
    out[2] = block_y();
    out[3] = block_z();
    out[4] = grid_x();
    out[5] = block_threads();
    out[6] = thread_x_again();
}

KEEL_WRAPPER(clock) {
    const uint64_t before = timer_ns(), after = timer_ns();
    out[0] = before != 0 && before <= after;
}

KEEL_WRAPPER(mma_s8_k32) {
    int32_t c[4] = {as_int(in[0]), as_int(in[1]), as_int(in[2]), as_int(in[3])};
    const uint32_t a[4] = {in[4], in[5], in[6], in[7]};
    mma_s8(c, a, in[8], in[9]);
    for (uint32_t i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>(c[i]);
}
KEEL_WRAPPER(mma_s8_one_c) {
    int32_t d[4];
    const uint32_t a[4] = {in[1], in[2], in[3], in[4]};
    mma_s8_from(d, as_int(in[0]), a, in[5], in[6]);
    for (uint32_t i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>(d[i]);
}
KEEL_WRAPPER(mma_s8_k16) {
    int32_t c[4] = {as_int(in[0]), as_int(in[1]), as_int(in[2]), as_int(in[3])};
    mma_s8(c, in[4], in[5], in[6]);
    for (uint32_t i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>(c[i]);
}
KEEL_WRAPPER(mma_u8_k32) {
    int32_t c[4] = {as_int(in[0]), as_int(in[1]), as_int(in[2]), as_int(in[3])}, d[4];
    const uint32_t a[4] = {in[4], in[5], in[6], in[7]};
    mma_u8(c, a, in[8], in[9]);
    mma_u8_first(d, a, in[9], in[8]);
    for (uint32_t i = 0; i < 4; ++i) {
        out[i] = static_cast<uint32_t>(c[i]);
        out[4 + i] = static_cast<uint32_t>(d[i]);
    }
}
// The rows of a warp lie in reverse.
KEEL_WRAPPER(matrices) {
    uint32_t* rows = reinterpret_cast<uint32_t*>(shared_memory());
    for (uint32_t i = 0; i < 4; ++i) rows[4 * thread_x() + i] = in[i];
    sync_warp();
    load_matrices(out, rows + 4 * (thread_x() ^ 31));
}
KEEL_WRAPPER(dot_products) {
    // Sums far from the ends of the range, as those of kernels are.
    const int32_t c = as_int(in[2]) >> 4;
    out[0] = static_cast<uint32_t>(dp4a(in[0], in[1], c));
    out[1] = static_cast<uint32_t>(dp2a_lo(in[0], in[1], c));
    out[2] = static_cast<uint32_t>(dp2a_hi(in[0], in[1], c));
}

KEEL_WRAPPER(bytes_picked) {
    out[0] = pick_bytes(in[0], in[1], in[2] & 0x7777u);  // without the bits that repeat a sign
}

KEEL_WRAPPER(shuffles) {
    out[0] = shuffle(in[0], in[1] % 32);
    out[1] = f32_bits(shuffle(f32_from_bits(in[1]), in[0] % 32));
}
KEEL_WRAPPER(votes) {
    out[0] = ballot(in[0] & 1);
}

KEEL_WRAPPER(loads) {
    const uint8_t* from = in_global(reinterpret_cast<const uint8_t*>(in));
    prefetch(from);
    const Words4 four = load_once(reinterpret_cast<const Words4*>(from));
    const Words2 two = *reinterpret_cast<const Words2*>(kept(from) + 8 * same_in_warp(1));
    out[0] = four.x;
    out[1] = four.y;
    out[2] = four.z;
    out[3] = four.w;
    out[4] = two.x;
    out[5] = two.y;
}
// Two groups, the first waited for alone, each read by the thread opposite.
KEEL_WRAPPER(copies) {
    uint32_t* first = reinterpret_cast<uint32_t*>(shared_memory());
    uint32_t* second = first + kWrapperThreads * 4;
    const uint32_t opposite = kWrapperThreads - 1 - thread_x();
    copy16(first + thread_x() * 4, in);
    copy_commit();
    for (uint32_t i = 0; i < 2; ++i) copy4(second + thread_x() * 4 + i, in + 4 + i);
    copy8(second + thread_x() * 4 + 2, in + 6);
    copy_commit();
    copy_wait<1>();
    sync_block();
    for (uint32_t i = 0; i < 4; ++i) out[i] = first[opposite * 4 + i];
    copy_wait<0>();
    sync_block();
    for (uint32_t i = 0; i < 4; ++i) out[4 + i] = second[opposite * 4 + i];
}
KEEL_WRAPPER(block_meets) {
    uint32_t* words = reinterpret_cast<uint32_t*>(shared_memory());
    words[thread_x()] = in[0];
    sync_block();
    out[0] = words[kWrapperThreads - 1 - thread_x()];
}
KEEL_WRAPPER(warp_meets) {
    uint32_t* words = reinterpret_cast<uint32_t*>(shared_memory());
    words[thread_x()] = in[0];
    sync_warp();
    out[0] = words[thread_x() ^ 1];
}

// Four turns of either warp, which adds to what the other one left.
KEEL_WRAPPER(turns) {
    uint32_t* words = reinterpret_cast<uint32_t*>(shared_memory());
    const uint32_t warp = thread_x() / 32, lane = thread_x() % 32;
    uint32_t sum = in[0];
    for (uint32_t turn = warp; turn < 8; turn += 2) {
        if (turn) await_turn(warp);
        if (turn) sum += 3 * words[32 * (1 - warp) + 31 - lane];
        words[32 * warp + lane] = sum;
        if (turn < 7) pass_turn(1 - warp);
    }
    out[0] = sum;
}

// The last block to come adds up what all of them wrote, and leaves it with the grid's first thread.
KEEL_GPU_KERNEL(wrapper_blocks_meet) {
    const uint32_t thread = grid_thread(), blocks = grid_x() * 2;
    args.out[2 * thread] = args.in[thread] * 3 + thread;
    args.out[2 * thread + 1] = 0;
    if (!last_of_blocks(args.counters, 3, 3 * blocks)) return;
    uint32_t* sums = reinterpret_cast<uint32_t*>(shared_memory());
    sums[thread_x()] = 0;
    for (uint32_t i = thread_x(); i < blocks * kWrapperThreads; i += kWrapperThreads)
        sums[thread_x()] += args.out[2 * i];
    sync_block();
    if (thread_x()) return;
    for (uint32_t i = 0; i < kWrapperThreads; ++i) args.out[1] += sums[i];
}

// The second half of the blocks, in the order in which they begin, add to what all of the first half left.
KEEL_GPU_KERNEL(wrapper_blocks_wait) {
    uint32_t* told = reinterpret_cast<uint32_t*>(shared_memory());
    const uint32_t ticket = take_ticket(args.counters, 2 * grid_x(), told), half = grid_x();
    const uint32_t thread = ticket * kWrapperThreads + thread_x();
    uint32_t sum = args.in[thread];
    if (ticket >= half) {
        await_count(args.counters + 1, half);
        for (uint32_t i = 0; i < half; ++i) sum = 3 * sum + args.out[(i + 1) * kWrapperThreads - 1 - thread_x()];
    }
    args.out[thread] = sum;
    if (ticket < half) raise_count(args.counters + 1);
}

KEEL_WRAPPER(launch_waits) {
    let_next_begin();
    wait_for_launch(nullptr);
    out[0] = in[0];
}

// Sums of what every fourth thread has, of 32 and of 64 bits.
KEEL_WRAPPER(atomics) {
    uint64_t* longs = reinterpret_cast<uint64_t*>(shared_memory());
    uint32_t* words = reinterpret_cast<uint32_t*>(longs + 4);
    const uint32_t at = thread_x() % 4;
    if (thread_x() < 4) longs[at] = words[at] = 0;
    sync_block();
    atomic_add(&words[at], in[0]);
    atomic_add(&longs[at], uint64_t{in[1]} << 20);
    sync_block();
    out[0] = words[at];
    out[1] = static_cast<uint32_t>(longs[at]);
    out[2] = static_cast<uint32_t>(longs[at] >> 32);
}

KEEL_WRAPPER(halves) {
    const uint16_t half = static_cast<uint16_t>(in[0]);
    const bool number = (half & 0x7c00) != 0x7c00 || (half & 0x3ff) == 0;
    out[0] = number ? f32_bits(widen_f16(half)) : 0;
    out[1] = f32_bits(f16_to_f32(half));
    out[2] = f32_to_f16(f32_from_bits(in[0]));
    out[3] = f32_to_bf16(f32_from_bits(in[0]));
}
KEEL_WRAPPER(largest_f32) {
    const float a = f32_from_bits(in[0]), b = f32_from_bits(in[1]), signed_zero = f32_from_bits(in[1] & 0x80000000u);
    out[0] = f32_bits(largest(a, b));
    out[1] = f32_bits(largest(b, f32_from_bits(in[0] | 0x7f800001u)));
    out[2] = f32_bits(largest(f32_from_bits(in[0] & 0x80000000u), signed_zero));
}
KEEL_WRAPPER(arithmetic_f32) {
    const float a = f32_from_bits(in[0]), b = f32_from_bits(in[1]), c = f32_from_bits(in[2]);
    out[0] = f32_bits(mul_f32(a, b));
    out[1] = f32_bits(add_f32(a, b));
    out[2] = f32_bits(fma_f32(a, b, c));
    out[3] = f32_bits(a / b);
    out[4] = f32_bits(static_cast<float>(as_int(in[0])));
}
KEEL_WRAPPER(functions_f32) {
    const float x = f32_from_bits(in[0]), y = f32_from_bits(in[1]);
    out[0] = f32_bits(exp_f32(x));
    out[1] = f32_bits(tanh_f32(x));
    out[2] = f32_bits(silu_gate_f32(x, y));
    out[3] = f32_bits(gelu_gate_f32(x, y));
    out[4] = f32_bits(softcap_f32(x, 30.0f));
    out[5] = f32_bits(1.0f / __builtin_sqrtf(f32_from_bits(in[0] & 0x7fffffffu)));
}
KEEL_WRAPPER(arithmetic_f64) {
    const double a = as_f64(in), b = as_f64(in + 2), c = as_f64(in + 4);
    put_f64(out, mul_f64(a, b));
    put_f64(out + 2, add_f64(a, b));
    put_f64(out + 4, fma_f64(a, b, c));
    put_f64(out + 6, a / b);
    put_f64(out + 8, static_cast<double>(static_cast<float>(a)));
}
KEEL_WRAPPER(sincos) {
    double s, c;
    sincos_f64(as_f64(in), &s, &c);
    put_f64(out, s);
    put_f64(out + 2, c);
}

}  // namespace keel::cuda
