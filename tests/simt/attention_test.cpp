// Rows into the KV pages and attention over them, against the scalar set, bit for bit: every format, windows, means,
// sinks and recent rows, evicted pages, trees.
#include "kernels/cuda/exp_below.h"
#include "kernels/formats/key_mean.h"
#include "sdk/kv/kv_arena.h"
#include "sdk/kv/kv_f16_window.h"
#include "tests/simt/launch.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

using namespace keel::cuda;
using keel::KvLayer;

struct Problem {
    KvFormat k, v;
    uint32_t head_dim, heads, kv_heads;
    uint32_t positions;  // that the session has; the step's tokens are the last ones
    uint32_t tokens;
    uint32_t window = 0, sinks = 0, recent = 0, pairs = 0;
    bool profile = false;  // means of values and gains
    float softcap = 0;
    uint32_t evicted = UINT32_MAX;  // page
    uint32_t tail_first = UINT32_MAX;
    bool neox = false;
    KvScaleMode mode = KvScaleMode::kLeastSquares;
    uint32_t second = UINT32_MAX;  // tokens from here on are another session's, which has the same pages
    bool wild = false;             // rows of infinities, NaN, zeros, and keys that leave nothing to the others
    bool together = false;         // all blocks of a launch by tokens are there at once, and wait for each other
};

KvRows rows_of(const KvPlane& plane, uint64_t head_bytes, KvScaleMode mode) {
    return {plane.format, plane.code_bytes, plane.scale_bytes, plane.codes, plane.scales, head_bytes, mode};
}

// A session's memory and a step of its last tokens, as the backend would hand them over.
struct Session {
    explicit Session(const Problem& p, Random& random) : problem(p) {
        layer = keel::kv_layer(p.kv_heads, p.head_dim, {p.k, p.v, p.mode, p.mode}, &page_bytes);
        page_bytes = round64(page_bytes);
        window = keel::kv_f16_window_shape(0, 1, p.kv_heads, p.head_dim, keel::kv_ring_format(p.k, p.v, p.head_dim),
                                           {p.sinks, p.recent, 1, p.tokens, 1, 0});
        if (p.recent)
            recent = {
                keel::kv_recent_rows(window, {0, 7 % window.ring_rows}, p.positions - p.tokens, p.tokens, 0, 0, 0)};
        recent.resize(2, recent.empty() ? KvRecentRows{} : recent[0]);
        const uint32_t pages = keel::kv_pages_for(p.positions);
        for (uint32_t i = 0; i < pages; ++i) page_id.push_back(i == p.evicted ? kNone : pages - 1 - i);
        memory.assign(pages * page_bytes + window.session_bytes + window.step_bytes + 64, 0);
        at.base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        at.page_stride = page_bytes;
        at.k = rows_of(layer.k, layer.k_head_bytes, p.mode);
        at.v = rows_of(layer.v, layer.v_head_bytes, p.mode);
        at.windows = pages * page_bytes;
        at.window_stride = window.session_bytes;
        at.sink_tokens = p.sinks;
        at.recent_tokens = p.recent;
        if (p.sinks) {
            at.sink_k = rows_of(window.sink_k(0, 0), window.sinks.k_head_bytes, p.mode);
            at.sink_v = rows_of(window.sink_v(0, 0), window.sinks.v_head_bytes, p.mode);
        }
        if (p.recent) {
            at.ring_rows = window.ring_rows;
            at.ring = window.ring_of(0);
            at.step_rows = at.windows + window.session_bytes;
            at.ring_k = rows_of(window.ring.k, window.ring.k_head_bytes, p.mode);
            at.ring_v = rows_of(window.ring.v, window.ring.v_head_bytes, p.mode);
            at.recent_k = rows_of(window.recent.k, window.recent.k_head_bytes, p.mode);
            at.recent_v = rows_of(window.recent.v, window.recent.v_head_bytes, p.mode);
        }
        for (uint32_t i = 0; i < p.tokens; ++i) {
            slot.push_back(p.positions - p.tokens + i);
            session.push_back(i >= p.second);
        }
        position = slot;
        tail_first = {p.tail_first, p.tail_first};
        tail_parent.assign(kMostTreeNodes, kNone);
        if (p.tail_first != kNone) {  // node i of the tail follows node (i - 1) / 2
            for (uint32_t i = 1; i < p.positions - p.tail_first; ++i) tail_parent[i] = (i - 1) / 2;
            for (uint32_t i = 0; i < p.tokens; ++i) {
                uint32_t depth = 0;
                for (uint32_t node = slot[i] - p.tail_first; node; node = tail_parent[node]) ++depth;
                position[i] = p.tail_first + depth;
            }
        }
        step.position = position.data();
        step.slot = slot.data();
        step.session = session.data();
        step.session_index = session_index.data();
        step.page_first = page_first.data();
        step.page_id = page_id.data();
        step.recent = recent.data();
        step.tail_first = tail_first.data();
        step.tail_parent = tail_parent.data();
        for (uint32_t i = 0, count; i < p.tokens; i += count) {
            count = std::min((i < p.second ? std::min(p.second, p.tokens) : p.tokens) - i, kBlockTokens);
            query_block.push_back(i);
            query_block.push_back(count);
        }
        step.query_block = query_block.data();
        const uint32_t n = p.head_dim, floats = p.kv_heads * n;
        key_mean = random.normals(floats);
        value_mean = random.normals(floats);
        for (uint32_t i = 0; i < floats; ++i) gain.push_back(random.uniform(0.5f, 2.0f));
        for (float g : gain) inverse_gain.push_back(1.0f / g);
        for (uint32_t i = 0; i < p.pairs; ++i) pair.push_back(2 * i + 1);
        const uint32_t tiles = (p.positions + kAttentionTile - 1) / kAttentionTile;
        tile_rotations = random.normals(tiles * 2 * p.pairs + 1);
        offset_rotations = random.normals(2 * p.pairs * kAttentionTile + 1);
        if (p.pairs) {
            means.key_mean = key_mean.data();
            means.pairs = p.pairs;
            means.pair = pair.data();
            means.tile_rotations = tile_rotations.data();
            means.offset_rotations = offset_rotations.data();
        }
        if (p.profile) {
            means.value_mean = value_mean.data();
            means.gain = gain.data();
            means.inverse_gain = inverse_gain.data();
        }
        shape = {p.heads, p.kv_heads, n, n / 2, p.neox};
    }
    uint8_t* page(uint32_t index) const { return at.base + page_id[index] * page_bytes; }
    uint8_t* sinks() const { return at.base + at.windows; }
    uint8_t* ring() const { return at.base + at.windows + at.ring; }
    uint8_t* step_rows() const { return at.base + at.step_rows; }
    // Recent rows as if a page of them followed the other: of slots that the step reads.
    std::vector<uint8_t> recent_pages() const {
        const uint64_t bytes = window.recent.k.code_bytes;
        std::vector<uint8_t> all(page_id.size() * 64 * bytes);
        for (uint32_t i = recent[0].first; problem.recent && i < problem.positions; ++i)
            memcpy(&all[i * bytes], step_rows() + recent[0].row_of(i) * bytes, bytes);
        return all;
    }

