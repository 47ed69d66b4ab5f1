// Static adapters: what a session with one computes, that nothing else notices, that memory is planned to the byte, and
// which files are refused.
#include <gtest/gtest.h>
#include <math.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>

#include "keel/keel_lab.h"
#include "sdk/tools/files/synth.h"
#include "tests/adapter_builder.h"
#include "tests/async_backend.h"
#include "tests/plan_checks.h"
#include "tests/wproj_builder.h"

namespace {

using namespace keel;
using keel_test::AdapterBytes;
using keel_test::AdapterSpec;
using keel_test::check;
using keel_test::InspectedFile;
using keel_test::sized;

std::vector<int32_t> ids(uint32_t count, uint32_t seed = 7) {
    std::mt19937 random(seed);
    std::vector<int32_t> out(count);
    for (int32_t& id : out) id = static_cast<int32_t>(random() % 512);
    return out;
}

bool same(const keel_test::Logits& a, const keel_test::Logits& b) {
    return a.values.size() == b.values.size() &&
           memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(float)) == 0;
}

class Adapters : public testing::Test {
  protected:
    std::string path_ = testing::TempDir() + "keel_adapters_" + std::to_string(getpid()) + ".gguf";
    std::vector<keel_part> parts_;
    void TearDown() override { std::filesystem::remove(path_); }

    void synthesize(const std::string& architecture, const std::string& mix) {
        tools::SynthSpec spec;
        spec.architecture = architecture;
        spec.mix = mix;
        spec.embedding = 128;
        spec.heads = 4;
        spec.kv_heads = 2;
        spec.head_dim = 32;
        spec.feed_forward = 256;
        spec.vocabulary = 512;
        tools::synth_write(path_, spec);
    }
    keel_config config(std::initializer_list<const AdapterBytes*> adapters) {
        keel_config c = sized<keel_config>();
        c.context_tokens = 192;
        c.logits_rows = 64;
        c.threads = 2;
        parts_.clear();
        for (const AdapterBytes* a : adapters) parts_.push_back(keel_test::part(KEEL_PART_ADAPTER, &a->reader));
        c.parts = parts_.data();
        c.part_count = static_cast<uint32_t>(parts_.size());
        return c;
    }
    keel_test::Logits logits(keel_config c, uint32_t adapter, float scale, const std::vector<int32_t>& tokens) {
        keel_test::Engine engine(path_, c);
        check(keel_session_set_adapter(engine.session(), adapter, scale), "set_adapter");
        return engine.logits_for(tokens);
    }
    keel_error refusal(const AdapterBytes& adapter, keel_status status) {
        keel_error error = sized<keel_error>();
        keel_memory_plan plan = sized<keel_memory_plan>();
        const InspectedFile file(path_);
        const keel_config c = config({&adapter});
        EXPECT_EQ(status, keel_plan(&file.reader, file.model, &c, &plan, &error)) << error.reason;
        EXPECT_STREQ(status == KEEL_OK ? "" : "config.parts[0]", error.field);
        return error;
    }
    // A region that is one byte short is named, and exactly the planned bytes are enough.
    void expect_exact_memory(const InspectedFile& file, const keel_config& c, const keel_memory_plan& plan) {
        for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
            if (plan.regions[i].bytes == 0) continue;
            keel_test::Memory memory(plan);
            keel_memory less = *memory.get();
            --less.regions[i].bytes;
            keel_engine engine;
            EXPECT_EQ(KEEL_E_MEMORY_TOO_SMALL, keel_engine_init(&file.reader, file.model, &c, &less, &engine, nullptr));
            check(keel_engine_init(&file.reader, file.model, &c, memory.get(), &engine, nullptr), "init");
            check(keel_engine_close(engine), "close");
        }
    }
};

