// KEEL_NUMERICS_DEVICE beside its results (device_numerics_test.cpp): plans, refusals, calls of the library that fail,
// sessions that do not mix. Over the fakes of driver and library.
#include <gtest/gtest.h>
#include <string.h>

#include "keel/keel_cuda.h"
#include "sdk/backend/cpu/cpu_backend.h"
#include "tests/async_backend.h"
#include "tests/cuda/fake_driver.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::check;
using keel_test::Engine;
using keel_test::FakeDriver;
using keel_test::sized;

const char* const kModel = "tests/data/architectures/llama-linear.gguf";  // F16
const char* const kQuantized = "tests/data/architectures/smollm2-q8_0.gguf";

keel_config library_config() {
    keel_config config = sized<keel_config>();
    config.context_tokens = 128;
    config.chunk_tokens = 100;
    config.backend = keel_cuda();
    config.numerics = KEEL_NUMERICS_DEVICE;
    return config;
}
std::vector<int32_t> tokens(uint32_t count) {
    std::vector<int32_t> ids(count);
    for (uint32_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((9 + i * 37) % 200 + 3);
    return ids;
}
keel_memory_plan plan_of(const keel_test::InspectedFile& file, const keel_config& config) {
    keel_memory_plan plan = sized<keel_memory_plan>();
    keel_error error = sized<keel_error>();
    check(keel_plan(&file.reader, file.model, &config, &plan, &error), "keel_plan", &error);
    return plan;
}

TEST(CudaNumerics, AreRefusedWhereNoDeviceComputesAll) {
    static const keel_backend cpu = {keel::kCpuBackend};
    const keel_test::InspectedFile file(keel_test::source_path(kModel));
    keel_cuda_device one_layer = KEEL_CUDA_DEVICE_INIT;
    one_layer.layers = 1;
    struct Case {
        const keel_backend* backend;
        const void* options;
        keel_status status;
    };
    for (const Case& c : {Case{nullptr, nullptr, KEEL_E_UNSUPPORTED}, Case{&cpu, nullptr, KEEL_E_UNSUPPORTED},
                          Case{keel_test::AsyncBackend::table(), nullptr, KEEL_E_UNSUPPORTED},
                          Case{keel_cuda(), &one_layer, KEEL_E_UNSUPPORTED}, Case{keel_cuda(), nullptr, KEEL_OK}}) {
        keel_config config = library_config();
        config.backend = c.backend;
        config.backend_options = c.options;
        keel_memory_plan plan = sized<keel_memory_plan>();
        keel_error error = sized<keel_error>();
        EXPECT_EQ(keel_plan(&file.reader, file.model, &config, &plan, &error), c.status);
        EXPECT_STREQ(error.field, c.status == KEEL_OK ? "" : "config.numerics");
        config.numerics = KEEL_NUMERICS_DEFAULT;
        EXPECT_EQ(keel_plan(&file.reader, file.model, &config, &plan, &error), KEEL_OK);
        config.numerics = static_cast<keel_numerics>(2);
        EXPECT_EQ(keel_plan(&file.reader, file.model, &config, &plan, &error), KEEL_E_ARGUMENT);
    }
}

TEST(CudaNumerics, PlansSayIt) {
    for (const char* model : {kModel, kQuantized}) {
        const keel_test::InspectedFile file(keel_test::source_path(model));
        keel_config config = library_config();
        const keel_memory_plan with = plan_of(file, config);
        uint32_t products = 0;
        for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, config))
            products += op.fp32_reason == KEEL_FP32_FEW_ROWS;
        EXPECT_EQ(products > 10, model == kModel);
        EXPECT_NE(strstr(with.note, "same bits for same steps"), nullptr);
        config.chunk_tokens = 8;
        for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, config))
            EXPECT_NE(op.fp32_reason, KEEL_FP32_FEW_ROWS) << "no step has so many rows";
        config = library_config();
        config.numerics = KEEL_NUMERICS_DEFAULT;
        const keel_memory_plan without = plan_of(file, config);
        EXPECT_EQ(strstr(without.note, "library"), nullptr);
        for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
            if (i == KEEL_REGION_DEVICE_SCRATCH) {
                EXPECT_GT(with.regions[i].bytes, without.regions[i].bytes + (32 << 20));
            } else if (i != KEEL_REGION_PERSISTENT) {
                EXPECT_EQ(with.regions[i].bytes, without.regions[i].bytes) << i;
            }
        }
    }
}

