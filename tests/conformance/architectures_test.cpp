// Every architecture and weight type against logits another implementation computed from the same file.
// With f32 activations and KV the remaining difference is float32 rounding; with 8-bit activations it is measured as
// KL.
#include <cstdio>
#include <ostream>

#include "tests/oracle.h"
#include "tests/test_engine.h"

namespace {

using namespace keel_test;

// Float32 rounding in another order, through up to seven layers of sharp attention: measured 5e-7 to 1.3e-5. The
// smallest mistake the oracles were checked to show (exact GELU for its tanh form) moves logits by 3.8e-4, a window off
// by one by at least 0.17.
constexpr double kRowTolerance = 5e-5;

struct Case {
    std::string name, model, logits;  // file names below `dir`
    uint32_t context_tokens;
    std::vector<int32_t> ids;
    std::vector<uint32_t> positions;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
}

// `folder`: of index.json and the files that it names.
std::vector<Case> cases_of(const std::string& folder) {
    const nlohmann::json index = read_json(source_path(folder + "index.json"));
    const std::vector<int32_t> tokens = index["tokens"];
    std::vector<Case> cases;
    for (const nlohmann::json& c : index["cases"]) {
        cases.push_back({c["name"],
                         source_path(folder + std::string(c["file"])),
                         source_path(folder + std::string(c["logits"])),
                         c["context_tokens"],
                         {tokens.begin(), tokens.begin() + static_cast<int>(c["ids"])},
                         c["positions"]});
    }
    return cases;
}

std::vector<Case> architecture_cases() {
    return cases_of("tests/data/architectures/");
}

const char* const kSharedModels[] = {
    "llama-gqa-f16",      "llama-gqa-q8_0",   "llama-gqa-q6_k", "llama-gqa-q5_k_m",        "llama-gqa-q4_k_m",
    "llama-gqa-q5_1",     "llama-gqa-q5_0",   "llama-gqa-q4_1", "llama-gqa-q4_0",          "llama-gqa-iq4_xs",
    "llama-gqa-iq4_nl",   "llama-gqa-q3_k_m", "llama-gqa-q2_k", "llama-mha-wide-head-f16", "llama3-ropefreqs-tied-f16",
    "qwen2-bias-tied-f16"};

Case shared_case(const std::string& dir, const std::string& name) {
    Case c{name, dir + "/models/" + name + ".gguf",      dir + "/logits/" + name + ".f32",
           128,  read_json(dir + "/tokens.json")["ids"], {}};
    for (uint32_t position = 3; position < c.ids.size(); position += 4) c.positions.push_back(position);
    return c;
}

Logits run(const Case& c, keel_config config) {
    config.context_tokens = c.context_tokens;
    config.logits_rows = 64;
    return Engine(c.model, config).logits_for(c.ids);
}

// The reference's rows; empty, with a failure, when the file does not fit the case.
std::vector<float> reference_rows(const Case& c, uint32_t vocabulary) {
    std::vector<float> rows = read_f32(c.logits);
    EXPECT_EQ(rows.size(), c.positions.size() * vocabulary) << c.logits;
    if (rows.size() != c.positions.size() * vocabulary) rows.clear();
    return rows;
}

// The f32 path of both kernel sets against the reference, and, as NUMERICS.md promises, bit for bit against each other.
void expect_reference_logits(const Case& c) {
    const Logits scalar = run(c, f32_config(KEEL_CPU_SCALAR));
    const std::vector<float> reference = reference_rows(c, scalar.vocabulary);
    ASSERT_FALSE(reference.empty());
    double worst = 0;
    for (size_t i = 0; i < c.positions.size(); i++) {
        const double error =
            row_error(scalar.row(c.positions[i]), reference.data() + i * scalar.vocabulary, scalar.vocabulary);
        EXPECT_LE(error, kRowTolerance) << c.name << " position " << c.positions[i];
        worst = std::max(worst, error);
    }
    std::printf("    %-28s largest row error %.1e\n", c.name.c_str(), worst);
    const Logits best = run(c, f32_config(KEEL_CPU_AUTO));
    ASSERT_EQ(best.values.size(), scalar.values.size());
    for (size_t i = 0; i < best.values.size(); i++)
        ASSERT_EQ(best.values[i], scalar.values[i])
            << c.name << " position " << i / best.vocabulary << " differs between kernel sets";
}

class Architectures : public testing::TestWithParam<Case> {};
TEST_P(Architectures, F32LogitsMatchTransformers) {
    expect_reference_logits(GetParam());
}

// keel-wired, against the formulas of a published model of the kind (make_wired_oracle.py).
TEST(WiredModels, F32LogitsMatchNumpy) {
    for (const Case& c : cases_of("tests/data/wired/")) expect_reference_logits(c);
}

class SharedModels : public testing::TestWithParam<const char*> {};
TEST_P(SharedModels, F32LogitsMatchReference) {
    KEEL_SHARED_OR_SKIP(dir, "conformance");
    expect_reference_logits(shared_case(dir, GetParam()));
}

std::string test_name(std::string name) {
    for (char& c : name)
        if (!isalnum(static_cast<unsigned char>(c))) c = '_';
    return name;
}
INSTANTIATE_TEST_SUITE_P(Files, Architectures, testing::ValuesIn(architecture_cases()),
                         [](const auto& info) { return test_name(info.param.name); });
INSTANTIATE_TEST_SUITE_P(Files, SharedModels, testing::ValuesIn(kSharedModels),
                         [](const auto& info) { return test_name(info.param); });

// Of `entries`, adapters in files of `dir` for the models of `bases`.
void expect_adapted_logits(const nlohmann::json& entries, const std::string& dir, const std::vector<Case>& bases) {
    for (const nlohmann::json& entry : entries) {
        Case c;
        for (const Case& base : bases)
            if (base.name == entry["model"]) c = base;
        c.name = entry["name"];
        c.logits = source_path(dir + std::string(entry["logits"]));
        const FileReader adapter(source_path(dir + std::string(entry["file"])));
        const keel_part adapter_part = part(KEEL_PART_ADAPTER, adapter.get());
        Logits ours[2];
        for (int i = 0; i < 2; ++i) {
            keel_config config = f32_config(i == 0 ? KEEL_CPU_SCALAR : KEEL_CPU_AUTO);
            config.context_tokens = c.context_tokens;
            config.logits_rows = 64;
            config.parts = &adapter_part;
            config.part_count = 1;
            Engine engine(c.model, config);
            check(keel_session_set_adapter(engine.session(), 0, entry["scale"]), "keel_session_set_adapter");
            ours[i] = engine.logits_for(c.ids);
        }
        EXPECT_EQ(ours[0].values, ours[1].values) << c.name << " differs between kernel sets";
        const std::vector<float> reference = reference_rows(c, ours[0].vocabulary);
        double worst = 0;
        for (size_t i = 0; i < c.positions.size(); i++)
            worst = std::max(worst, row_error(ours[0].row(c.positions[i]), reference.data() + i * ours[0].vocabulary,
                                              ours[0].vocabulary));
        std::printf("    %-28s largest row error %.1e\n", c.name.c_str(), worst);
        EXPECT_LE(worst, kRowTolerance) << c.name;
    }
}

// Adapters by transformers, whose hooks add B (A x) to what a Linear gives (make_adapter_oracles.py).
TEST(AdapterOracles, F32LogitsMatchTransformers) {
    const std::string dir = "tests/data/adapters/";
    const nlohmann::json index = read_json(source_path(dir + "index.json"));
    EXPECT_EQ(5u, index["cases"].size());
    expect_adapted_logits(index["cases"], dir, architecture_cases());
}

// Of blocks whose weights several layers have.
TEST(AdapterOracles, F32LogitsOfWiredModelsMatchNumpy) {
    const std::string dir = "tests/data/wired/";
    expect_adapted_logits(read_json(source_path(dir + "index.json"))["adapters"], dir, cases_of(dir));
}

// Mean KL in nats of the default path (8-bit activations, f16 KV) to the f32 reference on the same decoded weights.
struct KlBound {
    const char* name;
    double largest;
};

double mean_kl(const Case& c) {
    const Logits ours = run(c, sized<keel_config>());
    const std::vector<float> reference = reference_rows(c, ours.vocabulary);
    if (reference.empty()) return INFINITY;
    double sum = 0;
    for (size_t i = 0; i < c.positions.size(); i++)
        sum += kl_divergence(reference.data() + i * ours.vocabulary, ours.row(c.positions[i]), ours.vocabulary);
    return sum / static_cast<double>(c.positions.size());
}

void expect_kl(const Case& c, double largest) {
    const double kl = mean_kl(c);
    std::printf("    %-16s mean KL %.7f (bound %g)\n", c.name.c_str(), kl, largest);
    EXPECT_LT(kl, largest) << c.name;
    EXPECT_GT(kl, -1e-9) << c.name;
}

// Bounds are 2e-3 or twice what the scalar kernels measure; llama.cpp's own 8-bit path lies between 0.0006 and 0.0014
// on the same files.
TEST(DefaultPath, KlToF32ReferenceIsSmallForEveryWeightType) {
    KEEL_SHARED_OR_SKIP(dir, "conformance");
    const KlBound bounds[] = {{"llama-gqa-q8_0", 2e-3},     {"llama-gqa-q6_k", 2e-3},     {"llama-gqa-q5_k_m", 2e-3},
                              {"llama-gqa-q4_k_m", 2e-3},   {"llama-gqa-q5_1", 1.4e-3},   {"llama-gqa-q5_0", 1.3e-3},
                              {"llama-gqa-q4_1", 1.4e-3},   {"llama-gqa-q4_0", 1.4e-3},   {"llama-gqa-iq4_xs", 2.6e-3},
                              {"llama-gqa-iq4_nl", 1.4e-3}, {"llama-gqa-q3_k_m", 2.5e-3}, {"llama-gqa-q2_k", 2.7e-3},
                              {"llama-gqa-f16", 1e-6}};
    for (const KlBound& bound : bounds) expect_kl(shared_case(dir, bound.name), bound.largest);
}

// Rows of 96 elements have no 256-element blocks, and the attention of this file is sharp.
TEST(DefaultPath, KlIsSmallForRowsOf96) {
    for (const Case& c : architecture_cases())
        if (c.name == "smollm2-q8_0") expect_kl(c, 4.8e-3);
}

}  // namespace