    const Problem problem;
    KvLayer layer;
    keel::KvF16WindowShape window;
    uint64_t page_bytes = 0;
    std::vector<uint8_t> memory;
    KvPlaces at = {};
    KvMeans means = {};
    Heads shape = {};
    StepArrays step = {};
    std::vector<KvRecentRows> recent;
    std::vector<uint32_t> page_id, slot, session, position, tail_first, tail_parent, pair, query_block,
        session_index = {0, 0}, page_first = {0, 0, 1u << 20};
    std::vector<float> key_mean, value_mean, gain, inverse_gain, tile_rotations, offset_rotations;
};

void store(const KvPlane& plane, const float* x, uint32_t n, KvScaleMode mode, uint8_t* page, uint32_t row) {
    kScalarSet.kv_encode[plane.format](x, n, mode, page + plane.codes + uint64_t{row} * plane.code_bytes,
                                       page + plane.scales + uint64_t{row} * plane.scale_bytes);
}

// A row of a ring, as it is read.
void unpack(const KvPlane& ring, const uint8_t* rows, uint32_t row, uint32_t n, const KvPlane& step, uint8_t* step_rows,
            uint32_t step_row) {
    std::vector<float> x(n);
    kScalarSet.kv_decode[ring.format](rows + ring.codes + uint64_t{row} * ring.code_bytes,
                                      rows + ring.scales + uint64_t{row} * ring.scale_bytes, n, x.data());
    store(step, x.data(), n, {}, step_rows, step_row);
}

