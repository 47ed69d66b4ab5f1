// Coded models in packs: an engine computes the same bits from one, any plain bytes can be read, unpacking gives the
// file to the byte, and what is damaged or may not be is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "keel/keel.hpp"
#include "kernels/cpu/kernel_set.h"
#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"
#include "sdk/format/coded_file.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/files/pack_writer.h"
#include "sdk/tools/files/synth.h"
#include "tests/fenced_memory.h"
#include "tests/logits_of.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel::CodedChunk;
using keel::CodedFooter;
using keel::CodedStretch;
using keel::tools::PackCodec;
using keel_test::check;
using keel_test::read_file;
using keel_test::sized;

keel_reader reader_of(const std::vector<char>& bytes) {
    keel_reader r = sized<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &r), "keel_reader_from_memory");
    return r;
}

// The model of a pack that lies in memory.
keel_reader model_of(const std::vector<char>& pack, keel_error* error = nullptr) {
    const keel_reader whole = reader_of(pack);
    keel_pack_section sections[KEEL_PACK_MAX_SECTIONS];
    sections[0].struct_size = sizeof sections[0];
    uint32_t count;
    check(keel_pack_sections(&whole, sections, KEEL_PACK_MAX_SECTIONS, &count, error), "keel_pack_sections", error);
    keel_reader model = sized<keel_reader>();
    check(keel_pack_reader(&whole, sections, &model), "keel_pack_reader");
    return model;
}

std::string temporary(const std::string& name) {
    return (std::filesystem::temp_directory_path() / ("keel_coded_" + std::to_string(getpid()) + "_" + name)).string();
}

std::vector<char> pack(const std::vector<char>& gguf, PackCodec codec, bool interleave) {
    const keel_reader plain = reader_of(gguf);
    const std::string path = temporary("pack");
    keel::tools::write_pack(path, {{KEEL_PACK_MODEL, interleave ? keel::kPackInterleaved : 0, "model.gguf", &plain}},
                            codec);
    std::vector<char> bytes = read_file(path);
    std::filesystem::remove(path);
    return bytes;
}

// A model with matrices of 17 to 70 KB in Q8_0, and one of several chunks.
const std::vector<char>& quantized() {
    static const std::vector<char> file = [] {
        const std::string path = temporary("q8_0.gguf");
        keel::tools::SynthSpec spec;
        spec.mix = "Q8_0";
        spec.layers = 1;
        spec.overrides = {{"ffn_gate", "Q4_K"}, {"ffn_up", "F16"}, {"attn_q", "Q6_K"}};
        keel::tools::synth_write(path, spec);
        std::vector<char> bytes = read_file(path);
        std::filesystem::remove(path);
        return bytes;
    }();
    return file;
}

struct Loading {
    keel_weights weights = KEEL_WEIGHTS_DEFAULT;
    uint32_t threads = 1;
    bool parallel_for = false;
};
// The last logits of a few tokens, with exactly the planned memory.
std::vector<float> logits(const keel_reader& reader, const Loading& how, keel_memory_plan* plan_out = nullptr) {
    keel_model_info info = sized<keel_model_info>();
    keel_error error = sized<keel_error>();
    check(keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &info, &error), "keel_inspect", &error);
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model;
    check(keel_inspect(&reader, nullptr, buffer.data(), buffer.size() * 8, &model, &info, &error), "keel_inspect");
    keel_hooks hooks = sized<keel_hooks>();
    hooks.parallel_for = [](void*, uint32_t tasks, void (*task)(void*, uint32_t), void* context) {
        std::vector<std::thread> threads;
        for (uint32_t i = 0; i < tasks; ++i) threads.emplace_back(task, context, i);
        for (std::thread& t : threads) t.join();
    };
    keel_config config = sized<keel_config>();
    config.threads = how.threads;
    config.weights = how.weights;
    if (how.parallel_for) config.hooks = &hooks;
    return keel_test::logits_of(reader, model, config, plan_out);
}

