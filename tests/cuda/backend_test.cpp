// The CUDA backend beside its arithmetic, over the fake driver: what it refuses, what a driver that fails does to it,
// memory exact to the byte, sessions that change between it and the CPU.
#include <gtest/gtest.h>
#include <string.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

#include "keel/keel_cuda.h"
#include "keel/keel_lab.h"
#include "platform/cuda/driver.h"
#include "sdk/backend/cpu/cpu_backend.h"
#include "sdk/backend/cuda/cuda_launch.h"
#include "sdk/tools/files/synth.h"
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
std::vector<float> last_logits(Engine& e, keel_session session, uint32_t which = 0) {
    const float* row = nullptr;
    uint32_t count = 0;
    check(keel_session_logits(session, which, &row, &count), "keel_session_logits");
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

keel_cuda_device first_layers(uint32_t layers) {
    keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
    device.layers = layers;
    return device;
}

// A small life of an engine whose first layers are the device's (0: all). Throws what a call returned, else gives the
// calls of the driver before its end.
uint64_t live(uint32_t layers) {
    keel_cuda_device device = first_layers(layers);
    device.graphs = 1;
    keel_config config = small_config();
    config.backend_options = &device;
    Engine engine(keel_test::source_path(kModel), config);
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
    int32_t token;
    check(keel_session_sample(copy, &token), "sample");
    uint64_t bytes = 0;
    check(keel_session_save_bytes(copy, &bytes), "save");
    std::vector<uint8_t> saved(bytes);
    check(keel_session_save(copy, saved.data(), bytes, &bytes), "save");
    check(keel_session_truncate(copy, 0), "truncate");
    check(keel_session_restore(copy, saved.data(), bytes, nullptr), "restore");
    return FakeDriver::get().calls;
}

// Whatever call fails, it is a status, the process lives and everything is given back.
void fail_every_call(uint32_t layers) {
    FakeDriver::reset();
    live(layers);
    const uint64_t calls = FakeDriver::get().calls;
    ASSERT_GT(calls, 100u);
    uint32_t refused = 0;
    for (uint64_t call = 1; call <= calls; ++call) {
        FakeDriver::reset();
        FakeDriver::get().fail_at = call;
        // A call that gives something back and fails leaves it with the driver; when a context is refused, all of it.
        int64_t left = layers ? 5 : 7;  // with two graphs
        try {
            EXPECT_LT(live(layers), call) << "nobody noticed that the call failed";
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
TEST(CudaBackend, EveryCallOfTheDriverMayFail) {
    fail_every_call(0);
}
TEST(CudaBackend, EveryCallOfTheDriverMayFailWithSplitLayers) {
    fail_every_call(1);
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

// Weights pass through the second cache where it does not hold them, of every product of few tokens; with the same
// bits.
TEST(CudaBackend, WeightsDoNotStayInACacheThatIsTooSmall) {
    std::vector<float> want;
    for (const size_t cache_bytes : {size_t{1} << 10, size_t{1} << 30}) {
        FakeDriver::reset();
        FakeDriver& driver = FakeDriver::get();
        driver.cache_bytes = cache_bytes;
        Engine engine(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"), small_config());
        for (const uint32_t count : {20u, 1u}) {
            const uint64_t before = driver.windows;
            engine.feed(tokens(count, 3));
            keel_advance_result result = sized<keel_advance_result>();
            keel_session session = engine.session();
            ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 0, &result), KEEL_OK);
            if (cache_bytes == 1 << 30)
                EXPECT_EQ(driver.windows, before);
            else if (count == 1)
                EXPECT_GT(driver.windows, before + 4);
            else
                EXPECT_LE(driver.windows, before + 1) << "the row of logits";
        }
        const std::vector<float> got = last_logits(engine, engine.session());
        if (want.empty()) want = got;
        EXPECT_EQ(got, want);
    }
}

// On devices that can, launches of a step begin before the one in front of them has ended, with the same bits.
TEST(CudaBackend, LaunchesOverlapWhereTheDeviceCan) {
    std::vector<float> want;
    for (const int major : {8, 9}) {
        FakeDriver::reset();
        FakeDriver& driver = FakeDriver::get();
        driver.capability_major = major;
        Engine engine(keel_test::source_path(kModel), small_config());
        const uint64_t before = driver.launches;
        for (const uint32_t count : {20u, 1u}) {
            engine.feed(tokens(count, 3));
            keel_advance_result result = sized<keel_advance_result>();
            keel_session session = engine.session();
            ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 0, &result), KEEL_OK);
        }
        EXPECT_GT(driver.launches, 20u);
        // In each of two steps all but the first one.
        EXPECT_EQ(driver.overlapping_launches, major == 8 ? 0 : driver.launches - before - 2);
        const std::vector<float> got = last_logits(engine, engine.session());
        if (want.empty()) want = got;
        EXPECT_EQ(got, want) << major;
    }
}

std::vector<keel_lab_op_time> op_times(Engine& engine) {
    uint32_t count = 0;
    check(keel_lab_op_times(engine.handle(), nullptr, 0, &count), "keel_lab_op_times");
    std::vector<keel_lab_op_time> times(count, sized<keel_lab_op_time>());
    check(keel_lab_op_times(engine.handle(), times.data(), count, &count), "keel_lab_op_times");
    return times;
}

// A dispatch that takes longer than a tile is launched in several ranges of its work items, with the same bits.
// Of two formats, the second of which attend_token reads: it appends too.
TEST(CudaBackend, TilesCutADispatch) {
    struct Life {
        std::vector<float> logits;
        std::map<std::string, uint32_t> launches;  // by kernel
    };
    const auto live_with = [](keel_kv_format v_format, uint32_t tile_us, uint64_t budget_us) {
        Life life;
        FakeDriver::get().launch_ns = [&life](const std::string& kernel) {
            ++life.launches[kernel];
            return uint64_t{1000};
        };
        keel_config config = small_config();
        config.context_tokens = 1024;
        config.chunk_tokens = 256;
        config.k_format = KEEL_KV_Q8_0;
        config.v_format = v_format;
        config.tile_us = tile_us;
        Engine engine(keel_test::source_path(kWideModel), config);
        for (const uint32_t count : {530u, 3u, 1u}) {
            engine.feed(tokens(count, count));
            keel_advance_result result = sized<keel_advance_result>();
            keel_session session = engine.session();
            while (keel_advance(engine.handle(), &session, 1, budget_us, &result) == KEEL_AGAIN) {
            }
            EXPECT_EQ(result.status, KEEL_OK);
        }
        life.logits = last_logits(engine, engine.session());
        FakeDriver::get().launch_ns = [](const std::string&) { return uint64_t{1000}; };
        return life;
    };
    FakeDriver::get().commands_per_query = 1000;
    for (const keel_kv_format v_format : {KEEL_KV_F16, KEEL_KV_Q8_0}) {
        const bool by_tokens = v_format == KEEL_KV_Q8_0;
        const Life whole = live_with(v_format, 250, 0), cut = live_with(v_format, 1, 1);
        EXPECT_EQ(cut.logits, whole.logits);
        for (const auto& [kernel, launches] : whole.launches) {
            if (kernel == "nothing") continue;
            const auto found = cut.launches.find(kernel);
            ASSERT_NE(found, cut.launches.end()) << kernel;
            EXPECT_GE(found->second, launches) << kernel;
        }
        for (const char* kernel : {"product_prompt_Q8_0", by_tokens ? "attend_blocks_64" : "attend_32",
                                   by_tokens ? "attend_token" : "attend_8", "rms_norm", "kv_append", "attention_finish",
                                   "embed_fragments_Q8_0", "rope_table"})
            if (whole.launches.count(kernel))
                EXPECT_GT(cut.launches.at(kernel), whole.launches.at(kernel)) << kernel;
            else
                ADD_FAILURE() << kernel << " did not run";
    }
}

// How far a step is comes out of pinned memory: the driver is asked now and then, and a device that is lost is noticed.
TEST(CudaBackend, PollingCallsNoDriver) {
    Engine engine(keel_test::source_path(kModel), small_config());
    FakeDriver& driver = FakeDriver::get();
    keel_session session = engine.session();
    keel_advance_result result = sized<keel_advance_result>();
    driver.commands_per_query = 0;  // the device stands still
    engine.feed(tokens(5, 3));
    ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_AGAIN);
    const FakeDriver before = driver;
    for (uint32_t i = 0; i < 320; ++i)
        ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_AGAIN);
    EXPECT_EQ(driver.launches, before.launches);
    EXPECT_GE(driver.event_queries, before.event_queries + 9);
    EXPECT_LE(driver.event_queries, before.event_queries + 10);
    EXPECT_LE(driver.calls, before.calls + 20);  // with the context's
    EXPECT_EQ(driver.event_waits, 0u);
    // Without a budget the driver waits, once.
    EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 0, &result), KEEL_OK);
    EXPECT_EQ(driver.event_waits, 1u);
    EXPECT_LE(driver.event_queries, before.event_queries + 10);
    engine.feed(tokens(1, 3));
    ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_AGAIN);
    driver.lost = true;
    keel_status status = KEEL_AGAIN;
    for (uint32_t i = 0; i < 40 && status == KEEL_AGAIN; ++i)
        status = keel_advance(engine.handle(), &session, 1, 60000000, &result);
    EXPECT_EQ(status, KEEL_E_POISONED);
    driver.lost = false;
}

