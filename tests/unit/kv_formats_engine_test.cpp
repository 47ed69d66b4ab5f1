// KV formats inside the engine: plans that count every byte, profiles (what they change, what they may not change,
// hostile ones), biases as means, and eviction.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <random>

#include "kernels/cpu/kernel_set.h"
#include "sdk/kv/kv_arena.h"
#include "tests/kv_profile_builder.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::KvProfileBuilder;
using keel_test::sized;

const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");
const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
const std::string kBias = keel_test::source_path("tests/data/architectures/qwen2-mqa-tied.gguf");
const std::string kGemma = keel_test::source_path("tests/data/architectures/gemma3.gguf");
const std::string kPartialRope = keel_test::source_path("tests/data/architectures/phi4-partial-rotary.gguf");

keel_config config(keel_kv_format k, keel_kv_format v, uint32_t context = 256) {
    keel_config c = sized<keel_config>();
    c.k_format = k;
    c.v_format = v;
    c.context_tokens = context;
    c.logits_rows = 64;
    c.threads = 2;
    return c;
}

std::vector<int32_t> some_ids(uint32_t count, uint32_t vocabulary, uint32_t seed = 3) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
    return ids;
}

// A reader over bytes that are kept.
struct Profile {
    explicit Profile(std::vector<uint8_t> data) : bytes(std::move(data)) {
        keel_test::check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
    }
    std::vector<uint8_t> bytes;
    keel_reader reader = sized<keel_reader>();
};

// The mean over positions of KL(a || b).
double mean_kl(const keel_test::Logits& a, const keel_test::Logits& b) {
    double sum = 0;
    for (uint32_t r = 0; r < a.rows; ++r) {
        const float *x = a.row(r), *y = b.row(r);
        double zx = 0, zy = 0, kl = 0;
        for (uint32_t i = 0; i < a.vocabulary; ++i) zx += std::exp(double{x[i]}), zy += std::exp(double{y[i]});
        for (uint32_t i = 0; i < a.vocabulary; ++i)
            kl += std::exp(double{x[i]}) / zx * (x[i] - std::log(zx) - y[i] + std::log(zy));
        sum += kl;
    }
    return sum / a.rows;
}
double largest_difference(const keel_test::Logits& a, const keel_test::Logits& b) {
    double most = 0;
    for (size_t i = 0; i < a.values.size(); ++i) most = std::max(most, std::abs(double{a.values[i]} - b.values[i]));
    return most;
}

TEST(KvFormats, PlanCountsEveryByte) {
    for (uint32_t f = 1; f <= keel::kernels::kKvFormatCount; ++f) {
        const keel_kv_format format = static_cast<keel_kv_format>(f);
        const keel_test::Engine engine(kBooks, config(format, format, 2048));
        const keel_memory_plan& p = engine.plan();
        const uint64_t rows = uint64_t{engine.info().layers} * engine.info().kv_heads * 2;
        const keel::kernels::KvFormat k = static_cast<keel::kernels::KvFormat>(f - 1);
        const uint32_t row = keel::kernels::kv_code_bytes(k, 64) + keel::kernels::kv_scale_bytes(k, 64);
        EXPECT_EQ(p.kv_bytes_per_token, rows * row) << keel::kernels::kKvFormats[k].name;
        EXPECT_EQ(p.kv_page_bytes, rows * row * p.kv_page_tokens);
        const keel_region_plan& region = p.regions[KEEL_REGION_KV];
        const bool exact = format == KEEL_KV_F16 || format == KEEL_KV_F32;
        EXPECT_EQ(p.kv_session_bytes, exact ? 0 : rows * 64 * 2);  // the first position in f16, by default
        // padding: red zones, if there are any
        EXPECT_EQ(region.bytes - region.padding_bytes, p.kv_page_bytes * 32 + p.kv_session_bytes);
        EXPECT_EQ(p.kv_side_bytes, 0u);
    }
    EXPECT_EQ(keel_test::Engine(kBooks, config(KEEL_KV_TCQ_3, KEEL_KV_TCQ_3)).plan().kv_bytes_per_token,
              8u * 2 * 2 * 26);
}

TEST(KvFormats, FormatsThatDoNotFitTheHeadAreRefused) {
    // 24 elements are no multiple of 32, but three blocks of 8.
    const std::string path = keel_test::source_path("tests/data/architectures/mistral-wide-heads.gguf");
    for (const bool value : {false, true}) {
        keel_status status = KEEL_OK;
        try {
            keel_test::Engine engine(
                path, config(value ? KEEL_KV_F16 : KEEL_KV_Q8_0, value ? KEEL_KV_Q4_0_ROTATED : KEEL_KV_F16));
        } catch (const keel_test::Error& error) {
            status = error.status;
            EXPECT_NE(std::string(error.what()).find(value ? "config.v_format" : "config.k_format"), std::string::npos)
                << error.what();
        }
        EXPECT_EQ(status, KEEL_E_UNSUPPORTED);
    }
    keel_test::Engine engine(path, config(KEEL_KV_TCQ_3, KEEL_KV_E8_4));
    EXPECT_EQ(engine.logits_for(some_ids(70, engine.info().vocabulary)).rows, 70u);
}

