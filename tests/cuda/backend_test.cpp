// The CUDA backend beside its arithmetic, over the fake driver: what it refuses, what a driver that fails does to it,
// memory exact to the byte, sessions that change between it and the CPU.
#include <gtest/gtest.h>
#include <string.h>

#include <cmath>
#include <functional>

#include "keel/keel_cuda.h"
#include "keel/keel_lab.h"
#include "sdk/backend/cpu/cpu_backend.h"
#include "tests/cuda/fake_driver.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::check;
using keel_test::Engine;
using keel_test::FakeDriver;
using keel_test::sized;

const char* const kModel = "tests/data/architectures/llama-linear.gguf";
const char* const kWideModel = "tests/data/architectures/smollm2-q8_0.gguf";  // whose heads fit every KV format

keel_config small_config() {
    keel_config config = sized<keel_config>();
    config.context_tokens = 128;
    config.chunk_tokens = 64;
    config.max_sessions = 2;
    return config;
}
const keel_backend* cpu() {
    static const keel_backend table = {keel::kCpuBackend};
    return &table;
}
std::vector<int32_t> tokens(uint32_t count, uint32_t seed) {
    std::vector<int32_t> ids(count);
    for (uint32_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((seed + i * 37) % 200 + 3);
    return ids;
}
std::vector<float> last_logits(Engine& e, keel_session session) {
    const float* row = nullptr;
    uint32_t count = 0;
    check(keel_session_logits(session, 0, &row, &count), "keel_session_logits");
    return {row, row + e.info().vocabulary};
}
keel_status init_status(const std::function<void(keel_config*)>& change = nullptr) {
    keel_config config = small_config();
    if (change) change(&config);
    try {
        Engine engine(keel_test::source_path(kModel), config);
        return KEEL_OK;
    } catch (const keel_test::Error& error) {
        return error.status;
    }
}

// A plan on the backend, and what it is of.
struct Planned {
    keel_test::InspectedFile file{keel_test::source_path(kModel)};
    keel_config config = small_config();
    keel_memory_plan plan = sized<keel_memory_plan>();

    Planned() {
        config.backend = keel_cuda();
        check(keel_plan(&file.reader, file.model, &config, &plan, nullptr), "keel_plan");
    }
};

TEST(CudaBackend, RefusesWhatIsNoDevice) {
    EXPECT_EQ(init_status(), KEEL_OK);
    FakeDriver::get().present = false;
    EXPECT_EQ(init_status(), KEEL_E_DEVICE);
    FakeDriver::get().present = true;
    FakeDriver::get().capability_major = 7;
    EXPECT_EQ(init_status(), KEEL_E_UNSUPPORTED);
    FakeDriver::get().capability_major = 8;
    FakeDriver::get().shared_limit = 32 * 1024;
    EXPECT_EQ(init_status(), KEEL_E_UNSUPPORTED);
    FakeDriver::get().shared_limit = 48 * 1024;
    EXPECT_EQ(init_status(), KEEL_OK);
}

TEST(CudaBackend, RefusesOptionsThatAreNone) {
    keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
    const auto with_device = [&](keel_config* config) { config->backend_options = &device; };
    EXPECT_EQ(init_status(with_device), KEEL_OK);
    device.ordinal = -1;
    EXPECT_EQ(init_status(with_device), KEEL_E_ARGUMENT);
    device.ordinal = 5;
    EXPECT_EQ(init_status(with_device), KEEL_E_DEVICE);
    device.ordinal = 0;
    int stream = 0;
    device.stream = &stream;
    EXPECT_EQ(init_status(with_device), KEEL_E_ARGUMENT);
    device.stream = nullptr;
    device.reserved = 1;
    EXPECT_EQ(init_status(with_device), KEEL_E_ABI);
    device.reserved = 0;
    device.struct_size = 3;
    EXPECT_EQ(init_status(with_device), KEEL_E_ABI);
}

// Every region of the plan is needed to its last byte, and nothing is allocated or loaded after init.
TEST(CudaBackend, TakesThePlansBytesAndNoMore) {
    Planned planned;
    auto& [file, config, plan] = planned;
    for (const int kind :
         {KEEL_REGION_PINNED, KEEL_REGION_DEVICE_SCRATCH, KEEL_REGION_DEVICE_WEIGHTS, KEEL_REGION_DEVICE_KV}) {
        EXPECT_GT(plan.regions[kind].bytes, 0u);
        const keel_test::Memory memory(plan);
        keel_memory less = *memory.get();
        less.regions[kind].bytes -= 1;
        keel_engine engine;
        EXPECT_EQ(keel_engine_init(&file.reader, file.model, &config, &less, &engine, nullptr),
                  KEEL_E_MEMORY_TOO_SMALL);
    }
    EXPECT_EQ(plan.regions[KEEL_REGION_KV].bytes, 0u);
    EXPECT_EQ(plan.regions[KEEL_REGION_SCRATCH].bytes, 0u);
}

// What is copied is read, though the file is mapped too: one cut short meanwhile is a status.
TEST(CudaBackend, WeightsComeThroughTheReader) {
    struct Cut {
        const std::vector<char>* bytes;
        uint64_t end, read;
    };
    Planned planned;
    auto& [file, config, plan] = planned;
    const keel_test::Memory memory(plan);
    Cut cut = {&file.bytes, file.bytes.size(), 0};
    keel_reader reader = file.reader;
    reader.user_data = &cut;
    reader.read_at = [](void* user_data, uint64_t offset, void* to, uint64_t bytes) {
        Cut& c = *static_cast<Cut*>(user_data);
        if (offset > c.end || bytes > c.end - offset) return KEEL_E_FILE_READ;
        memcpy(to, c.bytes->data() + offset, bytes);
        c.read += bytes;
        return KEEL_OK;
    };
    keel_engine engine;
    check(keel_engine_init(&reader, file.model, &config, memory.get(), &engine, nullptr), "init");
    check(keel_engine_close(engine), "close");
    EXPECT_GT(cut.read, plan.regions[KEEL_REGION_DEVICE_WEIGHTS].bytes * 9 / 10);
    uint32_t refused = 0;
    for (cut.end = file.bytes.size() - 1; cut.end > file.bytes.size() / 2; cut.end -= file.bytes.size() / 16, ++refused)
        EXPECT_EQ(keel_engine_init(&reader, file.model, &config, memory.get(), &engine, nullptr), KEEL_E_FILE_READ);
    EXPECT_GT(refused, 5u);
}

TEST(CudaBackend, AllocatesAndLoadsNothingAfterInit) {
    Engine engine(keel_test::source_path(kModel), small_config());
    const FakeDriver before = FakeDriver::get();
    engine.feed(tokens(70, 1));
    engine.advance();
    engine.feed(tokens(1, 9));
    engine.advance();
    const FakeDriver& after = FakeDriver::get();
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.module_loads, before.module_loads);
    EXPECT_EQ(after.open_objects, before.open_objects);
    EXPECT_GT(after.launches, before.launches);
    keel_stats stats = sized<keel_stats>();
    check(keel_engine_stats(engine.handle(), &stats), "stats");
    EXPECT_EQ(stats.allocations_after_init, 0u);
}

