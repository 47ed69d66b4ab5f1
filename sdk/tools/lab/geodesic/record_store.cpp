#include "sdk/tools/lab/geodesic/record_store.h"

#include <string.h>

#include <algorithm>
#include <cmath>

#include "sdk/core/hash.h"

namespace keel::geodesic {
namespace {

constexpr uint32_t kMaxRecords = 1 << 24, kMaxFeatures = 1 << 15, kMaxHorizon = 16, kMaxBlock = 64;
constexpr size_t kAlign = 64, kSections = 12;

struct Layout {
    uint64_t begin[kSections + 1];  // of each section; the last one: of the checksum
};

// False where a shape is out of bounds; within them nothing overflows.
bool lay_out(const StoreHeader& h, Layout* out) {
    if (h.dim != kStoreDim || h.records > kMaxRecords || !h.lists || h.lists > kStoreMaxLists ||
        h.anchors > kStoreMaxAnchors || !h.features || h.features > kMaxFeatures || h.block > kMaxBlock ||
        (h.block && h.features % 2) || !h.horizon || h.horizon > kMaxHorizon || h.waypoints > kMaxHorizon)
        return false;
    const uint64_t n = h.records, dim = h.dim;
    const uint64_t bytes[kSections] = {4 * uint64_t{h.features},
                                       4 * h.features * dim,
                                       4 * h.lists * dim,
                                       4 * (uint64_t{h.lists} + 1),
                                       n * dim,
                                       4 * n * dim,
                                       4 * n,
                                       4 * n * h.horizon,
                                       4 * n,
                                       4 * h.anchors * dim,
                                       4 * h.anchors * dim * dim,
                                       2 * n * h.waypoints * dim};
    uint64_t at = sizeof(StoreHeader);
    for (size_t s = 0; s < kSections; ++s) {
        out->begin[s] = at = (at + kAlign - 1) / kAlign * kAlign;
        at += bytes[s];
    }
    out->begin[kSections] = (at + 7) / 8 * 8;
    return true;
}

bool all_finite(const float* x, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i)
        if (!std::isfinite(x[i])) return false;
    return true;
}
bool all_finite(const uint16_t* x, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i)
        if ((x[i] & 0x7c00) == 0x7c00) return false;
    return true;
}

// Squared distances of `key` to columns [dim][count].
[[gnu::always_inline]] inline void column_distances(const float* key, const float* columns, uint32_t count,
                                                    float* out) {
    for (uint32_t i = 0; i < count; ++i) out[i] = 0;
    for (uint32_t d = 0; d < kStoreDim; ++d)
        for (uint32_t i = 0; i < count; ++i) {
            const float x = key[d] - columns[uint64_t{d} * count + i];
            out[i] += x * x;
        }
}

// The smallest `most` of what it is offered, sorted; of equals the earlier.
template <class T, size_t kMost>
struct Smallest {
    T value[kMost];
    uint32_t index[kMost];
    uint32_t count = 0, most;
    [[gnu::always_inline]] explicit Smallest(uint32_t m) : most(std::min<uint32_t>(m, kMost)) {}
    [[gnu::always_inline]] void offer(T v, uint32_t i) {
        if (count == most && (!most || v >= value[count - 1])) return;
        uint32_t at = count < most ? count++ : count - 1;
        for (; at > 0 && value[at - 1] > v; --at) value[at] = value[at - 1], index[at] = index[at - 1];
        value[at] = v;
        index[at] = i;
    }
};
using Candidates = Smallest<int32_t, kStoreMaxCandidates>;

[[gnu::always_inline]] inline void first_stage(const RecordStore& store, const float* key, uint32_t probes,
                                               Candidates& found) {
    int8_t code[kStoreDim];
    for (uint32_t d = 0; d < kStoreDim; ++d)
        code[d] = static_cast<int8_t>(std::clamp(std::rint(key[d] / store.header.code_scale), -127.0f, 127.0f));
    float distance[kStoreMaxLists];
    column_distances(key, store.centroids, store.header.lists, distance);
    Smallest<float, kStoreMaxProbes> lists(probes);
    for (uint32_t l = 0; l < store.header.lists; ++l) lists.offer(distance[l], l);
    for (uint32_t p = 0; p < lists.count; ++p) {
        const uint32_t list = lists.index[p];
        for (uint32_t r = store.list_begin[list]; r < store.list_begin[list + 1]; ++r) {
            const int8_t* other = store.codes + uint64_t{r} * kStoreDim;
            int32_t sum = 0;
            for (uint32_t d = 0; d < kStoreDim; ++d) {
                const int16_t x = static_cast<int16_t>(code[d] - other[d]);
                sum += x * x;
            }
            found.offer(sum, r);
        }
    }
}

