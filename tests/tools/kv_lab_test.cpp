// The laboratory's parts: statistics of pairs, names of formats, allocation, profiles, files, and forward passes on the
// bundled model.
#include <gtest/gtest.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "keel/keel.hpp"
#include "sdk/core/hash.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/byte_allocation.h"
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/files/safetensors_writer.h"
#include "sdk/tools/lab/kv/kv_calibration.h"
#include "sdk/tools/lab/kv/kv_codec_tap.h"
#include "sdk/tools/lab/kv/kv_meter.h"
#include "sdk/tools/lab/kv/kv_probe.h"
#include "sdk/tools/lab/kv/kv_text.h"
#include "tests/test_paths.h"

using namespace keel;
using namespace keel::tools;

namespace {

const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");
const std::string kText = keel_test::source_path("samples/models/books-val-sample.jsonl");

std::string scratch(const std::string& name) {
    return (std::filesystem::temp_directory_path() / ("keel_kv_lab_" + name)).string();
}
EngineOptions books() {
    EngineOptions options;
    options.model = kBooks;
    options.threads = 2;
    return options;
}

// ---- statistics ----

TEST(KvStatistics, PairedIntervalsSeeTheDifferenceAlone) {
    // Documents of very different difficulty; the second format adds 0.01 or 0.03 nats a token by turns.
    std::vector<PairedUnit> units;
    for (int i = 0; i < 400; ++i) {
        const double base = 100.0 * (1 + i % 7);
        units.push_back({base, base + 10 * (i % 2 ? 0.01 : 0.03), 10});
    }
    const PairedDelta delta = paired_delta(units);
    EXPECT_NEAR(delta.mean, 0.02, 1e-12);
    EXPECT_NEAR(delta.interval.low, 0.02 - 1.96 * 0.01 / 20, 1.2e-4);  // standard error: deviation 0.01 over sqrt(400)
    EXPECT_NEAR(delta.interval.high, 0.02 + 1.96 * 0.01 / 20, 1.2e-4);
    // Unequal units: the mean is pooled over tokens, (3 + 0) / (1 + 2).
    const PairedDelta pooled = paired_delta(std::vector<PairedUnit>{{1, 4, 1}, {7, 7, 2}});
    EXPECT_DOUBLE_EQ(pooled.mean, 1);
    EXPECT_NEAR(ppl_percent(log(1.5)), 50, 1e-12);
    EXPECT_NEAR(ppl_percent(-log(2.0)), -50, 1e-12);
}

// A text that a worse model predicts better, such as shuffled words, does not make its format a good one.
TEST(KvStatistics, TheLargestRatioAsksForSmallDivergenceToo) {
    const auto quality = [](const char* name, double ratio, double delta, double kl) {
        KvQuality q;
        q.spec.name = name;
        q.bytes.ratio = ratio;
        for (int document = 0; document < 20; ++document) {
            for (int token = 0; token < 10; ++token) q.score.add({3, 3 + delta, kl, true});
            q.score.end_document();
        }
        return q;
    };
    const std::vector<KvQuality> qualities = {quality("better by luck", 9, -0.1, 0.2), quality("good", 4, 0.004, 0.005),
                                              quality("diverges", 6, 0.004, 0.03)};
    ASSERT_TRUE(largest_ratio(qualities, 1, 2));
    EXPECT_EQ(largest_ratio(qualities, 1, 2)->spec.name, "good");
    EXPECT_EQ(largest_ratio(qualities, 1, 4)->spec.name, "diverges");  // 4 ln 1.01 = 0.0398
    EXPECT_FALSE(largest_ratio(qualities, 0.1, 2));
}

TEST(KvStatistics, DocumentsOfOneSourceCountTogether) {
    KvScore one, other;
    for (uint32_t document = 0; document < 8; ++document)
        for (KvScore* score : {&one, &other}) {
            score->add({3, 3 + 0.01 * (document / 2), 0.01, true});
            score->end_document(score == &one ? kOwnSource : document / 2);
        }
    EXPECT_EQ(one.sources(), 8u);
    EXPECT_EQ(other.sources(), 4u);
    EXPECT_DOUBLE_EQ(one.delta().mean, other.delta().mean);
    EXPECT_GT(other.delta().interval.high, one.delta().interval.high * 1.2);
}

TEST(KvStatistics, PartsAreOfAKindAndAPrefix) {
    const std::vector<std::string> kinds = {"book", "code", "book"}, one = {"book", "book"};
    std::vector<KvPart> parts = parts_of(kinds, {64, 16, 200, 128}, 128);
    const std::vector<std::pair<uint32_t, std::string>> expected = {
        {16, "book"}, {16, "code"}, {16, ""}, {64, "book"}, {64, "code"}, {64, ""}, {128, "book"}, {128, "code"}};
    ASSERT_EQ(parts.size(), expected.size());
    for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(parts[i].tokens, expected[i].first);
        EXPECT_EQ(parts[i].kind, expected[i].second);
    }
    EXPECT_TRUE(parts[0].holds(15, "book"));
    EXPECT_FALSE(parts[0].holds(16, "book"));
    EXPECT_FALSE(parts[0].holds(0, "code"));
    EXPECT_TRUE(parts[2].holds(0, "code"));
    EXPECT_TRUE(parts_of(one, {}, 128).empty());
    EXPECT_EQ(parts_of(one, {32}, 128).size(), 1u);
}