// The same as the model whose F32 matrices have s B A added, but for rounding; of every architecture, so every matrix
// that an adapter may name.
TEST_F(Adapters, AreLikeMatricesThatTheyAreMergedInto) {
    for (const char* architecture : {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "glm4"}) {
        SCOPED_TRACE(architecture);
        synthesize(architecture, "F32");
        const std::vector<int32_t> tokens = ids(100);
        const InspectedFile file(path_);
        AdapterSpec spec;
        spec.rank = 5;
        spec.alpha = 8;
        const AdapterBytes adapter = keel_test::random_adapter(file, spec);
        keel_config c = config({&adapter});
        c.activation = KEEL_ACTIVATION_F32;
        c.k_format = c.v_format = KEEL_KV_F32;
        const keel_test::Logits ours = logits(c, 0, 0.5f, tokens), plain = logits(c, KEEL_ADAPTER_OFF, 1, tokens);
        keel_test::merge_adapter(adapter, file, 0.5f, path_);
        c.part_count = 0;
        const keel_test::Logits merged = keel_test::Engine(path_, c).logits_for(tokens);
        double error = 0, change = 0, largest = 0;
        for (size_t i = 0; i < ours.values.size(); ++i) {
            error = std::max(error, fabs(double{ours.values[i]} - merged.values[i]));
            change = std::max(change, fabs(double{ours.values[i]} - plain.values[i]));
            largest = std::max(largest, fabs(double{merged.values[i]}));
        }
        EXPECT_LT(error, 1e-4 * largest);
        EXPECT_GT(change, 0.01 * largest);
    }
}

// One sequence in sessions with no adapter and with two, each alone and all together, in chunks of any size, with any
// number of threads and any budget, on two kernel sets and on a backend that lags behind: the bits are those of the
// session alone.
TEST_F(Adapters, BitsDependOnTheSessionAlone) {
    synthesize("qwen3", "Q4_K_M");
    const InspectedFile file(path_);
    AdapterSpec spec;
    const AdapterBytes first = keel_test::random_adapter(file, spec);
    spec.seed = 2;
    spec.rank = 40;
    spec.a_type = spec.b_type = kernels::kF16;
    spec.slots = slot_bit(kAttnQ) | slot_bit(kFfnDown) | slot_bit(kFfnUp);
    const AdapterBytes second = keel_test::random_adapter(file, spec);
    const std::vector<int32_t> tokens = ids(90);
    constexpr uint32_t kAdapterOf[] = {0, KEEL_ADAPTER_OFF, 1, 0};
    constexpr float kScaleOf[] = {1, 1, 0.5f, -2};
    keel_config alone = config({&first, &second});
    alone.chunk_tokens = 1;
    alone.threads = 1;
    std::vector<std::vector<float>> expected;  // the last row of each
    for (int i = 0; i < 4; ++i) {
        const keel_test::Logits l = logits(alone, kAdapterOf[i], kScaleOf[i], tokens);
        expected.emplace_back(l.row(tokens.size() - 1), l.row(tokens.size() - 1) + l.vocabulary);
        if (i) {
            EXPECT_NE(expected[0], expected.back());
        }
    }
    keel_config none = config({});
    const keel_test::Logits plain = keel_test::Engine(path_, none).logits_for(tokens);
    EXPECT_EQ(expected[1], std::vector<float>(plain.row(tokens.size() - 1), plain.row(tokens.size() - 1) + 512));

    std::mt19937 random(3);
    for (uint32_t round = 0; round < 12; ++round) {
        keel_config c = config({&first, &second});
        c.max_sessions = 4;
        c.chunk_tokens = round % 2 ? 1 + random() % 128 : 1 + random() % 12;
        c.threads = 1 + round % 3;
        c.tile_us = 1 + random() % 200;
        c.cpu = static_cast<keel_cpu>(round % 4 == 0 ? KEEL_CPU_SCALAR : KEEL_CPU_AUTO);
        if (round % 3 == 2) {
            keel_test::AsyncBackend::reset();
            c.backend = keel_test::AsyncBackend::table();
        }
        keel_test::Engine engine(path_, c);
        keel_session sessions[4] = {engine.session()};
        for (int i = 1; i < 4; ++i) check(keel_session_open(engine.handle(), nullptr, &sessions[i]), "open");
        for (int i = 0; i < 4; ++i) {
            check(keel_session_set_adapter(sessions[i], kAdapterOf[i], kScaleOf[i]), "set_adapter");
            check(keel_session_feed(sessions[i], tokens.data(), 90, 0), "feed");
        }
        keel_advance_result results[4];
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) {
            for (keel_advance_result& r : results) r = sized<keel_advance_result>();
            status = keel_advance(engine.handle(), sessions, 4, round % 2 ? 0 : 300, results);
        }
        check(status, "advance");
        for (size_t i = 0; i < 4; ++i) {
            const float* row;
            check(keel_session_logits(sessions[i], 0, &row, nullptr), "logits");
            EXPECT_EQ(expected[i], std::vector<float>(row, row + 512)) << "session " << i << " round " << round;
        }
    }
}

