// Context shift: tokens in the middle are forgotten, those behind move down and are as if they had been fed there.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <random>

#include "sdk/tools/files/synth.h"
#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");

keel_config config(keel_kv_format k = KEEL_KV_F32) {
    keel_config c = sized<keel_config>();
    c.context_tokens = 256;
    c.max_sessions = 2;
    c.threads = 1;
    c.activation = KEEL_ACTIVATION_F32;
    c.k_format = k;
    c.v_format = KEEL_KV_F32;
    c.backend = keel_test::OnBackend::backend();
    return c;
}
std::vector<int32_t> some_ids(size_t n, uint32_t seed = 3) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(3 + random() % 250);
    return ids;
}
keel_session_info get(keel_session s) {
    keel_session_info i = sized<keel_session_info>();
    check(keel_session_get(s, &i), "get");
    return i;
}

std::vector<float> logits_after(keel_test::Engine& engine, keel_session s, int32_t token) {
    check(keel_session_truncate(s, 200), "truncate");
    check(keel_session_feed(s, &token, 1, 0), "feed");
    keel_advance_result r = sized<keel_advance_result>();
    check(keel_advance(engine.handle(), &s, 1, 0, &r), "advance");
    const float* view;
    uint32_t n;
    check(keel_session_logits(s, 0, &view, &n), "logits");
    return {view, view + n};
}

class Shift : public keel_test::OnBackend {};
KEEL_ON_EVERY_BACKEND(Shift);

// With one layer K and V depend on a token and its position alone, so a shift is the same as never having fed them.
// Interleaved and NeoX pairs, and the frequencies of a windowed layer.
TEST_P(Shift, OneLayerIsAsIfTheTokensHadNeverBeen) {
    for (const char* architecture : {"llama", "qwen3", "gemma3", "glm4"}) {
        keel::tools::SynthSpec spec;
        spec.architecture = architecture;
        spec.layers = 1;
        spec.embedding = 64;
        spec.heads = 4;
        spec.kv_heads = 2;
        spec.head_dim = 16;
        spec.feed_forward = 64;
        spec.vocabulary = 512;
        spec.context = 512;
        spec.mix = "F32";
        if (spec.architecture == "gemma3") spec.rope_factor = 8;  // of layers without a window: this one has its own
        const std::string path = testing::TempDir() + "shift-" + std::to_string(getpid()) + ".gguf";
        keel::tools::synth_write(path, spec);
        for (const keel_kv_format format : {KEEL_KV_F32, KEEL_KV_F16}) {
            keel_test::Engine engine(path, config(format));
            const std::vector<int32_t> ids = some_ids(200);
            for (const auto& [from, to] :
                 {std::pair(0u, 64u), std::pair(7u, 8u), std::pair(33u, 150u), std::pair(64u, 199u)}) {
                std::vector<int32_t> kept(ids.begin(), ids.begin() + from);
                kept.insert(kept.end(), ids.begin() + to, ids.end());
                check(keel_session_truncate(engine.session(), 0), "truncate");
                engine.feed(std::vector<int32_t>(ids.begin(), ids.end() - 1));
                engine.advance();
                check(keel_session_shift(engine.session(), from, to), "shift");
                engine.feed({ids.back()});
                engine.advance();
                const std::vector<float> shifted(engine.row(0), engine.row(0) + engine.info().vocabulary);
                const keel_session_info info = get(engine.session());
                EXPECT_EQ(kept, std::vector<int32_t>(info.tokens, info.tokens + info.token_count));
                const keel_test::Logits fresh = engine.logits_for(kept);
                const float* expected = fresh.row(kept.size() - 1);
                float error = 0, largest = 0;
                for (uint32_t i = 0; i < fresh.vocabulary; ++i) {
                    error = std::max(error, std::fabs(shifted[i] - expected[i]));
                    largest = std::max(largest, std::fabs(expected[i]));
                }
                EXPECT_LT(error, (format == KEEL_KV_F32 ? 1e-5f : 4e-3f) * largest)
                    << architecture << " " << from << ".." << to << " format " << format;
            }
        }
        std::remove(path.c_str());
    }
}

TEST_P(Shift, AConversationGoesOnBeyondTheContext) {
    keel_config c = config(KEEL_KV_F16);
    c.kv_pages = 4;
    keel_test::Engine engine(kBooks, c);
    engine.feed(engine.tokenize("It was a dark night", KEEL_TOKENIZE_BOS));
    for (int i = 0; i < 600; ++i) {
        engine.advance();
        const int32_t token = engine.sample();
        if (get(engine.session()).token_count == 256) {
            int32_t id = token;
            EXPECT_EQ(KEEL_E_CONTEXT_FULL, keel_session_feed(engine.session(), &id, 1, 0));
            check(keel_session_shift(engine.session(), 8, 136), "shift");
        }
        engine.feed({token});
    }
    EXPECT_LT(get(engine.session()).token_count, 257u);
    EXPECT_EQ(get(engine.session()).kv_pages, (get(engine.session()).computed_tokens + 63) / 64);
}

