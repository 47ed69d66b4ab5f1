// Attention of one query head of one token (NUMERICS section 5), in the order of the CPU's scalar kernel: KV splits one
// after another, in each sinks, coded rows, recent rows; in these tiles of 64 positions, a thread each.
#include "kernels/cuda/kv_row.cuh"

namespace keel::cuda {
namespace {

constexpr float kWeightSteps = 32767.0f;  // of kernels/cpu/attention/attention_tile.h
constexpr uint32_t kWarps = kAttentionThreads / 32;

// Where a block keeps what its threads share.
struct Room {
    float *q, *o, *total;      // [head_dim]: the query, the output of a split, of all splits so far
    int8_t *q8, *k, *v;        // [head_dim], [64][head_dim] each
    float *k_scale, *v_scale;  // [64][kMaxKvScales]
    int16_t* w;                // [kMaxKvScales][64]
    float* p;                  // [64]
    float* warp_value;         // [kWarps], and behind it what one thread tells all
    uint32_t* slots;           // [kMostTreeNodes]
};

// Rows of a session in one form, and which of them the query reads in it.
struct View {
    const KvRows *k, *v;
    uint32_t begin, end;
    enum { kSinks, kCoded, kRecent } where;
};

struct Query {
    const StepArrays* step;
    const KvPlaces* places;
    uint32_t session, kv_head, tail_first;
    const uint32_t* slots;  // of the tail
};

// The page that holds a slot, in a view; null: evicted.
KEEL_GPU const uint8_t* page_of(const Query& q, const View& view, uint32_t slot) {
    const KvPlaces& at = *q.places;
    const uint32_t page = slot / kPagePositions;
    if (view.where == View::kCoded) {
        const uint32_t id = q.step->page_id[q.step->page_first[q.session] + page];
        return id == kNone ? nullptr : at.base + at.pages + id * at.page_stride;
    }
    const uint8_t* window = at.base + at.windows + q.step->session_index[q.session] * at.window_stride;
    return view.where == View::kSinks ? window : window + at.ring + page % at.recent_pages * at.recent_page_stride;
}
struct RowOf {
    const uint8_t *codes, *scales;
};
KEEL_GPU RowOf row_of(const Query& q, const View& view, const KvRows& rows, uint32_t position) {
    const uint32_t slot = position < q.tail_first ? position : q.slots[position - q.tail_first];
    const uint8_t* page = page_of(q, view, slot);
    const uint32_t in_page = slot % kPagePositions;
    return {page + rows.codes + q.kv_head * rows.head_bytes + uint64_t{in_page} * rows.code_bytes,
            page + rows.scales + q.kv_head * rows.head_bytes + uint64_t{in_page} * rows.scale_bytes};
}

// The largest of all threads' values, and whether all say `numbers`. Every thread calls it and gets both.
struct Largest {
    float value;
    bool numbers;
};
KEEL_GPU Largest largest_of(float value, bool numbers, const Room& room) {
    const uint32_t lane = thread_x() % 32, warp = thread_x() / 32;
    KEEL_UNROLL
    for (uint32_t step = 16; step; step /= 2) {
        const float other = shuffle(value, lane ^ step);
        value = other > value ? other : value;
    }
    const bool all = ballot(numbers) == ~0u;
    sync_block();
    if (lane == 0) room.warp_value[warp] = all ? value : __builtin_nanf("");
    sync_block();
    Largest out = {value, true};
    KEEL_UNROLL
    for (uint32_t w = 0; w < kWarps; ++w) {
        const float other = room.warp_value[w];
        out.numbers = out.numbers && other == other;
        out.value = other > out.value ? other : out.value;
    }
    return out;
}

// The query as integers, a block per scale of the K format.
KEEL_GPU void quantize_query(const Room& room, uint32_t n, uint32_t blocks, float* d) {
    const uint32_t block = n / blocks;
    for (uint32_t b = 0; b < blocks; ++b) {
        float largest = 0.0f;
        bool numbers = true;
        for (uint32_t i = b * block + thread_x(); i < (b + 1) * block; i += kAttentionThreads) {
            const float v = __builtin_fabsf(room.q[i]);
            numbers &= v < kInf32;
            largest = v > largest ? v : largest;
        }
        const Largest all = largest_of(largest, numbers, room);
        d[b] = all.numbers ? mul_f32(all.value, 1.0f / 127.0f) : __builtin_nanf("");
        const float inverse = all.numbers && all.value > 0.0f ? 127.0f / all.value : 0.0f;
        for (uint32_t i = b * block + thread_x(); i < (b + 1) * block; i += kAttentionThreads) {
            const float v = all.numbers && room.q[i] != 0.0f ? mul_f32(room.q[i], inverse) : 0.0f;
            room.q8[i] = static_cast<int8_t>(static_cast<int32_t>(rint_f32(v > 127.0f    ? 127.0f
                                                                           : v < -127.0f ? -127.0f
                                                                                         : v)));
        }
    }
    sync_block();
}

// A row of integers and its scales, of this thread's position.
KEEL_GPU void unpack_row(const RowOf& row, KvFormat format, uint32_t n, int8_t* q, float* scale) {
    for (uint32_t b = 0; b < n / 8; ++b) unpack8(format, row.codes, row.scales, n, b, q + 8 * b);
    for (uint32_t s = 0; s < kv_scales(format, n); ++s) scale[s] = integer_scale(format, row.scales, s);
}

// The dot product of the query with this thread's key.
KEEL_GPU float score_of(const Room& room, const RowOf& row, KvFormat format, uint32_t n, const float* d) {
    if (!kKvFormats[format].integer) {
        float lanes[16] = {};
        for (uint32_t b = 0; b < n / 16; ++b) {
            float k[16];
            decode8(format, row.codes, row.scales, 2 * b, k);
            decode8(format, row.codes, row.scales, 2 * b + 1, k + 8);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 16; ++e) lanes[e] = fma_f32(k[e], room.q[16 * b + e], lanes[e]);
        }
        if (n % 16) {
            float k[8];
            decode8(format, row.codes, row.scales, n / 8 - 1, k);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) lanes[e] = fma_f32(k[e], room.q[n - 8 + e], lanes[e]);
        }
        return kernels::tree16(lanes);
    }
    const uint32_t j = thread_x(), scales = kv_scales(format, n), block = n / scales;
    int8_t* k = room.k + uint64_t{j} * n;
    float* scale = room.k_scale + j * kMaxKvScales;
    unpack_row(row, format, n, k, scale);
    float dot = 0.0f;
    for (uint32_t b = 0; b < scales; ++b) {
        int32_t sum = 0;
        for (uint32_t i = b * block; i < (b + 1) * block; ++i) sum += room.q8[i] * k[i];
        dot = fma_f32(mul_f32(d[b], scale[b]), static_cast<float>(sum), dot);
    }
    return dot;
}

