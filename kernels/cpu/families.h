// Internal: the functions the CPU kernel sets are made of. Each family of ops is one file per instruction set; a set's
// table is put together in kernel_sets.cpp, which is compiled without instruction-set flags, as is everything that runs
// before the machine is known.
#pragma once
#include "kernels/cpu/kernel_set.h"

namespace keel::kernels {

constexpr uint32_t kMaxTokens = 512;

// The end of every matrix product: bias, then residual.
static inline void store_dot(const MatmulArgs& a, uint32_t row, uint32_t token, float dot) {
    if (a.bias) dot = dot + a.bias[row];
    float* y = a.y[token] + row;
    *y = a.accumulate ? *y + dot : dot;
}

// The families, once per instruction set: by weight type in dequantize_*.cpp and matmul_*.cpp, by KV format in
// kv_codecs_*.cpp (instantiated there), the others in rowops_*.cpp and attention_*.cpp.
#define KEEL_DECLARE_SET(isa)                                                                                        \
    template <WeightType T>                                                                                          \
    void dequantize_##isa(const void* src, float* dst, uint32_t k);                                                  \
    template <WeightType T>                                                                                          \
    void matmul_f32_##isa(const MatmulArgs& args);                                                                   \
    template <WeightType T>                                                                                          \
    void matmul_q8_##isa(const MatmulArgs& args);                                                                    \
    template <WeightType T>                                                                                          \
    void matmul_repacked_##isa(const MatmulArgs& args);                                                              \
    template <WeightType T>                                                                                          \
    void matmul_bf16_##isa(const MatmulArgs& args);                                                                  \
    void round_bf16_##isa(const float* x, uint32_t begin, uint32_t end, void* token);                                \
    void quantize_q8_##isa(const float* x, uint32_t k, uint32_t block, void* token);                                 \
    void rms_norm_##isa(const float* x, const float* w, uint32_t n, float eps, float* y);                            \
    void rope_table_##isa(const double* frequency, uint32_t pairs, uint32_t position, float factor, float* cos_sin); \
    void rope_##isa(float* x, uint32_t pairs, const float* cos_sin, bool neox);                                      \
    void gate_silu_##isa(const float* gate, const float* up, uint32_t n, float* y);                                  \
    void gate_gelu_##isa(const float* gate, const float* up, uint32_t n, float* y);                                  \
    void add_##isa(float* x, const float* y, uint32_t n);                                                            \
    void scale_##isa(float* x, float factor, uint32_t n);                                                            \
    void softcap_##isa(float* x, float cap, uint32_t n);                                                             \
    void mix_##isa(const float* const* x, const float* c, uint32_t terms, uint32_t n, float* y);                     \
    void leaky_square_##isa(const float* x, float leak, uint32_t n, float* y);                                       \
    void gate_rows_##isa(float* x, const float* gate, uint32_t rows, uint32_t n);                                    \
    void exclude_##isa(float* x, const float* v, uint32_t n);                                                        \
    void exp_masses_##isa(const MassArgs& args);                                                                     \
    void race_##isa(const RaceArgs& args);                                                                           \
    template <KvFormat F>                                                                                            \
    void kv_encode_##isa(const float* row, uint32_t head_dim, KvScaleMode mode, uint8_t* codes, uint8_t* scales);    \
    template <KvFormat F>                                                                                            \
    void kv_decode_##isa(const uint8_t* codes, const uint8_t* scales, uint32_t head_dim, float* row);                \
    void kv_rotate_##isa(float* row, uint32_t head_dim);                                                             \
    void kv_unrotate_##isa(float* row, uint32_t head_dim);                                                           \
    void attention_split_##isa(const AttentionArgs& args);                                                           \
    void attention_finish_##isa(float* o, float l, uint32_t head_dim);
KEEL_DECLARE_SET(scalar)
KEEL_DECLARE_SET(avx2)
KEEL_DECLARE_SET(avx512)
KEEL_DECLARE_SET(neon)

bool rans_decode_scalar(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes);
bool rans_decode_avx2(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes);
bool rans_decode_avx512(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes);

// The products with 8-bit activations of the AMX set; everything else is AVX-512's.
template <WeightType T>
void matmul_q8_amx(const MatmulArgs& args);
template <WeightType T>
void matmul_repacked_amx(const MatmulArgs& args);

// What the AVX2 set has of its own on machines with AVX-VNNI.
template <WeightType T>
void matmul_q8_avxvnni(const MatmulArgs& args);
template <WeightType T>
void matmul_repacked_avxvnni(const MatmulArgs& args);

// What the NEON sets with dotprod and with i8mm have of their own; everything else is NEON's.
template <WeightType T>
void matmul_q8_neon_dotprod(const MatmulArgs& args);
template <WeightType T>
void matmul_repacked_neon_dotprod(const MatmulArgs& args);
void attention_split_neon_dotprod(const AttentionArgs& args);
template <WeightType T>
void matmul_q8_neon_i8mm(const MatmulArgs& args);
template <WeightType T>
void matmul_repacked_neon_i8mm(const MatmulArgs& args);
void attention_split_neon_i8mm(const AttentionArgs& args);

// What the AVX-512 and AMX sets have of their own on machines with VBMI: attention takes the codes of a tile apart in
// another way, and is else the same function. KvTile: rows [lo, hi) of the tile whose first position is `first`, as
// query row `row` sees it.
struct KvTile {
    const AttentionArgs& args;
    const KvPlane& plane;
    uint32_t first, row, lo, hi;
};
using UnpackKvTile = void (*)(const KvTile& rows, uint8_t* tile, float* scales);
void attention_split_avx512_over(const AttentionArgs& args, UnpackKvTile keys, UnpackKvTile values);
void attention_split_avx512vbmi(const AttentionArgs& args);

// And with AVX512-BF16.
template <WeightType T>
void matmul_bf16_avx512bf16(const MatmulArgs& args);
void round_bf16_avx512bf16(const float* x, uint32_t begin, uint32_t end, void* token);

// Defined where they are built (KEEL_KERNEL_SETS).
extern const KernelSet kAvx2Set, kAvx512Set, kAmxSet, kNeonSet, kNeonDotprodSet, kNeonI8mmSet;
// The same sets, by name too, with AVX-VNNI, with VBMI, and with VBMI and AVX512-BF16.
extern const KernelSet kAvx2VnniSet, kAvx512VbmiSet, kAmxVbmiSet, kAvx512Bf16Set, kAmxBf16Set;

}  // namespace keel::kernels