// A small life of an engine. Throws what a call returned, else gives the calls of the driver before its end.
uint64_t live() {
    Engine engine(keel_test::source_path(kModel), small_config());
    engine.feed(tokens(2, 1));
    engine.advance();
    keel_session copy;
    check(keel_session_fork(engine.session(), &copy), "fork");
    const std::vector<int32_t> next = tokens(1, 5);
    check(keel_session_feed(copy, next.data(), 1, 0), "feed");
    keel_advance_result result = sized<keel_advance_result>();
    for (keel_status status = KEEL_AGAIN; status == KEEL_AGAIN;) {
        status = keel_advance(engine.handle(), &copy, 1, 1000, &result);
        check(status == KEEL_AGAIN ? KEEL_OK : status, "advance");
    }
    uint64_t bytes = 0;
    check(keel_session_save_bytes(copy, &bytes), "save");
    std::vector<uint8_t> saved(bytes);
    check(keel_session_save(copy, saved.data(), bytes, &bytes), "save");
    check(keel_session_truncate(copy, 0), "truncate");
    check(keel_session_restore(copy, saved.data(), bytes, nullptr), "restore");
    return FakeDriver::get().calls;
}

// Whatever call fails, it is a status, the process lives and everything is given back.
TEST(CudaBackend, EveryCallOfTheDriverMayFail) {
    live();
    const uint64_t calls = FakeDriver::get().calls;
    ASSERT_GT(calls, 100u);
    uint32_t refused = 0;
    for (uint64_t call = 1; call <= calls; ++call) {
        FakeDriver::reset();
        FakeDriver::get().fail_at = call;
        // A call that gives something back and fails leaves it with the driver; when a context is refused, all of it.
        int64_t left = 5;
        try {
            EXPECT_LT(live(), call) << "nobody noticed that the call failed";
        } catch (const keel_test::Error& error) {
            EXPECT_TRUE(error.status == KEEL_E_DEVICE || error.status == KEEL_E_POISONED)
                << "call " << call << ": " << error.what();
            ++refused;
            left = 1;
        }
        EXPECT_EQ(FakeDriver::get().fault, "") << "call " << call;
        EXPECT_LE(FakeDriver::get().open_objects, left) << "call " << call;
    }
    EXPECT_GT(refused, calls / 20);
    FakeDriver::reset();
}

