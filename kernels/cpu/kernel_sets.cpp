// The tables of the CPU kernel sets.
#include "kernels/cpu/families.h"
#include "kernels/cpu/isa.h"

namespace keel::kernels {

static_assert(sizeof kIsaNames / sizeof *kIsaNames == kIsaLimit);

namespace {

// A set of one instruction set: the names of its functions differ in the suffix only.
// What computes in f32: everything but the products with 8-bit activations.
#define KEEL_DEFINE_FLOAT_KERNELS(isa)                                                    \
    template <uint32_t F = 0>                                                             \
    constexpr void add_kv_codecs_##isa(KernelSet& s) {                                    \
        if constexpr (F < kKvFormatCount) {                                               \
            s.kv_encode[F] = kv_encode_##isa<static_cast<KvFormat>(F)>;                   \
            s.kv_decode[F] = kv_decode_##isa<static_cast<KvFormat>(F)>;                   \
            add_kv_codecs_##isa<F + 1>(s);                                                \
        }                                                                                 \
    }                                                                                     \
    template <WeightType... T>                                                            \
    constexpr void add_float_products_##isa(KernelSet& s) {                               \
        ((s.dequantize_row[T] = dequantize_##isa<T>), ...);                               \
        ((s.matmul_f32[T] = matmul_f32_##isa<T>), ...);                                   \
    }                                                                                     \
    constexpr void add_float_kernels_##isa(KernelSet& s) {                                \
        add_float_products_##isa<kF32, kF16, kBF16>(s);                                   \
        add_float_products_##isa<kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ8_F32, kIQ4_NL>(s); \
        add_float_products_##isa<kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_XS>(s);          \
        s.quantize_q8 = quantize_q8_##isa;                                                \
        s.rms_norm = rms_norm_##isa;                                                      \
        s.rope_table = rope_table_##isa;                                                  \
        s.rope = rope_##isa;                                                              \
        s.gate_silu = gate_silu_##isa;                                                    \
        s.gate_gelu = gate_gelu_##isa;                                                    \
        s.add = add_##isa;                                                                \
        s.scale = scale_##isa;                                                            \
        s.softcap = softcap_##isa;                                                        \
        add_kv_codecs_##isa(s);                                                           \
        s.kv_rotate = kv_rotate_##isa;                                                    \
        s.kv_unrotate = kv_unrotate_##isa;                                                \
        s.attention_split = attention_split_##isa;                                        \
        s.attention_finish = attention_finish_##isa;                                      \
    }
#define KEEL_DEFINE_Q8_KERNELS(isa)                                                    \
    template <WeightType... T>                                                         \
    constexpr void add_q8_products_##isa(KernelSet& s) {                               \
        ((s.matmul_q8[T] = matmul_q8_##isa<T>), ...);                                  \
        ((s.matmul_repacked[T] = matmul_repacked_##isa<T>), ...);                      \
    }                                                                                  \
    constexpr void add_q8_kernels_##isa(KernelSet& s) {                                \
        add_q8_products_##isa<kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ8_F32, kIQ4_NL>(s); \
        add_q8_products_##isa<kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_XS>(s);          \
    }
#define KEEL_DEFINE_SET(isa, number)   \
    KEEL_DEFINE_FLOAT_KERNELS(isa)     \
    KEEL_DEFINE_Q8_KERNELS(isa)        \
    constexpr KernelSet make_##isa() { \
        KernelSet s{};                 \
        s.name = kIsaNames[number];    \
        add_float_kernels_##isa(s);    \
        add_q8_kernels_##isa(s);       \
        return s;                      \
    }

KEEL_DEFINE_SET(scalar, kScalar)
#if defined(__x86_64__)
KEEL_DEFINE_SET(avx2, kAvx2)
KEEL_DEFINE_SET(avx512, kAvx512)
KEEL_DEFINE_Q8_KERNELS(amx)

// Interleaved rows are faster for every type.
constexpr KernelSet interleaved(KernelSet s) {
#define KEEL_REPACK_PAYS(T) s.repack_pays[T] = true;
    KEEL_QUANTIZED_TYPES(KEEL_REPACK_PAYS)
    return s;
}
constexpr KernelSet make_amx() {
    KernelSet s = make_avx512();
    s.name = kIsaNames[kAmx];
    add_q8_kernels_amx(s);
    return s;
}
constexpr KernelSet with_vbmi(KernelSet s) {
    s.attention_split = attention_split_avx512vbmi;
    return s;
}
#elif defined(__aarch64__)
KEEL_DEFINE_SET(neon, kNeon)
#endif

}  // namespace

constinit const KernelSet kScalarSet = make_scalar();
#if defined(__x86_64__)
constinit const KernelSet kAvx2Set = make_avx2();
constinit const KernelSet kAvx512Set = interleaved(make_avx512());
constinit const KernelSet kAmxSet = interleaved(make_amx());
constinit const KernelSet kAvx512VbmiSet = with_vbmi(interleaved(make_avx512()));
constinit const KernelSet kAmxVbmiSet = with_vbmi(interleaved(make_amx()));
#elif defined(__aarch64__)
constinit const KernelSet kNeonSet = make_neon();
#endif

}  // namespace keel::kernels
