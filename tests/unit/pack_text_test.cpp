// Packed text of packs: what was packed comes back, an engine computes the same bits and maps the same tensors, memory
// is exact, and what is damaged or may not be is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "keel/keel.hpp"
#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/gguf.h"
#include "sdk/model/model.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/files/pack_writer.h"
#include "sdk/tools/files/synth.h"
#include "sdk/tools/files/zstd_frame.h"
#include "tests/fenced_memory.h"
#include "tests/gguf_cases.h"
#include "tests/logits_of.h"
#include "tests/test_paths.h"
#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace {

using keel::PackSection;
using keel::PackTable;
using keel::PackText;
using keel::tools::PackCodec;
using keel_test::check;
using keel_test::Fence;
using keel_test::FencedMemory;
using keel_test::read_file;
using keel_test::sized;
using Bytes = std::vector<char>;

keel_reader reader_of(const Bytes& bytes) {
    keel_reader r = sized<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &r), "keel_reader_from_memory");
    return r;
}

Bytes seed() {
    return read_file(keel_test::source_path("tests/fuzz/corpus/pack/zstd"));
}

struct Inspected {
    explicit Inspected(const keel_reader* reader) {
        keel_error error = sized<keel_error>();
        check(keel_inspect(reader, nullptr, nullptr, 0, nullptr, &info, &error), "keel_inspect", &error);
        buffer.resize((info.model_bytes + 7) / 8);
        check(keel_inspect(reader, nullptr, buffer.data(), buffer.size() * 8, &model, &info, &error), "keel_inspect",
              &error);
    }
    keel_model_info info = sized<keel_model_info>();
    std::vector<uint64_t> buffer;
    const keel_model* model = nullptr;
};

// In builds without zstd, too.
TEST(PackText, IsRefusedWhereItWasNotExpanded) {
    const Bytes file = seed();
    const keel_reader whole = reader_of(file);
    check(keel_pack_verify(&whole, nullptr), "keel_pack_verify");
    keel::Pack pack;
    check(pack.open(&whole), "Pack::open");
    ASSERT_EQ(pack.packed_text(0), pack.model());
    ASSERT_NE(pack.packed_text(1), nullptr);
    EXPECT_EQ(pack.packed_text(2), nullptr);
    const auto refused = [](keel_status status, const keel_error& error) {
        EXPECT_EQ(status, KEEL_E_UNSUPPORTED);
        EXPECT_NE(std::string(error.field).find("reader"), std::string::npos) << error.field;
        EXPECT_NE(std::string(error.reason).find("keel_pack_expand_text"), std::string::npos) << error.reason;
    };
    keel_error error = sized<keel_error>();
    keel_model_info info = sized<keel_model_info>();
    refused(keel_inspect(pack.model(), nullptr, nullptr, 0, nullptr, &info, &error), error);
    // Where the model was inspected elsewhere, by the plan and the engine; a part by both.
    const Bytes gguf = read_file(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"));
    const keel_reader plain = reader_of(gguf);
    const Inspected inspected(&plain);
    keel_reader packed = plain;
    packed.text_bytes = inspected.model->gguf.data_offset;
    keel_config config = sized<keel_config>();
    keel_memory_plan plan = sized<keel_memory_plan>();
    keel_memory memory = sized<keel_memory>();
    keel_engine engine;
    refused(keel_plan(&packed, inspected.model, &config, &plan, &error), error);
    refused(keel_engine_init(&packed, inspected.model, &config, &memory, &engine, &error), error);
    keel_part part = keel_test::part(KEEL_PART_CHAT_TEMPLATE, pack.packed_text(1));
    config.parts = &part;
    config.part_count = 1;
    refused(keel_plan(&plain, inspected.model, &config, &plan, &error), error);
    part.kind = KEEL_PART_KV_PROFILE;  // no text
    EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_plan(&plain, inspected.model, &config, &plan, &error));
    // A part of one is none, and neither are more bytes of text than the file or its header has.
    keel_reader inner = sized<keel_reader>();
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_reader_part(pack.model(), 0, 64, &inner));
    packed.text = gguf.data();
    packed.text_bytes = gguf.size() + 1;
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_inspect(&packed, nullptr, nullptr, 0, nullptr, &info, &error));
    packed.text_bytes = packed.text_stored_bytes = inspected.model->gguf.data_offset + 1;
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_inspect(&packed, nullptr, nullptr, 0, nullptr, &info, &error));
    config = sized<keel_config>();
    EXPECT_EQ(KEEL_E_FILE_MISMATCH, keel_plan(&packed, inspected.model, &config, &plan, &error));
    --packed.text_bytes;
    --packed.text_stored_bytes;
    EXPECT_EQ(KEEL_OK, keel_plan(&packed, inspected.model, &config, &plan, &error)) << error.reason;
}

