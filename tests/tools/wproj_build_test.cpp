// From the bundled model and a few of its tokens to W_proj caches: what the tap sees, and what the builder promises of
// the caches it makes.
#include <gtest/gtest.h>
#ifdef KEEL_HAVE_WPROJ_LAB
#include <math.h>
#include <string.h>

#include <filesystem>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/files/wproj_table.h"
#include "sdk/tools/lab/lowrank/wproj_recipe.h"
#include "sdk/tools/lab/quantize/activation_tap.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

using namespace keel;
using namespace keel::tools;

namespace {

const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");
const std::string kText = keel_test::source_path("samples/models/books-val-sample.jsonl");
constexpr uint32_t kTokens = 40;

EngineOptions books(uint32_t threads = 2, uint32_t chunk = 0) {
    EngineOptions options;
    options.model = kBooks;
    options.threads = threads;
    options.chunk = chunk;
    return options;
}

KvSpec rows_in(keel_kv_format format) {
    KvSpec spec;
    spec.k_format = spec.v_format = format;
    return spec;
}

// ---- what products multiply ----

// Every element that was shown, and how often.
struct ShownRows {
    struct Site {
        std::vector<float> x;  // [positions][columns]
        std::vector<uint8_t> times;
    };
    ShownRows(KvRun& run, uint32_t positions, const WprojShape& shape) : layers(run.info().layers) {
        for (auto& layer : layers)
            for (uint32_t site = 0; site < kWprojGroups; ++site)
                layer[site] = {std::vector<float>(positions * shape.columns[site]),
                               std::vector<uint8_t>(positions * shape.columns[site])};
        run.close();
        check(keel_lab_set_row_tap(
                  run.model().engine.handle(),
                  [](void* self, const keel_lab_row* row) { static_cast<ShownRows*>(self)->add(*row); }, this),
              "cannot watch");
    }
    void add(const keel_lab_row& row) {
        Site& site = layers[row.layer][row.site];
        for (uint32_t i = 0; i < row.count; ++i) {
            const uint64_t at = uint64_t{row.position} * row.total + row.first + i;
            site.x[at] = row.x[i];
            ++site.times[at];
        }
    }
    std::vector<std::array<Site, kWprojGroups>> layers;
};

std::vector<float> weights_of(const ModelFile& file, const GgufTensor& t) {
    const uint8_t* data = static_cast<const uint8_t*>(file.reader.get()->mapped) + t.offset;
    return decode_rows(t.type, {data, t.bytes}, t.dims[0]);
}

// y = W x in f64, from the file's weights.
std::vector<double> product(const ModelFile& file, WprojSlot slot, const std::vector<double>& x) {
    const GgufTensor& t = *wproj_tensor(*file.model, 0, slot);
    const std::vector<float> w = weights_of(file, t);
    std::vector<double> y(t.dims[1]);
    for (size_t row = 0; row < y.size(); ++row)
        for (size_t i = 0; i < x.size(); ++i) y[row] += double{w[row * x.size() + i]} * x[i];
    return y;
}

// x / sqrt(mean x^2 + eps) * w
std::vector<double> rms_normed(const ModelFile& file, TensorSlot norm, const std::vector<double>& x) {
    const std::vector<float> w = weights_of(file, *file.model->tensor(norm, 0));
    double squares = 0;
    for (double v : x) squares += v * v;
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); ++i)
        y[i] = x[i] / sqrt(squares / static_cast<double>(x.size()) + file.model->spec.norm_eps) * w[i];
    return y;
}

void expect_near(const std::vector<float>& rows, uint32_t position, const std::vector<double>& expected,
                 const char* what) {
    double difference = 0, all = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        difference += pow(rows[position * expected.size() + i] - expected[i], 2);
        all += expected[i] * expected[i];
    }
    EXPECT_LT(difference, 1e-10 * all) << what << " of position " << position;
}