// Reads the plain file as an engine does, on so many threads.
struct Decoded {
    Decoded(const keel_reader& coded, uint32_t threads)
        : work(keel::CodedFile::work_bytes(threads), 64, keel_test::Fence::kBehind) {
        const auto run = [](void*, uint32_t tasks, void (*task)(void*, uint32_t), void* context) {
            for (uint32_t i = tasks; i-- > 0;) task(context, i);
        };
        file.open(coded, {keel::kernels::kScalarSet.rans_decode, threads, run, nullptr}, work.data());
    }
    keel_test::FencedMemory work;
    keel::CodedFile file;
};

TEST(Coded, TheSameBitsAndTheFileToTheByte) {
    const std::vector<char> books = read_file(keel_test::source_path("samples/models/books-7m-f16.gguf"));
    for (const std::vector<char>* gguf : {&quantized(), &books}) {
        const keel_reader plain = reader_of(*gguf);
        const std::vector<float> expected = logits(plain, {});
        for (const bool interleave : {false, true}) {
            if (interleave && gguf == &books) continue;  // it has no rows that could be
            const std::vector<char> file = pack(*gguf, PackCodec::kRans, interleave);
            EXPECT_LT(file.size(), gguf->size() * 96 / 100);
            const keel_reader model = model_of(file);
            EXPECT_EQ(model.size_bytes, gguf->size());
            EXPECT_GT(model.coded_bytes, 0u);
            EXPECT_EQ(expected, logits(model, {KEEL_WEIGHTS_DEFAULT, 2, false}));
            if (gguf == &quantized()) {
                EXPECT_EQ(expected, logits(model, {KEEL_WEIGHTS_COPY, 1, false}));
                EXPECT_EQ(expected, logits(model, {KEEL_WEIGHTS_REPACK, 3, true}));
            }
            const keel_reader whole = reader_of(file);
            check(keel_pack_verify(&whole, nullptr), "keel_pack_verify");
            keel::tools::unpack("model.keel", whole, temporary("files"));
            EXPECT_EQ(read_file(temporary("files") + "/model.gguf"), *gguf);
            std::filesystem::remove_all(temporary("files"));
        }
    }
}

TEST(Coded, AnyBytesOfThePlainFile) {
    std::mt19937 random(1);
    for (const bool interleave : {false, true}) {
        const std::vector<char> turned = pack(quantized(), PackCodec::kRaw, interleave);
        const std::vector<char> file = pack(quantized(), PackCodec::kRans, interleave);
        const keel_reader expected = model_of(turned), model = model_of(file);
        const char* bytes = static_cast<const char*>(expected.mapped);
        std::vector<char> got(model.size_bytes);
        for (const uint32_t threads : {1u, 3u}) {
            Decoded decoded(model, threads);
            const keel_reader fast = decoded.file.reader();
            check(keel::read_at(fast, 0, got.data(), got.size()), "read_at");
            ASSERT_EQ(0, memcmp(got.data(), bytes, got.size()));
            for (int i = 0; i < 200; ++i) {
                const uint64_t at = random() % got.size(), n = random() % (i % 2 ? 5000 : 600000) % (got.size() - at);
                check(keel::read_at(fast, at, got.data(), n), "read_at");
                ASSERT_EQ(0, memcmp(got.data(), bytes + at, n)) << at << " " << n;
                if (i >= 40) continue;
                check(keel::read_at(model, at, got.data(), n), "read_at");
                ASSERT_EQ(0, memcmp(got.data(), bytes + at, n)) << at << " " << n;
            }
            EXPECT_EQ(KEEL_E_FILE_READ, keel::read_at(fast, got.size() - 1, got.data(), 2));
            EXPECT_EQ(KEEL_E_FILE_READ, keel::read_at(model, got.size() - 1, got.data(), 2));
        }
    }
}