#ifdef KEEL_HAVE_PACK

std::string temporary(const std::string& name) {
    return (std::filesystem::temp_directory_path() / ("keel_text_" + std::to_string(getpid()) + "_" + name)).string();
}

std::string repeated(const std::string& text, size_t bytes) {
    std::string out;
    for (uint32_t i = 0; out.size() < bytes; ++i) out += text + std::to_string(i) + "\n";
    return out;
}

Bytes bytes_of(const std::string& text) {
    return Bytes(text.begin(), text.end());
}

// Expanded in exactly the memory that was asked for.
struct Expanded {
    explicit Expanded(const keel_reader& section) : reader(section) {
        keel_pack_text_info info = sized<keel_pack_text_info>();
        check(keel_pack_inspect_text(&section, &info, nullptr), "keel_pack_inspect_text");
        text = std::make_unique<FencedMemory>(info.text_bytes, 1, Fence::kBehind);
        const FencedMemory work(info.work_bytes, 8, Fence::kBehind);
        keel_error error = sized<keel_error>();
        check(keel_pack_expand_text(&reader, text->data(), info.text_bytes, work.data(), info.work_bytes, &error),
              "keel_pack_expand_text", &error);
    }
    std::unique_ptr<FencedMemory> text;
    keel_reader reader;
};

Bytes all_of(const keel_reader& reader) {
    Bytes out(reader.size_bytes);
    check(keel::read_at(reader, 0, out.data(), out.size()), "read_at");
    return out;
}

Bytes pack_of(const std::vector<keel::tools::PackInput>& inputs, PackCodec codec) {
    const std::string path = temporary("pack");
    keel::tools::write_pack(path, inputs, codec);
    Bytes bytes = read_file(path);
    std::filesystem::remove(path);
    return bytes;
}

std::vector<float> logits(const keel_reader& reader, std::span<const keel_part> parts, keel_weights weights,
                          uint64_t* mapped_bytes = nullptr) {
    const Inspected file(&reader);
    keel_config config = sized<keel_config>();
    config.threads = 2;
    config.weights = weights;
    config.parts = parts.data();
    config.part_count = static_cast<uint32_t>(parts.size());
    keel_memory_plan plan;
    const std::vector<float> out = keel_test::logits_of(reader, file.model, config, &plan);
    if (mapped_bytes) *mapped_bytes = plan.mapped_weight_bytes;
    return out;
}

// With rows of whole groups, so that they can be interleaved, and worth coding.
const Bytes& quantized() {
    static const Bytes file = [] {
        const std::string path = temporary("q8_0.gguf");
        keel::tools::SynthSpec spec;
        spec.mix = "Q8_0";
        spec.layers = 1;
        spec.overrides = {{"ffn_up", "F16"}};
        keel::tools::synth_write(path, spec);
        Bytes bytes = read_file(path);
        std::filesystem::remove(path);
        return bytes;
    }();
    return file;
}

