// rANS of bytes: what was coded comes back from every kernel set, streams are as short as they should be, and no
// stream, whatever it holds, makes a decoder read or write beside its memory.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/byte_classes.h"
#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/tools/files/rans_encoder.h"
#include "tests/fenced_memory.h"

namespace {

using namespace keel::kernels;
using keel::tools::ByteCounts;
using keel::tools::ByteFrequencies;

std::vector<const KernelSet*> all_sets() {
    std::vector<const KernelSet*> sets;
    for (uint32_t isa = kScalar; isa < kIsaLimit; ++isa)
        if (const KernelSet* set = keel::find_kernel_set(isa)) sets.push_back(set);
    return sets;
}

// Bytes with the classes of a weight type, each class with a distribution of its own.
struct Coded {
    Coded(uint32_t type, bool interleaved, size_t count, uint32_t seed) {
        classes.resize(class_period(type, interleaved));
        fill_byte_classes(type, interleaved, classes.data());
        std::mt19937 random(seed);
        std::vector<ByteCounts> counts(byte_classes(type));
        plain.resize(count);
        for (size_t i = 0; i < count; ++i) {
            const uint32_t c = classes[i % classes.size()];
            // From nearly constant to nearly even.
            const double width = std::pow(4.0, c % 5);
            const double value = std::normal_distribution<double>(0, width)(random);
            plain[i] = static_cast<uint8_t>(static_cast<int>(std::lround(value)) + 40 * static_cast<int>(c));
            ++counts[c][plain[i]];
        }
        for (const ByteCounts& n : counts) {
            frequencies.push_back(keel::tools::rans_frequencies(n));
            entropy_bytes += keel::tools::entropy_bits(n) / 8;
        }
        stream = keel::tools::rans_encode(plain, classes, frequencies);
        entries.resize(frequencies.size() * kRansSlots);
        for (size_t c = 0; c < frequencies.size(); ++c)
            rans_fill_slots(frequencies[c].data(), entries.data() + c * kRansSlots);
        first_slot.resize(kMostFirstSlots);
        tables = {entries.data(), first_slot.data(), fill_first_slots(type, interleaved, first_slot.data())};
    }
    std::vector<uint8_t> classes, plain, stream;
    std::vector<ByteFrequencies> frequencies;
    std::vector<uint32_t> entries;
    std::vector<uint16_t> first_slot;
    RansTables tables{};
    double entropy_bytes = 0;
};

// Decodes a stream of any content between closed pages. False: the decoder says that it is none of so many bytes.
bool decode(RansDecode run, const RansTables& tables, const std::vector<uint8_t>& stream, size_t count,
            std::vector<uint8_t>* out) {
    keel_test::FencedMemory from(stream.size(), 1, keel_test::Fence::kBehind), to(count, 1, keel_test::Fence::kBehind);
    if (!stream.empty()) memcpy(from.data(), stream.data(), stream.size());
    RansStream s;
    const bool good = s.open(from.data(), stream.size()) && run(tables, &s, 0, to.data(), count) && s.at_end();
    out->assign(to.data(), to.end());
    return good;
}

TEST(KernelsRans, EverySetDecodesWhatWasCoded) {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type)
        for (const bool interleaved : {false, true}) {
            if (interleaved && !kWeightTypes[type].activation_block) continue;
            for (const size_t count : {0, 1, 31, 32, 33, 63, 1000, 20000}) {
                const Coded coded(type, interleaved, count, type * 100 + static_cast<uint32_t>(count));
                for (const KernelSet* set : all_sets()) {
                    std::vector<uint8_t> got;
                    ASSERT_TRUE(decode(set->rans_decode, coded.tables, coded.stream, count, &got))
                        << set->name << " " << kWeightTypes[type].name << " " << count;
                    ASSERT_EQ(got, coded.plain) << set->name << " " << kWeightTypes[type].name << " " << count;
                }
            }
        }
}

// In pieces, as a window over a stream is decoded.
TEST(KernelsRans, PiecesAreTheWhole) {
    const Coded coded(kQ8_0, false, 9000, 7);
    for (const KernelSet* set : all_sets()) {
        RansStream s;
        ASSERT_TRUE(s.open(coded.stream.data(), coded.stream.size()));
        std::vector<uint8_t> got(coded.plain.size());
        size_t at = 0;
        for (size_t n = 32; at < got.size(); n = n * 3 / 32 * 32) {
            n = std::min(n, got.size() - at);
            ASSERT_TRUE(set->rans_decode(coded.tables, &s, static_cast<uint32_t>(at % coded.tables.period),
                                         got.data() + at, n));
            at += n;
        }
        EXPECT_TRUE(s.at_end()) << set->name;
        EXPECT_EQ(got, coded.plain) << set->name;
    }
}

TEST(KernelsRans, WithinHalfAPercentOfTheEntropy) {
    for (const WeightType type : {kQ8_0, kQ4_K, kF16}) {
        const Coded coded(type, false, 128 * 1024, 11);
        EXPECT_LT(static_cast<double>(coded.stream.size()), coded.entropy_bytes * 1.005) << kWeightTypes[type].name;
        EXPECT_GT(static_cast<double>(coded.stream.size()), coded.entropy_bytes * 0.999) << kWeightTypes[type].name;
    }
}

// Damaged streams decode alike on every set, to a refusal or not, and stay within their memory.
TEST(KernelsRans, AnyStream) {
    std::mt19937 random(3);
    const Coded coded(kQ4_1, false, 3000, 5);
    uint32_t refused = 0;
    for (int round = 0; round < 300; ++round) {
        std::vector<uint8_t> stream = coded.stream;
        if (round % 3 == 0) stream.resize(random() % stream.size());
        if (round % 3 == 1) stream.resize(stream.size() + 1 + random() % 5);
        if (round % 3 == 2)
            for (uint32_t i = random() % 5 + 1; i; --i) stream[random() % stream.size()] ^= 1u << random() % 8;
        if (round % 30 == 2)
            for (uint8_t& byte : stream) byte = static_cast<uint8_t>(random());
        std::vector<uint8_t> expected;
        const bool good = decode(kScalarSet.rans_decode, coded.tables, stream, coded.plain.size(), &expected);
        refused += !good;
        for (const KernelSet* set : all_sets()) {
            std::vector<uint8_t> got;
            EXPECT_EQ(good, decode(set->rans_decode, coded.tables, stream, coded.plain.size(), &got)) << set->name;
            EXPECT_EQ(got, expected) << set->name << " " << round;
        }
    }
    EXPECT_EQ(refused, 300u);
}

TEST(KernelsRans, Frequencies) {
    std::mt19937 random(9);
    for (int round = 0; round < 200; ++round) {
        ByteCounts counts{};
        const uint32_t bytes = 1 + random() % 256;
        for (uint32_t i = 0; i < bytes; ++i)
            counts[random() % 256] = round % 2 ? uint64_t{1} << random() % 40 : random() % 100;
        const ByteFrequencies f = keel::tools::rans_frequencies(counts);
        EXPECT_TRUE(rans_frequencies_valid(f.data())) << round;
        for (size_t b = 0; b < 256; ++b) EXPECT_TRUE(f[b] || !counts[b]) << round;
    }
    ByteFrequencies f{};
    EXPECT_FALSE(rans_frequencies_valid(f.data()));
    f[7] = kRansSlots;
    EXPECT_FALSE(rans_frequencies_valid(f.data()));
    f[7] = kRansSlots - 1;
    EXPECT_FALSE(rans_frequencies_valid(f.data()));
    f[255] = 1;
    EXPECT_TRUE(rans_frequencies_valid(f.data()));
}

}  // namespace
