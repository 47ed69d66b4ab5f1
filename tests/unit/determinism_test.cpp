// The first promise of sdk/NUMERICS.md: one sequence of tokens and logits, bit for bit, whatever happens on the way.
// A reference run (one column at a time, one thread, no budget) fixes the logits of every position and the tokens
// drawn. Then random walks of {chunk size, time budget, threads, truncate and redo, fork, save and restore, batch
// neighbours} have to meet the same bits wherever they look. Every kernel set is held to the same reference, so they
// also equal each other.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "kernels/cpu/kernel_set.h"
#include "sdk/core/hash.h"
#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/unit/kernels_test_support.h"

namespace {

using keel_test::AsyncBackend;
using keel_test::BackendKind;
using keel_test::sized;

struct Case {
    const char* name;
    const char* file;  // below the source tree, or below the shared data when `shared`
    bool shared;
    keel_activation activation;
    keel_kv_format k, v;
    uint32_t prompt_tokens, drawn_tokens;
    int walks;
    uint32_t sinks = 0, recent = 0;
};

keel_sampling sampling() {
    keel_sampling s = sized<keel_sampling>();
    s.temperature = 0.8f;
    s.top_k = 50;
    s.repetition_penalty = 1.1f;
    s.seed = 7;
    return s;
}

uint64_t hash_floats(const float* v, size_t n) {
    return keel::hash64(v, n * sizeof(float));
}

struct Reference {
    std::vector<int32_t> tokens;           // prompt, then drawn
    std::vector<uint64_t> logits, hidden;  // per position
};

Reference run_reference(const std::string& path, const Case& c, keel_cpu cpu) {
    keel_config config = sized<keel_config>();
    config.chunk_tokens = 1;
    config.threads = 1;
    config.activation = c.activation;
    config.k_format = c.k;
    config.v_format = c.v;
    config.kv_sink_tokens = c.sinks;
    config.kv_recent_tokens = c.recent;
    config.context_tokens = c.prompt_tokens + c.drawn_tokens + 70;
    config.cpu = cpu;
    keel_test::Engine engine(path, config);
    const keel_sampling s = sampling();
    keel_test::check(keel_session_set_sampling(engine.session(), &s), "set_sampling");
    Reference r;
    std::mt19937 random(5);
    for (uint32_t i = 0; i < c.prompt_tokens; ++i)
        r.tokens.push_back(static_cast<int32_t>(random() % engine.info().vocabulary));
    for (uint32_t i = 0; i < c.prompt_tokens + c.drawn_tokens; ++i) {
        if (i >= c.prompt_tokens) r.tokens.push_back(engine.sample());
        engine.feed({r.tokens[i]});
        engine.advance();
        r.logits.push_back(hash_floats(engine.row(0), engine.info().vocabulary));
        const float* hidden;
        uint32_t n;
        keel_test::check(keel_session_hidden(engine.session(), 0, &hidden, &n), "hidden");
        r.hidden.push_back(hash_floats(hidden, n));
    }
    return r;
}

// One engine in a random configuration; a tracked session follows the reference while neighbours do as they like.
class Walk {
  public:
    Walk(const std::string& path, const Case& c, keel_cpu cpu, BackendKind backend, const Reference& r, uint32_t seed)
        : r_(r), c_(c), random_(seed), engine_(path, config(cpu, backend)) {
        session_ = engine_.session();
        const keel_sampling s = sampling();
        keel_test::check(keel_session_set_sampling(session_, &s), "set_sampling");
    }

    void run() {
        uint32_t looked = 0;
        // Wander, then insist on reaching the end.
        for (int i = 0; i < 60 || position() < r_.tokens.size(); ++i) {
            switch (i < 60 ? pick(9) : 0) {
                case 0:
                case 1:
                case 2:
                case 3:
                    feed();
                    break;
                case 4:
                    truncate();
                    break;
                case 5:
                    fork();
                    break;
                case 6:
                    save_restore();
                    break;
                case 7:
                    neighbour();
                    break;
                case 8:
                    keel_cancel(session_);
                    break;
            }
            advance();
            looked += look();
            if (testing::Test::HasFailure()) return;
        }
        EXPECT_GT(looked, 5u);
    }