class PackedText : public testing::Test {
  protected:
    PackedText()
        : gguf(quantized()),
          chat_template(bytes_of(repeated("{# a remark #}", 20000) + "{{ messages[0].content }}")),
          grammar(bytes_of("root ::= \"a\"\n" + repeated("# a remark ", 9000))),
          note(bytes_of(repeated("What a licence says. ", 12000))),
          readers{reader_of(gguf), reader_of(chat_template), reader_of(grammar), reader_of(note)},
          inputs{{KEEL_PACK_MODEL, 0, "model.gguf", &readers[0]},
                 {KEEL_PART_CHAT_TEMPLATE, 0, "chat.jinja", &readers[1]},
                 {KEEL_PART_GRAMMAR, 0, "a.gbnf", &readers[2]},
                 {KEEL_PACK_NOTE, 0, "LICENSE", &readers[3]}},
          file(pack_of(inputs, PackCodec::kZstd)) {
        memcpy(&table.header, file.data(), sizeof table.header);
        memcpy(table.sections, file.data() + sizeof table.header, inputs.size() * sizeof(PackSection));
    }
    // Sections of a pack as readers, with text that is packed.
    static std::vector<keel_reader> sections(const Bytes& pack) {
        const keel_reader whole = reader_of(pack);
        std::vector<keel_pack_section> s(KEEL_PACK_MAX_SECTIONS, sized<keel_pack_section>());
        uint32_t count = 0;
        check(keel_pack_sections(&whole, s.data(), KEEL_PACK_MAX_SECTIONS, &count, nullptr), "keel_pack_sections");
        std::vector<keel_reader> out(count, sized<keel_reader>());
        for (uint32_t i = 0; i < count; ++i) check(keel_pack_reader(&whole, &s[i], &out[i]), "keel_pack_reader");
        return out;
    }
    // Whether all of section i of these bytes can be used as the file it was made of, and if not, why.
    static keel_status use(const Bytes& pack, uint32_t i, Bytes* out = nullptr, keel_error* error = nullptr) {
        const keel_reader whole = reader_of(pack);
        keel_pack_section s[KEEL_PACK_MAX_SECTIONS];
        s[0] = sized<keel_pack_section>();
        uint32_t count = 0;
        keel_reader section = sized<keel_reader>();
        KEEL_TRY(keel_pack_sections(&whole, s, KEEL_PACK_MAX_SECTIONS, &count, error));
        KEEL_TRY(keel_pack_reader(&whole, &s[i], &section));
        keel_pack_text_info info = sized<keel_pack_text_info>();
        KEEL_TRY(keel_pack_inspect_text(&section, &info, error));
        const FencedMemory text(info.text_bytes, 1, Fence::kBehind), work(info.work_bytes, 8, Fence::kBehind);
        KEEL_TRY(keel_pack_expand_text(&section, text.data(), info.text_bytes, work.data(), info.work_bytes, error));
        if (out) *out = all_of(section);
        return KEEL_OK;
    }
    // The pack with another beginning of section i, whose other bytes stay; hashes are right.
    Bytes with(uint32_t i, const PackText& header, const std::vector<uint8_t>& frame = {}) const {
        Bytes out = file;
        PackTable t = table;
        char* at = out.data() + t.sections[i].offset;
        memcpy(at, &header, sizeof header);
        if (!frame.empty()) memcpy(at + sizeof header, frame.data(), frame.size());
        t.sections[i].hash = keel::hash64(at, t.sections[i].bytes);
        t.header.table_hash = keel::pack_table_hash(t);
        memcpy(out.data(), &t.header, sizeof t.header);
        memcpy(out.data() + sizeof t.header, t.sections, inputs.size() * sizeof(PackSection));
        return out;
    }
    PackText header_of(uint32_t i) const {
        PackText out;
        memcpy(&out, file.data() + table.sections[i].offset, sizeof out);
        return out;
    }

    const Bytes gguf, chat_template, grammar, note;
    const keel_reader readers[4];
    const std::vector<keel::tools::PackInput> inputs;
    const Bytes file;
    PackTable table{};
};

