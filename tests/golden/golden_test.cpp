// Golden hashes: the bits that Keel computes today, as a table. Every case runs a fixed scenario on a small model, on
// every kernel set of this machine, and hashes what a caller sees: the logits of every position, the tokens drawn,
// log-probabilities. The hash has to be the one in hashes.txt, on each set. A case says what it covers: an
// architecture, a weight type, a KV format, the low-rank variant, sessions that share a batch, pages or a saved state.
//
// A table that has to change is a change of the numerics contract (sdk/NUMERICS.md), or of a model that a case uses.
//     KEEL_GOLDEN_WRITE=tests/golden/hashes.txt build/release/tests/keel_golden_tests
// writes it again: rows of cases that ran, with the hash all sets agree on; rows of cases filtered out stay as they
// are.
//
// Nothing here depends on a random library or on libm, except that the models of "model/..." take their weights from
// sdk's synth writer; their bytes are in the table too, so that a drift of the writer is told from a drift of what is
// computed.
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <sstream>

#include "kernels/formats/kv_formats.h"
#include "sdk/core/hash.h"
#include "sdk/tools/files/synth.h"
#include "tests/kv_profile_builder.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel::tools::SynthSpec;
using keel_test::check;
using keel_test::Engine;
using keel_test::InspectedFile;
using keel_test::sized;

// ---- cases ----

enum Scenario {
    kAlone,    // one session: prompt in pieces, greedy tokens, drawn tokens
    kBatch,    // two sessions of different lengths in every call, in slices of time
    kRestore,  // saved after the prompt, restored into another session, both go on
    kFork,     // a copy and its origin go on over shared pages; truncation; eviction
    kLowRank   // drafted in the low-rank variant, computed again in the dense one; both variants in one call
};

struct Model {
    std::string name;
    std::string file;  // below the source tree; empty: written from `spec`
    SynthSpec spec;
    bool cpu_only = false;  // other backends refuse it
};

void PrintTo(const Model& m, std::ostream* out) {
    *out << m.name;
}

using MakeBytes = std::function<std::vector<uint8_t>(const InspectedFile&)>;

struct Case {
    std::string name;
    Model model;
    Scenario scenario = kAlone;
    uint32_t prompt_tokens = 150;
    keel_activation activation = KEEL_ACTIVATION_DEFAULT;
    keel_weights weights = KEEL_WEIGHTS_DEFAULT;
    keel_kv_format k = KEEL_KV_DEFAULT, v = KEEL_KV_DEFAULT;
    uint32_t sink_tokens = 0, recent_tokens = 0;
    bool default_sinks = false;
    std::string profile_file;            // below the source tree
    MakeBytes make_profile, make_wproj;  // or made for the model
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
}

// ---- the API: all that this test uses of it beside tests/test_engine.h ----

// One engine in the configuration of a case, its sessions, and a hash of what they show.
class Recording {
  public:
    Recording(const Case& c, const std::string& model_path, keel_cpu cpu) {
        keel_config config = sized<keel_config>();
        config.cpu = cpu;
        config.threads = 2;
        config.max_sessions = 2;
        config.context_tokens = c.prompt_tokens + kTailTokens;
        config.chunk_tokens = 128;
        config.logits_rows = kLongestPiece;
        config.activation = c.activation;
        config.weights = c.weights;
        config.k_format = c.k;
        config.v_format = c.v;
        config.kv_sink_tokens = c.default_sinks ? 0 : c.sink_tokens ? c.sink_tokens : KEEL_KV_NO_SINKS;
        config.kv_recent_tokens = c.recent_tokens;
        const InspectedFile file(model_path);
        if (!c.profile_file.empty()) {
            const std::vector<char> bytes = keel_test::read_file(keel_test::source_path(c.profile_file));
            profile_.assign(bytes.begin(), bytes.end());
        }
        if (c.make_profile) profile_ = c.make_profile(file);
        if (c.make_wproj) wproj_ = c.make_wproj(file);
        std::vector<keel_part> parts;
        if (!profile_.empty())
            parts.push_back(keel_test::part(KEEL_PART_KV_PROFILE, reader_over(profile_, &profile_reader_)));
        if (!wproj_.empty()) parts.push_back(keel_test::part(KEEL_PART_WPROJ, reader_over(wproj_, &wproj_reader_)));
        config.parts = parts.data();
        config.part_count = static_cast<uint32_t>(parts.size());
        engine_ = std::make_unique<Engine>(model_path, config);
        if (c.make_wproj && engine_->plan().low_rank_factors == 0)
            throw keel_test::Error("the W_proj cache is not used", engine_->plan().part_status);
    }
    static constexpr uint32_t kTailTokens = 24, kLongestPiece = 95;

