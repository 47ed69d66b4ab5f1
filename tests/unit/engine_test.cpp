// Engines through the public API: versioned structs, handles, plans, hostile readers, hooks.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernel_set.h"
#include "tests/plan_checks.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/unit/kernels_test_support.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");

// A reader over bytes in memory that can fail on its n-th call, and counts calls.
struct FailingReader {
    std::vector<char> bytes;
    uint64_t calls = 0, fail_at = UINT64_MAX;

    static keel_status read_at(void* user, uint64_t offset, void* dst, size_t n) {
        auto* r = static_cast<FailingReader*>(user);
        if (r->calls++ == r->fail_at) return KEEL_E_FILE_READ;
        EXPECT_LE(offset + n, r->bytes.size()) << "asked beyond size_bytes";
        memcpy(dst, r->bytes.data() + offset, n);
        return KEEL_OK;
    }
    keel_reader reader() {
        keel_reader r = sized<keel_reader>();
        r.size_bytes = bytes.size();
        r.read_at = read_at;
        r.user_data = this;
        return r;
    }
};

// Inspect, plan, init, close; the first status that is not KEEL_OK.
keel_status load(const keel_reader& reader, const keel_config& config, keel_error* error) {
    keel_model_info info = sized<keel_model_info>();
    if (const keel_status s = keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &info, error)) return s;
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model = nullptr;
    if (const keel_status s = keel_inspect(&reader, nullptr, buffer.data(), info.model_bytes, &model, &info, error))
        return s;
    keel_memory_plan plan = sized<keel_memory_plan>();
    if (const keel_status s = keel_plan(&reader, model, &config, &plan, error)) return s;
    keel_test::Memory memory(plan);
    keel_engine engine = {};
    if (const keel_status s = keel_engine_init(&reader, model, &config, memory.get(), &engine, error)) return s;
    return keel_engine_close(engine);
}

keel_config small_config() {
    keel_config c = sized<keel_config>();
    c.context_tokens = 64;
    c.threads = 1;
    return c;
}

TEST(Engine, EveryFailingReaderCallGivesAStatus) {
    FailingReader file{keel_test::read_file(kTiny)};
    keel_error error = sized<keel_error>();
    ASSERT_EQ(load(file.reader(), small_config(), &error), KEEL_OK);
    const uint64_t calls = file.calls;
    ASSERT_GT(calls, 20u);
    for (uint64_t i = 0; i < calls; ++i) {
        file.calls = 0;
        file.fail_at = i;
        EXPECT_EQ(load(file.reader(), small_config(), &error), KEEL_E_FILE_READ) << "call " << i << " of " << calls;
    }
}

TEST(Engine, EveryTruncationGivesAStatus) {
    const std::vector<char> whole = keel_test::read_file(kTiny);
    FailingReader file{whole};
    // Every length through the header, then steps through the data.
    for (size_t n = 0; n < whole.size(); n += n < 16384 ? 37 : 4099) {
        file.bytes.assign(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n));
        keel_error error = sized<keel_error>();
        const keel_status status = load(file.reader(), small_config(), &error);
        EXPECT_EQ(status, KEEL_E_FILE_FORMAT) << n << " bytes: " << keel_status_name(status);
        EXPECT_EQ(error.status, status);
        EXPECT_NE(error.reason[0], 0);
    }
}

// A file of keel_reader_open_file that another program cuts short between plan and init, in its header and in its
// weights. Only mapped weights would fault, and later.
TEST(Engine, FileCutShortBeforeInitIsAStatus) {
    const std::vector<char> whole = keel_test::read_file(kTiny);
    const std::string path = testing::TempDir() + "keel_cut_short_" +
                             std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()) + ".gguf";
    for (const size_t kept : {size_t{0}, size_t{8192}, whole.size() / 2, whole.size() - 1}) {
        std::ofstream(path, std::ios::binary).write(whole.data(), static_cast<std::streamsize>(whole.size()));
        {
            keel_test::FileReader file(path);
            keel_model_info info = sized<keel_model_info>();
            ASSERT_EQ(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
            std::vector<uint64_t> buffer(info.model_bytes / 8);
            const keel_model* model = nullptr;
            ASSERT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr),
                      KEEL_OK);
            keel_config config = small_config();
            config.weights = KEEL_WEIGHTS_COPY;
            keel_memory_plan plan = sized<keel_memory_plan>();
            ASSERT_EQ(keel_plan(file.get(), model, &config, &plan, nullptr), KEEL_OK);
            std::error_code refused;
            std::filesystem::resize_file(path, kept, refused);
            if (refused) GTEST_SKIP() << "skipped: this system does not let an open file be cut short";
            keel_test::Memory memory(plan);
            keel_engine engine = {};
            keel_error error = sized<keel_error>();
            EXPECT_EQ(keel_engine_init(file.get(), model, &config, memory.get(), &engine, &error), KEEL_E_FILE_READ)
                << kept << " bytes left: " << error.field << ": " << error.reason;
        }
        std::filesystem::remove(path);
    }
}