TEST(WprojRowTap, ShowsWhatTheFirstLayerMultiplies) {
    KvRun run(books(), rows_in(KEEL_KV_F32), 64);
    const std::vector<int32_t> ids = tokenize_documents(run.model().engine, kText, 1, kTokens)[0];
    const ModelFile file = open_model(kBooks);
    const WprojShape shape = wproj_shape_of(*file.model);
    ShownRows shown(run, kTokens, shape);
    run.forward(ids, [](size_t, std::span<const float>) {});
    const std::vector<float> embedding = weights_of(file, *file.model->tensor(kTokenEmbedding, 0));
    const auto& sites = shown.layers[0];
    for (uint32_t position : {0u, 1u, kTokens - 1}) {
        const float* row = &embedding[static_cast<size_t>(ids[position]) * file.info.embedding];
        std::vector<double> residual(row, row + file.info.embedding);
        const std::vector<double> attn_in = rms_normed(file, kAttnNorm, residual);
        expect_near(sites[kWprojAttnIn].x, position, attn_in, "attn_in");
        if (position == 0) {  // sees itself alone: attention gives its own V, once per query head
            const std::vector<double> v = product(file, kWprojV, attn_in);
            std::vector<double> heads;
            const uint32_t group = file.info.heads / file.info.kv_heads;
            for (uint32_t head = 0; head < file.info.heads; ++head)
                heads.insert(heads.end(), &v[head / group * file.info.head_dim],
                             &v[head / group * file.info.head_dim] + file.info.head_dim);
            expect_near(sites[kWprojAttnOut].x, 0, heads, "attn_out");
        }
        const float* out = &sites[kWprojAttnOut].x[position * shape.columns[kWprojAttnOut]];
        const std::vector<double> o = product(file, kWprojO, {out, out + shape.columns[kWprojAttnOut]});
        for (size_t i = 0; i < residual.size(); ++i) residual[i] += o[i];
        const std::vector<double> ffn_in = rms_normed(file, kFfnNorm, residual);
        expect_near(sites[kWprojFfnIn].x, position, ffn_in, "ffn_in");
        std::vector<double> hidden = product(file, kWprojUp, ffn_in);
        const std::vector<double> gate = product(file, kWprojGate, ffn_in);
        for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= gate[i] / (1 + exp(-gate[i]));
        expect_near(sites[kWprojFfnHidden].x, position, hidden, "ffn_hidden");
    }
}

TEST(WprojRowTap, EveryVectorOnceHoweverItIsComputed) {
    const ModelFile file = open_model(kBooks);
    const WprojShape shape = wproj_shape_of(*file.model);
    std::unique_ptr<ShownRows> first;
    struct {
        uint32_t threads, chunk;
        bool one_by_one;
    } const cases[] = {{2, 128, false}, {1, 7, false}, {2, 1, false}, {2, 128, true}, {1, 128, true}};
    for (const auto& c : cases) {
        SCOPED_TRACE(std::to_string(c.threads) + " threads, chunks of " + std::to_string(c.chunk) +
                     (c.one_by_one ? ", decoding" : ""));
        KvRun run(books(c.threads, c.chunk), rows_in(KEEL_KV_F16), 64);
        const std::vector<int32_t> ids = tokenize_documents(run.model().engine, kText, 1, kTokens)[0];
        ASSERT_EQ(ids.size(), kTokens);
        auto shown = std::make_unique<ShownRows>(run, kTokens, shape);
        run.forward(ids, [](size_t, std::span<const float>) {});
        if (c.one_by_one) {
            for (auto& layer : shown->layers)
                for (ShownRows::Site& site : layer) {
                    std::fill(site.x.begin(), site.x.end(), 0.0f);
                    std::fill(site.times.begin(), site.times.end(), uint8_t{0});
                }
            run.decode_again(ids, 0, [](size_t, std::span<const float>) {});
        }
        for (uint32_t layer = 0; layer < file.info.layers; ++layer)
            for (uint32_t group = 0; group < kWprojGroups; ++group) {
                const ShownRows::Site& site = shown->layers[layer][group];
                ASSERT_EQ(std::count(site.times.begin(), site.times.end(), 1),
                          static_cast<ptrdiff_t>(site.times.size()))
                    << "layer " << layer << " group " << group;
                if (first) {
                    EXPECT_EQ(memcmp(site.x.data(), first->layers[layer][group].x.data(), site.x.size() * 4), 0)
                        << "layer " << layer << " group " << group;
                }
            }
        if (!first) first = std::move(shown);
    }

    // The builder's own tap keeps the same rows, of wanted groups only, and nothing of the document before.
    KvRun run(books(), rows_in(KEEL_KV_F16), 64);
    std::array<uint32_t, kWprojGroups> columns{};
    columns[kWprojAttnIn] = shape.columns[kWprojAttnIn];
    columns[kWprojFfnHidden] = shape.columns[kWprojFfnHidden];
    ActivationTap tap(run, columns);
    tap.forward(tokenize_documents(run.model().engine, kText, 2, 50).back());
    tap.forward(tokenize_documents(run.model().engine, kText, 1, kTokens)[0]);
    for (uint32_t layer = 0; layer < file.info.layers; ++layer) {
        EXPECT_TRUE(tap.rows(layer, kWprojFfnIn).empty());
        for (uint32_t group : {kWprojAttnIn, kWprojFfnHidden}) {
            const auto rows = tap.rows(layer, group);
            ASSERT_EQ(rows.size(), uint64_t{kTokens} * columns[group]);
            EXPECT_EQ(memcmp(rows.data(), first->layers[layer][group].x.data(), rows.size_bytes()), 0) << layer;
        }
    }
}