// Better formats are nearer to f32, and none is far off.
TEST(KvFormats, QualityFollowsBits) {
    keel_test::Engine reference(kBooks, config(KEEL_KV_F32, KEEL_KV_F32));
    const std::vector<int32_t> ids = reference.tokenize(
        "It was a dark and stormy night, and the captain of the ship stood alone upon the deck. ", KEEL_TOKENIZE_BOS);
    const keel_test::Logits want = reference.logits_for(ids);
    const auto kl = [&](keel_kv_format f) {
        return mean_kl(want, keel_test::Engine(kBooks, config(f, f)).logits_for(ids));
    };
    const double q8 = kl(KEEL_KV_Q8_0), e8_8 = kl(KEEL_KV_E8_8), tcq2 = kl(KEEL_KV_TCQ_2), tcq3 = kl(KEEL_KV_TCQ_3),
                 tcq4 = kl(KEEL_KV_TCQ_4);
    EXPECT_LT(q8, 1e-4);
    EXPECT_LT(e8_8, 1e-4);
    EXPECT_LT(tcq4, tcq3);
    EXPECT_LT(tcq3, tcq2);
    EXPECT_LT(tcq2, 0.2);
    EXPECT_LT(tcq4, 0.01);
    EXPECT_LT(kl(KEEL_KV_E8_6), kl(KEEL_KV_E8_4));
    EXPECT_LT(kl(KEEL_KV_E8_4), kl(KEEL_KV_E8_2));
    EXPECT_LT(kl(KEEL_KV_FP8_E4M3), 0.02);
    EXPECT_LT(kl(KEEL_KV_Q4_0_ROTATED), 0.05);
}

// Whatever means and gains a profile has, in f32 rows they change nothing but rounding: for interleaved and half-split
// pairs, partial rotation, windows with their own frequencies, biases.
TEST(KvProfile, MeansAndGainsAreExact) {
    for (const std::string& path : {kBooks, kTiny, kBias, kGemma, kPartialRope}) {
        SCOPED_TRACE(path);
        keel_test::Engine plain(path, config(KEEL_KV_F32, KEEL_KV_F32));
        const std::vector<int32_t> ids = some_ids(130, plain.info().vocabulary);
        const keel_test::Logits want = plain.logits_for(ids);
        KvProfileBuilder builder(plain.info(), KEEL_KV_F32, KEEL_KV_F32);
        std::mt19937 random(9);
        std::normal_distribution<float> normal;
        for (size_t i = 0; i < builder.floats(); ++i) {
            builder.key_means.push_back(normal(random));
            builder.value_means.push_back(normal(random));
            builder.gains.push_back(std::exp2(normal(random)));
        }
        for (uint32_t pair = 0; pair < 4; pair += 1 + pair) builder.pairs.push_back(pair);
        Profile profile(builder.bytes());
        keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
        const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile.reader);
        c.parts = &part;
        c.part_count = 1;
        keel_test::Engine changed(path, c);
        EXPECT_GT(changed.plan().kv_side_bytes, builder.floats() * 16);
        const keel_test::Logits got = changed.logits_for(ids);
        double magnitude = 0;
        for (float v : want.values) magnitude = std::max(magnitude, std::abs(double{v}));
        EXPECT_LT(largest_difference(want, got), 2e-3 * magnitude);
        EXPECT_GT(largest_difference(want, got), 0) << "nothing was done";
    }
}

TEST(KvProfile, FormatsPerLayerAndTheConfigurationGoesBefore) {
    keel_test::Engine plain(kBooks, config(KEEL_KV_F16, KEEL_KV_F16));
    KvProfileBuilder builder(plain.info(), KEEL_KV_TCQ_3, KEEL_KV_TCQ_2);
    builder.formats[0] = KEEL_KV_E8_8;
    builder.formats[5] = KEEL_KV_F16;
    Profile profile(builder.bytes());
    keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
    const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile.reader);
    c.parts = &part;
    c.part_count = 1;
    EXPECT_EQ(keel_test::Engine(kBooks, c).plan().kv_bytes_per_token, 2u * ((66 + 18) + (26 + 128) + 6 * (26 + 18)));
    c.v_format = KEEL_KV_TCQ_4;
    EXPECT_EQ(keel_test::Engine(kBooks, c).plan().kv_bytes_per_token, 2u * ((66 + 34) + 7 * (26 + 34)));
}