TEST(KvStatistics, DivergenceOfKnownDistributions) {
    // P = (1/2, 1/4, 1/4), Q = (1/4, 1/4, 1/2): KL = 1/2 ln 2 - 1/4 ln 2.
    const float p_logits[] = {logf(0.5f) + 3, logf(0.25f) + 3, logf(0.25f) + 3}, p[] = {0.5f, 0.25f, 0.25f};
    const float q_logits[] = {logf(0.25f) - 7, logf(0.25f) - 7, logf(0.5f) - 7};
    EXPECT_NEAR(kl_divergence(p_logits, p, log_sum_exp(p_logits), q_logits, log_sum_exp(q_logits)), 0.25 * log(2.0),
                1e-6);
    EXPECT_EQ(kl_divergence(p_logits, p, log_sum_exp(p_logits), p_logits, log_sum_exp(p_logits)), 0);
    // What the reference forbids does not count, whatever the other says.
    const float forbids[] = {0, -INFINITY}, one[] = {1, 0}, allows[] = {0, 0};
    EXPECT_NEAR(kl_divergence(forbids, one, 0, allows, log(2.0)), log(2.0), 1e-12);
    const float ties[] = {1, 2, 2, 0};
    EXPECT_EQ(top_index(ties), 1u);
}

// ---- names ----

TEST(KvSpec, NamesOfSides) {
    const KvSpec both = parse_kv_spec("tcq-3", {"p.kvp"});
    EXPECT_TRUE(both.native);
    EXPECT_EQ(both.k_format, KEEL_KV_TCQ_3);
    EXPECT_EQ(both.v_format, KEEL_KV_TCQ_3);
    EXPECT_EQ(both.profile, "p.kvp");
    EXPECT_EQ(both.family, "tcq");
    const KvSpec mixed = parse_kv_spec("k=tcq-4:v=e8-3+s4+r64@none", {"p.kvp"});
    EXPECT_EQ(mixed.k_format, KEEL_KV_TCQ_4);
    EXPECT_EQ(mixed.v_format, KEEL_KV_E8_3);
    EXPECT_EQ(mixed.sinks, 4u);
    EXPECT_EQ(mixed.recent, 64u);
    EXPECT_EQ(mixed.profile, "");
    EXPECT_EQ(mixed.family, "tcq+e8");
    EXPECT_EQ(parse_kv_spec("f16", {"p.kvp"}).profile, "");  // the reference has no means to remove
    EXPECT_EQ(parse_kv_spec("f16@q.kvp", {"p.kvp"}).profile, "q.kvp");
    EXPECT_EQ(parse_kv_spec("q4_0-rot").family, "q4_0-rot");
    const KvSpec codec = parse_kv_spec("k=kakeya-d4:10:v=f16", {"p.kvp"});
    EXPECT_FALSE(codec.native);
    ASSERT_TRUE(codec.k_codec);
    EXPECT_EQ(codec.k_codec->name(), "kakeya-d4:10");
    EXPECT_FALSE(codec.v_codec);
    EXPECT_EQ(parse_kv_spec("kakeya-d4:10").family, "kakeya-d4");
    for (const char* bad : {"", "tcq-9", "k=tcq-3", "k=tcq-3:v=", "profile", "k=kakeya-d4:10:v=tcq-3",
                            "kakeya-d4:10@p.kvp", "tcq-3+x4", "kakeya-d4:10+s4"})
        EXPECT_THROW(parse_kv_spec(bad), ToolError) << bad;
}

TEST(KvSpec, SinksAndRecentPositionsOfTheOptionsAreHeard) {
    const KvSpecDefaults defaults = {{}, 2, 64};
    for (const char* name : {"tcq-3", "k=tcq-4:v=f16"}) {
        EXPECT_EQ(parse_kv_spec(name, defaults).sinks, 2u) << name;
        EXPECT_EQ(parse_kv_spec(name, defaults).recent, 64u) << name;
    }
    EXPECT_EQ(parse_kv_spec("tcq-3+s0", defaults).sinks, KEEL_KV_NO_SINKS);
    EXPECT_EQ(sinks_of_coded_rows(parse_kv_spec("tcq-3+s0", defaults).sinks), 0u);
    EXPECT_EQ(sinks_of_coded_rows(parse_kv_spec("tcq-3").sinks), 1u);
    EXPECT_EQ(parse_kv_spec("tcq-3+s0", defaults).recent, 64u);
    EXPECT_EQ(parse_kv_spec("tcq-3+r1", defaults).recent, 1u);
    for (const char* exact : {"f16", "f32", "k=f16:v=f32", "kakeya-d4:10"}) {  // nothing to keep beside it
        EXPECT_EQ(parse_kv_spec(exact, defaults).sinks, 0u) << exact;
        EXPECT_EQ(parse_kv_spec(exact, defaults).recent, 0u) << exact;
    }
}

TEST(KvSpec, ListsKeepTheOptionsOfOneName) {
    const std::vector<std::string> specs =
        split_kv_specs("f16, k=tcq-4:v=tcq-3,kakeyaturbo:pca=exact,k=16,bits=3/besicovitch:3:4,tq-mse:3:nc");
    EXPECT_EQ(specs, (std::vector<std::string>{"f16", "k=tcq-4:v=tcq-3",
                                               "kakeyaturbo:pca=exact,k=16,bits=3/besicovitch:3:4", "tq-mse:3:nc"}));
}

// ---- allocation ----

// The least cost of all combinations within the budget.
double brute_force(const std::vector<AllocationUnit>& units, uint64_t budget) {
    double best = INFINITY;
    size_t combinations = 1;
    for (const AllocationUnit& unit : units) combinations *= unit.bytes.size();
    for (size_t n = 0; n < combinations; ++n) {
        AllocationChoices choices;
        size_t rest = n;
        for (const AllocationUnit& unit : units) {
            choices.push_back(rest % unit.bytes.size());
            rest /= unit.bytes.size();
        }
        if (bytes_of(units, choices) <= budget) best = std::min(best, cost_of(units, choices));
    }
    return best;
}