// ---- the builder ----

WprojCalibrationText text(uint32_t documents = 4, uint32_t tokens = 160, uint32_t measured = 64) {
    WprojCalibrationText t;
    t.text.file = kText;
    t.text.documents = documents;
    t.text.tokens = tokens;
    t.held_out = 1;
    t.measured_tokens = measured;
    return t;
}

constexpr uint32_t kQkvBits = 1u << kWprojQ | 1u << kWprojK | 1u << kWprojV;

WprojSolveOptions uniform(uint32_t rank) {
    WprojSolveOptions o;
    o.configurations = {kQkvBits};
    o.rank = rank;
    o.basis_type = kernels::kF32;
    o.record_type = kernels::kQ8_F32;
    o.bound = std::numeric_limits<double>::infinity();
    return o;
}

TEST(WprojBuilder, TheSameTwiceGivesTheSameBytes) {
    std::vector<uint8_t> first;
    for (uint32_t threads : {2u, 1u}) {
        WprojBuilder builder(books(threads, threads == 1 ? 16 : 0), text(3, 96, 12), 1u << kWprojO, {});
        WprojSolveOptions o = uniform(0);
        o.configurations = {1u << kWprojO};
        o.rule = WprojRankRule::kBytes;
        o.budget_bytes = dense_bytes_of(builder.model(), 1u << kWprojO) * 6 / 10;
        WprojSolveOptions small = uniform(64);
        small.configurations = o.configurations;
        builder.choose_sensitivities(small);
        const WprojImage image = builder.build(o);
        EXPECT_EQ(image.fingerprint, builder.model().info.fingerprint);
        EXPECT_EQ(image.calibration_hash, builder.calibration_hash());
        const std::vector<uint8_t> bytes = encode_wproj_v2(image, 5);
        if (first.empty()) first = bytes;
        EXPECT_EQ(bytes, first);
        EXPECT_EQ(encode_wproj_v2(builder.build(o), 5), first);
    }
}

TEST(WprojBuilder, ActivationsDoBetterThanWeightsInTheSameBytes) {
    WprojBuilder builder(books(), text(4, 256, 128), kQkvBits, {});
    ASSERT_NE(builder.meter(), nullptr);
    EXPECT_EQ(builder.meter()->tokens(), 128u);
    for (uint32_t rank : {64u, 128u}) {
        WprojSolveOptions o = uniform(rank);
        const WprojReading whitened = builder.meter()->measure(builder.build(o));
        o.solver = WprojSolver::kWeightPca;
        const WprojReading pca = builder.meter()->measure(builder.build(o));
        EXPECT_EQ(whitened.records, 24u);
        EXPECT_EQ(pca.records, 24u);
        // Biases are the one difference: f32, of 8 layers of Q, K and V.
        EXPECT_EQ(whitened.record_bytes, pca.record_bytes + 8 * (256 + 128 + 128) * 4);
        EXPECT_LT(whitened.decode_bytes, whitened.dense_decode_bytes);
        EXPECT_GT(whitened.score.kl_mean(), 0);
        EXPECT_LT(whitened.score.kl_mean(), 0.7 * pca.score.kl_mean()) << rank;
    }
}