TEST(KvProfile, HostileFilesAreRefused) {
    keel_test::Engine plain(kTiny, config(KEEL_KV_F16, KEEL_KV_F16));
    KvProfileBuilder builder(plain.info(), KEEL_KV_TCQ_3, KEEL_KV_TCQ_3);
    builder.key_means.assign(builder.floats(), 0.5f);
    builder.gains.assign(builder.floats(), 2.0f);
    builder.pairs = {0, 2};
    const std::vector<uint8_t> good = builder.bytes();
    const auto status_of = [&](std::vector<uint8_t> bytes, bool seal) {
        if (seal) KvProfileBuilder::seal(bytes, false);
        Profile profile(bytes);
        keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
        const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile.reader);
        c.parts = &part;
        c.part_count = 1;
        try {
            keel_test::Engine engine(kTiny, c);
        } catch (const keel_test::Error& e) {
            return e.status;
        }
        return KEEL_OK;
    };
    EXPECT_EQ(status_of(good, false), KEEL_OK);
    for (size_t cut = 0; cut < good.size(); cut += cut < 80 ? 1 : 61)
        EXPECT_NE(status_of(std::vector<uint8_t>(good.begin(), good.begin() + static_cast<ptrdiff_t>(cut)), false),
                  KEEL_OK)
            << cut;
    for (size_t at = 0; at < good.size(); at += at < 120 ? 1 : 97) {  // any byte, without a new checksum
        std::vector<uint8_t> bad = good;
        bad[at] ^= 0x40;
        EXPECT_NE(status_of(bad, false), KEEL_OK) << at;
    }
    const auto with = [&](size_t at, const void* value, size_t n) {
        std::vector<uint8_t> bad = good;
        memcpy(bad.data() + at, value, n);
        return status_of(bad, true);
    };
    const keel::KvProfileOffsets o = keel::kv_profile_offsets(builder.header);
    const uint32_t two[2] = {2, 2}, far[2] = {0, 5000}, huge = 0xffffffff;
    const float nan = NAN, zero = 0, big = 1e30f;
    const uint8_t none = 0, beyond = 99;
    EXPECT_EQ(with(o.pairs, two, 8), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.pairs, far, 8), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.key_means + 4, &nan, 4), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.key_means + 4, &big, 4), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.gains, &zero, 4), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.gains, &nan, 4), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.formats, &none, 1), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.formats + 1, &beyond, 1), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(o.formats + 3, &beyond, 1), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(with(offsetof(keel::KvProfileHeader, version), &two, 4), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(with(offsetof(keel::KvProfileHeader, fingerprint), &two, 8), KEEL_E_FILE_MISMATCH);
    for (size_t field : {offsetof(keel::KvProfileHeader, layers), offsetof(keel::KvProfileHeader, kv_heads),
                         offsetof(keel::KvProfileHeader, head_dim), offsetof(keel::KvProfileHeader, mean_pairs),
                         offsetof(keel::KvProfileHeader, parts), offsetof(keel::KvProfileHeader, reserved),
                         offsetof(keel::KvProfileHeader, total_bytes), offsetof(keel::KvProfileHeader, header_bytes)})
        EXPECT_NE(with(field, &huge, 4), KEEL_OK) << field;
}

// A refused profile is named by its place among the parts, whatever is wrong with it: also with its reader, at any call
// of keel_plan and of keel_engine_init.
TEST(KvProfile, RefusalsNameThePart) {
    const keel_test::InspectedFile file(kTiny);
    KvProfileBuilder builder(file.info, KEEL_KV_TCQ_3, KEEL_KV_TCQ_3);
    builder.key_means.assign(builder.floats(), 0.5f);
    builder.gains.assign(builder.floats(), 2.0f);
    builder.pairs = {0, 2};
    struct Failing {
        std::vector<uint8_t> bytes;
        uint32_t calls, fail_at;
    } source = {builder.bytes(), 0, UINT32_MAX};
    const std::vector<uint8_t> good = source.bytes;
    keel_reader reader = sized<keel_reader>();
    reader.size_bytes = good.size();
    reader.user_data = &source;
    reader.read_at = [](void* user, uint64_t offset, void* dst, size_t n) {
        auto* s = static_cast<Failing*>(user);
        if (s->calls++ == s->fail_at) return KEEL_E_FILE_READ;
        memcpy(dst, s->bytes.data() + offset, n);
        return KEEL_OK;
    };
    const std::string text = "root ::= [a-z]*";
    const Profile other({text.begin(), text.end()});
    const keel_part parts[] = {keel_test::part(KEEL_PART_GRAMMAR, &other.reader),
                               keel_test::part(KEEL_PART_KV_PROFILE, &reader)};
    keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
    c.parts = parts;
    c.part_count = 2;
    keel_memory_plan plan = sized<keel_memory_plan>();
    keel_test::check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
    const keel_test::Memory memory(plan);
    const auto refused = [&](bool init, keel_status status, const char* reason) {
        keel_error error = sized<keel_error>();
        keel_engine engine = {};
        source.calls = 0;
        const keel_status got = init ? keel_engine_init(&file.reader, file.model, &c, memory.get(), &engine, &error)
                                     : keel_plan(&file.reader, file.model, &c, &plan, &error);
        if (got == KEEL_OK) {
            EXPECT_LE(source.calls, source.fail_at);
            if (init) keel_test::check(keel_engine_close(engine), "close");
            return false;
        }
        EXPECT_EQ(got, status);
        EXPECT_EQ(error.status, status);
        EXPECT_STREQ(error.field, "config.parts[1]");
        EXPECT_NE(strstr(error.reason, reason), nullptr) << error.reason;
        return true;
    };
    for (const bool init : {false, true}) {
        for (source.fail_at = 0; refused(init, KEEL_E_FILE_READ, "the reader failed");) ++source.fail_at;
        EXPECT_GT(source.fail_at, init ? 10u : 5u);
        source.fail_at = UINT32_MAX;
        source.bytes.back() ^= 1;
        EXPECT_TRUE(refused(init, KEEL_E_FILE_FORMAT, "checksum: "));
        source.bytes = good;
        source.bytes[offsetof(keel::KvProfileHeader, fingerprint)] ^= 1;
        EXPECT_TRUE(refused(init, KEEL_E_FILE_MISMATCH, "fingerprint: "));
        source.bytes = good;
    }
}

