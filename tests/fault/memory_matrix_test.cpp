// The memory plan is exact: over a matrix of configurations, one byte less in any region fails cleanly, and exactly the
// planned bytes, between canaries and an inaccessible page, carry every session to its full context.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "keel/keel.h"
#include "tests/fenced_memory.h"
#include "tests/test_paths.h"

namespace {

using keel_test::Fence;
using keel_test::FencedMemory;

constexpr uint32_t kVocabulary = 4096;  // of the bundled model
const char* const kRegionNames[KEEL_REGION_COUNT] = {"persistent", "scratch",        "pinned",         "weights",
                                                     "kv",         "device_scratch", "device_weights", "device_kv"};

struct PlacedMemory {
    PlacedMemory(const keel_memory_plan& plan, Fence fence) {
        memory.struct_size = sizeof(memory);
        for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind) {
            if (plan.regions[kind].bytes == 0) continue;
            guarded[kind] =
                std::make_unique<FencedMemory>(plan.regions[kind].bytes, plan.regions[kind].align_bytes, fence);
            memory.regions[kind] = {guarded[kind]->data(), guarded[kind]->bytes()};
        }
    }
    void expect_intact() const {
        for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind) {
            const bool intact = !guarded[kind] || guarded[kind]->intact();
            EXPECT_TRUE(intact) << "written outside of region " << kRegionNames[kind];
        }
    }
    std::unique_ptr<FencedMemory> guarded[KEEL_REGION_COUNT];
    keel_memory memory = {};
};

class MemoryMatrix : public testing::Test {
  protected:
    void SetUp() override {
        const std::string path = keel_test::source_path("samples/models/books-7m-f16.gguf");
        reader_.struct_size = sizeof(reader_);
        ASSERT_EQ(keel_reader_open_file(path.c_str(), &reader_), KEEL_OK) << path;
        info_.struct_size = sizeof(info_);
        ASSERT_EQ(keel_inspect(&reader_, nullptr, nullptr, 0, nullptr, &info_, nullptr), KEEL_OK);
        model_buffer_.resize((info_.model_bytes + 7) / 8);
        ASSERT_EQ(
            keel_inspect(&reader_, nullptr, model_buffer_.data(), model_buffer_.size() * 8, &model_, &info_, nullptr),
            KEEL_OK);
    }
    void TearDown() override { keel_reader_close(&reader_); }

    keel_memory_plan plan_of(const keel_config& config) const {
        keel_memory_plan plan = {};
        plan.struct_size = sizeof(plan);
        keel_error error = {sizeof(error)};
        EXPECT_EQ(keel_plan(&reader_, model_, &config, &plan, &error), KEEL_OK) << error.field << ": " << error.reason;
        return plan;
    }
    keel_status init(const keel_config& config, const keel_memory& memory, keel_engine* engine,
                     keel_error* error) const {
        *error = {sizeof(*error)};
        *engine = {0x5A5A};
        return keel_engine_init(&reader_, model_, &config, &memory, engine, error);
    }
    void expect_refused(const keel_config& config, const keel_memory& memory, keel_status status, int kind) const {
        keel_engine engine;
        keel_error error;
        EXPECT_EQ(init(config, memory, &engine, &error), status) << kRegionNames[kind];
        EXPECT_EQ(error.status, status);
        EXPECT_STREQ(error.field, kRegionNames[kind]);
        EXPECT_EQ(engine.id, 0x5A5Au) << "out-parameter touched on error";
    }

    keel_reader reader_ = {};
    keel_model_info info_ = {};
    const keel_model* model_ = nullptr;
    std::vector<uint64_t> model_buffer_;
};

constexpr uint32_t kSessions[] = {1, 2, 4}, kContexts[] = {64, 300, 2048}, kChunks[] = {1, 32, 128},
                   kThreads[] = {1, 2, 3};
constexpr uint32_t kRows[] = {1, 8};