    keel_session first() const { return engine_->session(); }
    uint32_t vocabulary() const { return engine_->info().vocabulary; }
    uint64_t hash() const { return keel::hash_finish(state_); }

    keel_session open() {
        keel_session s;
        check(keel_session_open(engine_->handle(), nullptr, &s), "open");
        return s;
    }
    keel_session fork(keel_session s) {
        keel_session copy;
        check(keel_session_fork(s, &copy), "fork");
        return copy;
    }
    keel_session restored(keel_session s) {
        uint64_t bytes = 0;
        check(keel_session_save_bytes(s, &bytes), "save_bytes");
        std::vector<uint8_t> blob(bytes);
        check(keel_session_save(s, blob.data(), bytes, &bytes), "save");
        const keel_session other = open();
        check(keel_session_restore(other, blob.data(), blob.size(), nullptr), "restore");
        return other;
    }
    void truncate(keel_session s, uint32_t tokens) { check(keel_session_truncate(s, tokens), "truncate"); }
    void evict(keel_session s, uint32_t from, uint32_t to) {
        uint32_t evicted = 0;
        check(keel_session_evict(s, from, to, &evicted), "evict");
        record(&evicted, sizeof evicted);
    }
    void set_low_rank(keel_session s, bool low_rank) {
        check(keel_session_set_variant(s, low_rank ? KEEL_VARIANT_LOW_RANK : KEEL_VARIANT_DENSE), "set_variant");
    }
    uint32_t tokens(keel_session s) {
        keel_session_info info = sized<keel_session_info>();
        check(keel_session_get(s, &info), "get");
        return info.token_count;
    }
    void feed(keel_session s, const int32_t* ids, size_t count, bool all_logits = false) {
        check(keel_session_feed(s, ids, static_cast<uint32_t>(count), all_logits ? KEEL_FEED_ALL_LOGITS : 0), "feed");
    }
    void feed(keel_session s, const std::vector<int32_t>& ids) { feed(s, ids.data(), ids.size()); }

