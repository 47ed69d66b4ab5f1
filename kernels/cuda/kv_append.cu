// Heads of many tokens, between the products of q, k, v and attention; of few, attention_token.cu does it.
#include "kernels/cuda/kv_append.cuh"

namespace keel::cuda {

KEEL_GPU_KERNEL_OF(kv_append, 3) {  // without a number it spills on Ada
    const Heads& s = args.shape;
    const uint32_t token = block_y(), n = s.head_dim, warp = thread_x() / 32, lane = thread_x() % 32,
                   query_blocks = divide_up(s.heads, kAppendWarps);
    const bool query = block_x() < query_blocks;
    const uint32_t head = query ? block_x() * kAppendWarps + warp : s.heads + block_x() - query_blocks;
    if (query && head >= s.heads) return;
    float* x = reinterpret_cast<float*>(shared_memory()) + (query ? warp * n : 0);
    if (query || warp == 0) take_head(args, token, head, x);
    if (!query) {
        const uint32_t row = head - s.heads;
        return append_row(args, token, row % s.kv_heads, row >= s.kv_heads);
    }
    prepare_query(args, head / (s.heads / s.kv_heads), x,
                  args.mean.row + token * args.mean.stride + uint64_t{head} * 2 * args.means.pairs);
    float* to = args.qkv.row + token * args.qkv.stride + uint64_t{head} * n;
    for (uint32_t i = lane; i < n; i += 32) to[i] = x[i];
    if (lane == 0) args.state.row[token * args.state.stride + head] = -kInf32;
}

KEEL_GPU_KERNEL(move_rows) {
    const uint32_t head = block_x() / 2;
    const KvRows& rows = block_x() % 2 ? args.v : args.k;
    uint8_t* layer = args.base + block_y() * args.layer_bytes;
    for (uint32_t i = thread_x(); i < rows.code_bytes + rows.scale_bytes; i += kRowThreads)
        for (uint32_t m = 0; m < args.count; ++m) {
            const MoveRowsArgs::Move& move = args.move[m];
            const RowPlace to = place_of(layer + move.to_page, rows, head, move.to_row),
                           from = place_of(layer + move.from_page, rows, head, move.from_row);
            if (i < rows.code_bytes)
                to.codes[i] = from.codes[i];
            else
                to.scales[i - rows.code_bytes] = from.scales[i - rows.code_bytes];
        }
}

}  // namespace keel::cuda