// From the position on where it is chosen; what was computed stays. Drafts are verified with it, forks have it.
TEST_F(Adapters, AreChosenAtAnyStep) {
    synthesize("llama", "Q8_0");
    const InspectedFile file(path_);
    const AdapterBytes adapter = keel_test::random_adapter(file, {});
    const std::vector<int32_t> tokens = ids(80);
    keel_config c = config({&adapter});
    c.max_sessions = 2;
    c.draft_tokens = 4;
    keel_test::Engine engine(path_, c);
    const auto last_row = [&](keel_session s) {
        const float* row;
        check(keel_session_logits(s, 0, &row, nullptr), "logits");
        return std::vector<float>(row, row + 512);
    };
    const auto compute = [&](keel_session s, uint32_t from, uint32_t to) {
        check(keel_session_feed(s, tokens.data() + from, to - from, 0), "feed");
        keel_advance_result r = sized<keel_advance_result>();
        check(keel_advance(engine.handle(), &s, 1, 0, &r), "advance");
        return last_row(s);
    };
    const keel_session s = engine.session();
    const std::vector<float> plain = compute(s, 0, 80);
    check(keel_session_truncate(s, 50), "truncate");
    check(keel_session_set_adapter(s, 0, 1), "set_adapter");
    const std::vector<float> mixed = compute(s, 50, 80);
    keel_session fork;
    check(keel_session_fork(s, &fork), "fork");
    keel_session_info info = sized<keel_session_info>();
    check(keel_session_get(fork, &info), "get");
    EXPECT_EQ(0u, info.adapter);
    EXPECT_EQ(1.0f, info.adapter_scale);
    check(keel_session_truncate(fork, 60), "truncate");
    EXPECT_EQ(mixed, compute(fork, 60, 80));
    check(keel_session_close(fork), "close");
    check(keel_session_truncate(s, 0), "truncate");
    const std::vector<float> adapted = compute(s, 0, 80);
    EXPECT_NE(plain, mixed);
    EXPECT_NE(mixed, adapted);

    // Greedy text with and without drafts.
    std::vector<int32_t> drawn;
    const auto text = [&](bool drafts) {
        check(keel_session_truncate(s, 0), "truncate");
        std::vector<int32_t> out;
        std::vector<int32_t> next(tokens.begin(), tokens.begin() + 20);
        while (out.size() < 24) {
            check(keel_session_feed(s, next.data(), static_cast<uint32_t>(next.size()), KEEL_FEED_SAMPLE), "feed");
            if (drafts) check(keel_session_propose(s, drawn.data() + out.size(), 4), "propose");
            keel_advance_result r = sized<keel_advance_result>();
            check(keel_advance(engine.handle(), &s, 1, 0, &r), "advance");
            keel_session_info now = sized<keel_session_info>();
            check(keel_session_get(s, &now), "get");
            out.insert(out.end(), now.tokens + now.token_count - r.accepted_tokens, now.tokens + now.token_count);
            next.assign(1, -1);
            check(keel_session_sample(s, next.data()), "sample");
            out.push_back(next[0]);
        }
        out.resize(24);
        return out;
    };
    drawn = text(false);
    const std::vector<int32_t> expected = drawn;
    drawn.resize(64, 1);
    EXPECT_EQ(expected, text(true));

    check(keel_session_truncate(s, 0), "truncate");
    check(keel_session_set_adapter(s, 0, 0), "scale 0");
    EXPECT_EQ(plain, compute(s, 0, 80));
    check(keel_session_truncate(s, 0), "truncate");
    check(keel_session_set_adapter(s, KEEL_ADAPTER_OFF, 1), "off");
    EXPECT_EQ(plain, compute(s, 0, 80));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_adapter(s, 1, 1));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_adapter(s, 0, NAN));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_adapter(s, 0, INFINITY));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_adapter(s, 0, 3e38f)) << "times alpha 16";
}