// Rotates a head, less its mean, if there is one: of listed pairs before the rotation.
void rope_reference(float* x, const Heads& shape, const float* cos_sin, const float* mean,
                    const std::vector<uint32_t>& listed) {
    const auto remove = [&](bool of_listed) {
        for (uint32_t i = 0; mean && i < shape.rope_pairs; ++i) {
            if ((std::find(listed.begin(), listed.end(), i) != listed.end()) != of_listed) continue;
            const PairElements at = pair_elements(i, shape.rope_pairs, shape.neox);
            x[at.first] = x[at.first] - mean[at.first];
            x[at.second] = x[at.second] - mean[at.second];
        }
    };
    remove(true);
    kScalarSet.rope(x, shape.rope_pairs, cos_sin, shape.neox);
    remove(false);
    for (uint32_t i = 2 * shape.rope_pairs; mean && i < shape.head_dim; ++i) x[i] = x[i] - mean[i];
}

// What the CPU's backend does between products and attention, on one token's row.
void append_reference(const Session& s, uint32_t token, const float* cos_sin, float* q, float* state, float* mean) {
    const Problem& p = s.problem;
    const uint32_t n = p.head_dim, group = p.heads / p.kv_heads, slot = s.slot[token];
    for (uint32_t h = 0; h < p.heads + p.kv_heads; ++h)
        rope_reference(q + h * n, s.shape, cos_sin,
                       h < p.heads || !s.means.key_mean ? nullptr : &s.key_mean[(h - p.heads) * n], s.pair);
    for (uint32_t h = 0; h < p.heads; ++h) {
        float* head = q + h * n;
        for (uint32_t i = 0; i < p.pairs; ++i)
            key_mean_coefficient(s.means.key_mean + h / group * n, pair_elements(s.pair[i], n / 2, p.neox), 1.25f, head,
                                 mean + (h * p.pairs + i) * 2, mean + (h * p.pairs + i) * 2 + 1);
        for (uint32_t i = 0; p.profile && i < n; ++i) head[i] = head[i] * s.gain[h / group * n + i];
        if (kKvFormats[p.k].rotated) kScalarSet.kv_rotate(head, n);
        state[h] = -kInf32;
    }
    for (uint32_t h = 0; h < p.kv_heads; ++h) {
        std::vector<float> k(q + (p.heads + h) * n, q + (p.heads + h + 1) * n),
            v(q + (p.heads + p.kv_heads + h) * n, q + (p.heads + p.kv_heads + h + 1) * n);
        for (uint32_t i = 0; p.profile && i < n; ++i)
            k[i] = k[i] * s.inverse_gain[h * n + i], v[i] = v[i] - s.value_mean[h * n + i];
        if (kKvFormats[p.k].rotated) kScalarSet.kv_rotate(k.data(), n);
        if (kKvFormats[p.v].rotated) kScalarSet.kv_rotate(v.data(), n);
        store(s.layer.k_head(h), k.data(), n, p.mode, s.page(slot / 64), slot % 64);
        store(s.layer.v_head(h), v.data(), n, p.mode, s.page(slot / 64), slot % 64);
        if (slot < p.sinks) {
            store(s.window.sink_k(0, h), k.data(), n, p.mode, s.sinks(), slot);
            store(s.window.sink_v(0, h), v.data(), n, p.mode, s.sinks(), slot);
        }
        if (p.recent) {
            const KvRecentRows& at = s.recent[0];
            const auto recent = [&](const float* x, const KvPlane& ring, const KvPlane& step) {
                for (uint32_t i = slot == at.from ? at.first : at.from; i < at.from; ++i)
                    unpack(ring, s.ring(), kv_ring_row(i, at.shift, s.window.ring_rows), n, step, s.step_rows(),
                           at.row_of(i));
                std::vector<uint8_t> coded(s.window.ring_row_bytes);
                store(ring, x, n, p.mode, coded.data(), 0);
                unpack(ring, coded.data(), 0, n, step, s.step_rows(), at.row_of(slot));
                if (at.keeps(slot)) store(ring, x, n, p.mode, s.ring(), at.kept_row(slot, s.window.ring_rows));
            };
            recent(k.data(), s.window.ring.k_head(h), s.window.recent.k_head(h));
            recent(v.data(), s.window.ring.v_head(h), s.window.recent.v_head(h));
        }
    }
}

