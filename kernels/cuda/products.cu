// Products of weights as they lie in the file with f32 activations, of every type (NUMERICS section 1), and what
// products need besides: 8-bit activations (section 2) and single rows (section 3).
#include "kernels/cuda/product_rows.cuh"
#include "kernels/cuda/quantize.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/cuda/weight_blocks.cuh"

namespace keel::cuda {
namespace {

static_assert(kGroupRows == kProductThreads / 16);

// Sixteen lanes a row, which are those of the contract.
template <WeightType T>
KEEL_GPU void multiply_f32(const ProductArgs& args) {
    // Elements of a lane on their way at once; decoding others takes longer than waiting for them.
    constexpr uint32_t kAhead = kWeightTypes[T].activation_block == 0 ? 8 : 1;
    const uint32_t lane = thread_x() % 16, first = block_y() * kProductTokens,
                   tokens = args.tokens - first < kProductTokens ? args.tokens - first : kProductTokens;
    const GroupRows at = rows_of_group(args, args.group_begin + block_x());
    const ProductMatrix& matrix = args.matrix[at.matrix];
    const uint32_t row = at.first_row + thread_x() / 16;
    // A row that is not there is computed as the first one and not stored.
    const uint8_t* w = matrix.w + (row < matrix.rows ? row : at.first_row) * args.w_row_bytes;
    float acc[kProductTokens] = {};
    for (uint32_t e = lane; e < args.k; e += 16 * kAhead) {
        float v[kAhead] = {};
        KEEL_UNROLL
        for (uint32_t i = 0; i < kAhead; ++i)
            if (e + 16 * i < args.k) v[i] = decoded<T>(w, e + 16 * i);
        KEEL_UNROLL
        for (uint32_t t = 0; t < kProductTokens; ++t) {
            if (t >= tokens) continue;
            const float* x = reinterpret_cast<const float*>(token_of(args, first + t)) + e;
            KEEL_UNROLL
            for (uint32_t i = 0; i < kAhead; ++i)
                if (e + 16 * i < args.k) acc[t] = fma_f32(v[i], x[16 * i], acc[t]);
        }
    }
    KEEL_UNROLL
    for (uint32_t t = 0; t < kProductTokens; ++t) {
        if (t >= tokens) continue;
        const float dot = tree16(acc[t]);
        if (lane == 0) store(args, matrix, row, first + t, with_bias(matrix, row, dot));
    }
}

// Rows of a tile in shared memory: of every lane its elements of two steps side by side.
KEEL_GPU uint32_t place_in_tile(uint32_t row, uint32_t element) {
    return row * kTileStride + element / 32 * 32 + element % 16 * 2 + element / 16 % 2;
}
struct alignas(8) Floats2 {
    float x, y;
};
template <WeightType T>
KEEL_GPU void multiply_f32_tile(const ProductArgs& args) {
    constexpr uint32_t kOfThread = kTileElements * kTileRows / kTileThreads,
                       kOfThreadX = kTileElements * kTileTokens / kTileThreads;
    static_assert(kOfThread == 8 && kOfThreadX == 4 && kTileElements == 64);
    const uint32_t first_token = block_y() * kTileTokens, left = args.tokens - first_token,
                   tokens = left < kTileTokens ? left : kTileTokens;
    float* w_tile = reinterpret_cast<float*>(shared_memory());
    float* x_tile = w_tile + kTileRows * kTileStride;
    // What this thread brings: elements of one row and of one token. Of a row or token that is not there some other's,
    // whose results are not stored.
    const uint32_t first_group = args.group_begin + block_x() * kTileGroups;
    const auto group_of = [&](uint32_t i) {
        return rows_of_group(args, first_group + i < args.group_end ? first_group + i : args.group_begin);
    };
    const uint32_t tile_row = thread_x() / 8, tile_token = thread_x() / 16;
    const GroupRows brought = group_of(tile_row / kGroupRows);
    const uint32_t row = brought.first_row + tile_row % kGroupRows;
    const uint8_t* w = args.matrix[brought.matrix].w +
                       (row < args.matrix[brought.matrix].rows ? row : brought.first_row) * args.w_row_bytes;
    const float* x =
        reinterpret_cast<const float*>(token_of(args, first_token + (tile_token < tokens ? tile_token : 0)));
    const uint32_t w_element = thread_x() % 8 * kOfThread, x_element = thread_x() % 16 * kOfThreadX;
    float *w_place = w_tile + place_in_tile(tile_row, w_element),
          *x_place = x_tile + place_in_tile(tile_token, x_element);
    // What it multiplies: its lane of eight rows and eight tokens.
    const uint32_t lane = thread_x() % 16, rows8 = thread_x() / 32 % (kTileRows / 8) * 8,
                   tokens8 = (thread_x() / 32 / (kTileRows / 8) * 2 + thread_x() / 16 % 2) * 8;
    float acc[8][8] = {};
    constexpr uint32_t kMinusZero = T == kF32 ? 0x80000000u : 0x8000u;
    uint32_t w_next[kOfThread];
    float x_next[kOfThreadX];
    // Behind the end of a row -0 times 0: a sum to which that is added stays what it is, -0 too.
    const auto bring = [&](uint32_t first) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < kOfThread; ++i) {
            const uint32_t e = first + w_element + i;
            w_next[i] = e < args.k ? bits_of_element<T>(w, e) : kMinusZero;
        }
        KEEL_UNROLL
        for (uint32_t i = 0; i < kOfThreadX; ++i) {
            const uint32_t e = first + x_element + i;
            x_next[i] = e < args.k ? x[e] : 0.0f;
        }
    };
    bring(0);
    for (uint32_t first = 0; first < args.k; first += kTileElements) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < kOfThread; ++i) w_place[2 * i] = float_of_bits<T>(w_next[i]);
        KEEL_UNROLL
        for (uint32_t i = 0; i < kOfThreadX; ++i) x_place[2 * i] = x_next[i];
        sync_block();
        if (first + kTileElements < args.k) bring(first + kTileElements);
        KEEL_NO_UNROLL
        for (uint32_t e = 0; e < kTileElements; e += 32) {
            const auto two_steps = [lane, e](const float* tile, uint32_t of_row) {
                return *reinterpret_cast<const Floats2*>(tile + of_row * kTileStride + e + 2 * lane);
            };
            Floats2 b[8];
            KEEL_UNROLL
            for (uint32_t t = 0; t < 8; ++t) b[t] = two_steps(x_tile, tokens8 + t);
            KEEL_UNROLL
            for (uint32_t r = 0; r < 8; ++r) {
                const Floats2 a = two_steps(w_tile, rows8 + r);
                KEEL_UNROLL
                for (uint32_t t = 0; t < 8; ++t) acc[r][t] = fma_f32(a.y, b[t].y, fma_f32(a.x, b[t].x, acc[r][t]));
            }
        }
        sync_block();  // nobody brings the next elements while another warp still reads
    }
    // Every lane gets every sum; of rows 2i and 2i + 1 it keeps the one that it stores.
    const uint32_t group = rows8 / kGroupRows;
    const GroupRows at = group_of(group);
    const bool live = first_group + group < args.group_end;
    float mine[4] = {};
    KEEL_UNROLL
    for (uint32_t r = 0; r < 8; ++r) {
        KEEL_UNROLL
        for (uint32_t t = 0; t < 8; ++t) {
            const float sum = tree16(acc[r][t]);
            if (lane == r % 2 * 8 + t) mine[r / 2] = sum;
        }
    }
    if (!live || tokens8 + lane % 8 >= tokens) return;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t of_row = at.first_row + rows8 % kGroupRows + 2 * i + lane / 8;
        store(args, args.matrix[at.matrix], of_row, first_token + tokens8 + lane % 8,
              with_bias(args.matrix[at.matrix], of_row, mine[i]));
    }
}