TEST_F(PackedText, ComesBack) {
    for (const uint32_t interleaved : {0u, keel::kPackInterleaved})
        for (const PackCodec codec : {PackCodec::kZstd, PackCodec::kAuto}) {
            std::vector<keel::tools::PackInput> given = inputs;
            given[0].flags = interleaved;
            const Bytes pack = pack_of(given, codec), raw = pack_of(given, PackCodec::kRaw);
            const keel_reader whole = reader_of(pack);
            check(keel_pack_verify(&whole, nullptr), "keel_pack_verify");
            const std::vector<keel_reader> packed = sections(pack), plain = sections(raw);
            for (uint32_t i = 0; i < packed.size(); ++i) {
                ASSERT_GT(packed[i].text_bytes, 0u) << i;
                EXPECT_EQ(packed[i].coded_bytes != 0, i == 0 && codec == PackCodec::kAuto);
                EXPECT_EQ(all_of(plain[i]), all_of(Expanded(packed[i]).reader)) << i;
            }
            // Any bytes, over the end of the text too.
            const Expanded model(packed[0]);
            std::mt19937 random(1);
            const Bytes expected = all_of(plain[0]);
            Bytes got(expected.size());
            for (int k = 0; k < 100; ++k) {
                const uint64_t at = k % 2 ? model.reader.text_bytes - random() % 100 : random() % got.size(),
                               n = random() % 3000 % (got.size() - at);
                check(keel::read_at(model.reader, at, got.data(), n), "read_at");
                ASSERT_EQ(0, memcmp(got.data(), expected.data() + at, n)) << at << " " << n;
            }
            EXPECT_EQ(KEEL_E_FILE_READ, keel::read_at(model.reader, got.size() - 1, got.data(), 2));
            EXPECT_EQ(KEEL_E_FILE_READ, keel::read_at(packed[0], packed[0].text_bytes - 1, got.data(), 2));
            keel::tools::unpack("model.keel", whole, temporary("files"));
            EXPECT_EQ(read_file(temporary("files") + "/model.gguf"), gguf);
            EXPECT_EQ(read_file(temporary("files") + "/chat.jinja"), chat_template);
            EXPECT_EQ(read_file(temporary("files") + "/a.gbnf"), grammar);
            EXPECT_EQ(read_file(temporary("files") + "/LICENSE"), note);
            std::filesystem::remove_all(temporary("files"));
        }
    EXPECT_LT(file.size(), pack_of(inputs, PackCodec::kRaw).size());
}

TEST_F(PackedText, AnEngineRunsFromIt) {
    const std::vector<float> expected = logits(readers[0], {}, KEEL_WEIGHTS_COPY);
    uint64_t plain_mapped = 0;
    logits(readers[0], {}, KEEL_WEIGHTS_MAP, &plain_mapped);
    for (const uint32_t interleaved : {0u, keel::kPackInterleaved})
        for (const PackCodec codec : {PackCodec::kZstd, PackCodec::kAuto}) {
            std::vector<keel::tools::PackInput> given = inputs;
            given[0].flags = interleaved;
            const std::string path = temporary("model.keel");
            keel::tools::write_pack(path, given, codec);
            {
                const keel::Result<keel::FileReader> opened = keel::FileReader::open(path.c_str());
                check(opened.status, "open");
                keel::Pack pack;
                check(pack.open(opened->get()), "Pack::open");
                std::vector<std::unique_ptr<Expanded>> texts;
                for (uint32_t i = 0; keel_reader* section = pack.packed_text(i); ++i) {
                    texts.push_back(std::make_unique<Expanded>(*section));
                    *section = texts.back()->reader;
                }
                EXPECT_EQ(3u, texts.size());
                EXPECT_EQ(Inspected(pack.model()).info.fingerprint, Inspected(&readers[0]).info.fingerprint);
                for (const keel_weights weights : {KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_REPACK})
                    EXPECT_EQ(expected, logits(*pack.model(), pack.parts(), weights)) << weights;
                if (codec == PackCodec::kAuto) {
                    EXPECT_THROW(logits(*pack.model(), {}, KEEL_WEIGHTS_MAP), keel_test::Error);
                } else {
                    // Tensors lie in the mapping as in that of the file, modulo pages.
                    uint64_t mapped = 0;
                    EXPECT_EQ(expected, logits(*pack.model(), pack.parts(), KEEL_WEIGHTS_MAP, &mapped));
                    EXPECT_EQ(mapped, plain_mapped);
                    EXPECT_GT(mapped, 0u);
                    const Inspected model(pack.model());
                    const uint64_t at = model.model->gguf.data_offset;
                    EXPECT_EQ(reinterpret_cast<uintptr_t>(keel::mapped_at(*pack.model(), at)) % 4096, at % 4096);
                    EXPECT_EQ(expected, logits(*pack.model(), {}, KEEL_WEIGHTS_MAP_LOCKED));
                }
            }
            std::filesystem::remove(path);
        }
}