void attention_reference(const Session& s, uint32_t token, uint32_t head, const float* q, const float* mean, float* o,
                         float* m, float* l) {
    const Problem& p = s.problem;
    const uint32_t n = p.head_dim, h = head / (p.heads / p.kv_heads), end = s.position[token] + 1;
    std::vector<float> scratch(attention_scratch_floats(n));
    std::vector<const uint8_t*> pages, recent;
    for (uint32_t i = 0; i < s.page_id.size(); ++i) {
        pages.push_back(s.page_id[i] == kNone ? nullptr : s.page(i));
    }
    const std::vector<uint8_t> rows = s.recent_pages();
    for (uint64_t i = 0; p.recent && i < s.page_id.size(); ++i)
        recent.push_back(&rows[i * 64 * s.window.recent.k.code_bytes]);
    const uint8_t* sinks = s.sinks();
    std::vector<uint32_t> slots(kMostTreeNodes);
    if (p.tail_first != kNone) {
        uint32_t at = s.position[token] - p.tail_first;
        for (uint32_t node = s.slot[token] - p.tail_first; node != kNone; node = s.tail_parent[node])
            slots[at--] = p.tail_first + node;
    }
    const uint32_t* row_of = slots.data();
    const uint32_t begin = p.window && end > p.window ? end - p.window : 0, sinks_end = std::min(end, p.sinks);
    const uint32_t coded_begin = std::min(std::max(begin, p.sinks), end),
                   coded_end = std::max(end > p.recent ? end - p.recent : 0, coded_begin);
    keel::kernels::AttentionArgs a = {};
    a.page_tokens = 64;
    a.mean = {p.pairs, s.tile_rotations.data(), s.offset_rotations.data(), &mean};
    a.head_dim = n;
    a.rows = 1;
    a.q = &q;
    a.tail_first = p.tail_first;
    a.row_of = &row_of;
    a.scale = 0.125f;
    a.softcap = p.softcap;
    a.m = m;
    a.l = l;
    a.o = &o;
    a.scratch = scratch.data();
    *m = -kInf32;
    for (a.split = 0; a.split * kKvSplitTokens < end; ++a.split) {
        const auto view = [&](const uint8_t* const* view_pages, const KvPlane& k, const KvPlane& v, uint32_t from,
                              uint32_t to) {
            if (from >= to) return;
            a.pages = view_pages;
            a.k = k;
            a.v = v;
            a.begin = &from;
            a.end = &to;
            kScalarSet.attention_split(a);
        };
        if (a.split == 0) view(&sinks, s.window.sink_k(0, h), s.window.sink_v(0, h), begin, sinks_end);
        view(pages.data(), s.layer.k_head(h), s.layer.v_head(h), coded_begin, coded_end);
        if (p.recent) view(recent.data(), s.window.recent.k_head(h), s.window.recent.v_head(h), coded_end, end);
    }
}