// What was good when it was checked is checked again when it is read for use.
TEST(KvProfile, AFileThatChangesMeanwhileIsRefused) {
    keel_test::Engine plain(kTiny, config(KEEL_KV_F16, KEEL_KV_F16));
    KvProfileBuilder builder(plain.info(), KEEL_KV_TCQ_3, KEEL_KV_TCQ_3);
    builder.key_means.assign(builder.floats(), 0.25f);
    builder.value_means.assign(builder.floats(), -0.5f);
    builder.gains.assign(builder.floats(), 2.0f);
    builder.pairs = {0, 3};
    std::vector<uint8_t> file = builder.bytes();
    const std::vector<uint8_t> good = file;
    keel_reader reader = keel_test::sized<keel_reader>();
    keel_test::check(keel_reader_from_memory(file.data(), file.size(), &reader), "reader");
    const keel_model_info& info = plain.info();
    auto choice = std::make_unique<keel::KvChoice>();
    const keel::KvModelShape shape = {info.fingerprint, info.layers, info.kv_heads, info.head_dim, info.head_dim / 2};
    ASSERT_EQ(keel::read_kv_profile(reader, shape, choice.get(), nullptr), KEEL_OK);
    std::vector<uint32_t> pairs(2);
    std::vector<float> keys(builder.floats()), values(builder.floats()), gains(builder.floats());
    const auto read = [&] {
        return keel::read_kv_profile_arrays(*choice, shape.rope_pairs,
                                            {pairs.data(), keys.data(), values.data(), gains.data()}, nullptr);
    };
    ASSERT_EQ(read(), KEEL_OK);
    EXPECT_EQ(pairs, builder.pairs);
    EXPECT_EQ(gains, builder.gains);
    const keel::KvProfileOffsets o = keel::kv_profile_offsets(builder.header);
    const uint32_t descending[2] = {3, 0};
    const float zero = 0, nan = NAN;
    const struct {
        uint64_t offset;
        const void* bytes;
        size_t count;
    } changes[] = {{o.pairs, descending, 8}, {o.gains + 4, &zero, 4}, {o.key_means, &nan, 4}, {o.value_means, &nan, 4}};
    for (const auto& change : changes) {
        file = good;  // in the reader's memory
        memcpy(file.data() + change.offset, change.bytes, change.count);
        EXPECT_EQ(read(), KEEL_E_FILE_READ) << change.offset;
    }
}

// Seeds of tests/fuzz/kv_profile_fuzz.cpp; KEEL_WRITE_CORPUS=1 writes them again after a change of the format.
TEST(KvProfile, FuzzCorpusIsCurrent) {
    keel_test::Engine plain(kTiny, config(KEEL_KV_F16, KEEL_KV_F16));
    for (int parts = 0; parts < 2; ++parts) {
        KvProfileBuilder builder(plain.info(), KEEL_KV_TCQ_3, KEEL_KV_E8_2);
        if (parts) {
            builder.key_means.assign(builder.floats(), 0.25f);
            builder.value_means.assign(builder.floats(), -0.5f);
            builder.gains.assign(builder.floats(), 2.0f);
            builder.pairs = {0, 3};
        }
        const std::vector<uint8_t> bytes = builder.bytes();
        const std::string path = keel_test::source_path(parts ? "tests/fuzz/corpus/kv_profile/all-parts"
                                                              : "tests/fuzz/corpus/kv_profile/formats");
        if (getenv("KEEL_WRITE_CORPUS"))
            std::ofstream(path, std::ios::binary)
                .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        const std::vector<char> seed = keel_test::read_file(path);
        ASSERT_EQ(seed.size(), bytes.size()) << path;
        EXPECT_EQ(0, memcmp(seed.data(), bytes.data(), bytes.size())) << path;
    }
}

