// keel_memory_default: every region as planned, writable to its last byte, released once.
#include <gtest/gtest.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <fstream>
#include <string>

#include "keel/keel.h"

namespace {

keel_memory_plan plan_of(std::initializer_list<keel_region_plan> regions) {
    keel_memory_plan plan = {};
    plan.struct_size = sizeof(plan);
    int kind = 0;
    for (const keel_region_plan& region : regions) plan.regions[kind++] = region;
    return plan;
}

keel_memory empty_memory() {
    keel_memory memory = {};
    memory.struct_size = sizeof(memory);
    return memory;
}

uint64_t resident_kb() {
    std::ifstream status("/proc/self/status");
    uint64_t kb = 0;
    for (std::string word; status >> word;) {
        if (word == "VmRSS:" && status >> kb) break;
    }
    return kb;
}

TEST(MemoryDefault, GivesEveryRegionAsPlanned) {
    const keel_memory_plan plan =
        plan_of({{4096, 4096, 0}, {1, 64, 0}, {0, 0, 0}, {(32u << 20) + 192, 4096, 0}, {3u << 20, 2u << 20, 0}});
    keel_memory memory = empty_memory();
    ASSERT_EQ(keel_memory_default(&plan, &memory), KEEL_OK);
    for (int kind = 0; kind < KEEL_REGION_SLOTS; ++kind) {
        const keel_region& region = memory.regions[kind];
        ASSERT_EQ(region.bytes, plan.regions[kind].bytes);
        if (region.bytes == 0) {
            EXPECT_EQ(region.data, nullptr);
            continue;
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(region.data) % plan.regions[kind].align_bytes, 0u) << kind;
        memset(region.data, kind + 1, region.bytes);
    }
    for (int kind = 0; kind < KEEL_REGION_SLOTS; ++kind) {  // no two overlap
        const uint8_t* data = static_cast<const uint8_t*>(memory.regions[kind].data);
        for (uint64_t i = 0; i < memory.regions[kind].bytes; i += 61) ASSERT_EQ(data[i], kind + 1);
    }
    keel_memory_release(&memory);
    for (const keel_region& region : memory.regions) EXPECT_EQ(region.data, nullptr);
    keel_memory_release(&memory);  // a second time: nothing happens
    keel_memory_release(nullptr);
}

// Its backend's library allocates that.
TEST(MemoryDefault, HasNoMemoryOfADevice) {
    for (const int kind :
         {KEEL_REGION_PINNED, KEEL_REGION_DEVICE_SCRATCH, KEEL_REGION_DEVICE_WEIGHTS, KEEL_REGION_DEVICE_KV}) {
        keel_memory_plan plan = plan_of({{4096, 4096, 0}});
        plan.regions[kind] = {64, 64, 0};
        keel_memory memory = empty_memory();
        EXPECT_EQ(keel_memory_default(&plan, &memory), KEEL_E_UNSUPPORTED);
        for (const keel_region& region : memory.regions) EXPECT_EQ(region.data, nullptr);
    }
}

TEST(MemoryDefault, PagesAreTouched) {
    constexpr uint64_t kBytes = 48u << 20;
    const keel_memory_plan plan = plan_of({{kBytes, 64, 0}});
    keel_memory memory = empty_memory();
    const uint64_t before_kb = resident_kb();
    ASSERT_EQ(keel_memory_default(&plan, &memory), KEEL_OK);
    EXPECT_GE(resident_kb(), before_kb + kBytes / 1024 * 9 / 10);
    keel_memory_release(&memory);
}

TEST(MemoryDefault, FailureGivesEverythingBackAndTouchesNothing) {
    const keel_memory_plan plan = plan_of({{24u << 20, 64, 0}, {uint64_t{1} << 62, 64, 0}});
    for (int attempt = 0; attempt < 200; ++attempt) {  // a leak would show as gigabytes
        keel_memory memory = empty_memory();
        ASSERT_EQ(keel_memory_default(&plan, &memory), KEEL_E_PLATFORM);
        EXPECT_EQ(memory.owner, nullptr);
        for (const keel_region& region : memory.regions) EXPECT_EQ(region.data, nullptr);
    }
    EXPECT_LT(resident_kb(), 2u << 20);
}

TEST(MemoryDefault, ChecksItsArguments) {
    keel_memory memory = empty_memory();
    keel_memory_plan plan = plan_of({{4096, 48, 0}});
    EXPECT_EQ(keel_memory_default(nullptr, &memory), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_memory_default(&plan, nullptr), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_memory_default(&plan, &memory), KEEL_E_ARGUMENT) << "alignment 48";
    plan = plan_of({{UINT64_MAX, 64, 0}});
    EXPECT_EQ(keel_memory_default(&plan, &memory), KEEL_E_PLATFORM);
    plan.struct_size = 8;
    EXPECT_EQ(keel_memory_default(&plan, &memory), KEEL_E_ABI);
    plan.struct_size = sizeof(plan);
    memory.struct_size = 8;
    EXPECT_EQ(keel_memory_default(&plan, &memory), KEEL_E_ABI);
}

// Memory that the caller brought is not Keel's to free.
TEST(MemoryDefault, ReleaseLeavesForeignMemoryAlone) {
    static uint8_t mine[64];
    keel_memory memory = empty_memory();
    memory.regions[0] = {mine, sizeof(mine)};
    keel_memory_release(&memory);
    EXPECT_EQ(memory.regions[0].data, mine);
}

}  // namespace