// Fingerprints read nothing that is coded: what a chunk holds does not matter to them.
TEST(Coded, IsKnownWithoutDecoding) {
    for (const bool interleave : {false, true}) {
        std::vector<char> file = pack(quantized(), PackCodec::kRans, interleave);
        keel_reader model = model_of(file);
        CodedFooter footer;
        check(keel::read_coded_footer(model, &footer, nullptr), "read_coded_footer");
        char* section = file.data() + (static_cast<const char*>(model.mapped) - file.data());
        for (uint32_t i = 0; i < footer.chunk_count; ++i) {
            CodedChunk chunk;
            memcpy(&chunk,
                   section + footer.stretches_at + footer.stretch_count * sizeof(CodedStretch) + i * sizeof chunk,
                   sizeof chunk);
            memset(section + chunk.at, 0x5a, chunk.bytes);
        }
        const keel_reader plain = reader_of(quantized());
        uint64_t fingerprint[2];
        for (const keel_reader* r : {&plain, static_cast<const keel_reader*>(&model)}) {
            keel_model_info info = sized<keel_model_info>();
            check(keel_inspect(r, nullptr, nullptr, 0, nullptr, &info, nullptr), "keel_inspect");
            std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
            const keel_model* m;
            check(keel_inspect(r, nullptr, buffer.data(), buffer.size() * 8, &m, &info, nullptr), "keel_inspect");
            fingerprint[r != &plain] = info.fingerprint;
        }
        EXPECT_EQ(fingerprint[0], fingerprint[1]);
        // An engine finds it, by name.
        try {
            logits(model, {});
            ADD_FAILURE() << "damaged weights were loaded";
        } catch (const keel_test::Error& e) {
            EXPECT_EQ(e.status, KEEL_E_FILE_FORMAT);
            EXPECT_NE(std::string(e.what()).find("damaged"), std::string::npos) << e.what();
        }
    }
}

TEST(Coded, MemoryAndModes) {
    const std::vector<char> file = pack(quantized(), PackCodec::kRans, true);
    const keel_reader model = model_of(file);
    for (const keel_weights mapped : {KEEL_WEIGHTS_MAP, KEEL_WEIGHTS_MAP_LOCKED})
        EXPECT_THROW(logits(model, {mapped, 1, false}), keel_test::Error);
    // Decoding takes place where activations will lie, and needs no more than the plan has.
    keel_memory_plan plan, coded_plan;
    logits(reader_of(quantized()), {KEEL_WEIGHTS_COPY, 2, false}, &plan);
    logits(model, {KEEL_WEIGHTS_COPY, 2, false}, &coded_plan);
    EXPECT_EQ(coded_plan.regions[KEEL_REGION_WEIGHTS].bytes, plan.regions[KEEL_REGION_WEIGHTS].bytes);
    EXPECT_GE(coded_plan.regions[KEEL_REGION_SCRATCH].bytes, keel::CodedFile::work_bytes(2));
    // A part of a coded file is none, and it is no part of a configuration.
    keel_reader part = sized<keel_reader>();
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_reader_part(&model, 0, 64, &part));
}

TEST(Coded, AutoLeavesWhatSavesLittle) {
    std::vector<char> even(quantized());
    // Codes that are even in all their bits.
    std::mt19937 random(2);
    const keel_reader plain = reader_of(even);
    const keel::tools::GgufTables tables = keel::tools::scan_gguf(plain, "the model");
    for (const keel::GgufTensor& t : tables.tensors)
        for (uint64_t i = 0; i < t.bytes; ++i) even[t.offset + i] = static_cast<char>(random());
    EXPECT_EQ(model_of(pack(even, PackCodec::kAuto, false)).coded_bytes, 0u);
    EXPECT_EQ(model_of(pack(even, PackCodec::kRaw, false)).coded_bytes, 0u);
    EXPECT_GT(model_of(pack(quantized(), PackCodec::kAuto, false)).coded_bytes, 0u);
}