TEST(Engine, MutatedFilesNeverCrash) {
    const std::vector<char> whole = keel_test::read_file(kTiny);
    FailingReader file{whole};
    uint64_t x = 88172645463325252ull;
    int rejected = 0;
    for (int i = 0; i < 400; ++i) {
        file.bytes = whole;
        for (int k = 0; k < 1 + i % 3; ++k) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            file.bytes[x % 12000] = static_cast<char>(x >> 40);  // header and metadata
        }
        keel_error error = sized<keel_error>();
        rejected += load(file.reader(), small_config(), &error) != KEEL_OK;
    }
    EXPECT_GT(rejected, 20);
}

TEST(Engine, BuffersOneByteShort) {
    keel_test::FileReader file(kTiny);
    keel_model_info info = sized<keel_model_info>();
    ASSERT_EQ(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model = nullptr;
    EXPECT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), info.model_bytes - 1, &model, &info, nullptr),
              KEEL_E_BUFFER_TOO_SMALL);
    EXPECT_EQ(model, nullptr);
    EXPECT_EQ(keel_inspect(file.get(), nullptr, reinterpret_cast<char*>(buffer.data()) + 1, info.model_bytes, &model,
                           &info, nullptr),
              KEEL_E_MEMORY_ALIGN);
    EXPECT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr), KEEL_OK);
    EXPECT_STREQ(info.architecture, "llama");
}

TEST(Engine, StructsOfOtherVersions) {
    keel_test::FileReader file(kTiny);
    keel_model_info info = sized<keel_model_info>();
    ASSERT_EQ(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model;
    ASSERT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr), KEEL_OK);

    // An older caller knows fewer fields: the rest are defaults, and nothing is written past its struct.
    struct {
        keel_config config;
        uint64_t tail[2];
    } longer = {};
    longer.config.struct_size = offsetof(keel_config, kv_pages);
    longer.config.context_tokens = 64;
    longer.config.kv_pages = 77;  // beyond struct_size: not read
    keel_memory_plan plan = sized<keel_memory_plan>();
    ASSERT_EQ(keel_plan(file.get(), model, &longer.config, &plan, nullptr), KEEL_OK);
    EXPECT_EQ(plan.kv_pages, 1u);
    // A newer caller's unknown fields must be zero.
    longer.config = sized<keel_config>();
    longer.config.struct_size = sizeof longer;
    EXPECT_EQ(keel_plan(file.get(), model, &longer.config, &plan, nullptr), KEEL_OK);
    longer.tail[1] = 1;
    keel_error error = sized<keel_error>();
    EXPECT_EQ(keel_plan(file.get(), model, &longer.config, &plan, &error), KEEL_E_ABI);
    EXPECT_EQ(error.status, KEEL_E_ABI);
    EXPECT_STREQ(error.field, "config");
    longer.config.struct_size = 3;
    EXPECT_EQ(keel_plan(file.get(), model, &longer.config, &plan, nullptr), KEEL_E_ABI);
    keel_config config = sized<keel_config>();
    config.api_version = 999;
    EXPECT_EQ(keel_plan(file.get(), model, &config, &plan, nullptr), KEEL_E_ABI);

    keel_memory_plan small = {};
    memset(&small, 0x5a, sizeof small);
    small.struct_size = 24;
    config = sized<keel_config>();
    ASSERT_EQ(keel_plan(file.get(), model, &config, &small, nullptr), KEEL_OK);
    EXPECT_EQ(small.struct_size, 24u);
    EXPECT_EQ(reinterpret_cast<unsigned char*>(&small)[24], 0x5a) << "written past the caller's struct";
}

