// keel_records_bench [TAPE [COUNT]]: what a lookup in a record store takes and how often it finds the nearest record,
// for 10^4 and 10^6 (COUNT) records. CPU time of one thread, medians of 7 rounds. Keys are those of a trace tape, every
// tenth text kept for queries; where it has too few states, further records are its keys moved by half the distance
// between neighbours. Without a tape they are made up: 2,000 centres of chance, records around them.
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "sdk/tools/common/statistics.h"
#include "sdk/tools/lab/geodesic/random.h"
#include "sdk/tools/lab/geodesic/record_builder.h"

namespace {

using namespace keel::geodesic;

constexpr size_t kQueries = 2000;
constexpr int kRounds = 7;

struct Keys {
    std::vector<float> records, queries;
};

void add(std::vector<float>& to, const float* key) {
    to.insert(to.end(), key, key + kStoreDim);
}

Keys of_tape(const char* path) {
    std::ifstream in(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    TraceTape tape;
    const char* why = read_trace({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()}, &tape);
    if (why) throw std::runtime_error(std::string(path) + ": " + why);
    std::vector<TraceStep> used;
    StoreOptions options;
    options.anchors = 0;
    const std::vector<unsigned char> file = build_store(std::span(&tape, 1), options, &used);
    RecordStore store;
    why = read_store(file, {tape.header.fingerprint, tape.header.tokenizer_hash, INT32_MAX}, &store);
    if (why) throw std::runtime_error(why);
    std::vector<size_t> text(tape.steps, 0);
    for (size_t s = 1; s < tape.steps; ++s) text[s] = text[s - 1] + !tape.goes_on(s - 1);
    Keys out;
    for (size_t r = 0; r < used.size(); ++r)
        add(text[used[r].step] % 10 == 9 ? out.queries : out.records, store.keys + r * kStoreDim);
    return out;
}

Keys made_up() {
    Random random(1);
    std::vector<float> centres(2000 * kStoreDim);
    for (float& x : centres) x = static_cast<float>(0.9 * random.normal());
    Keys out;
    const auto around = [&](std::vector<float>& to) {
        const size_t centre = random.below(2000);
        for (uint32_t d = 0; d < kStoreDim; ++d)
            to.push_back(centres[centre * kStoreDim + d] + static_cast<float>(0.44 * random.normal()));
    };
    for (size_t i = 0; i < 50000; ++i) around(out.records);
    for (size_t i = 0; i < kQueries; ++i) around(out.queries);
    return out;
}

float squared(const float* a, const float* b) {
    float sum = 0;
    for (uint32_t d = 0; d < kStoreDim; ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

// Records of chance of `keys`, or all of them and moved ones.
std::vector<float> of_count(const std::vector<float>& keys, size_t count) {
    Random random(2);
    const size_t given = keys.size() / kStoreDim;
    std::vector<float> out;
    out.reserve(count * kStoreDim);
    const std::vector<size_t> order = random.permutation(given);
    for (size_t i = 0; i < std::min(count, given); ++i) add(out, &keys[order[i] * kStoreDim]);
    std::vector<double> nearest;
    for (size_t i = 0; i < 200; ++i) {
        float least = HUGE_VALF;
        for (size_t j = 0; j < given; ++j)
            if (j != order[i % given])
                least = std::min(least, squared(&keys[order[i % given] * kStoreDim], &keys[j * kStoreDim]));
        nearest.push_back(std::sqrt(least));
    }
    const double each = keel::tools::percentile(nearest, 0.5) / 2 / std::sqrt(double{kStoreDim});
    while (out.size() < count * kStoreDim) {
        const float* key = &keys[random.below(given) * kStoreDim];
        for (uint32_t d = 0; d < kStoreDim; ++d) out.push_back(key[d] + static_cast<float>(each * random.normal()));
    }
    return out;
}

void measure(const Keys& keys, size_t count, std::span<const uint32_t> probe_counts) {
    const std::vector<float> records = of_count(keys.records, count);
    const auto start = std::chrono::steady_clock::now();
    KeyIndex index = index_keys(records, default_lists(count), 3);
    std::vector<float> ordered, anchors, metrics;
    for (const uint32_t i : index.order) add(ordered, &records[size_t{i} * kStoreDim]);
    anchor_metrics(records, 64, 4, &anchors, &metrics);
    const double built = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    RecordStore store;
    store.header.records = static_cast<uint32_t>(count);
    store.header.lists = index.lists;
    store.header.anchors = 64;
    store.header.code_scale = index.code_scale;
    store.centroids = index.centroids.data(), store.list_begin = index.list_begin.data();
    store.codes = index.codes.data(), store.keys = ordered.data();
    store.anchors = anchors.data(), store.metrics = metrics.data();

    const size_t queries = std::min(kQueries, keys.queries.size() / kStoreDim),
                 stride = keys.queries.size() / kStoreDim / queries;
    const auto query = [&](size_t q) { return &keys.queries[q * stride * kStoreDim]; };
    const size_t checked = std::min<size_t>(queries, count > 100000 ? 300 : 1000);
    std::vector<uint32_t> truth(checked);
    for (size_t q = 0; q < checked; ++q) {
        float least = HUGE_VALF;
        for (size_t r = 0; r < count; ++r) {
            const float d = squared(query(q), &ordered[r * kStoreDim]);
            if (d < least) least = d, truth[q] = static_cast<uint32_t>(r);
        }
    }
    printf("%zu records, %u lists, built in %.1f s\n", count, index.lists, built);
    for (const uint32_t probes : probe_counts) {
        const LookupOptions euclid{.probes = probes, .candidates = 8, .metric = false},
            metric{.probes = probes, .candidates = 8};
        size_t right = 0;
        for (size_t q = 0; q < checked; ++q) {
            const Found found = find_record(store, query(q), euclid);
            right += squared(query(q), &ordered[static_cast<size_t>(found.record) * kStoreDim]) ==
                     squared(query(q), &ordered[size_t{truth[q]} * kStoreDim]);
        }
        std::vector<double> rounds[2];
        int64_t sink = 0;
        for (int round = 0; round < kRounds; ++round)
            for (const int by_metric : {0, 1}) {
                timespec a, b;
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
                for (size_t q = 0; q < queries; ++q)
                    sink += find_record(store, query(q), by_metric ? metric : euclid).record;
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
                rounds[by_metric].push_back((static_cast<double>(b.tv_sec - a.tv_sec) * 1e6 +
                                             static_cast<double>(b.tv_nsec - a.tv_nsec) / 1e3) /
                                            static_cast<double>(queries));
            }
        const auto e = keel::tools::spread_of(rounds[0]), m = keel::tools::spread_of(rounds[1]);
        printf(
            "  %3u lists looked into: %6.2f us (%.2f to %.2f), with the metric %6.2f us (%.2f to %.2f), recall@1 "
            "%.3f%s\n",
            probes, e.median, e.lowest, e.highest, m.median, m.lowest, m.highest,
            static_cast<double>(right) / static_cast<double>(checked), sink == -1 ? " " : "");
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const Keys keys = argc > 1 ? of_tape(argv[1]) : made_up();
        printf("%zu keys, %zu queries\n", keys.records.size() / kStoreDim, keys.queries.size() / kStoreDim);
        const uint32_t probes[] = {2, 4, 8, 12, 16, 24};
        measure(keys, 10000, probes);
        measure(keys, argc > 2 ? strtoul(argv[2], nullptr, 10) : 1000000, probes);
    } catch (const std::exception& error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