std::vector<Problem> problems() {
    std::vector<Problem> all;
    // Every format, K and V apart; the race checker sees in one what it sees in all of a family.
    for (uint32_t f = 0; f < kKvFormatCount; ++f) {
        const KvFormat format = static_cast<KvFormat>(f);
        const bool kept = format == kKvF16 || format == kKvQ4_0Rot || format == kKvE8_4 || format == kKvTcq3;
        if (simt::checks_races() && !kept) continue;
        all.push_back({format, static_cast<KvFormat>((f + 5) % kKvFormatCount), 64, 4, 2, 150, 3});
    }
    for (KvFormat format : {kKvF16, kKvQ8_0, kKvTcq2}) all.push_back({format, format, 96, 2, 1, 700, 1});
    all.push_back({kKvE8_8, kKvF32, 72, 1, 1, 70, 1});  // sixteen does not divide the head
    all.push_back({kKvTcq4, kKvTcq6, 128, 2, 2, 200, 2, 100});
    all.push_back({kKvTcq5, kKvE8_3, 64, 2, 1, 260, 2, 0, 5, 70, 3, true});
    all.back().mode = KvScaleMode::kUnbiased;
    all.push_back({kKvQ4_0, kKvFp8, 256, 2, 1, 80, 1, 0, 0, 0, 0, false, 30.0f});
    all.push_back({kKvTcq3, kKvTcq3, 64, 2, 1, 200, 1, 0, 0, 0, 2, false, 0.0f, 1});
    all.back().neox = true;
    all.push_back({kKvE8_4, kKvF16, 64, 2, 1, 150, 7, 0, 0, 64, 0, false, 0.0f, UINT32_MAX, 143});
    // Several query blocks and splits; heads that a block has not all of; a group that one block's columns do not hold.
    all.push_back({kKvTcq3, kKvE8_4, 80, 3, 1, 1100, 9});
    all.push_back({kKvE8_6, kKvQ8_0, 64, 10, 1, 70, 8});
    all.push_back({kKvQ4_0, kKvTcq4, 32, 12, 1, 140, 1});
    // By tokens: several parts of a row, more heads than a block has, tiles of which nothing or not all is seen.
    all.push_back({kKvE8_4, kKvE8_2, 128, 4, 1, 600, 1, 300});
    all.push_back({kKvTcq3, kKvQ8_0, 256, 5, 1, 130, 1, 0, 0, 0, 0, false, 0.0f, 1});
    all.push_back({kKvF16, kKvF16, 256, 5, 1, 150, 1, 0, 0, 0, 3, false, 20.0f, 1});
    // Blocks that wait for those that append: rows of the step in the first stages of V and behind them, in two tiles,
    // in a tail, among sinks and recent rows; more query heads than a block has.
    const auto together = [&](const Problem& p) {
        all.push_back(p);
        all.back().together = true;
    };
    together({kKvF16, kKvF16, 64, 4, 2, 130, 3});
    together({kKvF16, kKvF16, 128, 4, 1, 200, 1});
    together({kKvF16, kKvF16, 64, 2, 1, 10, 2, 0, 9, 4});
    together({kKvE8_4, kKvE8_4, 64, 10, 1, 66, 4, 0, 2, 5});
    together({kKvQ8_0, kKvTcq3, 64, 2, 2, 516, 5});
    together({kKvTcq4, kKvTcq4, 64, 2, 1, 70, 5, 0, 0, 0, 3, true, 0.0f, UINT32_MAX, 60});
    // Sinks, windows and recent rows over several splits.
    all.push_back({kKvTcq6, kKvTcq2, 64, 2, 1, 1290, 9, 700, 7, 530});
    all.push_back({kKvF16, kKvF16, 64, 2, 2, 1030, 8, 0, 3, 20});
    all.push_back({kKvF16, kKvFp8, 32, 1, 1, 11300, 1});  // merging takes a third round of 32 views of splits
    // Many columns: several warps, blocks of threads that are not full, sessions that share one.
    all.push_back({kKvF16, kKvF16, 80, 4, 1, 700, 21, 0, 2, 30});
    all.push_back({kKvF16, kKvF16, 128, 8, 2, 330, 17, 0, 0, 0, 0, false, 0.0f, 1});
    all.back().second = 13;
    all.push_back({kKvQ4_0, kKvTcq3, 32, 3, 1, 20, 20, 0, 4, 8});
    all.push_back({kKvE8_4, kKvTcq3, 128, 4, 1, 600, 19, 550, 1});
    all.back().second = 9;
    if (!simt::checks_races()) {
        all.push_back({kKvF16, kKvF16, 64, 3, 1, 610, 20, 540});
        all.push_back({kKvQ8_0, kKvQ4_0, 96, 5, 1, 590, 9, 0, 3, 20, 0, false, 0.0f, 2});
        all.push_back({kKvTcq5, kKvQ8_0, 128, 18, 1, 200, 10});
        for (KvFormat format : {kKvF16, kKvE8_4, kKvQ8_0}) {
            all.push_back({format, format, 64, 16, 1, 190, 4});
            all.back().wild = true;
        }
    }
    // A tree that reaches into a third tile, in blocks of eight tokens; its rows under a scale for 32 elements.
    all.push_back({kKvE8_2, kKvQ4_0, 64, 4, 2, 260, 12, 0, 0, 0, 0, false, 0.0f, UINT32_MAX, 190});
    all.push_back({kKvTcq5, kKvTcq3, 64, 4, 2, 530, 12, 0, 2, 9, 0, false, 0.0f, UINT32_MAX, 518});
    return all;
}

