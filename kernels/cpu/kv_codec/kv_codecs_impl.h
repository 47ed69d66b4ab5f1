// The codecs of kernels/formats/kv_codecs.h as functions of a kernel set.
#pragma once
#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/kv_codecs.h"

namespace keel::kernels {
namespace {

#define KEEL_DEFINE_KV_CODECS(isa)                                                                                 \
    template <KvFormat F>                                                                                          \
    void kv_encode_##isa(const float* row, uint32_t head_dim, KvScaleMode mode, uint8_t* codes, uint8_t* scales) { \
        kv_encode_portable<F>(row, head_dim, mode, codes, scales);                                                 \
    }                                                                                                              \
    template <KvFormat F>                                                                                          \
    void kv_decode_##isa(const uint8_t* codes, const uint8_t* scales, uint32_t head_dim, float* row) {             \
        kv_decode_portable<F>(codes, scales, head_dim, row);                                                       \
    }                                                                                                              \
    void kv_rotate_##isa(float* row, uint32_t head_dim) {                                                          \
        rotate_row(row, head_dim);                                                                                 \
    }                                                                                                              \
    void kv_unrotate_##isa(float* row, uint32_t head_dim) {                                                        \
        unrotate_row(row, head_dim);                                                                               \
    }
// Instantiates the above for one format.
#define KEEL_INSTANTIATE_KV(isa, F)                                                            \
    template void kv_encode_##isa<F>(const float*, uint32_t, KvScaleMode, uint8_t*, uint8_t*); \
    template void kv_decode_##isa<F>(const uint8_t*, const uint8_t*, uint32_t, float*);

}  // namespace
}  // namespace keel::kernels