TEST(Engine, ConfigurationsOutOfRange) {
    keel_test::FileReader file(kTiny);
    const auto status_with = [&](auto change) {
        keel_config c = small_config();
        change(c);
        keel_error error = sized<keel_error>();
        const keel_status s = load(*file.get(), c, &error);
        EXPECT_EQ(error.status, s);
        return s;
    };
    EXPECT_EQ(status_with([](keel_config& c) { c.max_sessions = 65; }), KEEL_E_ARGUMENT);
    EXPECT_EQ(status_with([](keel_config& c) { c.chunk_tokens = 513; }), KEEL_E_ARGUMENT);
    EXPECT_EQ(status_with([](keel_config& c) { c.threads = 65; }), KEEL_E_ARGUMENT);
    EXPECT_EQ(status_with([](keel_config& c) { c.context_tokens = 1u << 30; }), KEEL_E_ARGUMENT);
    EXPECT_EQ(status_with([](keel_config& c) { c.k_format = static_cast<keel_kv_format>(19); }), KEEL_E_ARGUMENT);
    EXPECT_EQ(status_with([](keel_config& c) { c.cpu = static_cast<keel_cpu>(77); }), KEEL_E_ARGUMENT);
    FailingReader unmapped{keel_test::read_file(kTiny)};
    keel_config c = small_config();
    c.weights = KEEL_WEIGHTS_MAP;
    EXPECT_EQ(load(unmapped.reader(), c, nullptr), KEEL_E_ARGUMENT);
}

// Sets an environment variable for the life of one object.
class Variable {
  public:
    Variable(const char* name, const char* value) : name_(name) {
        const char* before = getenv(name);
        had_ = before != nullptr;
        if (had_) before_ = before;
        setenv(name, value, 1);
    }
    ~Variable() { had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }
    Variable(const Variable&) = delete;

  private:
    const char* name_;
    bool had_;
    std::string before_;
};

TEST(Engine, EnvironmentChoosesTheKernelSet) {
    const auto kernel_set = [](keel_cpu cpu) {
        keel_config c = small_config();
        c.cpu = cpu;
        keel_test::Engine engine(kTiny, c);
        keel_stats stats = sized<keel_stats>();
        check(keel_engine_stats(engine.handle(), &stats), "stats");
        return std::string(stats.kernel_set);
    };
    const auto refused = [](keel_cpu cpu, const char* field) {
        keel_test::FileReader file(kTiny);
        keel_config c = small_config();
        c.cpu = cpu;
        keel_error error = sized<keel_error>();
        EXPECT_EQ(load(*file.get(), c, &error), KEEL_E_UNSUPPORTED);
        EXPECT_STREQ(error.field, field);
    };
    const auto& names = keel::kernels::kIsaNames;
    std::string best;
    for (uint32_t isa = keel::kernels::kScalar; isa < keel::kernels::kIsaLimit; ++isa)
        if (keel::find_kernel_set(isa)) best = names[isa];
    {
        const Variable unset("KEEL_CPU", "");
        EXPECT_EQ(kernel_set(KEEL_CPU_AUTO), best) << "empty is as unset";
    }
    for (uint32_t isa = keel::kernels::kScalar; isa < keel::kernels::kIsaLimit; ++isa) {
        const Variable variable("KEEL_CPU", names[isa]);
        SCOPED_TRACE(names[isa]);
        EXPECT_EQ(kernel_set(KEEL_CPU_SCALAR), "scalar") << "the configuration wins";
        if (keel::find_kernel_set(isa)) {
            EXPECT_EQ(kernel_set(KEEL_CPU_AUTO), names[isa]);
        } else {
            refused(KEEL_CPU_AUTO, "KEEL_CPU");
            refused(static_cast<keel_cpu>(isa), "config.cpu");
        }
    }
    for (const char* wrong : {"sse2", "AVX2", "avx2 ", "auto", "1"}) {
        const Variable variable("KEEL_CPU", wrong);
        SCOPED_TRACE(wrong);
        refused(KEEL_CPU_AUTO, "KEEL_CPU");
        EXPECT_EQ(kernel_set(KEEL_CPU_SCALAR), "scalar");
    }
}

