#include "sdk/tools/files/pack_writer.h"

#include <string.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "keel/keel.hpp"
#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/repack.h"
#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"
#include "sdk/format/coded_file.h"
#include "sdk/format/gguf.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/pack_text.h"
#include "sdk/tools/files/zstd_frame.h"

namespace keel::tools {
namespace {

constexpr uint64_t kSliceBytes = uint64_t{1} << 20;

// Calls take(data, bytes) for [begin, end) of `from`, slice by slice.
template <class Take>
void each_slice(const keel_reader& from, uint64_t begin, uint64_t end, const Take& take) {
    std::vector<char> slice(std::min(kSliceBytes, end - begin));
    for (uint64_t at = begin; at < end; at += slice.size()) {
        const uint64_t n = std::min<uint64_t>(slice.size(), end - at);
        check(read_at(from, at, slice.data(), n), "cannot read a file to be packed");
        take(slice.data(), n);
    }
}

// A GGUF file from byte `begin` on, 0 or the first of the tensors, with its interleaved tensors plain, or the other way
// round; what lies between tensors as it is.
template <class Take>
void each_slice_turned(const keel_reader& from, uint64_t begin, const Take& take) {
    const std::vector<GgufTensor> tensors = scan_gguf(from, "the model").tensors;
    constexpr uint32_t kRows = kernels::kRepackRows;
    uint64_t end = begin;
    for (const GgufTensor& t : tensors) {
        if (!can_interleave(t.type, t.dim_count, t.dims)) continue;
        each_slice(from, end, t.offset, take);
        end = t.offset + t.bytes;
        const auto type = static_cast<kernels::WeightType>(t.type);
        const uint32_t k = static_cast<uint32_t>(t.dims[0]), blocks = k / kernels::kWeightTypes[type].block_elements;
        const uint64_t row_bytes = kernels::weight_row_bytes(type, k);
        std::vector<char> plain(kRows * row_bytes), turned(plain.size());
        for (uint64_t row = 0; row < t.bytes / row_bytes; row += kRows) {
            check(read_rows(from, t, row, kRows, 0, blocks, plain.data()), "cannot read the model");
            if (!t.interleaved) kernels::repack_rows(type, plain.data(), turned.data(), kRows, k);
            take((t.interleaved ? plain : turned).data(), plain.size());
        }
    }
    each_slice(from, end, from.size_bytes, take);
}

// The best that zstd has for what is written once.
constexpr int kTextLevel = 19;

// What a section begins with where its text is packed.
struct PackedText {
    PackText header{};  // plain_bytes 0: it is not
    std::vector<uint8_t> frame;
};

// The first `bytes` of a file, if that pays; `raw_tensors` follow. Sections begin at multiples of kPackAlignBytes, so
// that is what is compared.
PackedText pack_text(const keel_reader& from, uint64_t bytes, bool raw_tensors) {
    PackedText out;
    if (bytes == 0 || bytes > kMostPackTextBytes) return out;
    std::vector<uint8_t> plain(bytes);
    check(read_at(from, 0, plain.data(), bytes), "cannot read a file to be packed");
    out.frame = zstd_frame(plain, kTextLevel);
    const PackText header = {kPackTextMagic, kPackTextVersion, 0, bytes, out.frame.size()};
    if (static_cast<double>(next_pack_section(pack_rest_at(header, raw_tensors))) <
        (1 - kLeastSaving) * static_cast<double>(next_pack_section(bytes)))
        out.header = header;
    return out;
}

// Bytes at the beginning of a section that are text.
uint64_t text_bytes(const PackInput& input) {
    switch (input.kind) {
        case KEEL_PACK_MODEL:
            return scan_gguf(*input.bytes, "the model").view.data_offset;
        case KEEL_PART_CHAT_TEMPLATE:
        case KEEL_PART_GRAMMAR:
        case KEEL_PACK_NOTE:
            return input.bytes->size_bytes;
        default:
            return 0;
    }
}

// A pack, given to write_at(offset, data, bytes) but for its table, which is returned.
template <class WriteAt>
PackTable lay_pack(const std::vector<PackInput>& inputs, PackCodec codec, const WriteAt& write_at) {
    PackTable pack = {};
    if (inputs.size() > KEEL_PACK_MAX_SECTIONS) throw ToolError(kExitUsage, "too many parts for one pack");
    pack.header.magic = kPackMagic;
    pack.header.version = kPackVersion;
    pack.header.section_count = static_cast<uint32_t>(inputs.size());
    uint64_t end = pack_table_end(pack.header.section_count);
    for (size_t i = 0; i < inputs.size(); ++i) {
        const PackInput& input = inputs[i];
        PackSection& section = pack.sections[i];
        section.kind = input.kind;
        section.flags = input.flags;
        section.offset = end = next_pack_section(end);
        if (input.name.size() > kMostPackName)
            throw ToolError(kExitUsage,
                            strf("%s: names in a pack have at most %zu bytes", input.name.c_str(), kMostPackName));
        memcpy(section.name, input.name.data(), input.name.size());
        uint64_t state = kHashSeed;
        const auto put = [&](const char* data, uint64_t n) {
            state = hash_update(state, data, n);
            write_at(end, data, n);
            end += n;
        };
        const bool interleave = input.flags & kPackInterleaved;
        std::optional<CodedPlan> coded;
        if (i == 0 && (codec == PackCodec::kAuto || codec == PackCodec::kRans)) {
            coded.emplace(*input.bytes, interleave, codec);
            if (!coded->worth_it()) coded.reset();
        }
        PackedText text;
        if (codec == PackCodec::kZstd || (codec == PackCodec::kAuto && has_zstd())) {
            const uint64_t bytes = text_bytes(input);
            text = pack_text(*input.bytes, bytes, !coded && bytes < input.bytes->size_bytes);
        }
        const uint64_t begin = text.header.plain_bytes;
        if (begin) {
            section.flags |= kPackText;
            put(reinterpret_cast<const char*>(&text.header), sizeof text.header);
            put(reinterpret_cast<const char*>(text.frame.data()), text.frame.size());
            const char zeros[kPackAlignBytes] = {};
            const uint64_t written = end - section.offset;
            put(zeros, pack_rest_at(text.header, !coded && begin < input.bytes->size_bytes) - written);
        }
        if (coded) {
            section.flags |= kPackCoded;
            coded->write(begin, [&](const void* data, size_t n) { put(static_cast<const char*>(data), n); });
        } else if (interleave) {
            each_slice_turned(*input.bytes, begin, put);
        } else {
            each_slice(*input.bytes, begin, input.bytes->size_bytes, put);
        }
        section.bytes = end - section.offset;
        section.hash = hash_finish(state);
    }
    pack.header.file_bytes = end;
    pack.header.table_hash = pack_table_hash(pack);
    return pack;
}

}  // namespace

uint64_t pack_bytes(const std::vector<PackInput>& inputs, PackCodec codec) {
    return lay_pack(inputs, codec, [](uint64_t, const void*, uint64_t) {}).header.file_bytes;
}

void write_pack(const std::string& path, const std::vector<PackInput>& inputs, PackCodec codec) {
    AtomicFile file(path);
    const PackTable pack =
        lay_pack(inputs, codec, [&](uint64_t at, const void* data, uint64_t n) { file.write_at(at, data, n); });
    file.write_at(0, &pack.header, sizeof pack.header);
    file.write_at(sizeof pack.header, pack.sections, inputs.size() * sizeof(PackSection));
    keel_error error = make<keel_error>();
    check(check_pack(pack, &error), "cannot make " + path, &error);
    file.commit();
}

PackTable open_pack_table(const std::string& path, const keel_reader& file) {
    PackTable pack;
    keel_error error = make<keel_error>();
    check(read_pack(file, &pack, &error), "cannot use " + path, &error);
    return pack;
}

void unpack(const std::string& path, const keel_reader& file, const std::string& directory) {
    const PackTable pack = open_pack_table(path, file);
    keel_error error = make<keel_error>();
    check(verify_pack(file, pack, &error), "cannot use " + path, &error);
    std::error_code reason;
    std::filesystem::create_directories(directory, reason);
    if (reason) throw ToolError(kExitFile, "cannot make " + directory + ": " + reason.message());
    for (uint32_t i = 0; i < pack.header.section_count; ++i) {
        const PackSection& section = pack.sections[i];
        keel_reader bytes;
        check(open_section(file, section, &bytes, &error), "cannot use " + path, &error);
        AtomicFile out((std::filesystem::path(directory) / section.name).string());
        const auto put = [&](const char* data, uint64_t n) { out.write(data, n); };
        const uint32_t interleaved = bytes.interleaved_rows;
        std::vector<uint8_t> text;
        if (bytes.text_bytes) text = expand_text(&bytes, path);
        CodedFile coded;
        struct alignas(64) Line {
            uint8_t bytes[64];
        };
        std::vector<Line> work;
        keel_reader stored = bytes;
        if (bytes.coded_bytes) {
            check(check_coded(stored, &error), "cannot use " + path, &error);
            work.resize(CodedFile::work_bytes(1) / sizeof(Line));
            coded.open(stored, {kernels::kScalarSet.rans_decode, 1, nullptr, nullptr}, work.data());
            bytes = coded.reader();
        }
        if (interleaved)
            each_slice_turned(bytes, 0, put);
        else
            each_slice(bytes, 0, bytes.size_bytes, put);
        out.commit();
    }
}

}  // namespace keel::tools