// The text must not be written over while the engine reads it.
TEST_F(PackedText, RegionsLieApartFromIt) {
    const Expanded model(sections(file)[0]);
    const Inspected inspected(&model.reader);
    keel_config config = sized<keel_config>();
    keel_memory_plan plan = sized<keel_memory_plan>();
    check(keel_plan(&model.reader, inspected.model, &config, &plan, nullptr), "keel_plan");
    const keel_test::Memory memory(plan);
    keel_memory given = *memory.get();
    keel_reader reader = model.reader;
    reader.text = static_cast<const char*>(given.regions[KEEL_REGION_SCRATCH].data) + 8;
    memcpy(static_cast<char*>(given.regions[KEEL_REGION_SCRATCH].data) + 8, model.text->data(), model.text->bytes());
    ASSERT_GT(given.regions[KEEL_REGION_SCRATCH].bytes, model.text->bytes() + 8);
    keel_engine engine;
    keel_error error = sized<keel_error>();
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_engine_init(&reader, inspected.model, &config, &given, &engine, &error));
    EXPECT_STREQ("overlaps the text of the reader", error.reason);
}

TEST_F(PackedText, MemoryIsExact) {
    for (const bool mapped : {true, false}) {
        keel_reader section = sections(file)[0];
        const keel_reader whole = reader_of(file);
        if (!mapped) {
            section.user_data = const_cast<keel_reader*>(&whole);
            section.read_at = [](void* from, uint64_t at, void* dst, size_t n) {
                return keel::read_at(*static_cast<const keel_reader*>(from), at, dst, n);
            };
            section.mapped = nullptr;
        }
        keel_pack_text_info info = sized<keel_pack_text_info>();
        check(keel_pack_inspect_text(&section, &info, nullptr), "keel_pack_inspect_text");
        EXPECT_EQ(info.text_bytes, section.text_bytes);
        EXPECT_EQ(info.packed_bytes, header_of(0).frame_bytes);
        const FencedMemory text(info.text_bytes, 1, Fence::kBehind), work(info.work_bytes, 8, Fence::kBehind);
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_MEMORY_TOO_SMALL, keel_pack_expand_text(&section, text.data(), info.text_bytes - 1,
                                                                 work.data(), info.work_bytes, &error));
        EXPECT_STREQ("text_bytes", error.field);
        EXPECT_EQ(KEEL_E_MEMORY_TOO_SMALL, keel_pack_expand_text(&section, text.data(), info.text_bytes, work.data(),
                                                                 info.work_bytes - 1, &error));
        EXPECT_STREQ("work_bytes", error.field);
        EXPECT_EQ(KEEL_E_MEMORY_ALIGN, keel_pack_expand_text(&section, text.data(), info.text_bytes, work.data() + 4,
                                                             info.work_bytes, &error));
        EXPECT_EQ(section.text, nullptr);
        check(keel_pack_expand_text(&section, text.data(), info.text_bytes, work.data(), info.work_bytes, &error),
              "keel_pack_expand_text", &error);
        EXPECT_EQ(section.text, text.data());
        EXPECT_EQ(all_of(section), gguf);
        EXPECT_EQ(KEEL_E_ARGUMENT, keel_pack_expand_text(&section, nullptr, 0, work.data(), info.work_bytes, &error));
    }
    const keel_reader plain = readers[0];
    keel_pack_text_info info = sized<keel_pack_text_info>();
    EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_pack_inspect_text(&plain, &info, nullptr));
}

// 3 % of what a section takes, which begins at a whole page; and nothing that is no text.
TEST_F(PackedText, AutoLeavesWhatSavesLittle) {
    std::mt19937 random(2);
    Bytes noise(20000), one_page(bytes_of(repeated("x", 3000)));
    for (char& c : noise) c = static_cast<char>(random());
    const keel_reader noisy = reader_of(noise), small = reader_of(one_page);
    const std::vector<keel::tools::PackInput> given = {inputs[0],
                                                       {KEEL_PACK_NOTE, 0, "noise", &noisy},
                                                       {KEEL_PACK_NOTE, 0, "small", &small},
                                                       {KEEL_PART_DRAFT_POOL, 0, "pool", &readers[3]},
                                                       inputs[3]};
    for (const PackCodec codec : {PackCodec::kAuto, PackCodec::kZstd, PackCodec::kRaw, PackCodec::kRans}) {
        const bool packs = codec == PackCodec::kAuto || codec == PackCodec::kZstd;
        const std::vector<keel_reader> s = sections(pack_of(given, codec));
        EXPECT_EQ(s[0].text_bytes != 0, packs);
        for (const uint32_t raw : {1u, 2u, 3u}) EXPECT_EQ(0u, s[raw].text_bytes) << raw;
        EXPECT_EQ(s[4].text_bytes != 0, packs);
    }
}