// Decode steps as graphs have the bits of launches, with marks and times; they are made in init alone.
TEST(CudaBackend, GraphsChangeNoBit) {
    struct Life {
        std::vector<std::vector<float>> logits;
        uint64_t graph_launches = 0, launches = 0;
    };
    const auto live_with = [](bool graphs, keel_kv_format v_format) {
        keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
        device.graphs = graphs;
        keel_config config = small_config();
        config.context_tokens = 700;  // attention in two splits, the second of which nobody sees at first
        config.max_sessions = 4;
        config.k_format = KEEL_KV_TCQ_3;
        config.v_format = v_format;
        config.kv_sink_tokens = 2;
        config.kv_recent_tokens = 6;
        config.backend_options = &device;
        Engine e(keel_test::source_path(kWideModel), config);
        std::vector<keel_session> open = {e.session()};
        check(keel_lab_time_ops(e.handle(), 1), "keel_lab_time_ops");
        EXPECT_EQ(FakeDriver::get().instantiations, graphs ? 3u : 0u);  // of 1, 2 and 4 tokens
        const uint64_t instantiations = FakeDriver::get().instantiations, allocations = FakeDriver::get().allocations,
                       launches = FakeDriver::get().launches;
        const auto step = [&](uint32_t count, uint32_t seed, uint64_t budget_us) {
            const std::vector<int32_t> ids = tokens(count * static_cast<uint32_t>(open.size()), seed);
            for (size_t i = 0; i < open.size(); ++i)
                check(keel_session_feed(open[i], &ids[i * count], count, 0), "feed");
            std::vector<keel_advance_result> results(open.size(), sized<keel_advance_result>());
            while (keel_advance(e.handle(), open.data(), static_cast<uint32_t>(open.size()), budget_us,
                                results.data()) == KEEL_AGAIN) {
            }
            Life life;
            for (const keel_session s : open) life.logits.push_back(last_logits(e, s));
            return life.logits;
        };
        Life life;
        const auto add = [&](std::vector<std::vector<float>> rows) {
            for (auto& row : rows) life.logits.push_back(std::move(row));
        };
        FakeDriver::get().commands_per_query = 2;
        add(step(508, 3, 0));
        for (uint32_t i = 0; i < 8; ++i) {  // across the end of a split
            add(step(1, i, i == 6 ? 1000000 : i == 7 ? 1 : 0));
            EXPECT_EQ(op_times(e).size(), v_format == KEEL_KV_F16 ? 18u : 16u) << "the append is attention's";
        }
        while (open.size() < 4) {
            keel_session other;
            check(keel_session_open(e.handle(), nullptr, &other), "open");
            open.push_back(other);
            add(step(1, 40 + static_cast<uint32_t>(open.size()), 0));  // three tokens have no graph
        }
        add(step(2, 50, 0));  // nor have steps of several tokens a session
        EXPECT_EQ(FakeDriver::get().instantiations, instantiations);
        EXPECT_EQ(FakeDriver::get().allocations, allocations);
        life.graph_launches = FakeDriver::get().graph_launches;
        life.launches = FakeDriver::get().launches - launches;
        return life;
    };
    for (const keel_kv_format v_format : {KEEL_KV_F16, KEEL_KV_E8_4}) {
        FakeDriver::reset();
        const Life plain = live_with(false, v_format);
        FakeDriver::reset();
        const Life graphs = live_with(true, v_format);
        ASSERT_EQ(graphs.logits.size(), plain.logits.size());
        for (size_t i = 0; i < plain.logits.size(); ++i) EXPECT_EQ(graphs.logits[i], plain.logits[i]) << i;
        EXPECT_EQ(plain.graph_launches, 0u);
        EXPECT_EQ(graphs.graph_launches, 7u + 2);  // one decoding session but for the cut step; two and four
        EXPECT_LT(graphs.launches, plain.launches * 2 / 3);
    }
}

// What is in flight counts against the budget of later calls: no more than that and one tile.
TEST(CudaBackend, ADeviceThatIsLateGetsNoMoreThanTheBudget) {
    Engine engine(keel_test::source_path(kModel), small_config());
    keel_session session = engine.session();
    keel_advance_result result = sized<keel_advance_result>();
    FakeDriver::get().commands_per_query = 0;
    engine.feed(tokens(5, 3));
    ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 1, &result), KEEL_AGAIN);
    const uint64_t launches = FakeDriver::get().launches;
    for (uint32_t i = 0; i < 50; ++i) ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 1, &result), KEEL_AGAIN);
    EXPECT_EQ(FakeDriver::get().launches, launches);
    check(keel_cancel(session), "cancel");
    EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 1, &result), KEEL_E_CANCELLED);
}