TEST(KvAllocation, EveryPointOfThePathIsOptimal) {
    // Costs that fall by about 4 per bit, as measured ones do, with a choice that is never worth it (the third of unit
    // 1).
    const std::vector<AllocationUnit> units = {{{16, 24, 32}, {20, 5, 1.3}},
                                               {{16, 24, 32}, {3, 0.8, 0.8}},
                                               {{16, 24, 32, 48}, {44, 13, 3, 0.5}},
                                               {{16, 24, 32}, {2, 1.9, 0.2}}};
    const std::vector<AllocationChoices> path = allocation_path(units);
    ASSERT_GT(path.size(), 6u);
    EXPECT_EQ(path.front(), (AllocationChoices{2, 1, 3, 2}));  // the cheapest choices, and the smallest of equals
    EXPECT_EQ(path.back(), (AllocationChoices{0, 0, 0, 0}));
    for (size_t i = 0; i < path.size(); ++i) {
        EXPECT_DOUBLE_EQ(cost_of(units, path[i]), brute_force(units, bytes_of(units, path[i]))) << i;
        if (i) {
            EXPECT_LT(bytes_of(units, path[i]), bytes_of(units, path[i - 1]));
        }
    }
}

TEST(KvAllocation, BudgetsAreKeptAndUsed) {
    const std::vector<AllocationUnit> units = {{{16, 24, 32}, {20, 5, 1.3}},
                                               {{16, 24, 32}, {3, 0.8, 0.8}},
                                               {{16, 24, 32, 48}, {44, 13, 3, 0.5}},
                                               {{16, 24, 32}, {2, 1.9, 0.2}}};
    EXPECT_TRUE(allocate(units, 63).empty());
    for (uint64_t budget = 64; budget <= 140; ++budget) {
        const AllocationChoices choices = allocate(units, budget);
        ASSERT_EQ(choices.size(), units.size()) << budget;
        EXPECT_LE(bytes_of(units, choices), budget);
        EXPECT_LE(cost_of(units, choices), 1.6 * brute_force(units, budget))
            << budget;  // between points of the path it is no optimum
    }
    EXPECT_EQ(cost_of(units, allocate(units, 64)), 69);
    EXPECT_DOUBLE_EQ(cost_of(units, allocate(units, 140)), brute_force(units, 140));
}

// ---- profiles ----

KvProfile made_up_profile() {
    KvProfile p;
    p.shape = {0x1234567890abcdef, 3, 2, 32, 16};
    for (uint32_t layer = 0; layer < 3; ++layer)
        p.formats.push_back({static_cast<kernels::KvFormat>(kernels::kKvTcq2 + layer % 3), kernels::kKvE8_3,
                             kernels::KvScaleMode::kUnbiased, kernels::KvScaleMode::kLeastSquares});
    p.pairs = {1, 4, 15};
    for (std::vector<float>* floats : {&p.key_means, &p.value_means, &p.gains})
        for (int i = 0; i < 3 * 2 * 32; ++i) floats->push_back(0.25f + static_cast<float>(i % 37) / 8);
    return p;
}
keel_status read(const std::vector<char>& bytes, const KvModelShape& shape, KvChoice* choice, keel_error* error) {
    keel_reader reader = make<keel_reader>();
    EXPECT_EQ(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), KEEL_OK);
    *error = make<keel_error>();
    return read_kv_profile(reader, shape, choice, error);
}
void seal(std::vector<char>* bytes) {
    const uint64_t sum = hash64(bytes->data(), bytes->size() - 8);
    memcpy(bytes->data() + bytes->size() - 8, &sum, 8);
}

TEST(KvProfileFile, WhatIsWrittenIsRead) {
    const KvProfile p = made_up_profile();
    const std::vector<char> bytes = encode_kv_profile(p);
    auto choice = std::make_unique<KvChoice>();
    keel_error error;
    ASSERT_EQ(read(bytes, p.shape, choice.get(), &error), KEEL_OK) << error.field << ": " << error.reason;
    EXPECT_EQ(choice->layer[1].k, kernels::kKvTcq3);
    EXPECT_EQ(choice->layer[2].v, kernels::kKvE8_3);
    EXPECT_EQ(choice->layer[0].k_scale, kernels::KvScaleMode::kUnbiased);
    const std::string path = scratch("profile.kvp");
    write_file(path, bytes);
    const KvProfile again = read_kv_profile_file(path);
    EXPECT_EQ(again.pairs, p.pairs);
    EXPECT_EQ(again.key_means, p.key_means);
    EXPECT_EQ(again.value_means, p.value_means);
    EXPECT_EQ(again.gains, p.gains);
    EXPECT_EQ(encode_kv_profile(again), bytes);
    EXPECT_EQ(formats_of_profile(path),
              (std::vector<kernels::KvFormat>{kernels::kKvTcq2, kernels::kKvE8_3, kernels::kKvTcq3, kernels::kKvTcq4}));
    std::filesystem::remove(path);
}

TEST(KvProfileFile, EveryChangedByteIsRefused) {
    const KvProfile p = made_up_profile();
    const std::vector<char> bytes = encode_kv_profile(p);
    auto choice = std::make_unique<KvChoice>();
    keel_error error;
    for (size_t at = 0; at < bytes.size(); ++at) {  // by the checksum, if by nothing before it
        std::vector<char> changed = bytes;
        changed[at] = static_cast<char>(changed[at] ^ 0x10);
        EXPECT_NE(read(changed, p.shape, choice.get(), &error), KEEL_OK) << at;
    }
    for (size_t n = 0; n < bytes.size(); n += 7)
        EXPECT_NE(read({bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n)}, p.shape, choice.get(), &error),
                  KEEL_OK)
            << n;
}

