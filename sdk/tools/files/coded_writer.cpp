#include "sdk/tools/files/coded_writer.h"

#include <string.h>

#include <algorithm>

#include "keel/keel.hpp"
#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"
#include "sdk/format/coded.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/files/rans_encoder.h"

namespace keel::tools {
namespace {

// Frequencies of a class as the file has them.
void append_frequencies(const ByteFrequencies& f, std::vector<uint8_t>* out) {
    if (std::all_of(f.begin(), f.end(), [](uint16_t n) { return n == kernels::kRansSlots / 256; })) {
        out->insert(out->end(), {1, 0});
        return;
    }
    size_t first = 0, last = 255;
    while (f[first] == 0) ++first;
    while (f[last] == 0) --last;
    out->insert(out->end(), {static_cast<uint8_t>(first), static_cast<uint8_t>(last)});
    for (size_t b = first; b <= last; ++b) {
        out->push_back(static_cast<uint8_t>(f[b] < 128 ? f[b] : f[b] % 128 + 128));
        if (f[b] >= 128) out->push_back(static_cast<uint8_t>(f[b] / 128));
    }
}

// The periods of a tensor, as it is stored, of which gguf_fingerprint reads something: [first, last] of each run. They
// stay raw, so that a file is known without decoding any of it.
std::vector<std::pair<uint64_t, uint64_t>> sampled_periods(const GgufTensor& t, uint64_t number, bool interleaved) {
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[t.type];
    const uint64_t n = std::min<uint64_t>(t.bytes, kSampleBytes), at = hash_finish(number) % (t.bytes - n + 1),
                   row_blocks = t.dims[0] / info.block_elements;
    std::vector<uint64_t> periods;
    for (uint64_t block = at / info.block_bytes; block <= (at + n - 1) / info.block_bytes; ++block)
        periods.push_back(interleaved ? block / row_blocks / kernels::kRepackRows * row_blocks + block % row_blocks
                                      : block);
    std::sort(periods.begin(), periods.end());
    std::vector<std::pair<uint64_t, uint64_t>> runs;
    for (const uint64_t p : periods) {
        if (runs.empty() || p > runs.back().second + 1) runs.push_back({p, p});
        runs.back().second = p;
    }
    return runs;
}

}  // namespace

CodedPlan::CodedPlan(const keel_reader& file, bool interleave, PackCodec codec)
    : file_(file), interleave_(interleave), tables_(scan_gguf(file, "the model")) {
    double saved = 0;
    for (uint32_t i = 0; i < tables_.tensors.size(); ++i) {
        CodedTensor t = consider(i);
        const double least =
            codec == PackCodec::kAuto ? kLeastSaving * static_cast<double>(tables_.tensors[i].bytes) : 0;
        if (t.saved_bytes <= least) t = {};
        saved += t.saved_bytes;
        coded_.push_back(std::move(t));
    }
    worth_it_ = codec == PackCodec::kAuto ? saved > kLeastSaving * static_cast<double>(file.size_bytes)
                                          : codec == PackCodec::kRans;
}

// A tensor as the section has it, before it is coded.
std::vector<uint8_t> CodedPlan::bytes_of(const GgufTensor& t) const {
    std::vector<uint8_t> plain(t.bytes);
    check(read_tensor(file_, t, 0, plain.data(), t.bytes), "cannot read the model");
    if (!interleave_ || !can_interleave(t.type, t.dim_count, t.dims)) return plain;
    std::vector<uint8_t> turned(t.bytes);
    const uint64_t row_bytes = kernels::weight_row_bytes(t.type, t.dims[0]), group = row_bytes * kernels::kRepackRows;
    for (uint64_t at = 0; at < t.bytes; at += group)
        kernels::repack_rows(static_cast<kernels::WeightType>(t.type), plain.data() + at, turned.data() + at,
                             kernels::kRepackRows, static_cast<uint32_t>(t.dims[0]));
    return turned;
}

CodedPlan::CodedTensor CodedPlan::consider(uint32_t number) const {
    const GgufTensor& t = tables_.tensors[number];
    if (t.bytes == 0) return {};
    const bool interleaved = interleave_ && can_interleave(t.type, t.dim_count, t.dims);
    std::vector<uint8_t> classes(kernels::class_period(t.type, interleaved));
    kernels::fill_byte_classes(t.type, interleaved, classes.data());
    std::vector<ByteCounts> counts(kernels::byte_classes(t.type));
    const std::vector<uint8_t> bytes = bytes_of(t);
    for (size_t i = 0, place = 0; i < bytes.size(); ++i) {
        ++counts[classes[place]][bytes[i]];
        if (++place == classes.size()) place = 0;
    }
    CodedTensor out;
    double bits = 0;
    for (const ByteCounts& c : counts) {
        ByteFrequencies f = rans_frequencies(c), even;
        even.fill(kernels::kRansSlots / 256);
        const double even_bits = coded_bits(c, even);
        double own_bits = coded_bits(c, f);
        std::vector<uint8_t> stored;
        append_frequencies(f, &stored);
        own_bits += 8 * static_cast<double>(stored.size());
        if (even_bits <= own_bits) f = even;
        bits += std::min(even_bits, own_bits);
        append_frequencies(f, &out.stored);
        out.frequencies.push_back(f);
    }
    // What fingerprints read stays raw, in up to two pieces: so there are up to 5 stretches, 3 of them coded.
    const uint64_t chunk = coded_chunk_bytes(t.type, interleaved), chunks = t.bytes / chunk + 3;
    const double side =
        static_cast<double>(chunks * (kernels::kRansStateBytes + sizeof(CodedChunk)) + 5 * sizeof(CodedStretch));
    out.saved_bytes = static_cast<double>(t.bytes) - bits / 8 - side;
    return out;
}

void CodedPlan::write(uint64_t begin, const std::function<void(const void* data, size_t bytes)>& put) const {
    std::vector<CodedStretch> stretches;
    std::vector<CodedChunk> chunks;
    std::vector<uint8_t> frequencies;
    std::vector<std::pair<size_t, uint64_t>> frequencies_of;  // stretch, and where in `frequencies`
    uint64_t data_end = 0;
    const auto put_data = [&](const void* data, size_t n) {
        put(data, n);
        data_end += n;
    };
    const auto raw = [&](uint64_t at, const uint8_t* data, uint64_t n) {
        if (n == 0) return;
        const uint64_t from = at - begin;
        if (stretches.empty() || stretches.back().type != kCodedRaw)
            stretches.push_back({from, from, data_end, kCodedRaw, 0, static_cast<uint32_t>(chunks.size()), 0});
        stretches.back().end = from + n;
        put_data(data, n);
    };
    std::vector<uint8_t> slice(size_t{1} << 20);
    const auto raw_of_file = [&](uint64_t first, uint64_t end) {
        for (uint64_t at = first; at < end;) {
            const uint64_t n = std::min<uint64_t>(slice.size(), end - at);
            check(read_at(file_, at, slice.data(), n), "cannot read the model");
            raw(at, slice.data(), n);
            at += n;
        }
    };
    uint64_t end = begin;
    for (uint32_t i = 0; i < tables_.tensors.size(); ++i) {
        const GgufTensor& t = tables_.tensors[i];
        raw_of_file(end, t.offset);
        end = t.offset + t.bytes;
        const std::vector<uint8_t> bytes = bytes_of(t);
        const CodedTensor& coded = coded_[i];
        if (coded.frequencies.empty()) {
            raw(t.offset, bytes.data(), bytes.size());
            continue;
        }
        const bool interleaved = interleave_ && can_interleave(t.type, t.dim_count, t.dims);
        const uint64_t period = kernels::class_period(t.type, interleaved);
        std::vector<uint8_t> classes(period);
        kernels::fill_byte_classes(t.type, interleaved, classes.data());
        const uint64_t frequencies_at = frequencies.size();
        frequencies.insert(frequencies.end(), coded.stored.begin(), coded.stored.end());
        const auto stretch = [&](uint64_t from, uint64_t to) {
            if (from == to) return;
            frequencies_of.push_back({stretches.size(), frequencies_at});
            stretches.push_back({t.offset - begin + from, t.offset - begin + to, 0,
                                 kernels::kWeightTypes[t.type].number, interleaved,
                                 static_cast<uint32_t>(chunks.size()), 0});
            const uint64_t chunk_bytes = coded_chunk_bytes(t.type, interleaved);
            for (uint64_t at = from; at < to; at += chunk_bytes) {
                const std::span<const uint8_t> plain(bytes.data() + at, std::min(chunk_bytes, to - at));
                const std::vector<uint8_t> code = rans_encode(plain, classes, coded.frequencies);
                const bool smaller = code.size() < plain.size();
                const std::span<const uint8_t> stored = smaller ? std::span<const uint8_t>(code) : plain;
                chunks.push_back(
                    {data_end, static_cast<uint32_t>(stored.size()), hash_words(plain.data(), plain.size())});
                put_data(stored.data(), stored.size());
            }
        };
        uint64_t done = 0;
        for (const auto& [first, last] : sampled_periods(t, i, interleaved)) {
            stretch(done, first * period);
            done = (last + 1) * period;
            raw(t.offset + first * period, bytes.data() + first * period, done - first * period);
        }
        stretch(done, t.bytes);
    }
    raw_of_file(end, file_.size_bytes);

    CodedFooter footer = {};
    footer.magic = kCodedMagic;
    footer.version = kCodedVersion;
    footer.stretch_count = static_cast<uint32_t>(stretches.size());
    footer.plain_bytes = file_.size_bytes - begin;
    footer.stretches_at = data_end;
    footer.chunk_count = static_cast<uint32_t>(chunks.size());
    footer.frequencies_at = data_end + stretches.size() * sizeof(CodedStretch) + chunks.size() * sizeof(CodedChunk);
    for (const auto& [index, at] : frequencies_of) stretches[index].at = footer.frequencies_at + at;
    uint64_t state = kHashSeed;
    const auto put_table = [&](const void* data, size_t n) {
        state = hash_update(state, static_cast<const char*>(data), n);
        put(data, n);
    };
    put_table(stretches.data(), stretches.size() * sizeof(CodedStretch));
    put_table(chunks.data(), chunks.size() * sizeof(CodedChunk));
    put_table(frequencies.data(), frequencies.size());
    footer.table_hash = hash_finish(hash_update(state, reinterpret_cast<const char*>(&footer), sizeof footer));
    put(&footer, sizeof footer);
}

}  // namespace keel::tools
