// zstd's context for whole frames, in memory it is given: no heap.
#pragma once
#define ZSTD_STATIC_LINKING_ONLY
#include <stdint.h>
#include <zstd.h>

namespace keel {

inline uint64_t zstd_context_bytes() {
    return (ZSTD_estimateDCtxSize() + 63) / 64 * 64;
}

// Exactly one frame, and its content exactly `plain`.
inline bool expand_frame(ZSTD_DCtx* context, const void* frame, uint64_t frame_bytes, void* plain,
                         uint64_t plain_bytes) {
    return ZSTD_findFrameCompressedSize(frame, frame_bytes) == frame_bytes &&
           ZSTD_decompressDCtx(context, plain, plain_bytes, frame, frame_bytes) == plain_bytes;
}

}  // namespace keel