// A step that is late and in pieces: calls with a budget go on where the last one stopped, and the bits are the same.
TEST(CudaBackend, BudgetsCutAStepAnywhere) {
    std::vector<float> want;
    for (const uint64_t budget_us : {0ull, 1ull, 40ull, 1000000ull}) {
        FakeDriver::get().commands_per_query = budget_us == 40 ? 1 : 3;
        FakeDriver::get().split_launches = budget_us == 1;
        Engine engine(keel_test::source_path(kModel), small_config());
        engine.feed(tokens(80, 3));
        keel_advance_result result = sized<keel_advance_result>();
        uint32_t calls = 0;
        keel_status status = KEEL_AGAIN;
        for (; status == KEEL_AGAIN; ++calls) {
            keel_session session = engine.session();
            status = keel_advance(engine.handle(), &session, 1, budget_us, &result);
        }
        ASSERT_EQ(status, KEEL_OK);
        EXPECT_GT(calls, budget_us == 1 ? 10u : 0u);
        const std::vector<float> got = last_logits(engine, engine.session());
        if (want.empty()) want = got;
        EXPECT_EQ(got, want) << budget_us;
    }
}

std::vector<keel_lab_op_time> op_times(Engine& engine) {
    uint32_t count = 0;
    check(keel_lab_op_times(engine.handle(), nullptr, 0, &count), "keel_lab_op_times");
    std::vector<keel_lab_op_time> times(count, sized<keel_lab_op_time>());
    check(keel_lab_op_times(engine.handle(), times.data(), count, &count), "keel_lab_op_times");
    return times;
}
// A driver whose clock goes on by so much for each kernel: products take 30 us, all others 2.
uint64_t slow_products(const std::string& kernel) {
    return kernel.find("product") != std::string::npos ? 30000 : 2000;
}

// What kernels write of the time is what each op took, to the nanosecond, in one call or in many.
TEST(CudaBackend, TimesOfOpsAreThoseOfTheDevicesClock) {
    for (const uint64_t budget_us : {0ull, 1ull}) {
        Engine engine(keel_test::source_path(kModel), small_config());
        FakeDriver::get().launch_ns = slow_products;
        EXPECT_EQ(op_times(engine).size(), 0u);
        check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
        engine.feed(tokens(3, 1));
        keel_advance_result result = sized<keel_advance_result>();
        keel_session session = engine.session();
        const uint64_t before_ns = FakeDriver::get().clock_ns;
        while (keel_advance(engine.handle(), &session, 1, budget_us, &result) == KEEL_AGAIN) {
            EXPECT_EQ(op_times(engine).size(), 0u) << "of a step that is not done";
        }
        ASSERT_EQ(result.status, KEEL_OK);
        const auto times = op_times(engine);
        ASSERT_GT(times.size(), 20u);
        const uint64_t calls = budget_us ? times.size() : 1;  // each has a mark behind it
        double sum_us = 0;
        uint32_t products = 0, next = 0;
        for (const keel_lab_op_time& t : times) {
            EXPECT_EQ(t.op, next);
            next += t.ops;
            if (!budget_us) {
                EXPECT_DOUBLE_EQ(t.begin_us, sum_us);
            }
            sum_us += t.us;
            products += t.us == 30;
            EXPECT_EQ(std::fmod(t.us, 2), 0) << t.op << " took " << t.us;
        }
        EXPECT_GT(products, 5u);
        EXPECT_EQ(static_cast<uint64_t>(sum_us * 1000) + calls * 2000, FakeDriver::get().clock_ns - before_ns);
    }
}