// The removed mean's share of the score of this thread's position.
KEEL_GPU float mean_score(const KvMeans& means, const float* coefficients, uint32_t tile) {
    const float* base = means.tile_rotations + uint64_t{tile} * 2 * means.pairs;
    float sum = 0.0f;
    for (uint32_t i = 0; i < means.pairs; ++i) {
        const float ca = coefficients[2 * i], cb = coefficients[2 * i + 1], c = base[2 * i], t = base[2 * i + 1];
        const float even = fma_f32(ca, c, mul_f32(cb, t)), odd = fma_f32(cb, c, -mul_f32(ca, t));
        const float *cosines = means.offset_rotations + uint64_t{2} * i * kAttentionThreads,
                    *sines = cosines + kAttentionThreads;
        sum = fma_f32(odd, sines[thread_x()], fma_f32(even, cosines[thread_x()], sum));
    }
    return sum;
}

}  // namespace

KEEL_GPU_KERNEL(attention) {
    const Heads& s = args.shape;
    const KvPlaces& at = args.places;
    const uint32_t head = block_x(), token = block_y(), n = s.head_dim, j = thread_x();
    const uint32_t session = args.step.session[token];
    Room room;
    uint8_t* shared = shared_memory();
    const auto take = [&](uint32_t bytes) {
        uint8_t* p = shared;
        shared += bytes;
        return p;
    };
    room.q = reinterpret_cast<float*>(take(n * 4));
    room.o = reinterpret_cast<float*>(take(n * 4));
    room.total = reinterpret_cast<float*>(take(n * 4));
    room.k_scale = reinterpret_cast<float*>(take(kAttentionThreads * kMaxKvScales * 4));
    room.v_scale = reinterpret_cast<float*>(take(kAttentionThreads * kMaxKvScales * 4));
    room.p = reinterpret_cast<float*>(take(kAttentionThreads * 4));
    room.warp_value = reinterpret_cast<float*>(take(256));
    room.slots = reinterpret_cast<uint32_t*>(take(kMostTreeNodes * 4));
    room.w = reinterpret_cast<int16_t*>(take(kMaxKvScales * kAttentionThreads * 2));
    room.q8 = reinterpret_cast<int8_t*>(take(n));
    room.k = reinterpret_cast<int8_t*>(take(kAttentionThreads * n));
    room.v = reinterpret_cast<int8_t*>(take(kAttentionThreads * n));

    const float* q = args.qkv.row + token * args.qkv.stride + head * n;
    for (uint32_t i = j; i < n; i += kAttentionThreads) room.q[i] = q[i];
    Query query = {&args.step, &at, session, head / (s.heads / s.kv_heads), args.step.tail_first[session], room.slots};
    const uint32_t position = args.step.position[token], end = position + 1;
    // The slots of the tail that the token reads: those of its ancestors and its own.
    if (query.tail_first != kNone && j == 0) {
        const uint32_t* parent = args.step.tail_parent + uint64_t{session} * kMostTreeNodes;
        uint32_t i = position - query.tail_first;
        for (uint32_t node = args.step.slot[token] - query.tail_first; node != kNone; node = parent[node])
            room.slots[i--] = query.tail_first + node;
    }
    sync_block();

    const uint32_t begin = args.window && end > args.window ? end - args.window : 0;
    uint32_t coded_begin = begin > at.sink_tokens ? begin : at.sink_tokens;
    uint32_t coded_end = end > at.recent_tokens ? end - at.recent_tokens : 0;
    coded_begin = coded_begin < end ? coded_begin : end;
    coded_end = coded_end > coded_begin ? coded_end : coded_begin;
    const View views[3] = {{&at.sink_k, &at.sink_v, begin, end < at.sink_tokens ? end : at.sink_tokens, View::kSinks},
                           {&at.k, &at.v, coded_begin, coded_end, View::kCoded},
                           {&at.recent_k, &at.recent_v, coded_end, end, View::kRecent}};
    float d[kMaxKvScales] = {};
    const bool integer_k = kKvFormats[at.k.format].integer;
    if (integer_k) quantize_query(room, n, kv_scales(at.k.format, n), d);
    const float* coefficients =
        args.means.pairs ? args.mean.row + token * args.mean.stride + uint64_t{head} * 2 * args.means.pairs : nullptr;

    float total_m = -kInf32, total_l = 0.0f;
    for (uint32_t first_of_split = begin / kSplitPositions * kSplitPositions; first_of_split < end;
         first_of_split += kSplitPositions) {
        for (uint32_t which = 0; which < 3; ++which) {
            const View& view = views[which];
            const uint32_t split_end = first_of_split + kSplitPositions;
            if (view.begin >= view.end || view.begin >= split_end || view.end <= first_of_split) continue;
            const KvFormat k_format = view.k->format, v_format = view.v->format;
            float m = -kInf32, l = 0.0f;
            for (uint32_t i = j; i < n; i += kAttentionThreads) room.o[i] = 0.0f;
            for (uint32_t first = first_of_split; first < split_end; first += kAttentionThreads) {
                const uint32_t lo = view.begin > first ? view.begin - first : 0,
                               hi = view.end <= first                      ? 0
                                    : view.end - first < kAttentionThreads ? view.end - first
                                                                           : kAttentionThreads;
                if (lo >= hi) continue;
                if (first < query.tail_first && !page_of(query, view, first)) continue;  // evicted
                const bool seen = j >= lo && j < hi;
                float p = -kInf32;
                RowOf v_row = {};
                if (seen) {
                    p = score_of(room, row_of(query, view, *view.k, first + j), k_format, n, d);
                    if (coefficients) p = add_f32(p, mean_score(args.means, coefficients, first / kAttentionThreads));
                    p = mul_f32(p, args.scale);
                    if (args.softcap != 0.0f) p = softcap_f32(p, args.softcap);
                    v_row = row_of(query, view, *view.v, first + j);
                    if (kKvFormats[v_format].integer)
                        unpack_row(v_row, v_format, n, room.v + uint64_t{j} * n, room.v_scale + j * kMaxKvScales);
                }
                const Largest largest = largest_of(p, p == p, room);
                float next_m = largest.value > m ? largest.value : m;
                if (!largest.numbers || m != m) next_m = __builtin_nanf("");
                const float c = m == -kInf32 ? 0.0f : exp_f32(add_f32(m, -next_m));
                p = seen ? exp_f32(add_f32(p, -next_m)) : 0.0f;
                room.p[j] = p;
                sync_block();
                if (j < 32) {
                    float chain = 0.0f;
                    for (uint32_t i = j % 16; i < kAttentionThreads; i += 16)
                        if (i >= lo && i < hi) chain = add_f32(chain, room.p[i]);
                    const float sum = tree16(chain);
                    if (j == 0) room.warp_value[kWarps] = sum;
                }
                sync_block();
                l = fma_f32(l, c, room.warp_value[kWarps]);
                m = next_m;
                for (uint32_t i = j; i < n; i += kAttentionThreads) room.o[i] = mul_f32(room.o[i], c);
                if (kKvFormats[v_format].integer) {
                    const uint32_t scales = kv_scales(v_format, n), block = n / scales;
                    float unit[kMaxKvScales] = {};
                    for (uint32_t b = 0; b < scales; ++b) {
                        const float t = seen ? mul_f32(p, room.v_scale[j * kMaxKvScales + b]) : 0.0f;
                        const Largest most = largest_of(t == t ? t : 0.0f, t < kInf32, room);
                        unit[b] = most.numbers ? mul_f32(most.value, 1.0f / kWeightSteps) : __builtin_nanf("");
                        const float inverse = most.numbers && most.value > 0.0f ? kWeightSteps / most.value : 0.0f;
                        const float v = most.numbers && t != 0.0f ? mul_f32(t, inverse) : 0.0f;
                        room.w[b * kAttentionThreads + j] =
                            static_cast<int16_t>(static_cast<int32_t>(rint_f32(v > kWeightSteps ? kWeightSteps : v)));
                    }
                    sync_block();
                    for (uint32_t i = j; i < n; i += kAttentionThreads) {
                        const int16_t* w = room.w + i / block * kAttentionThreads;
                        int32_t sum = 0;
                        for (uint32_t r = lo; r < hi; ++r) sum += w[r] * room.v[uint64_t{r} * n + i];
                        room.o[i] = fma_f32(unit[i / block], static_cast<float>(sum), room.o[i]);
                    }
                } else {
                    sync_block();
                    for (uint32_t b = j; b < n / 8; b += kAttentionThreads) {
                        for (uint32_t r = lo; r < hi; ++r) {
                            const RowOf row = row_of(query, view, *view.v, first + r);
                            float v[8];
                            decode8(v_format, row.codes, row.scales, b, v);
                            KEEL_UNROLL
                            for (uint32_t e = 0; e < 8; ++e)
                                room.o[8 * b + e] = fma_f32(room.p[r], v[e], room.o[8 * b + e]);
                        }
                    }
                }
                sync_block();
            }
            // Into what the splits before have.
            if (total_m == -kInf32) {
                for (uint32_t i = j; i < n; i += kAttentionThreads) room.total[i] = room.o[i];
                total_m = m;
                total_l = l;
            } else {
                const float merged = m > total_m || m != m ? m : total_m;
                const float by = exp_f32(add_f32(total_m, -merged)), from_by = exp_f32(add_f32(m, -merged));
                total_l = fma_f32(total_l, by, mul_f32(l, from_by));
                for (uint32_t i = j; i < n; i += kAttentionThreads)
                    room.total[i] = fma_f32(room.total[i], by, mul_f32(room.o[i], from_by));
                total_m = merged;
            }
        }
    }
    float* out = args.out.row + token * args.out.stride + head * n;
    for (uint32_t i = j; i < n; i += kAttentionThreads) out[i] = room.total[i];
    if (j != 0) return;
    float* state = args.state.row + token * args.state.stride;
    state[head] = total_m;
    state[s.heads + head] = total_l;
}

KEEL_GPU_KERNEL(attention_finish) {
    const Heads& s = args.shape;
    const uint32_t head = block_x(), n = s.head_dim, lane = thread_x();
    float* o = args.out.row + block_y() * args.out.stride + head * n;
    float* x = reinterpret_cast<float*>(shared_memory());
    const float r = 1.0f / args.state.row[block_y() * args.state.stride + s.heads + head];
    for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(o[i], r);
    if (args.rotated) unrotate_warp(x, n);
    const float* mean = args.value_mean ? args.value_mean + uint64_t{head / (s.heads / s.kv_heads)} * n : nullptr;
    for (uint32_t i = lane; i < n; i += 32) o[i] = mean ? add_f32(x[i], mean[i]) : x[i];
}

}  // namespace keel::cuda