TEST(SimtAttention, AppendAndAttendEqualScalar) {
    Random random(3);
    for (const Problem& p : problems()) {
        SCOPED_TRACE(testing::Message() << kKvFormats[p.k].name << " " << kKvFormats[p.v].name << " head " << p.head_dim
                                        << ", " << p.positions << " positions");
        const uint32_t n = p.head_dim, row = (p.heads + 2 * p.kv_heads) * n, out_row = p.heads * n,
                       mean_row = p.heads * 2 * p.pairs;
        Session want(p, random);
        // Rows of earlier positions: their coding is tested by that of the step's.
        for (uint32_t position = 0; position < p.positions - p.tokens; ++position) {
            if (want.page_id[position / 64] == kNone) continue;
            for (uint32_t h = 0; h < p.kv_heads; ++h) {
                const auto put = [&](const KvPlane& plane, uint8_t* page, uint32_t at) {
                    std::vector<float> x = random.normals(n);
                    if (p.wild && position == 70) x[5] = kInf32;
                    if (p.wild && position == 130) x[7] = __builtin_nanf("");
                    const bool key = plane.codes == want.layer.k_head(h).codes;
                    if (p.wild && position == 3)
                        for (float& v : x) v *= key ? 60.0f : 0.0f;
                    store(plane, x.data(), n, p.mode, page, at);
                };
                put(want.layer.k_head(h), want.page(position / 64), position % 64);
                put(want.layer.v_head(h), want.page(position / 64), position % 64);
                if (position < p.sinks) put(want.window.sink_k(0, h), want.sinks(), position);
                if (position < p.sinks) put(want.window.sink_v(0, h), want.sinks(), position);
                if (!p.recent) continue;
                const uint32_t row = kv_ring_row(position, want.recent[0].shift, want.window.ring_rows);
                put(want.window.ring.k_head(h), want.ring(), row);
                put(want.window.ring.v_head(h), want.ring(), row);
            }
        }
        const std::vector<float> qkv = random.normals(p.tokens * row);
        std::vector<float> cos_sin = random.normals(p.tokens * n);
        const std::vector<uint8_t> before = want.memory;
        std::vector<float> want_qkv = qkv, want_state(p.tokens * 2 * p.heads), want_mean(p.tokens * mean_row + 1),
                           want_out(p.tokens * out_row);
        for (uint32_t t = 0; t < p.tokens; ++t)
            append_reference(want, t, &cos_sin[t * n], &want_qkv[t * row], &want_state[t * 2 * p.heads],
                             &want_mean[t * mean_row]);
        const std::vector<uint8_t> after_append = want.memory;
        for (uint32_t t = 0; t < p.tokens; ++t)
            for (uint32_t h = 0; h < p.heads; ++h) {
                float *state = &want_state[t * 2 * p.heads], *o = &want_out[t * out_row + h * n];
                attention_reference(want, t, h, &want_qkv[t * row + h * n], &want_mean[t * mean_row + h * 2 * p.pairs],
                                    o, state + h, state + p.heads + h);
            }
        for (simt::Order order : orders()) {
            want.memory = before;  // the kernels' turn; addresses stay
            std::vector<float> got_qkv = qkv, state(p.tokens * 2 * p.heads), mean(p.tokens * mean_row + 1),
                               out(p.tokens * out_row);
            KvAppendArgs append = {};
            append.qkv = {got_qkv.data(), row};
            append.state = {state.data(), 2 * p.heads};
            append.mean = {mean.data(), mean_row};
            append.shape = want.shape;
            append.means = want.means;
            append.places = want.at;
            append.step = want.step;
            append.attention_factor = 1.25f;
            append.cos_sin = {cos_sin.data(), n};
            append.tokens = p.tokens;
            launch(kernel_kv_append, append, launch_shape(append), order);
            EXPECT_EQ(want.memory, after_append);
            // Only queries are written back.
            for (uint32_t t = 0; t < p.tokens; ++t)
                EXPECT_TRUE(same_floats(&got_qkv[t * row], &want_qkv[t * row], p.heads * n));
            EXPECT_TRUE(same_floats(mean.data(), want_mean.data(), p.tokens * mean_row));
            keel::cuda::AttentionArgs attend = {};
            attend.qkv = append.qkv;
            attend.out = {out.data(), out_row};
            attend.state = append.state;
            attend.mean = append.mean;
            attend.shape = want.shape;
            attend.means = want.means;
            attend.places = want.at;
            attend.step = want.step;
            attend.scale = 0.125f;
            attend.softcap = p.softcap;
            attend.window = p.window;
            attend.tokens = p.tokens;
            attend.query_blocks = static_cast<uint32_t>(want.query_block.size() / 2);
            attend.splits = (p.positions + kSplitPositions - 1) / kSplitPositions;
            attend.partial_slots = partial_slots(p.positions, p.sinks, p.recent);
            tile_attention(&attend, std::min(p.tokens, kBlockTokens), p.tail_first != kNone, 1, 1);
            attend.block_end = attention_blocks(attend);
            const KernelId kernel = attention_kernel(attend);
            launch(kernel, attend, attention_shape(attend), order);
            EXPECT_TRUE(same_floats(out.data(), want_out.data(), out.size()));
            EXPECT_TRUE(same_floats(state.data(), want_state.data(), state.size()));
            AttentionFinishArgs finish = {};
            finish.out = attend.out;
            finish.state = attend.state;
            finish.shape = attend.shape;
            finish.tokens = p.tokens;
            launch(kernel_attention_finish, finish, launch_shape(finish), order);
            const std::vector<float> finished = out;
            // The same by splits that are merged afterwards.
            std::vector<float> partial(uint64_t{p.tokens} * p.heads * attend.partial_slots * (n + kPartialState), 7.0f);
            std::fill(out.begin(), out.end(), 0.0f);
            attend.partial = partial.data();
            // In two launches.
            const uint32_t blocks = attention_blocks(attend), half = blocks / 2;
            for (const auto& [begin, end] : {std::pair{half, blocks}, std::pair{0u, half}}) {
                attend.block_begin = begin;
                attend.block_end = end;
                if (begin < end) launch(kernel, attend, attention_shape(attend), order);
            }
            finish.partial = partial.data();
            finish.partial_slots = attend.partial_slots;
            finish.window = p.window;
            finish.sink_tokens = p.sinks;
            finish.recent_tokens = p.recent;
            finish.position = want.position.data();
            launch(kernel_attention_finish, finish, launch_shape(finish), order);
            EXPECT_TRUE(same_floats(out.data(), finished.data(), out.size()));
            // By tokens, with the append; in one launch, and in three, the first of which has but one row of it.
            if (!attends_tokens(p.k, p.v, n) || p.second < p.tokens) continue;  // no session writes another one's pages
            static_cast<KvAppendArgs&>(attend) = append;
            std::vector<uint32_t> counts(attention_counts(p.kv_heads));
            attend.counts = counts.data();
            fit_tokens(&attend, p.tokens, p.positions);
            const uint32_t all = attend.block_end;
            for (const std::vector<uint32_t>& ends : {std::vector{all}, std::vector{1u, all / 2, all}}) {
                if (simt::checks_races() && ends.size() > 1) break;  // it knows nothing of launches before
                want.memory = before;
                got_qkv = qkv;
                std::fill(counts.begin(), counts.end(), 0);
                std::fill(out.begin(), out.end(), 0.0f);
                std::fill(partial.begin(), partial.end(), 7.0f);
                attend.block_begin = 0;
                for (const uint32_t end : ends) {
                    attend.block_end = end;
                    if (attend.block_begin == end) continue;
                    launch(kernel_attend_token, attend, token_shape(attend), order, ends.size() == 1 && p.together);
                    attend.block_begin = end;
                }
                EXPECT_EQ(counts[0], 0u);
                EXPECT_EQ(want.memory, after_append);
                EXPECT_EQ(got_qkv, qkv) << "every block makes its queries";
                launch(kernel_attention_finish, finish, launch_shape(finish), order);
                EXPECT_TRUE(same_floats(out.data(), finished.data(), out.size()));
            }
        }
    }
}