TEST_F(PackedText, EveryFlippedBitIsFound) {
    // Without the hashes of the pack, which only keel_pack_verify compares with sections. zstd does not
    // need a few bits, such as how large a window is: then the text is the right one.
    Bytes bad = file, out;
    for (const uint32_t i : {0u, 1u}) {
        const uint64_t begin = table.sections[i].offset, n = sizeof(PackText) + header_of(i).frame_bytes;
        uint32_t tried = 0, harmless = 0;
        for (uint64_t at = 0; at < n; at += at < 64 ? 1 : 13)
            for (uint32_t bit = 0; bit < 8; bit += at < 64 ? 1 : 3) {
                const char flip = static_cast<char>(1 << bit);
                bad[begin + at] ^= flip;
                const bool used = use(bad, i, &out) == KEEL_OK;
                bad[begin + at] ^= flip;
                ++tried;
                if (!used) continue;
                ++harmless;
                ASSERT_GE(at, sizeof(PackText));
                ASSERT_EQ(out, i == 0 ? gguf : chat_template) << at << " " << bit;
            }
        EXPECT_LT(harmless, tried / 20);
    }
    bad[table.sections[1].offset + 200] ^= 4;
    const keel_reader whole = reader_of(bad);
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_pack_verify(&whole, nullptr));
}

TEST_F(PackedText, WhatMayNotBe) {
    const auto refused = [&](const char* what, uint32_t i, keel_status status, const std::string& reason, auto change) {
        PackText header = header_of(i);
        std::vector<uint8_t> frame;
        change(header, frame);
        keel_error error = sized<keel_error>();
        EXPECT_EQ(status, use(with(i, header, frame), i, nullptr, &error)) << what;
        EXPECT_EQ(reason, error.reason) << what;
    };
    using Frame = std::vector<uint8_t>;
    const std::vector<uint8_t> zeros(1u << 20, 0);
    for (const uint32_t i : {0u, 1u}) {
        EXPECT_EQ(KEEL_OK, use(with(i, header_of(i)), i));
        refused("magic", i, KEEL_E_FILE_FORMAT, "has no header of one", [](PackText& h, Frame&) { ++h.magic; });
        refused("version", i, KEEL_E_UNSUPPORTED, "another version", [](PackText& h, Frame&) { ++h.version; });
        refused("zero", i, KEEL_E_FILE_FORMAT, "not zero where it has to be", [](PackText& h, Frame&) { ++h.zero; });
        refused("no text", i, KEEL_E_FILE_FORMAT, "there are none", [](PackText& h, Frame&) { h.plain_bytes = 0; });
        refused("no frame", i, KEEL_E_FILE_FORMAT, "none, or ends beyond the section",
                [](PackText& h, Frame&) { h.frame_bytes = 0; });
        refused("cut off", i, KEEL_E_FILE_FORMAT, "none, or ends beyond the section",
                [&](PackText& h, Frame&) { h.frame_bytes = table.sections[i].bytes; });
        refused("far away", i, KEEL_E_FILE_FORMAT, "none, or ends beyond the section",
                [](PackText& h, Frame&) { h.frame_bytes = UINT64_MAX; });
        // Sizes that the frame contradicts, bombs among them.
        for (const int64_t by : {-1, 1, 4096, 100 << 20})
            refused("another size", i, KEEL_E_FILE_FORMAT, "its frame has another size",
                    [&](PackText& h, Frame&) { h.plain_bytes += static_cast<uint64_t>(by); });
        refused("too much", i, KEEL_E_FILE_LIMIT, "more than 256 MiB",
                [](PackText& h, Frame&) { h.plain_bytes = keel::kMostPackTextBytes + 1; });
        refused("a bomb that says so", i, KEEL_E_FILE_FORMAT, "its frame has another size",
                [&](PackText&, Frame& f) { f = keel::tools::zstd_frame(zeros, 3); });
    }
    // Of a chat template the frame is all.
    refused("shorter", 1, KEEL_E_FILE_FORMAT, "does not fit the section", [](PackText& h, Frame&) { --h.frame_bytes; });
    // Of a model it has to be one frame, whole.
    for (const int64_t by : {-1, 1})
        refused("another frame", 0, KEEL_E_FILE_FORMAT, "does not expand to the text",
                [&](PackText& h, Frame&) { h.frame_bytes += static_cast<uint64_t>(by); });
    // A bomb that says the size of the text and has more: nothing is written beyond it (the memory is fenced).
    refused("a bomb", 0, KEEL_E_FILE_FORMAT, "does not expand to the text", [&](PackText& h, Frame& f) {
        f = keel::tools::zstd_frame(zeros, 3);
        // Single segment, no checksum, a content size of 4 bytes: RFC 8878, 3.1.1.1. `f` says 1 MiB likewise.
        const uint32_t says = static_cast<uint32_t>(h.plain_bytes);
        ASSERT_EQ(f[4] >> 6, 2);
        memcpy(f.data() + (f[4] & 32 ? 5 : 6), &says, sizeof says);
        h.frame_bytes = f.size();
    });
    // Flags where they have no meaning.
    PackTable t = table;
    t.sections[1].kind = KEEL_PART_KV_PROFILE;
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel::check_pack(t, nullptr));
    EXPECT_EQ(KEEL_OK, keel::check_pack(table, nullptr));
}