// Drawn tokens, held text and pending tokens move with their positions; a shifted session is saved and restored.
TEST_P(Shift, BooksAreKept) {
    keel_test::Engine engine(kBooks, config(KEEL_KV_F16));
    engine.feed(some_ids(70));
    for (int i = 0; i < 60; ++i) {
        engine.advance();
        engine.feed({engine.sample()});
    }
    engine.advance();
    keel_text text = sized<keel_text>();
    check(keel_session_text(engine.session(), 3 + 0xf0, &text), "text");
    engine.feed({3 + 0xf0});
    engine.feed({40, 41});
    check(keel_session_shift(engine.session(), 66, 90), "shift");
    EXPECT_EQ(109u, get(engine.session()).token_count);
    EXPECT_EQ(40u, get(engine.session()).sampled_tokens);
    check(keel_session_truncate(engine.session(), 107), "truncate");  // behind the half character
    for (const int byte : {0x9f, 0x98}) check(keel_session_text(engine.session(), 3 + byte, &text), "text");
    check(keel_session_text(engine.session(), 3 + 0x80, &text), "text");
    EXPECT_EQ("\xf0\x9f\x98\x80", std::string(text.data, text.bytes));
    engine.advance();
    uint64_t bytes = 0;
    check(keel_session_save_bytes(engine.session(), &bytes), "bytes");
    std::vector<uint8_t> blob(bytes);
    check(keel_session_save(engine.session(), blob.data(), bytes, &bytes), "save");
    EXPECT_EQ(KEEL_OK, keel_session_restore(engine.session(), blob.data(), bytes, nullptr));
}

// A grammar's state is that of the tokens from a position on: they move with it, and none of them goes.
TEST_P(Shift, GrammarsMoveAlong) {
    static const char kGrammar[] = "root ::= [a-z ]*";
    keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(kGrammar, sizeof kGrammar - 1, &reader), "reader");
    const keel_part part = keel_test::part(KEEL_PART_GRAMMAR, &reader);
    keel_config c = config(KEEL_KV_F16);
    c.parts = &part;
    c.part_count = 1;
    keel_test::Engine engine(kBooks, c);
    engine.feed(some_ids(100));
    check(keel_session_set_grammar(engine.session(), KEEL_GRAMMAR_NEXT), "grammar");
    for (int i = 0; i < 10; ++i) {
        engine.advance();
        engine.feed({engine.sample()});
    }
    engine.advance();
    EXPECT_EQ(KEEL_E_STATE, keel_session_shift(engine.session(), 50, 101));
    EXPECT_EQ(KEEL_OK, keel_session_shift(engine.session(), 105, 105)) << "nothing is forgotten";
    EXPECT_EQ(KEEL_OK, keel_session_shift(engine.session(), 50, 100));
    EXPECT_EQ(KEEL_E_STATE, keel_session_shift(engine.session(), 49, 51));  // the grammar's begin at 50 now
    engine.feed({engine.sample()});
}

TEST_P(Shift, Refusals) {
    keel_test::Engine engine(kBooks, config(KEEL_KV_F16));
    engine.feed(some_ids(200));
    engine.advance();
    engine.feed({5, 6});
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_shift(engine.session(), 10, 201));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_shift(engine.session(), 10, 9));
    EXPECT_EQ(KEEL_OK, keel_session_shift(engine.session(), 10, 10));
    EXPECT_EQ(202u, get(engine.session()).token_count);
    keel_session fork;
    check(keel_session_fork(engine.session(), &fork), "fork");
    // Pages 0 to 2 are shared: refused before the page that is not full is copied.
    const auto free_pages = [&] {
        keel_stats stats = sized<keel_stats>();
        check(keel_engine_stats(engine.handle(), &stats), "stats");
        return stats.kv_pages_free;
    };
    const uint32_t free_before = free_pages();
    EXPECT_EQ(KEEL_E_STATE, keel_session_shift(engine.session(), 10, 100));
    EXPECT_EQ(free_before, free_pages());
    // Behind them; the page that is not full is shared as well, and is copied.
    const std::vector<float> row_before = logits_after(engine, fork, 7);
    check(keel_session_close(fork), "close");
    check(keel_session_fork(engine.session(), &fork), "fork");
    EXPECT_EQ(KEEL_OK, keel_session_shift(engine.session(), 193, 195));
    EXPECT_EQ(row_before, logits_after(engine, fork, 7));
    check(keel_session_close(fork), "close");
    uint32_t evicted = 0;
    check(keel_session_evict(engine.session(), 64, 128, &evicted), "evict");
    EXPECT_EQ(KEEL_E_STATE, keel_session_shift(engine.session(), 10, 20));
    EXPECT_EQ(KEEL_OK, keel_session_shift(engine.session(), 130, 140));
    for (const bool coarse : {true, false}) {
        keel_config c = config(coarse ? KEEL_KV_Q8_0 : KEEL_KV_F16);
        if (!coarse) c.kv_recent_tokens = 64;
        keel_test::Engine other(kBooks, c);
        other.feed(some_ids(100));
        other.advance();
        EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_session_shift(other.session(), 10, 20));
    }
    keel_config c = config(KEEL_KV_F16);
    c.kv_sink_tokens = 4;
    keel_test::Engine sinks(kBooks, c);
    sinks.feed(some_ids(100));
    sinks.advance();
    EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_session_shift(sinks.session(), 3, 20));
    EXPECT_EQ(KEEL_OK, keel_session_shift(sinks.session(), 4, 20));
}

}  // namespace