TEST(SimtAttention, ExpOfWhatIsNotAboveZeroHasTheSameBits) {
    if (simt::checks_races()) return;
    for (uint32_t bits = 0x80000000u; bits <= f32_bits(-100.0f); bits += bits % 4096 + 1) {
        const float x = f32_from_bits(bits);
        ASSERT_EQ(f32_bits(exp_below_f32(x)), f32_bits(exp_f32(x))) << x;
        ASSERT_EQ(f32_bits(exp_below_or_nan_f32(x)), f32_bits(exp_f32(x))) << x;
    }
    for (const float x : {0.0f, kExpMin32, std::nextafter(kExpMin32, -100.0f), -1e30f, -kInf32}) {
        EXPECT_EQ(f32_bits(exp_below_f32(x)), f32_bits(exp_f32(x))) << x;
        EXPECT_EQ(f32_bits(exp_below_or_nan_f32(x)), f32_bits(exp_f32(x))) << x;
    }
    EXPECT_EQ(exp_below_f32(__builtin_nanf("")), 0.0f);
    EXPECT_TRUE(std::isnan(exp_below_or_nan_f32(__builtin_nanf(""))));
}

// Rows that are zero, tiny, large, infinite or no numbers are coded as the CPU codes them.
TEST(SimtAttention, EdgeRowsHaveTheCpusCodes) {
    Random random(9);
    for (uint32_t f = 0; f < kKvFormatCount; ++f) {
        const KvFormat format = static_cast<KvFormat>(f);
        if (simt::checks_races()) break;  // values only
        for (uint32_t edge = 0; edge < 8; ++edge) {
            const Problem p = {format, format, 64, 1, 1, 1, 1};
            Session s(p, random);
            s.shape.rope_pairs = 0;
            std::vector<float> qkv = random.normals(3 * 64), state(2);
            float* k = &qkv[64];
            for (uint32_t i = 0; i < 128; ++i)
                k[i] = edge == 0   ? 0.0f
                       : edge == 1 ? k[i] * 0x1p-100f
                       : edge == 2 ? k[i] * 1e30f
                       : edge == 3 ? -0.0f
                       : edge == 4 ? 1.0f
                                   : k[i];
            if (edge >= 5) k[70] = k[5] = edge == 5 ? kInf32 : edge == 6 ? __builtin_nanf("") : -kInf32;
            std::vector<float> reference = qkv;
            append_reference(s, 0, nullptr, reference.data(), state.data(), nullptr);
            const std::vector<uint8_t> want = s.memory;
            std::fill(s.memory.begin(), s.memory.end(), uint8_t{0});
            KvAppendArgs a = {};
            a.qkv = {qkv.data(), 192};
            a.state = {state.data(), 2};
            a.shape = s.shape;
            a.places = s.at;
            a.step = s.step;
            a.tokens = 1;
            launch(kernel_kv_append, a, launch_shape(a), simt::Order::kForward);
            EXPECT_EQ(s.memory, want) << kKvFormats[f].name << " edge " << edge;
        }
    }
}