TEST_F(PackedText, ZerosBehindTheFrame) {
    PackText header = header_of(0);
    Bytes bad = file;
    const uint64_t end = table.sections[0].offset + sizeof header + header.frame_bytes;
    ASSERT_LT(sections(file)[0].text_stored_bytes, 4096 * 20u);
    ASSERT_GT(sections(file)[0].text_stored_bytes, sizeof header + header.frame_bytes);
    bad[end] = 1;
    PackTable t = table;
    t.sections[0].hash = keel::hash64(bad.data() + t.sections[0].offset, t.sections[0].bytes);
    t.header.table_hash = keel::pack_table_hash(t);
    memcpy(bad.data(), &t.header, sizeof t.header);
    memcpy(bad.data() + sizeof t.header, t.sections, inputs.size() * sizeof(PackSection));
    const keel_reader whole = reader_of(bad);
    keel_error error = sized<keel_error>();
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_pack_verify(&whole, &error));
    EXPECT_STREQ("padding", error.field);
}

// Seeds of tests/fuzz/pack_fuzz.cpp; KEEL_WRITE_CORPUS=1 writes them again after a change of the format.
TEST(PackText, FuzzSeeds) {
    keel_test::GgufBytes model;
    model.header(1, 1).key("general.description", keel::kGgufString).text(repeated("All of it is text. ", 5000));
    model.tensor("output_norm.weight", {32}, keel::kernels::kF32).u64(0);
    model.pad().zeros(128);
    const Bytes gguf(model.data.begin(), model.data.end()), chat = bytes_of(repeated("{# a remark #}", 9000));
    const keel_reader readers[] = {reader_of(gguf), reader_of(chat)};
    const Bytes pack = pack_of({{KEEL_PACK_MODEL, 0, "m", &readers[0]}, {KEEL_PART_CHAT_TEMPLATE, 0, "c", &readers[1]}},
                               PackCodec::kZstd);
    const std::string path = keel_test::source_path("tests/fuzz/corpus/pack/zstd");
    if (getenv("KEEL_WRITE_CORPUS")) {
        FILE* out = fopen(path.c_str(), "wb");
        ASSERT_NE(out, nullptr);
        EXPECT_EQ(fwrite(pack.data(), 1, pack.size(), out), pack.size());
        fclose(out);
    }
    // Another zstd may write another frame: what counts is that the seed expands to the same.
    const Bytes stored = seed();
    const keel_reader whole = reader_of(stored);
    keel::Pack opened;
    check(opened.open(&whole), "Pack::open");
    EXPECT_EQ(all_of(Expanded(*opened.packed_text(0)).reader), gguf);
    EXPECT_EQ(all_of(Expanded(*opened.packed_text(1)).reader), chat);
}

#endif

}  // namespace
