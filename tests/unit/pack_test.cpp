// Packs: what was written comes back, an engine runs from one as from the GGUF file, and a table that may not be is
// refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "keel/keel.hpp"
#include "sdk/core/hash.h"
#include "sdk/format/gguf.h"
#include "sdk/model/adapter_file.h"
#include "sdk/model/model.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/files/pack_writer.h"
#include "tests/kv_profile_builder.h"
#include "tests/logits_of.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel::PackSection;
using keel::PackTable;
using keel_test::check;
using keel_test::read_file;
using keel_test::sized;

const std::string kModel = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
constexpr char kNote[] = "Made for tests.";
constexpr char kGrammar[] = "root ::= \"a\" | \"b\"";

template <class Bytes>
keel_reader reader_of(const Bytes& bytes) {
    keel_reader r = sized<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &r), "keel_reader_from_memory");
    return r;
}

struct Inspected {
    explicit Inspected(const keel_reader* reader) {
        check(keel_inspect(reader, nullptr, nullptr, 0, nullptr, &info, nullptr), "keel_inspect");
        buffer.resize((info.model_bytes + 7) / 8);
        check(keel_inspect(reader, nullptr, buffer.data(), buffer.size() * 8, &model, &info, nullptr), "keel_inspect");
    }
    keel_model_info info = sized<keel_model_info>();
    std::vector<uint64_t> buffer;
    const keel_model* model = nullptr;
};

// The last logits of a few tokens; in *mapped_bytes the weights that are used where they are mapped.
std::vector<float> logits(const keel_reader* reader, std::span<const keel_part> parts, keel_weights weights,
                          keel_activation activation = KEEL_ACTIVATION_DEFAULT, uint64_t* mapped_bytes = nullptr) {
    const Inspected file(reader);
    keel_config config = sized<keel_config>();
    config.threads = 1;
    config.weights = weights;
    config.activation = activation;
    config.parts = parts.data();
    config.part_count = static_cast<uint32_t>(parts.size());
    keel_memory_plan plan;
    const std::vector<float> out = keel_test::logits_of(*reader, file.model, config, &plan);
    if (mapped_bytes) *mapped_bytes = plan.mapped_weight_bytes;
    return out;
}

class Pack : public testing::Test {
  protected:
    Pack() : directory((std::filesystem::temp_directory_path() / ("keel_pack_" + std::to_string(getpid()))).string()) {
        std::filesystem::create_directories(directory);
        gguf = read_file(kModel);
        model = reader_of(gguf);
        keel_test::KvProfileBuilder profile(Inspected(&model).info, KEEL_KV_TCQ_4, KEEL_KV_TCQ_3);
        kv_profile = profile.bytes();
        kv = reader_of(kv_profile);
        note = reader_of(std::string_view(kNote));
        grammar = reader_of(std::string_view(kGrammar));
        path = directory + "/model.keel";
        inputs = {{KEEL_PACK_MODEL, 0, "model.gguf", &model},
                  {KEEL_PART_KV_PROFILE, 0, "model.kvprofile", &kv},
                  {KEEL_PACK_NOTE, 0, "LICENSE", &note},
                  {KEEL_PART_GRAMMAR, 0, "a-or-b.gbnf", &grammar}};
        keel::tools::write_pack(path, inputs);
        bytes = read_file(path);
        memcpy(&table.header, bytes.data(), sizeof table.header);
        memcpy(table.sections, bytes.data() + sizeof table.header, inputs.size() * sizeof(PackSection));
    }
    ~Pack() override { std::filesystem::remove_all(directory); }