// A saved session goes on with its adapter where that is, under any number, and nowhere else.
TEST_F(Adapters, SavedSessionsNameTheirs) {
    synthesize("llama", "Q8_0");
    const InspectedFile file(path_);
    AdapterSpec spec;
    const AdapterBytes mine = keel_test::random_adapter(file, spec);
    spec.seed = 9;
    const AdapterBytes other = keel_test::random_adapter(file, spec);
    const std::vector<int32_t> tokens = ids(40);
    std::vector<uint8_t> saved;
    std::vector<float> expected;
    const auto go_on = [&](keel_test::Engine& engine) {
        engine.feed({5, 6, 7});
        engine.advance();
        return std::vector<float>(engine.row(0), engine.row(0) + 512);
    };
    {
        keel_test::Engine engine(path_, config({&mine}));
        check(keel_session_set_adapter(engine.session(), 0, 0.5f), "set_adapter");
        engine.feed(tokens);
        engine.advance();
        uint64_t bytes = 0;
        check(keel_session_save_bytes(engine.session(), &bytes), "save_bytes");
        saved.resize(bytes);
        check(keel_session_save(engine.session(), saved.data(), bytes, &bytes), "save");
        expected = go_on(engine);
    }
    keel_test::Engine both(path_, config({&other, &mine}));
    check(keel_session_restore(both.session(), saved.data(), saved.size(), nullptr), "restore");
    keel_session_info info = sized<keel_session_info>();
    check(keel_session_get(both.session(), &info), "get");
    EXPECT_EQ(1u, info.adapter);
    EXPECT_EQ(0.5f, info.adapter_scale);
    EXPECT_EQ(expected, go_on(both));
    for (const bool any : {false, true}) {
        keel_test::Engine engine(path_, any ? config({&other}) : config({}));
        keel_error error = sized<keel_error>();
        EXPECT_EQ(KEEL_E_FILE_MISMATCH, keel_session_restore(engine.session(), saved.data(), saved.size(), &error));
        EXPECT_STREQ("adapter", error.field);
    }
}

TEST_F(Adapters, PlanCountsEveryByte) {
    synthesize("phi3", "Q4_0");
    const InspectedFile file(path_);
    AdapterSpec spec;
    const AdapterBytes first = keel_test::random_adapter(file, spec);
    spec.rank = 32;
    spec.a_type = spec.b_type = kernels::kQ8_0;
    const AdapterBytes second = keel_test::random_adapter(file, spec);
    for (const bool mapped : {false, true}) {
        keel_config c = config({&first, &second});
        c.weights = mapped ? KEEL_WEIGHTS_MAP : KEEL_WEIGHTS_COPY;
        keel_memory_plan plan = sized<keel_memory_plan>();
        check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
        EXPECT_EQ(2u, plan.adapter_count);
        EXPECT_EQ(first.matrix_bytes + second.matrix_bytes, plan.adapter_bytes);
        EXPECT_GT(plan.adapter_op_count, plan.op_count);
        EXPECT_GT(plan.adapter_decode_bytes, plan.decode_bytes);
        EXPECT_GT(plan.adapter_step_us[0], plan.step_us[0]);
        expect_exact_memory(file, c, plan);
        keel_test::expect_scratch_is_packed(plan, keel_test::plan_ops(&file.reader, file.model, c),
                                            keel_test::plan_buffers(&file.reader, file.model, c));
        for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, c))
            if (strstr(op.name, "_lora_")) {
                EXPECT_EQ(KEEL_WEIGHTS_COPY, op.placement) << op.name;
            }
    }
}