    // Computes all that is pending; with a budget in slices of time.
    void compute(const std::vector<keel_session>& sessions, uint64_t budget_us = 0) {
        std::vector<keel_advance_result> results(sessions.size(), sized<keel_advance_result>());
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN)
            status = keel_advance(engine_->handle(), sessions.data(), static_cast<uint32_t>(sessions.size()), budget_us,
                                  results.data());
        check(status, "advance");
    }
    // Computes pieces with the logits of every position, which are recorded.
    void compute_all_rows(keel_session s, uint32_t count) {
        while (count > 0) {
            keel_advance_result result = sized<keel_advance_result>();
            check(keel_advance(engine_->handle(), &s, 1, 0, &result), "advance");
            const uint32_t fresh = count - result.pending_tokens;
            if (fresh == 0 || fresh > result.logits_rows)
                throw keel_test::Error("a step without its logits", result.status);
            for (uint32_t row = result.logits_rows - fresh; row < result.logits_rows; ++row) record_row(s, row);
            count = result.pending_tokens;
        }
    }
    // The newest row of a session, its hidden state and its most probable tokens.
    void record_newest(keel_session s) {
        uint32_t rows = 0, count = 0;
        const float* view = nullptr;
        while (keel_session_logits(s, rows, &view, nullptr) == KEEL_OK) ++rows;
        record_row(s, rows - 1);
        check(keel_session_hidden(s, rows - 1, &view, &count), "hidden");
        record(view, count * sizeof(float));
        int32_t ids[8];
        float logprobs[8];
        check(keel_session_top_logprobs(s, 8, ids, logprobs), "top_logprobs");
        record(ids, sizeof ids);
        record(logprobs, sizeof logprobs);
    }
    // Draws a token and feeds it.
    void draw(keel_session s) {
        int32_t token = -1;
        check(keel_session_sample(s, &token), "sample");
        record(&token, sizeof token);
        feed(s, &token, 1);
    }
    void set_sampling(keel_session s) {
        static const int32_t kBiased[] = {3, 200}, kExcluded[] = {7};
        static const float kBias[] = {0.5f, -0.25f};
        keel_sampling sampling = sized<keel_sampling>();
        sampling.temperature = 0.9f;
        sampling.top_k = 60;
        sampling.top_p = 0.98f;
        sampling.min_p = 0.001f;
        sampling.typical_p = 0.99f;
        sampling.repetition_penalty = 1.1f;
        sampling.frequency_penalty = 0.1f;
        sampling.presence_penalty = 0.05f;
        sampling.seed = 11;
        sampling.bias_ids = kBiased;
        sampling.bias_values = kBias;
        sampling.bias_count = 2;
        sampling.excluded_ids = kExcluded;
        sampling.excluded_count = 1;
        check(keel_session_set_sampling(s, &sampling), "set_sampling");
    }

  private:
    static const keel_reader* reader_over(const std::vector<uint8_t>& bytes, keel_reader* reader) {
        check(keel_reader_from_memory(bytes.data(), bytes.size(), reader), "reader");
        return reader;
    }
    void record(const void* data, size_t bytes) {
        state_ = keel::hash_update(state_, static_cast<const char*>(data), bytes);
    }
    void record_row(keel_session s, uint32_t row) {
        const float* view = nullptr;
        uint32_t count = 0;
        check(keel_session_logits(s, row, &view, &count), "logits");
        record(view, count * sizeof(float));
    }

    std::vector<uint8_t> profile_, wproj_;
    keel_reader profile_reader_ = sized<keel_reader>(), wproj_reader_ = sized<keel_reader>();
    std::unique_ptr<Engine> engine_;
    uint64_t state_ = keel::kHashSeed;
};

// ---- scenarios ----

std::vector<int32_t> some_ids(uint32_t count, uint32_t vocabulary, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
    return ids;
}

// Pieces that end before, at and behind edges of pages (64 positions) and spans (512).
void prompt_in_pieces(Recording& run, keel_session s, const std::vector<int32_t>& ids) {
    constexpr uint32_t kPieces[] = {1, 62, 3, 17, 64, 33, 7, Recording::kLongestPiece};
    size_t at = 0;
    for (size_t i = 0; at < ids.size(); ++i) {
        const size_t count = std::min<size_t>(kPieces[i % std::size(kPieces)], ids.size() - at);
        run.feed(s, ids.data() + at, count, true);
        run.compute_all_rows(s, static_cast<uint32_t>(count));
        at += count;
    }
}

void decode(Recording& run, const std::vector<keel_session>& sessions, uint32_t steps, uint64_t budget_us = 0) {
    for (uint32_t i = 0; i < steps; ++i) {
        for (const keel_session s : sessions) run.draw(s);
        run.compute(sessions, budget_us);
        for (const keel_session s : sessions) run.record_newest(s);
    }
}

void alone(Recording& run, const std::vector<int32_t>& ids) {
    prompt_in_pieces(run, run.first(), ids);
    decode(run, {run.first()}, 12);
    run.set_sampling(run.first());
    decode(run, {run.first()}, 4);
}

void batch(Recording& run, const std::vector<int32_t>& ids) {
    const keel_session a = run.first(), b = run.open();
    run.set_sampling(b);
    run.feed(a, ids);
    run.feed(b, some_ids(37, run.vocabulary(), 2));
    run.compute({a, b}, 30);
    decode(run, {a, b}, 5);
    run.truncate(b, 20);
    run.feed(b, some_ids(90, run.vocabulary(), 3));  // a whole prompt beside a token of the neighbour
    run.draw(a);
    run.compute({b, a});
    decode(run, {b, a}, 4, 30);
}

