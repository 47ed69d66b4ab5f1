#include "sdk/tools/lab/geodesic/draft_measure.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <unordered_map>

#include "sdk/tools/lab/geodesic/random.h"
#include "sdk/tools/lab/geodesic/record_builder.h"
#include "sdk/tools/lab/geodesic/velocity_surrogate.h"

namespace keel::geodesic {
namespace {

double cosine(const float* a, const float* b) {
    double dot = 0, aa = 0, bb = 0;
    for (uint32_t d = 0; d < kStoreDim; ++d)
        dot += double{a[d]} * b[d], aa += double{a[d]} * a[d], bb += double{b[d]} * b[d];
    return aa > 0 && bb > 0 ? dot / std::sqrt(aa * bb) : 0;
}

}  // namespace

DraftMeasure measure_drafts(const RecordStore& store, const TokenTable& table, std::span<const TraceTape> queries,
                            uint64_t seed) {
    const StoreHeader& h = store.header;
    for (const TraceTape& tape : queries)
        if (tape.header.dim * (h.block ? 2 : 1) != h.features || tape.header.fingerprint != h.fingerprint)
            throw std::invalid_argument("queries of another model or of another shape than the store");
    std::unordered_map<int32_t, std::vector<uint32_t>> by_gate;
    for (uint32_t r = 0; r < h.records; ++r) by_gate[store.gate[r]].push_back(r);

    enum { kTable, kPairs, kEuclid, kMetric, kRadius, kChance, kAnyEuclid, kAnyMetric, kVote, kDrafters };
    DraftMeasure out;
    out.drafters.resize(kDrafters);
    const char* const names[kDrafters] = {"two tokens, else one",
                                          "two tokens",
                                          "nearest of the same token, Euclid",
                                          "nearest of the same token, metric",
                                          "the same, within its radius",
                                          "a random one of the same token",
                                          "nearest of any token, Euclid",
                                          "nearest of any token, metric",
                                          "most of the 8 nearest of the same token"};
    for (int d = 0; d < kDrafters; ++d) out.drafters[static_cast<size_t>(d)].name = names[d];
    Random random(seed);
    std::vector<float> features(h.features);
    uint64_t ways = 0;
    for (const TraceTape& tape : queries)
        for (size_t s = 0; s < tape.steps; ++s) {
            if (s == 0 || !tape.goes_on(s - 1)) out.texts.push_back({0, std::vector<uint64_t>(kDrafters), {}});
            if (!tape.goes_on(s) || !tape.goes_on(s + 1)) continue;
            ++out.steps;
            ++out.texts.back().steps;
            const int32_t gate = tape.token(s + 1), truth = tape.token(s + 2);
            const auto draft = [&](int drafter, int32_t token) {
                if (token < 0) return;
                ++out.drafters[static_cast<size_t>(drafter)].drafted;
                out.drafters[static_cast<size_t>(drafter)].right += token == truth;
                out.texts.back().right[static_cast<size_t>(drafter)] += token == truth;
            };
            const auto next = [&](uint32_t record) { return store.next[uint64_t{record} * h.horizon]; };
            const int32_t last[] = {tape.token(s), gate};
            draft(kPairs, table.find(std::end(last), 2).token);
            draft(kTable, table.longest(std::end(last), 2, 2).token);
            float key[kStoreDim];
            trace_features(tape, s, h.block, features.data());
            store_key(store, features.data(), key);
            Continuation voted;
            if (const auto same = by_gate.find(gate); same != by_gate.end()) {
                uint32_t near_metric = 0;
                float least_metric = HUGE_VALF;
                std::vector<std::pair<float, uint32_t>> nearest;  // kVoters of them, ascending
                const float* metric = metric_at(store, key);
                for (const uint32_t r : same->second) {
                    const float* other = store.keys + uint64_t{r} * kStoreDim;
                    float sum = 0;
                    for (uint32_t d = 0; d < kStoreDim; ++d) sum += (key[d] - other[d]) * (key[d] - other[d]);
                    if (nearest.size() < kVoters || sum < nearest.back().first) {
                        if (nearest.size() == kVoters) nearest.pop_back();
                        const std::pair one(sum, r);
                        nearest.insert(std::upper_bound(nearest.begin(), nearest.end(), one), one);
                    }
                    const float distance = metric_distance(metric, key, other);
                    if (distance < least_metric) least_metric = distance, near_metric = r;
                }
                draft(kEuclid, next(nearest[0].second));
                for (const auto& [distance, record] : nearest) {
                    const auto agrees = [&](const auto& other) { return next(other.second) == next(record); };
                    const auto votes = static_cast<uint32_t>(std::count_if(nearest.begin(), nearest.end(), agrees));
                    if (votes > voted.count) voted = {next(record), votes, kVoters};
                }
                draft(kVote, voted.token);
                draft(kMetric, next(near_metric));
                float sum = 0;
                for (uint32_t d = 0; d < kStoreDim; ++d)
                    sum += std::pow(key[d] - store.keys[uint64_t{near_metric} * kStoreDim + d], 2.0f);
                if (std::sqrt(sum) <= store.radius[near_metric]) draft(kRadius, next(near_metric));
                draft(kChance, next(same->second[random.below(same->second.size())]));
            }
            out.texts.back().votes.push_back(voted);
            const LookupOptions euclid{.probes = 16, .candidates = 32, .metric = false};
            LookupOptions metric = euclid;
            metric.metric = true;
            draft(kAnyEuclid, next(static_cast<uint32_t>(find_record(store, key, euclid).record)));
            draft(kAnyMetric, next(static_cast<uint32_t>(find_record(store, key, metric).record)));
            if (!h.waypoints || s == 0 || !tape.goes_on(s - 1)) continue;
            float before[kStoreDim], after[kStoreDim], guess[kStoreDim];
            trace_features(tape, s - 1, h.block, features.data());
            store_key(store, features.data(), before);
            trace_features(tape, s + 1, h.block, features.data());
            store_key(store, features.data(), after);
            for (uint32_t d = 0; d < kStoreDim; ++d) before[d] = key[d] - before[d], after[d] -= key[d];
            record_velocity(store, key, 8, guess);
            out.surrogate_cosine += cosine(guess, after);
            out.persistence_cosine += cosine(before, after);
            ++ways;
        }
    if (ways) out.surrogate_cosine /= static_cast<double>(ways), out.persistence_cosine /= static_cast<double>(ways);
    return out;
}

}  // namespace keel::geodesic