TEST_F(Adapters, ShareAnEngineWithTheLowRankVariant) {
    synthesize("llama", "Q8_0");
    const InspectedFile file(path_);
    const AdapterBytes adapter = keel_test::random_adapter(file, {});
    const keel_test::WprojBytes cache(tools::encode_wproj_v2(keel_test::random_wproj(file, {}), 1));
    keel_config c = config({&adapter});
    parts_.push_back(keel_test::part(KEEL_PART_WPROJ, &cache.reader));
    c.parts = parts_.data();
    c.part_count = 2;
    keel_test::Engine engine(path_, c);
    EXPECT_EQ(KEEL_OK, keel_session_set_adapter(engine.session(), 0, 1));
    EXPECT_EQ(KEEL_E_STATE, keel_session_set_variant(engine.session(), KEEL_VARIANT_LOW_RANK));
    const keel_test::Logits adapted = engine.logits_for(ids(30));
    uint64_t bytes;
    check(keel_session_save_bytes(engine.session(), &bytes), "save_bytes");
    std::vector<uint8_t> saved(bytes);
    check(keel_session_save(engine.session(), saved.data(), bytes, &bytes), "save");
    EXPECT_EQ(KEEL_OK, keel_session_set_adapter(engine.session(), KEEL_ADAPTER_OFF, 1));
    EXPECT_EQ(KEEL_OK, keel_session_set_variant(engine.session(), KEEL_VARIANT_LOW_RANK));
    EXPECT_EQ(KEEL_E_STATE, keel_session_set_adapter(engine.session(), 0, 1));
    EXPECT_EQ(KEEL_E_STATE, keel_session_restore(engine.session(), saved.data(), saved.size(), nullptr));
    const keel_test::Logits low_rank = engine.logits_for(ids(30));
    EXPECT_FALSE(same(adapted, low_rank));
    c.part_count = 1;
    EXPECT_TRUE(same(adapted, logits(c, 0, 1, ids(30))));
}

// Times of a step with an adapter are those of its own ops, as the plan numbers them; of a neighbour's without, not.
TEST_F(Adapters, TimesNameTheirOps) {
    synthesize("llama", "Q8_0");
    const AdapterBytes adapter = keel_test::random_adapter(InspectedFile(path_), {});
    keel_test::Engine engine(path_, config({&adapter}));
    check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
    const keel_memory_plan& plan = engine.plan();
    for (const bool on : {true, false, true}) {
        check(keel_session_set_adapter(engine.session(), on ? 0 : KEEL_ADAPTER_OFF, 1), "set_adapter");
        engine.feed({5, 6, 7});
        engine.advance();
        uint32_t count = 0;
        keel_lab_op_time times[512];
        times[0] = sized<keel_lab_op_time>();
        check(keel_lab_op_times(engine.handle(), times, 512, &count), "keel_lab_op_times");
        uint32_t next = on ? plan.op_count + plan.low_rank_op_count : 0;
        const uint32_t end = next + (on ? plan.adapter_op_count : plan.op_count);
        for (uint32_t i = 0; i < count; next += times[i++].ops) EXPECT_EQ(times[i].op, next);
        EXPECT_EQ(next, end);
    }
}

