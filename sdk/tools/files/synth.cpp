#include "sdk/tools/files/synth.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "kernels/formats/weight_trellis_tables.h"
#include "sdk/model/model.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/files/gguf_writer.h"
#include "sdk/tools/files/synth_random.h"
#include "sdk/tools/files/type_mix.h"

namespace keel::tools {
namespace {

using namespace kernels;

// f32 to f16, round to nearest even; magnitudes here never overflow.
uint16_t to_f16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x38800000) {  // normal: rebias the exponent, round 13 bits away
        const uint32_t rebased = magnitude - (112u << 23);
        return static_cast<uint16_t>(sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
    }
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(nearbyintf(fabsf(value) * 0x1p24f)));
}
uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// ---- blocks ----
//
// A block is random bits: every bit pattern of codes and sub-block scales is valid. Only the f16 fields are set, so
// that a weight has the wanted standard deviation. `deviation` is that of a weight when d = 1 and codes are uniform:
//     q of n consecutive integers about its centre: sqrt((n*n - 1) / 12), off centre by 1/2: 1/4 more under the root
//     sub-block scales: root mean square of 0..15: 8.803, 0..63: 36.517, -32..31: 18.480, -128..127: 73.901
// Formats with a minimum keep the mean at zero by minimum = centre of q * scale, with sub-block minima equal to the
// scales. Formats whose codes lie off centre by 1/2 get a d of random sign instead.

enum Mirror : uint8_t { kNoMirror, kMirrorNibbles, kMirror6Bit };  // see mirror_minima

struct TypeRecipe {
    WeightType type;
    double deviation = 0;  // 0: a float type
    double minimum_per_d = 0;
    Mirror mirror = kNoMirror;
    bool random_sign = false;
};

// Of independent fields; a rotation keeps it. The mean of all q goes to the first element of a block.
constexpr double trellis_deviation(uint32_t type) {
    const TrellisCode code = trellis_code(type);
    double square = 0;
    const uint32_t states = 1u << code.state_bits();
    for (uint32_t state = 0; state < states; ++state) square += code.value(state) * code.value(state);
    square /= states;
    double root = 20;
    for (int i = 0; i < 8; ++i) root = (root + square / root) / 2;
    return root;
}

// Every type that a GGUF file may have.
constexpr TypeRecipe kRecipes[] = {
    {.type = kF32},
    {.type = kF16},
    {.type = kBF16},
    {.type = kQ4_0, .deviation = 4.637, .random_sign = true},
    {.type = kQ4_1, .deviation = 4.610, .minimum_per_d = -7.5},
    {.type = kQ5_0, .deviation = 9.247, .random_sign = true},
    {.type = kQ5_1, .deviation = 9.233, .minimum_per_d = -15.5},
    {.type = kQ8_0, .deviation = 73.901, .random_sign = true},
    {.type = kQ2_K, .deviation = 1.118 * 8.803, .minimum_per_d = 1.5, .mirror = kMirrorNibbles},
    {.type = kQ3_K, .deviation = 2.345 * 18.480, .random_sign = true},
    {.type = kQ4_K, .deviation = 4.610 * 36.517, .minimum_per_d = 7.5, .mirror = kMirror6Bit},
    {.type = kQ5_K, .deviation = 9.233 * 36.517, .minimum_per_d = 15.5, .mirror = kMirror6Bit},
    {.type = kQ6_K, .deviation = 18.480 * 73.901, .random_sign = true},
    {.type = kIQ4_NL, .deviation = 66.75, .random_sign = true},
    {.type = kIQ4_XS, .deviation = 66.75 * 18.480, .random_sign = true},
    {.type = kWT2, .deviation = trellis_deviation(kWT2), .random_sign = true},
    {.type = kWT3, .deviation = trellis_deviation(kWT3), .random_sign = true},
};
constexpr const TypeRecipe* find_recipe(uint32_t type) {
    for (const TypeRecipe& r : kRecipes)
        if (r.type == type) return &r;
    return nullptr;
}
constexpr bool every_gguf_type_has_a_recipe() {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type)
        if (in_gguf(kWeightTypes[type].number) != (find_recipe(type) != nullptr)) return false;
    return true;
}
static_assert(every_gguf_type_has_a_recipe());