[[gnu::always_inline]] inline float euclid(const float* a, const float* b) {
    float sum = 0;
    for (uint32_t d = 0; d < kStoreDim; ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
    return std::sqrt(sum);
}

[[gnu::always_inline]] inline uint32_t nearest_anchor(const RecordStore& store, const float* key) {
    float distance[kStoreMaxAnchors];
    column_distances(key, store.anchors, store.header.anchors, distance);
    return static_cast<uint32_t>(std::min_element(distance, distance + store.header.anchors) - distance);
}

[[gnu::always_inline]] inline float by_metric(const float* g, const float* a, const float* b) {
    float d[kStoreDim], y[kStoreDim] = {}, sum = 0;
    for (uint32_t i = 0; i < kStoreDim; ++i) d[i] = a[i] - b[i];
    for (uint32_t j = 0; j < kStoreDim; ++j)  // g is symmetric: by rows it adds to all of y at once
        for (uint32_t i = 0; i < kStoreDim; ++i) y[i] += g[j * kStoreDim + i] * d[j];
    for (uint32_t i = 0; i < kStoreDim; ++i) sum += y[i] * d[i];
    return std::sqrt(std::max(sum, 0.0f));
}

// As metric_at and metric_distance say.
[[gnu::always_inline]] inline const float* nearest_metric(const RecordStore& store, const float* key) {
    if (!store.header.anchors) return nullptr;
    return store.metrics + uint64_t{nearest_anchor(store, key)} * kStoreDim * kStoreDim;
}
[[gnu::always_inline]] inline float distance_by(const float* metric, const float* key, const float* other) {
    return metric ? by_metric(metric, key, other) : euclid(key, other);
}

[[gnu::always_inline]] inline Found find_one(const RecordStore& store, const float* key, const LookupOptions& options) {
    Candidates candidates(options.candidates);
    first_stage(store, key, options.probes, candidates);
    const float* metric = options.metric ? nearest_metric(store, key) : nullptr;
    Found best;
    for (uint32_t c = 0; c < candidates.count; ++c) {
        const float* other = store.keys + uint64_t{candidates.index[c]} * kStoreDim;
        const float distance = distance_by(metric, key, other);
        if (best.record < 0 || distance < best.distance) best = {static_cast<int32_t>(candidates.index[c]), distance};
    }
    return best;
}

[[gnu::always_inline]] inline size_t find_some(const RecordStore& store, const float* key, uint32_t probes,
                                               std::span<Found> out) {
    Candidates candidates(kStoreMaxCandidates);
    first_stage(store, key, probes, candidates);
    Smallest<float, kStoreMaxCandidates> nearest(
        static_cast<uint32_t>(std::min<size_t>(out.size(), kStoreMaxCandidates)));
    for (uint32_t c = 0; c < candidates.count; ++c)
        nearest.offer(euclid(key, store.keys + uint64_t{candidates.index[c]} * kStoreDim), candidates.index[c]);
    for (uint32_t i = 0; i < nearest.count; ++i) out[i] = {static_cast<int32_t>(nearest.index[i]), nearest.value[i]};
    return nearest.count;
}

// The same code for machines with wider registers. Equal results: 8-bit distances are exact, and sums of floats add in
// the order in which they are written.
#ifdef __x86_64__
[[gnu::target("avx2")]] Found find_one_avx2(const RecordStore& store, const float* key, const LookupOptions& options) {
    return find_one(store, key, options);
}
[[gnu::target("avx2")]] size_t find_some_avx2(const RecordStore& store, const float* key, uint32_t probes,
                                              std::span<Found> out) {
    return find_some(store, key, probes, out);
}
#endif

}  // namespace

uint64_t store_bytes(const StoreHeader& header) {
    Layout layout;
    return lay_out(header, &layout) ? layout.begin[kSections] + 8 : 0;
}

