// Keys of W_proj caches and the file names made of them.
#include "sdk/format/wproj_key.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "sdk/core/hash.h"

namespace {

using namespace keel;

WprojKeyDesc description() {
    return {1, 0x1122334455667788ull, kWprojRankUniform, 256, 0x0e, 0, "weight-pca",
            1, kernels::kF32,         kernels::kQ8_F32};
}

// The canonical form written out: ten numbers of 8 bytes, least significant first.
TEST(WprojKey, IsTheHashOfItsCanonicalForm) {
    std::string form;
    const auto number = [&form](uint64_t x) {
        for (int i = 0; i < 8; ++i) form.push_back(static_cast<char>(x >> 8 * i));
    };
    for (const uint64_t x : {uint64_t{1}, uint64_t{0x1122334455667788ull}, uint64_t{0}, uint64_t{256}, uint64_t{0x0e},
                             uint64_t{0}, hash64("weight-pca", 10), uint64_t{1}, uint64_t{0}, uint64_t{31}})
        number(x);
    EXPECT_EQ(wproj_key(description()), hash64(form.data(), form.size()));
}

TEST(WprojKey, EveryFieldCounts) {
    std::set<uint64_t> keys = {wproj_key(description())};
    const auto changed = [&keys](auto change) {
        WprojKeyDesc d = description();
        change(d);
        EXPECT_TRUE(keys.insert(wproj_key(d)).second);
    };
    changed([](WprojKeyDesc& d) { d.format = 2; });
    changed([](WprojKeyDesc& d) { d.fingerprint ^= 1ull << 63; });
    changed([](WprojKeyDesc& d) { d.rank_policy = kWprojRankBytes; });
    changed([](WprojKeyDesc& d) { d.rank_value = 257; });
    changed([](WprojKeyDesc& d) { d.rank_value = 256ull << 32; });
    changed([](WprojKeyDesc& d) { d.slots = 0x1e; });
    changed([](WprojKeyDesc& d) { d.calibration_hash = 1; });
    changed([](WprojKeyDesc& d) { d.solver = "whitened"; });
    changed([](WprojKeyDesc& d) { d.solver = ""; });
    changed([](WprojKeyDesc& d) { d.solver_version = 2; });
    changed([](WprojKeyDesc& d) { d.basis_type = kernels::kF16; });
    changed([](WprojKeyDesc& d) { d.record_type = kernels::kQ4_0; });
    EXPECT_EQ(keys.count(0), 0u);
    EXPECT_EQ(wproj_key(description()), wproj_key(description()));
}

TEST(WprojKey, FileNames) {
    char name[kWprojFileNameBytes];
    wproj_file_name(0x123456780a2337f6ull, name);
    EXPECT_STREQ(name, "ott_wproj_cache_0A2337F6.bin");
    wproj_file_name(5, name);
    EXPECT_STREQ(name, "ott_wproj_cache_00000005.bin");
    uint32_t tag = 0;
    EXPECT_TRUE(wproj_file_tag("ott_wproj_cache_0A2337F6.bin", &tag));
    EXPECT_EQ(tag, 0x0a2337f6u);
    EXPECT_TRUE(wproj_file_tag("ott_wproj_cache_ffbc2bb6.bin", &tag));
    EXPECT_EQ(tag, 0xffbc2bb6u);
    for (const char* other :
         {"", "ott_wproj_cache_.bin", "ott_wproj_cache_0A2337F.bin", "ott_wproj_cache_0A2337F66.bin",
          "ott_wproj_cache_0A2337G6.bin", "ott_wproj_cache_0A2337F6.BIN", "ott_wproj_cache_0A2337F6.bin.partial",
          "../ott_wproj_cache_0A2337F6.bin", "ott_wproj_cache_-A2337F6.bin"})
        EXPECT_FALSE(wproj_file_tag(other, &tag)) << other;
}

}  // namespace