keel_config config_of(int sessions, int context, int chunk, int threads, bool kv_f32, bool map, bool rows, bool bf16) {
    keel_config config = {};
    config.struct_size = sizeof(config);
    config.max_sessions = kSessions[sessions];
    config.context_tokens = kContexts[context];
    config.chunk_tokens = kChunks[chunk];
    config.threads = kThreads[threads];
    config.logits_rows = kRows[rows];
    config.draft_tokens = rows && config.chunk_tokens > 1 ? 5 : 0;
    if (config.draft_tokens) {
        config.drafters = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS;
        config.draft_pool_bytes = 4096;
    }
    config.k_format = config.v_format = kv_f32 ? KEEL_KV_F32 : KEEL_KV_F16;
    config.weights = map ? KEEL_WEIGHTS_MAP : KEEL_WEIGHTS_COPY;
    config.activation = bf16 ? KEEL_ACTIVATION_BF16 : KEEL_ACTIVATION_Q8;
    return config;
}

std::string name_of(const keel_config& c) {
    return "sessions " + std::to_string(c.max_sessions) + ", context " + std::to_string(c.context_tokens) + ", chunk " +
           std::to_string(c.chunk_tokens) + ", threads " + std::to_string(c.threads) + ", rows " +
           std::to_string(c.logits_rows) + ", k_format " + std::to_string(c.k_format) + ", weights " +
           std::to_string(c.weights) + ", activation " + std::to_string(c.activation);
}

// ThreadSanitizer starts a thread of its own along with the first other one.
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadsCount = false;
#else
constexpr bool kThreadsCount = true;
#endif

size_t threads_of_process() {
    if (!kThreadsCount) return 0;
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) count += entry.exists();
    return count;
}

// All 1,296 configurations: the plan, one byte less in each region, each region off its alignment.
TEST_F(MemoryMatrix, OneByteLessOrMisalignedIsRefused) {
    const size_t threads_before = threads_of_process();
    for (int i = 0; i < 3 * 3 * 3 * 3 * 16; ++i) {
        const int bits = i / 81;
        const keel_config config =
            config_of(i % 3, i / 3 % 3, i / 9 % 3, i / 27 % 3, bits & 1, bits & 2, bits & 4, bits & 8);
        SCOPED_TRACE(name_of(config));
        const keel_memory_plan plan = plan_of(config);
        const PlacedMemory placed(plan, Fence::kBehind);
        for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind) {
            const uint64_t align = plan.regions[kind].align_bytes;
            if (plan.regions[kind].bytes == 0) continue;
            ASSERT_GE(align, 1u);
            keel_memory memory = placed.memory;
            memory.regions[kind].bytes -= 1;
            expect_refused(config, memory, KEEL_E_MEMORY_TOO_SMALL, kind);
            memory.regions[kind] = {nullptr, 0};
            expect_refused(config, memory, KEEL_E_MEMORY_TOO_SMALL, kind);
            memory = placed.memory;
            for (uint64_t off : {uint64_t{1}, align / 2}) {
                memory.regions[kind].data = static_cast<uint8_t*>(placed.memory.regions[kind].data) - off;
                if (off) expect_refused(config, memory, KEEL_E_MEMORY_ALIGN, kind);
            }
        }
        placed.expect_intact();
        if (HasFailure()) return;
    }
    EXPECT_EQ(threads_of_process(), threads_before);
}

// Feeds tokens [from, to) to every session and advances until none is pending. Drafters follow what is fed, but draft
// nothing where nothing is drawn.
void run_to(keel_engine engine, const std::vector<keel_session>& sessions, uint32_t from, uint32_t to) {
    for (size_t s = 0; s < sessions.size(); ++s) {
        std::vector<int32_t> ids;
        for (uint32_t t = from; t < to; ++t)
            ids.push_back(t == 0 ? 1 : static_cast<int32_t>((t * 2654435761u + s * 97) % kVocabulary));
        ASSERT_EQ(keel_session_feed(sessions[s], ids.data(), static_cast<uint32_t>(ids.size()), 0), KEEL_OK);
    }
    std::vector<keel_advance_result> results(sessions.size(), {sizeof(keel_advance_result)});
    ASSERT_EQ(keel_advance(engine, sessions.data(), static_cast<uint32_t>(sessions.size()), 0, results.data()),
              KEEL_OK);
    for (const keel_advance_result& result : results) {
        EXPECT_EQ(result.status, KEEL_OK);
        EXPECT_EQ(result.computed_tokens, to);
        EXPECT_EQ(result.pending_tokens, 0u);
    }
}