  private:
    keel_config config(keel_cpu cpu, BackendKind backend) {
        keel_config c = sized<keel_config>();
        const uint32_t chunks[] = {1, 2, 3, 5, 8, 13, 17, 32, 64, 100, 128};
        c.chunk_tokens = chunks[pick(11)];
        c.threads = 1 + pick(3);
        c.max_sessions = 4;
        c.logits_rows = 1 + pick(3) * 4;
        c.activation = c_.activation;
        c.k_format = c_.k;
        c.v_format = c_.v;
        c.kv_sink_tokens = c_.sinks;
        c.kv_recent_tokens = c_.recent;
        c.kv_rollback_tokens = 1 + pick(200);
        c.context_tokens = c_.prompt_tokens + c_.drawn_tokens + 70;
        c.tile_us = 1 + pick(300);
        c.cpu = cpu;
        const keel_weights modes[] = {KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_MAP, KEEL_WEIGHTS_REPACK};
        c.weights = modes[pick(4)];
        if (backend == BackendKind::kAsync) {
            AsyncBackend::reset();
            AsyncBackend& async = AsyncBackend::get();
            async.lag_polls = pick(4);
            async.ranges_per_poll = 1 + pick(3000);
            async.ops_per_enqueue = 1 + pick(300);
            async.drain_drops = pick(2);
            c.backend = AsyncBackend::table();
        }
        return c;
    }
    uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
    keel_session_info info() {
        keel_session_info i = sized<keel_session_info>();
        keel_test::check(keel_session_get(session_, &i), "session_get");
        return i;
    }
    uint32_t position() { return info().computed_tokens; }

    void feed() {
        const uint32_t at = info().token_count, left = static_cast<uint32_t>(r_.tokens.size()) - at;
        if (left == 0 || in_step_) return;
        const uint32_t n = pick(3) == 0 ? left : 1 + pick(left < 20 ? left : 20);
        all_ = pick(3) == 0;
        keel_status status = keel_session_feed(session_, r_.tokens.data() + at, n, all_ ? KEEL_FEED_ALL_LOGITS : 0);
        // Tokens that a cancel left pending keep their flags.
        if (status == KEEL_E_STATE)
            status = keel_session_feed(session_, r_.tokens.data() + at, n, all_ ? 0 : KEEL_FEED_ALL_LOGITS);
        keel_test::check(status, "feed");
    }
    void truncate() {
        const keel_status status = keel_session_truncate(session_, pick(info().token_count + 1));
        if (status == KEEL_E_STATE && c_.recent) return;  // further back than the recent rows reach
        keel_test::check(status, "truncate");
        in_step_ = false;
    }
    void fork() {
        if (in_step_) return;
        keel_session copy;
        const keel_status status = keel_session_fork(session_, &copy);
        if (status == KEEL_E_SLOTS_FULL || status == KEEL_E_KV_FULL) return drop_neighbours();
        keel_test::check(status, "fork");
        // Half the time the copy goes on and the original wanders off over the shared pages.
        if (pick(2)) std::swap(copy, session_);
        neighbours_.push_back(copy);
    }
    void save_restore() {
        if (in_step_) return;
        uint64_t bytes = 0, written = 0;
        keel_test::check(keel_session_save_bytes(session_, &bytes), "save_bytes");
        std::vector<uint8_t> blob(bytes);
        keel_test::check(keel_session_save(session_, blob.data(), bytes, &written), "save");
        ASSERT_EQ(bytes, written);
        keel_session fresh;
        if (keel_session_open(engine_.handle(), nullptr, &fresh) != KEEL_OK) return drop_neighbours();
        keel_error error = sized<keel_error>();
        const keel_status status = keel_session_restore(fresh, blob.data(), bytes, &error);
        if (status == KEEL_E_KV_FULL) {
            keel_test::check(keel_session_close(fresh), "close");
            return drop_neighbours();
        }
        keel_test::check(status, "restore", &error);
        keel_test::check(keel_session_close(session_), "close");
        session_ = fresh;
        // Of several rows only the newest is saved; look() reads rows by position, and needs to know.
        all_ = false;
    }
    void neighbour() {
        if (in_step_) return;
        keel_session s;
        if (neighbours_.empty() && keel_session_open(engine_.handle(), nullptr, &s) == KEEL_OK)
            neighbours_.push_back(s);
        if (neighbours_.empty()) return;
        std::vector<int32_t> ids(1 + pick(40));
        for (int32_t& id : ids) id = static_cast<int32_t>(random_() % engine_.info().vocabulary);
        keel_session_info i = sized<keel_session_info>();
        keel_test::check(keel_session_get(neighbours_[0], &i), "get");
        if (pick(2)) {
            const keel_status status = keel_session_truncate(neighbours_[0], pick(i.token_count + 1));
            if (status != KEEL_E_STATE || !c_.recent) keel_test::check(status, "truncate");
        }
        keel_session_feed(neighbours_[0], ids.data(), static_cast<uint32_t>(ids.size()),
                          0);  // may be full: then it is silent
    }
    void drop_neighbours() {
        for (keel_session s : neighbours_) keel_test::check(keel_session_close(s), "close neighbour");
        neighbours_.clear();
        in_step_ = false;
    }

