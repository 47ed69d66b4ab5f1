// The one list of GPU kernels. Entry points of the fatbin, launches through the driver, the table of kernels compiled
// for the host and their tests all follow from it.
//
// A kernel is a function of one argument struct, args.h. To go through all of them, define
// KEEL_GPU_ROW(name, Args, threads), `threads` being the most of a block, and write KEEL_GPU_KERNELS.
#pragma once
#include "kernels/cuda/args.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/sample_args.h"

#define KEEL_GPU_F32_ROW(type, ...) KEEL_GPU_ROW(product_f32_##type, ProductArgs, kProductThreads)
#define KEEL_GPU_F32_TILE_ROW(type, ...) KEEL_GPU_ROW(product_f32_tile_##type, ProductArgs, kTileThreads)
#define KEEL_GPU_EMBED_ROW(type, ...) KEEL_GPU_ROW(embed_##type, EmbedArgs, kEmbedThreads)
#define KEEL_GPU_LAY_ROW(type, ...) KEEL_GPU_ROW(lay_##type, LayArgs, kFragmentThreads)
#define KEEL_GPU_EMBED_FRAGMENTS_ROW(type, ...) KEEL_GPU_ROW(embed_fragments_##type, EmbedArgs, kEmbedThreads)
#define KEEL_GPU_TOKEN_ROW(type, ...) KEEL_GPU_ROW(product_token_##type, ProductArgs, kStreamThreads)
#define KEEL_GPU_STREAM_ROW(type, ...) KEEL_GPU_ROW(product_stream_##type, ProductArgs, kStreamThreads)
#define KEEL_GPU_PROMPT_ROW(type, ...) \
    KEEL_GPU_ROW(product_prompt_##type, ProductArgs, prompt_threads(kernels::kWeightTypes[kernels::k##type].sub_block))
#define KEEL_GPU_PREFILL_ROW(name) KEEL_GPU_ROW(attend_##name, AttentionArgs, kPrefillThreads)
#define KEEL_GPU_KERNELS                                                \
    KEEL_WEIGHT_TYPES(KEEL_GPU_F32_ROW)                                 \
    KEEL_FLOAT_TYPES(KEEL_GPU_F32_TILE_ROW)                             \
    KEEL_WEIGHT_TYPES(KEEL_GPU_EMBED_ROW)                               \
    KEEL_GPU_ROW(quantize_32, QuantizeArgs, kQuantizeThreads)           \
    KEEL_GPU_ROW(quantize_256, QuantizeArgs, kQuantizeThreads)          \
    KEEL_QUANTIZED_TYPES(KEEL_GPU_LAY_ROW)                              \
    KEEL_QUANTIZED_TYPES(KEEL_GPU_EMBED_FRAGMENTS_ROW)                  \
    KEEL_QUANTIZED_TYPES(KEEL_GPU_TOKEN_ROW)                            \
    KEEL_QUANTIZED_TYPES(KEEL_GPU_STREAM_ROW)                           \
    KEEL_QUANTIZED_TYPES(KEEL_GPU_PROMPT_ROW)                           \
    KEEL_GPU_ROW(rms_norm, RmsNormArgs, kRowThreads)                    \
    KEEL_GPU_ROW(glu, GluArgs, kRowThreads)                             \
    KEEL_GPU_ROW(nothing, NothingArgs, kWarp)                           \
    KEEL_GPU_ROW(read_stream, ReadStreamArgs, kRowThreads)              \
    KEEL_GPU_ROW(softcap, SoftcapArgs, kRowThreads)                     \
    KEEL_GPU_ROW(rope_table, RopeTableArgs, kRowThreads)                \
    KEEL_GPU_ROW(narrow, NarrowArgs, kRowThreads)                       \
    KEEL_GPU_ROW(keep_rows, KeepRowsArgs, kRowThreads)                  \
    KEEL_GPU_ROW(kv_append, KvAppendArgs, kAppendThreads)               \
    KEEL_GPU_ROW(move_rows, MoveRowsArgs, kRowThreads)                  \
    KEEL_GPU_ROW(attend_8, AttentionArgs, kAttentionThreads)            \
    KEEL_GPU_ROW(attend_32, AttentionArgs, kAttentionThreads)           \
    KEEL_GPU_PREFILL_ROW(integers_64)                                   \
    KEEL_GPU_PREFILL_ROW(integers_128)                                  \
    KEEL_GPU_PREFILL_ROW(blocks_64)                                     \
    KEEL_GPU_PREFILL_ROW(blocks_128)                                    \
    KEEL_GPU_PREFILL_ROW(halves_64)                                     \
    KEEL_GPU_PREFILL_ROW(halves_128)                                    \
    KEEL_GPU_ROW(attend_token, AttentionArgs, kTokenThreads)            \
    KEEL_GPU_ROW(attention_finish, AttentionFinishArgs, kFinishThreads) \
    KEEL_GPU_ROW(sample_adjust, SampleArgs, kSampleThreads)             \
    KEEL_GPU_ROW(sample_weigh, SampleArgs, kSampleThreads)              \
    KEEL_GPU_ROW(sample_select, SampleArgs, kSelectThreads)             \
    KEEL_GPU_ROW(sample_race, SampleArgs, kSampleThreads)               \
    KEEL_GPU_ROW(sample_finish, SampleArgs, kSampleThreads)

namespace keel::cuda {

enum KernelId : uint32_t {
#define KEEL_GPU_ROW(name, Args, threads) kernel_##name,
    KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW
        kKernelCount
};

struct KernelInfo {
    const char* name;  // of the entry point
    uint32_t args_bytes, max_threads;
};
inline constexpr KernelInfo kKernels[kKernelCount] = {
#define KEEL_GPU_ROW(name, Args, threads) {#name, sizeof(Args), threads},
    KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW
};

// Kernels by weight type. Of fragments: a type that has an activation block.
constexpr KernelId lay_kernel(uint32_t type) {
    return static_cast<KernelId>(kernel_lay_Q4_0 + (type - kernels::kQ4_0));
}
constexpr KernelId embed_fragments_kernel(uint32_t type) {
    return static_cast<KernelId>(kernel_embed_fragments_Q4_0 + (type - kernels::kQ4_0));
}
// One of a family: `first` is that of Q4_0.
constexpr KernelId product_kernel(KernelId first, uint32_t type) {
    return static_cast<KernelId>(first + (type - kernels::kQ4_0));
}
constexpr KernelId product_f32_kernel(uint32_t type) {
    return static_cast<KernelId>(kernel_product_f32_F32 + type);
}
// Of an unquantized type.
constexpr KernelId product_f32_tile_kernel(uint32_t type) {
    return static_cast<KernelId>(kernel_product_f32_tile_F32 + type);
}
constexpr KernelId embed_kernel(uint32_t type) {
    return static_cast<KernelId>(kernel_embed_F32 + type);
}
// By the block of the activation.
constexpr KernelId quantize_kernel(uint32_t block) {
    return block == 32 ? kernel_quantize_32 : kernel_quantize_256;
}

constexpr KernelId attention_kernel(const AttentionArgs& a) {
    switch (a.kind) {
        case AttentionKind::kToken:
            return kernel_attend_token;
        case AttentionKind::kFew:
            return kernel_attend_8;
        case AttentionKind::kMany:
            return kernel_attend_32;
        case AttentionKind::kIntegers:
            return a.shape.head_dim <= 64 ? kernel_attend_integers_64 : kernel_attend_integers_128;
        case AttentionKind::kBlocks:
            return a.shape.head_dim <= 64 ? kernel_attend_blocks_64 : kernel_attend_blocks_128;
        case AttentionKind::kHalves:
            return a.shape.head_dim <= 64 ? kernel_attend_halves_64 : kernel_attend_halves_128;
    }
    return kKernelCount;
}

// What the definition of a kernel takes from the list.
#define KEEL_GPU_ROW(name, Args, threads)               \
    struct kernel_traits_##name {                       \
        using Arguments = Args;                         \
        static constexpr uint32_t kThreads = (threads); \
    };
KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW

}  // namespace keel::cuda
