// What attention is made of in every set: the ranges a query row sees, where the rows of a tile lie, and how the state
// of one KV split joins the running one (NUMERICS section 5). In unnamed namespaces: a file of one instruction set owns
// its copies.
#pragma once
#include <string.h>

#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {
namespace {

// Positions [lo, hi) that a query row sees, counted from the first one of a KV split or tile; empty when lo >= hi.
struct VisibleRange {
    uint32_t lo, hi;
};
inline VisibleRange visible_in(const AttentionArgs& a, uint32_t row, uint32_t first, uint32_t count) {
    const uint32_t begin = a.begin[row], end = a.end[row];
    return {begin > first ? begin - first : 0, end <= first ? 0 : end - first < count ? end - first : count};
}
inline VisibleRange visible_in_tile(const AttentionArgs& a, uint32_t row, uint32_t first) {
    return visible_in(a, row, first, kAttentionTile);
}
inline VisibleRange visible_in_split(const AttentionArgs& a, uint32_t row) {
    return visible_in(a, row, a.split * kKvSplitTokens, kKvSplitTokens);
}

// Whether the tile that begins at `first` has positions of the tail.
inline bool reaches_tail(const AttentionArgs& a, uint32_t first) {
    return a.tail_first < first + kAttentionTile;
}
// Only whole pages are evicted, and none of the tail.
inline bool is_evicted(const AttentionArgs& a, uint32_t first) {
    return first < a.tail_first && !a.pages[first / a.page_tokens];
}
// One past the query rows from `row` on that read the tile from the same slots: all of them in front of the tail, else
// those that share a list.
inline uint32_t same_slots_end(const AttentionArgs& a, uint32_t row, uint32_t first) {
    if (!reaches_tail(a, first)) return a.rows;
    uint32_t end = row + 1;
    while (end < a.rows && a.row_of[end] == a.row_of[row]) ++end;
    return end;
}

// Where one plane's rows of a tile lie; row j is that of position first + j. Rows in front of the tail follow one
// another in a page, those of the tail lie in any slots.
struct TileSource {
    const AttentionArgs& args;
    const KvPlane& plane;
    uint32_t first, row;                        // position; a query row of the call that reads the tile
    uint32_t plain = kAttentionTile;            // rows in front of the tail
    const uint8_t *plain_codes, *plain_scales;  // row 0
    const uint32_t* slots = nullptr;            // of the rows from `plain` on

    // The tile was not evicted.
    TileSource(const AttentionArgs& a, const KvPlane& plane, uint32_t first, uint32_t row)
        : args(a), plane(plane), first(first), row(row), plain_codes(nullptr), plain_scales(nullptr) {
        if (reaches_tail(a, first)) {
            plain = a.tail_first > first ? a.tail_first - first : 0;
            slots = a.row_of[row] + (first + plain - a.tail_first);
            if (plain == 0) return;
        }
        const uint8_t* page = a.pages[first / a.page_tokens];
        const uint64_t in_page = first % a.page_tokens;
        plain_codes = page + plane.codes + in_page * plane.code_bytes;
        plain_scales = page + plane.scales + in_page * plane.scale_bytes;
    }
    const uint8_t* codes(uint32_t j) const {
        return j < plain ? plain_codes + uint64_t{j} * plane.code_bytes : in_slot(j, plane.codes, plane.code_bytes);
    }
    const uint8_t* scales(uint32_t j) const {
        return j < plain ? plain_scales + uint64_t{j} * plane.scale_bytes : in_slot(j, plane.scales, plane.scale_bytes);
    }

  private:
    const uint8_t* in_slot(uint32_t j, uint64_t offset, uint32_t row_bytes) const {
        const uint32_t slot = slots[j - plain];
        return args.pages[slot / args.page_tokens] + offset + uint64_t{slot % args.page_tokens} * row_bytes;
    }
};

// Calls body.operator()<F>() for the integer format whose rows are those of `format`: rotated ones are coded like the
// others.
template <class Body>
inline __attribute__((always_inline)) void for_integer_format(KvFormat format, Body&& body) {
    switch (format) {
#define KEEL_CASE(id, ...)                                                                                  \
    case kKv##id:                                                                                           \
        if constexpr (kKvFormats[kKv##id].integer) return body.template operator()<kv_coded_as(kKv##id)>(); \
        break;
        KEEL_KV_FORMATS(KEEL_CASE)
#undef KEEL_CASE
        default:
            return;
    }
}

// Weights of integer values are whole multiples of 1 / kWeightSteps of the largest.
constexpr float kWeightSteps = 32767.0f;

// Merges the (m, l, o) that query row `row` has of the split into its running state. combine(to, by, from, from_by):
// to[d] = fma(to[d], by, from[d] * from_by) for d < head_dim.
template <class Combine>
inline __attribute__((always_inline)) void merge_split(const AttentionArgs& a, uint32_t row, float m, float l,
                                                       const float* o, Combine&& combine) {
    if (a.m[row] == -kInf32) {
        memcpy(a.o[row], o, a.head_dim * sizeof(float));
        a.m[row] = m;
        a.l[row] = l;
        return;
    }
    const float merged = m > a.m[row] || m != m ? m : a.m[row];
    const float by = exp_f32(a.m[row] - merged), from_by = exp_f32(m - merged);
    a.l[row] = fma_f32(a.l[row], by, l * from_by);
    combine(a.o[row], by, o, from_by);
    a.m[row] = merged;
}

}  // namespace
}  // namespace keel::kernels