template <WeightType T>
KEEL_GPU void embed(const EmbedArgs& args) {
    const uint8_t* row = args.w + args.ids[block_x()] * args.w_row_bytes;
    float* y = args.y + block_x() * args.y_token_floats;
    for (uint32_t e = thread_x(); e < args.k; e += kEmbedThreads) {
        const float v = decoded<T>(row, e);
        y[e] = args.scale == 1.0f ? v : mul_f32(v, args.scale);
    }
}

// A warp a span.
template <uint32_t BLOCK>
KEEL_GPU void quantize(const QuantizeArgs& args) {
    const uint32_t span = block_x() * (kQuantizeThreads / 32) + thread_x() / 32;
    if (span * kSpanElements >= args.k) return;  // the whole warp
    float v[8];
    load_span<true>(args.x + block_y() * args.x_token_floats, span, args.k, v);
    quantize_span(v, span, args.q8 + block_y() * args.q8_token_bytes, args.k, BLOCK);
}

}  // namespace

#define KEEL_DEFINE_F32(type, ...)        \
    KEEL_GPU_KERNEL(product_f32_##type) { \
        multiply_f32<k##type>(args);      \
    }                                     \
    KEEL_GPU_KERNEL(embed_##type) {       \
        embed<k##type>(args);             \
    }
KEEL_WEIGHT_TYPES(KEEL_DEFINE_F32)

#define KEEL_DEFINE_F32_TILE(type, ...)        \
    KEEL_GPU_KERNEL(product_f32_tile_##type) { \
        multiply_f32_tile<k##type>(args);      \
    }
KEEL_FLOAT_TYPES(KEEL_DEFINE_F32_TILE)

KEEL_GPU_KERNEL(quantize_32) {
    quantize<32>(args);
}
KEEL_GPU_KERNEL(quantize_256) {
    quantize<256>(args);
}

}  // namespace keel::cuda