TEST_F(Adapters, AreRefusedByName) {
    synthesize("llama", "Q8_0");
    const InspectedFile file(path_);
    const auto built = [&](const std::function<void(AdapterSpec&)>& change) {
        AdapterSpec spec;
        change(spec);
        return keel_test::random_adapter(file, spec);
    };
    const auto expect = [&](keel_status status, const char* part_of_reason,
                            const std::function<void(AdapterSpec&)>& change) {
        const keel_error error = refusal(built(change), status);
        EXPECT_NE(nullptr, strstr(error.reason, part_of_reason)) << error.reason;
    };
    expect(KEEL_OK, "", [](AdapterSpec&) {});
    expect(KEEL_E_FILE_FORMAT, "general.type", [](AdapterSpec& s) { s.type = "model"; });
    expect(KEEL_E_UNSUPPORTED, "adapter.type", [](AdapterSpec& s) { s.kind = "ia3"; });
    expect(KEEL_E_FILE_MISMATCH, "general.architecture", [](AdapterSpec& s) { s.architecture = "qwen2"; });
    expect(KEEL_E_UNSUPPORTED, "general.architecture", [](AdapterSpec& s) { s.architecture = "nobody"; });
    expect(KEEL_E_FILE_FORMAT, "adapter.lora.alpha", [](AdapterSpec& s) { s.alpha = NAN; });
    expect(KEEL_E_FILE_FORMAT, "adapter.lora.alpha", [](AdapterSpec& s) { s.alpha = INFINITY; });
    expect(KEEL_E_UNSUPPORTED, "invocation", [](AdapterSpec& s) { s.invocation_tokens = true; });
    const auto extra = [](const char* name, std::vector<uint64_t> dims) {
        return [=](AdapterSpec& s) { s.extra.push_back({name, dims}); };
    };
    expect(KEEL_E_UNSUPPORTED, "token_embd.weight.lora_a", extra("token_embd.weight.lora_a", {16, 512}));
    expect(KEEL_E_UNSUPPORTED, "output.weight.lora_b", extra("output.weight.lora_b", {16, 512}));
    expect(KEEL_E_UNSUPPORTED, "attn_norm", extra("blk.0.attn_norm.weight", {128}));
    expect(KEEL_E_UNSUPPORTED, "nothing.lora_a", extra("nothing.lora_a", {128, 16}));
    expect(KEEL_E_FILE_MISMATCH, "blk.99.", extra("blk.99.attn_q.weight.lora_a", {128, 16}));
    expect(KEEL_E_FILE_LIMIT, "blk.512.", extra("blk.512.attn_q.weight.lora_a", {128, 16}));
    const auto without = [](TensorSlot slot, int side) {
        return [=](AdapterSpec& s) {
            s.left_out = slot;
            s.left_out_side = side;
        };
    };
    expect(KEEL_E_FILE_FORMAT, "blk.0.attn_k", without(kAttnK, 0));
    expect(KEEL_E_FILE_FORMAT, "blk.0.ffn_down", without(kFfnDown, 1));
    const auto replaced = [](TensorSlot slot, int side, const char* name, std::vector<uint64_t> dims) {
        return [=](AdapterSpec& s) {
            s.left_out = slot;
            s.left_out_side = side;
            s.extra.push_back({name, dims});
        };
    };
    expect(KEEL_E_FILE_MISMATCH, "attn_q", replaced(kAttnQ, 0, "blk.0.attn_q.weight.lora_a", {64, 16}));
    expect(KEEL_E_FILE_MISMATCH, "attn_q", replaced(kAttnQ, 1, "blk.0.attn_q.weight.lora_b", {16, 64}));
    expect(KEEL_E_FILE_FORMAT, "ranks", replaced(kAttnQ, 0, "blk.0.attn_q.weight.lora_a", {128, 8}));
    expect(KEEL_E_FILE_FORMAT, "attn_q", replaced(kAttnQ, 0, "blk.0.attn_q.weight.lora_a", {128, 16, 2}));
    expect(KEEL_E_FILE_FORMAT, "twice", extra("blk.0.attn_q.weight.lora_a", {128, 16}));
    expect(KEEL_E_FILE_LIMIT, "rank", [](AdapterSpec& s) {
        s.rank = 4097;
        s.slots = slot_bit(kAttnK);
    });
    expect(KEEL_E_FILE_FORMAT, "changes nothing", [](AdapterSpec& s) { s.slots = 0; });

    const AdapterBytes good = built([](AdapterSpec&) {});
    AdapterBytes cut = good.prefix(good.bytes.size() / 3);
    refusal(cut, KEEL_E_FILE_FORMAT);
    refusal(good.prefix(10), KEEL_E_FILE_FORMAT);
    const AdapterBytes* many[17];
    for (const AdapterBytes*& a : many) a = &good;
    keel_config c = config({});
    for (const AdapterBytes* a : many) parts_.push_back(keel_test::part(KEEL_PART_ADAPTER, &a->reader));
    c.parts = parts_.data();
    c.part_count = 17;
    keel_memory_plan plan = sized<keel_memory_plan>();
    EXPECT_EQ(KEEL_E_FILE_LIMIT, keel_plan(&file.reader, file.model, &c, &plan, nullptr));
    c.part_count = 16;
    EXPECT_EQ(KEEL_OK, keel_plan(&file.reader, file.model, &c, &plan, nullptr));
    const int option = 0;
    parts_[0].options = &option;
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_plan(&file.reader, file.model, &c, &plan, nullptr));
}

