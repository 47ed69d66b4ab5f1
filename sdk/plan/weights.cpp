#include "sdk/plan/weights.h"

#include <string.h>

#include "sdk/core/status.h"

namespace keel {

using kernels::kWeightTypes;

const void* WeightPlacer::matrix(const GgufTensor& t) {
    if (mode == KEEL_WEIGHTS_MAP || mode == KEEL_WEIGHTS_MAP_LOCKED) {
        mapped_bytes += t.bytes;
        return arena.counting() ? nullptr : static_cast<const uint8_t*>(reader->mapped) + t.offset;
    }
    total_bytes += t.bytes;
    uint8_t* dst = static_cast<uint8_t*>(arena.place_bytes(t.bytes));
    if (dst) load(t, dst);
    return dst;
}

const float* WeightPlacer::vector(const GgufTensor& t) {
    const uint32_t n = static_cast<uint32_t>(t.dims[0]);
    total_bytes += t.bytes;
    float* dst = arena.place<float>(n);
    if (!dst) return nullptr;
    // Narrower sources are read into the upper end of the destination and widened from the front.
    uint8_t* src = reinterpret_cast<uint8_t*>(dst) + uint64_t{n} * 4 - t.bytes;
    load(t, src);
    if (t.type != kernels::kF32) {
        for (uint32_t i = 0; i < n; ++i) {
            uint8_t element[4];
            memcpy(element, src + i * (t.bytes / n), t.bytes / n);
            float value;
            kernels->dequantize_row[t.type](element, &value, 1);
            dst[i] = value;
        }
    }
    return dst;
}

const float* WeightPlacer::record_bias(const keel_reader& from, uint64_t offset, uint32_t n, const float* model_bias) {
    total_bytes += uint64_t{n} * 4;
    float* dst = arena.place<float>(n);
    if (!dst) return nullptr;
    const keel_reader* model = reader;
    reader = &from;
    read(offset, dst, uint64_t{n} * 4);
    reader = model;
    for (uint32_t i = 0; model_bias && i < n; ++i) dst[i] = model_bias[i] + dst[i];
    return dst;
}

bool WeightPlacer::interleaves(const GgufTensor& t, bool q8, bool lookup, keel_repack_skip* reason) const {
    *reason = KEEL_REPACK_SKIP_NONE;
    if (mode != KEEL_WEIGHTS_REPACK && mode != KEEL_WEIGHTS_DEFAULT) return false;
    if (lookup)
        *reason = KEEL_REPACK_SKIP_LOOKUP;
    else if (!q8 || !kernels->matmul_repacked[t.type])
        *reason = KEEL_REPACK_SKIP_TYPE;
    else if (t.dims[1] % kernels::kRepackRows != 0)
        *reason = KEEL_REPACK_SKIP_ROWS;
    else if (mode == KEEL_WEIGHTS_DEFAULT && !kernels->repack_pays[t.type])
        *reason = KEEL_REPACK_SKIP_SPEED;
    return *reason == KEEL_REPACK_SKIP_NONE;
}

const void* WeightPlacer::interleaved_matrix(const GgufTensor& t) {
    total_bytes += t.bytes;
    uint8_t* dst = static_cast<uint8_t*>(arena.place_bytes(t.bytes));
    if (dst) load_repacked(t, dst);
    return dst;
}

// One read, one look at the progress hook.
void WeightPlacer::read(uint64_t offset, void* dst, uint64_t bytes) {
    if (status != KEEL_OK) return;
    status = read_at(*reader, offset, dst, bytes);
    if (status != KEEL_OK) fail(error, status, offset, "tensor data", "the reader failed");
    copied_bytes += bytes;
    if (status == KEEL_OK && hooks.progress && hooks.progress(hooks.user_data, copied_bytes, load_bytes))
        status = KEEL_E_CANCELLED;
}

void WeightPlacer::load(const GgufTensor& t, uint8_t* dst) {
    constexpr uint64_t kSliceBytes = 1 << 20;
    for (uint64_t done = 0; done < t.bytes && status == KEEL_OK; done += kSliceBytes)
        read(t.offset + done, dst + done, t.bytes - done < kSliceBytes ? t.bytes - done : kSliceBytes);
}

// Through the stack: whole groups of rows where they fit, else a stretch of blocks of one group at a time.
void WeightPlacer::load_repacked(const GgufTensor& t, uint8_t* dst) {
    constexpr uint64_t kStretchBytes = 2048;  // of one row
    const kernels::WeightTypeInfo& type = kWeightTypes[t.type];
    const uint64_t blocks = t.dims[0] / type.block_elements, row_bytes = blocks * type.block_bytes,
                   stretch = kStretchBytes / type.block_bytes;
    uint8_t rows[kernels::kRepackRows * kStretchBytes];
    const uint64_t group_bytes = kernels::kRepackRows * row_bytes, groups = t.dims[1] / kernels::kRepackRows;
    if (group_bytes <= sizeof rows) {
        const uint64_t step = sizeof rows / group_bytes;
        for (uint64_t group = 0; group < groups && status == KEEL_OK; group += step) {
            const uint64_t count = groups - group < step ? groups - group : step;
            read(t.offset + group * group_bytes, rows, count * group_bytes);
            kernels::repack_rows(static_cast<kernels::WeightType>(t.type), rows, dst,
                                 static_cast<uint32_t>(count * kernels::kRepackRows), static_cast<uint32_t>(t.dims[0]));
            dst += count * group_bytes;
        }
        return;
    }
    for (uint64_t row = 0; row < t.dims[1]; row += kernels::kRepackRows) {
        for (uint64_t first = 0; first < blocks && status == KEEL_OK; first += stretch) {
            const uint64_t count = blocks - first < stretch ? blocks - first : stretch,
                           bytes = count * type.block_bytes;
            for (uint64_t r = 0; r < kernels::kRepackRows; ++r)
                read(t.offset + (row + r) * row_bytes + first * type.block_bytes, rows + r * bytes, bytes);
            kernels::repack_rows(static_cast<kernels::WeightType>(t.type), rows, dst, kernels::kRepackRows,
                                 static_cast<uint32_t>(count * type.block_elements));
            dst += kernels::kRepackRows * bytes;
        }
    }
}

}  // namespace keel
