// Every wrapper of device.cuh: what the GPU makes of random operands is what the executor says. This is what makes the
// executor, and with it every test of kernels without a GPU, honest.
#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <set>

#include "kernels/formats/numeric.h"
#include "tests/cuda/test_device.h"
#include "tests/cuda/wrapper_kernels.h"
#include "tests/simt/simt.h"
#include "tests/test_paths.h"
#include "tests/unit/kernels_test_support.h"

extern "C" const unsigned char keel_wrappers_fatbin[];

namespace keel::cuda {
#define KEEL_WRAPPER_DECLARATION(name, ...) void wrapper_##name(const void* args);
KEEL_WRAPPERS(KEEL_WRAPPER_DECLARATION)
}  // namespace keel::cuda

namespace keel_test {
namespace {

using keel::cuda::kWrappers;
using keel::cuda::WrapperInfo;
using keel::cuda::WrapperValues;

constexpr simt::Kernel kOnExecutor[] = {
#define KEEL_WRAPPER_KERNEL(name, ...) keel::cuda::wrapper_##name,
    KEEL_WRAPPERS(KEEL_WRAPPER_KERNEL)};

// Any bits; now and then numbers of ordinary size, edges of formats, ties of roundings. `word`: which one of a thread.
uint32_t operand(const WrapperInfo& info, uint32_t word, Random& random) {
    if (info.values == WrapperValues::kF64) {
        const uint32_t bits = random.bits();
        if (word % 2 == 0 || random.below(3) == 0) return bits;
        return (bits & 0x800fffffu) | random.between(1023 - 30, 1023 + 31) << 20;  // the upper half of such a number
    }
    switch (random.below(6)) {
        case 0:
            return f32_bits(random.normal() * 8);
        case 1:
            return f32_bits(static_cast<float>(random.below(4096)) * 0.5f);
        case 2: {
            constexpr uint32_t kEdges[] = {0,           0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u,
                                           0x7f800001u, 1,           0x007fffffu, 0x00800000u, 0x7f7fffffu,
                                           0x3f800000u, 0x80808080u, 0x7f7f7f7fu, 0x387fe000u, 0x38801000u,
                                           0x477ff000u, 0x42b17218u, 0xc2aeac50u};
            return kEdges[random.below(sizeof kEdges / sizeof kEdges[0])];
        }
        default:
            return random.bits();
    }
}

bool same(WrapperValues values, const uint32_t* a, const uint32_t* b, uint32_t words) {
    if (values == WrapperValues::kF64)
        for (uint32_t i = 0; i < words; i += 2) {
            const double x = f64_from_bits(uint64_t{a[i + 1]} << 32 | a[i]),
                         y = f64_from_bits(uint64_t{b[i + 1]} << 32 | b[i]);
            if (f64_bits(x) != f64_bits(y) && !(std::isnan(x) && std::isnan(y))) return false;
        }
    else if (values == WrapperValues::kF32)
        return same_floats(reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b), words);
    else
        return memcmp(a, b, words * 4) == 0;
    return true;
}

class Wrappers : public testing::TestWithParam<uint32_t> {};
TEST_P(Wrappers, EqualTheExecutor) {
    const WrapperInfo& info = kWrappers[GetParam()];
    const keel::cuda::LaunchShape shape = {8, 2, keel::cuda::kWrapperThreads, keel::cuda::kWrapperSharedBytes};
    const uint32_t threads = shape.grid_x * shape.grid_y * shape.threads;
    const char* asked = getenv("KEEL_DEVICE_ROUNDS");
    TestDevice& device = TestDevice::get();
    const auto kernel = device.kernel(keel_wrappers_fatbin, info.name);
    Random random(GetParam() + 1);
    for (int round = 0; round < (asked ? atoi(asked) : 4); ++round) {
        Buffer in(threads * info.words_in * 4, 16);
        std::vector<uint32_t> got(threads * info.words_out, 0xa5a5a5a5u), want(got.size(), 0x5a5a5a5au);
        for (uint32_t i = 0; i < threads * info.words_in; ++i)
            reinterpret_cast<uint32_t*>(in.data())[i] = operand(info, i % info.words_in, random);
        Buffer counters(8, 4);
        memset(counters.data(), 0, 8);
        keel::cuda::WrapperArgs args = {reinterpret_cast<uint32_t*>(in.data()), want.data(),
                                        reinterpret_cast<uint32_t*>(counters.data())};
        ASSERT_EQ(simt::launch(kOnExecutor[GetParam()], {shape.grid_x, shape.grid_y}, {shape.threads},
                               shape.shared_bytes, &args),
                  "");
        args.out = got.data();
        memset(counters.data(), 0, 8);
        ASSERT_EQ(device.run(kernel, shape, &args), "");
        for (uint32_t t = 0; t < threads; ++t)
            ASSERT_TRUE(same(info.values, &got[t * info.words_out], &want[t * info.words_out], info.words_out))
                << "thread " << t << " of round " << round << ", which reads 0x" << std::hex
                << args.in[t * info.words_in];
    }
}
std::string wrapper_name(const testing::TestParamInfo<uint32_t>& info) {
    return kWrappers[info.param].name + strlen("wrapper_");
}
INSTANTIATE_TEST_SUITE_P(All, Wrappers, testing::Range(0u, static_cast<uint32_t>(std::size(kWrappers))), wrapper_name);

// No wrapper is forgotten: each function of device.cuh is called by one of these kernels.
TEST(WrapperKernels, CallEveryWrapper) {
    const auto text = [](const char* path) {
        const std::vector<char> bytes = read_file(source_path(path));
        return std::string(bytes.begin(), bytes.end());
    };
    const std::string wrappers = text("kernels/cuda/device.cuh"), kernels = text("tests/cuda/wrapper_kernels.cu");
    const std::string device = wrappers.substr(0, wrappers.find("#else\n"));
    const std::regex function("KEEL_GPU [a-z0-9_]+\\*? ?[A-Za-z0-9_]*\\*? ?\\b([a-z0-9_]+)\\(");
    std::set<std::string> names;
    for (std::sregex_iterator it(device.begin(), device.end(), function), end; it != end; ++it) names.insert((*it)[1]);
    EXPECT_GT(names.size(), 15u);
    for (const std::string& name : names)
        EXPECT_TRUE(std::regex_search(kernels, std::regex("\\b" + name + "(<[0-9]>)?\\(")))
            << name << " of device.cuh is in none of the kernels of tests/cuda/wrapper_kernels.cu";
}

}  // namespace
}  // namespace keel_test