    void advance() {
        std::vector<keel_session> batch = {session_};
        batch.insert(batch.end(), neighbours_.begin(), neighbours_.end());
        if (pick(2)) std::swap(batch.front(), batch.back());
        std::vector<keel_advance_result> results(batch.size(), sized<keel_advance_result>());
        const uint64_t budgets[] = {0, 1, 30, 200, 1000};
        const keel_status status = keel_advance(engine_.handle(), batch.data(), static_cast<uint32_t>(batch.size()),
                                                budgets[pick(5)], results.data());
        in_step_ = status == KEEL_AGAIN;
        if (status == KEEL_E_KV_FULL) return drop_neighbours();
        if (status != KEEL_E_CANCELLED && status != KEEL_AGAIN) keel_test::check(status, "advance");
    }

    // Compares what can be seen now with the reference; returns how many rows that was.
    uint32_t look() {
        const keel_session_info i = info();
        if (in_step_) return 0;
        uint32_t rows = 0;
        const float* view;
        while (keel_session_logits(session_, rows, &view, nullptr) == KEEL_OK) ++rows;
        for (uint32_t row = 0; row < rows; ++row) {
            const uint32_t at = i.computed_tokens - rows + row;
            keel_test::check(keel_session_logits(session_, row, &view, nullptr), "logits");
            EXPECT_EQ(hash_floats(view, engine_.info().vocabulary), r_.logits[at]) << "logits at position " << at;
            uint32_t n;
            keel_test::check(keel_session_hidden(session_, row, &view, &n), "hidden");
            EXPECT_EQ(hash_floats(view, n), r_.hidden[at]) << "hidden at position " << at;
        }
        const bool newest = rows && i.computed_tokens == i.token_count;
        if (newest && i.token_count >= c_.prompt_tokens && i.token_count < r_.tokens.size()) {
            int32_t token = -1;
            keel_test::check(keel_session_sample(session_, &token), "sample");
            EXPECT_EQ(token, r_.tokens[i.token_count]) << "token drawn at position " << i.token_count;
        }
        return rows;
    }