// Saved rows fit engines that code rows in the same way only.
TEST(KvProfile, SessionsNameTheirProfile) {
    keel_test::Engine plain(kTiny, config(KEEL_KV_TCQ_3, KEEL_KV_TCQ_3));
    plain.feed(some_ids(70, plain.info().vocabulary));
    plain.advance();
    uint64_t bytes = 0, written = 0;
    keel_test::check(keel_session_save_bytes(plain.session(), &bytes), "save_bytes");
    std::vector<uint8_t> blob(bytes);
    keel_test::check(keel_session_save(plain.session(), blob.data(), bytes, &written), "save");
    KvProfileBuilder builder(plain.info(), KEEL_KV_TCQ_3, KEEL_KV_TCQ_3);
    builder.value_means.assign(builder.floats(), 0.5f);
    Profile profile(builder.bytes());
    keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
    const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile.reader);
    c.parts = &part;
    c.part_count = 1;
    keel_test::Engine other(kTiny, c);
    EXPECT_EQ(keel_session_restore(other.session(), blob.data(), bytes, nullptr), KEEL_E_FILE_MISMATCH);
    keel_test::Engine same(kTiny, config(KEEL_KV_TCQ_3, KEEL_KV_TCQ_3));
    EXPECT_EQ(keel_session_restore(same.session(), blob.data(), bytes, nullptr), KEEL_OK);
}

// A large K bias: removed before coding it costs nothing; left in, most of the code is spent on it.
void check_bias(const std::string& path, double gain) {
    keel_test::Engine reference(path, config(KEEL_KV_F32, KEEL_KV_F32));
    const std::vector<int32_t> ids = some_ids(200, reference.info().vocabulary);
    const keel_test::Logits want = reference.logits_for(ids);
    for (keel_kv_format format : {KEEL_KV_TCQ_3, KEEL_KV_E8_4}) {
        keel_test::Engine removed(path, config(format, KEEL_KV_F32));
        EXPECT_GT(removed.plan().kv_side_bytes, 0u);
        KvProfileBuilder empty(reference.info(), format, KEEL_KV_F32);
        Profile profile(empty.bytes());
        keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
        const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile.reader);
        c.parts = &part;
        c.part_count = 1;
        keel_test::Engine kept(path, c);
        EXPECT_EQ(kept.plan().kv_side_bytes, 0u);
        const double with = mean_kl(want, removed.logits_for(ids)), without = mean_kl(want, kept.logits_for(ids));
        EXPECT_LT(with * gain, without) << "KL " << with << " against " << without;
        printf("format %d: KL %.3g with the bias removed, %.3g with it left in\n", format, with, without);
    }
}
TEST(KvFormats, BiasIsRemovedBeforeCoding) {
    check_bias(kBias, 1.5);
}
TEST(KvFormats, BiasIsRemovedBeforeCodingConformance) {
    KEEL_SHARED_OR_SKIP(path, "conformance/models/qwen2-bias-tied-f16.gguf");
    check_bias(path, 1.3);
}

// Rows are the same bytes however their stream was cut.
TEST(KvFormats, CutStreamsGiveTheSameBytes) {
    std::vector<uint8_t> want;
    for (uint32_t chunk : {1u, 7u, 64u, 130u}) {
        keel_config c = config(KEEL_KV_TCQ_3, KEEL_KV_E8_4);
        c.chunk_tokens = chunk;
        c.logits_rows = 1;
        c.kv_sink_tokens = 4;
        keel_test::Engine engine(kTiny, c);
        const std::vector<int32_t> ids = some_ids(200, engine.info().vocabulary);
        for (size_t at = 0, n = 1; at < ids.size(); at += n, n = (n * 5 + chunk) % 71 + 1) {
            engine.feed(std::vector<int32_t>(ids.begin() + static_cast<ptrdiff_t>(at),
                                             ids.begin() + static_cast<ptrdiff_t>(std::min(at + n, ids.size()))));
            engine.advance();
        }
        uint64_t bytes = 0, written = 0;
        keel_test::check(keel_session_save_bytes(engine.session(), &bytes), "save_bytes");
        std::vector<uint8_t> blob(bytes);
        keel_test::check(keel_session_save(engine.session(), blob.data(), bytes, &written), "save");
        if (want.empty()) want = blob;
        EXPECT_EQ(blob, want) << "chunk " << chunk;
    }
}

// The profiles that come with the bundled model: the ratios in their names, and quality in that order.
TEST(KvProfile, BundledOnesAreWhatTheirNamesSay) {
    keel_test::Engine reference(kBooks, config(KEEL_KV_F16, KEEL_KV_F16, 2048));
    const std::vector<int32_t> ids =
        reference.tokenize("The old man looked at the sea for a long time before he answered. ", KEEL_TOKENIZE_BOS);
    const keel_test::Logits want = reference.logits_for(ids);
    double before = 0;
    for (const char* ratio : {"5.2", "6.2", "7.0"}) {
        keel_test::FileReader file(keel_test::source_path(std::string("samples/models/books-7m-") + ratio + "x.kvp"));
        keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT, 2048);
        const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, file.get());
        c.parts = &part;
        c.part_count = 1;
        keel_test::Engine engine(kBooks, c);
        const keel_memory_plan& p = engine.plan();
        const double bytes = static_cast<double>(p.kv_page_bytes * p.kv_pages + p.kv_session_bytes + p.kv_side_bytes),
                     f16 = static_cast<double>(reference.plan().regions[KEEL_REGION_KV].bytes);
        EXPECT_NEAR(f16 / bytes, std::stod(ratio), 0.05);
        const double kl = mean_kl(want, engine.logits_for(ids));
        EXPECT_GT(kl, before);
        EXPECT_LT(kl, 0.05);
        before = kl;
    }
}

