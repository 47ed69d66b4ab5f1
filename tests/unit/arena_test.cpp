// Arenas: what is counted is what is placed, objects have names, and under AddressSanitizer a byte past one is a fault.
#include "sdk/core/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel::Arena;
using keel::ArenaRecorder;
using keel::kRedZoneBytes;

struct Placed {
    std::string name;
    int32_t index;
    uint64_t offset, bytes;
    bool operator==(const Placed& o) const = default;
};

ArenaRecorder recorder_of(std::vector<Placed>* list) {
    return {[](void* context, const char* name, int32_t index, uint64_t offset, uint64_t bytes) {
                static_cast<std::vector<Placed>*>(context)->push_back({name, index, offset, bytes});
            },
            list};
}

void place_some(Arena& arena) {
    arena.place<char>("text", 5);
    arena.place<double>("numbers", 3, 7);
    arena.place_bytes("page", 100, 4096);
}

TEST(Arena, CountsWhatItPlaces) {
    std::vector<Placed> counted;
    const ArenaRecorder recorder = recorder_of(&counted);
    Arena counting(&recorder);
    place_some(counting);
    EXPECT_TRUE(counting.counting());
    ASSERT_EQ(counted.size(), 3u);
    EXPECT_EQ(counted[0], (Placed{"text", -1, 0, 5}));
    EXPECT_EQ(counted[1].name, "numbers");
    EXPECT_EQ(counted[1].index, 7);
    EXPECT_EQ(counted[1].offset % 64, 0u);
    EXPECT_EQ(counted[2].offset, 4096u);
    EXPECT_EQ(counting.region_align(), 4096u);
    EXPECT_EQ(counting.used_bytes(), 4096 + 100 + kRedZoneBytes);
    EXPECT_EQ(counting.used_bytes(), 5 + 24 + 100 + counting.padding_bytes());

    std::vector<char> memory(counting.used_bytes() + 4096);
    char* base = memory.data() + (4096 - reinterpret_cast<uintptr_t>(memory.data()) % 4096);
    Arena whole(base, counting.used_bytes()), less(base, counting.used_bytes() - 1);
    place_some(whole);
    place_some(less);
    EXPECT_TRUE(whole.ok());
    EXPECT_EQ(whole.used_bytes(), counting.used_bytes());
    EXPECT_FALSE(less.ok());
    whole.seal();
    EXPECT_EQ(whole.place_bytes("late", 1), nullptr);
    EXPECT_EQ(whole.refused_after_seal(), 1u);
    whole.release();
}

TEST(Arena, ElementsOfAnArrayHaveAZoneEach) {
    Arena counting;
    EXPECT_EQ(counting.place_offsets("pages", 3, 128), 0u);
    EXPECT_EQ(counting.used_bytes(), 3 * (128 + kRedZoneBytes));
    EXPECT_EQ(counting.padding_bytes(), 3 * kRedZoneBytes);
    counting.place_offsets("too many", UINT64_MAX / 64, 128);
    EXPECT_FALSE(counting.ok());
}

// Memory of a device may have any address, and a region of 0 bytes has none: neither is count mode.
TEST(Arena, AnAddressOfNullIsNoCountMode) {
    Arena device(nullptr, 1024 + kRedZoneBytes);
    EXPECT_FALSE(device.counting());
    EXPECT_EQ(device.place_offset("pages", 1024), 0u);
    EXPECT_TRUE(device.ok());
    device.place_offset("more", 1);
    EXPECT_FALSE(device.ok());
    Arena none(nullptr, 0);
    none.place_offset("something", 1);
    EXPECT_FALSE(none.ok());
}

#ifdef KEEL_ADDRESS_SANITIZER
TEST(ArenaDeathTest, AByteBehindAnObjectIsAFault) {
    std::vector<char> memory(1024);
    char* base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
    Arena arena(base, 512);
    volatile char* first = arena.place<char>("first", 5);
    volatile char* second = arena.place<char>("second", 64);
    first[4] = 1;
    second[0] = 1;
    second[63] = 1;
    EXPECT_DEATH(first[5] = 1, "use-after-poison");
    EXPECT_DEATH(second[64] = 1, "use-after-poison");
    arena.release();
    first[5] = 1;
}

TEST(ArenaDeathTest, AByteBehindAnObjectOfAnEngineIsAFault) {
    const keel_test::InspectedFile file(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"));
    keel_config config = keel_test::sized<keel_config>();
    config.context_tokens = 64;
    config.threads = 1;
    config.max_sessions = 2;
    config.kv_sink_tokens = 4;
    keel_memory_plan plan = keel_test::sized<keel_memory_plan>();
    keel_test::check(keel_plan(&file.reader, file.model, &config, &plan, nullptr), "plan");
    const keel_test::Memory memory(plan);
    keel_engine engine;
    keel_test::check(keel_engine_init(&file.reader, file.model, &config, memory.get(), &engine, nullptr), "init");
    uint32_t seen = 0;
    const std::map<std::string, uint64_t> element_bytes = {{"pages", plan.kv_page_bytes},
                                                           {"f16_windows", plan.kv_session_bytes}};
    for (const keel_buffer_info& b : keel_test::plan_buffers(&file.reader, file.model, config)) {
        const auto element = element_bytes.find(b.name);
        const bool array = element != element_bytes.end();
        if (!array && std::strcmp(b.name, "tokens") && std::strcmp(b.name, "logits")) continue;
        ++seen;
        volatile char* object = static_cast<char*>(memory.get()->regions[b.region].data) + b.offset;
        object[b.bytes - 1] = 0;
        EXPECT_DEATH(object[b.bytes] = 0, "use-after-poison") << b.name;
        if (!array) continue;
        object[element->second - 1] = 0;
        EXPECT_DEATH(object[element->second] = 0, "use-after-poison") << b.name;
        object[element->second + kRedZoneBytes] = 0;
    }
    EXPECT_EQ(seen, 2u + 2 + 1);  // tokens of two sessions, logits, and the arrays
    keel_test::check(keel_engine_close(engine), "close");
    for (const keel_region& region : memory.get()->regions)
        if (region.bytes) std::memset(region.data, 0, region.bytes);  // the caller's again
}
#endif

}  // namespace