// Makes each sub-block's minimum equal its scale. Nibbles: Q2_K's 16 bytes hold scale | minimum << 4. 6-bit: 12 bytes
// at offset 4 hold eight scales and eight minima; bytes 0-3 are scales, 4-7 minima, 8-11 the low nibbles of the upper
// four.
void mirror_minima(Mirror mirror, uint8_t* block) {
    const auto same_nibbles = [](uint8_t* p, int n) {
        for (int i = 0; i < n; ++i) p[i] = static_cast<uint8_t>((p[i] & 15) | p[i] << 4);
    };
    if (mirror == kMirrorNibbles) same_nibbles(block, 16);
    if (mirror == kMirror6Bit) {
        memcpy(block + 8, block + 4, 4);
        same_nibbles(block + 12, 4);
    }
}

// ---- tensors ----

struct TensorPlan {
    enum Kind { kMatrix, kNorm, kBias, kValues } kind;
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    double deviation;           // matrices and biases
    std::vector<float> values;  // kValues: the whole F32 tensor
};

// Produces one tensor's bytes from front to back.
class TensorFiller {
  public:
    TensorFiller(const TensorPlan& plan, const std::vector<float>& normals, uint64_t seed)
        : plan_(plan), random_(seed) {
        if (find_recipe(plan.type)->deviation > 0) {
            recipe_ = find_recipe(plan.type);
            // Scales vary by +-30 % from block to block; 1.0149 is the root mean square of that factor.
            for (size_t i = 0; i < kScales; ++i) {
                const double factor = (0.7 + 0.6 * static_cast<double>(i) / (kScales - 1)) / 1.0149;
                const double d = plan.deviation / recipe_->deviation * factor;
                const double sign = recipe_->random_sign && i % 2 ? -1 : 1;
                scales_[i] = to_f16(static_cast<float>(d * sign));
                minima_[i] = to_f16(static_cast<float>(d * recipe_->minimum_per_d));
            }
            return;
        }
        const double offset = plan.kind == TensorPlan::kNorm ? 1 : 0;
        for (float x : normals) {
            const float value = static_cast<float>(offset + plan.deviation * x);
            narrow_.push_back(plan.type == kBF16 ? to_bf16(value) : to_f16(value));
            wide_.push_back(value);
        }
    }

    void operator()(uint64_t offset, uint8_t* dst, uint64_t bytes) {
        if (plan_.kind == TensorPlan::kValues)
            memcpy(dst, reinterpret_cast<const uint8_t*>(plan_.values.data()) + offset, bytes);
        else if (recipe_)
            blocks(dst, bytes);
        else if (plan_.type == kF32)
            draw(random_, wide_, dst, bytes / sizeof(float));
        else
            draw(random_, narrow_, dst, bytes / sizeof(uint16_t));
    }

  private:
    static constexpr size_t kScales = 64;

    void blocks(uint8_t* dst, uint64_t bytes) {
        random_.fill(dst, bytes);
        const WeightTypeInfo& info = kWeightTypes[recipe_->type];
        for (uint8_t* block = dst; block < dst + bytes; block += info.block_bytes) {
            const size_t pick = block[info.d_at] % kScales;
            memcpy(block + info.d_at, &scales_[pick], 2);
            if (info.has_minimum()) memcpy(block + info.m_at, &minima_[pick], 2);
            mirror_minima(recipe_->mirror, block);
        }
    }

    const TensorPlan& plan_;
    Random random_;
    const TypeRecipe* recipe_ = nullptr;  // of a quantized type
    std::array<uint16_t, kScales> scales_, minima_;
    std::vector<uint16_t> narrow_;
    std::vector<float> wide_;
};

// ---- architectures ----

const ArchitectureRow& architecture_row(const std::string& name) {
    if (const ArchitectureRow* row = find_architecture(name.c_str())) return *row;
    throw std::invalid_argument("unknown architecture: " + name);
}
bool has(SlotSet set, TensorSlot slot) {
    return set & slot_bit(slot);
}

constexpr uint32_t kMinVocabulary = 512;

void check(const SynthSpec& s) {
    const auto require = [](bool ok, const std::string& what) {
        if (!ok) throw std::invalid_argument(what);
    };
    require(s.layers && s.embedding && s.heads && s.kv_heads && s.feed_forward && s.context, "a size is 0");
    require(s.heads % s.kv_heads == 0, "heads is not a multiple of kv_heads");
    require(s.head_dim && s.head_dim % 2 == 0, "head_dim is not even");
    require(s.vocabulary >= kMinVocabulary, "vocabulary is below 512");
    require(!architecture_row(s.architecture).wired || s.layers <= 32, s.architecture + " has at most 32 layers here");
    const bool fused = has(architecture_row(s.architecture).required, kAttnQkv);
    require(!fused || s.heads * s.head_dim == s.embedding, s.architecture + " needs heads * head_dim = embedding");
}