// Goes on with what it draws, behind a text that repeats itself, until the context is full: drafts and their rows take
// the last of it, too.
void draw_to_the_end(keel_engine engine, keel_session session, bool drafts) {
    const std::vector<int32_t> ids = {7, 8, 9, 7, 8, 9, 7, 8};
    ASSERT_EQ(keel_session_feed(session, ids.data(), static_cast<uint32_t>(ids.size()), KEEL_FEED_SAMPLE), KEEL_OK);
    keel_session_info info = {};
    info.struct_size = sizeof(info);
    for (keel_status fed = KEEL_OK; fed == KEEL_OK;) {
        keel_advance_result result = {sizeof(result)};
        int32_t token = -1;
        ASSERT_EQ(keel_advance(engine, &session, 1, 0, &result), KEEL_OK);
        ASSERT_EQ(keel_session_sample(session, &token), KEEL_OK);
        ASSERT_EQ(keel_session_get(session, &info), KEEL_OK);
        fed = keel_session_feed(session, &token, 1, KEEL_FEED_SAMPLE);
        EXPECT_EQ(fed, info.token_count < info.context_tokens ? KEEL_OK : KEEL_E_CONTEXT_FULL);
    }
    EXPECT_EQ(info.drafts_computed > 0, drafts);
}

void expect_full(keel_engine engine, const keel_memory_plan& plan) {
    keel_stats stats = {};
    stats.struct_size = sizeof(stats);
    ASSERT_EQ(keel_engine_stats(engine, &stats), KEEL_OK);
    for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind) {
        EXPECT_EQ(stats.regions[kind].planned_bytes, plan.regions[kind].bytes) << kRegionNames[kind];
        // Of the KV region the pages count, not what sanitized builds put between its objects.
        const uint64_t apart = kind == KEEL_REGION_KV ? plan.regions[kind].padding_bytes : 0;
        EXPECT_EQ(stats.regions[kind].used_bytes, plan.regions[kind].bytes - apart) << kRegionNames[kind];
        EXPECT_EQ(stats.regions[kind].high_water_bytes, plan.regions[kind].bytes - apart) << kRegionNames[kind];
    }
    EXPECT_EQ(stats.kv_pages_free, 0u);
    EXPECT_EQ(stats.allocations_after_init, 0u);
    EXPECT_EQ(stats.engine_status, KEEL_OK);
    EXPECT_EQ(stats.threads, plan.threads);
    EXPECT_EQ(stats.open_sessions, plan.max_sessions);
}

// A long context is computed once per KV format; the sessions of every configuration begin with it and compute the
// rest.
constexpr uint32_t kRestoreAbove = 1024, kComputedTail = 140;

void restore_all(keel_engine engine, const std::vector<keel_session>& sessions, keel_kv_format format,
                 uint32_t* tokens) {
    static std::map<keel_kv_format, std::vector<uint8_t>> saved;
    keel_session_info info = {};
    info.struct_size = sizeof(info);
    ASSERT_EQ(keel_session_get(sessions[0], &info), KEEL_OK);
    *tokens = info.context_tokens - kComputedTail;
    std::vector<uint8_t>& blob = saved[format];
    if (blob.empty()) {
        run_to(engine, {sessions[0]}, 0, *tokens);
        uint64_t bytes = 0;
        ASSERT_EQ(keel_session_save_bytes(sessions[0], &bytes), KEEL_OK);
        blob.resize(bytes);
        ASSERT_EQ(keel_session_save(sessions[0], blob.data(), bytes, &bytes), KEEL_OK);
    }
    for (keel_session session : sessions) {
        ASSERT_EQ(keel_session_restore(session, blob.data(), blob.size(), nullptr), KEEL_OK);
    }
}

// Nine configurations in which every pair of settings of two of the first four factors occurs (an orthogonal array),
// the two-way factors mixed in; each runs every session to its full context.
class MemoryMatrixRun : public MemoryMatrix, public testing::WithParamInterface<int> {};