// A cache whose reader fails while it is opened is not used; everywhere else a part that fails is named.
TEST_F(Adapters, PartsWhoseReadersFailAreNamed) {
    synthesize("llama", "Q8_0");
    const InspectedFile file(path_);
    const AdapterBytes adapter = keel_test::random_adapter(file, {});
    const keel_test::WprojBytes cache(tools::encode_wproj_v2(keel_test::random_wproj(file, {}), 1));
    struct Failing {
        const std::vector<uint8_t>* bytes;
        uint32_t calls, fail_at;
    } sources[] = {{&cache.bytes, 0, UINT32_MAX}, {&adapter.bytes, 0, UINT32_MAX}};
    keel_reader readers[2];
    for (int i = 0; i < 2; ++i) {
        readers[i] = sized<keel_reader>();
        readers[i].size_bytes = sources[i].bytes->size();
        readers[i].user_data = &sources[i];
        readers[i].read_at = [](void* user, uint64_t offset, void* dst, size_t n) {
            auto* s = static_cast<Failing*>(user);
            if (s->calls++ == s->fail_at) return KEEL_E_FILE_READ;
            memcpy(dst, s->bytes->data() + offset, n);
            return KEEL_OK;
        };
    }
    keel_config c = config({});
    parts_ = {keel_test::part(KEEL_PART_WPROJ, &readers[0]), keel_test::part(KEEL_PART_ADAPTER, &readers[1])};
    c.parts = parts_.data();
    c.part_count = 2;
    keel_memory_plan plan = sized<keel_memory_plan>();
    check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
    const keel_test::Memory memory(plan);
    for (Failing& source : sources) {
        const std::string name = "config.parts[" + std::to_string(&source - sources) + "]";
        uint32_t named = 0;
        bool failed = true;
        for (source.fail_at = 0; failed; ++source.fail_at) {
            source.calls = 0;
            keel_error error = sized<keel_error>();
            keel_engine engine;
            const keel_status status = keel_engine_init(&file.reader, file.model, &c, memory.get(), &engine, &error);
            failed = source.calls > source.fail_at;
            if (status == KEEL_OK) {
                check(keel_engine_close(engine), "close");
                continue;
            }
            EXPECT_EQ(error.status, KEEL_E_FILE_READ);
            EXPECT_EQ(error.field, name) << error.reason;
            EXPECT_NE(strstr(error.reason, "the reader failed"), nullptr) << error.reason;
            ++named;
        }
        EXPECT_GT(named, 20u);
        source.fail_at = UINT32_MAX;
    }
}

}  // namespace