void restore(Recording& run, const std::vector<int32_t>& ids) {
    run.set_sampling(run.first());
    run.feed(run.first(), ids);
    run.compute({run.first()});
    const keel_session other = run.restored(run.first());
    run.record_newest(other);
    decode(run, {other}, 4);
    decode(run, {run.first(), other}, 4);
}

void fork(Recording& run, const std::vector<int32_t>& ids) {
    const keel_session origin = run.first();
    run.feed(origin, ids);
    run.compute({origin});
    const keel_session copy = run.fork(origin);
    run.set_sampling(copy);
    decode(run, {origin, copy}, 6);
    run.truncate(origin, 70);  // inside a page that the copy uses
    prompt_in_pieces(run, origin, some_ids(70, run.vocabulary(), 4));
    run.evict(copy, 0, 128);
    decode(run, {origin, copy}, 4);
}

void low_rank(Recording& run, const std::vector<int32_t>& ids) {
    const keel_session a = run.first(), b = run.open();
    run.set_low_rank(a, true);
    prompt_in_pieces(run, a, ids);
    const uint32_t known = run.tokens(a);
    decode(run, {a}, 5);
    run.truncate(a, known);
    run.set_low_rank(a, false);
    run.feed(a, some_ids(5, run.vocabulary(), 5));
    run.compute({a});
    run.record_newest(a);
    run.set_low_rank(a, true);
    run.feed(b, some_ids(37, run.vocabulary(), 6));
    run.draw(a);
    run.compute({a, b});
    decode(run, {a, b}, 4);
}

void play(Recording& run, const Case& c) {
    const std::vector<int32_t> ids = some_ids(c.prompt_tokens, run.vocabulary(), 1);
    switch (c.scenario) {
        case kAlone:
            return alone(run, ids);
        case kBatch:
            return batch(run, ids);
        case kRestore:
            return restore(run, ids);
        case kFork:
            return fork(run, ids);
        case kLowRank:
            return low_rank(run, ids);
    }
}

// ---- models, profiles and caches ----

constexpr const char* kWeightTypes[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1",   "Q5_0",   "Q5_1", "Q8_0", "Q2_K",
                                        "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "WT2",  "WT3"};
constexpr const char* kMixes[] = {"Q3_K_M", "Q4_K_M", "Q5_K_M"};
constexpr const char* kArchitectures[] = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "glm4", "keel-wired"};

Model data_model(const std::string& file) {
    return {std::filesystem::path(file).stem().string(), file, {}};
}
Model typed_model(const std::string& mix) {
    SynthSpec spec;
    spec.mix = mix;
    spec.heads = 2;
    spec.kv_heads = 1;
    spec.feed_forward = 256;
    spec.vocabulary = 512;
    if (mix.ends_with("_M")) spec.layers = 4;  // some of which keep more bits
    return {"types-" + mix, {}, spec, mix.starts_with("WT")};
}
// Rows that are no whole blocks of 256, an output matrix of its own, a long prompt's positions scaled.
Model architecture_model(const std::string& architecture) {
    SynthSpec spec;
    spec.architecture = architecture;
    spec.mix = "Q4_K_M";
    spec.overrides = {{"ffn_up", "Q5_K"}, {"attn_v", "F32"}, {"attn_output", "Q8_0"}};
    spec.embedding = 96;
    spec.heads = 3;
    spec.kv_heads = 1;
    spec.head_dim = 32;
    spec.feed_forward = 256;
    spec.layers = 3;
    spec.vocabulary = 600;
    spec.tied = false;
    spec.context = 1024;
    spec.sliding_window = architecture == "gemma2" || architecture == "gemma3" ? 48 : 0;
    spec.rope_factor = architecture.starts_with("qwen") || architecture == "gemma2" || architecture == "glm4" ? 0 : 8;
    return {"architecture-" + architecture, {}, spec, architecture == "keel-wired"};
}