    keel_status open(const std::vector<char>& file, keel_error* error = nullptr) const {
        const keel_reader r = reader_of(file);
        keel_pack_section sections[KEEL_PACK_MAX_SECTIONS];
        sections[0].struct_size = sizeof sections[0];
        uint32_t count = UINT32_MAX;
        const keel_status status = keel_pack_sections(&r, sections, KEEL_PACK_MAX_SECTIONS, &count, error);
        EXPECT_EQ(status != KEEL_OK, count == UINT32_MAX) << "an error fills nothing";
        return status;
    }
    // The file with another table, whose hash is right.
    std::vector<char> with(PackTable t, size_t file_bytes = 0) const {
        std::vector<char> out = bytes;
        if (file_bytes) out.resize(file_bytes);
        if (t.header.section_count <= KEEL_PACK_MAX_SECTIONS) t.header.table_hash = pack_table_hash(t);
        memcpy(out.data(), &t.header, sizeof t.header);
        memcpy(out.data() + sizeof t.header, t.sections, inputs.size() * sizeof(PackSection));
        return out;
    }

    const std::string directory;
    std::string path;
    std::vector<char> gguf, bytes;
    std::vector<uint8_t> kv_profile;
    keel_reader model, kv, note, grammar;
    std::vector<keel::tools::PackInput> inputs;
    PackTable table{};
};

TEST_F(Pack, WhatWasWrittenComesBack) {
    const keel::Result<keel::FileReader> file = keel::FileReader::open(path.c_str());
    check(file.status, "open");
    uint32_t count = 0;
    check(keel_pack_sections(file->get(), nullptr, 0, &count, nullptr), "keel_pack_sections");
    ASSERT_EQ(count, inputs.size());
    std::vector<keel_pack_section> sections(count, sized<keel_pack_section>());
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel_pack_sections(file->get(), sections.data(), 2, &count, nullptr));
    check(keel_pack_sections(file->get(), sections.data(), count, &count, nullptr), "keel_pack_sections");
    for (uint32_t i = 0; i < count; ++i) {
        EXPECT_EQ(sections[i].kind, inputs[i].kind);
        EXPECT_EQ(sections[i].name, inputs[i].name);
        keel_reader part = sized<keel_reader>();
        check(keel_pack_reader(file->get(), &sections[i], &part), "keel_pack_reader");
        ASSERT_EQ(part.size_bytes, inputs[i].bytes->size_bytes);
        std::vector<char> read(part.size_bytes);
        EXPECT_EQ(0, memcmp(part.mapped, inputs[i].bytes->mapped, read.size()));
        EXPECT_EQ(0u, reinterpret_cast<uintptr_t>(part.mapped) % keel::kPackAlignBytes);
        check(part.read_at(part.user_data, part.begin_bytes, read.data(), read.size()), "read_at");
        EXPECT_EQ(0, memcmp(read.data(), inputs[i].bytes->mapped, read.size()));
        EXPECT_EQ(sections[i].hash, keel::hash64(read.data(), read.size()));
    }
    check(keel_pack_verify(file->get(), nullptr), "keel_pack_verify");
    keel::tools::unpack(path, *file->get(), directory + "/files");
    EXPECT_EQ(read_file(directory + "/files/model.gguf"), gguf);
    EXPECT_EQ(read_file(directory + "/files/LICENSE"), std::vector<char>(kNote, kNote + sizeof kNote - 1));
}

TEST_F(Pack, AnEngineRunsFromItAsFromTheFiles) {
    const keel::Result<keel::FileReader> file = keel::FileReader::open(path.c_str());
    check(file.status, "open");
    keel::Pack pack;
    check(pack.open(file->get()), "Pack::open");
    ASSERT_EQ(2u, pack.parts().size());
    const keel_part parts[] = {keel_test::part(KEEL_PART_KV_PROFILE, &kv),
                               keel_test::part(KEEL_PART_GRAMMAR, &grammar)};
    const std::vector<float> plain = logits(&model, {}, KEEL_WEIGHTS_COPY),
                             profiled = logits(&model, parts, KEEL_WEIGHTS_COPY);
    EXPECT_NE(plain, profiled);
    for (const keel_weights weights : {KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_REPACK, KEEL_WEIGHTS_MAP}) {
        EXPECT_EQ(plain, logits(pack.model(), {}, weights)) << weights;
        EXPECT_EQ(profiled, logits(pack.model(), pack.parts(), weights)) << weights;
    }
}