    const Reference& r_;
    const Case& c_;
    std::mt19937 random_;
    keel_test::Engine engine_;
    keel_session session_{};
    std::vector<keel_session> neighbours_;
    bool in_step_ = false, all_ = false;
};

class Determinism : public testing::TestWithParam<std::tuple<Case, BackendKind>> {};

TEST_P(Determinism, EveryWayGivesTheSameBits) {
    const Case& c = std::get<0>(GetParam());
    const BackendKind backend = std::get<1>(GetParam());
    std::string path = keel_test::source_path(c.file);
    if (c.shared) {
        KEEL_SHARED_OR_SKIP(found, c.file);
        path = found;
    }
    static std::map<std::string, Reference> references;  // by case, for all backends
    if (!references.count(c.name)) references[c.name] = run_reference(path, c, KEEL_CPU_SCALAR);
    const Reference& reference = references[c.name];
    for (uint32_t isa = keel::kernels::kScalar; isa < keel::kernels::kIsaLimit; ++isa) {
        const keel::kernels::KernelSet* set = keel::find_kernel_set(isa);
        if (!set) continue;
        const keel_cpu cpu = static_cast<keel_cpu>(isa);
        const int walks = backend == BackendKind::kCpu ? c.walks : (c.walks + 2) / 3;
        for (int walk = 0; walk < walks; ++walk) {
            SCOPED_TRACE(std::string(set->name) + " walk " + std::to_string(walk));
            Walk(path, c, cpu, backend, reference, static_cast<uint32_t>(walk) * 2 + cpu).run();
            EXPECT_EQ(AsyncBackend::get().refused, 0u) << "rules of sdk/backend/backend.h were broken";
            if (HasFailure()) return;
        }
    }
}

constexpr keel_activation kQ8 = KEEL_ACTIVATION_Q8, kF32 = KEEL_ACTIVATION_F32, kBF16 = KEEL_ACTIVATION_BF16;
INSTANTIATE_TEST_SUITE_P(
    Models, Determinism,
    testing::Combine(
        testing::Values(
            Case{"books_f16", "samples/models/books-7m-f16.gguf", false, kQ8, KEEL_KV_F16, KEEL_KV_F16, 90, 12, 2},
            Case{"books_f16_pairs", "samples/models/books-7m-f16.gguf", false, kBF16, KEEL_KV_F16, KEEL_KV_F16, 90, 12,
                 1},
            Case{"smollm2_q8_0", "tests/data/architectures/smollm2-q8_0.gguf", false, kQ8, KEEL_KV_F16, KEEL_KV_F16,
                 600, 20, 12},
            Case{"books_tcq", "samples/models/books-7m-f16.gguf", false, kQ8, KEEL_KV_TCQ_4, KEEL_KV_TCQ_3, 90, 12, 1},
            Case{"books_e8_q4", "samples/models/books-7m-f16.gguf", false, kQ8, KEEL_KV_E8_4, KEEL_KV_Q4_0, 90, 12, 1},
            Case{"smollm2_tcq", "tests/data/architectures/smollm2-q8_0.gguf", false, kQ8, KEEL_KV_TCQ_2, KEEL_KV_TCQ_4,
                 600, 20, 2},
            Case{"smollm2_e8_fp8", "tests/data/architectures/smollm2-q8_0.gguf", false, kQ8, KEEL_KV_E8_8,
                 KEEL_KV_FP8_E4M3, 150, 20, 2},
            Case{"qwen2_bias_removed", "tests/data/architectures/qwen2-mqa-tied.gguf", false, kQ8, KEEL_KV_TCQ_3,
                 KEEL_KV_E8_3, 150, 20, 3},
            Case{"gemma3_windows_tcq", "tests/data/architectures/gemma3.gguf", false, kQ8, KEEL_KV_TCQ_4, KEEL_KV_E8_5,
                 140, 20, 2},
            Case{"smollm2_sinks_recent", "tests/data/architectures/smollm2-q8_0.gguf", false, kQ8, KEEL_KV_TCQ_2,
                 KEEL_KV_TCQ_2, 600, 20, 3, 4, 40},
            Case{"gemma3_sinks_recent", "tests/data/architectures/gemma3.gguf", false, kQ8, KEEL_KV_TCQ_3, KEEL_KV_E8_4,
                 140, 20, 2, 64, 1},
            Case{"smollm2_q8_0_exact", "tests/data/architectures/smollm2-q8_0.gguf", false, kF32, KEEL_KV_F32,
                 KEEL_KV_F32, 150, 20, 6},
            Case{"gemma3_windows", "tests/data/architectures/gemma3.gguf", false, kQ8, KEEL_KV_F16, KEEL_KV_F16, 140,
                 20, 8},
            Case{"gemma2_softcaps", "tests/data/architectures/gemma2.gguf", false, kQ8, KEEL_KV_F32, KEEL_KV_F32, 140,
                 20, 6},
            Case{"phi3_fused", "tests/data/architectures/phi3.gguf", false, kQ8, KEEL_KV_F16, KEEL_KV_F16, 140, 20, 6},
            Case{"wired", "tests/data/wired/wired.gguf", false, kQ8, KEEL_KV_F16, KEEL_KV_F16, 140, 20, 3},
            Case{"wired_tcq", "tests/data/wired/wired.gguf", false, kQ8, KEEL_KV_TCQ_3, KEEL_KV_E8_4, 140, 20, 2},
            Case{"q4_k_m", "conformance/models/llama-gqa-q4_k_m.gguf", true, kQ8, KEEL_KV_F16, KEEL_KV_F16, 90, 12, 3},
            Case{"iq4_xs", "conformance/models/llama-gqa-iq4_xs.gguf", true, kQ8, KEEL_KV_F16, KEEL_KV_F16, 70, 8, 2}),
        testing::Values(BackendKind::kCpu, BackendKind::kAsync)),
    [](const auto& info) {
        return std::string(std::get<0>(info.param).name) +
               (std::get<1>(info.param) == BackendKind::kCpu ? "_cpu" : "_async");
    });

}  // namespace
