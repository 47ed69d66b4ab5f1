// Record stores: built from tapes, found again, and refused where they are foreign, stale, cut short or changed.
#include "sdk/tools/lab/geodesic/record_store.h"

#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <cmath>

#include "kernels/formats/numeric.h"
#include "sdk/core/hash.h"
#include "sdk/tools/lab/geodesic/random.h"
#include "sdk/tools/lab/geodesic/record_builder.h"
#include "tests/test_paths.h"

namespace keel::geodesic {
namespace {

constexpr uint32_t kWidth = 40, kVocabulary = 50;
constexpr StoreOwner kOwner{5, 6, kVocabulary};

// Texts whose states turn step by step: x' = A x + noise, A a rotation in planes, and whose tokens say where x points.
std::vector<unsigned char> made_up_tape(size_t texts, size_t length, uint64_t seed, double noise = 0.05) {
    const TraceHeader header{.dim = kWidth, .layer = 2, .width = kWidth, .fingerprint = 5, .tokenizer_hash = 6};
    std::vector<unsigned char> file(sizeof header);
    memcpy(file.data(), &header, sizeof header);
    Random random(seed);
    for (size_t t = 0; t < texts; ++t) {
        std::vector<float> x(kWidth);
        for (float& e : x) e = static_cast<float>(random.normal());
        for (size_t p = 0; p < length; ++p) {
            for (uint32_t i = 0; i < kWidth; i += 2) {
                const float angle = 0.1f + 0.02f * static_cast<float>(i), c = std::cos(angle), s = std::sin(angle);
                const float a = x[i], b = x[i + 1];
                x[i] = c * a - s * b + static_cast<float>(noise * random.normal());
                x[i + 1] = s * a + c * b + static_cast<float>(noise * random.normal());
            }
            const auto largest = std::max_element(x.begin(), x.end());
            append_trace_step(file, static_cast<int32_t>(p), static_cast<int32_t>(largest - x.begin()), x, 1);
        }
    }
    return file;
}

struct Built {
    std::vector<unsigned char> tape, file;
    TraceTape trace;
    std::vector<TraceStep> used;
    RecordStore store;
};
Built built(const StoreOptions& options, size_t texts = 40, size_t length = 25) {
    Built b;
    b.tape = made_up_tape(texts, length, 1);
    EXPECT_EQ(read_trace(b.tape, &b.trace), nullptr);
    b.file = build_store(std::span(&b.trace, 1), options, &b.used);
    EXPECT_EQ(read_store(b.file, kOwner, &b.store), nullptr);
    return b;
}

TEST(RecordStore, KeepsWhatTheTapeSays) {
    const Built b = built({.horizon = 3});
    ASSERT_EQ(b.store.header.records, 40 * 23u);  // two tokens follow all but the last two steps of a text
    ASSERT_EQ(b.used.size(), b.store.header.records);
    double variance = 0;
    for (uint32_t r = 0; r < b.store.header.records; ++r) {
        const uint32_t step = b.used[r].step;
        EXPECT_EQ(b.store.gate[r], b.trace.token(step + 1));
        EXPECT_EQ(b.store.next[r * 3], b.trace.token(step + 2));
        EXPECT_EQ(b.store.next[r * 3 + 1] == -1, b.trace.position(step) == 22);
        std::vector<float> features(kWidth), key(kStoreDim);
        trace_features(b.trace, step, 0, features.data());
        store_key(b.store, features.data(), key.data());
        for (uint32_t d = 0; d < kStoreDim; ++d) {
            EXPECT_EQ(key[d], b.store.keys[r * kStoreDim + d]);
            variance += key[d] * key[d];
        }
    }
    EXPECT_NEAR(variance / (kStoreDim * b.store.header.records), 1, 0.02);
}

TEST(RecordStore, BlockSummariesAreMeansOfTheText) {
    const Built b = built({.block = 3});
    EXPECT_EQ(b.store.header.features, 2 * kWidth);
    std::vector<float> features(2 * kWidth), a(kWidth), c(kWidth), d(kWidth);
    trace_features(b.trace, 30, 3, features.data());  // position 5 of the second text
    b.trace.state(30, a.data()), b.trace.state(29, c.data()), b.trace.state(28, d.data());
    for (uint32_t i = 0; i < kWidth; ++i) {
        EXPECT_EQ(features[i], a[i]);
        EXPECT_NEAR(features[kWidth + i], (a[i] + c[i] + d[i]) / 3, 1e-6);
    }
    trace_features(b.trace, 25, 3, features.data());  // its first: no other text's states
    b.trace.state(25, a.data());
    for (uint32_t i = 0; i < kWidth; ++i) EXPECT_EQ(features[kWidth + i], a[i]);
}

TEST(RecordStore, FindsTheNearest) {
    const Built b = built({});
    const uint32_t n = b.store.header.records;
    const LookupOptions euclid{.metric = false};
    const std::vector<unsigned char> others = made_up_tape(30, 20, 2);
    TraceTape queries;
    ASSERT_EQ(read_trace(others, &queries), nullptr);
    size_t right = 0, right_by_metric = 0;
    for (size_t s = 0; s < queries.steps; ++s) {
        float features[kWidth], key[kStoreDim];
        trace_features(queries, s, 0, features);
        store_key(b.store, features, key);
        uint32_t best = 0, best_by_metric = 0;
        float least = HUGE_VALF, least_by_metric = HUGE_VALF;
        for (uint32_t r = 0; r < n; ++r) {
            float sum = 0;
            for (uint32_t d = 0; d < kStoreDim; ++d) sum += std::pow(key[d] - b.store.keys[r * kStoreDim + d], 2.0f);
            if (sum < least) least = sum, best = r;
            const float distance = metric_distance(metric_at(b.store, key), key, &b.store.keys[r * kStoreDim]);
            if (distance < least_by_metric) least_by_metric = distance, best_by_metric = r;
        }
        const Found found = find_record(b.store, key, {.probes = 24, .candidates = 16, .metric = false});
        right += found.record == static_cast<int32_t>(best);
        EXPECT_GE(found.distance, std::sqrt(least) - 1e-4f);
        const Found near = find_record(b.store, key, {.probes = 60, .candidates = 64});
        right_by_metric += near.record == static_cast<int32_t>(best_by_metric);
    }
    EXPECT_GE(right, queries.steps * 95 / 100);
    EXPECT_GE(right_by_metric, queries.steps * 85 / 100);
    for (uint32_t r = 0; r < n; ++r) {
        const Found itself = find_record(b.store, &b.store.keys[r * kStoreDim], euclid);
        EXPECT_EQ(itself.distance, 0);
    }
}

TEST(RecordStore, WaypointsAreTheKeysThatFollowed) {
    const Built b = built({.waypoints = 4}, 10);
    for (uint32_t r = 0; r < b.store.header.records; ++r) {
        size_t step = b.used[r].step;
        for (uint32_t w = 0; w < 4; ++w) {
            if (b.trace.goes_on(step)) ++step;
            float features[kWidth], key[kStoreDim];
            trace_features(b.trace, step, 0, features);
            store_key(b.store, features, key);
            for (uint32_t d = 0; d < kStoreDim; ++d)
                ASSERT_EQ(b.store.waypoints[(r * 4 + w) * kStoreDim + d], kernels::f32_to_f16(key[d])) << r << " " << w;
        }
    }
}

TEST(RecordStore, RadiusIsWhereAgreementEnds) {
    const float distances[] = {1, 2, 3, 4, 5};
    const auto radius = [&](std::vector<uint8_t> agrees) { return agreement_radius(distances, agrees); };
    EXPECT_EQ(radius({0, 1, 1, 1, 1}), 0);  // the nearest has another token
    EXPECT_EQ(radius({1, 0, 0, 0, 0}), 1);
    EXPECT_EQ(radius({1, 0, 1, 0, 1}), 5);
    EXPECT_EQ(radius({1, 1, 0, 0, 0}), 3);
}

TEST(RecordStore, RefusesWhatIsForeignStaleCutShortOrChanged) {
    const Built b = built({.waypoints = 2}, 10);
    RecordStore out;
    EXPECT_STREQ(read_store(b.file, {4, 6, kVocabulary}, &out), "of another model");
    EXPECT_STREQ(read_store(b.file, {5, 7, kVocabulary}, &out), "of another tokenizer");
    for (size_t bytes = 0; bytes < b.file.size(); bytes += bytes < 200 ? 1 : 997)
        EXPECT_NE(read_store(std::span(b.file).first(bytes), kOwner, &out), nullptr) << bytes;
    Random random(4);
    std::vector<unsigned char> file = b.file;
    for (int trial = 0; trial < 300; ++trial) {
        const size_t at = trial < 100 ? static_cast<size_t>(trial) % sizeof(StoreHeader) : random.below(file.size());
        const auto bit = static_cast<unsigned char>(1 << random.below(8));
        file[at] ^= bit;
        EXPECT_NE(read_store(file, kOwner, &out), nullptr) << at;
        file[at] ^= bit;
    }
    EXPECT_EQ(read_store(file, kOwner, &out), nullptr);
}

// Seeds of tests/fuzz/record_store_fuzz.cpp; KEEL_WRITE_CORPUS=1 writes them again after a change of the format.
TEST(RecordStore, FuzzCorpusIsCurrent) {
    RecordStore view;
    StoreHeader& h = view.header;
    h.fingerprint = 1, h.tokenizer_hash = 2;
    h.records = 2, h.lists = 1, h.anchors = 1, h.features = 1, h.horizon = 1, h.waypoints = 1;
    h.code_scale = 0.03125f;
    const std::vector<float> numbers(kStoreDim * kStoreDim, 0.5f);
    const std::vector<uint16_t> halves(2 * kStoreDim, 0x3800);
    const std::vector<int8_t> codes(2 * kStoreDim, 16);
    const int32_t tokens[] = {3, 4};
    const uint32_t lists[] = {0, 2};
    view.mean = view.projection = view.centroids = view.keys = view.radius = view.anchors = view.metrics =
        numbers.data();
    view.waypoints = halves.data();
    view.codes = codes.data(), view.gate = view.next = tokens, view.list_begin = lists;
    std::vector<unsigned char> store;
    write_store(view, &store);
    RecordStore read;
    EXPECT_EQ(read_store(store, {1, 2, 100}, &read), nullptr);
    std::vector<unsigned char> tape = made_up_tape(1, 3, 1);
    for (const auto& [name, bytes] : {std::pair("store", store), std::pair("tape", tape)}) {
        const std::string path = keel_test::source_path(std::string("tests/fuzz/corpus/record_store/") + name);
        if (getenv("KEEL_WRITE_CORPUS"))
            std::ofstream(path, std::ios::binary)
                .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        const std::vector<char> seed = keel_test::read_file(path);
        ASSERT_EQ(seed.size(), bytes.size()) << path;
        EXPECT_EQ(0, memcmp(seed.data(), bytes.data(), bytes.size())) << path;
    }
}

// Hostile bytes under a right checksum.
TEST(RecordStore, RefusesContentsThatCannotBe) {
    const Built b = built({.waypoints = 2}, 10);
    const auto refused = [&](const void* place, const void* value, size_t bytes) {
        std::vector<unsigned char> file = b.file;
        memcpy(file.data() + (static_cast<const unsigned char*>(place) - b.file.data()), value, bytes);
        const uint64_t sum = hash64(file.data(), file.size() - 8);
        memcpy(file.data() + file.size() - 8, &sum, 8);
        RecordStore out;
        return read_store(file, kOwner, &out) != nullptr;
    };
    const float nan = NAN, negative = -1;
    const int32_t large = kVocabulary, below = -2;
    const uint32_t many = 0xffffffff, version = kStoreVersion + 1;
    const uint16_t infinite = 0x7c00;
    const unsigned char* header = b.file.data();
    EXPECT_TRUE(refused(header + offsetof(StoreHeader, version), &version, 4));
    for (const size_t field :
         {offsetof(StoreHeader, dim), offsetof(StoreHeader, records), offsetof(StoreHeader, lists),
          offsetof(StoreHeader, anchors), offsetof(StoreHeader, features), offsetof(StoreHeader, block),
          offsetof(StoreHeader, horizon), offsetof(StoreHeader, waypoints)})
        EXPECT_TRUE(refused(header + field, &many, 4)) << field;
    EXPECT_TRUE(refused(header + offsetof(StoreHeader, code_scale), &nan, 4));
    EXPECT_TRUE(refused(b.store.gate, &large, 4));
    EXPECT_TRUE(refused(b.store.gate + 7, &below, 4));
    EXPECT_TRUE(refused(b.store.next + 3, &below, 4));
    EXPECT_TRUE(refused(b.store.radius, &negative, 4));
    EXPECT_TRUE(refused(b.store.keys + 40, &nan, 4));
    EXPECT_TRUE(refused(b.store.metrics + 40, &nan, 4));
    EXPECT_TRUE(refused(b.store.list_begin + 1, &many, 4));
    EXPECT_TRUE(refused(b.store.waypoints, &infinite, 2));
    EXPECT_FALSE(refused(b.store.next, b.store.next, 4));
}

}  // namespace
}  // namespace keel::geodesic
