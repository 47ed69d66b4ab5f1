#include "sdk/plan/kv_transform.h"

#include <string.h>

#include "kernels/formats/key_mean.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/plan/parts.h"
#include "sdk/plan/weights.h"

namespace keel {
namespace {

using kernels::pair_elements;
using kernels::PairElements;

// Without a profile a K bias is the mean of what is coded, unless a norm comes between.
bool uses_bias(const KvChoice& choice, const keel_model& model) {
    return !choice.has_profile && kernels::kKvFormats[choice.all.k].rotated && model.tensor(kAttnKBias, 0) &&
           !model.tensor(kAttnKNorm, 0);
}

// The pairs in which the biases of all layers have most energy, ascending.
void choose_bias_pairs(const KvTransform& t, const ModelSpec& s, bool neox) {
    const uint32_t rope_pairs = s.rope_dims / 2;
    double energy[kernels::kMaxMeanPairs] = {};
    for (uint32_t head = 0; head < s.layers * s.kv_heads; ++head) {
        const float* mean = t.key_mean + uint64_t{head} * s.head_dim;
        for (uint32_t i = 0; i < rope_pairs; ++i) {
            const PairElements at = pair_elements(i, rope_pairs, neox);
            energy[i] += double{mean[at.first]} * mean[at.first] + double{mean[at.second]} * mean[at.second];
        }
    }
    bool taken[kernels::kMaxMeanPairs] = {};
    for (uint32_t n = 0; n < t.pairs; ++n) {
        uint32_t best = rope_pairs;
        for (uint32_t i = 0; i < rope_pairs; ++i)
            if (!taken[i] && (best == rope_pairs || energy[i] > energy[best])) best = i;
        taken[best] = true;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < rope_pairs; ++i)
        if (taken[i]) t.pair[n++] = i;
}

keel_status fill_from_bias(const KvTransform& t, const keel_reader& reader, const keel_model& model,
                           const kernels::KernelSet& kernels, keel_error* error) {
    const uint32_t floats = t.kv_heads * t.head_dim;
    for (uint32_t layer = 0; layer < model.spec.layers; ++layer) {
        float* mean = t.key_mean + t.at(layer, 0);
        const GgufTensor* bias = model.tensor(kAttnKBias, layer);
        if (!bias)
            memset(mean, 0, floats * sizeof(float));
        else if (read_vector(reader, *bias, kernels, mean) != KEEL_OK)
            return fail(error, KEEL_E_FILE_READ, bias->offset, "attn_k.bias", "the reader failed");
    }
    for (uint64_t i = 0; i < uint64_t{model.spec.layers} * floats; ++i)
        if (!(__builtin_fabsf(t.key_mean[i]) < __builtin_inff()))
            return fail(error, KEEL_E_FILE_FORMAT, 0, "attn_k.bias", "not a finite number");
    choose_bias_pairs(t, model.spec, model.row().rope_neox);
    // A bias is no mean of what RoPE has turned: outside the listed pairs it stays where it is.
    const uint32_t rope_pairs = model.spec.rope_dims / 2;
    bool listed[kernels::kMaxHeadDim] = {};
    for (uint32_t i = 0; i < t.pairs; ++i) {
        const PairElements at = pair_elements(t.pair[i], rope_pairs, model.row().rope_neox);
        listed[at.first] = listed[at.second] = true;
    }
    for (uint32_t i = model.spec.rope_dims; i < t.head_dim; ++i) listed[i] = true;  // elements that are not rotated
    for (uint64_t i = 0; i < uint64_t{model.spec.layers} * floats; ++i)
        if (!listed[i % t.head_dim]) t.key_mean[i] = 0.0f;
    return KEEL_OK;
}

void fill_tables(const PlanConfig& config, const ExecutionPlan& plan, const double* frequencies, uint32_t rope_pairs,
                 const KvTransform& t) {
    double listed[kernels::kMaxMeanPairs];
    float turn[2 * kernels::kMaxMeanPairs];
    for (uint32_t set = 0; set < plan.rope_sets; ++set) {
        for (uint32_t i = 0; i < t.pairs; ++i) listed[i] = frequencies[set * rope_pairs + t.pair[i]];
        float* tile_rotations = t.tile_rotations + uint64_t{set} * t.tiles * 2 * t.pairs;
        for (uint32_t tile = 0; tile < t.tiles; ++tile)
            config.kernels->rope_table(listed, t.pairs, tile * kernels::kAttentionTile, 1.0f,
                                       tile_rotations + uint64_t{tile} * 2 * t.pairs);
        float* offset_rotations = t.offset_rotations + uint64_t{set} * 2 * t.pairs * kernels::kAttentionTile;
        for (uint32_t j = 0; j < kernels::kAttentionTile; ++j) {
            config.kernels->rope_table(listed, t.pairs, j, 1.0f, turn);
            for (uint32_t i = 0; i < 2 * t.pairs; ++i) offset_rotations[i * kernels::kAttentionTile + j] = turn[i];
        }
    }
}

}  // namespace

uint32_t kv_mean_pairs(const KvChoice& choice, const keel_model& model) {
    if (choice.has_profile) return choice.header.mean_pairs;
    const uint32_t rope_pairs = model.spec.rope_dims / 2;
    return uses_bias(choice, model) ? (rope_pairs < kBiasMeanPairs ? rope_pairs : kBiasMeanPairs) : 0;
}

keel_status place_kv_transform(const keel_reader& reader, const PlanConfig& config, const keel_model& model,
                               const ExecutionPlan& plan, const double* frequencies, Arena& arena, KvTransform* out,
                               keel_error* error) {
    const ModelSpec& s = model.spec;
    const KvChoice& choice = config.kv;
    const KvProfileOffsets o = choice.has_profile ? kv_profile_offsets(choice.header) : KvProfileOffsets{};
    const uint64_t before = arena.used_bytes(), floats = uint64_t{s.layers} * s.kv_heads * s.head_dim;
    const bool bias = uses_bias(choice, model);
    KvTransform t = {};
    t.pairs = kv_mean_pairs(choice, model);
    t.tiles = (config.context_tokens + kernels::kAttentionTile - 1) / kernels::kAttentionTile;
    t.kv_heads = s.kv_heads;
    t.head_dim = s.head_dim;
    if (o.key_means || bias) t.key_mean = arena.place<float>("kv_key_mean", floats);
    if (o.value_means) t.value_mean = arena.place<float>("kv_value_mean", floats);
    if (o.gains) {
        t.gain = arena.place<float>("kv_gain", floats);
        t.inverse_gain = arena.place<float>("kv_inverse_gain", floats);
    }
    if (t.pairs) {
        t.pair = arena.place<uint32_t>("kv_mean_pairs", t.pairs);
        t.tile_rotations = arena.place<float>("kv_tile_rotations", uint64_t{plan.rope_sets} * t.tiles * 2 * t.pairs);
        t.offset_rotations =
            arena.place<float>("kv_offset_rotations", uint64_t{plan.rope_sets} * 2 * t.pairs * kernels::kAttentionTile);
    }
    t.bytes = arena.used_bytes() - before;
    *out = t;
    if (arena.counting() || !arena.ok()) return KEEL_OK;

    if (choice.has_profile) {
        keel_error detail = {};
        detail.struct_size = sizeof detail;
        const keel_status status =
            read_kv_profile_arrays(choice, s.rope_dims / 2, {t.pair, t.key_mean, t.value_mean, t.gain}, &detail);
        if (status != KEEL_OK) return fail_part(error, status, choice.part_index, detail);
    }
    for (uint64_t i = 0; t.gain && i < floats; ++i) t.inverse_gain[i] = 1.0f / t.gain[i];
    if (bias) KEEL_TRY(fill_from_bias(t, reader, model, *config.kernels, error));
    if (t.pairs) fill_tables(config, plan, frequencies, s.rope_dims / 2, t);
    return KEEL_OK;
}

void remove_key_mean_before_rope(const KvTransform& t, uint32_t layer, uint32_t kv_head, uint32_t rope_pairs, bool neox,
                                 float* k) {
    const float* mean = t.key_mean + t.at(layer, kv_head);
    for (uint32_t i = 0; i < t.pairs; ++i) {
        const PairElements at = pair_elements(t.pair[i], rope_pairs, neox);
        k[at.first] = k[at.first] - mean[at.first];
        k[at.second] = k[at.second] - mean[at.second];
    }
}

void remove_key_mean_after_rope(const KvTransform& t, uint32_t layer, uint32_t kv_head, uint32_t rope_pairs, bool neox,
                                float* k) {
    const float* mean = t.key_mean + t.at(layer, kv_head);
    uint32_t next = 0;  // in the list
    for (uint32_t i = 0; i < rope_pairs; ++i) {
        if (next < t.pairs && t.pair[next] == i) {
            ++next;
            continue;
        }
        const PairElements at = pair_elements(i, rope_pairs, neox);
        k[at.first] = k[at.first] - mean[at.first];
        k[at.second] = k[at.second] - mean[at.second];
    }
    for (uint32_t i = 2 * rope_pairs; i < t.head_dim; ++i) k[i] = k[i] - mean[i];
}

void key_mean_coefficients(const KvTransform& t, uint32_t layer, uint32_t kv_head, uint32_t rope_pairs, bool neox,
                           float factor, const float* q, float* coefficients) {
    const float* mean = t.key_mean + t.at(layer, kv_head);
    for (uint32_t i = 0; i < t.pairs; ++i) {
        kernels::key_mean_coefficient(mean, pair_elements(t.pair[i], rope_pairs, neox), factor, q, &coefficients[2 * i],
                                      &coefficients[2 * i + 1]);
    }
}

void multiply_row(float* x, const float* by, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) x[i] = x[i] * by[i];
}
void subtract_row(float* x, const float* by, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) x[i] = x[i] - by[i];
}
void add_row(float* x, const float* by, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) x[i] = x[i] + by[i];
}

}  // namespace keel