std::vector<Model> synthetic_models() {
    std::vector<Model> models;
    for (const char* type : kWeightTypes) models.push_back(typed_model(type));
    for (const char* mix : kMixes) models.push_back(typed_model(mix));
    for (const char* architecture : kArchitectures) models.push_back(architecture_model(architecture));
    return models;
}

// Values in [-scale, scale), the same everywhere.
std::vector<float> even_values(std::mt19937& random, size_t count, float scale) {
    std::vector<float> out(count);
    for (float& x : out) x = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f * scale;
    return out;
}

std::vector<uint8_t> profile_of(const InspectedFile& file) {
    keel_test::KvProfileBuilder builder(file.info, KEEL_KV_TCQ_3, KEEL_KV_E8_3);
    std::mt19937 random(9);
    builder.key_means = even_values(random, builder.floats(), 1);
    builder.value_means = even_values(random, builder.floats(), 1);
    builder.gains = even_values(random, builder.floats(), 0.5f);
    for (float& gain : builder.gains) gain += 1;
    builder.pairs = {0, 1, 3};
    builder.formats[0] = KEEL_KV_E8_8;
    return builder.bytes();
}

MakeBytes wproj_of(keel_test::WprojOptions options) {
    return [options](const InspectedFile& file) {
        keel::tools::WprojImage image = keel_test::random_wproj(file, options);
        std::mt19937 random(options.seed);
        const auto matrix = [&random](uint32_t type, uint32_t rows, uint32_t columns) {
            const float scale = sqrtf(3.0f / static_cast<float>(columns));
            return keel_test::encode_rows(type, even_values(random, size_t{rows} * columns, scale));
        };
        for (keel::tools::WprojImageLayer& layer : image.layers) {
            for (keel::tools::WprojImageBasis& basis : layer.basis)
                if (basis.rank) basis.matrix = matrix(basis.type, basis.rank, basis.columns);
            for (keel::tools::WprojImageRecord& record : layer.record) {
                if (record.rank == 0) continue;
                record.matrix = matrix(record.type, record.rows, record.rank);
                if (!record.bias.empty()) record.bias = even_values(random, record.rows, 0.5f);
            }
        }
        return keel::tools::encode_wproj_v2(image, 1);
    };
}