TEST(WprojBuilder, ABoundRefusesRecordsAndThePlanSaysSo) {
    WprojBuilder builder(books(), text(), kQkvBits, {});
    WprojSolveOptions o = uniform(128);
    WprojSolution all, some, none;
    builder.build(o, &all);
    std::vector<double> errors;
    for (const WprojSlotReport& r : all.reports) {
        EXPECT_TRUE(r.accepted);
        EXPECT_GT(r.measured, 0);
        errors.push_back(r.measured);
    }
    ASSERT_EQ(errors.size(), 24u);
    std::sort(errors.begin(), errors.end());
    o.bound = 0.5 * (errors[9] + errors[10]);
    builder.build(o, &some);
    EXPECT_EQ(
        std::count_if(some.reports.begin(), some.reports.end(), [](const WprojSlotReport& r) { return r.accepted; }),
        10);
    for (const WprojSlotReport& r : some.reports) EXPECT_EQ(r.accepted, r.measured <= o.bound);
    o.bound = 1e-9;
    const WprojImage image = builder.build(o, &none);
    EXPECT_EQ(none.bytes, none.dense_bytes);
    for (const WprojSlotReport& r : none.reports) EXPECT_FALSE(r.accepted);
    for (const WprojImageLayer& layer : image.layers) {
        for (const WprojImageBasis& basis : layer.basis) EXPECT_EQ(basis.rank, 0u);
        for (const WprojImageRecord& record : layer.record) EXPECT_EQ(record.rank, 0u);
    }

    const std::vector<uint8_t> bytes = encode_wproj_v2(image, 3);
    keel_reader reader = make<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
    EngineOptions options = books();
    options.wproj_reader = &reader;
    ConfigParts parts;
    const keel_config config = make_config(options, parts);
    const keel_memory_plan plan = plan_memory(builder.model(), config);
    EXPECT_EQ(plan.part_status, KEEL_OK);
    EXPECT_EQ(plan.low_rank_factors, 0u);
    EXPECT_EQ(plan.low_rank_bytes, 0u);
    EXPECT_EQ(plan.low_rank_decode_bytes, plan.decode_bytes);
    uint32_t products = 0;
    for (const keel_op_info& op : keel_test::plan_ops(builder.model().reader.get(), builder.model().model, config)) {
        if (op.low_rank_reason == KEEL_LOW_RANK_NONE) continue;
        EXPECT_EQ(op.low_rank_reason, KEEL_LOW_RANK_NO_FACTOR) << op.name;
        ++products;
    }
    EXPECT_EQ(products, 8u * 7);
    const WprojReading reading = builder.meter()->measure(image);
    EXPECT_EQ(reading.score.kl_mean(), 0);
    EXPECT_EQ(reading.score.delta().mean, 0);
}

TEST(WprojBuilder, ABudgetIsKeptAndMoreOfItIsNeverWorse) {
    const uint32_t slots = wproj_slots_of("qk,q");
    WprojBuilder builder(books(), text(3, 96, 8), slots, {});
    const uint64_t dense = dense_bytes_of(builder.model(), slots);
    double last = std::numeric_limits<double>::infinity();
    uint64_t last_bytes = 0;
    for (double share : {0.5, 0.75, 1.0}) {
        WprojSolveOptions o = uniform(0);
        o.configurations = solve_options({.rank = "32", .groups = "qk,q"}, 256, dense).configurations;
        o.basis_type = o.record_type = kernels::kQ8_0;
        o.rule = WprojRankRule::kBytes;
        o.budget_bytes = static_cast<uint64_t>(share * static_cast<double>(dense));
        WprojSolution solution;
        const WprojImage image = builder.build(o, &solution);
        EXPECT_EQ(solution.dense_bytes, dense);
        EXPECT_LE(solution.bytes, o.budget_bytes) << share;
        EXPECT_GT(solution.bytes, o.budget_bytes * 3 / 4) << share;
        // Counted again, from what the cache holds and what the model keeps.
        uint64_t bytes = 0;
        for (uint32_t layer = 0; layer < image.layers.size(); ++layer) {
            for (const WprojImageBasis& basis : image.layers[layer].basis) bytes += basis.matrix.size();
            for (uint32_t slot = 0; slot < kWprojSlots; ++slot) {
                const WprojImageRecord& record = image.layers[layer].record[slot];
                if (record.rank)
                    bytes += record.matrix.size() + record.bias.size() * 4;
                else if (slots >> slot & 1)
                    bytes += wproj_tensor(*builder.model().model, layer, slot)->bytes;
            }
        }
        EXPECT_EQ(solution.bytes, bytes) << share;
        EXPECT_LE(solution.predicted_loss, last) << share;
        EXPECT_GE(solution.bytes, last_bytes) << share;
        last = solution.predicted_loss;
        last_bytes = solution.bytes;
    }
}