// On a stream of the caller's: what the caller puts behind a step is not waited for, neither by a step that is given up
// nor by an engine that is closed.
TEST(CudaBackend, WhatACallerPutsBehindAStepIsNotWaitedFor) {
    for (const bool cancels : {true, false}) {
        SCOPED_TRACE(cancels);
        keel::platform::cuda::Driver driver;
        ASSERT_EQ(keel::platform::cuda::load_driver(&driver), nullptr);
        keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
        int context = 0;
        device.context = &context;
        ASSERT_EQ(driver.stream_create(&device.stream, keel::platform::cuda::kStreamNonBlocking, 0), 0);
        keel_config config = small_config();
        config.backend_options = &device;
        bool behind = false;
        {
            Engine engine(keel_test::source_path(kModel), config);
            keel_session session = engine.session();
            keel_advance_result result = sized<keel_advance_result>();
            FakeDriver::get().commands_per_query = 0;
            engine.feed(tokens(5, 3));
            ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 1, &result), KEEL_AGAIN);
            ASSERT_TRUE(keel_test::fake_put(device.stream, [&] { return behind = true, 0; }));
            if (cancels) {
                check(keel_cancel(session), "cancel");
                EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 1, &result), KEEL_E_CANCELLED);
            }
            EXPECT_FALSE(behind);
        }
        EXPECT_FALSE(behind);
        EXPECT_EQ(driver.stream_synchronize(device.stream), keel::platform::cuda::kSuccess);
        EXPECT_TRUE(behind);
        EXPECT_EQ(driver.stream_destroy(device.stream), 0);
    }
}

// A session that is cancelled behind more launches than there are marks for is taken out, whatever the budget is.
TEST(CudaBackend, ACancelIsSeenBehindManyLaunches) {
    FakeDriver& driver = FakeDriver::get();
    keel_config config = small_config();
    config.tile_us = 1;
    Engine engine(keel_test::source_path(kWideModel), config);
    keel_session session = engine.session();
    keel_advance_result result = sized<keel_advance_result>();
    driver.commands_per_query = 0;  // nothing is seen done
    engine.feed(tokens(40, 3));
    for (uint64_t budget_us = 1; budget_us < 400; ++budget_us)
        ASSERT_EQ(keel_advance(engine.handle(), &session, 1, budget_us, &result), KEEL_AGAIN);
    const uint64_t launches = driver.launches;
    ASSERT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_AGAIN);
    ASSERT_EQ(driver.launches, launches);
    check(keel_cancel(session), "cancel");
    EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_E_CANCELLED);
}

// A range of more work items than a grid has blocks in one direction is several launches.
TEST(CudaBackend, LaunchesAreNoLargerThanAGrid) {
    static std::vector<std::pair<uint32_t, uint32_t>> ranges[2];
    const auto launch = [](auto which) {
        constexpr int kNumber = decltype(which)::value;
        keel::CudaLaunch l = {};
        l.items = [](const keel::CudaDevice&, const keel::CudaLaunch&) { return kNumber ? 10u : 150000u; };
        l.run = [](const keel::CudaDevice&, const keel::CudaLaunch&, uint32_t first, uint32_t count) {
            ranges[kNumber].push_back({first, count});
            return keel::platform::cuda::kSuccess;
        };
        return l;
    };
    const keel::CudaLaunch launches[] = {launch(std::integral_constant<int, 0>()),
                                         launch(std::integral_constant<int, 1>())};
    const auto device = std::make_unique<keel::CudaDevice>();
    keel::CudaWork work = {};
    work.launch = launches;
    work.launches = 2;
    ASSERT_EQ(keel::launch_work(*device, work, 100, 149900 + 7), keel::platform::cuda::kSuccess);
    uint32_t next = 100;
    for (const auto& [first, count] : ranges[0]) {
        EXPECT_EQ(first, next);
        EXPECT_LE(count, 65535u);
        next += count;
    }
    EXPECT_EQ(next, 150000u);
    EXPECT_EQ(ranges[1], (std::vector<std::pair<uint32_t, uint32_t>>{{0, 7}}));
}

// Launches of parts of attention's work, which count their blocks in one place, do not overlap.
TEST(CudaBackend, PartsOfAttentionRunOneAfterAnother) {
    FakeDriver::reset();
    const auto device = std::make_unique<keel::CudaDevice>();
    keel::platform::cuda::Driver& driver = device->cuda.driver;
    ASSERT_EQ(keel::platform::cuda::load_driver(&driver), nullptr);
    device->cuda.overlaps = true;
    device->behind_launch = true;
    keel::platform::cuda::Module module;
    driver.module_load(&module, nullptr);
    driver.module_function(&device->function[keel::cuda::kernel_attend_token], module, "attend_token");
    driver.stream_create(&device->stream, 0, 0);
    uint32_t counts[2] = {};
    keel::cuda::AttentionArgs a = {};
    a.shape = {1, 1, 64, 0, false};
    a.counts = counts;
    fit_tokens(&a, 1, 1);
    for (const uint32_t begin : {0u, 1u, 2u}) {
        a.block_begin = begin;
        a.block_end = begin + 1;
        ASSERT_EQ(keel::launch_rest(*device, {}, a), keel::platform::cuda::kSuccess);
        EXPECT_EQ(FakeDriver::get().overlapping_launches, 1u) << "the first one";
    }
    FakeDriver::reset();
}

// Whatever fails in a draw inside keel_advance, its status says that the engine is poisoned.
TEST(CudaBackend, ADrawThatFailsIsTheCallsStatus) {
    for (const uint32_t drafters : {0u, 0u + KEEL_DRAFT_LOGITS}) {
        uint32_t poisoned = 0;
        for (uint64_t call = 1;; ++call) {
            FakeDriver::reset();
            keel_config config = small_config();
            config.drafters = drafters;
            config.draft_tokens = drafters ? 4 : 0;
            Engine engine(keel_test::source_path(kModel), config);
            keel_session session = engine.session();
            engine.feed(tokens(3, 1), KEEL_FEED_SAMPLE);
            const uint64_t fail_at = FakeDriver::get().calls + call;
            FakeDriver::get().fail_at = fail_at;
            keel_advance_result result = sized<keel_advance_result>();
            const keel_status status = keel_advance(engine.handle(), &session, 1, 0, &result);
            if (FakeDriver::get().calls < fail_at) break;
            keel_stats stats = sized<keel_stats>();
            check(keel_engine_stats(engine.handle(), &stats), "stats");
            EXPECT_EQ(status, stats.engine_status) << "call " << call;
            EXPECT_EQ(result.status, status) << "call " << call;
            poisoned += status == KEEL_E_POISONED;
        }
        EXPECT_GT(poisoned, 10u);
    }
    FakeDriver::reset();
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
        const uint64_t calls = budget_us ? times.size() : 1;  // each has a mark behind it, the last one kept rows too
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
        EXPECT_EQ(static_cast<uint64_t>(sum_us * 1000) + (calls + 1) * 2000, FakeDriver::get().clock_ns - before_ns);
    }
}

