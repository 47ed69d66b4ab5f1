// Records of states and what followed them, in a file that can be searched: "where was the model in a state like this
// one, and what did it write next?"
//
// A record is a step t of a trace: its key (the state, centred, projected on principal components and scaled to unit
// variance), the token drawn from it ("gate"), the tokens after that, the radius within which these could be trusted,
// and where asked for the way the keys went on (waypoints).
//
// A lookup has two stages. First 8-bit keys in the inverted lists of the centroids nearest to the query, by Euclid;
// then the best of these again, by the metric of the anchor nearest to the query, on the keys as they are.
//
//     StoreHeader, then these sections, each at a multiple of 64 bytes, little-endian, then u64 hash64 of all before:
//     f32 mean[features] | f32 projection[features][dim] | f32 centroids[dim][lists] | u32 list_begin[lists + 1]
//     i8 codes[records][dim] | f32 keys[records][dim] | i32 gate[records] | i32 next[records][horizon]
//     f32 radius[records] | f32 anchors[dim][anchors] | f32 metrics[anchors][dim][dim]
//     f16 waypoints[records][waypoints][dim]
// Records lie in the order of their lists.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::geodesic {

constexpr uint64_t kStoreMagic = 0x534345524c45454b;  // "KEELRECS"
constexpr uint32_t kStoreVersion = 2;
constexpr uint32_t kStoreDim = 32;  // of keys
constexpr uint32_t kStoreMaxLists = 4096, kStoreMaxAnchors = 1024, kStoreMaxCandidates = 64, kStoreMaxProbes = 256;

struct StoreHeader {
    uint64_t magic = kStoreMagic;
    uint32_t version = kStoreVersion;
    uint32_t dim = kStoreDim;
    uint64_t fingerprint = 0;     // of the model
    uint64_t tokenizer_hash = 0;  // of its tokens
    uint64_t total_bytes = 0;     // of the file, checksum included
    uint32_t records = 0, lists = 0, anchors = 0;
    uint32_t features = 0;   // numbers that a key is made of: a tape's state, and behind it a block's mean (`block`)
    uint32_t block = 0;      // states before the step whose mean is the second half of the features; 0: no second half
    uint32_t horizon = 0;    // tokens after the gate
    uint32_t waypoints = 0;  // keys of the states after the record's; those behind the end of its text: the last one's
    float code_scale = 0;    // key = code * code_scale
};

// A view of a file's bytes, which must outlive it and begin at a multiple of 8.
struct RecordStore {
    StoreHeader header;
    const float *mean = nullptr, *projection = nullptr, *centroids = nullptr;
    const uint32_t* list_begin = nullptr;
    const int8_t* codes = nullptr;
    const float* keys = nullptr;
    const int32_t *gate = nullptr, *next = nullptr;
    const float *radius = nullptr, *anchors = nullptr, *metrics = nullptr;
    const uint16_t* waypoints = nullptr;
};

// What a store has to belong to.
struct StoreOwner {
    uint64_t fingerprint = 0, tokenizer_hash = 0;
    uint32_t vocabulary = 0;
};

// Null, or why the bytes are not used: another magic or version, shapes out of bounds, a size that is not that of the
// shapes, the checksum, another model or tokenizer, lists that do not cover the records in order, tokens outside of the
// vocabulary (-1 in `next`: the text ended), numbers that are not finite.
const char* read_store(std::span<const unsigned char> file, const StoreOwner& owner, RecordStore* out);

// Bytes of the file of a header (total_bytes not looked at); 0 where a shape is out of bounds.
uint64_t store_bytes(const StoreHeader& header);
// Writes header, sections and checksum. `view` points to the parts; `out` gets store_bytes.
void write_store(const RecordStore& view, std::vector<unsigned char>* out);

// Features (header.features) to a key [dim].
void store_key(const RecordStore& store, const float* features, float* key);

struct LookupOptions {
    uint32_t probes = 12;     // lists looked into, at most kStoreMaxProbes
    uint32_t candidates = 8;  // kept for the second stage, at most kStoreMaxCandidates
    bool metric = true;       // second stage by the metric; false: by Euclid
};
struct Found {
    int32_t record = -1;  // -1: an empty store
    float distance = 0;   // by the second stage's measure
};
// No heap, no locks: any number of threads at once.
Found find_record(const RecordStore& store, const float* key, const LookupOptions& options);
// Up to out.size() records nearest by Euclid, of the kStoreMaxCandidates that the first stage keeps, nearest first: how
// many.
size_t find_nearest(const RecordStore& store, const float* key, uint32_t probes, std::span<Found> out);

// The metric [dim][dim] of the anchor nearest to `key`; null where there is no anchor.
const float* metric_at(const RecordStore& store, const float* key);
// Distance by a metric; Euclid's by null.
float metric_distance(const float* metric, const float* key, const float* other);

}  // namespace keel::geodesic