// What attention makes of errors is for the whitened solver; weight PCA allocates by weights alone.
TEST(WprojBuilder, WeightPcaTakesNoNoticeOfAttention) {
    std::vector<uint8_t> bytes[2][2];  // [attention][solver]
    for (int attention : {0, 1}) {
        WprojCalibrationText t = text(2, 48, 8);
        t.attention_metric = attention != 0;
        WprojBuilder builder(books(), t, kQkvBits, {});
        WprojSolveOptions o = uniform(0);
        o.rule = WprojRankRule::kBytes;
        o.budget_bytes = dense_bytes_of(builder.model(), kQkvBits) / 2;
        bytes[attention][0] = encode_wproj_v2(builder.build(o), 1);
        o.solver = WprojSolver::kWeightPca;
        bytes[attention][1] = encode_wproj_v2(builder.build(o), 1);
    }
    EXPECT_NE(bytes[0][0], bytes[1][0]);
    EXPECT_EQ(bytes[0][1], bytes[1][1]);
}

TEST(WprojBuilder, WhateverStepIsCancelledNothingIsLeft) {
    // Each kind of work in turn is told to stop at its first and at its second step.
    for (const std::string stopped : {"reading the text", "solving", "measuring sensitivities"})
        for (uint64_t at : {0u, 1u}) {
            SCOPED_TRACE(stopped + " " + std::to_string(at));
            std::string reached;
            try {
                WprojBuilder builder(books(), text(4, 40, 16), kQkvBits,
                                     [&](const std::string& what, uint64_t done, uint64_t total) {
                                         EXPECT_LT(done, total);
                                         reached = what;
                                         return what == stopped && done == at;
                                     });
                builder.choose_sensitivities(uniform(32));
                FAIL() << "not cancelled";
            } catch (const ToolError& error) {
                EXPECT_EQ(error.exit_code, kExitCancelled);
                EXPECT_EQ(reached, stopped);
            }
        }
    const std::string path = (std::filesystem::temp_directory_path() / "keel_wproj_build_cancelled.bin").string();
    WprojBuilder builder(books(), text(4, 40, 16), kQkvBits, {});
    const WprojImage image = builder.build(uniform(32));
    for (uint32_t version : {1u, 2u}) {
        std::filesystem::remove(path);
        uint64_t calls = 0;
        const auto stop = [&](uint64_t done, uint64_t total) { return ++calls && done > total / 2; };
        if (version == 1)
            EXPECT_THROW(write_wproj_v1(path, image, 1, stop), ToolError);
        else
            EXPECT_THROW(write_wproj_v2(path, image, 1, {}, stop), ToolError);
        EXPECT_GT(calls, 0u);
        EXPECT_FALSE(std::filesystem::exists(path));
        EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
    }
}

TEST(WprojBuilder, AsksForWhatItNeeds) {
    const auto code_of = [](const EngineOptions& options, const WprojCalibrationText& t, uint32_t slots) {
        try {
            WprojBuilder(options, t, slots, {});
        } catch (const ToolError& error) {
            return static_cast<int>(error.exit_code);
        }
        return 0;
    };
    EXPECT_EQ(code_of(books(), text(1), kQkvBits), kExitUsage);  // one document, which is held out
    EXPECT_EQ(code_of(books(), text(), 0), kExitFile);
    WprojBuilder weights(books(), {}, kQkvBits, {});
    EXPECT_EQ(weights.meter(), nullptr);
    EXPECT_EQ(weights.calibration_hash(), 0u);
    EXPECT_THROW(weights.choose_sensitivities(uniform(32)), ToolError);
    EXPECT_THROW(weights.build(uniform(32)), std::invalid_argument);  // whitened needs moments
}

// ---- recipes and keys ----

uint64_t key_of(const WprojRecipe& recipe, uint64_t text_hash = 11, uint64_t fingerprint = 22,
                keel_activation activation = KEEL_ACTIVATION_DEFAULT) {
    return recipe_key(recipe, solve_options(recipe, 256, 1'000'000), fingerprint, text_hash, activation);
}

