// keel_pack expands caches and text in static memory: no allocation and no system call, zstd included, for a good file
// and for a damaged one.
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

// Into `packed`; nothing is allowed from here on.
void read_and_forbid(const char* path) {
    FILE* file = fopen(path, "rb");
    CHILD_CHECK(file);
    packed_bytes = fread(packed, 1, sizeof packed, file);
    fclose(file);
    CHILD_CHECK(packed_bytes > 0 && packed_bytes < sizeof packed);
    keel_test::child_forbid_allocation();
    keel_test::child_forbid_system_calls();
}

void expand_text() {
    read_and_forbid(KEEL_SOURCE_DIR "/tests/fuzz/corpus/pack/zstd");
    keel_reader reader = versioned<keel_reader>(), section = versioned<keel_reader>();
    CHILD_STATUS(KEEL_OK, keel_reader_from_memory(packed, packed_bytes, &reader));
    keel_pack_section sections[KEEL_PACK_MAX_SECTIONS];
    sections[0] = versioned<keel_pack_section>();
    uint32_t count = 0;
    keel_error error = versioned<keel_error>();
    CHILD_STATUS(KEEL_OK, keel_pack_sections(&reader, sections, KEEL_PACK_MAX_SECTIONS, &count, &error));
    CHILD_STATUS(KEEL_OK, keel_pack_reader(&reader, &sections[0], &section));
    keel_pack_text_info info = versioned<keel_pack_text_info>();
    CHILD_STATUS(KEEL_OK, keel_pack_inspect_text(&section, &info, &error));
    CHILD_CHECK(info.text_bytes <= sizeof plain && info.work_bytes <= sizeof work);
    CHILD_STATUS(KEEL_OK, keel_pack_expand_text(&section, plain, info.text_bytes, work, info.work_bytes, &error));
    CHILD_CHECK(memcmp(plain, "GGUF", 4) == 0);
    packed[sections[0].offset + 60] ^= 1;
    CHILD_STATUS(KEEL_E_FILE_FORMAT,
                 keel_pack_expand_text(&section, plain, info.text_bytes, work, info.work_bytes, &error));
}

void expand() {
    read_and_forbid(KEEL_SOURCE_DIR "/tests/fuzz/corpus/wproj/packed");
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

TEST(TextPack, ExpandsWithoutAllocating) {
    const keel_test::ChildResult result = keel_test::run_in_child(expand_text);
    if (result.skipped) GTEST_SKIP() << result.text;
    EXPECT_TRUE(result.ok) << result.text;
}

}  // namespace