// What steps took, as statistics have it, is the device's time, however little of it was spent inside of calls.
TEST(CudaBackend, StatisticsCountTheDevicesTime) {
    for (const uint64_t budget_us : {0ull, 1ull, 60000000ull}) {
        Engine engine(keel_test::source_path(kModel), small_config());
        FakeDriver::get().launch_ns = [](const std::string&) { return uint64_t{10000000000}; };
        check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
        keel_advance_result result = sized<keel_advance_result>();
        keel_session session = engine.session();
        double sum_us[2] = {};  // of a prompt, and of a step of one token
        for (const uint32_t decode : {0u, 1u}) {
            engine.feed(tokens(decode ? 1 : 3, 1));
            while (keel_advance(engine.handle(), &session, 1, budget_us, &result) == KEEL_AGAIN) {
            }
            ASSERT_EQ(result.status, KEEL_OK);
            for (const keel_lab_op_time& t : op_times(engine)) sum_us[decode] += t.us;
        }
        keel_stats stats = sized<keel_stats>();
        check(keel_engine_stats(engine.handle(), &stats), "stats");
        EXPECT_GT(sum_us[0], 1e8);
        EXPECT_NEAR(static_cast<double>(stats.prefill_us), sum_us[0], 1) << budget_us;
        EXPECT_NEAR(static_cast<double>(stats.decode_us), sum_us[1], 1) << budget_us;
    }
}

// Layers on the CPU behind those of a device are begun by the call that sees these done, while its budget lasts.
TEST(CudaBackend, LayersOnTheHostAreReachedByTheSameCall) {
    keel_cuda_device device = first_layers(1);
    keel_config config = small_config();
    config.backend_options = &device;
    Engine engine(keel_test::source_path(kModel), config);
    keel_session session = engine.session();
    keel_advance_result result = sized<keel_advance_result>();
    for (const uint32_t count : {5u, 1u}) {
        engine.feed(tokens(count, 3));
        EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_OK);
    }
    // A device that stands still takes the budget and no more; without one that says so a cancel ends it.
    FakeDriver::get().commands_per_query = 0;
    engine.feed(tokens(1, 3));
    EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 2000, &result), KEEL_AGAIN);
    check(keel_cancel(session), "cancel");
    EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 60000000, &result), KEEL_E_CANCELLED);
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

// Keys that are turned go to the host and back by pages, not by rows.
TEST(CudaBackend, AShiftMovesPages) {
    keel_config config = small_config();
    config.k_format = config.v_format = KEEL_KV_F16;
    Engine engine(keel_test::source_path(kModel), config);
    engine.feed(tokens(120, 1));
    engine.advance();
    const uint64_t calls = FakeDriver::get().calls;
    check(keel_session_shift(engine.session(), 3, 9), "shift");
    const uint64_t planes = uint64_t{engine.info().layers} * engine.info().kv_heads;
    EXPECT_LE(FakeDriver::get().calls - calls, 40 + 20 * planes) << planes;
}

