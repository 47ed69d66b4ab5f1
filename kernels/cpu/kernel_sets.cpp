// The tables of the CPU kernel sets. KEEL_HAVE_<SET> says which ones are built (KEEL_KERNEL_SETS in CMakeLists.txt).
#include <utility>

#include "kernels/cpu/families.h"
#include "kernels/cpu/isa.h"

// An entry of KernelSet that a set below leaves out is an error that names it (GCC; complete() is for every compiler).
#pragma GCC diagnostic error "-Wmissing-field-initializers"

namespace keel::kernels {
namespace {

using Types = std::make_integer_sequence<uint32_t, kWeightTypeCount>;
using Formats = std::make_integer_sequence<uint32_t, kKvFormatCount>;

constexpr bool is_quantized(uint32_t type) {
    return kWeightTypes[type].activation_block != 0;
}

// Products of bf16 pairs are of the float types only.
constexpr WeightType float_or_f32(uint32_t type) {
    return is_quantized(type) ? kF32 : WeightType{type};
}
template <WeightType T>
constexpr MatmulFn bf16_product(MatmulFn product) {
    return is_quantized(T) ? nullptr : product;
}

// A kernel set from the functions with the suffix `isa`; q8: the suffix of the products with 8-bit activations, which
// AMX has of its own, attention: that of attention, rans: that of rans_decode. T: all weight types, F: all KV formats.
#define KEEL_DEFINE_SET(set, number, isa, q8, attention, rans)                                                     \
    template <uint32_t... T, uint32_t... F>                                                                        \
    constexpr KernelSet make_##set(std::integer_sequence<uint32_t, T...>, std::integer_sequence<uint32_t, F...>) { \
        return {                                                                                                   \
            .name = kIsaNames[number],                                                                             \
            .dequantize_row = {dequantize_##isa<WeightType{T}>...},                                                \
            .matmul_f32 = {matmul_f32_##isa<WeightType{T}>...},                                                    \
            .matmul_q8 = {is_quantized(T) ? matmul_q8_##q8<WeightType{T}> : nullptr...},                           \
            .matmul_repacked = {is_quantized(T) ? matmul_repacked_##q8<WeightType{T}> : nullptr...},               \
            .repack_pays = {},                                                                                     \
            .matmul_bf16 = {bf16_product<WeightType{T}>(matmul_bf16_##isa<float_or_f32(T)>)...},                   \
            .multiplies_bf16 = false,                                                                              \
            .round_bf16 = round_bf16_##isa,                                                                        \
            .quantize_q8 = quantize_q8_##isa,                                                                      \
            .rms_norm = rms_norm_##isa,                                                                            \
            .rope_table = rope_table_##isa,                                                                        \
            .rope = rope_##isa,                                                                                    \
            .gate_silu = gate_silu_##isa,                                                                          \
            .gate_gelu = gate_gelu_##isa,                                                                          \
            .add = add_##isa,                                                                                      \
            .scale = scale_##isa,                                                                                  \
            .softcap = softcap_##isa,                                                                              \
            .mix = mix_##isa,                                                                                      \
            .leaky_square = leaky_square_##isa,                                                                    \
            .gate_rows = gate_rows_##isa,                                                                          \
            .exclude = exclude_##isa,                                                                              \
            .exp_masses = exp_masses_##isa,                                                                        \
            .race = race_##isa,                                                                                    \
            .kv_encode = {kv_encode_##isa<KvFormat{F}>...},                                                        \
            .kv_decode = {kv_decode_##isa<KvFormat{F}>...},                                                        \
            .kv_rotate = kv_rotate_##isa,                                                                          \
            .kv_unrotate = kv_unrotate_##isa,                                                                      \
            .attention_split = attention_split_##attention,                                                        \
            .attention_finish = attention_finish_##isa,                                                            \
            .rans_decode = rans_decode_##rans,                                                                     \
        };                                                                                                         \
    }

KEEL_DEFINE_SET(scalar, kScalar, scalar, scalar, scalar, scalar)
#if defined(KEEL_HAVE_AVX2) || defined(KEEL_HAVE_AVX512)
// Repacked rows are faster for every type.
constexpr KernelSet with_repacking(KernelSet s) {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type) s.repack_pays[type] = s.matmul_repacked[type] != nullptr;
    return s;
}
#endif
#ifdef KEEL_HAVE_AVX2
KEEL_DEFINE_SET(avx2, kAvx2, avx2, avx2, avx2, avx2)
#endif
#ifdef KEEL_HAVE_AVXVNNI
template <uint32_t... T>
constexpr KernelSet with_vnni(KernelSet s, std::integer_sequence<uint32_t, T...>) {
    ((s.matmul_q8[T] = is_quantized(T) ? matmul_q8_avxvnni<WeightType{T}> : nullptr), ...);
    ((s.matmul_repacked[T] = is_quantized(T) ? matmul_repacked_avxvnni<WeightType{T}> : nullptr), ...);
    return s;
}
#endif
#ifdef KEEL_HAVE_AVX512
KEEL_DEFINE_SET(avx512, kAvx512, avx512, avx512, avx512, avx512)
#ifdef KEEL_HAVE_AMX
KEEL_DEFINE_SET(amx, kAmx, avx512, amx, avx512, avx512)
#endif

constexpr KernelSet with_vbmi(KernelSet s) {
    s.attention_split = attention_split_avx512vbmi;
    return s;
}
#endif
#ifdef KEEL_HAVE_AVX512BF16
constexpr KernelSet with_bf16(KernelSet s) {
    s.matmul_bf16[kF32] = matmul_bf16_avx512bf16<kF32>;
    s.matmul_bf16[kF16] = matmul_bf16_avx512bf16<kF16>;
    s.matmul_bf16[kBF16] = matmul_bf16_avx512bf16<kBF16>;
    s.multiplies_bf16 = true;
    s.round_bf16 = round_bf16_avx512bf16;
    return s;
}
#endif
#ifdef KEEL_HAVE_NEON
KEEL_DEFINE_SET(neon, kNeon, neon, neon, neon, scalar)
#endif
#ifdef KEEL_HAVE_NEON_DOTPROD
KEEL_DEFINE_SET(neon_dotprod, kNeonDotprod, neon, neon_dotprod, neon_dotprod, scalar)
#endif
#ifdef KEEL_HAVE_NEON_I8MM
KEEL_DEFINE_SET(neon_i8mm, kNeonI8mm, neon, neon_i8mm, neon_i8mm, scalar)
#endif

// Every entry is set, but for products of float types with 8-bit activations and of the others with bf16 pairs.
constexpr bool complete(const KernelSet& s) {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type) {
        const bool q8 = is_quantized(type);
        if (!s.dequantize_row[type] || !s.matmul_f32[type]) return false;
        if (q8 != (s.matmul_q8[type] != nullptr) || q8 != (s.matmul_repacked[type] != nullptr)) return false;
        if (q8 == (s.matmul_bf16[type] != nullptr)) return false;
    }
    for (uint32_t format = 0; format < kKvFormatCount; ++format)
        if (!s.kv_encode[format] || !s.kv_decode[format]) return false;
    return s.name && s.round_bf16 && s.quantize_q8 && s.rms_norm && s.rope_table && s.rope && s.gate_silu &&
           s.gate_gelu && s.add && s.scale && s.softcap && s.mix && s.leaky_square && s.gate_rows && s.exclude &&
           s.exp_masses && s.race && s.kv_rotate && s.kv_unrotate && s.attention_split && s.attention_finish &&
           s.rans_decode;
}
}  // namespace

#define KEEL_PUBLISH(variable, ...)             \
    constexpr KernelSet variable = __VA_ARGS__; \
    static_assert(complete(variable), #variable " lacks a function");

KEEL_PUBLISH(kScalarSet, make_scalar(Types(), Formats()))
#ifdef KEEL_HAVE_AVX2
KEEL_PUBLISH(kAvx2Set, with_repacking(make_avx2(Types(), Formats())))
#endif
#ifdef KEEL_HAVE_AVXVNNI
KEEL_PUBLISH(kAvx2VnniSet, with_vnni(kAvx2Set, Types()))
#endif
#ifdef KEEL_HAVE_AVX512
KEEL_PUBLISH(kAvx512Set, with_repacking(make_avx512(Types(), Formats())))
KEEL_PUBLISH(kAvx512VbmiSet, with_vbmi(kAvx512Set))
#endif
#ifdef KEEL_HAVE_AVX512BF16
KEEL_PUBLISH(kAvx512Bf16Set, with_bf16(kAvx512VbmiSet))
#endif
#ifdef KEEL_HAVE_AMX
KEEL_PUBLISH(kAmxSet, with_repacking(make_amx(Types(), Formats())))
KEEL_PUBLISH(kAmxVbmiSet, with_vbmi(kAmxSet))
#endif
#if defined(KEEL_HAVE_AMX) && defined(KEEL_HAVE_AVX512BF16)
KEEL_PUBLISH(kAmxBf16Set, with_bf16(kAmxVbmiSet))
#endif
#ifdef KEEL_HAVE_NEON
KEEL_PUBLISH(kNeonSet, make_neon(Types(), Formats()))
#endif
#ifdef KEEL_HAVE_NEON_DOTPROD
KEEL_PUBLISH(kNeonDotprodSet, make_neon_dotprod(Types(), Formats()))
#endif
#ifdef KEEL_HAVE_NEON_I8MM
KEEL_PUBLISH(kNeonI8mmSet, make_neon_i8mm(Types(), Formats()))
#endif

}  // namespace keel::kernels