TEST(Engine, HandlesAreCheckedByGeneration) {
    keel_engine engine_handle;
    keel_session session;
    {
        keel_test::Engine engine(kTiny, small_config());
        engine_handle = engine.handle();
        session = engine.session();
        EXPECT_EQ(keel_session_close(session), KEEL_OK);
        EXPECT_EQ(keel_session_close(session), KEEL_E_HANDLE);
        keel_session reopened;
        ASSERT_EQ(keel_session_open(engine_handle, nullptr, &reopened), KEEL_OK);
        EXPECT_NE(reopened.id, session.id);
        int32_t token = 1;
        EXPECT_EQ(keel_session_feed(session, &token, 1, 0), KEEL_E_HANDLE)
            << "the slot is in use again, the old handle is not";
        EXPECT_EQ(keel_session_feed(reopened, &token, 1, 0), KEEL_OK);
        session = reopened;
    }
    keel_stats stats = sized<keel_stats>();
    EXPECT_EQ(keel_engine_stats(engine_handle, &stats), KEEL_E_HANDLE);
    EXPECT_EQ(keel_engine_close(engine_handle), KEEL_E_HANDLE);
    EXPECT_EQ(keel_cancel(session), KEEL_E_HANDLE);
    for (uint64_t id :
         {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, engine_handle.id ^ 1, uint64_t{1} << 56, uint64_t{255} << 56}) {
        EXPECT_EQ(keel_engine_stats(keel_engine{id}, &stats), KEEL_E_HANDLE) << id;
        EXPECT_EQ(keel_session_truncate(keel_session{id}, 0), KEEL_E_HANDLE) << id;
    }
}

TEST(Engine, SlotsRunOut) {
    std::vector<std::unique_ptr<keel_test::Engine>> engines;
    try {
        for (int i = 0; i < 40; ++i) engines.push_back(std::make_unique<keel_test::Engine>(kTiny, small_config()));
        FAIL() << "more engines than slots";
    } catch (const keel_test::Error& e) {
        EXPECT_EQ(e.status, KEEL_E_SLOTS_FULL);
        EXPECT_EQ(engines.size(), 16u);
    }
    engines.pop_back();
    EXPECT_NO_THROW(keel_test::Engine(kTiny, small_config())) << "a closed engine gives its slot back";
}

// ---- hooks ----

TEST(Engine, ProgressReportsAndCancels) {
    struct Seen {
        uint64_t last = 0, total = 0;
        int calls = 0, stop_at = 1 << 30;
    } seen;
    keel_config c = small_config();
    keel_hooks hooks = sized<keel_hooks>();
    c.hooks = &hooks;
    hooks.user_data = &seen;
    hooks.progress = [](void* user, uint64_t done, uint64_t total) {
        auto* s = static_cast<Seen*>(user);
        EXPECT_GE(done, s->last);
        EXPECT_LE(done, total);
        s->last = done;
        s->total = total;
        return ++s->calls >= s->stop_at ? 1 : 0;
    };
    keel_test::FileReader file(kTiny);
    EXPECT_EQ(load(*file.get(), c, nullptr), KEEL_OK);
    EXPECT_GT(seen.calls, 10);
    EXPECT_EQ(seen.last, seen.total) << "the last report says all";
    seen = {};
    seen.stop_at = 5;
    EXPECT_EQ(load(*file.get(), c, nullptr), KEEL_E_CANCELLED);
    EXPECT_EQ(seen.calls, 5);
}

TEST(Engine, ParallelForHookGivesTheSameBits) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(i * 7 % 250);
    const auto logits = [&](keel_config c) {
        keel_test::Engine engine(kTiny, c);
        engine.feed(ids);
        engine.advance();
        return std::vector<float>(engine.row(0), engine.row(0) + engine.info().vocabulary);
    };
    const std::vector<float> alone = logits(small_config());
    static std::atomic<int> tasks_run;
    tasks_run = 0;
    keel_config c = small_config();
    c.threads = 3;
    keel_hooks hooks = sized<keel_hooks>();
    c.hooks = &hooks;
    hooks.parallel_for = [](void*, uint32_t tasks, void (*task)(void*, uint32_t), void* context) {
        std::vector<std::thread> threads;
        for (uint32_t i = tasks; i-- > 0;)
            threads.emplace_back([=] {
                task(context, i);
                ++tasks_run;
            });
        for (std::thread& t : threads) t.join();
    };
    const std::vector<float> hooked = logits(c);
    EXPECT_GT(tasks_run, 10);
    EXPECT_EQ(0, memcmp(alone.data(), hooked.data(), alone.size() * sizeof(float)));
}