TEST(WprojRecipe, KeysChangeWithWhatChangesTheCache) {
    const WprojRecipe plain{.rank = "96"};
    const uint64_t key = key_of(plain);
    EXPECT_EQ(key_of(plain), key);
    EXPECT_EQ(key_of({.rank = "0.375"}), key);  // 96 of 256
    std::vector<std::pair<std::string, uint64_t>> others = {
        {"another text", key_of(plain, 12)},
        {"another model", key_of(plain, 11, 23)},
        {"activations", key_of(plain, 11, 22, KEEL_ACTIVATION_F32)}};
    const auto with = [&](const std::string& what, auto change) {
        WprojRecipe recipe = plain;
        change(recipe);
        others.emplace_back(what, key_of(recipe));
    };
    with("rank", [](WprojRecipe& r) { r.rank = "128"; });
    with("budget", [](WprojRecipe& r) { r.rank = "", r.budget = "0.5"; });
    with("another budget", [](WprojRecipe& r) { r.rank = "", r.budget = "0.6"; });
    with("loss", [](WprojRecipe& r) { r.rank = "", r.loss = 0.01; });
    with("another loss", [](WprojRecipe& r) { r.rank = "", r.loss = 0.02; });
    with("groups", [](WprojRecipe& r) { r.groups = "qkv"; });
    with("order of groups",
         [](WprojRecipe& r) { r.groups = "qk,qkv,q,o,ffn,down"; });  // of a uniform rank the first that fits is taken
    with("type", [](WprojRecipe& r) { r.record_type = "Q4_0"; });
    with("basis type", [](WprojRecipe& r) { r.basis_type = "F16"; });
    with("bound", [](WprojRecipe& r) { r.bound = 0.03; });
    with("no bound", [](WprojRecipe& r) { r.bound = 0; });
    with("solver", [](WprojRecipe& r) { r.solver = "weight-pca"; });
    with("sensitivities", [](WprojRecipe& r) { r.sensitivities = false; });
    with("attention", [](WprojRecipe& r) { r.attention_metric = false; });
    with("centred", [](WprojRecipe& r) { r.centred = false; });
    with("massive", [](WprojRecipe& r) { r.massive = false; });
    with("format", [](WprojRecipe& r) { r.format = 1; });
    others.emplace_back("plain", key);
    for (size_t i = 0; i < others.size(); ++i)
        for (size_t j = 0; j < i; ++j)
            EXPECT_NE(others[i].second, others[j].second) << others[i].first << ", " << others[j].first;

    // As published: of the weights alone, whatever text it is measured on.
    const WprojRecipe published{.solver = "weight-pca", .rank = "96", .groups = "qkv", .published = true};
    EXPECT_EQ(key_of(published, 11), key_of(published, 0));
    EXPECT_NE(key_of(published), key);
    const WprojSolveOptions o = solve_options(published, 256, 0);
    EXPECT_TRUE(o.shared_basis);
    EXPECT_EQ(o.basis_type, static_cast<uint32_t>(kernels::kF32));
    EXPECT_EQ(o.record_type, static_cast<uint32_t>(kernels::kQ8_F32));
}

TEST(WprojRecipe, TextOfTheBuilderDecidesTheKey) {
    WprojBuilder one(books(), text(2, 24), kQkvBits, {}), again(books(1), text(2, 24), kQkvBits, {}),
        longer(books(), text(2, 25), kQkvBits, {}), more(books(), text(3, 24), kQkvBits, {});
    EXPECT_NE(one.calibration_hash(), 0u);
    EXPECT_EQ(one.calibration_hash(), again.calibration_hash());
    EXPECT_NE(one.calibration_hash(), longer.calibration_hash());
    EXPECT_NE(one.calibration_hash(), more.calibration_hash());
    WprojCalibrationText fewer = text(3, 24);
    fewer.held_out = 2;
    EXPECT_NE(WprojBuilder(books(), fewer, kQkvBits, {}).calibration_hash(), more.calibration_hash());
}

TEST(WprojRecipe, RefusesWhatMakesNoSense) {
    const auto refused = [](const WprojRecipe& r) { EXPECT_THROW(solve_options(r, 256, 1000), ToolError); };
    refused({});
    refused({.rank = "32", .budget = "0.5"});
    refused({.rank = "32", .loss = 0.1});
    refused({.rank = "0"});
    refused({.rank = "32x"});
    refused({.rank = "-1"});
    refused({.rank = "nan"});
    refused({.rank = "32", .groups = "qv"});
    refused({.rank = "32", .groups = ""});
    refused({.rank = "32", .record_type = "Q8"});
    EXPECT_EQ(solve_options({.rank = "0.01"}, 256, 0).rank, 32u);
    EXPECT_EQ(solve_options({.rank = "0.5"}, 256, 0).rank, 128u);
    EXPECT_EQ(solve_options({.rank = "100"}, 256, 0).rank, 100u);
    EXPECT_EQ(solve_options({.budget = "0.25"}, 256, 1000).budget_bytes, 250u);
    EXPECT_EQ(solve_options({.budget = "2000"}, 256, 1000).budget_bytes, 2000u);
}

}  // namespace
#endif
