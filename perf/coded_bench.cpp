// Decoding packed weights (sdk/format/coded.h) on one thread, for every kernel set: 32 MiB of plain bytes in chunks of
// 128 KiB, from memory to memory, as when a model is loaded, beside a memcpy of the same bytes.
//
//   keel_coded_bench [--benchmark_filter=REGEX]
//
// bytes/s are plain ones; over_entropy: coded bytes over those of an ideal code of order 0, in percent.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/formats/byte_classes.h"
#include "kernels/formats/numeric.h"
#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/core/hash.h"
#include "sdk/format/coded.h"
#include "sdk/tools/files/rans_encoder.h"

namespace {

using namespace keel::kernels;
using keel::tools::ByteCounts;
using keel::tools::ByteFrequencies;

constexpr uint64_t kPlainBytes = 32 << 20;

// Normal weights, quantized by the largest of 32.
void fill_q8_0(uint8_t* to, std::mt19937& random) {
    std::normal_distribution<float> normal(0, 0.05f);
    float x[32], most = 0;
    for (float& v : x) v = normal(random), most = std::max(most, std::fabs(v));
    const uint16_t d = f32_to_f16(most / 127);
    memcpy(to, &d, 2);
    for (int i = 0; i < 32; ++i) to[2 + i] = static_cast<uint8_t>(std::lround(x[i] * 127 / most));
}
void fill_q4_0(uint8_t* to, std::mt19937& random) {
    std::normal_distribution<float> normal(0, 0.05f);
    float x[32], most = 0;
    for (float& v : x) {
        v = normal(random);
        if (std::fabs(v) > std::fabs(most)) most = v;
    }
    const uint16_t d = f32_to_f16(most / -8);
    memcpy(to, &d, 2);
    const auto code = [&](int i) { return std::clamp(static_cast<int>(std::lround(x[i] * -8 / most)) + 8, 0, 15); };
    for (int i = 0; i < 16; ++i) to[2 + i] = static_cast<uint8_t>(code(i) | code(i + 16) << 4);
}
void fill_f16(uint8_t* to, std::mt19937& random) {
    const uint16_t x = f32_to_f16(std::normal_distribution<float>(0, 0.05f)(random));
    memcpy(to, &x, 2);
}

struct Weights {
    Weights(uint32_t type, bool interleaved, void (*fill)(uint8_t*, std::mt19937&)) {
        std::mt19937 random(1);
        const uint32_t block = kWeightTypes[type].block_bytes, period = class_period(type, interleaved);
        chunk_bytes = keel::coded_chunk_bytes(type, interleaved);
        plain.resize(kPlainBytes / chunk_bytes * chunk_bytes);
        for (uint64_t at = 0; at < plain.size(); at += block) fill(plain.data() + at, random);
        if (interleaved) {
            std::vector<uint8_t> rows(plain);
            repack_rows(static_cast<WeightType>(type), rows.data(), plain.data(),
                        static_cast<uint32_t>(plain.size() / block / kRepackRows * kRepackRows),
                        kWeightTypes[type].block_elements);
        }
        std::vector<uint8_t> classes(period);
        fill_byte_classes(type, interleaved, classes.data());
        std::vector<ByteCounts> counts(byte_classes(type));
        for (uint64_t i = 0; i < plain.size(); ++i) ++counts[classes[i % period]][plain[i]];
        std::vector<ByteFrequencies> frequencies;
        double entropy = 0;
        for (const ByteCounts& c : counts) {
            frequencies.push_back(keel::tools::rans_frequencies(c));
            entropy += keel::tools::entropy_bits(c) / 8;
        }
        for (uint64_t at = 0; at < plain.size(); at += chunk_bytes) {
            begin.push_back(coded.size());
            const std::vector<uint8_t> chunk =
                keel::tools::rans_encode({plain.data() + at, chunk_bytes}, classes, frequencies);
            coded.insert(coded.end(), chunk.begin(), chunk.end());
        }
        begin.push_back(coded.size());
        over_entropy = 100 * (static_cast<double>(coded.size()) / entropy - 1);
        of_plain = 100 * static_cast<double>(coded.size()) / static_cast<double>(plain.size());
        entries.resize(frequencies.size() * kRansSlots);
        for (size_t c = 0; c < frequencies.size(); ++c)
            rans_fill_slots(frequencies[c].data(), entries.data() + c * kRansSlots);
        tables = {entries.data(), first_slot, fill_first_slots(type, interleaved, first_slot)};
    }
    std::vector<uint8_t> plain, coded;
    std::vector<uint64_t> begin;
    std::vector<uint32_t> entries;
    uint16_t first_slot[kMostFirstSlots];
    RansTables tables{};
    uint64_t chunk_bytes;
    double over_entropy, of_plain;
};

void decode(benchmark::State& state, const Weights& w, RansDecode run) {
    std::vector<uint8_t> out(w.plain.size());
    for (auto _ : state)
        for (size_t i = 0; i + 1 < w.begin.size(); ++i) {
            RansStream s;
            uint8_t* to = out.data() + i * w.chunk_bytes;
            if (!s.open(w.coded.data() + w.begin[i], w.begin[i + 1] - w.begin[i]) ||
                !run(w.tables, &s, 0, to, w.chunk_bytes) || !s.at_end())
                return state.SkipWithError("the stream was refused");
            benchmark::DoNotOptimize(keel::hash_words(to, w.chunk_bytes));
        }
    if (out != w.plain) return state.SkipWithError("other bytes");
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * w.plain.size()));
    state.counters["over_entropy"] = w.over_entropy;
    state.counters["of_plain"] = w.of_plain;
}

void copy(benchmark::State& state, const Weights& w) {
    std::vector<uint8_t> out(w.plain.size());
    for (auto _ : state) {
        memcpy(out.data(), w.plain.data(), out.size());
        benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * w.plain.size()));
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    struct Case {
        const char* name;
        Weights weights;
    };
    static const Case cases[] = {{"Q8_0", {kQ8_0, false, fill_q8_0}},
                                 {"Q8_0_interleaved", {kQ8_0, true, fill_q8_0}},
                                 {"Q4_0", {kQ4_0, false, fill_q4_0}},
                                 {"F16", {kF16, false, fill_f16}}};
    for (const Case& c : cases) {
        benchmark::RegisterBenchmark((std::string("memcpy/") + c.name).c_str(),
                                     [&c](benchmark::State& s) { copy(s, c.weights); });
        for (uint32_t isa = kScalar; isa < kIsaLimit; ++isa)
            if (const KernelSet* set = keel::find_kernel_set(isa))
                benchmark::RegisterBenchmark(
                    (std::string("decode/") + c.name + "/" + set->name).c_str(),
                    [&c, set](benchmark::State& s) { decode(s, c.weights, set->rans_decode); });
    }
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