// Rows of logits come in pieces, between which transfers of other threads have their turn.
TEST(CudaBackend, LongTransfersTakeTurns) {
    const std::string path = keel_test::temp_path("cuda_transfers.gguf");
    keel::tools::SynthSpec spec;
    spec.mix = "Q8_0";
    spec.layers = 1;
    spec.vocabulary = 4096;
    keel::tools::synth_write(path, spec);
    std::vector<std::vector<float>> logits;
    for (const keel_backend* backend : {cpu(), keel_cuda()}) {
        keel_config config = small_config();
        config.backend = backend;
        config.logits_rows = 48;
        Engine engine(path, config);
        FakeDriver::get().longest_copy = FakeDriver::get().bytes_to_host = 0;
        engine.feed(tokens(48, 1), KEEL_FEED_ALL_LOGITS);
        engine.advance();
        logits.emplace_back();
        for (uint32_t i = 0; i < 48; ++i) {
            const std::vector<float> row = last_logits(engine, engine.session(), i);
            logits.back().insert(logits.back().end(), row.begin(), row.end());
        }
    }
    EXPECT_EQ(logits[1], logits[0]);
    EXPECT_GT(FakeDriver::get().bytes_to_host, 700000u);
    EXPECT_LE(FakeDriver::get().longest_copy, 512u * 1024);
    std::filesystem::remove(path);
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

// ---- draws ----

struct Drawn {
    std::vector<int32_t> tokens;
    uint64_t bytes_to_host = 0;  // in the last draw
};
// Tokens drawn with each of several samplings, every second one inside keel_advance.
Drawn draw_tokens(const keel_backend* backend) {
    const int32_t bias_ids[] = {5, 9, 5}, excluded[] = {11, 12};
    const float biases[] = {2.5f, -1, 1};
    std::vector<keel_sampling> samplings(6, sized<keel_sampling>());
    for (size_t i = 1; i < samplings.size(); ++i) samplings[i].temperature = 0.7f, samplings[i].seed = i;
    samplings[2].top_k = 20, samplings[2].min_p = 0.05f;
    samplings[3].top_p = 0.8f, samplings[3].repetition_penalty = 1.3f, samplings[3].frequency_penalty = 0.2f;
    samplings[4].typical_p = 0.6f, samplings[4].bias_ids = bias_ids, samplings[4].bias_values = biases;
    samplings[4].bias_count = 3;
    samplings[5].excluded_ids = excluded, samplings[5].excluded_count = 2, samplings[5].min_tokens = 100;
    keel_config config = small_config();
    config.backend = backend;
    keel_hooks hooks = sized<keel_hooks>();  // allows no id that is divisible by 3
    hooks.allowed_tokens = [](void*, keel_session, const int32_t*, uint32_t count, uint8_t* mask, uint32_t vocabulary) {
        for (uint32_t id = 0; count % 4 == 0 && id < vocabulary; id += 3)
            mask[id / 8] = static_cast<uint8_t>(mask[id / 8] & ~(1u << id % 8));
    };
    config.hooks = &hooks;
    Drawn drawn;
    Engine engine(keel_test::source_path(kModel), config);
    keel_session session = engine.session();
    std::vector<int32_t> next = tokens(9, 4);
    for (uint32_t i = 0; i < 24; ++i) {
        check(keel_session_set_sampling(session, &samplings[i % samplings.size()]), "set_sampling");
        check(keel_session_feed(session, next.data(), static_cast<uint32_t>(next.size()), i % 2 ? 0 : KEEL_FEED_SAMPLE),
              "feed");
        engine.advance();
        next.resize(1);
        const uint64_t before = FakeDriver::get().bytes_to_host;
        check(keel_session_sample(session, next.data()), "sample");
        drawn.bytes_to_host = FakeDriver::get().bytes_to_host - before;
        drawn.tokens.push_back(next[0]);
    }
    return drawn;
}

// The tokens that the host draws, and nothing but a token comes back.
TEST(CudaBackend, DrawsTokensWhereTheLogitsAre) {
    const Drawn host = draw_tokens(cpu()), device = draw_tokens(keel_cuda());
    EXPECT_EQ(device.tokens, host.tokens);
    EXPECT_GT(device.bytes_to_host, 0u);
    EXPECT_LE(device.bytes_to_host, 64u);
    EXPECT_EQ(host.bytes_to_host, 0u);
}

// While one session's draw waits for the device another one's is the host's, with the same token.
TEST(CudaBackend, ASecondDrawAtATimeIsTheHosts) {
    keel_config config = small_config();
    Engine engine(keel_test::source_path(kModel), config);
    keel_sampling sampling = sized<keel_sampling>();
    sampling.temperature = 2;
    sampling.seed = 5;
    check(keel_session_set_sampling(engine.session(), &sampling), "set_sampling");
    keel_session other;
    check(keel_session_open(engine.handle(), nullptr, &other), "open");
    check(keel_session_set_sampling(other, &sampling), "set_sampling");
    const keel_session sessions[] = {engine.session(), other};
    for (const keel_session session : sessions) check(keel_session_feed(session, tokens(6, 8).data(), 6, 0), "feed");
    std::vector<keel_advance_result> results(2, sized<keel_advance_result>());
    check(keel_advance(engine.handle(), sessions, 2, 0, results.data()), "advance");
    int32_t first = -1, second = -1;
    keel_status status = KEEL_E_STATE;
    const uint64_t launches = FakeDriver::get().launches;
    uint64_t launched_meanwhile = UINT64_MAX;
    FakeDriver::get().in_next_wait = [&] {
        const uint64_t before = FakeDriver::get().launches;
        status = keel_session_sample(other, &second);
        launched_meanwhile = FakeDriver::get().launches - before;
    };
    check(keel_session_sample(engine.session(), &first), "sample");
    EXPECT_EQ(FakeDriver::get().launches, launches + 5);
    EXPECT_EQ(status, KEEL_OK);
    EXPECT_EQ(launched_meanwhile, 0u);
    EXPECT_EQ(second, first);
}

// Rows that a session did not get from its own last step lie on the host, and the host draws from them.
TEST(CudaBackend, DrawsFromRowsOfAForkAndOfASavedState) {
    std::vector<std::vector<int32_t>> drawn;
    for (const keel_backend* backend : {cpu(), keel_cuda()}) {
        keel_config config = small_config();
        config.backend = backend;
        Engine engine(keel_test::source_path(kModel), config);
        keel_sampling sampling = sized<keel_sampling>();
        sampling.temperature = 2;
        check(keel_session_set_sampling(engine.session(), &sampling), "set_sampling");
        engine.feed(tokens(5, 4));
        engine.advance();
        uint64_t bytes = 0;
        check(keel_session_save_bytes(engine.session(), &bytes), "save");
        std::vector<uint8_t> saved(bytes);
        check(keel_session_save(engine.session(), saved.data(), bytes, &bytes), "save");
        keel_session copy;
        check(keel_session_fork(engine.session(), &copy), "fork");
        engine.feed(tokens(3, 9));
        engine.advance();
        std::vector<int32_t> ids(4);
        check(keel_session_sample(copy, &ids[0]), "sample");
        check(keel_session_sample(engine.session(), &ids[1]), "sample");
        check(keel_session_restore(engine.session(), saved.data(), bytes, nullptr), "restore");
        check(keel_session_sample(engine.session(), &ids[2]), "sample");
        const float* view;
        check(keel_session_logits(engine.session(), 0, &view, nullptr), "logits");
        ids[3] = static_cast<int32_t>(view[0] * 1e6f);
        drawn.push_back(ids);
        EXPECT_EQ(ids[0], ids[2]);
    }
    EXPECT_EQ(drawn[1], drawn[0]);
}

// The path of a tree of drafts that is drawn, a hook says which: tokens, logits behind it, what is decoded from there
// on and what is saved are those of the CPU. The tree ends in another tile, in the last case in another split.
TEST(CudaBackend, TokenTreesHaveTheCpusBits) {
    constexpr uint32_t kNodes = 11, kPath[] = {0, 2, 6};
    struct Case {
        keel_kv_format k, v;
        uint32_t sinks, recent, base;
    };
    struct Forced {
        uint32_t from;
        std::vector<int32_t> path;
    };
    const std::vector<int32_t> ids = tokens(kNodes, 9);
    std::vector<uint32_t> parents(kNodes, KEEL_DRAFT_AT_END);
    for (uint32_t i = 1; i < kNodes; ++i) parents[i] = (i - 1) / 2;
    for (const Case& c : {Case{KEEL_KV_TCQ_3, KEEL_KV_E8_4, 0, 0, 122}, Case{KEEL_KV_Q8_0, KEEL_KV_TCQ_2, 4, 9, 75},
                          Case{KEEL_KV_F16, KEEL_KV_Q4_0, 0, 0, 505}}) {
        Forced forced = {c.base, {}};
        for (const uint32_t node : kPath) forced.path.push_back(ids[node]);
        keel_hooks hooks = sized<keel_hooks>();
        hooks.user_data = &forced;
        hooks.allowed_tokens = [](void* user_data, keel_session, const int32_t*, uint32_t count, uint8_t* mask,
                                  uint32_t vocabulary) {
            const Forced& f = *static_cast<const Forced*>(user_data);
            if (count < f.from || count - f.from >= f.path.size()) return;
            const uint32_t token = static_cast<uint32_t>(f.path[count - f.from]);
            for (uint32_t i = 0; i < (vocabulary + 7) / 8; ++i)
                mask[i] = i == token / 8 ? static_cast<uint8_t>(1u << token % 8) : uint8_t{0};
        };
        std::vector<std::vector<float>> rows[2];
        std::vector<uint8_t> saved[2];
        for (const bool on_cuda : {false, true}) {
            keel_config config = small_config();
            config.backend = on_cuda ? keel_cuda() : cpu();
            config.context_tokens = 640;
            config.draft_tokens = kNodes;
            config.k_format = c.k;
            config.v_format = c.v;
            config.kv_sink_tokens = c.sinks;
            config.kv_recent_tokens = c.recent;
            config.hooks = &hooks;
            Engine engine(keel_test::source_path(kWideModel), config);
            engine.feed(tokens(c.base - 1, 4));
            engine.advance();
            engine.feed({7}, KEEL_FEED_SAMPLE);
            check(keel_session_propose_tree(engine.session(), ids.data(), parents.data(), kNodes), "propose_tree");
            EXPECT_EQ(engine.advance().accepted_tokens, 3u);
            rows[on_cuda].push_back(last_logits(engine, engine.session()));
            engine.feed(tokens(2, 3));
            engine.advance();
            rows[on_cuda].push_back(last_logits(engine, engine.session()));
            uint64_t bytes = 0;
            check(keel_session_save_bytes(engine.session(), &bytes), "save");
            saved[on_cuda].resize(bytes);
            check(keel_session_save(engine.session(), saved[on_cuda].data(), bytes, &bytes), "save");
        }
        EXPECT_EQ(rows[1], rows[0]) << c.k;
        EXPECT_EQ(saved[1], saved[0]) << c.k;
    }
}

// A device's plan makes trees pay: the library's own drafters grow them from rows of logits that stay there, with all
// layers on the device or one of them, and the text is that of plain decoding on the CPU.
TEST(CudaBackend, OwnDraftersGrowTrees) {
    const auto write = [](keel_config config, uint64_t* drafted) {
        Engine engine(keel_test::source_path(kWideModel), config);
        keel_sampling sampling = sized<keel_sampling>();
        sampling.repetition_penalty = 1.1f;
        sampling.penalty_window = 8;
        check(keel_session_set_sampling(engine.session(), &sampling), "set_sampling");
        engine.feed(tokens(9, 4), KEEL_FEED_SAMPLE);
        keel_session_info info = sized<keel_session_info>();
        do {
            engine.advance();
            engine.feed({engine.sample()}, KEEL_FEED_SAMPLE);
            check(keel_session_get(engine.session(), &info), "session_get");
        } while (info.token_count < 70);
        *drafted = info.drafts_computed;
        return std::vector<int32_t>(info.tokens, info.tokens + 70);
    };
    keel_config config = small_config();
    uint64_t drafted = 0;
    config.k_format = KEEL_KV_TCQ_3;
    config.v_format = KEEL_KV_Q8_0;
    config.kv_recent_tokens = 16;
    config.backend = cpu();
    const std::vector<int32_t> want = write(config, &drafted);
    config.drafters = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_LOGITS;
    config.draft_tokens = 7;
    config.backend = keel_cuda();
    const keel_cuda_device one = first_layers(1);
    for (const keel_cuda_device* device : {static_cast<const keel_cuda_device*>(nullptr), &one}) {
        config.backend_options = device;
        EXPECT_EQ(write(config, &drafted), want);
        EXPECT_GT(drafted, 40u);
    }
}

// ---- some layers on the device, the others on the CPU ----

// As many bytes as the layers of either side need, and each region to its last byte.
TEST(CudaBackend, SplitLayersArePlannedExactly) {
    Planned whole;
    keel_config config = whole.config;
    const uint32_t layers = whole.file.info.layers;
    keel_cuda_device device = first_layers(1);
    config.backend_options = &device;
    keel_memory_plan plan = sized<keel_memory_plan>();
    check(keel_plan(&whole.file.reader, whole.file.model, &config, &plan, nullptr), "keel_plan");
    EXPECT_EQ(plan.kv_page_bytes, whole.plan.kv_page_bytes);
    // Red zones of a sanitizer's build aside.
    const auto bytes = [](const keel_region_plan& region) { return region.bytes - region.padding_bytes; };
    EXPECT_EQ(bytes(plan.regions[KEEL_REGION_KV]), bytes(plan.regions[KEEL_REGION_DEVICE_KV]));
    EXPECT_EQ(bytes(plan.regions[KEEL_REGION_KV]) * layers, bytes(whole.plan.regions[KEEL_REGION_DEVICE_KV]));
    EXPECT_LT(plan.regions[KEEL_REGION_DEVICE_WEIGHTS].bytes, whole.plan.regions[KEEL_REGION_DEVICE_WEIGHTS].bytes);
    for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind) {
        ASSERT_GT(plan.regions[kind].bytes, 0u) << kind;
        const keel_test::Memory memory(plan);
        keel_memory less = *memory.get();
        less.regions[kind].bytes -= 1;
        keel_engine engine;
        EXPECT_EQ(keel_engine_init(&whole.file.reader, whole.file.model, &config, &less, &engine, nullptr),
                  KEEL_E_MEMORY_TOO_SMALL);
    }
    // All layers, or more than there are: nothing is the CPU's.
    for (const uint32_t all : {layers, 1000u}) {
        device.layers = all;
        check(keel_plan(&whole.file.reader, whole.file.model, &config, &plan, nullptr), "keel_plan");
        for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind)
            EXPECT_EQ(plan.regions[kind].bytes, whole.plan.regions[kind].bytes) << kind;
    }
}