// Predictions become what is measured, and with them a budget leaves in flight what it says.
TEST(CudaBackend, PredictionsLearnFromTheDevice) {
    keel_config config = small_config();
    config.context_tokens = 256;
    Engine engine(keel_test::source_path(kModel), config);
    check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
    FakeDriver::get().launch_ns = [](const std::string& kernel) { return 50 * slow_products(kernel); };
    keel_advance_result result = sized<keel_advance_result>();
    const auto calls_of_a_step = [&](uint64_t budget_us) {
        engine.feed(tokens(1, 4));
        keel_session session = engine.session();
        uint32_t calls = 1;
        while (keel_advance(engine.handle(), &session, 1, budget_us, &result) == KEEL_AGAIN) ++calls;
        EXPECT_EQ(result.status, KEEL_OK);
        return calls;
    };
    FakeDriver::get().commands_per_query = 1000;
    calls_of_a_step(0);
    double worst = 0;
    for (const keel_lab_op_time& t : op_times(engine)) worst = std::max(worst, t.us / t.predicted_us);
    EXPECT_GT(worst, 20) << "nothing was to be learned";
    for (uint32_t step = 0; step < 60; ++step) calls_of_a_step(0);
    double step_us = 0;
    for (const keel_lab_op_time& t : op_times(engine)) {
        EXPECT_NEAR(t.predicted_us, t.us, t.us * 0.05) << t.op;
        step_us += t.us;
    }
    // Of a step of so many microseconds a call may leave what its budget allows in flight, and one op more.
    const uint32_t calls = calls_of_a_step(static_cast<uint64_t>(step_us / 4));
    EXPECT_GE(calls, 4u);
    EXPECT_LE(calls, 9u);
}

// A session saved on one backend goes on in the other, with the same bits.
TEST(CudaBackend, SessionsMoveBetweenBackends) {
    for (const keel_kv_format format : {KEEL_KV_F16, KEEL_KV_Q8_0, KEEL_KV_TCQ_3, KEEL_KV_E8_4}) {
        keel_config config = small_config();
        config.k_format = config.v_format = format;
        config.kv_sink_tokens = 4;
        config.kv_recent_tokens = 8;
        std::vector<std::vector<float>> rows;
        for (const bool from_cuda : {false, true})
            for (const bool to_cuda : {false, true}) {
                config.backend = from_cuda ? keel_cuda() : cpu();
                Engine from(keel_test::source_path(kWideModel), config);
                config.backend = to_cuda ? keel_cuda() : cpu();
                Engine to(keel_test::source_path(kWideModel), config);
                from.feed(tokens(75, 2));
                from.advance();
                uint64_t bytes = 0;
                check(keel_session_save_bytes(from.session(), &bytes), "save");
                std::vector<uint8_t> saved(bytes);
                check(keel_session_save(from.session(), saved.data(), bytes, &bytes), "save");
                check(keel_session_restore(to.session(), saved.data(), bytes, nullptr), "restore");
                to.feed(tokens(3, 7));
                to.advance();
                rows.push_back(last_logits(to, to.session()));
            }
        for (const std::vector<float>& row : rows) EXPECT_EQ(row, rows[0]) << format;
    }
}

// Memory from keel_cuda_memory, and its way back.
TEST(CudaBackend, MemoryOfAPlan) {
    Planned planned;
    auto& [file, config, plan] = planned;
    const keel_test::Memory host(plan);
    keel_memory memory = *host.get();
    check(keel_cuda_memory(&plan, nullptr, &memory, nullptr), "keel_cuda_memory");
    EXPECT_EQ(FakeDriver::get().allocations, 4u);
    keel_engine engine;
    check(keel_engine_init(&file.reader, file.model, &config, &memory, &engine, nullptr), "init");
    check(keel_engine_close(engine), "close");
    check(keel_cuda_memory_release(nullptr, &memory), "release");
    EXPECT_EQ(memory.regions[KEEL_REGION_DEVICE_KV].data, nullptr);
    EXPECT_EQ(FakeDriver::get().open_objects, 0);
    // All or nothing.
    for (uint64_t call = 1; call < 40; ++call) {
        FakeDriver::reset();
        FakeDriver::get().fail_at = call;
        memory = *host.get();
        const keel_status status = keel_cuda_memory(&plan, nullptr, &memory, nullptr);
        FakeDriver::get().fail_at = 0;
        if (status == KEEL_OK) {
            check(keel_cuda_memory_release(nullptr, &memory), "release");
            continue;
        }
        EXPECT_EQ(memory.regions[KEEL_REGION_DEVICE_KV].data, host.get()->regions[KEEL_REGION_DEVICE_KV].data);
        EXPECT_LE(FakeDriver::get().open_objects, 1);
    }
    FakeDriver::reset();
}

// Taps and rows of the laboratory are the CPU's.
TEST(CudaBackend, HasNoTaps) {
    Engine engine(keel_test::source_path(kModel), small_config());
    check(keel_session_close(engine.session()), "close");
    EXPECT_EQ(keel_lab_set_tap(
                  engine.handle(), [](void*, const keel_lab_heads*) {}, nullptr),
              KEEL_E_UNSUPPORTED);
    EXPECT_EQ(keel_lab_set_row_tap(
                  engine.handle(), [](void*, const keel_lab_row*) {}, nullptr),
              KEEL_E_UNSUPPORTED);
}

}  // namespace
