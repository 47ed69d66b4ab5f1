// samples/hello.c, compiled as it is, makes no heap allocation once keel_engine_init has returned.
#include <gtest/gtest.h>
#include <stdlib.h>

#include "keel/keel.h"
#include "sdk/tools/common/allocation_counter.h"
#include "tests/test_paths.h"

namespace {
uint64_t heap_at_init = 0;
}

extern "C" {
int hello_main(int argc, char** argv);

#undef keel_engine_init
// What hello.c calls.
keel_status watched_engine_init(const keel_reader* reader, const keel_model* model, const keel_config* config,
                                const keel_memory* memory, keel_engine* out, keel_error* error);
keel_status watched_engine_init(const keel_reader* reader, const keel_model* model, const keel_config* config,
                                const keel_memory* memory, keel_engine* out, keel_error* error) {
    const keel_status status = keel_engine_init(reader, model, config, memory, out, error);
    heap_at_init = keel::tools::heap_allocations();
    return status;
}
}

TEST(Hello, AllocatesNothingAfterInit) {
    if (!keel::tools::heap_is_counted()) GTEST_SKIP() << "skipped: a sanitizer owns the heap of this build";
    std::string name = "hello", path = keel_test::source_path("samples/models/books-7m-f16.gguf");
    char* arguments[] = {name.data(), path.data(), nullptr};
    ASSERT_EQ(hello_main(2, arguments), 0);
    const uint64_t after = keel::tools::heap_allocations();
    EXPECT_EQ(after - heap_at_init, 0u);

    void* volatile p = malloc(1);
    free(p);
    EXPECT_EQ(keel::tools::heap_allocations() - after, 1u) << "the counter does not count";
}
