#include <gtest/gtest.h>

#include "sdk/tools/common/console.h"

using namespace keel::tools;

TEST(ToolConsole, BytesForPeople) {
    EXPECT_EQ(human_bytes(0), "0 B");
    EXPECT_EQ(human_bytes(1023), "1023 B");
    EXPECT_EQ(human_bytes(1024), "1.0 KiB");
    EXPECT_EQ(human_bytes(14794272), "14.1 MiB");
    EXPECT_EQ(human_bytes(uint64_t{3} << 40), "3.0 TiB");
    EXPECT_EQ(human_count(7344384), "7.34 M");
    EXPECT_EQ(human_us(812), "812.0 us");
    EXPECT_EQ(human_us(3410), "3.41 ms");
}

TEST(ToolConsole, BytesFromPeople) {
    EXPECT_EQ(parse_bytes("4096"), 4096u);
    EXPECT_EQ(parse_bytes("512M"), 512u << 20);
    EXPECT_EQ(parse_bytes("1.5GiB"), 3u << 29);
    EXPECT_EQ(parse_bytes("2 gb"), 2ull << 30);
    for (const char* bad : {"", "M", "-1", "nan", "12X", "1GG", "99999999999T"})
        EXPECT_THROW(parse_bytes(bad), ToolError) << bad;
}

TEST(ToolConsole, EveryStatusHasTheDocumentedExitCode) {
    EXPECT_EQ(exit_code_of(KEEL_OK), kExitOk);
    EXPECT_EQ(exit_code_of(KEEL_E_FILE_FORMAT), kExitFile);
    EXPECT_EQ(exit_code_of(KEEL_E_UNSUPPORTED), kExitFile);
    EXPECT_EQ(exit_code_of(KEEL_E_CONTEXT_FULL), kExitMemory);
    EXPECT_EQ(exit_code_of(KEEL_E_MEMORY_TOO_SMALL), kExitMemory);
    EXPECT_EQ(exit_code_of(KEEL_E_CANCELLED), kExitCancelled);
    EXPECT_EQ(exit_code_of(KEEL_E_POISONED), kExitRuntime);
}

TEST(ToolConsole, ErrorsNameFieldOffsetAndReason) {
    keel_error detail{};
    detail.struct_size = sizeof detail;
    detail.status = KEEL_E_FILE_FORMAT;
    detail.offset = 662;
    snprintf(detail.field, sizeof detail.field, "general.alignment");
    snprintf(detail.reason, sizeof detail.reason, "not a power of two");
    const ToolError error(KEEL_E_FILE_FORMAT, "cannot use m.gguf", &detail);
    const std::string text = error.what();
    for (const char* part :
         {"cannot use m.gguf", "KEEL_E_FILE_FORMAT", "general.alignment", "662", "not a power of two"})
        EXPECT_NE(text.find(part), std::string::npos) << part;
    EXPECT_EQ(error.detail["offset"], 662);
    EXPECT_EQ(error.exit_code, kExitFile);
    EXPECT_NO_THROW(check(KEEL_AGAIN, "advance"));
    EXPECT_THROW(check(KEEL_E_KV_FULL, "advance"), ToolError);
}

TEST(ToolConsole, TablesAlign) {
    Table table({"name", "n"});
    table.add({"a", "10"});
    table.add({"long name", "5"});
    EXPECT_EQ(table.text(), "name        n\na          10\nlong name   5\n");
}