TEST(KvProfileFile, HostileFieldsWithARightChecksum) {
    const KvProfile p = made_up_profile();
    const std::vector<char> bytes = encode_kv_profile(p);
    auto choice = std::make_unique<KvChoice>();
    keel_error error;
    const KvProfileOffsets o = kv_profile_offsets(*reinterpret_cast<const KvProfileHeader*>(bytes.data()));
    const auto refused = [&](size_t offset, auto value, keel_status status, const std::string& field) {
        std::vector<char> changed = bytes;
        memcpy(changed.data() + offset, &value, sizeof value);
        seal(&changed);
        EXPECT_EQ(read(changed, p.shape, choice.get(), &error), status) << field;
        EXPECT_EQ(error.field, field);
    };
    refused(offsetof(KvProfileHeader, magic), uint64_t{1}, KEEL_E_FILE_FORMAT, "magic");
    refused(offsetof(KvProfileHeader, version), uint32_t{2}, KEEL_E_UNSUPPORTED, "version");
    refused(offsetof(KvProfileHeader, header_bytes), uint32_t{0}, KEEL_E_FILE_FORMAT, "header_bytes");
    refused(offsetof(KvProfileHeader, fingerprint), uint64_t{1}, KEEL_E_FILE_MISMATCH, "fingerprint");
    for (const size_t at :
         {offsetof(KvProfileHeader, layers), offsetof(KvProfileHeader, kv_heads), offsetof(KvProfileHeader, head_dim)})
        refused(at, UINT32_MAX, KEEL_E_FILE_MISMATCH, "layers");
    refused(offsetof(KvProfileHeader, mean_pairs), uint32_t{17}, KEEL_E_FILE_FORMAT, "mean_pairs");
    refused(offsetof(KvProfileHeader, parts), uint32_t{8}, KEEL_E_FILE_FORMAT, "parts");
    refused(offsetof(KvProfileHeader, reserved), uint32_t{1}, KEEL_E_FILE_FORMAT, "parts");
    refused(offsetof(KvProfileHeader, total_bytes), uint64_t{99}, KEEL_E_FILE_FORMAT, "total_bytes");
    refused(offsetof(KvProfileHeader, mean_pairs), uint32_t{2}, KEEL_E_FILE_FORMAT, "total_bytes");
    refused(o.formats, uint8_t{0}, KEEL_E_FILE_FORMAT, "formats");
    refused(o.formats + 4, uint8_t{200}, KEEL_E_FILE_FORMAT, "formats");
    refused(o.formats + 2, uint8_t{2}, KEEL_E_FILE_FORMAT, "formats");
    refused(o.pairs, uint32_t{4}, KEEL_E_FILE_FORMAT, "pairs");       // twice
    refused(o.pairs + 8, uint32_t{16}, KEEL_E_FILE_FORMAT, "pairs");  // beyond the rotation
    for (const uint64_t at : {o.key_means, o.value_means, o.gains}) {
        std::vector<char> changed = bytes;
        const float bad = NAN;
        memcpy(changed.data() + at + 12, &bad, 4);
        seal(&changed);
        EXPECT_EQ(read(changed, p.shape, choice.get(), &error), KEEL_E_FILE_FORMAT);
    }
    refused(o.gains, -1.0f, KEEL_E_FILE_FORMAT, error.field);
}

TEST(AtomicFile, AppearsWholeOrNotAtAll) {
    const std::string path = scratch("atomic");
    std::filesystem::remove(path);
    {
        AtomicFile file(path);
        file.write("abc", 3);
    }
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
    AtomicFile file(path);
    file.write_at(4, "xy", 2);
    file.write_at(0, "ab", 2);
    file.commit();
    const std::vector<char> contents = keel_test::read_file(path);
    EXPECT_EQ(std::string(contents.begin(), contents.end()), std::string("ab\0\0xy", 6));
    std::filesystem::remove(path);
    EXPECT_THROW(AtomicFile(scratch("no/such/place")), ToolError);
}

TEST(Safetensors, HeaderAndOffsets) {
    const std::string path = scratch("rows.safetensors");
    SafetensorsWriter writer(path, {{"a", "F32", {2, 3}}, {"b", "I32", {2}}}, {{"model", "m"}});
    const float a[] = {1, 2, 3};
    const int32_t b = 7;
    writer.write(0, 3, a, 3);
    writer.write(1, 0, &b, 1);
    EXPECT_THROW(writer.write(1, 1, a, 2), ToolError);
    writer.commit();
    const std::vector<char> bytes = keel_test::read_file(path);
    uint64_t header_bytes;
    memcpy(&header_bytes, bytes.data(), 8);
    ASSERT_EQ(bytes.size(), 8 + header_bytes + 24 + 8);
    const Json header = Json::parse(bytes.begin() + 8, bytes.begin() + 8 + static_cast<ptrdiff_t>(header_bytes));
    EXPECT_EQ(header["a"]["dtype"], "F32");
    EXPECT_EQ(header["a"]["shape"], (std::vector<int>{2, 3}));
    EXPECT_EQ(header["b"]["data_offsets"], (std::vector<int>{24, 32}));
    EXPECT_EQ(header["__metadata__"]["model"], "m");
    float read[6];
    memcpy(read, bytes.data() + 8 + header_bytes, 24);
    EXPECT_EQ(read[0], 0);
    EXPECT_EQ(read[5], 3);
    std::filesystem::remove(path);
}

// ---- forward passes ----

std::vector<int32_t> some_tokens(KvRun& run, uint32_t count) {
    return tokenize_documents(run.model().engine, kText, 1, count)[0];
}