// The coded section of a pack, in memory of its own.
class CodedTable : public testing::Test {
  protected:
    CodedTable() : file(pack(quantized(), PackCodec::kRans, false)) {
        model = model_of(file);
        const char* begin = static_cast<const char*>(model.mapped);
        section.assign(begin, begin + model.coded_bytes);
        check(keel::read_coded_footer(model, &footer, nullptr), "read_coded_footer");
        stretches.resize(footer.stretch_count);
        chunks.resize(footer.chunk_count);
        memcpy(stretches.data(), section.data() + footer.stretches_at, stretches.size() * sizeof(CodedStretch));
        memcpy(chunks.data(), section.data() + chunks_at(), chunks.size() * sizeof(CodedChunk));
        first_coded = 0;
        while (stretches[first_coded].type == keel::kCodedRaw) ++first_coded;
    }
    uint64_t chunks_at() const { return footer.stretches_at + footer.stretch_count * sizeof(CodedStretch); }
    // The section with these tables, whose hash is right.
    std::vector<char> with(CodedFooter f) const {
        std::vector<char> out = section;
        memcpy(out.data() + footer.stretches_at, stretches.data(), stretches.size() * sizeof(CodedStretch));
        memcpy(out.data() + chunks_at(), chunks.data(), chunks.size() * sizeof(CodedChunk));
        f.table_hash = 0;
        uint64_t state = keel::hash_update(keel::kHashSeed, out.data() + footer.stretches_at,
                                           out.size() - sizeof f - footer.stretches_at);
        f.table_hash = keel::hash_finish(keel::hash_update(state, reinterpret_cast<const char*>(&f), sizeof f));
        memcpy(out.data() + out.size() - sizeof f, &f, sizeof f);
        return out;
    }
    keel_reader reader(const std::vector<char>& bytes) const {
        keel_reader r = reader_of(bytes);
        r.size_bytes = model.size_bytes;
        r.coded_bytes = bytes.size();
        return r;
    }

    const std::vector<char> file;
    keel_reader model;
    std::vector<char> section;
    CodedFooter footer;
    std::vector<CodedStretch> stretches;
    std::vector<CodedChunk> chunks;
    size_t first_coded;
};

TEST_F(CodedTable, EveryFlippedBitIsFound) {
    EXPECT_EQ(KEEL_OK, keel::check_coded(reader(section), nullptr));
    EXPECT_EQ(with(footer), section);
    for (size_t at = footer.stretches_at; at < section.size(); at += at < section.size() - 200 ? 7 : 1) {
        std::vector<char> bad = section;
        bad[at] ^= static_cast<char>(1 << at % 8);
        keel_error error = sized<keel_error>();
        ASSERT_NE(KEEL_OK, keel::check_coded(reader(bad), &error)) << at;
        ASSERT_STRNE("", error.field);
    }
    // Behind the table: by the checksum of the chunk, or the state in which its stream ends.
    std::vector<char> all(model.size_bytes);
    for (size_t i = 0; i < chunks.size(); ++i) {
        std::vector<char> bad = section;
        bad[chunks[i].at + chunks[i].bytes * (i % 5) / 5] ^= 4;
        const keel_reader r = reader(bad);
        Decoded decoded(r, 2);
        EXPECT_EQ(KEEL_E_FILE_FORMAT, decoded.file.read(0, all.data(), all.size())) << i;
        EXPECT_STREQ("a packed chunk is damaged", decoded.file.fault());
    }
}