// ---- the list ----

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    const auto add = [&cases](const std::string& name, const Model& model) -> Case& {
        cases.push_back({});
        cases.back().name = name;
        cases.back().model = model;
        return cases.back();
    };
    const std::string data = "tests/data/architectures/";
    const Model smollm2 = data_model(data + "smollm2-q8_0.gguf"), gemma3 = data_model(data + "gemma3.gguf"),
                qwen2 = data_model(data + "qwen2-mqa-tied.gguf"), wide = data_model(data + "mistral-wide-heads.gguf"),
                books = data_model("samples/models/books-7m-f16.gguf");

    // Architectures: files that another implementation was compared with, and synthetic ones of mixed quantized types.
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(keel_test::source_path(data)))
        if (entry.path().extension() == ".gguf") files.push_back(entry.path().filename().string());
    std::sort(files.begin(), files.end());
    for (const std::string& file : files) {
        const Model model = data_model(data + file);
        add("architecture/" + model.name, model);
        Case& exact = add("architecture/" + model.name + "-f32", model);
        exact.activation = KEEL_ACTIVATION_F32;
        exact.k = exact.v = KEEL_KV_F32;
        // A context of at most 64 tokens takes the short factors of the rotation.
        if (model.name == "phi3-longrope" || model.name == "phi4-partial-rotary")
            add("architecture/" + model.name + "-short", model).prompt_tokens = 40;
    }
    Model wired = data_model("tests/data/wired/wired.gguf");
    wired.cpu_only = true;
    add("architecture/wired", wired);
    Case& wired_exact = add("architecture/wired-f32", wired);
    wired_exact.activation = KEEL_ACTIVATION_F32;
    wired_exact.k = wired_exact.v = KEEL_KV_F32;
    for (const char* architecture : kArchitectures)
        add(std::string("architecture/synthetic-") + architecture, architecture_model(architecture));
    add("architecture/books-7m", books);
    for (const Model& model : {smollm2, gemma3}) add("long/" + model.name, model).prompt_tokens = 600;

    // Weight types, in 8-bit and in f32 activations, and where weights lie.
    for (const char* type : kWeightTypes) {
        add(std::string("weights/") + type, typed_model(type));
        add(std::string("weights/") + type + "-f32", typed_model(type)).activation = KEEL_ACTIVATION_F32;
    }
    for (const char* type : {"F32", "F16", "BF16"})
        add(std::string("weights/") + type + "-bf16", typed_model(type)).activation = KEEL_ACTIVATION_BF16;
    for (const char* mix : kMixes) add(std::string("weights/") + mix, typed_model(mix));
    const std::pair<const char*, keel_weights> placements[] = {
        {"copy", KEEL_WEIGHTS_COPY}, {"map", KEEL_WEIGHTS_MAP}, {"repack", KEEL_WEIGHTS_REPACK}};
    for (const auto& [name, weights] : placements)
        for (const char* type : {"Q4_K_M", "Q8_0", "IQ4_XS"})
            add(std::string("weights/") + type + "-" + name, typed_model(type)).weights = weights;

    // KV formats.
    for (uint32_t f = 0; f < keel::kernels::kKvFormatCount; ++f) {
        const auto format = static_cast<keel_kv_format>(f + 1);
        const std::string name = keel::kernels::kKvFormats[f].name;
        Case& both = add("kv/" + name, smollm2);
        both.k = both.v = format;
        if (format == KEEL_KV_F16) continue;
        Case& key = add("kv/" + name + "-and-f16", typed_model("Q8_0"));
        key.k = format;
        key.v = KEEL_KV_F16;
        Case& value = add("kv/f16-and-" + name, typed_model("Q8_0"));
        value.k = KEEL_KV_F16;
        value.v = format;
    }
    const auto tcq_e8 = [](Case& c) -> Case& {
        c.k = KEEL_KV_TCQ_3;
        c.v = KEEL_KV_E8_4;
        return c;
    };
    const auto precise = [&tcq_e8](Case& c, uint32_t sinks, uint32_t recent) -> Case& {
        c.sink_tokens = sinks;
        c.recent_tokens = recent;
        return tcq_e8(c);
    };
    tcq_e8(add("kv/wide-heads", wide));
    tcq_e8(add("kv/key-bias-removed", qwen2));
    tcq_e8(add("kv/sliding-window", gemma3));
    tcq_e8(add("kv/long", smollm2)).prompt_tokens = 600;
    precise(add("kv/sinks", smollm2), 4, 0);
    tcq_e8(add("kv/sinks-by-default", smollm2)).default_sinks = true;
    precise(add("kv/recent", smollm2), 0, 40);
    precise(add("kv/sinks-recent-long", smollm2), 4, 40).prompt_tokens = 600;
    precise(add("kv/sinks-recent-sliding-window", gemma3), 64, 1);
    precise(add("kv/wired-sinks-recent", wired), 4, 40);
    add("kv/profile-wired", wired).make_profile = profile_of;
    for (const Model& model : {smollm2, qwen2, gemma3, data_model(data + "phi4-partial-rotary.gguf")})
        add("kv/profile-" + model.name, model).make_profile = profile_of;
    add("kv/profile-books-7m", books).profile_file = "samples/models/books-7m-6.2x.kvp";

    // Sessions.
    const std::pair<const char*, Scenario> scenarios[] = {{"batch", kBatch}, {"restore", kRestore}, {"fork", kFork}};
    for (const auto& [name, scenario] : scenarios) {
        const std::string prefix = std::string("session/") + name;
        add(prefix + "-q4_k", typed_model("Q4_K")).scenario = scenario;
        add(prefix + "-sliding-window", gemma3).scenario = scenario;
        tcq_e8(add(prefix + "-key-bias", qwen2)).scenario = scenario;
        tcq_e8(add(prefix + "-wired", wired)).scenario = scenario;
        Case& long_one = tcq_e8(add(prefix + "-long", smollm2));
        long_one.scenario = scenario;
        long_one.prompt_tokens = 600;
        if (scenario != kFork) precise(add(prefix + "-sinks-recent", smollm2), 4, 100).scenario = scenario;
    }

    // Low rank: types of basis and records, slots that stay dense, biases.
    using namespace keel::kernels;
    const auto add_low_rank = [&](const char* name, const Model& model, keel_test::WprojOptions options) -> Case& {
        Case& c = add(std::string("low-rank/") + name, model);
        c.scenario = kLowRank;
        c.make_wproj = wproj_of(options);
        return c;
    };
    const Model synthetic = architecture_model("llama");
    add_low_rank("f16-q8_0", typed_model("Q4_K_M"), {});
    add_low_rank("q8_0-q4_0", typed_model("F16"), {.rank = 64, .basis_type = kQ8_0, .record_type = kQ4_0});
    add_low_rank("f32-q8_f32", typed_model("Q8_0"), {.basis_type = kF32, .record_type = kQ8_F32});
    add_low_rank("f32-f32", synthetic, {.rank = 24, .basis_type = kF32, .record_type = kF32});
    add_low_rank("some-slots", synthetic, {.slots = 0x96});
    add_low_rank("biases", qwen2, {.rank = 16, .basis_type = kF16, .record_type = kF16, .bias = true});
    add_low_rank("sliding-window", gemma3, {.rank = 16, .basis_type = kF32, .record_type = kF16});
    tcq_e8(add_low_rank("kv-formats", typed_model("Q5_K"), {.bias = true})).activation = KEEL_ACTIVATION_F32;
    add_low_rank("map", typed_model("Q4_0"), {}).weights = KEEL_WEIGHTS_MAP;
    add_low_rank("repack", typed_model("Q4_0"), {}).weights = KEEL_WEIGHTS_REPACK;
    return cases;
}

