// Wired models (sdk/model/WIRED_MODELS.md): what their metadata may say, and what layers with the same weights share.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kWired = keel_test::source_path("tests/data/wired/wired.gguf");
constexpr uint32_t kLayers = 9, kBlocks = 5;

// The committed model with bytes of its metadata replaced.
struct Patched {
    std::vector<char> bytes = keel_test::read_file(kWired);

    // Where the type of a key's value stands; of an array its entries come 16 bytes later, of a number it 4.
    size_t type_of(const std::string& key) const {
        const std::string name = "keel-wired." + key;
        for (size_t at = 8; at + name.size() < bytes.size(); ++at) {
            uint64_t length;
            memcpy(&length, &bytes[at - 8], 8);
            if (length == name.size() && memcmp(&bytes[at], name.data(), name.size()) == 0) return at + name.size();
        }
        throw std::runtime_error("no key " + key);
    }
    template <class T>
    Patched& put(size_t at, T value) {
        memcpy(&bytes[at], &value, sizeof value);
        return *this;
    }
    Patched& entry(const std::string& key, uint32_t index, int32_t value) {
        return put(type_of(key) + 16 + 4 * index, value);
    }
    template <class T>
    Patched& number(const std::string& key, T value) {
        return put(type_of(key) + 4, value);
    }
    // As if it were not there.
    Patched& without(const std::string& key) { return put(type_of(key) - 1, '?'); }

    keel_status inspect(keel_error* error, uint32_t max_layers = 0) const {
        keel_reader reader = sized<keel_reader>();
        check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
        keel_limits limits = sized<keel_limits>();
        limits.max_layers = max_layers;
        std::vector<uint64_t> buffer(1 << 16);
        keel_model_info info = sized<keel_model_info>();
        const keel_model* model = nullptr;
        *error = sized<keel_error>();
        return keel_inspect(&reader, &limits, buffer.data(), buffer.size() * 8, &model, &info, error);
    }
};

void expect_refused(const Patched& file, keel_status status, const std::string& field, uint32_t max_layers = 0) {
    keel_error error;
    EXPECT_EQ(status, file.inspect(&error, max_layers)) << field;
    EXPECT_NE(nullptr, strstr(error.field, field.c_str())) << error.field << ": " << error.reason;
}

TEST(WiredModels, MetadataIsChecked) {
    const keel_status bad = KEEL_E_FILE_FORMAT;
    keel_error error;
    ASSERT_EQ(KEEL_OK, Patched().inspect(&error)) << error.field << error.reason;
    // Layers: blocks that are there, and each of them.
    expect_refused(Patched().entry("layer_blocks", 3, kBlocks), bad, "layer_blocks");
    expect_refused(Patched().entry("layer_blocks", 3, -1), bad, "layer_blocks");
    expect_refused(Patched().entry("layer_blocks", kLayers - 1, 0), bad, "layer_blocks");
    expect_refused(Patched().put(Patched().type_of("layer_blocks") + 4, uint32_t{6}), bad, "layer_blocks");  // f32
    expect_refused(Patched(), KEEL_E_FILE_LIMIT, "layer_blocks", kLayers - 1);
    expect_refused(Patched().without("layer_blocks"), bad, "layer_skips");  // of nine layers
    expect_refused(Patched().number("block_count", uint32_t{129}), KEEL_E_FILE_LIMIT, "block_count");
    expect_refused(Patched().number("block_count", kBlocks + 1), bad, "layer_blocks");
    // Skips: of earlier layers.
    expect_refused(Patched().entry("layer_skips", 4, 4), bad, "layer_skips");
    expect_refused(Patched().entry("layer_skips", 0, 8), bad, "layer_skips");
    expect_refused(Patched().entry("layer_skips", 4, -2), bad, "layer_skips");
    expect_refused(Patched().entry("layer_skips", 4, 128), bad, "layer_skips");
    EXPECT_EQ(KEEL_OK, Patched().without("layer_skips").inspect(&error)) << error.field << error.reason;
    // Lanes and gates: coefficients of these sizes.
    expect_refused(Patched().number("two_lanes_from", kLayers + 1), bad, "two_lanes_from");
    expect_refused(Patched().number("two_lanes_from", kLayers - 1), bad, "lane_mix.weight");
    expect_refused(Patched().without("two_lanes_from"), bad, "lane_mix.weight");
    expect_refused(Patched().number("attention.gate_length", uint32_t{33}), bad, "gate_length");
    expect_refused(Patched().number("attention.gate_length", uint32_t{11}), bad, "attn_gate.weight");
    expect_refused(Patched().without("attention.gate_length"), bad, "attn_gate.weight");
    expect_refused(Patched().number("smear_gate_length", UINT32_MAX), bad, "smear_gate_length");
    expect_refused(Patched().without("smear_gate_length"), bad, "smear_gate.weight");
    // Numbers.
    for (const float leak : {1.5f, -1.5f, NAN})
        expect_refused(Patched().number("feed_forward_leak", leak), bad, "feed_forward_leak");
    for (const float scale : {INFINITY, NAN})
        expect_refused(Patched().number("smear_scale", scale), bad, "smear_scale");
}