// ---- sinks and recent rows ----
keel_config precise_config(uint32_t sinks, uint32_t recent, uint32_t rollback = 0) {
    keel_config c = config(KEEL_KV_TCQ_2, KEEL_KV_TCQ_2, 512);
    c.kv_sink_tokens = sinks ? sinks : KEEL_KV_NO_SINKS;
    c.kv_recent_tokens = recent;
    c.kv_rollback_tokens = rollback;
    c.chunk_tokens = 64;
    c.logits_rows = 1;
    c.max_sessions = 2;
    return c;
}

TEST(KvF16Window, PlanCountsItsRows) {
    const keel_test::Engine none(kBooks, precise_config(0, 0)), sinks(kBooks, precise_config(4, 0)),
        both(kBooks, precise_config(4, 100, 28));
    const uint64_t heads = 8 * 2 * 2, row = heads * 64 * 2, ring_row = heads * (64 + 2 * 2);  // codes, two scales
    EXPECT_EQ(none.plan().kv_session_bytes, 0u);
    EXPECT_EQ(sinks.plan().kv_session_bytes, 4 * row);
    EXPECT_EQ(both.plan().kv_session_bytes, 4 * row + 2 * (100 - 1 + 28) * ring_row);
    // Beside the sessions' rings one layer's rows of a step in f16: a chunk of 64, and what two sessions look back at.
    const keel_region_plan &with = both.plan().regions[KEEL_REGION_KV], &without = none.plan().regions[KEEL_REGION_KV];
    EXPECT_EQ(with.bytes - with.padding_bytes, without.bytes - without.padding_bytes +
                                                   2 * both.plan().kv_session_bytes +
                                                   (64 + 2 * (100 - 1)) * row / both.info().layers);
    // Rows coded with 8 bits or more are kept as they are.
    keel_config half = precise_config(0, 100, 28);
    half.v_format = KEEL_KV_F16;
    EXPECT_EQ(keel_test::Engine(kBooks, half).plan().kv_session_bytes, 2 * (100 - 1 + 28) * row);
}

// With everything in sight kept, codes are not read: what is lost is that of q8_0.
TEST(KvF16Window, RowsThatAreKeptAreReadAsSuch) {
    keel_config plain = precise_config(0, 0);
    plain.k_format = plain.v_format = KEEL_KV_F16;
    keel_config f32 = plain;
    f32.k_format = f32.v_format = KEEL_KV_F32;
    keel_config bytes = plain;
    bytes.k_format = bytes.v_format = KEEL_KV_Q8_0_ROTATED;
    keel_test::Engine exact(kBooks, f32), eight(kBooks, bytes), coded(kBooks, precise_config(0, 0)),
        sinks(kBooks, precise_config(64, 0)), all(kBooks, precise_config(8, 200));
    const std::vector<int32_t> ids = some_ids(200, exact.info().vocabulary);
    const keel_test::Logits want = exact.logits_for(ids);
    const double q8_0 = mean_kl(want, eight.logits_for(ids)), tcq = mean_kl(want, coded.logits_for(ids)),
                 some = mean_kl(want, sinks.logits_for(ids)), none = mean_kl(want, all.logits_for(ids));
    EXPECT_LT(none, 2 * q8_0) << "every key is recent";
    EXPECT_LT(q8_0, tcq / 100);
    EXPECT_LT(some, tcq);
    EXPECT_GT(some, none);
    // The rule, seen in one place: what lies further back than the recent ones is coded.
    keel_test::Engine recent(kBooks, precise_config(0, 100));
    const std::vector<int32_t> few(ids.begin(), ids.begin() + 100);
    EXPECT_LT(mean_kl(exact.logits_for(few), recent.logits_for(few)), 2 * q8_0);
    EXPECT_GT(mean_kl(want, recent.logits_for(ids)), 10 * q8_0);
}

// What a configuration that says nothing has: one sink where rows are coded, of one side or by a profile.
TEST(KvF16Window, TheFirstPositionIsKeptUnlessToldOtherwise) {
    const auto session_bytes = [](keel_config c) { return keel_test::Engine(kTiny, c).plan().kv_session_bytes; };
    const auto bits = [](keel_config c) {
        keel_test::Engine engine(kTiny, c);
        return engine.logits_for(some_ids(90, engine.info().vocabulary)).values;
    };
    keel_config one = config(KEEL_KV_F16, KEEL_KV_TCQ_3), none = one;
    one.kv_sink_tokens = 1;
    none.kv_sink_tokens = KEEL_KV_NO_SINKS;
    EXPECT_EQ(session_bytes(config(KEEL_KV_F16, KEEL_KV_TCQ_3)), session_bytes(one));
    EXPECT_EQ(session_bytes(none), 0u);
    EXPECT_EQ(bits(config(KEEL_KV_F16, KEEL_KV_TCQ_3)), bits(one));
    EXPECT_NE(bits(none), bits(one));
    EXPECT_EQ(session_bytes(config(KEEL_KV_F32, KEEL_KV_F16)), 0u);
    EXPECT_EQ(session_bytes(config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT)), 0u);
    KvProfileBuilder builder(keel_test::Engine(kTiny, one).info(), KEEL_KV_F16, KEEL_KV_F16);
    Profile exact(builder.bytes());
    builder.formats[builder.formats.size() - 3] = KEEL_KV_TCQ_3;  // V of the last layer
    Profile coded(builder.bytes());
    for (const Profile* profile : {&exact, &coded}) {
        keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
        const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile->reader);
        c.parts = &part;
        c.part_count = 1;
        EXPECT_EQ(session_bytes(c), profile == &coded ? session_bytes(one) : 0u);
    }
    one.kv_sink_tokens = 65;
    EXPECT_THROW(session_bytes(one), keel_test::Error);
}

