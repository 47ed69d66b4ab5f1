#include <gtest/gtest.h>
#include <signal.h>

#include "sdk/tools/common/console.h"
#include "sdk/tools/common/help_text.h"
#include "sdk/tools/common/interrupt.h"

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

TEST(ToolConsole, ProgressFitsItsColumns) {
    EXPECT_EQ(progress_line("loading", 0.5, 12.3, "94.2 MiB", 79),
              "loading [###############...............]  50 %  12 s left  94.2 MiB");
    EXPECT_EQ(progress_line("loading", 1, -1, "", 79), "loading [##############################] 100 %");
    EXPECT_EQ(progress_line("loading", 0.25, 600, "", 79),
              "loading [#######.......................]  25 %  10 min left");
    EXPECT_EQ(progress_line("loading", 0.5, -1, "", 24), "loading [####....]  50 %");
    EXPECT_EQ(progress_line("loading", 0.5, -1, "94.2 MiB", 20), "loading  50 %  94.2 ");
    for (size_t columns = 1; columns < 100; ++columns)
        EXPECT_LE(progress_line("loading", 0.37, 75, "document 3 of 40, tcq-4", columns).size(), columns);
}

TEST(ToolConsole, HelpFitsItsColumns) {
    EXPECT_EQ(wrap_help("short\n\n  -x   also short\n", 20), "short\n\n  -x   also short\n");
    EXPECT_EQ(wrap_help("one two three four five", 10), "one two\n  three\n  four\n  five\n");
    const std::string option = "  --context UINT              longest sequence in tokens";
    EXPECT_EQ(wrap_help(option, 50),
              "  --context UINT              longest sequence in\n" + std::string(30, ' ') + "tokens\n");
    EXPECT_EQ(wrap_help("  keel run model.gguf --prompt Hello", 26),
              "  keel run model.gguf \\\n      --prompt Hello\n");
    EXPECT_EQ(wrap_help("  --kv-k f16|f32|q8_0|tcq-2", 20), "  --kv-k\n    f16|f32|q8_0|\n    tcq-2\n");
    EXPECT_EQ(wrap_help("abcdefghijkl", 5), "abcde\n  fgh\n  ijk\n  l\n");
}

TEST(ToolConsole, CtrlCStopsWorkUnderWay) {
    watch_interrupts();
    EXPECT_NO_THROW(stop_if_interrupted());
    ProgressBar bar(Console{}, "working");
    EXPECT_NO_THROW(bar.update(1, 2));
    raise(SIGINT);
    EXPECT_TRUE(interrupted());
    EXPECT_NO_THROW(bar.draw(1, 2));
    try {
        bar.update(1, 2);
        ADD_FAILURE() << "goes on after Ctrl-C";
    } catch (const ToolError& error) {
        EXPECT_EQ(error.exit_code, kExitCancelled);
    }
    forget_interrupt();
    EXPECT_FALSE(interrupted());
    raise(SIGINT);  // watched again: the process would end otherwise
    EXPECT_TRUE(interrupted());
    forget_interrupt();
    signal(SIGINT, SIG_DFL);
}