TEST_F(CodedTable, TablesThatMayNotBe) {
    const auto refused = [&](const char* what, auto change, keel_status status = KEEL_E_FILE_FORMAT) {
        const auto kept_stretches = stretches;
        const auto kept_chunks = chunks;
        CodedFooter f = footer;
        change(f);
        const std::vector<char> bad = with(f);
        keel_error error = sized<keel_error>();
        EXPECT_EQ(status, keel::check_coded(reader(bad), &error)) << what;
        EXPECT_STRNE("", error.field) << what;
        EXPECT_STRNE("the table is damaged", error.reason) << what;
        stretches = kept_stretches;
        chunks = kept_chunks;
        // Who does not check reads what it can, and no byte elsewhere.
        std::vector<char> all(model.size_bytes);
        const keel_reader r = reader(bad);
        Decoded decoded(r, 2);
        decoded.file.read(0, all.data(), all.size());
        for (size_t at = 0; at < all.size(); at += 50000) keel::read_at(r, at, all.data(), 100);
    };
    const size_t c = first_coded;
    refused("magic", [](CodedFooter& f) { f.magic ^= 1; });
    refused(
        "version", [](CodedFooter& f) { f.version = 2; }, KEEL_E_UNSUPPORTED);
    refused("zero", [](CodedFooter& f) { f.zero = 1; });
    refused("zeros", [](CodedFooter& f) { f.zeros = 1; });
    refused("no plain bytes", [](CodedFooter& f) { f.plain_bytes = 0; });
    refused("other plain bytes", [](CodedFooter& f) { ++f.plain_bytes; });
    refused("no stretch", [](CodedFooter& f) { f.stretch_count = 0; });
    refused("a stretch more", [](CodedFooter& f) { ++f.stretch_count; });
    refused("most stretches", [](CodedFooter& f) { f.stretch_count = f.chunk_count = UINT32_MAX; });
    refused("a chunk less", [](CodedFooter& f) { --f.chunk_count; });
    refused("the table elsewhere", [](CodedFooter& f) { f.stretches_at -= 8; });
    refused("the table nowhere", [](CodedFooter& f) { f.stretches_at = UINT64_MAX - 8; });
    refused("frequencies elsewhere", [](CodedFooter& f) { f.frequencies_at += 2; });
    refused("a gap", [&](CodedFooter&) { ++stretches[c].begin; });
    refused("nothing", [&](CodedFooter&) { stretches[c].end = stretches[c].begin; });
    refused("backwards", [&](CodedFooter&) { stretches[c].end = stretches[c].begin - 1; });
    refused("beyond the file", [&](CodedFooter&) { stretches.back().end = UINT64_MAX; });
    refused("raw elsewhere", [&](CodedFooter&) { stretches[0].at = 8; });
    refused("raw in rows", [&](CodedFooter&) { stretches[0].interleaved = 1; });
    refused("raw beyond the data", [&](CodedFooter& f) {
        stretches[0].end = f.plain_bytes;
        stretches[0].at = 0;
    });
    refused("no type", [&](CodedFooter&) { stretches[c].type = 9999; });
    refused("another type", [&](CodedFooter&) { stretches[c].type = 1; });
    refused("interleaved twice", [&](CodedFooter&) { stretches[c].interleaved = 2; });
    refused("other frequencies", [&](CodedFooter&) { stretches[c].at += 1; });
    refused("frequencies before all", [&](CodedFooter&) { stretches[c].at = 0; });
    refused("frequencies behind all", [&](CodedFooter&) { stretches[c].at = UINT64_MAX; });
    refused("another chunk", [&](CodedFooter&) { stretches[c].first_chunk += 1; });
    refused("the last chunk", [&](CodedFooter&) { stretches[c].first_chunk = UINT32_MAX; });
    refused("zero of a stretch", [&](CodedFooter&) { stretches[c].zero = 1; });
    refused("a chunk of nothing", [&](CodedFooter&) { chunks[0].bytes = 0; });
    refused("a longer chunk", [&](CodedFooter&) { chunks[0].bytes += 2; });
    refused("an overlong chunk", [&](CodedFooter&) { chunks[0].bytes = UINT32_MAX; });
    refused("an overlong chunk within the data", [&](CodedFooter&) {
        chunks[0].bytes = 600000;
        chunks[1].at = chunks[0].at + chunks[0].bytes;
    });
    refused("a chunk elsewhere", [&](CodedFooter&) { chunks[1].at -= 1; });
    refused("a chunk behind all", [&](CodedFooter&) { chunks[1].at = UINT64_MAX; });
    // Frequencies.
    const auto damaged = [&](const char* what, size_t at, char byte) {
        std::vector<char> kept = section;
        section[footer.frequencies_at + at] = byte;
        refused(what, [](CodedFooter&) {});
        section = kept;
    };
    const char first = section[footer.frequencies_at];
    damaged("a sum of less", 2, static_cast<char>(section[footer.frequencies_at + 2] ^ 1));
    damaged("one byte more of a class", 0, static_cast<char>(first ? first - 1 : first + 1));
    damaged("all bytes alike", 0, static_cast<char>(255));
}

// It would be decoded anew for each of its values.
TEST_F(CodedTable, AHeaderIsNotCoded) {
    stretches[0].type = stretches[first_coded].type;
    const std::vector<char> bad = with(footer);
    const keel_reader r = reader(bad);
    keel_model_info info = sized<keel_model_info>();
    keel_error error = sized<keel_error>();
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_inspect(&r, nullptr, nullptr, 0, nullptr, &info, &error));
    EXPECT_STREQ("entropy coded: only tensors may be", error.reason);
}