// A block lies in memory once, however many layers have it; every layer has KV rows of its own.
TEST(WiredModels, BlocksLieInMemoryOnce) {
    const keel_test::InspectedFile file(kWired);
    EXPECT_EQ(kLayers, file.info.layers);
    for (const keel_weights weights : {KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_MAP}) {
        keel_config c = sized<keel_config>();
        c.context_tokens = 64;
        c.weights = weights;
        c.k_format = c.v_format = KEEL_KV_F16;
        keel_memory_plan plan = sized<keel_memory_plan>();
        keel_error error = sized<keel_error>();
        check(keel_plan(&file.reader, file.model, &c, &plan, &error), "plan", &error);
        EXPECT_EQ(uint64_t{kLayers} * 2 * 2 * 16 * 2, plan.kv_bytes_per_token);  // K and V of two heads of 16
        const std::vector<keel_op_info> ops = keel_test::plan_ops(&file.reader, file.model, c);
        std::map<std::string, uint32_t> count, objects;
        for (const keel_op_info& op : ops) ++count[op.name];
        EXPECT_EQ(kLayers, count["attn_q"]);
        EXPECT_EQ(kLayers, count["exclude"]);
        EXPECT_EQ(kLayers, count["input_mix"]);
        EXPECT_EQ(2 * 2u, count["lane_mix"]);
        for (const keel_buffer_info& b : keel_test::plan_buffers(&file.reader, file.model, c))
            if (b.region == KEEL_REGION_WEIGHTS) ++objects[b.name];
        EXPECT_EQ(weights == KEEL_WEIGHTS_COPY ? kBlocks : 0u, objects["attn_q.weight"]);
        EXPECT_EQ(kBlocks, objects["attn_norm.weight"]);
        EXPECT_EQ(1u, objects["input_mix.weight"]);
    }
}

// What one token before another leaves in it does not depend on which step computed it.
TEST(WiredModels, EveryCutGivesTheSameBits) {
    std::vector<int32_t> ids(70);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % 13 == 5 ? 1 : 3 + 37 * i % 260);
    std::vector<float> first;
    for (const uint32_t chunk : {1u, 3u, 64u})
        for (const keel_cpu cpu : {KEEL_CPU_SCALAR, KEEL_CPU_AUTO}) {
            keel_config c = sized<keel_config>();
            c.threads = 2;
            c.cpu = cpu;
            c.chunk_tokens = chunk;
            c.logits_rows = 64;
            const keel_test::Logits logits = keel_test::Engine(kWired, c).logits_for(ids);
            if (first.empty()) first = logits.values;
            EXPECT_EQ(first, logits.values) << chunk;
        }
    ids[40] = 77;  // seen by the next token through its embedding, even where attention saw nothing
    keel_config c = sized<keel_config>();
    c.logits_rows = 64;
    const keel_test::Logits other = keel_test::Engine(kWired, c).logits_for(ids);
    EXPECT_TRUE(std::equal(first.begin(), first.begin() + 40 * other.vocabulary, other.values.begin()));
    EXPECT_FALSE(
        std::equal(first.begin() + 41 * other.vocabulary, first.begin() + 42 * other.vocabulary, other.row(41)));
}

}  // namespace