// Frequency divisors by Llama 3.1's rule: long wavelengths are stretched by `factor`, short ones kept, a ramp between.
std::vector<float> llama3_factors(const SynthSpec& s) {
    constexpr double kTrained = 8192, kLow = 1, kHigh = 4;
    std::vector<float> out;
    for (uint32_t i = 0; i < s.head_dim / 2; ++i) {
        const double wavelength = 6.283185307179586 * pow(s.rope_base, 2.0 * i / s.head_dim);
        const double ramp = std::clamp((kTrained / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
        out.push_back(static_cast<float>(1 / ((1 - ramp) / s.rope_factor + ramp)));
    }
    return out;
}
std::vector<float> long_rope_factors(const SynthSpec& s, double largest) {
    std::vector<float> out;
    for (uint32_t i = 0; i < s.head_dim / 2; ++i) out.push_back(static_cast<float>(pow(largest, 2.0 * i / s.head_dim)));
    return out;
}

// Of wired models: the middle blocks twice, the outputs of the first half of the layers into those of the second, last
// one first, and a second lane at the end.
void wire(ModelSpec* s) {
    const uint32_t first = s->blocks / 3, last = std::max(first + 1, 2 * s->blocks / 3);
    Wiring& w = s->wiring;
    s->wired = true;
    s->layers = 0;
    for (const auto& [from, to] : {std::pair{0u, last}, {first, last}, {last, s->blocks}})
        for (uint32_t block = from; block < to; ++block) w.block[s->layers++] = static_cast<uint8_t>(block);
    const uint32_t half = s->layers / 2;
    for (uint32_t i = 0; i < s->layers; ++i)
        w.skip[i] = i < half || i >= 2 * half ? Wiring::kNone : static_cast<uint8_t>(2 * half - 1 - i);
    w.two_lanes_from = s->layers - std::max(1u, s->layers / 4);
    s->gate_length = s->smear_gate_length = 12;
}

// The sizes that slots' shapes are written in.
ModelSpec sizes_of(const SynthSpec& s) {
    ModelSpec sizes = {};
    sizes.layers = sizes.blocks = s.layers;
    sizes.embedding = s.embedding;
    sizes.feed_forward = s.feed_forward;
    sizes.heads = s.heads;
    sizes.kv_heads = s.kv_heads;
    sizes.head_dim = sizes.rope_dims = s.head_dim;
    sizes.vocabulary = s.vocabulary;
    if (architecture_row(s.architecture).wired) wire(&sizes);
    return sizes;
}

// All tensors in file order: of the slots that the architecture requires, and of the optional ones that the spec asks
// for.
std::vector<TensorPlan> plan_tensors(const SynthSpec& s) {
    check(s);
    const ArchitectureRow& row = architecture_row(s.architecture);
    const TypeMix mix = find_mix(s.mix);
    const ModelSpec sizes = sizes_of(s);
    const bool tied = s.tied || row.file.always_tied;
    SlotSet slots = row.required;
    if (!tied) slots |= slot_bit(kOutput);
    if (row.wired) slots |= row.optional & kCoefficients;
    if (s.rope_factor > 0)
        slots |= row.optional & (slot_bit(kRopeFreqs) | slot_bit(kRopeFactorsLong) | slot_bit(kRopeFactorsShort));

    std::vector<TensorPlan> out;
    const auto add = [&](TensorSlot slot, const std::string& name, bool more) {
        const SlotInfo& info = kSlots[slot];
        const uint64_t k = dim_value(sizes, info.k), rows = dim_value(sizes, info.rows);
        if (is_matrix(slot)) {
            WeightType type = matrix_type(mix, slot, tied, more);
            for (const auto& [part, type_name] : s.overrides)
                if (name.find(part) != std::string::npos) {
                    type = find_mix(type_name).base;
                    break;
                }
            // A row of k weights of deviation 1/sqrt(k) keeps the variance of what it is multiplied with.
            const double deviation = 1 / sqrt(static_cast<double>(k));
            out.push_back({TensorPlan::kMatrix, name, {k, rows}, fitting_type(type, k), deviation, {}});
            return;
        }
        switch (slot) {
            case kRopeFreqs:
                out.push_back({TensorPlan::kValues, name, {k}, kF32, 0, llama3_factors(s)});
                break;
            case kRopeFactorsLong:
                out.push_back({TensorPlan::kValues, name, {k}, kF32, 0, long_rope_factors(s, s.rope_factor)});
                break;
            case kRopeFactorsShort:
                out.push_back({TensorPlan::kValues, name, {k}, kF32, 0, long_rope_factors(s, 1.1)});
                break;
            case kSmearGate:
            case kInputMix:
            case kLaneMix:
            case kLaneEnd:
            case kAttnGate:
                out.push_back({TensorPlan::kBias, name, {k, rows, dim_value(sizes, info.matrices)}, kF32, 0.6, {}});
                break;
            case kAttnQBias:
            case kAttnKBias:
            case kAttnVBias:
                out.push_back({TensorPlan::kBias, name, {k}, kF32, 0.5, {}});
                break;
            default:
                out.push_back({TensorPlan::kNorm, name, {k}, kF32, 0.1, {}});
        }
    };
    const auto add_slots = [&](uint32_t first, uint32_t last, const std::string& prefix, bool more) {
        for (uint32_t i = first; i < last; ++i)
            if (const TensorSlot slot = static_cast<TensorSlot>(i); has(slots, slot))
                add(slot, prefix + kSlots[slot].name, more);
    };
    add_slots(0, kGlobalSlots, "", false);
    for (uint32_t layer = 0; layer < s.layers; ++layer)
        add_slots(kGlobalSlots, kSlotCount, "blk." + std::to_string(layer) + ".", keeps_more(mix, layer, s.layers));
    return out;
}

// ---- tokenizers ----

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6 };

// Control tokens at the end of a vocabulary; the first two are beginning and end of a sequence.
std::vector<std::string> control_tokens(const UsualFile& file, const std::string& pre) {
    std::vector<std::string> tokens;
    for (const char* token : file.control_tokens)
        if (token) tokens.push_back(token);
    if (!tokens.empty()) return tokens;
    if (pre == "llama-bpe")
        return {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
    if (!pre.empty()) return {"<|endoftext|>", "<|im_end|>", "<|im_start|>"};
    return {"<s>", "</s>"};
}

std::string utf8(uint32_t code_point) {  // below 0x10000
    if (code_point < 0x80) return {static_cast<char>(code_point)};
    if (code_point < 0x800)
        return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
    return {static_cast<char>(0xe0 | code_point >> 12), static_cast<char>(0x80 | (code_point >> 6 & 63)),
            static_cast<char>(0x80 | (code_point & 63))};
}

// The first `count` strings of two or more symbols over a-z, optionally begun by `space`, shorter ones first. Each is
// an earlier one (or a single symbol) plus one letter, hence reachable by merging pairs. add(left, letter) sees both
// parts.
template <class Add>
void letter_pieces(const std::string& space, size_t count, Add add) {
    std::vector<std::string> shorter = {space};
    for (char c = 'a'; c <= 'z'; ++c) shorter.push_back({c});
    while (count) {
        std::vector<std::string> longer;
        for (const std::string& left : shorter)
            for (char c = 'a'; c <= 'z' && count; ++c, --count) {
                add(left, std::string{c});
                longer.push_back(left + c);
            }
        shorter = std::move(longer);
    }
}

void write_tokenizer(const SynthSpec& s, const UsualFile& file, GgufWriter* w) {
    const bool bpe = s.tokenizer == SynthTokenizer::kBpe || (s.tokenizer == SynthTokenizer::kDefault && file.bpe);
    const std::string pre = !bpe ? "" : s.pre_tokenizer.empty() ? file.pre_tokenizer : s.pre_tokenizer;
    const std::vector<std::string> controls = control_tokens(file, pre);
    const uint32_t first_control = s.vocabulary - static_cast<uint32_t>(controls.size());

    std::vector<std::string> tokens, merges;
    std::vector<int32_t> types;
    std::vector<float> scores;
    const auto token = [&](const std::string& text, int32_t type) {
        tokens.push_back(text);
        scores.push_back(type == kNormal ? -static_cast<float>(tokens.size()) : 0);
        types.push_back(type);
    };
    if (bpe) {
        // The byte alphabet: printable Latin-1 bytes stand for themselves, the rest for code points from 256 on.
        const auto printable = [](uint32_t b) { return (b >= 33 && b <= 126) || (b >= 161 && b != 173); };
        for (uint32_t b = 0; b < 256; ++b)
            if (printable(b)) token(utf8(b), kNormal);
        for (uint32_t b = 0, other = 256; b < 256; ++b)
            if (!printable(b)) token(utf8(other++), kNormal);
        letter_pieces(utf8(0x120), first_control - tokens.size(), [&](const std::string& left, const std::string& c) {
            token(left + c, kNormal);
            merges.push_back(left + " " + c);
        });
    } else {
        token("<unk>", kUnknown);
        for (uint32_t b = 0; b < 256; ++b) {
            const char* hex = "0123456789ABCDEF";
            token({'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'}, kByte);
        }
        const std::string space = utf8(0x2581);
        token(space, kNormal);
        for (char c = '!'; c <= '~'; ++c) token({c}, kNormal);
        letter_pieces(space, first_control - tokens.size(),
                      [&](const std::string& left, const std::string& c) { token(left + c, kNormal); });
    }
    for (const std::string& text : controls) token(text, kControl);

    w->string("tokenizer.ggml.model", bpe ? "gpt2" : "llama");
    w->string("tokenizer.ggml.pre", bpe ? pre : "default");
    w->strings("tokenizer.ggml.tokens", tokens);
    if (!bpe) w->numbers("tokenizer.ggml.scores", scores);
    w->numbers("tokenizer.ggml.token_type", types);
    if (bpe) w->strings("tokenizer.ggml.merges", merges);
    w->number<uint32_t>("tokenizer.ggml.bos_token_id", first_control);
    w->number<uint32_t>("tokenizer.ggml.eos_token_id", first_control + 1);
    if (!bpe) w->number<uint32_t>("tokenizer.ggml.unknown_token_id", 0);
    w->boolean("tokenizer.ggml.add_bos_token", !bpe || pre == "llama-bpe");
    if (!bpe) w->boolean("tokenizer.ggml.add_space_prefix", file.space_prefix);
}

// ---- metadata ----

void write_metadata(const SynthSpec& s, GgufWriter* w) {
    const ArchitectureRow& row = architecture_row(s.architecture);
    const UsualFile& file = row.file;
    const TypeMix mix = find_mix(s.mix);
    const std::string a = s.architecture + ".";
    const auto u32 = [&](const char* key, uint32_t value) { w->number<uint32_t>(a + key, value); };
    const auto f32 = [&](const char* key, double value) { w->number<float>(a + key, static_cast<float>(value)); };

    w->string("general.architecture", s.architecture);
    w->string("general.type", "model");
    w->string("general.name", s.name);
    w->number<uint32_t>("general.file_type", mix.file_type);
    if (kWeightTypes[mix.base].block_elements > 1) w->number<uint32_t>("general.quantization_version", 2);
    u32("block_count", s.layers);
    if (row.wired) {
        const ModelSpec sizes = sizes_of(s);
        std::vector<int32_t> blocks, skips;
        for (uint32_t i = 0; i < sizes.layers; ++i) {
            blocks.push_back(sizes.wiring.block[i]);
            skips.push_back(sizes.wiring.skip[i] == Wiring::kNone ? -1 : sizes.wiring.skip[i]);
        }
        w->numbers(a + "layer_blocks", blocks);
        w->numbers(a + "layer_skips", skips);
        u32("two_lanes_from", sizes.wiring.two_lanes_from);
        w->boolean(a + "attention.exclusive", true);
        u32("attention.gate_length", sizes.gate_length);
        u32("smear_gate_length", sizes.smear_gate_length);
        f32("smear_scale", 0.5);
        f32("feed_forward_leak", 0.5);
    }
    u32("context_length", s.context);
    u32("embedding_length", s.embedding);
    u32("feed_forward_length", s.feed_forward);
    u32("attention.head_count", s.heads);
    u32("attention.head_count_kv", s.kv_heads);
    u32("attention.key_length", s.head_dim);
    u32("attention.value_length", s.head_dim);
    f32("attention.layer_norm_rms_epsilon", file.norm_eps);
    f32("rope.freq_base", s.rope_base);
    if (file.names_sizes) {
        u32("rope.dimension_count", s.head_dim);
        u32("vocab_size", s.vocabulary);
    }
    if (s.sliding_window || row.sliding == Sliding::kEvenLayers || row.sliding == Sliding::kFiveOfSix)
        u32("attention.sliding_window", s.sliding_window ? s.sliding_window : s.context / 2);
    if (file.attention_softcap > 0) f32("attn_logit_softcapping", file.attention_softcap);
    if (file.logit_softcap > 0) f32("final_logit_softcapping", file.logit_softcap);
    if (file.linear_rope_scaling && s.rope_factor > 0) {
        w->string(a + "rope.scaling.type", "linear");
        f32("rope.scaling.factor", s.rope_factor);
    }
    if (has(row.optional, kRopeFactorsLong)) {
        const double trained = s.rope_factor > 0 ? std::max(2.0, s.context / s.rope_factor) : s.context;
        u32("rope.scaling.original_context_length", static_cast<uint32_t>(trained));
        // Long-context attention factor of Phi-3: sqrt(1 + ln(extension) / ln(trained context)).
        if (s.rope_factor > 1) f32("rope.scaling.attn_factor", sqrt(1 + log(s.rope_factor) / log(trained)));
    }
    write_tokenizer(s, file, w);
}

GgufWriter describe(const SynthSpec& spec, const std::vector<TensorPlan>& plans) {
    GgufWriter w;
    write_metadata(spec, &w);
    for (const TensorPlan& p : plans) w.tensor(p.name, p.dims, p.type);
    return w;
}

// ---- shapes by name ----

struct Shape {
    const char* name;
    uint32_t layers, embedding, heads, kv_heads, head_dim, feed_forward, vocabulary, context;
    bool tied;
    double rope_base, rope_factor;
    const char* pre;  // null: SPM
};
constexpr Shape kShapes[] = {
    {"tiny", 2, 256, 4, 2, 64, 512, 1024, 2048, true, 10000, 0, nullptr},
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, true, 100000, 0, "smollm"},
    {"738m", 24, 1536, 24, 8, 64, 4352, 34304, 4096, false, 10000, 0, nullptr},
    {"1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, true, 500000, 32, "llama-bpe"},
    {"3b", 28, 3072, 24, 8, 128, 8192, 128256, 131072, true, 500000, 32, "llama-bpe"},
    {"8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, false, 500000, 8, "llama-bpe"},
};

}  // namespace

SynthSpec synth_shape(const std::string& name) {
    for (const Shape& shape : kShapes) {
        if (name != shape.name) continue;
        SynthSpec s;
        s.name = "synthetic " + name;
        s.layers = shape.layers;
        s.embedding = shape.embedding;
        s.heads = shape.heads;
        s.kv_heads = shape.kv_heads;
        s.head_dim = shape.head_dim;
        s.feed_forward = shape.feed_forward;
        s.vocabulary = shape.vocabulary;
        s.context = shape.context;
        s.tied = shape.tied;
        s.rope_base = shape.rope_base;
        s.rope_factor = shape.rope_factor;
        s.tokenizer = shape.pre ? SynthTokenizer::kBpe : SynthTokenizer::kSpm;
        s.pre_tokenizer = shape.pre ? shape.pre : "";
        return s;
    }
    throw std::invalid_argument("unknown shape: " + name);
}

std::vector<std::string> synth_shape_names() {
    std::vector<std::string> names;
    for (const Shape& shape : kShapes) names.push_back(shape.name);
    return names;
}

SynthSize synth_size(const SynthSpec& spec) {
    const std::vector<TensorPlan> plans = plan_tensors(spec);
    SynthSize size = {0, describe(spec, plans).file_bytes()};
    for (const TensorPlan& p : plans) {
        uint64_t elements = 1;
        for (uint64_t dim : p.dims) elements *= dim;
        size.parameters += elements;
    }
    return size;
}

void synth_check(const SynthSpec& spec) {
    const GgufWriter writer = describe(spec, plan_tensors(spec));
    std::vector<uint8_t> head = writer.header();
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    reader.size_bytes = writer.file_bytes();
    reader.user_data = &head;
    reader.read_at = [](void* header, uint64_t offset, void* dst, size_t bytes) {  // weights are zero
        const std::vector<uint8_t>& data = *static_cast<const std::vector<uint8_t>*>(header);
        memset(dst, 0, bytes);
        if (offset < data.size()) memcpy(dst, &data[offset], std::min<size_t>(bytes, data.size() - offset));
        return KEEL_OK;
    };
    keel_error error = {};
    error.struct_size = sizeof error;
    const auto need = [&](keel_status status) {
        if (status == KEEL_OK) return;
        const std::string detail = error.status == status ? std::string(": ") + error.field + ": " + error.reason : "";
        throw std::invalid_argument(std::string("Keel would refuse the file (") + keel_status_name(status) + ")" +
                                    detail);
    };
    keel_model_info info = {};
    info.struct_size = sizeof info;
    need(keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &info, &error));
    std::vector<uint64_t> buffer(info.model_bytes / 8 + 1);
    const keel_model* model = nullptr;
    need(keel_inspect(&reader, nullptr, buffer.data(), buffer.size() * 8, &model, &info, &error));
    keel_config config = {};
    config.struct_size = sizeof config;
    keel_memory_plan plan = {};
    plan.struct_size = sizeof plan;
    need(keel_plan(&reader, model, &config, &plan, &error));
}

void synth_write(const std::string& path, const SynthSpec& spec, const SynthProgress& progress) {
    const std::vector<TensorPlan> plans = plan_tensors(spec);
    const std::vector<float> normals = normal_values();
    std::vector<TensorFiller> fillers;
    uint64_t seeds = spec.seed;
    for (const TensorPlan& p : plans) fillers.emplace_back(p, normals, splitmix(&seeds));
    describe(spec, plans)
        .write(
            path, [&](size_t t, uint64_t offset, uint8_t* dst, uint64_t bytes) { fillers[t](offset, dst, bytes); },
            progress);
}

void synth_write_hollow(const std::string& path, const SynthSpec& spec) {
    const GgufWriter writer = describe(spec, plan_tensors(spec));
    const std::vector<uint8_t> header = writer.header();
    AtomicFile file(path);
    file.write(header.data(), header.size());
    file.extend(writer.file_bytes());
    file.commit();
}

SynthReader::SynthReader(const SynthSpec& spec) : reader_() {
    constexpr uint64_t kRepeatBytes = 256 * 1024, kAlign = 32;  // the alignment of a GgufWriter
    const std::vector<TensorPlan> plans = plan_tensors(spec);
    const std::vector<float> normals = normal_values();
    const GgufWriter writer = describe(spec, plans);
    header_ = writer.header();
    uint64_t seeds = spec.seed, at = header_.size();
    for (const TensorPlan& p : plans) {
        uint64_t elements = 1;
        for (uint64_t dim : p.dims) elements *= dim;
        const WeightTypeInfo& info = kWeightTypes[p.type];
        const uint64_t bytes = elements / info.block_elements * info.block_bytes,
                       repeat = kRepeatBytes / info.block_bytes * info.block_bytes;
        Tensor tensor = {at, at + bytes, std::vector<uint8_t>(std::min(bytes, repeat))};
        TensorFiller(p, normals, splitmix(&seeds))(0, tensor.bytes.data(), tensor.bytes.size());
        tensors_.push_back(std::move(tensor));
        at += (bytes + kAlign - 1) / kAlign * kAlign;
    }
    reader_.struct_size = sizeof reader_;
    reader_.size_bytes = writer.file_bytes();
    reader_.user_data = this;
    reader_.read_at = [](void* self, uint64_t offset, void* dst, size_t bytes) {
        static_cast<const SynthReader*>(self)->read(offset, static_cast<uint8_t*>(dst), bytes);
        return KEEL_OK;
    };
}

void SynthReader::read(uint64_t offset, uint8_t* dst, uint64_t bytes) const {
    memset(dst, 0, bytes);  // what no tensor has is padding
    if (offset < header_.size()) memcpy(dst, &header_[offset], std::min<uint64_t>(bytes, header_.size() - offset));
    for (const Tensor& t : tensors_) {
        uint64_t from = std::max(t.begin, offset);
        const uint64_t end = std::min(t.end, offset + bytes), period = t.bytes.size();
        while (from < end) {
            const uint64_t in_period = (from - t.begin) % period, count = std::min(end - from, period - in_period);
            memcpy(dst + (from - offset), &t.bytes[in_period], count);
            from += count;
        }
    }
}

}  // namespace keel::tools