TEST(KvF16Window, TruncatingBeyondTheRollbackIsRefused) {
    keel_test::Engine engine(kTiny, precise_config(4, 40, 30));
    const std::vector<int32_t> ids = some_ids(450, engine.info().vocabulary);
    engine.feed(ids);
    engine.advance();
    const std::vector<float> want(engine.row(0), engine.row(0) + engine.info().vocabulary);
    for (uint32_t back : {1u, 13u, 30u}) {
        ASSERT_EQ(keel_session_truncate(engine.session(), 450 - back), KEEL_OK) << back;
        engine.feed(std::vector<int32_t>(ids.end() - back, ids.end()));
        engine.advance();
        EXPECT_EQ(std::vector<float>(engine.row(0), engine.row(0) + engine.info().vocabulary), want) << back;
    }
    EXPECT_EQ(keel_session_truncate(engine.session(), 100), KEEL_E_STATE);
    EXPECT_EQ(keel_session_truncate(engine.session(), 1), KEEL_E_STATE);
    EXPECT_EQ(keel_session_truncate(engine.session(), 0), KEEL_OK);
    engine.feed(ids);
    engine.advance();
    EXPECT_EQ(std::vector<float>(engine.row(0), engine.row(0) + engine.info().vocabulary), want);
}

TEST(KvF16Window, SavedAndRestoredAcrossRingSizes) {
    keel_test::Engine wide(kTiny, precise_config(4, 40, 300)), narrow(kTiny, precise_config(4, 40, 1)),
        other(kTiny, precise_config(4, 41));
    const std::vector<int32_t> ids = some_ids(400, wide.info().vocabulary),
                               more = some_ids(9, wide.info().vocabulary, 6);
    wide.feed(ids);
    wide.advance();
    uint64_t bytes = 0, written = 0;
    keel_test::check(keel_session_save_bytes(wide.session(), &bytes), "save_bytes");
    std::vector<uint8_t> blob(bytes);
    keel_test::check(keel_session_save(wide.session(), blob.data(), bytes, &written), "save");
    wide.feed(more);
    wide.advance();
    const std::vector<float> want(wide.row(0), wide.row(0) + wide.info().vocabulary);
    keel_test::check(keel_session_restore(narrow.session(), blob.data(), bytes, nullptr), "restore");
    narrow.feed(more);
    narrow.advance();
    EXPECT_EQ(std::vector<float>(narrow.row(0), narrow.row(0) + narrow.info().vocabulary), want);
    EXPECT_EQ(keel_session_truncate(narrow.session(), 200), KEEL_E_STATE);
    EXPECT_EQ(keel_session_restore(other.session(), blob.data(), bytes, nullptr), KEEL_E_FILE_MISMATCH);
}

// ---- eviction ----
class KvEviction : public testing::Test {
  protected:
    KvEviction() : engine_(kTiny, make()) {}
    static keel_config make() {
        keel_config c = config(KEEL_KV_TCQ_4, KEEL_KV_TCQ_4, 512);
        c.max_sessions = 3;
        c.kv_pages = 20;
        return c;
    }
    void compute(const std::vector<int32_t>& ids) {
        engine_.feed(ids);
        engine_.advance();
    }
    std::vector<float> newest() const {
        return std::vector<float>(engine_.row(0), engine_.row(0) + engine_.info().vocabulary);
    }
    uint32_t evict(uint32_t from, uint32_t to) {
        uint32_t tokens = 0;
        keel_test::check(keel_session_evict(engine_.session(), from, to, &tokens), "evict");
        return tokens;
    }
    uint32_t free_pages() const {
        keel_stats stats = sized<keel_stats>();
        keel_test::check(keel_engine_stats(engine_.handle(), &stats), "stats");
        return stats.kv_pages_free;
    }
    keel_test::Engine engine_;
};

TEST_F(KvEviction, GivesBackWholePagesInside) {
    compute(some_ids(330, engine_.info().vocabulary));
    const uint32_t before = free_pages();
    EXPECT_EQ(evict(60, 60), 0u);
    EXPECT_EQ(evict(65, 127), 0u);
    EXPECT_EQ(evict(60, 200), 128u);
    EXPECT_EQ(free_pages(), before + 2);
    EXPECT_EQ(evict(0, 330), 192u);  // pages 0, 3 and 4; the last one is not full
    EXPECT_EQ(free_pages(), before + 5);
    keel_session_info info = sized<keel_session_info>();
    keel_test::check(keel_session_get(engine_.session(), &info), "get");
    EXPECT_EQ(info.kv_pages, 1u) << "the others are not the session's any more";
    EXPECT_EQ(keel_session_evict(engine_.session(), 0, 331, nullptr), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_session_evict(engine_.session(), 9, 8, nullptr), KEEL_E_ARGUMENT);
}