// ---- the table ----

// In the order of hashes.txt.
std::vector<std::string> row_names() {
    std::vector<std::string> names;
    for (const Model& model : synthetic_models()) names.push_back("model/" + model.name);
    for (const Case& c : all_cases()) names.push_back(c.name);
    return names;
}

std::string hex(uint64_t hash) {
    char text[17];
    snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
    return text;
}

// hashes.txt in memory; what a run computes instead of it, where it is to be written.
class Table : public testing::Environment {
  public:
    static Table& get() {
        static Table* const table = new Table;  // GoogleTest owns and deletes it
        return *table;
    }
    const std::map<std::string, std::string>& rows() const { return rows_; }
    bool writes() const { return target_ != nullptr; }
    // Compares, or keeps for the new table.
    void expect(const std::string& name, const std::string& set, uint64_t hash) {
        if (writes()) {
            const auto [row, is_new] = fresh_.emplace(name, hex(hash));
            EXPECT_EQ(hex(hash), row->second) << name << " on " << set << " differs from another kernel set";
            return;
        }
        const auto row = rows_.find(name);
        ASSERT_NE(row, rows_.end()) << name << " is not in tests/golden/hashes.txt; it is " << hex(hash) << " on "
                                    << set;
        EXPECT_EQ(hex(hash), row->second) << name << " on " << set << " has other bits than the table";
    }

    void TearDown() override {
        if (!writes()) return;
        std::ofstream out(target_);
        out << kHead;
        for (const std::string& name : row_names()) {
            const auto fresh = fresh_.find(name), old = rows_.find(name);
            if (fresh != fresh_.end())
                out << fresh->second << ' ' << name << '\n';
            else if (old != rows_.end())
                out << old->second << ' ' << name << '\n';
        }
        EXPECT_TRUE(out.flush()) << "cannot write " << target_;
    }

  private:
    static constexpr const char* kHead = "# Golden hashes, written and explained by golden_test.cpp: hash, case.\n";
    Table() {
        std::ifstream in(keel_test::source_path("tests/golden/hashes.txt"));
        for (std::string line; std::getline(in, line);) {
            if (line.empty() || line[0] == '#') continue;
            std::istringstream words(line);
            std::string hash, name;
            words >> hash >> name;
            rows_[name] = hash;
        }
    }
    const char* const target_ = getenv("KEEL_GOLDEN_WRITE");
    std::map<std::string, std::string> rows_, fresh_;
};