// A life of two sessions, drawn from `seed`: the same calls for every engine, but budgets and chunks of its own. Hashes
// of logits, one a step.
std::vector<std::vector<float>> wander(const keel_config& config, uint32_t seed) {
    Engine e(keel_test::source_path(kWideModel), config);
    std::mt19937 random(seed), slices(seed + config.chunk_tokens);
    std::vector<std::vector<float>> rows;
    std::vector<keel_session> open = {e.session()};
    const auto finish = [&](std::vector<keel_session> sessions) {
        std::vector<keel_advance_result> results(sessions.size(), sized<keel_advance_result>());
        for (keel_status status = KEEL_AGAIN; status == KEEL_AGAIN;) {
            const uint64_t budget_us = slices() % 2 ? 0 : 1 + slices() % 300;
            status = keel_advance(e.handle(), sessions.data(), static_cast<uint32_t>(sessions.size()), budget_us,
                                  results.data());
            check(status == KEEL_AGAIN ? KEEL_OK : status, "advance");
        }
    };
    const auto feed = [&](keel_session session, uint32_t count) {
        keel_session_info info = sized<keel_session_info>();
        check(keel_session_get(session, &info), "info");
        const uint32_t room = config.context_tokens - info.token_count;
        if (count > room) check(keel_session_truncate(session, info.token_count / 3), "truncate");
        const std::vector<int32_t> ids = tokens(count, static_cast<uint32_t>(random() % 100));
        check(keel_session_feed(session, ids.data(), count, 0), "feed");
    };
    const auto save = [&](keel_session session) {
        uint64_t bytes = 0;
        check(keel_session_save_bytes(session, &bytes), "save");
        std::vector<uint8_t> saved(bytes);
        check(keel_session_save(session, saved.data(), bytes, &bytes), "save");
        return saved;
    };
    const auto restore = [&](keel_session session, const std::vector<uint8_t>& saved) {
        check(keel_session_restore(session, saved.data(), saved.size(), nullptr), "restore");
    };
    std::vector<uint8_t> longest;
    feed(open[0], 9);
    finish(open);
    for (uint32_t i = 0; i < 14; ++i) {
        const uint32_t what = random() % 6, count = 1 + random() % (random() % 3 ? 4 : 30);
        keel_session session = open[random() % open.size()];
        const std::vector<uint8_t> now = save(session);
        if (now.size() > longest.size()) longest = now;
        feed(session, count);
        if (what == 0 && open.size() == 1) {  // a copy, which shares the last page
            finish({session});
            keel_session copy;
            check(keel_session_fork(session, &copy), "fork");
            open.push_back(copy);
            feed(copy, 2);
            finish({copy});
            session = copy;
        } else if (what == 1 && open.size() == 2) {  // both at once
            feed(open[0], 3);
            feed(open[1], 1);
            finish(open);
        } else if (what == 2) {  // stopped somewhere, then on
            const bool other = count > 2;
            if (other) {
                check(keel_session_truncate(session, 1), "truncate");
                feed(session, count);
            }
            keel_advance_result result = sized<keel_advance_result>();
            keel_status begun = KEEL_AGAIN;
            for (uint32_t calls = 1 + slices() % 12; begun == KEEL_AGAIN && calls; --calls)
                begun = keel_advance(e.handle(), &session, 1, 1, &result);
            if (begun == KEEL_AGAIN) {
                check(keel_cancel(session), "cancel");
                EXPECT_EQ(keel_advance(e.handle(), &session, 1, 0, &result), KEEL_E_CANCELLED);
            }
            if (other) {  // what the stopped step has not written yet, it must not write any more
                restore(session, longest);
                feed(session, count);
            }
            finish({session});
        } else if (what == 3) {  // saved, and back
            finish({session});
            const std::vector<uint8_t> saved = save(session);
            check(keel_session_truncate(session, 0), "truncate");
            restore(session, saved);
        } else if (what == 4 && open.size() == 2) {
            finish({session});
            check(keel_session_close(open[1]), "close");
            open.pop_back();
            session = open[0];
            feed(session, 1);
            finish({session});
        } else {
            finish({session});
        }
        rows.push_back(last_logits(e, session));
    }
    return rows;
}