// Interleaved rows: the same bits in every mode and kernel set, the same fingerprint, and plain again when unpacked.
TEST_F(Pack, InterleavedRows) {
    for (const char* name : {"tests/data/architectures/smollm2-q8_0.gguf", "samples/models/books-7m-f16.gguf",
                             "tests/data/architectures/qwen2-mqa-tied.gguf"}) {
        SCOPED_TRACE(name);
        const std::vector<char> plain_file = read_file(keel_test::source_path(name));
        const keel_reader plain = reader_of(plain_file);
        keel::tools::write_pack(directory + "/rows.keel",
                                {{KEEL_PACK_MODEL, keel::kPackInterleaved, "model.gguf", &plain}});
        const keel::Result<keel::FileReader> file = keel::FileReader::open((directory + "/rows.keel").c_str());
        check(file.status, "open");
        keel::Pack pack;
        check(pack.open(file->get()), "Pack::open");
        EXPECT_EQ(pack.model()->interleaved_rows, 16u);
        EXPECT_EQ(Inspected(pack.model()).info.fingerprint, Inspected(&plain).info.fingerprint);
        const std::vector<float> expected = logits(&plain, {}, KEEL_WEIGHTS_COPY);
        for (const keel_weights weights :
             {KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_REPACK, KEEL_WEIGHTS_MAP})
            EXPECT_EQ(expected, logits(pack.model(), {}, weights)) << weights;
        uint64_t mapped_bytes = 0, plain_mapped_bytes = 0;
        logits(&plain, {}, KEEL_WEIGHTS_MAP, KEEL_ACTIVATION_DEFAULT, &plain_mapped_bytes);
        logits(pack.model(), {}, KEEL_WEIGHTS_MAP, KEEL_ACTIVATION_DEFAULT, &mapped_bytes);
        EXPECT_EQ(mapped_bytes, plain_mapped_bytes);
        EXPECT_EQ(logits(&plain, {}, KEEL_WEIGHTS_COPY, KEEL_ACTIVATION_F32),
                  logits(pack.model(), {}, KEEL_WEIGHTS_COPY, KEEL_ACTIVATION_F32));
        keel::tools::unpack("rows.keel", *file->get(), directory + "/plain");
        EXPECT_EQ(read_file(directory + "/plain/model.gguf"), plain_file);
    }
    // Nothing multiplies such rows with f32 activations, so mapped ones cannot be used.
    const keel_reader plain = reader_of(gguf);
    keel::tools::write_pack(directory + "/rows.keel",
                            {{KEEL_PACK_MODEL, keel::kPackInterleaved, "model.gguf", &plain}});
    const keel::Result<keel::FileReader> file = keel::FileReader::open((directory + "/rows.keel").c_str());
    keel::Pack pack;
    check(pack.open(file->get()), "Pack::open");
    EXPECT_THROW(logits(pack.model(), {}, KEEL_WEIGHTS_MAP, KEEL_ACTIVATION_F32), keel_test::Error);
    // The plain file's model does not fit this reader, nor the other way round.
    const Inspected inspected(&plain);
    keel_reader wrong = *pack.model();
    wrong.interleaved_rows = 8;
    keel_model_info info = sized<keel_model_info>();
    EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_inspect(&wrong, nullptr, nullptr, 0, nullptr, &info, nullptr));
    // Adapters have plain rows.
    const std::vector<char> lora = read_file(keel_test::source_path("tests/data/adapters/llama-all.gguf"));
    keel_reader adapter = reader_of(lora);
    keel::AdapterFile opened;
    EXPECT_EQ(KEEL_OK, keel::adapter_open(adapter, nullptr, &opened, nullptr));
    adapter.interleaved_rows = 16;
    EXPECT_EQ(KEEL_E_UNSUPPORTED, keel::adapter_open(adapter, nullptr, &opened, nullptr));
}