TEST(KvRun, DecodingThroughTheCacheGivesTheSameBits) {
    for (const char* name : {"f16@none", "tcq-3@none", "k=e8-4:v=tcq-2@none", "absmax:4"}) {
        const KvSpec spec = parse_kv_spec(name, {});
        KvRun run(books(), spec, 128);
        std::unique_ptr<KvCodecTap> tap;
        if (!spec.native)
            run.set_tap((tap = std::make_unique<KvCodecTap>(run.shape(), spec.k_codec, spec.v_codec, nullptr)).get());
        const std::vector<int32_t> ids = some_tokens(run, 100);
        std::vector<std::vector<float>> all;
        run.forward(ids, [&](size_t position, std::span<const float> logits) {
            EXPECT_EQ(position, all.size());
            all.emplace_back(logits.begin(), logits.end());
        });
        ASSERT_EQ(all.size(), ids.size());
        size_t seen = 90;
        run.decode_again(ids, 90, [&](size_t position, std::span<const float> logits) {
            EXPECT_EQ(position, seen++);
            EXPECT_EQ(memcmp(logits.data(), all[position].data(), logits.size_bytes()), 0) << name << " " << position;
        });
        EXPECT_EQ(seen, ids.size());
    }
}

TEST(KvQuality, TheReferenceAgainstItselfIsExactlyZero) {
    KvRun reference(books(), parse_kv_spec("f16", {}), 128), same(books(), parse_kv_spec("f16", {}), 128),
        coded(books(), parse_kv_spec("tcq-2", {}), 128);
    const KvReference exact(reference, some_tokens(reference, 129));
    KvScore zero, lossy;
    same.forward(exact.input(), [&](size_t p, std::span<const float> logits) { zero.add(compare(exact, p, logits)); });
    coded.forward(exact.input(),
                  [&](size_t p, std::span<const float> logits) { lossy.add(compare(exact, p, logits)); });
    zero.end_document();
    EXPECT_EQ(zero.tokens(), 128u);
    EXPECT_EQ(zero.delta().mean, 0);
    EXPECT_EQ(zero.delta().interval.low, 0);
    EXPECT_EQ(zero.delta().interval.high, 0);
    EXPECT_EQ(zero.kl_mean(), 0);
    EXPECT_EQ(zero.kl_percentile(0.99), 0);
    EXPECT_EQ(zero.same_top_percent(), 100);
    EXPECT_GT(lossy.kl_mean(), 1e-3);
    EXPECT_LT(lossy.kl_mean(), 0.1);
    EXPECT_LT(lossy.same_top_percent(), 100);
    EXPECT_GT(lossy.kl_percentile(0.99), lossy.kl_mean());
}

// With and without a profile, so that gains, means and rotations are undone.
TEST(KvStoredErrors, AreThoseOfTheCodes) {
    KvStatistics statistics;
    capture_rows(books(), kText, 1, 128, [&](const KvDocumentRows& rows) { statistics.add(rows); });
    KvRun plain(books(), parse_kv_spec("tcq-4", {}), 128);
    KvProfile profile;
    profile.shape = {plain.info().fingerprint, 8, 2, 64, 32};
    profile.formats.assign(8, {kernels::kKvTcq4, kernels::kKvTcq4, kernels::KvScaleMode::kLeastSquares,
                               kernels::KvScaleMode::kLeastSquares});
    profile.pairs = choose_mean_pairs(statistics, 16);
    set_key_means(statistics, &profile);
    set_value_means(statistics, &profile);
    KvStatistics weighed;
    KvKeyMoments moments(weighed, profile, 0, 0);
    capture_rows(books(), kText, 1, 128, [&](const KvDocumentRows& rows) {
        weighed.add_weighed(rows, 0, 0);
        moments.add(rows);
    });
    set_gains(moments, &profile);
    const std::vector<char> bytes = encode_kv_profile(profile);
    keel_reader reader = make<keel_reader>();
    ASSERT_EQ(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), KEEL_OK);
    KvRun profiled(books(), KvSpec{}, 128, &reader);
    std::vector<double> k[2], v[2];
    int which = 0;
    for (KvRun* run : {&plain, &profiled}) {
        KvStoredErrors errors(run->shape());
        run->set_tap(&errors);
        run->forward(some_tokens(*run, 100), [](size_t, std::span<const float>) {});
        k[which] = errors.errors().relative_mse(false);
        v[which++] = errors.errors().relative_mse(true);
    }
    double sum[2] = {};
    for (uint32_t layer = 0; layer < 8; ++layer)
        for (int i = 0; i < 2; ++i) {
            EXPECT_GT(k[i][layer], 0.0005) << i << " " << layer;
            EXPECT_LT(k[i][layer], 0.0075) << i << " " << layer;  // 0.0059 of a Gaussian row
            EXPECT_GT(v[i][layer], 0.003) << i << " " << layer;
            EXPECT_LT(v[i][layer], 0.0075) << i << " " << layer;
            sum[i] += k[i][layer];
        }
    EXPECT_LT(sum[1], 0.9 * sum[0]);  // less is coded when the mean is gone
}