TEST(Engine, AllowedTokensHookNarrowsTheChoice) {
    static int32_t only = -1;
    keel_config c = small_config();
    keel_hooks hooks = sized<keel_hooks>();
    c.hooks = &hooks;
    hooks.allowed_tokens = [](void*, keel_session, const int32_t* tokens, uint32_t count, uint8_t* mask,
                              uint32_t vocabulary) {
        EXPECT_EQ(count, 3u);
        EXPECT_EQ(tokens[2], 7);
        memset(mask, 0, (vocabulary + 7) / 8);
        if (only >= 0) mask[only / 8] = static_cast<uint8_t>(1 << only % 8);
    };
    keel_test::Engine engine(kTiny, c);
    engine.feed({5, 6, 7});
    engine.advance();
    int32_t token = -5;
    for (only = 0; only < 60; only += 13) {
        EXPECT_EQ(keel_session_sample(engine.session(), &token), KEEL_OK);
        EXPECT_EQ(token, only);
    }
    only = -1;
    EXPECT_EQ(keel_session_sample(engine.session(), &token), KEEL_E_NUMERIC);
}

// ---- parts ----

constexpr char kChatml[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

keel_reader reader_of(const std::string& text) {
    keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(text.data(), text.size(), &reader), "keel_reader_from_memory");
    return reader;
}