const char* read_store(std::span<const unsigned char> file, const StoreOwner& owner, RecordStore* out) {
    if (file.size() < sizeof(StoreHeader)) return "shorter than a header";
    if (reinterpret_cast<uintptr_t>(file.data()) % 8) return "not at a multiple of 8";
    memcpy(&out->header, file.data(), sizeof out->header);
    const StoreHeader& h = out->header;
    if (h.magic != kStoreMagic) return "no record store";
    if (h.version != kStoreVersion) return "another version";
    Layout layout;
    if (!lay_out(h, &layout)) return "shapes";
    if (h.total_bytes != file.size() || file.size() != layout.begin[kSections] + 8) return "another size than its own";
    uint64_t sum;
    memcpy(&sum, file.data() + file.size() - 8, 8);
    if (sum != hash64(file.data(), file.size() - 8)) return "checksum";
    if (h.fingerprint != owner.fingerprint) return "of another model";
    if (h.tokenizer_hash != owner.tokenizer_hash) return "of another tokenizer";

    const auto at = [&]<class T>(const T*& pointer, size_t section) {
        pointer = reinterpret_cast<const T*>(file.data() + layout.begin[section]);
    };
    at(out->mean, 0), at(out->projection, 1), at(out->centroids, 2), at(out->list_begin, 3), at(out->codes, 4);
    at(out->keys, 5), at(out->gate, 6), at(out->next, 7), at(out->radius, 8), at(out->anchors, 9);
    at(out->metrics, 10), at(out->waypoints, 11);
    const uint64_t n = h.records, dim = h.dim;
    if (!(h.code_scale > 0) || !all_finite(&h.code_scale, 1) || !all_finite(out->mean, h.features) ||
        !all_finite(out->projection, h.features * dim) || !all_finite(out->centroids, h.lists * dim) ||
        !all_finite(out->keys, n * dim) || !all_finite(out->radius, n) || !all_finite(out->anchors, h.anchors * dim) ||
        !all_finite(out->metrics, h.anchors * dim * dim) || !all_finite(out->waypoints, n * h.waypoints * dim))
        return "a number that is not finite";
    if (out->list_begin[0] != 0 || out->list_begin[h.lists] != h.records) return "lists";
    for (uint32_t l = 0; l < h.lists; ++l)
        if (out->list_begin[l] > out->list_begin[l + 1]) return "lists";
    const auto known = [&](int32_t token) { return token >= 0 && static_cast<uint32_t>(token) < owner.vocabulary; };
    for (uint64_t r = 0; r < n; ++r)
        if (!known(out->gate[r]) || !(out->radius[r] >= 0)) return "a token or a radius";
    for (uint64_t i = 0; i < n * h.horizon; ++i)
        if (out->next[i] != -1 && !known(out->next[i])) return "a token";
    return nullptr;
}

void write_store(const RecordStore& view, std::vector<unsigned char>* out) {
    StoreHeader h = view.header;
    Layout layout;
    lay_out(h, &layout);
    h.total_bytes = store_bytes(h);
    out->assign(h.total_bytes, 0);
    memcpy(out->data(), &h, sizeof h);
    const uint64_t n = h.records, dim = h.dim;
    const auto put = [&](size_t section, const auto* from, uint64_t count) {
        if (count) memcpy(out->data() + layout.begin[section], from, count * sizeof *from);
    };
    put(0, view.mean, h.features), put(1, view.projection, h.features * dim), put(2, view.centroids, h.lists * dim);
    put(3, view.list_begin, uint64_t{h.lists} + 1), put(4, view.codes, n * dim), put(5, view.keys, n * dim);
    put(6, view.gate, n), put(7, view.next, n * h.horizon), put(8, view.radius, n);
    put(9, view.anchors, h.anchors * dim), put(10, view.metrics, h.anchors * dim * dim);
    put(11, view.waypoints, n * h.waypoints * dim);
    const uint64_t sum = hash64(out->data(), out->size() - 8);
    memcpy(out->data() + out->size() - 8, &sum, 8);
}

void store_key(const RecordStore& store, const float* features, float* key) {
    for (uint32_t d = 0; d < kStoreDim; ++d) key[d] = 0;
    for (uint32_t f = 0; f < store.header.features; ++f) {
        const float x = features[f] - store.mean[f];
        for (uint32_t d = 0; d < kStoreDim; ++d) key[d] += x * store.projection[uint64_t{f} * kStoreDim + d];
    }
}

const float* metric_at(const RecordStore& store, const float* key) {
    return nearest_metric(store, key);
}
float metric_distance(const float* metric, const float* key, const float* other) {
    return distance_by(metric, key, other);
}

Found find_record(const RecordStore& store, const float* key, const LookupOptions& options) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return find_one_avx2(store, key, options);
#endif
    return find_one(store, key, options);
}

size_t find_nearest(const RecordStore& store, const float* key, uint32_t probes, std::span<Found> out) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return find_some_avx2(store, key, probes, out);
#endif
    return find_some(store, key, probes, out);
}

}  // namespace keel::geodesic