// ---- tests ----

struct KernelSet {
    keel_cpu cpu;
    std::string name;
};
// Those that the library accepts here.
const std::vector<KernelSet>& kernel_sets() {
    static const std::vector<KernelSet> sets = [] {
        std::vector<KernelSet> found;
        for (const keel_cpu cpu : {KEEL_CPU_SCALAR, KEEL_CPU_AVX2, KEEL_CPU_AVX512, KEEL_CPU_AMX, KEEL_CPU_NEON,
                                   KEEL_CPU_NEON_DOTPROD, KEEL_CPU_NEON_I8MM}) {
            if (keel_test::backend_under_test().backend && !found.empty()) break;  // another one than the CPU's has one
            keel_config config = sized<keel_config>();
            config.cpu = cpu;
            config.threads = 1;
            config.context_tokens = 64;
            try {
                const Engine engine(keel_test::source_path("tests/data/architectures/llama-linear.gguf"), config);
                keel_stats stats = sized<keel_stats>();
                check(keel_engine_stats(engine.handle(), &stats), "stats");
                found.push_back({cpu, stats.kernel_set});
            } catch (const keel_test::Error& error) {
                if (error.status != KEEL_E_UNSUPPORTED) throw;
            }
        }
        return found;
    }();
    return sets;
}

// A model's path; a synthetic one is written for as long as this lives.
class ModelFile {
  public:
    explicit ModelFile(const Model& model) : made_(model.file.empty()) {
        path_ = made_ ? testing::TempDir() + "keel_golden_" + std::to_string(getpid()) + ".gguf"
                      : keel_test::source_path(model.file);
        if (made_) keel::tools::synth_write(path_, model.spec);
    }
    ~ModelFile() {
        if (made_) std::filesystem::remove(path_);
    }
    ModelFile(const ModelFile&) = delete;
    ModelFile& operator=(const ModelFile&) = delete;
    const std::string& path() const { return path_; }

  private:
    bool made_;
    std::string path_;
};

class GoldenModel : public testing::TestWithParam<Model> {};
TEST_P(GoldenModel, HasTheBytesOfTheTable) {
    const ModelFile file(GetParam());
    const std::vector<char> bytes = keel_test::read_file(file.path());
    Table::get().expect("model/" + GetParam().name, "the writer", keel::hash64(bytes.data(), bytes.size()));
}

class Golden : public testing::TestWithParam<Case> {};
TEST_P(Golden, HasTheBitsOfTheTableOnEveryKernelSet) {
    const Case& c = GetParam();
    if (c.model.cpu_only && keel_test::backend_under_test().backend) GTEST_SKIP() << "only the CPU computes it";
    const ModelFile file(c.model);
    for (const KernelSet& set : kernel_sets()) {
        Recording run(c, file.path(), set.cpu);
        play(run, c);
        Table::get().expect(c.name, set.name, run.hash());
    }
}

TEST(GoldenTable, HasARowForEveryCaseAndNoOther) {
    std::vector<std::string> sorted = row_names(), rows;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end()) << "two cases of one name";
    for (const auto& [name, hash] : Table::get().rows()) rows.push_back(name);
    if (!Table::get().writes()) {
        EXPECT_EQ(rows, sorted);
    }
    printf("kernel sets:");
    for (const KernelSet& set : kernel_sets()) printf(" %s", set.name.c_str());
    printf("\n");
    ASSERT_FALSE(kernel_sets().empty());
    EXPECT_EQ(kernel_sets()[0].name, "scalar");
}

std::string test_name(std::string name) {
    for (char& c : name)
        if (!isalnum(static_cast<unsigned char>(c))) c = '_';
    return name;
}
INSTANTIATE_TEST_SUITE_P(Synthetic, GoldenModel, testing::ValuesIn(synthetic_models()),
                         [](const auto& info) { return test_name(info.param.name); });
INSTANTIATE_TEST_SUITE_P(Cases, Golden, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return test_name(info.param.name); });

testing::Environment* const kTable = testing::AddGlobalTestEnvironment(&Table::get());

}  // namespace
