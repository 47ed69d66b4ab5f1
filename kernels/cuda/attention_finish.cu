// The end of attention: splits that blocks worked on apart are merged in their order.
#include "kernels/cuda/attention.cuh"

namespace keel::cuda {
namespace {

constexpr uint32_t kGroup = kFinishGroup;
constexpr uint32_t kElements = kMaxHeadDim / kFinishThreads;

// What a head has of splits, in the order in which it is merged: sinks, coded rows of splits, recent rows of splits.
struct Merged {
    uint32_t sinks, coded, recent;  // how many of each
    uint32_t sinks_slot, coded_slot, recent_slot;
    KEEL_GPU uint32_t count() const { return sinks + coded + recent; }
    KEEL_GPU uint32_t slot(uint32_t i) const {
        return i < sinks ? sinks_slot : i < sinks + coded ? coded_slot + i - sinks : recent_slot + i - sinks - coded;
    }
};
KEEL_GPU uint32_t splits_of(Range r) {
    return r.empty() ? 0 : (r.end - 1) / kSplitPositions - r.begin / kSplitPositions + 1;
}
KEEL_GPU Merged merged_of(const AttentionFinishArgs& args, uint32_t position) {
    const auto seen = [&](uint32_t view) {
        return view_range(position, args.window, args.sink_tokens, args.recent_tokens, view);
    };
    const uint32_t first_recent = seen(kRecent).begin;
    const auto slot = [&](uint32_t view) {
        return partial_slot(args.partial_slots, args.sink_tokens, args.recent_tokens, view,
                            seen(view).begin / kSplitPositions, first_recent);
    };
    return {splits_of(seen(kSinks)),
            splits_of(seen(kCoded)),
            splits_of(seen(kRecent)),
            slot(kSinks),
            slot(kCoded),
            slot(kRecent)};
}

// The partials of a head, merged in order into x. Returns the sum of weights. A warp has its share of the elements; a
// lane an entry of a group for what has no order. All of a group is on its way at once.
KEEL_GPU float merge_partials(const AttentionFinishArgs& args, uint32_t token, uint32_t head, float* x, Words4* group) {
    const uint32_t thread = thread_x(), lane = thread % kWarp, n = args.shape.head_dim;
    const Merged merged = merged_of(args, args.position[token]);
    const uint64_t row = (uint64_t{token} * args.shape.heads + head) * args.partial_slots, stride = n + kPartialState;
    const auto partial = [&](uint32_t i) { return args.partial + (row + merged.slot(i)) * stride; };
    float m = -kInf32, l = 0.0f, o[kElements] = {};
    KEEL_NO_UNROLL
    for (uint32_t first = 0; first < merged.count(); first += kGroup) {
        float mine[kGroup][kElements];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kGroup; ++i) {
            KEEL_UNROLL
            for (uint32_t e = 0; e < kElements; ++e)
                if (first + i < merged.count() && e * kFinishThreads + thread < n)
                    mine[i][e] = partial(first + i)[e * kFinishThreads + thread];
        }
        const bool used = lane < kGroup && first + lane < merged.count();
        const float* state = partial(used ? first + lane : first) + n;
        const float own = used ? state[0] : -kInf32, own_l = state[1];
        float now = own;  // the largest up to here
        KEEL_UNROLL
        for (uint32_t step = 1; step < kGroup; step *= 2) {
            const float left = shuffle(now, lane - step);
            if (lane >= step) now = largest(left, now);
        }
        now = largest(m, now);
        const float left = shuffle(now, lane - 1), before = lane ? left : m;
        m = shuffle(now, kGroup - 1);
        const float by = before == -kInf32 ? kCopied : exp_f32(add_f32(before, -now)),
                    from_by = exp_f32(add_f32(own, -now));
        if (lane < kGroup)
            group[lane] = {f32_bits(by), f32_bits(from_by), f32_bits(mul_f32(own_l, from_by)), f32_bits(own_l)};
        sync_warp();
        KEEL_UNROLL
        for (uint32_t i = 0; i < kGroup; ++i) {
            if (first + i >= merged.count()) continue;
            const Words4 w = group[i];
            const bool copied = f32_from_bits(w.x) == kCopied;
            l = copied ? f32_from_bits(w.w) : fma_f32(l, f32_from_bits(w.x), f32_from_bits(w.z));
            KEEL_UNROLL
            for (uint32_t e = 0; e < kElements; ++e) {
                const float merge = fma_f32(o[e], f32_from_bits(w.x), mul_f32(mine[i][e], f32_from_bits(w.y)));
                o[e] = copied ? mine[i][e] : merge;
            }
        }
        sync_warp();
    }
    KEEL_UNROLL
    for (uint32_t e = 0; e < kElements; ++e)
        if (e * kFinishThreads + thread < n) x[e * kFinishThreads + thread] = o[e];
    return l;
}

}  // namespace

KEEL_GPU_KERNEL(attention_finish) {
    const Heads& s = args.shape;
    const uint32_t head = block_x(), token = block_y(), n = s.head_dim, thread = thread_x();
    float* o = args.out.row + token * args.out.stride + head * n;
    float* x = reinterpret_cast<float*>(shared_memory());
    float l;
    if (args.partial) {
        l = merge_partials(args, token, head, x, reinterpret_cast<Words4*>(x + kMaxHeadDim) + thread / kWarp * kGroup);
    } else {
        l = args.state.row[token * args.state.stride + s.heads + head];
        for (uint32_t i = thread; i < n; i += kFinishThreads) x[i] = o[i];
    }
    const float r = 1.0f / l;
    for (uint32_t i = thread; i < n; i += kFinishThreads) x[i] = mul_f32(x[i], r);
    sync_block();
    if (args.rotated) {
        if (thread < kWarp) unrotate_warp(x, n);
        sync_block();
    }
    const float* mean = args.value_mean ? args.value_mean + uint64_t{head / (s.heads / s.kv_heads)} * n : nullptr;
    for (uint32_t i = thread; i < n; i += kFinishThreads) o[i] = mean ? add_f32(x[i], mean[i]) : x[i];
}

}  // namespace keel::cuda
