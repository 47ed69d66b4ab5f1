// Attention of many columns, and the end of attention: splits that blocks worked on apart are merged in their order.
#include "kernels/cuda/attention.cuh"

namespace keel::cuda {
namespace {

// The partials of a head, merged in order into x. Returns the sum of weights. A lane a split's view for what has no
// order; what is a chain goes through them one by one.
KEEL_GPU float merge_partials(const AttentionFinishArgs& args, uint32_t token, uint32_t head, float* x) {
    constexpr uint32_t kElements = kMaxHeadDim / kWarp;
    const uint32_t lane = thread_x(), n = args.shape.head_dim, position = args.position[token];
    const auto seen = [&](uint32_t view) {
        return view_range(position, args.window, args.sink_tokens, args.recent_tokens, view);
    };
    float *by = x + kMaxHeadDim, *from_by = by + kWarp;
    const uint64_t row = (uint64_t{token} * args.shape.heads + head) * args.partial_slots, stride = n + kPartialState;
    float m = -kInf32, l = 0.0f, o[kElements] = {};
    for (uint32_t first = 0; first < kViews * (position / kSplitPositions + 1); first += kWarp) {
        const uint32_t split = (first + lane) / kViews, view = (first + lane) % kViews;
        const bool used = !cut(seen(view), split * kSplitPositions, kSplitPositions).empty();
        const uint32_t slot =
            partial_slot(args.partial_slots, args.sink_tokens, args.recent_tokens, view, split, seen(kRecent).begin);
        const float own = used ? args.partial[(row + slot) * stride + n] : -kInf32;
        float now = own;  // the largest up to here
        KEEL_UNROLL
        for (uint32_t step = 1; step < kWarp; step *= 2) {
            const float left = shuffle(now, lane - step);
            if (lane >= step) now = largest(left, now);
        }
        now = largest(m, now);
        const float left = shuffle(now, lane - 1), before = lane ? left : m;
        by[lane] = before == -kInf32 ? kCopied : exp_f32(add_f32(before, -now));
        from_by[lane] = exp_f32(add_f32(own, -now));
        m = shuffle(now, kWarp - 1);
        const uint32_t merged = ballot(used);
        sync_warp();
        for (uint32_t i = 0; i < kWarp; ++i) {
            const uint32_t from_slot = shuffle(slot, i);
            if (!(merged >> i & 1)) continue;
            const float* from = args.partial + (row + from_slot) * stride;
            const bool copied = by[i] == kCopied;
            l = copied ? from[n + 1] : fma_f32(l, by[i], mul_f32(from[n + 1], from_by[i]));
            KEEL_UNROLL
            for (uint32_t e = 0; e < kElements; ++e) {
                if (e * kWarp + lane >= n) break;
                const float mine = from[e * kWarp + lane];
                o[e] = copied ? mine : fma_f32(o[e], by[i], mul_f32(mine, from_by[i]));
            }
        }
        sync_warp();
    }
    KEEL_UNROLL
    for (uint32_t e = 0; e < kElements; ++e)
        if (e * kWarp + lane < n) x[e * kWarp + lane] = o[e];
    return l;
}

}  // namespace

KEEL_GPU_KERNEL(attend_32) {
    attend<32>(args);
}

KEEL_GPU_KERNEL(attention_finish) {
    const Heads& s = args.shape;
    const uint32_t head = block_x(), token = block_y(), n = s.head_dim, lane = thread_x();
    float* o = args.out.row + token * args.out.stride + head * n;
    float* x = reinterpret_cast<float*>(shared_memory());
    float l;
    if (args.partial) {
        l = merge_partials(args, token, head, x);
    } else {
        l = args.state.row[token * args.state.stride + s.heads + head];
        for (uint32_t i = lane; i < n; i += 32) x[i] = o[i];
    }
    const float r = 1.0f / l;
    for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(x[i], r);
    if (args.rotated) unrotate_warp(x, n);
    const float* mean = args.value_mean ? args.value_mean + uint64_t{head / (s.heads / s.kv_heads)} * n : nullptr;
    for (uint32_t i = lane; i < n; i += 32) o[i] = mean ? add_f32(x[i], mean[i]) : x[i];
}

}  // namespace keel::cuda