// On a GPU's backend too (tests/cuda): it lays rows out in an order of its own, and looks up plain ones.
TEST_F(Pack, InterleavedRowsOnAnyBackend) {
    keel::tools::write_pack(directory + "/rows.keel", {{KEEL_PACK_MODEL, keel::kPackInterleaved, "m", &model}});
    const keel::Result<keel::FileReader> file = keel::FileReader::open((directory + "/rows.keel").c_str());
    check(file.status, "open");
    keel::Pack pack;
    check(pack.open(file->get()), "Pack::open");
    for (const keel_activation activation : {KEEL_ACTIVATION_DEFAULT, KEEL_ACTIVATION_F32}) {
        const std::vector<float> expected = logits(&model, {}, KEEL_WEIGHTS_COPY, activation);
        EXPECT_EQ(expected, logits(pack.model(), {}, KEEL_WEIGHTS_COPY, activation)) << activation;
    }
    EXPECT_EQ(logits(&model, {}, KEEL_WEIGHTS_COPY), logits(pack.model(), {}, KEEL_WEIGHTS_MAP));
}

// Any piece of a tensor, and any blocks of whole groups of rows, are those of the plain file.
TEST_F(Pack, PiecesOfInterleavedTensors) {
    keel::tools::write_pack(directory + "/rows.keel", {{KEEL_PACK_MODEL, keel::kPackInterleaved, "m", &model}});
    const keel::Result<keel::FileReader> file = keel::FileReader::open((directory + "/rows.keel").c_str());
    check(file.status, "open");
    keel::Pack pack;
    check(pack.open(file->get()), "Pack::open");
    const Inspected plain(&model), rows(pack.model());
    const keel::Gguf view = plain.model->view(), packed = rows.model->view();
    uint32_t interleaved = 0;
    for (uint32_t i = 0; i < view.tensor_count; ++i) {
        const keel::GgufTensor &t = view.tensors[i], &p = packed.tensors[i];
        interleaved += p.interleaved;
        ASSERT_EQ(t.interleaved, 0u);
        std::vector<char> all(t.bytes), got(t.bytes);
        check(keel::read_tensor(model, t, 0, all.data(), t.bytes), "read_tensor");
        check(keel::read_tensor(*pack.model(), p, 0, got.data(), t.bytes), "read_tensor");
        ASSERT_EQ(all, got) << i;
        for (uint64_t at = 0, n = 1; at < t.bytes; at += n, n = n * 5 / 2 + 1) {
            n = std::min(n, t.bytes - at);
            check(keel::read_tensor(*pack.model(), p, at, got.data(), n), "read_tensor");
            ASSERT_EQ(0, memcmp(all.data() + at, got.data(), n)) << i << " " << at;
        }
        const auto& info = keel::kernels::kWeightTypes[t.type];
        const uint64_t blocks = t.dims[0] / info.block_elements, row_bytes = blocks * info.block_bytes;
        if (!p.interleaved || blocks < 3) continue;
        const uint64_t row = t.dims[1] - 16, count = blocks - 2, bytes = count * info.block_bytes;
        check(keel::read_rows(*pack.model(), p, row, 16, 1, count, got.data()), "read_rows");
        for (uint64_t r = 0; r < 16; ++r)
            ASSERT_EQ(0, memcmp(all.data() + (row + r) * row_bytes + info.block_bytes, got.data() + r * bytes, bytes));
    }
    EXPECT_GT(interleaved, 10u);
}

TEST_F(Pack, EveryFlippedBitIsFound) {
    const size_t table_end = sizeof table.header + inputs.size() * sizeof(PackSection);
    for (size_t at = 0; at < table_end; ++at) {
        std::vector<char> bad = bytes;
        bad[at] ^= static_cast<char>(1 << at % 8);
        ASSERT_NE(KEEL_OK, open(bad)) << at;
    }
    // Behind the table: by keel_pack_verify alone.
    std::vector<size_t> places = {table_end, bytes.size() - 1};
    for (size_t i = 0; i < inputs.size(); ++i) {
        places.push_back(table.sections[i].offset + table.sections[i].bytes / 2);
        if (i) places.push_back(table.sections[i].offset - 1);
    }
    for (const size_t at : places) {
        std::vector<char> bad = bytes;
        bad[at] ^= 0x10;
        const keel_reader r = reader_of(bad);
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_pack_verify(&r, &error)) << at;
        EXPECT_LE(error.offset, at);
    }
}