TEST_F(KvEviction, WhatIsGoneIsNotSeenAndNothingElseMoves) {
    const std::vector<int32_t> ids = some_ids(300, engine_.info().vocabulary),
                               more = some_ids(20, engine_.info().vocabulary, 8);
    compute(ids);
    compute(more);
    const std::vector<float> whole = newest();
    keel_test::check(keel_session_truncate(engine_.session(), 300), "truncate");
    EXPECT_EQ(evict(64, 192), 128u);
    compute(more);
    const std::vector<float> without = newest();
    EXPECT_NE(whole, without);
    for (float v : without) EXPECT_TRUE(std::isfinite(v));
    // Redone one by one, forked, and saved and restored: the same bits.
    keel_test::check(keel_session_truncate(engine_.session(), 300), "truncate");
    for (int32_t id : more) compute({id});
    EXPECT_EQ(newest(), without);
    keel_test::check(keel_session_truncate(engine_.session(), 300), "truncate");
    keel_session fork, restored;
    keel_test::check(keel_session_fork(engine_.session(), &fork), "fork");
    uint64_t bytes = 0, written = 0;
    keel_test::check(keel_session_save_bytes(engine_.session(), &bytes), "save_bytes");
    std::vector<uint8_t> blob(bytes);
    keel_test::check(keel_session_save(engine_.session(), blob.data(), bytes, &written), "save");
    EXPECT_EQ(bytes, written);
    keel_test::check(keel_session_open(engine_.handle(), nullptr, &restored), "open");
    keel_test::check(keel_session_restore(restored, blob.data(), bytes, nullptr), "restore");
    for (keel_session s : {fork, restored}) {
        keel_test::check(keel_session_feed(s, more.data(), 20, 0), "feed");
        keel_advance_result result = sized<keel_advance_result>();
        keel_test::check(keel_advance(engine_.handle(), &s, 1, 0, &result), "advance");
        const float* view;
        keel_test::check(keel_session_logits(s, 0, &view, nullptr), "logits");
        EXPECT_EQ(std::vector<float>(view, view + without.size()), without);
    }
    // Hostile counts and maps: a status each.
    for (size_t at = 0; at < 160; ++at) {
        std::vector<uint8_t> bad = blob;
        bad[at] ^= 1;
        const uint64_t sum = keel::hash64(bad.data(), bad.size() - 8);
        memcpy(bad.data() + bad.size() - 8, &sum, 8);
        keel_session_restore(restored, bad.data(), bytes, nullptr);  // any status, no crash
    }
}

// They are read from rows of their own, also by a query after a rollback: so their pages are not given up.
TEST(KvEvictionOfRecent, RecentPositionsStay) {
    keel_config c = config(KEEL_KV_TCQ_4, KEEL_KV_TCQ_4, 512);
    c.kv_recent_tokens = 48;
    c.kv_rollback_tokens = 17;
    keel_test::Engine engine(kTiny, c);
    const std::vector<int32_t> ids = some_ids(192, engine.info().vocabulary);
    engine.feed(ids);
    engine.advance();
    uint32_t tokens = 0;
    keel_test::check(keel_session_evict(engine.session(), 0, 192, &tokens), "evict");
    EXPECT_EQ(128u, tokens) << "one of the newest 64 lies in the last page";
    engine.feed({ids[0]});
    engine.advance();
    keel_test::check(keel_session_evict(engine.session(), 0, 193, &tokens), "evict");
    EXPECT_EQ(0u, tokens);
    engine.feed(std::vector<int32_t>(ids.begin(), ids.begin() + 63));
    engine.advance();
    keel_test::check(keel_session_evict(engine.session(), 0, 256, &tokens), "evict");
    EXPECT_EQ(64u, tokens);
}

TEST_F(KvEviction, TruncatingIntoAPageThatIsGoneIsRefused) {
    const std::vector<int32_t> ids = some_ids(300, engine_.info().vocabulary);
    compute(ids);
    const std::vector<float> want = newest();
    EXPECT_EQ(evict(64, 192), 128u);
    EXPECT_EQ(keel_session_truncate(engine_.session(), 100), KEEL_E_STATE);
    EXPECT_EQ(keel_session_truncate(engine_.session(), 191), KEEL_E_STATE);
    EXPECT_EQ(keel_session_truncate(engine_.session(), 193), KEEL_OK);
    EXPECT_EQ(keel_session_truncate(engine_.session(), 128), KEEL_OK);
    EXPECT_EQ(keel_session_truncate(engine_.session(), 64), KEEL_OK);
    compute(std::vector<int32_t>(ids.begin() + 64, ids.end()));  // the pages come back with their rows
    EXPECT_EQ(newest(), want);
}

}  // namespace