// A stretch up to the last byte there can be: no sum of its numbers may begin again at 0, where it has no chunks.
TEST_F(CodedTable, AStretchWithoutEndIsRefused) {
    constexpr uint64_t kRaw = 4096;
    const CodedStretch& coded = stretches[first_coded];
    const char* frequencies = section.data() + coded.at;
    keel::Frequencies parsed;
    const uint32_t used = keel::parse_frequencies(reinterpret_cast<const uint8_t*>(frequencies),
                                                  static_cast<uint32_t>(section.data() + section.size() - frequencies),
                                                  keel::kernels::byte_classes(keel::stretch_type(coded)), parsed);
    ASSERT_GT(used, 0u);
    CodedFooter f = footer;
    f.plain_bytes = UINT64_MAX;
    f.stretch_count = 2;
    f.chunk_count = 0;
    f.stretches_at = kRaw;
    f.frequencies_at = kRaw + 2 * sizeof(CodedStretch);
    f.table_hash = 0;
    CodedStretch two[2] = {{0, kRaw, 0, keel::kCodedRaw, 0, 0, 0}, coded};
    two[1].begin = kRaw;
    two[1].end = UINT64_MAX;
    two[1].at = f.frequencies_at;
    two[1].first_chunk = 0;
    std::vector<char> bad(section.begin(), section.begin() + kRaw);
    bad.insert(bad.end(), reinterpret_cast<const char*>(two), reinterpret_cast<const char*>(two + 2));
    bad.insert(bad.end(), frequencies, frequencies + used);
    const uint64_t state = keel::hash_update(keel::kHashSeed, bad.data() + kRaw, bad.size() - kRaw);
    f.table_hash = keel::hash_finish(keel::hash_update(state, reinterpret_cast<const char*>(&f), sizeof f));
    bad.insert(bad.end(), reinterpret_cast<const char*>(&f), reinterpret_cast<const char*>(&f + 1));
    keel_reader r = reader_of(bad);
    r.size_bytes = UINT64_MAX;
    r.coded_bytes = bad.size();
    keel_error error = sized<keel_error>();
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel::check_coded(r, &error));
    EXPECT_STREQ("plain_bytes", error.field);
    // Within what chunks can hold, the stretch has too few of them.
    EXPECT_EQ(UINT64_MAX / keel::coded_chunk_bytes(keel::stretch_type(coded), coded.interleaved),
              keel::stretch_chunks({0, UINT64_MAX, 0, coded.type, coded.interleaved, 0, 0}) - 1);
}

TEST_F(CodedTable, ParsesOnlyFrequencies) {
    keel::Frequencies out;
    const uint8_t alike[] = {1, 0}, one[] = {7, 7, 0xff, 31}, two[] = {7, 8, 0xff, 31, 1}, cut[] = {0, 255, 1},
                  half[] = {7, 8, 0xff}, spare[] = {7, 8, 0xff, 31, 0x81, 0};
    EXPECT_EQ(2u, keel::parse_frequencies(alike, sizeof alike, 1, out));
    EXPECT_EQ(16, out[0][0]);
    EXPECT_EQ(0u, keel::parse_frequencies(alike, sizeof alike, 2, out));
    EXPECT_EQ(0u, keel::parse_frequencies(one, sizeof one, 1, out)) << "4095 of 4096";
    EXPECT_EQ(5u, keel::parse_frequencies(two, sizeof two, 1, out));
    EXPECT_EQ(4095, out[0][7]);
    EXPECT_EQ(1, out[0][8]);
    EXPECT_EQ(0u, keel::parse_frequencies(cut, sizeof cut, 1, out));
    EXPECT_EQ(0u, keel::parse_frequencies(half, sizeof half, 1, out));
    EXPECT_EQ(0u, keel::parse_frequencies(spare, sizeof spare, 1, out)) << "two bytes for what one holds";
    EXPECT_EQ(0u, keel::parse_frequencies(alike, 0, 1, out));
}

}  // namespace