TEST_F(Pack, CutAndLengthened) {
    for (const size_t size : {size_t{0}, size_t{7}, size_t{63}, size_t{64}, size_t{4096}, bytes.size() - 1}) {
        const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
        EXPECT_EQ(KEEL_E_FILE_FORMAT, open(cut)) << size;
        // One that says so of itself.
        PackTable t = table;
        t.header.file_bytes = size;
        if (size >= 4096) {
            EXPECT_EQ(KEEL_E_FILE_FORMAT, open(with(t, size))) << size;
        }
    }
    PackTable t = table;
    t.header.file_bytes += 1;
    EXPECT_EQ(KEEL_E_FILE_FORMAT, open(with(t, bytes.size() + 1)));
}

TEST_F(Pack, TablesThatMayNotBe) {
    EXPECT_EQ(KEEL_OK, open(with(table)));
    const auto refused = [&](const char* what, auto change, keel_status status = KEEL_E_FILE_FORMAT) {
        PackTable t = table;
        change(t);
        keel_error error = sized<keel_error>();
        // As long as the table says, where that is shorter.
        EXPECT_EQ(status, open(with(t, std::min<size_t>(t.header.file_bytes, bytes.size())), &error)) << what;
        EXPECT_STRNE("", error.field) << what;
    };
    const auto name = [](PackSection& s, const char* text) {
        memset(s.name, 0, sizeof s.name);
        memcpy(s.name, text, std::min(sizeof s.name, strlen(text)));
    };
    refused(
        "version", [](PackTable& t) { t.header.version = 2; }, KEEL_E_UNSUPPORTED);
    refused("no section", [](PackTable& t) { t.header.section_count = 0; });
    refused("too many", [](PackTable& t) { t.header.section_count = KEEL_PACK_MAX_SECTIONS + 1; });
    refused("zeros", [](PackTable& t) { t.header.zero[3] = 1; });
    refused("no model", [](PackTable& t) { t.sections[0].kind = KEEL_PACK_NOTE; });
    refused("two models", [](PackTable& t) { t.sections[1].kind = KEEL_PACK_MODEL; });
    refused("a flag", [](PackTable& t) { t.sections[1].flags = 1; });
    refused("another flag", [](PackTable& t) { t.sections[3].flags = 2; });
    refused("a gap", [](PackTable& t) { t.sections[2].offset += keel::kPackAlignBytes; });
    refused("an overlap", [](PackTable& t) { t.sections[2].offset = t.sections[1].offset; });
    refused("not aligned", [](PackTable& t) { t.sections[1].offset += 64; });
    refused("empty", [](PackTable& t) { t.sections[1].bytes = 0; });
    refused("beyond the end", [](PackTable& t) { t.sections[3].bytes += 1; });
    refused("shorter", [](PackTable& t) { t.sections[3].bytes -= 1; });
    refused("around the end of numbers", [](PackTable& t) { t.sections[0].bytes = UINT64_MAX - t.sections[0].offset; });
    refused("behind the end, and around the end of numbers", [](PackTable& t) {
        t.header.file_bytes = t.sections[2].offset + t.sections[2].bytes;
        t.sections[3].bytes = t.header.file_bytes - t.sections[3].offset;
    });
    refused("largest", [](PackTable& t) { t.sections[2].bytes = UINT64_MAX; });
    for (const char* bad : {"", ".hidden", "..", "a/b", "/etc/passwd", "a\\b", "a b", "model.gguf", "\xc3\xa9",
                            "a-name-of-exactly-thirty-two-cha"})
        refused(bad, [&](PackTable& t) { name(t.sections[2], bad); });
    refused("behind the name", [](PackTable& t) { t.sections[2].name[31] = 'x'; });
    // A kind of a newer library is no matter of the pack: a plan with it says so.
    PackTable t = table;
    t.sections[1].kind = 77;
    EXPECT_EQ(KEEL_OK, open(with(t)));
}

