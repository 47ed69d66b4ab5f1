// What keel.h promises of files, on Windows: kinds of refusal, names in UTF-8, reading by offset, and that nobody
// shortens an open file. And that bits are Linux's.
#include <gtest/gtest.h>
#include <math.h>
#include <string.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "keel/keel.h"
#include "platform/platform.h"

namespace {

using namespace keel::platform;

class PlatformWindows : public testing::Test {
  protected:
    void SetUp() override { std::filesystem::create_directories(directory_); }
    void TearDown() override { std::filesystem::remove_all(directory_); }
    // In UTF-8, as keel.h takes it.
    std::string write(const std::u8string& name, const std::string& text) const {
        const std::filesystem::path path = directory_ / name;
        std::ofstream(path, std::ios::binary) << text;
        const std::u8string utf8 = path.u8string();
        return {utf8.begin(), utf8.end()};
    }
    std::filesystem::path directory_ =
        std::filesystem::temp_directory_path() / ("keel_windows_" + std::to_string(now_ns()));
};

TEST_F(PlatformWindows, MapsAndReadsEveryByteUnderAnyName) {
    std::string text(100'001, '\0');
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 131 >> 3);
    const std::string path = write(u8"größe 字.bin", text);
    MappedFile file;
    ASSERT_EQ(map_file(path.c_str(), &file), FileResult::kOk);
    ASSERT_EQ(file.bytes, text.size());
    EXPECT_EQ(std::string(static_cast<const char*>(file.data), file.bytes), text);
    std::string copy(70'000, 0);
    EXPECT_TRUE(read_file(file.handle, 30'001, copy.data(), copy.size()));
    EXPECT_EQ(copy, text.substr(30'001));
    EXPECT_FALSE(read_file(file.handle, 30'002, copy.data(), copy.size()));
    EXPECT_TRUE(lock_pages(file.data, file.bytes));
    unlock_pages(file.data, file.bytes);
    unmap_file(file);
    std::filesystem::remove(directory_ / u8"größe 字.bin");
}

TEST_F(PlatformWindows, RefusalsHaveStatusesOfTheirOwn) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    EXPECT_EQ(keel_reader_open_file((directory_ / "missing").string().c_str(), &reader), KEEL_E_FILE_MISSING);
    EXPECT_EQ(keel_reader_open_file("", &reader), KEEL_E_FILE_MISSING);
    EXPECT_EQ(keel_reader_open_file("\xff", &reader), KEEL_E_FILE_MISSING);
    EXPECT_EQ(keel_reader_open_file(directory_.string().c_str(), &reader), KEEL_E_FILE_KIND);
    EXPECT_EQ(keel_reader_open_file("NUL", &reader), KEEL_E_FILE_KIND);
    ASSERT_EQ(keel_reader_open_file(write(u8"empty", "").c_str(), &reader), KEEL_OK);
    EXPECT_EQ(reader.size_bytes, 0u);
    keel_reader_close(&reader);
}

TEST_F(PlatformWindows, NobodyShortensAnOpenFile) {
    const std::string path = write(u8"open", std::string(10'000, 'x'));
    MappedFile file;
    ASSERT_EQ(map_file(path.c_str(), &file), FileResult::kOk);
    std::error_code refused;
    std::filesystem::resize_file(path, 10, refused);
    EXPECT_TRUE(refused);
    EXPECT_EQ(std::filesystem::file_size(path), 10'000u);
    unmap_file(file);
}

__attribute__((target("fma"))) double hardware_fma(double x, double y, double z) {
    return __builtin_fma(x, y, z);
}
__attribute__((target("fma"))) float hardware_fmaf(float x, float y, float z) {
    return __builtin_fmaf(x, y, z);
}
bool same_bits(double a, double b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

// Numbers of every size, or near 1; some with few bits, some subnormal.
double some_double(std::mt19937_64& random) {
    const uint64_t sign = random() & uint64_t{1} << 63, fraction = random() >> 12;
    switch (random() % 4) {
        case 0:
            return __builtin_bit_cast(double, random());
        case 1:
            return __builtin_bit_cast(double, sign | (1000 + random() % 46) << 52 | fraction);
        case 2:
            return __builtin_bit_cast(double,
                                      sign | (1000 + random() % 46) << 52 | (random() % 4) << 50 | random() % 3);
        default:
            return __builtin_bit_cast(double, sign | fraction);
    }
}

// Scalar kernels call these where others have the instruction, and both have to give the same bits.
TEST(PlatformWindowsHost, FmaIsTheInstructions) {
    if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "skipped: this machine has no FMA";
    std::mt19937_64 random(1);
    for (int i = 0; i < 1'000'000; ++i) {
        const double x = some_double(random), y = some_double(random),
                     z = i % 16 ? some_double(random) : -(x * y) * (i % 32 ? 1 : 1 + 1e-16);
        ASSERT_TRUE(same_bits(fma(x, y, z), hardware_fma(x, y, z))) << x << " " << y << " " << z;
        const float a = static_cast<float>(x), b = static_cast<float>(y), c = static_cast<float>(z);
        ASSERT_TRUE(same_bits(fmaf(a, b, c), hardware_fmaf(a, b, c))) << a << " " << b << " " << c;
    }
}

TEST(PlatformWindowsHost, ClockAndCores) {
    const uint64_t before = now_ns();
    while (now_ns() - before < 2'000'000) {
    }
    EXPECT_LT(now_ns() - before, 2'000'000'000u);
    EXPECT_GE(usable_cores(), 1u);
}

}  // namespace