TEST(KvRowCapture, RotatedKeysAreTheKeysAfterRope) {
    KvRun run(books(), parse_kv_spec("f32", {}), 64);
    // The engine's own table of angles, beside the capture.
    struct Angles final : KvTap {
        explicit Angles(const KvShape& shape) : capture(shape), table(64 * 64) {}
        void begin(keel_session session, uint32_t tokens, uint32_t chunk) override {
            capture.begin(session, tokens, chunk);
        }
        void heads(const keel_lab_heads& h) override {
            capture.heads(h);
            if (h.layer == 0 && h.kv_head == 0) std::copy_n(h.cos_sin, h.rope_dims, &table[h.position * 64]);
        }
        KvRowCapture capture;
        std::vector<float> table;
    } angles(run.shape());
    run.set_tap(&angles);
    const std::vector<int32_t> ids = some_tokens(run, 50);
    run.forward(ids, [](size_t, std::span<const float>) {});
    const KvDocumentRows& rows = angles.capture.rows();
    ASSERT_EQ(rows.tokens, 50u);
    EXPECT_EQ(rows.rope_dims, 64u);
    EXPECT_FALSE(rows.neox);
    double turned = 0;
    for (uint32_t layer = 0; layer < 8; ++layer)
        for (uint32_t t = 0; t < rows.tokens; ++t) {
            for (uint32_t head = 0; head < 2; ++head) {
                std::vector<float> k(&rows.k_before[rows.kv_row(layer, t, head)],
                                     &rows.k_before[rows.kv_row(layer, t, head)] + 64);
                turned += squared_distance(k.data(), &rows.k_after[rows.kv_row(layer, t, head)], 64);
                apply_rope(k.data(), rows.rope_dims, rows.neox, &angles.table[t * 64]);
                ASSERT_EQ(memcmp(k.data(), &rows.k_after[rows.kv_row(layer, t, head)], 64 * sizeof(float)), 0)
                    << layer << " " << t << " " << head;
            }
            for (uint32_t head = 0; head < 4; ++head) {
                std::vector<float> q(&rows.q_before[rows.q_row(layer, t, head)],
                                     &rows.q_before[rows.q_row(layer, t, head)] + 64);
                apply_rope(q.data(), rows.rope_dims, rows.neox, &angles.table[t * 64]);
                ASSERT_EQ(memcmp(q.data(), &rows.q_after[rows.q_row(layer, t, head)], 64 * sizeof(float)), 0)
                    << layer << " " << t << " " << head;
            }
        }
    EXPECT_GT(turned, 1);  // RoPE did something
    for (const float x : rows.v) ASSERT_TRUE(std::isfinite(x));
}

// A codec that changes nothing, in blocks of positions, pooled or not, before or after RoPE.
class ExactBlocks final : public KvCodec {
  public:
    ExactBlocks(uint32_t rows, bool pooled, bool before) : rows_(rows), pooled_(pooled), before_(before) {}
    std::string name() const override { return "exact"; }
    uint32_t block_rows(bool) const override { return rows_; }
    bool pools_heads() const override { return pooled_; }
    bool before_rope() const override { return before_; }
    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override {
        EXPECT_EQ(rows_ > 1000 ? 0u : count % rows_, 0u);
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(rows);
        out.insert(out.end(), bytes, bytes + uint64_t{count} * context.head_dim * 4);
    }
    void decode(std::span<const uint8_t> bytes, uint32_t, const KvCodecContext&, float* rows) const override {
        memcpy(rows, bytes.data(), bytes.size());
    }
    uint64_t side_bytes(const KvCodecContext&) const override { return 10; }

  private:
    uint32_t rows_;
    bool pooled_, before_;
};

TEST(KvCodecTap, BlocksThatLoseNothingChangeNothing) {
    KvRun reference(books(), parse_kv_spec("f32", {}), 128, nullptr, 64);
    const std::vector<int32_t> ids = some_tokens(reference, 128);
    std::vector<float> exact;
    reference.forward(
        ids, [&](size_t, std::span<const float> logits) { exact.insert(exact.end(), logits.begin(), logits.end()); });
    const struct {
        uint32_t rows;
        bool pooled, before;
        uint32_t codecs;  // tables charged: per layer of a pooled codec, else per head
    } cases[] = {{32, false, false, 16}, {32, false, true, 16}, {64, true, true, 8}, {1 << 20, true, false, 8}};
    for (const auto& c : cases) {
        EngineOptions one = books();
        one.threads = 1;
        KvSpec spec;
        spec.native = false;
        KvRun run(one, spec, 128, nullptr, 64);
        const auto codec = std::make_shared<ExactBlocks>(c.rows, c.pooled, c.before);
        KvCodecTap tap(run.shape(), codec, codec, nullptr);
        EXPECT_TRUE(tap.one_thread());
        run.set_tap(&tap);
        std::vector<float> logits;
        run.forward(ids,
                    [&](size_t, std::span<const float> row) { logits.insert(logits.end(), row.begin(), row.end()); });
        EXPECT_EQ(logits, exact) << c.rows << c.pooled << c.before;
        EXPECT_EQ(tap.bytes_per_token(), 8 * 2 * 2 * 64 * 4);
        EXPECT_EQ(tap.side_bytes(), 2 * c.codecs * 10);
        for (const double mse : tap.errors().relative_mse(false)) EXPECT_EQ(mse, 0);
    }
}

TEST(KvCodecTap, IncompleteBlocksAreF16) {
    EngineOptions one = books();
    one.threads = 1;
    KvSpec spec;
    spec.native = false;
    KvRun run(one, spec, 128, nullptr, 64);
    const auto codec = std::make_shared<ExactBlocks>(48, false, false);
    KvCodecTap tap(run.shape(), codec, nullptr, nullptr);
    run.set_tap(&tap);
    const std::vector<int32_t> ids = some_tokens(run, 100);  // 96 rows in blocks, 4 are left
    run.forward(ids, [](size_t, std::span<const float>) {});
    EXPECT_DOUBLE_EQ(tap.bytes_per_token() * 100, 8 * 2 * 64 * (96 * 4 + 4 * 2 + 100 * 2));  // K; V is f16
    for (uint32_t position : {0u, 47u, 95u, 96u, 99u}) {
        float* row;
        ASSERT_EQ(keel_lab_kv_row(run.session(), 3, 1, position, 0, &row), KEEL_OK);
        uint32_t exact_f16 = 0;
        for (int i = 0; i < 64; ++i) {
            uint32_t bits;
            memcpy(&bits, row + i, 4);
            exact_f16 += (bits & 0x1fff) == 0;
        }
        if (position < 96)
            EXPECT_LT(exact_f16, 8u) << position;
        else
            EXPECT_EQ(exact_f16, 64u) << position;
    }
}