// A file of 2^64 - 1 bytes that answers every read.
TEST_F(Pack, AReaderThatLies) {
    PackTable t = table;
    t.header.file_bytes = UINT64_MAX;
    t.sections[0].bytes = UINT64_MAX - 4096 - t.sections[0].offset;
    t.sections[1].offset = 0;  // behind the largest number
    const std::vector<char> file = with(t);
    keel_reader r = sized<keel_reader>();
    r.size_bytes = UINT64_MAX;
    r.user_data = const_cast<std::vector<char>*>(&file);
    r.read_at = [](void* self, uint64_t offset, void* dst, size_t n) {
        const auto& f = *static_cast<std::vector<char>*>(self);
        memset(dst, 0, n);
        if (offset < f.size()) memcpy(dst, f.data() + offset, std::min<size_t>(n, f.size() - offset));
        return KEEL_OK;
    };
    uint32_t count;
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_pack_sections(&r, nullptr, 0, &count, nullptr));
    r.read_at = [](void*, uint64_t, void*, size_t) { return KEEL_E_FILE_READ; };
    EXPECT_EQ(KEEL_E_FILE_READ, keel_pack_sections(&r, nullptr, 0, &count, nullptr));
}

TEST_F(Pack, PartsOfReaders) {
    keel_reader part = sized<keel_reader>(), inner = sized<keel_reader>();
    const keel_reader whole = reader_of(bytes);
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_reader_part(&whole, bytes.size(), 1, &part));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_reader_part(&whole, UINT64_MAX, 2, &part));
    EXPECT_EQ(KEEL_OK, keel_reader_part(&whole, bytes.size(), 0, &part));
    ASSERT_EQ(KEEL_OK, keel_reader_part(&whole, table.sections[0].offset, gguf.size(), &part));
    ASSERT_EQ(KEEL_OK, keel_reader_part(&part, 4, 8, &inner));
    EXPECT_EQ(0, memcmp(inner.mapped, gguf.data() + 4, 8));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_reader_part(&part, gguf.size() - 4, 8, &inner));
    // Closing a part does nothing to the file.
    keel::Result<keel::FileReader> file = keel::FileReader::open(path.c_str());
    check(file.status, "open");
    ASSERT_EQ(KEEL_OK, keel_reader_part(file->get(), table.sections[0].offset, gguf.size(), &part));
    keel_reader_close(&part);
    char magic[4];
    EXPECT_EQ(KEEL_OK, file->get()->read_at(file->get()->user_data, table.sections[0].offset, magic, 4));
    EXPECT_EQ(0, memcmp(magic, "GGUF", 4));
    EXPECT_EQ(0, memcmp(file->get()->mapped, &keel::kPackMagic, 8));
}

TEST_F(Pack, TheWriterRefusesWhatTheReaderWould) {
    const auto refused = [&](const std::vector<keel::tools::PackInput>& bad) {
        EXPECT_THROW(keel::tools::write_pack(directory + "/bad.keel", bad), keel::tools::ToolError);
        EXPECT_FALSE(std::filesystem::exists(directory + "/bad.keel"));
    };
    refused({inputs[1]});
    refused({inputs[0], inputs[0]});
    refused({inputs[0], {KEEL_PACK_NOTE, 0, "a/b", &note}});
    refused({inputs[0], {KEEL_PACK_NOTE, 0, std::string(32, 'n'), &note}});
    refused({inputs[0], {KEEL_PACK_NOTE, 0, "model.gguf", &note}});
    std::vector<keel::tools::PackInput> notes = {inputs[0]};
    for (int i = 0; i < 5; ++i) notes.push_back({KEEL_PACK_NOTE, 0, "note" + std::to_string(i), &note});
    refused(notes);
    notes.resize(5);
    keel::tools::write_pack(directory + "/good.keel", notes);
    EXPECT_TRUE(std::filesystem::exists(directory + "/good.keel"));
}

}  // namespace