TEST(Parts, ATemplateReplacesTheModelsOwn) {
    const std::string chatml = kChatml;
    const keel_reader reader = reader_of(chatml);
    const keel_part part = keel_test::part(KEEL_PART_CHAT_TEMPLATE, &reader);
    keel_config c = small_config();
    c.parts = &part;
    c.part_count = 1;
    keel_test::Engine engine(kTiny, c);
    const keel_chat_message message = keel_test::message("user", "Hi", 2);
    const keel_chat chat = keel_test::chat(&message, 1, true);
    char text[200];
    size_t n = 0;
    ASSERT_EQ(keel_chat_format(engine.handle(), &chat, text, sizeof text, &n, nullptr), KEEL_OK);
    EXPECT_EQ(std::string(text, n), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    EXPECT_EQ(keel_chat_format(engine.handle(), &chat, text, n - 1, &n, nullptr), KEEL_E_BUFFER_TOO_SMALL);
    keel_test::Engine own(kTiny, small_config());
    EXPECT_EQ(keel_chat_format(own.handle(), &chat, text, sizeof text, &n, nullptr), KEEL_E_UNSUPPORTED)
        << "this model has none";
}

// What is wrong with a part is said by both functions that read it, with its place in the array.
TEST(Parts, RefusalsNameThePart) {
    const std::string chatml = kChatml, strange = "{{ messages | groupby }}";
    const keel_reader good = reader_of(chatml), unknown = reader_of(strange);
    keel_reader future = good;
    future.reserved = 1;
    const keel_wproj_options options = sized<keel_wproj_options>();
    const auto part = [](uint32_t kind, const keel_reader* reader, const void* with = nullptr) {
        return keel_test::part(static_cast<keel_part_kind>(kind), reader, with);
    };
    const auto refused = [&](const std::vector<keel_part>& parts, uint32_t count, const char* field) {
        keel_config c = small_config();
        c.parts = parts.empty() ? nullptr : parts.data();
        c.part_count = count;
        keel_test::FileReader file(kTiny);
        keel_error error = sized<keel_error>();
        const keel_status status = load(*file.get(), c, &error);
        EXPECT_EQ(error.status, status);
        EXPECT_STREQ(error.field, field);
        return status;
    };
    const keel_part chat = part(KEEL_PART_CHAT_TEMPLATE, &good);
    EXPECT_EQ(refused({chat}, 1, ""), KEEL_OK);
    EXPECT_EQ(refused({}, 1, "config.parts"), KEEL_E_ARGUMENT);
    EXPECT_EQ(refused({chat, chat}, 2, "config.parts[1]"), KEEL_E_ARGUMENT) << "twice";
    for (const uint32_t kind : {0u, 7u, 77u})
        EXPECT_EQ(refused({chat, part(kind, &good)}, 2, "config.parts[1].kind"), KEEL_E_UNSUPPORTED) << kind;
    for (const uint32_t kind :
         {KEEL_PART_CHAT_TEMPLATE, KEEL_PART_KV_PROFILE, KEEL_PART_WPROJ, KEEL_PART_DRAFT_POOL, KEEL_PART_ADAPTER})
        EXPECT_EQ(refused({part(kind, nullptr)}, 1, "config.parts[0].reader"), KEEL_E_ARGUMENT) << kind;
    for (const uint32_t kind : {KEEL_PART_CHAT_TEMPLATE, KEEL_PART_KV_PROFILE, KEEL_PART_DRAFT_POOL, KEEL_PART_ADAPTER})
        EXPECT_EQ(refused({part(kind, &good, &options)}, 1, "config.parts[0].options"), KEEL_E_ARGUMENT) << kind;
    EXPECT_EQ(refused({part(KEEL_PART_CHAT_TEMPLATE, &unknown)}, 1, "config.parts[0]"), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(refused({part(KEEL_PART_CHAT_TEMPLATE, &future)}, 1, "config.parts[0].reader"), KEEL_E_ABI);
    for (const float bound : {-1.0f, 2e6f, NAN}) {
        keel_wproj_options wrong = options;
        wrong.max_error = bound;
        EXPECT_EQ(refused({part(KEEL_PART_WPROJ, &good, &wrong)}, 1, "config.parts[0].options.max_error"),
                  KEEL_E_ARGUMENT);
    }
}

// ---- plan ----

TEST(Plan, BuffersAliveTogetherDoNotOverlap) {
    for (const char* file : {"architectures/smollm2-q8_0", "architectures/gemma3", "architectures/gemma2",
                             "architectures/phi3", "architectures/qwen3", "architectures/mistral", "wired/wired"}) {
        keel_test::FileReader reader(keel_test::source_path("tests/data/" + std::string(file) + ".gguf"));
        keel_model_info info = sized<keel_model_info>();
        ASSERT_EQ(keel_inspect(reader.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
        std::vector<uint64_t> buffer(info.model_bytes / 8);
        const keel_model* model;
        ASSERT_EQ(keel_inspect(reader.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr),
                  KEEL_OK);
        const keel_config c = small_config();
        keel_memory_plan plan = sized<keel_memory_plan>();
        ASSERT_EQ(keel_plan(reader.get(), model, &c, &plan, nullptr), KEEL_OK);
        const std::vector<keel_op_info> ops = keel_test::plan_ops(reader.get(), model, c);
        ASSERT_EQ(ops.size(), plan.op_count);
        uint64_t moved = 0;
        for (const keel_op_info& op : ops) {
            EXPECT_GT(op.predicted_us, 0);
            moved += op.fixed_bytes + op.token_bytes;
        }
        EXPECT_EQ(moved, plan.decode_bytes);
        keel_test::expect_scratch_is_packed(plan, ops, keel_test::plan_buffers(reader.get(), model, c));
    }
}

// What the lists say of room: an element as long as the first one says, no element past the capacity, the number in any
// case.
TEST(Plan, ListsKeepToTheCallersArray) {
    const keel_test::InspectedFile file(kTiny);
    const keel_config c = small_config();
    uint32_t count = 0, needed = 0;
    ASSERT_EQ(keel_plan_ops(&file.reader, file.model, &c, nullptr, 0, &needed, nullptr), KEEL_OK);
    const std::vector<keel_op_info> ops = keel_test::plan_ops(&file.reader, file.model, c);
    struct Longer {
        keel_op_info info;
        uint64_t mine[2];
    };
    std::vector<Longer> longer(needed);
    for (Longer& l : longer) l.mine[0] = l.mine[1] = 42;
    longer[0].info.struct_size = sizeof(Longer);
    EXPECT_EQ(keel_plan_ops(&file.reader, file.model, &c, &longer[0].info, needed - 1, &count, nullptr),
              KEEL_E_BUFFER_TOO_SMALL);
    EXPECT_EQ(count, needed);
    for (uint32_t i = 0; i + 1 < needed; ++i) EXPECT_STREQ(longer[i].info.name, ops[i].name) << i;
    EXPECT_EQ(longer[needed - 1].mine[0], 42u);
    EXPECT_EQ(longer[needed - 1].info.struct_size, 0u);
    keel_op_info small = sized<keel_op_info>();
    small.struct_size = 2;  // not even room for itself
    EXPECT_EQ(keel_plan_ops(&file.reader, file.model, &c, &small, 1, &count, nullptr), KEEL_E_ABI);
    EXPECT_EQ(keel_plan_ops(&file.reader, file.model, &c, &small, 1, nullptr, nullptr), KEEL_E_ARGUMENT);
    keel_buffer_info buffer = sized<keel_buffer_info>();
    EXPECT_EQ(keel_plan_buffers(&file.reader, file.model, &c, &buffer, 1, &count, nullptr), KEEL_E_BUFFER_TOO_SMALL);
    EXPECT_GT(count, 1u);
    EXPECT_NE(buffer.bytes, 0u);
}

// Every byte of the regions that are not scratch belongs to an object with a name, or is alignment.
TEST(Plan, ObjectsFillTheirRegions) {
    const keel_test::InspectedFile file(kTiny);
    keel_config c = small_config();
    c.kv_sink_tokens = 4;
    c.kv_recent_tokens = 8;
    keel_memory_plan plan = sized<keel_memory_plan>();
    ASSERT_EQ(keel_plan(&file.reader, file.model, &c, &plan, nullptr), KEEL_OK);
    uint64_t bytes[KEEL_REGION_COUNT] = {}, end[KEEL_REGION_COUNT] = {};
    for (const keel_buffer_info& b : keel_test::plan_buffers(&file.reader, file.model, c)) {
        EXPECT_NE(b.name[0], 0);
        if (b.region == KEEL_REGION_SCRATCH) continue;
        EXPECT_GE(b.offset, end[b.region]) << b.name;
        end[b.region] = b.offset + b.bytes;
        bytes[b.region] += b.bytes;
    }
    for (const int r : {KEEL_REGION_PERSISTENT, KEEL_REGION_WEIGHTS, KEEL_REGION_KV})
        EXPECT_EQ(bytes[r] + plan.regions[r].padding_bytes, plan.regions[r].bytes) << r;
}

TEST(Plan, ALayerIsSevenPasses) {
    keel_test::FileReader reader(kTiny);
    keel_model_info info = sized<keel_model_info>();
    ASSERT_EQ(keel_inspect(reader.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model;
    ASSERT_EQ(keel_inspect(reader.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr), KEEL_OK);
    const keel_config c = small_config();
    keel_memory_plan plan = sized<keel_memory_plan>();
    ASSERT_EQ(keel_plan(reader.get(), model, &c, &plan, nullptr), KEEL_OK);
    std::vector<std::string> passes;
    for (const keel_op_info& op : keel_test::plan_ops(reader.get(), model, c)) {
        ASSERT_LE(op.dispatch, passes.size());
        if (op.dispatch == passes.size())
            passes.emplace_back();
        else
            ASSERT_EQ(op.dispatch + 1, passes.size());
        passes.back() += (passes.back().empty() ? "" : " ") + std::string(op.name);
    }
    const std::vector<std::string> layer = {"attn_norm",
                                            "attn_q attn_k attn_v",
                                            "rope kv_append attention attention_finish",
                                            "attn_output",
                                            "ffn_norm",
                                            "ffn_gate ffn_up glu quantize",
                                            "ffn_down"};
    std::vector<std::string> expected = {"embed", "rope_table"};
    for (uint32_t i = 0; i < info.layers; ++i) expected.insert(expected.end(), layer.begin(), layer.end());
    expected.insert(expected.end(), {"output_norm", "output"});
    EXPECT_EQ(passes, expected);
}

TEST(Plan, OtherFilesAreRefused) {
    keel_test::FileReader file(kTiny), other(keel_test::source_path("tests/data/architectures/mistral.gguf"));
    keel_model_info info = sized<keel_model_info>();
    ASSERT_EQ(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model;
    ASSERT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr), KEEL_OK);
    const keel_config c = small_config();
    keel_memory_plan plan = sized<keel_memory_plan>();
    EXPECT_EQ(keel_plan(other.get(), model, &c, &plan, nullptr), KEEL_E_FILE_MISMATCH);
    std::vector<uint64_t> garbage(64);
    EXPECT_EQ(keel_plan(file.get(), reinterpret_cast<const keel_model*>(garbage.data()), &c, &plan, nullptr),
              KEEL_E_ARGUMENT);
}

}  // namespace