// A codec that fails: the exception comes out of the forward pass and nothing is left hanging.
TEST(KvCodecTap, ErrorsOfCodecsComeOut) {
    KvSpec spec = parse_kv_spec("riemann:3:4", {});  // needs tables that are not there
    EngineOptions one = books();
    one.threads = 1;
    KvRun run(one, spec, 128, nullptr, 64);
    KvCodecTap tap(run.shape(), spec.k_codec, spec.v_codec, nullptr);
    run.set_tap(&tap);
    const std::vector<int32_t> ids = some_tokens(run, 70);
    EXPECT_THROW(run.forward(ids, [](size_t, std::span<const float>) {}), std::invalid_argument);
    run.set_tap(nullptr);
    EXPECT_NO_THROW(run.forward(ids, [](size_t, std::span<const float>) {}));
}

TEST(KvProbe, TextsRepeatTheirPassageAtTheDistance) {
    std::vector<std::vector<int32_t>> documents = {{1, 10, 11, 12, 13}, {1, 20, 21, 22, 23, 24, 25}, {1, 30}};
    const std::vector<KvProbeText> texts = make_probe_texts(documents, {4, 5, 6}, 3, {0, 5});
    ASSERT_EQ(texts.size(), 4u);  // the third is too short for a passage
    EXPECT_EQ(texts[0].ids, (std::vector<int32_t>{1, 10, 11, 12, 10, 11, 12}));
    EXPECT_EQ(texts[0].repeat_begin, 4u);
    EXPECT_EQ(texts[1].ids, (std::vector<int32_t>{1, 10, 11, 12, 13, 20, 21, 22, 23, 10, 11, 12}));
    EXPECT_EQ(texts[1].repeat_begin, 9u);
    KvRun reference(books(), parse_kv_spec("f16", {}), 128), coded(books(), parse_kv_spec("tcq-2", {}), 128);
    std::vector<std::vector<int32_t>> real = {some_tokens(reference, 80)};
    const auto scores =
        run_probe(reference, {&reference, &coded}, make_probe_texts(real, {kOwnSource}, 24, {16}), {16});
    ASSERT_EQ(scores.size(), 2u);
    EXPECT_EQ(scores[0][0].delta.mean, 0);
    EXPECT_LT(scores[0][0].reference_nll, scores[0][0].first_nll);  // a text seen before is easier
    EXPECT_NE(scores[1][0].delta.mean, 0);
    EXPECT_EQ(scores[1][0].reference_nll, scores[0][0].reference_nll);

    // Intervals are over sources: two texts of one say nothing of others.
    real.push_back(real[0]);
    std::reverse(real[1].begin() + 1, real[1].end());
    const auto interval = [&](uint32_t second_source) {
        return run_probe(reference, {&coded}, make_probe_texts(real, {4, second_source}, 24, {16}), {16})[0][0]
            .delta.interval;
    };
    EXPECT_EQ(interval(4).low, interval(4).high);
    EXPECT_LT(interval(5).low, interval(5).high);
}

TEST(KvMeter, RicherFormatsDivergeLess) {
    KvMeter meter(books(), kText, 1, 64);
    EXPECT_EQ(meter.tokens(), 64u);
    KvProfile profile;
    profile.shape = {open_model(kBooks).info.fingerprint, 8, 2, 64, 32};
    const auto kl = [&](kernels::KvFormat format) {
        profile.formats.assign(
            8, {format, format, kernels::KvScaleMode::kLeastSquares, kernels::KvScaleMode::kLeastSquares});
        return meter.measure(profile).kl;
    };
    EXPECT_EQ(kl(kernels::kKvF32), 0);
    const double two = kl(kernels::kKvTcq2), four = kl(kernels::kKvTcq4);
    EXPECT_GT(two, 4 * four);
    EXPECT_GT(four, 0);
    EXPECT_EQ(meter.measurements(), 3u);
}

// Read from the window all of them, rows lose nothing that is seen, whatever they are coded in.
TEST(KvMeter, RecentPositionsOfTheOptionsAreHeard) {
    EngineOptions recent = books();
    recent.recent = 64;
    KvMeter meter(books(), kText, 1, 64), keeps(recent, kText, 1, 64);
    KvProfile profile;
    profile.shape = {open_model(kBooks).info.fingerprint, 8, 2, 64, 32};
    profile.formats.assign(8, {kernels::kKvTcq2, kernels::kKvTcq2, kernels::KvScaleMode::kLeastSquares,
                               kernels::KvScaleMode::kLeastSquares});
    EXPECT_LT(keeps.measure(profile).kl * 100, meter.measure(profile).kl);
}

TEST(KvMeter, KeptCostsAreNotMeasuredAgain) {
    const std::string path = scratch("costs_" + std::to_string(getpid()));
    std::filesystem::remove(path);
    KvMeter meter(books(), kText, 1, 64);
    KvProfile profile;
    profile.shape = {open_model(kBooks).info.fingerprint, 8, 2, 64, 32};
    profile.formats.assign(8, {kernels::kKvTcq3, kernels::kKvTcq3, kernels::KvScaleMode::kLeastSquares,
                               kernels::KvScaleMode::kLeastSquares});
    double kl;
    {
        KvCostTable table(path, {{"slice", 1}});
        kl = meter.kl(profile, &table);
    }
    EXPECT_EQ(meter.measurements(), 1u);
    KvCostTable again(path, {{"slice", 1}});  // another run
    EXPECT_EQ(again.size(), 1u);
    EXPECT_EQ(meter.kl(profile, &again), kl);
    EXPECT_EQ(meter.measurements(), 1u);
    profile.formats[7].v = kernels::kKvTcq4;
    EXPECT_NE(meter.kl(profile, &again), kl);
    EXPECT_EQ(meter.measurements(), 2u);
    EXPECT_THROW(KvCostTable(path, {{"slice", 2}}), ToolError);
    write_file(path, std::string("{}"));
    EXPECT_THROW(KvCostTable(path, {{"slice", 1}}), ToolError);
    std::filesystem::remove(path);
}

