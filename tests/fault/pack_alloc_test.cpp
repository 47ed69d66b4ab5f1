// keel_pack expands in static memory: no allocation and no system call, zstd included, for a good file and for a
// damaged one.
#include <gtest/gtest.h>
#include <stdio.h>
#include <string.h>

#include "keel/keel_pack.h"
#include "tests/fault/alloc_guard.h"
#include "tests/fault/guarded_child.h"

namespace {

alignas(64) uint8_t packed[1u << 20], plain[1u << 20], work[1u << 20];
size_t packed_bytes;

template <class T>
T versioned() {
    T value = {};
    value.struct_size = sizeof(T);
    return value;
}

void expand() {
    FILE* file = fopen(KEEL_SOURCE_DIR "/tests/fuzz/corpus/wproj/packed", "rb");
    CHILD_CHECK(file);
    packed_bytes = fread(packed, 1, sizeof packed, file);
    fclose(file);
    CHILD_CHECK(packed_bytes > 0 && packed_bytes < sizeof packed);
    keel_test::child_forbid_allocation();
    keel_test::child_forbid_system_calls();
    keel_reader reader = versioned<keel_reader>();
    CHILD_STATUS(KEEL_OK, keel_reader_from_memory(packed, packed_bytes, &reader));
    keel_pack_info info = versioned<keel_pack_info>();
    keel_error error = versioned<keel_error>();
    CHILD_STATUS(KEEL_OK, keel_pack_inspect(&reader, &info, &error));
    CHILD_CHECK(info.plain_bytes <= sizeof plain && info.work_bytes <= sizeof work);
    CHILD_STATUS(KEEL_OK, keel_pack_expand(&reader, plain, info.plain_bytes, work, info.work_bytes, &error));
    CHILD_CHECK(memcmp(plain, "WPROJV02", 8) == 0);
    packed[packed_bytes - 20] ^= 1;
    CHILD_STATUS(KEEL_E_FILE_FORMAT, keel_pack_expand(&reader, plain, info.plain_bytes, work, info.work_bytes, &error));
}

TEST(WprojPack, ExpandsWithoutAllocating) {
    const keel_test::ChildResult result = keel_test::run_in_child(expand);
    if (result.skipped) GTEST_SKIP() << result.text;
    EXPECT_TRUE(result.ok) << result.text;
}

}  // namespace
