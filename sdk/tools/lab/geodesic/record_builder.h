// Record stores out of trace tapes.
#pragma once
#include <stdint.h>

#include <span>
#include <vector>

#include "sdk/tools/lab/geodesic/record_store.h"
#include "sdk/tools/lab/geodesic/trace_tape.h"

namespace keel::geodesic {

struct StoreOptions {
    uint32_t block = 0;      // StoreHeader::block: block summaries as features
    uint32_t horizon = 4;    // tokens kept behind the gate
    uint32_t waypoints = 0;  // StoreHeader::waypoints
    uint32_t anchors = 64;   // metrics of the second stage: each the inverse covariance of the 4 dim keys nearest to
                             // one of so many centres, smoothed over the centres as a MetricField
    uint32_t lists = 0;      // 0: about 2 sqrt(records)
    uint64_t seed = 1;
};

// The file of a store over all steps of the tapes that two tokens follow; `used` (may be null) gets, of each record in
// the file's order, its tape and step. std::invalid_argument: tapes of different models, widths or tokenizers; fewer
// than 64 such steps.
struct TraceStep {
    uint32_t tape = 0, step = 0;
};
std::vector<unsigned char> build_store(std::span<const TraceTape> tapes, const StoreOptions& options,
                                       std::vector<TraceStep>* used = nullptr);

// Features of a step: its state, and with a block the mean of the last so many states of its text, its own included.
// out: [dim] or [2 dim]
void trace_features(const TraceTape& tape, size_t step, uint32_t block, float* out);

// Inverted lists of keys [count][kStoreDim]: k-means of a sample, and then every key in the list of its nearest centre.
struct KeyIndex {
    uint32_t lists = 0;
    std::vector<float> centroids;      // [kStoreDim][lists]
    std::vector<uint32_t> list_begin;  // [lists + 1]
    std::vector<uint32_t> order;       // of the keys, list after list
    std::vector<int8_t> codes;         // [count][kStoreDim], in that order
    float code_scale = 0;
};
KeyIndex index_keys(std::span<const float> keys, uint32_t lists, uint64_t seed);
uint32_t default_lists(size_t records);

// Metrics at centres of the keys, as StoreOptions::anchors says. centres: [kStoreDim][anchors], metrics:
// [anchors][kStoreDim][kStoreDim]
void anchor_metrics(std::span<const float> keys, uint32_t anchors, uint64_t seed, std::vector<float>* centres,
                    std::vector<float>* metrics);

// The radius within which neighbours go on alike: neighbours by ascending distance, the largest distance up to which at
// least 60 % of them have the record's next token; 0 where the nearest has another.
float agreement_radius(std::span<const float> distances, std::span<const uint8_t> agrees);

}  // namespace keel::geodesic