// What is kept in f16 takes no part in the means of what is coded.
TEST(KvStatistics, SinksAreLeftOut) {
    KvDocumentRows rows;
    rows.shape = {1, 1, 1, 2, 8};
    rows.tokens = 3;
    rows.rope_dims = 2;
    rows.k_before = rows.k_after = rows.v = rows.q_before = rows.q_after = {100, 100, 1, 2, 3, 4};
    KvStatistics all, coded;
    all.add(rows);
    coded.add(rows, 1);
    EXPECT_EQ(coded.positions(), 2u);
    EXPECT_EQ(coded.value_mean(0), 2);
    EXPECT_EQ(coded.key_mean_before(1), 3);
    EXPECT_EQ(coded.query_energy(0), 5);
    EXPECT_GT(all.value_mean(0), 30);
}

// One coded key, read by one query: its probability is a half, and its value lies 2 from the output.
TEST(KvKeyMoments, CountWhatErrorsDoToOutputs) {
    const float ln2 = logf(2);
    KvDocumentRows rows;
    rows.shape = {1, 1, 1, 2, 8};
    rows.tokens = 3;
    rows.rope_dims = 2;
    rows.neox = true;
    rows.k_before = rows.k_after = {0, 0, 1, 0, 0, 0};
    rows.v = {0, 0, 4, 0, 0, 0};
    rows.q_before = rows.q_after = {7, 7, 7, 7, ln2 * 2, 5};
    rows.cos_sin = {1, 0, 1, 0, 1, 0};
    rows.window = {0};
    rows.attention_scale = 0.5f;
    KvProfile profile;
    profile.pairs = {0};
    profile.key_means = {0, -3};
    KvStatistics weighed;
    weighed.add_weighed(rows, 1, 1);
    KvKeyMoments moments(weighed, profile, 1, 1);
    moments.add(rows);
    EXPECT_NEAR(moments.query(0), 4 * ln2 * ln2, 1e-6);
    EXPECT_NEAR(moments.query(1), 25, 1e-5);
    EXPECT_NEAR(moments.key(0), 1, 1e-6);
    EXPECT_NEAR(moments.key(1), 9, 1e-5);
    EXPECT_EQ(weighed.key_mean_before(0), 1);
    EXPECT_EQ(weighed.value_mean(0), 4);
    EXPECT_NEAR(weighed.query_energy(1), 25, 1e-5);
    set_gains(moments, &profile);
    ASSERT_EQ(profile.gains.size(), 2u);
    EXPECT_NEAR(profile.gains[0] * profile.gains[1], 1, 1e-6);
    EXPECT_NEAR(powf(profile.gains[0] / profile.gains[1], 4), 1 / (4 * ln2 * ln2) / (9.0f / 25), 1e-4);
    // The mean is turned with its key.
    rows.cos_sin = {1, 0, 0, 1, 1, 0};
    KvKeyMoments turned(weighed, profile, 1, 1);
    turned.add(rows);
    EXPECT_NEAR(turned.key(0), 4, 1e-5);  // (1, 0) - (3, 0)
    EXPECT_NEAR(turned.key(1), 0, 1e-5);
    // A query that does not see it, and one that has it among its recent ones.
    rows.window = {1};
    KvStatistics of_recent;
    KvKeyMoments unseen(weighed, profile, 1, 1), recent(of_recent, profile, 1, 2);
    unseen.add(rows);
    rows.window = {0};
    of_recent.add_weighed(rows, 1, 2);
    recent.add(rows);
    EXPECT_EQ(unseen.key(0), 0);
    EXPECT_EQ(recent.query(1), 0);
}

// Shares of energy with means that are not those of the statistics.
TEST(KvStatistics, WhatOtherMeansLeave) {
    KvDocumentRows rows;
    rows.shape = {1, 1, 1, 2, 8};
    rows.tokens = 2;
    rows.rope_dims = 2;
    rows.k_before = rows.k_after = rows.v = rows.q_before = rows.q_after = {1, 0, 3, 0};
    KvStatistics s;
    s.add(rows);
    KvProfile profile;
    EXPECT_EQ(coded_key_share(s, profile, 0), 1);
    EXPECT_EQ(coded_value_share(s, profile, 0), 1);
    profile.pairs = {0};
    profile.key_means = {3, 0};    // leaves -2 and 0
    profile.value_means = {1, 1};  // 0 and 2; -1 twice
    EXPECT_DOUBLE_EQ(coded_key_share(s, profile, 0), 4.0 / 10);
    EXPECT_DOUBLE_EQ(coded_value_share(s, profile, 0), 6.0 / 10);
}

TEST(KvText, DocumentsOfOneTitleAreOneSource) {
    const std::string path = scratch("sources_" + std::to_string(getpid()) + ".jsonl");
    write_file(path, std::string("{\"text\": \"a b\", \"title\": \"T\"}\n{\"text\": \"c d\"}\n"
                                 "{\"text\": \"e f\", \"title\": \"T\"}\n"
                                 "{\"text\": \"g h\", \"title\": \"T\", \"source\": \"S\"}\n"));
    const std::vector<uint32_t> numbers = source_numbers(read_documents(path, 0));
    EXPECT_EQ(numbers, (std::vector<uint32_t>{0, kOwnSource, 0, 1}));
    std::filesystem::remove(path);
}

}  // namespace