// Every region is needed to its last byte, and what a step calls makes nothing.
TEST(CudaNumerics, AreWithinThePlan) {
    const keel_test::InspectedFile file(keel_test::source_path(kModel));
    const keel_config config = library_config();
    const keel_memory_plan plan = plan_of(file, config);
    for (const int kind : {KEEL_REGION_PERSISTENT, KEEL_REGION_DEVICE_SCRATCH}) {
        const keel_test::Memory memory(plan);
        keel_memory less = *memory.get();
        less.regions[kind].bytes -= 1;
        keel_engine engine;
        EXPECT_EQ(keel_engine_init(&file.reader, file.model, &config, &less, &engine, nullptr),
                  KEEL_E_MEMORY_TOO_SMALL);
    }
    Engine engine(keel_test::source_path(kModel), config);
    const FakeDriver before = FakeDriver::get();
    engine.feed(tokens(90));
    engine.advance();
    const FakeDriver prefilled = FakeDriver::get();
    EXPECT_GT(prefilled.cublas_products, before.cublas_products + 10);
    engine.feed(tokens(1));
    engine.advance();
    const FakeDriver& after = FakeDriver::get();
    EXPECT_EQ(after.cublas_calls, prefilled.cublas_calls) << "decoding is the contract's";
    EXPECT_EQ(after.open_objects, before.open_objects);
    EXPECT_EQ(after.allocations, before.allocations);
    keel_stats stats = sized<keel_stats>();
    check(keel_engine_stats(engine.handle(), &stats), "stats");
    EXPECT_EQ(stats.allocations_after_init, 0u);
}

// A call with a budget goes on at the next product, and computes none twice.
TEST(CudaNumerics, BudgetsCutNoProduct) {
    uint64_t products[2];
    for (const uint64_t budget_us : {0u, 1u}) {
        Engine engine(keel_test::source_path(kModel), library_config());
        const uint64_t before = FakeDriver::get().cublas_products;
        engine.feed(tokens(20));
        keel_advance_result result = sized<keel_advance_result>();
        keel_session session = engine.session();
        uint32_t calls = 1;
        while (keel_advance(engine.handle(), &session, 1, budget_us, &result) == KEEL_AGAIN) ++calls;
        ASSERT_EQ(result.status, KEEL_OK);
        EXPECT_EQ(calls > 20, budget_us != 0) << calls;
        products[budget_us] = FakeDriver::get().cublas_products - before;
    }
    EXPECT_EQ(products[1], products[0]);
}

TEST(CudaNumerics, AMissingLibraryIsNamedByInit) {
    FakeDriver::get().cublas_present = false;
    const keel_test::InspectedFile file(keel_test::source_path(kModel));
    keel_config config = library_config();
    const keel_memory_plan plan = plan_of(file, config);
    const keel_test::Memory memory(plan);
    keel_engine engine;
    keel_error error = sized<keel_error>();
    EXPECT_EQ(keel_engine_init(&file.reader, file.model, &config, memory.get(), &engine, &error), KEEL_E_DEVICE);
    EXPECT_STREQ(error.field, "cuBLASLt");
    config.numerics = KEEL_NUMERICS_DEFAULT;
    EXPECT_EQ(keel_engine_init(&file.reader, file.model, &config, memory.get(), &engine, &error), KEEL_OK);
    check(keel_engine_close(engine), "close");
}

TEST(CudaNumerics, EveryCallOfTheLibraryMayFail) {
    const auto live = [] {
        keel_config config = library_config();
        config.chunk_tokens = 12;
        Engine engine(keel_test::source_path("tests/data/architectures/qwen2-mqa-tied.gguf"), config);
        engine.feed(tokens(10));
        engine.advance();
    };
    live();
    const uint64_t calls = FakeDriver::get().cublas_calls;
    ASSERT_GT(calls, 50u);
    uint32_t refused = 0;
    for (uint64_t call = 1; call <= calls; ++call) {
        FakeDriver::reset();
        FakeDriver::get().cublas_fail_at = call;
        try {
            live();
        } catch (const keel_test::Error& error) {
            EXPECT_TRUE(error.status == KEEL_E_DEVICE || error.status == KEEL_E_POISONED)
                << "call " << call << ": " << error.what();
            ++refused;
        }
        EXPECT_EQ(FakeDriver::get().fault, "") << "call " << call;
        EXPECT_EQ(FakeDriver::get().open_objects, 0) << "call " << call;
    }
    EXPECT_GE(refused, calls * 3 / 4);  // but for what gives back
    FakeDriver::reset();
}

// What one kind of engine computed is not what the other goes on with.
TEST(CudaNumerics, SessionsDoNotMix) {
    std::vector<uint8_t> saved[2];
    for (const keel_numerics saver : {KEEL_NUMERICS_DEFAULT, KEEL_NUMERICS_DEVICE}) {
        keel_config config = library_config();
        config.numerics = saver;
        Engine engine(keel_test::source_path(kModel), config);
        engine.feed(tokens(20));
        engine.advance();
        uint64_t bytes = 0;
        check(keel_session_save_bytes(engine.session(), &bytes), "save");
        saved[saver].resize(bytes);
        check(keel_session_save(engine.session(), saved[saver].data(), bytes, &bytes), "save");
    }
    for (const keel_numerics restorer : {KEEL_NUMERICS_DEFAULT, KEEL_NUMERICS_DEVICE}) {
        keel_config config = library_config();
        config.numerics = restorer;
        Engine engine(keel_test::source_path(kModel), config);
        for (const keel_numerics saver : {KEEL_NUMERICS_DEFAULT, KEEL_NUMERICS_DEVICE})
            EXPECT_EQ(keel_session_restore(engine.session(), saved[saver].data(), saved[saver].size(), nullptr),
                      saver == restorer ? KEEL_OK : KEEL_E_FILE_MISMATCH);
    }
}

}  // namespace