// Chunks, budgets, cancelling, truncating, forks, saving, neighbours and where the layers are: no bit depends on it.
TEST(CudaBackend, WhereLayersAreChangesNoBit) {
    for (uint32_t seed = 1; seed <= 3; ++seed) {
        keel_config config = small_config();
        config.kv_pages = 6;
        config.k_format = seed == 1 ? KEEL_KV_Q8_0 : seed == 2 ? KEEL_KV_TCQ_3 : KEEL_KV_F16;
        config.v_format = config.k_format;
        config.kv_sink_tokens = seed == 3 ? 0 : 4;
        config.kv_recent_tokens = seed == 3 ? 0 : 8;
        config.kv_rollback_tokens = 64;
        config.tile_us = seed == 2 ? 250 : 1;
        config.backend = cpu();
        const std::vector<std::vector<float>> want = wander(config, seed);
        config.backend = keel_cuda();
        config.chunk_tokens = 7;
        for (const uint32_t layers : {0u, 1u}) {
            FakeDriver::get().commands_per_query = 1;  // it lags behind
            const keel_cuda_device device = first_layers(layers);
            config.backend_options = &device;
            const std::vector<std::vector<float>> got = wander(config, seed);
            ASSERT_EQ(got.size(), want.size());
            for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(got[i], want[i]) << seed << " " << layers << " " << i;
        }
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

// Memory that keel_cuda_memory gives is held; what is given back is gone, or still there with a status.
TEST(CudaBackend, MemoryIsHeldUntilItIsGivenBack) {
    Planned planned;
    auto& [file, config, plan] = planned;
    const keel_test::Memory host(plan);
    constexpr int64_t kAllocations = 4, kHold = 1;
    const auto there = [](const keel_memory& memory) {
        int64_t n = 0;
        for (const int kind :
             {KEEL_REGION_PINNED, KEEL_REGION_DEVICE_SCRATCH, KEEL_REGION_DEVICE_WEIGHTS, KEEL_REGION_DEVICE_KV})
            n += memory.regions[kind].data != nullptr;
        return n;
    };
    // Allocates; the driver's call with that number fails.
    const auto allocate = [&](uint64_t fail_at, keel_memory* memory) {
        FakeDriver::reset();
        FakeDriver::get().fail_at = fail_at;
        *memory = *host.get();
        for (keel_region& region : memory->regions) region = {};
        return keel_cuda_memory(&plan, nullptr, memory, nullptr);
    };
    const FakeDriver& driver = FakeDriver::get();
    keel_memory memory;
    uint32_t refused = 0;
    for (uint64_t call = 1; call < 40; ++call) {
        const bool given = allocate(call, &memory) == KEEL_OK;
        EXPECT_EQ(there(memory), given ? kAllocations : 0) << call;
        if (given) {
            EXPECT_GE(driver.open_objects, kAllocations + kHold) << call;
            FakeDriver::get().fail_at = 0;
            check(keel_cuda_memory_release(nullptr, &memory), "release");
        }
        refused += !given;
    }
    EXPECT_GT(refused, 5u);
    refused = 0;
    for (uint64_t call = 1; call < 40; ++call) {
        check(allocate(0, &memory), "keel_cuda_memory");
        FakeDriver::get().fail_at = driver.calls + call;
        const keel_status status = keel_cuda_memory_release(nullptr, &memory);
        EXPECT_EQ(status, there(memory) ? KEEL_E_DEVICE : KEEL_OK) << call;
        refused += status != KEEL_OK;
        FakeDriver::get().fail_at = 0;
        check(keel_cuda_memory_release(nullptr, &memory), "release");
        EXPECT_EQ(there(memory), 0) << call;
        EXPECT_LE(driver.open_objects, kHold + 1) << call;  // contexts that the driver did not let go of
    }
    EXPECT_GT(refused, 5u);
    FakeDriver::reset();
}

// Which matrices lie in fragments, and why others are multiplied on FP32 units.
TEST(CudaBackend, PlansSayWhereProductsRun) {
    struct Case {
        const char* model;
        keel_activation activation;
        keel_fp32_reason reason;
    };
    for (const Case& c : {Case{kWideModel, KEEL_ACTIVATION_DEFAULT, KEEL_FP32_NONE},
                          Case{kWideModel, KEEL_ACTIVATION_F32, KEEL_FP32_ACTIVATION},
                          Case{kModel, KEEL_ACTIVATION_DEFAULT, KEEL_FP32_TYPE}}) {
        const keel_test::InspectedFile file(keel_test::source_path(c.model));
        keel_config config = small_config();
        config.activation = c.activation;
        uint32_t products = 0;
        for (const keel_backend* backend : {keel_cuda(), cpu()}) {
            config.backend = backend;
            for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, config)) {
                const bool quantized = !strncmp(op.weight_type, "Q", 1), on_gpu = backend == keel_cuda();
                if (op.inner == 0 || !op.weight_type[0] || !strcmp(op.name, "embed")) continue;
                const keel_fp32_reason reason = !on_gpu ? KEEL_FP32_NONE : quantized ? c.reason : KEEL_FP32_TYPE;
                EXPECT_EQ(op.fp32_reason, reason) << op.name << ", " << c.model;
                EXPECT_TRUE(!on_gpu || (op.placement == KEEL_WEIGHTS_REPACK) == (reason == KEEL_FP32_NONE)) << op.name;
                ++products;
            }
        }
        EXPECT_GT(products, 10u);
    }
}

// A plan predicts what a step of one token is predicted to take when it is enqueued: a launch for each that there is.
TEST(CudaBackend, PlansPredictTheLaunchesThereAre) {
    for (const char* model : {kModel, kWideModel}) {
        const keel_test::InspectedFile file(keel_test::source_path(model));
        keel_config config = small_config();
        config.backend = keel_cuda();
        double planned_us = 0, predicted_us = 0;
        for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, config))
            if (!op.low_rank) planned_us += op.predicted_us;
        Engine engine(keel_test::source_path(model), config);
        check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
        engine.feed(tokens(1, 1));
        const uint64_t before = FakeDriver::get().launches;
        engine.advance();
        for (const keel_lab_op_time& t : op_times(engine)) predicted_us += t.predicted_us;
        EXPECT_NEAR(predicted_us, planned_us, planned_us * 0.01);
        const double launches = static_cast<double>(FakeDriver::get().launches - before) - 2;  // but for the marks
        EXPECT_GE(predicted_us, 2 * launches);
        EXPECT_LE(predicted_us, 2.2 * launches);
    }
}