TEST(SimtAttention, NormsRotationAndFinishEqualScalar) {
    Random random(4);
    for (simt::Order order : orders())
        for (const uint32_t n : {64u, 80u, 128u})
            for (const bool neox : {false, true}) {
                const uint32_t heads = 2, kv_heads = 1, tokens = 2, row = 4 * n, pairs = n / 2 - 4;
                Heads shape = {heads, kv_heads, n, pairs, neox};
                const std::vector<float> q_norm = random.normals(n), k_norm = random.normals(n),
                                         cos_sin = random.normals(tokens * 2 * pairs), mean = random.normals(n);
                const std::vector<uint32_t> listed = {0, 3};
                const std::vector<float> qkv = random.normals(tokens * row);
                std::vector<float> want = qkv, got = qkv;
                for (uint32_t t = 0; t < tokens; ++t)
                    for (uint32_t h = 0; h < heads + kv_heads; ++h) {
                        float* x = &want[t * row + h * n];
                        kScalarSet.rms_norm(x, (h < heads ? q_norm : k_norm).data(), n, 1e-6f, x);
                        rope_reference(x, shape, &cos_sin[t * 2 * pairs], h < heads ? nullptr : mean.data(), listed);
                    }
                // k is coded, in f32; q stands where it was.
                Session s({kKvF32, kKvF32, n, heads, kv_heads, tokens, tokens}, random);
                const std::vector<uint8_t> before = s.memory;
                for (uint32_t t = 0; t < tokens; ++t) {
                    const float *k = &want[t * row + heads * n], *v = k + n;
                    store(s.layer.k_head(0), k, n, s.problem.mode, s.page(0), t);
                    store(s.layer.v_head(0), v, n, s.problem.mode, s.page(0), t);
                }
                const std::vector<uint8_t> appended = s.memory;
                s.memory = before;
                std::vector<float> state(tokens * 2 * heads), coefficients(tokens * heads * 4);
                KvAppendArgs append = {};
                append.qkv = {got.data(), row};
                append.state = {state.data(), 2 * heads};
                append.mean = {coefficients.data(), heads * 4};
                append.shape = shape;
                append.means.key_mean = mean.data();
                append.means.pairs = 2;
                append.means.pair = listed.data();
                append.places = s.at;
                append.step = s.step;
                append.q_norm = q_norm.data();
                append.k_norm = k_norm.data();
                append.eps = 1e-6f;
                append.cos_sin = {const_cast<float*>(cos_sin.data()), 2 * pairs};
                append.tokens = tokens;
                launch(kernel_kv_append, append, launch_shape(append), order);
                EXPECT_EQ(s.memory, appended);
                for (uint32_t t = 0; t < tokens; ++t)
                    EXPECT_TRUE(same_floats(&got[t * row], &want[t * row], heads * n));

                state.assign(tokens * 2 * heads, 3);
                std::vector<float> out = random.normals(tokens * heads * n), want_out = out;
                for (uint32_t t = 0; t < tokens; ++t)
                    for (uint32_t h = 0; h < heads; ++h) {
                        float* o = &want_out[(t * heads + h) * n];
                        kScalarSet.attention_finish(o, 3, n);
                        kScalarSet.kv_unrotate(o, n);
                        for (uint32_t i = 0; i < n; ++i) o[i] = o[i] + mean[i];
                    }
                AttentionFinishArgs finish = {};
                finish.out = {out.data(), heads * n};
                finish.state = {state.data(), 2 * heads};
                finish.shape = shape;
                finish.value_mean = mean.data();
                finish.rotated = true;
                finish.tokens = tokens;
                launch(kernel_attention_finish, finish, launch_shape(finish), order);
                EXPECT_TRUE(same_floats(out.data(), want_out.data(), out.size()));
            }
}

}  // namespace
}  // namespace keel_test