TEST_P(MemoryMatrixRun, ExactBytesCarryEverySessionToItsEnd) {
    const int row = GetParam();
    const int a = row / 3, b = row % 3;
    const keel_config config =
        config_of(a, b, (a + b) % 3, (a + 2 * b) % 3, row & 1, (row + 1) / 2 & 1, (row + 2) / 3 & 1, row / 4 & 1);
    SCOPED_TRACE(name_of(config));
    const size_t threads_before = threads_of_process();
    const keel_memory_plan plan = plan_of(config);
    const PlacedMemory placed(plan, row & 1 ? Fence::kInFront : Fence::kBehind);
    keel_engine engine;
    keel_error error;
    ASSERT_EQ(init(config, placed.memory, &engine, &error), KEEL_OK) << error.field << ": " << error.reason;
    EXPECT_EQ(threads_of_process(), kThreadsCount ? threads_before + config.threads - 1 : 0);

    std::vector<keel_session> sessions(config.max_sessions);
    for (keel_session& session : sessions) ASSERT_EQ(keel_session_open(engine, nullptr, &session), KEEL_OK);
    keel_session extra;
    EXPECT_EQ(keel_session_open(engine, nullptr, &extra), KEEL_E_SLOTS_FULL);
    uint32_t tokens = 0;
    if (config.context_tokens > kRestoreAbove) restore_all(engine, sessions, config.k_format, &tokens);
    run_to(engine, sessions, tokens, config.context_tokens - 3);
    for (uint32_t t = config.context_tokens - 3; t < config.context_tokens; ++t) run_to(engine, sessions, t, t + 1);
    for (keel_session session : sessions) {
        const int32_t id = 5;
        EXPECT_EQ(keel_session_feed(session, &id, 1, 0), KEEL_E_CONTEXT_FULL);
        int32_t token = -1;
        EXPECT_EQ(keel_session_sample(session, &token), KEEL_OK);
        EXPECT_LT(static_cast<uint32_t>(token), kVocabulary);
    }
    expect_full(engine, plan);
    placed.expect_intact();
    ASSERT_EQ(keel_engine_close(engine), KEEL_OK);
    placed.expect_intact();

    // The memory is the caller's again: the same region carries the next engine, which finds nothing it relies on.
    for (const keel_region& region : placed.memory.regions) {
        if (region.bytes) memset(region.data, 0xFF, region.bytes);
    }
    ASSERT_EQ(init(config, placed.memory, &engine, &error), KEEL_OK);
    ASSERT_EQ(keel_session_open(engine, nullptr, &sessions[0]), KEEL_OK);
    run_to(engine, {sessions[0]}, 0, std::min(config.context_tokens - 20, 240u));
    if (config.context_tokens <= kRestoreAbove) draw_to_the_end(engine, sessions[0], config.draft_tokens > 0);
    placed.expect_intact();
    ASSERT_EQ(keel_engine_close(engine), KEEL_OK);
    EXPECT_EQ(keel_session_feed(sessions[0], nullptr, 0, 0), KEEL_E_HANDLE) << "a session outlived its engine";
}

INSTANTIATE_TEST_SUITE_P(Rows, MemoryMatrixRun, testing::Range(0, 9));

// The kit can fail.
TEST(FencedMemoryKit, CanariesAndFencesNotice) {
    for (Fence fence : {Fence::kBehind, Fence::kInFront}) {
        for (uint64_t bytes : {uint64_t{1}, uint64_t{100}, uint64_t{4096}, uint64_t{70'000}}) {
            for (uint64_t align : {uint64_t{64}, uint64_t{4096}}) {
                const FencedMemory guarded(bytes, align, fence);
                uint8_t* data = guarded.data();
                EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % align, 0u);
                memset(data, 7, bytes);
                EXPECT_TRUE(guarded.intact());
                const bool slack = fence == Fence::kInFront || bytes % align;  // room behind the end
                if (slack) {
                    data[bytes] ^= 1;
                    EXPECT_FALSE(guarded.intact());
                    data[bytes] ^= 1;
                }
                if (fence == Fence::kBehind) {
                    data[-1] ^= 1;
                    EXPECT_FALSE(guarded.intact());
                    data[-1] ^= 1;
                }
                const uint64_t beyond = (bytes + align - 1) / align * align;
                volatile uint8_t* closed = fence == Fence::kBehind ? data + beyond : data - 1;
                EXPECT_DEATH(*closed = 1, "");
            }
        }
    }
    EXPECT_NONFATAL_FAILURE(FencedMemory(100, 64, Fence::kInFront).end()[0] ^= 1, "written beside the data");
    EXPECT_NONFATAL_FAILURE(FencedMemory(100, 64, Fence::kBehind).data()[-1] ^= 1, "written beside the data");
}

}  // namespace