// A step that is given up anywhere, also between the launches of a product whose blocks are counted for the norm behind
// it: the next one counts from 0.
TEST(CudaBackend, AStepGivenUpLeavesNoCounts) {
    const std::string path = keel_test::temp_path("cuda_given_up.gguf");
    keel::tools::SynthSpec spec;  // rows of 256: four work items
    spec.mix = "Q8_0";
    spec.layers = 1;
    spec.vocabulary = 512;
    keel::tools::synth_write(path, spec);
    FakeDriver& driver = FakeDriver::get();
    driver.launch_ns = [](const std::string&) { return uint64_t{20000}; };  // so that a call launches one item
    keel_config config = small_config();
    config.tile_us = 1;
    Engine engine(path, config);
    const std::vector<int32_t> prompt = tokens(3, 1);
    engine.feed(prompt);
    engine.advance();
    keel_session session = engine.session();
    keel_advance_result result = sized<keel_advance_result>();
    std::vector<float> want;
    uint32_t stop = 0;
    for (keel_status begun = KEEL_AGAIN; begun == KEEL_AGAIN; ++stop) {
        engine.feed(tokens(1, 7));
        for (uint32_t call = 1; call <= stop && begun == KEEL_AGAIN; ++call) {
            driver.commands_per_query = call < stop ? 1000 : 0;  // what is launched last is not done when it is stopped
            begun = keel_advance(engine.handle(), &session, 1, 1, &result);
        }
        if (stop && begun == KEEL_AGAIN) {
            check(keel_cancel(session), "cancel");
            EXPECT_EQ(keel_advance(engine.handle(), &session, 1, 0, &result), KEEL_E_CANCELLED);
        }
        driver.commands_per_query = 1000;
        if (begun == KEEL_AGAIN) engine.advance();
        if (!stop) want = last_logits(engine, session);
        ASSERT_EQ(last_logits(engine, session), want) << stop;
        check(keel_session_truncate(session, static_cast<uint32_t>(prompt.size())), "truncate");
    }
    EXPECT_GT(stop, 20u);
    driver.launch_ns = [](const std::string&) { return uint64_t{1000}; };
    std::filesystem::remove(path);
}

// Products of one token whose row leaves no room for weights in shared memory, and the norm behind them.
TEST(CudaBackend, RowsLongerThanSharedMemory) {
    const std::string path = keel_test::temp_path("cuda_long_rows.gguf");
    keel::tools::SynthSpec spec;
    spec.mix = "Q8_0";
    spec.overrides = {{"blk.1.ffn_down", "Q6_K"}, {"attn_output", "Q6_K"}};
    spec.embedding = 64;
    spec.heads = 98;  // 25,088 elements
    spec.kv_heads = 1;
    spec.head_dim = 256;
    spec.feed_forward = 98 * 256;
    spec.vocabulary = 512;
    keel::tools::synth_write(path, spec);
    std::vector<std::vector<float>> rows;
    for (const keel_backend* backend : {cpu(), keel_cuda()}) {
        keel_config config = small_config();
        config.backend = backend;
        Engine engine(path, config);
        for (const uint32_t count : {2u, 1u}) {
            engine.feed(tokens(count, 3));
            engine.advance();
        }
        rows.push_back(last_logits(engine, engine.session()));
    }
    EXPECT_EQ(rows[1], rows[0]);
    std::filesystem::remove(path);
}

// How a model is planned with its first layers on the device.
keel_status plan_on_device(const keel_test::InspectedFile& file, keel_config config, uint32_t layers,
                           keel_error* error) {
    keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
    device.layers = layers;
    config.backend = keel_cuda();
    config.backend_options = &device;
    keel_memory_plan plan = sized<keel_memory_plan>();
    return keel_plan(&file.reader, file.model, &config, &plan, error);
}

// Adapters are the CPU's, also where it computes the last layers; a plan says so.
TEST(CudaBackend, RefusesAdapters) {
    const keel_test::InspectedFile file(keel_test::source_path(kWideModel));
    const keel_test::FileReader adapter(keel_test::source_path("tests/data/adapters/llama-all.gguf"));
    const keel_part part = keel_test::part(KEEL_PART_ADAPTER, adapter.get());
    for (const uint32_t layers : {0u, 1u}) {
        keel_config config = small_config();
        config.parts = &part;
        config.part_count = 1;
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_UNSUPPORTED, plan_on_device(file, config, layers, &error));
        EXPECT_STREQ("config.parts[0]", error.field);
        EXPECT_NE(nullptr, strstr(error.reason, "only the CPU")) << error.reason;
        config.part_count = 0;
        EXPECT_EQ(KEEL_OK, plan_on_device(file, config, layers, nullptr));
    }
}

// Products of bf16 pairs are the CPU's, and no layers of such a model go elsewhere.
TEST(CudaBackend, RefusesPairsOfBf16) {
    const keel_test::InspectedFile file(keel_test::source_path(kWideModel));
    for (const uint32_t layers : {0u, 1u}) {
        keel_config config = small_config();
        config.activation = KEEL_ACTIVATION_BF16;
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_UNSUPPORTED, plan_on_device(file, config, layers, &error));
        EXPECT_STREQ("config.activation", error.field);
        config.activation = KEEL_ACTIVATION_Q8;
        EXPECT_EQ(KEEL_OK, plan_on_device(file, config, layers, nullptr));
    }
}

// Ops that only the CPU has: a plan names the first of them, whichever layers a device was to compute.
TEST(CudaBackend, RefusesWiredModels) {
    const keel_test::InspectedFile file(keel_test::source_path("tests/data/wired/wired.gguf"));
    for (const uint32_t layers : {0u, 1u}) {
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_UNSUPPORTED, plan_on_device(file, small_config(), layers, &error));
        EXPECT_NE(nullptr, strstr(error.reason, "no kernel for this op")) << error.reason;
    }
}

// Kernels of trellis weights are the CPU's: a plan names the matrix and its type, unless the CPU computes its layer.
TEST(CudaBackend, RefusesTrellisWeights) {
    const std::string path = keel_test::temp_path("cuda_trellis.gguf");
    for (const auto& [tensor, type] :
         {std::pair<std::string, std::string>{"blk.1.ffn_up", "WT3"}, {"token_embd", "WT2"}}) {
        keel::tools::SynthSpec spec;
        spec.mix = "Q8_0";
        spec.overrides = {{tensor, type}};
        spec.embedding = 256;
        spec.heads = 4;
        spec.kv_heads = 2;
        spec.head_dim = 64;
        spec.feed_forward = 256;
        spec.vocabulary = 512;
        keel::tools::synth_write(path, spec);
        const keel_test::InspectedFile file(path);
        keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
        keel_config config = small_config();
        config.backend = keel_cuda();
        config.backend_options = &device;
        keel_memory_plan plan = sized<keel_memory_plan>();
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_plan(&file.reader, file.model, &config, &plan, &error));
        EXPECT_NE(nullptr, strstr(error.reason, ("no kernels for " + type).c_str())) << error.reason;
        EXPECT_EQ(tensor.substr(tensor.rfind('.') + 1) + ".weight", error.field);
        device.layers = 1;
        EXPECT_EQ(tensor == "token_embd" ? KEEL_E_UNSUPPORTED : KEEL_OK,
                  keel_plan(&file.reader, file.model, &config, &plan, nullptr));
    }
    std::filesystem::remove(path);
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
