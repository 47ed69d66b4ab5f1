#include "sdk/tools/files/synth.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "kernels/formats/weight_types.h"
#include "sdk/tools/files/gguf_writer.h"
#include "sdk/tools/files/synth_random.h"

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

struct BlockRecipe {
    WeightType type;
    double deviation;
    int d_offset;      // of the f16 d in the block
    int min_offset;    // of the second f16, -1: none
    double min_per_d;  // value of the second f16 per d
    int mirror;        // layout of packed scales and minima to make equal, see mirror_minima
    bool random_sign;
};

enum { kNoMirror, kMirrorNibbles, kMirror6Bit };

constexpr BlockRecipe kRecipes[] = {
    {kQ4_0, 4.637, 0, -1, 0, kNoMirror, true},
    {kQ4_1, 4.610, 0, 2, -7.5, kNoMirror, false},
    {kQ5_0, 9.247, 0, -1, 0, kNoMirror, true},
    {kQ5_1, 9.233, 0, 2, -15.5, kNoMirror, false},
    {kQ8_0, 73.901, 0, -1, 0, kNoMirror, true},
    {kQ2_K, 1.118 * 8.803, 80, 82, 1.5, kMirrorNibbles, false},
    {kQ3_K, 2.345 * 18.480, 108, -1, 0, kNoMirror, true},
    {kQ4_K, 4.610 * 36.517, 0, 2, 7.5, kMirror6Bit, false},
    {kQ5_K, 9.233 * 36.517, 0, 2, 15.5, kMirror6Bit, false},
    {kQ6_K, 18.480 * 73.901, 208, -1, 0, kNoMirror, true},
    {kIQ4_NL, 66.75, 0, -1, 0, kNoMirror, true},
    {kIQ4_XS, 66.75 * 18.480, 0, -1, 0, kNoMirror, true},
};

// Makes each sub-block's minimum equal its scale. Nibbles: Q2_K's 16 bytes hold scale | minimum << 4. 6-bit: 12 bytes
// at offset 4 hold eight scales and eight minima; bytes 0-3 are scales, 4-7 minima, 8-11 the low nibbles of the upper
// four.
void mirror_minima(int mirror, uint8_t* block) {
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
        const WeightTypeInfo& info = kWeightTypes[plan.type];
        block_bytes_ = info.block_bytes;
        for (const BlockRecipe& r : kRecipes)
            if (r.type == plan.type) recipe_ = &r;
        if (recipe_) {
            // Scales vary by +-30 % from block to block; 1.0149 is the root mean square of that factor.
            for (size_t i = 0; i < kScales; ++i) {
                const double factor = (0.7 + 0.6 * static_cast<double>(i) / (kScales - 1)) / 1.0149;
                const double d = plan.deviation / recipe_->deviation * factor;
                const double sign = recipe_->random_sign && i % 2 ? -1 : 1;
                scales_[i] = to_f16(static_cast<float>(d * sign));
                minima_[i] = to_f16(static_cast<float>(d * recipe_->min_per_d));
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
        for (uint8_t* block = dst; block < dst + bytes; block += block_bytes_) {
            const size_t pick = block[recipe_->d_offset] % kScales;
            memcpy(block + recipe_->d_offset, &scales_[pick], 2);
            if (recipe_->min_offset >= 0) memcpy(block + recipe_->min_offset, &minima_[pick], 2);
            mirror_minima(recipe_->mirror, block);
        }
    }

    const TensorPlan& plan_;
    Random random_;
    const BlockRecipe* recipe_ = nullptr;
    uint64_t block_bytes_;
    std::array<uint16_t, kScales> scales_, minima_;
    std::vector<uint16_t> narrow_;
    std::vector<float> wide_;
};

// ---- type mixtures ----

struct Mix {
    const char* name;
    uint32_t file_type;  // general.file_type
    WeightType base, output, value, value_more, down, down_more, attention_out;
};
constexpr Mix pure(const char* name, uint32_t file_type, WeightType t) {
    return {name, file_type, t, t, t, t, t, t, t};
}
constexpr Mix kMixes[] = {
    pure("F32", 0, kF32),
    pure("F16", 1, kF16),
    pure("BF16", 32, kBF16),
    pure("Q4_0", 2, kQ4_0),
    pure("Q4_1", 3, kQ4_1),
    pure("Q8_0", 7, kQ8_0),
    pure("Q5_0", 8, kQ5_0),
    pure("Q5_1", 9, kQ5_1),
    pure("Q2_K", 10, kQ2_K),
    pure("Q3_K", 11, kQ3_K),
    pure("Q4_K", 14, kQ4_K),
    pure("Q5_K", 16, kQ5_K),
    pure("Q6_K", 18, kQ6_K),
    pure("IQ4_NL", 25, kIQ4_NL),
    pure("IQ4_XS", 30, kIQ4_XS),
    {"Q3_K_M", 12, kQ3_K, kQ6_K, kQ4_K, kQ5_K, kQ3_K, kQ4_K, kQ4_K},
    {"Q4_K_M", 15, kQ4_K, kQ6_K, kQ4_K, kQ6_K, kQ4_K, kQ6_K, kQ4_K},
    {"Q5_K_M", 17, kQ5_K, kQ6_K, kQ5_K, kQ6_K, kQ5_K, kQ6_K, kQ5_K},
};
const Mix& find_mix(const std::string& name) {
    for (const Mix& m : kMixes)
        if (name == m.name) return m;
    throw std::invalid_argument("unknown tensor type or mixture: " + name);
}

// Layers that keep more bits: the first and last eighth and every third between.
bool keeps_more(uint32_t layer, uint32_t layers) {
    const uint32_t eighth = layers / 8;
    return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

// What stands in for a type where rows are not whole blocks of it.
WeightType fitting_type(WeightType type, uint64_t row) {
    if (row % kWeightTypes[type].block_elements == 0) return type;
    const auto stand_in = [](WeightType t) {
        switch (t) {
            case kQ4_K:
                return kQ5_0;
            case kQ5_K:
                return kQ5_1;
            case kQ6_K:
                return kQ8_0;
            case kQ2_K:
            case kQ3_K:
            case kIQ4_XS:
                return kIQ4_NL;
            default:
                return kF16;
        }
    };
    return fitting_type(stand_in(type), row);
}

// ---- architectures ----

struct Architecture {
    const char* name;
    bool bpe;         // default tokenizer
    const char* pre;  // default tokenizer.ggml.pre of a BPE tokenizer
    float rms_epsilon;
    bool qkv_bias, qk_norm, post_norms, fused, always_tied, sliding;
};
constexpr Architecture kArchitectures[] = {
    {"llama", false, "llama-bpe", 1e-5f, false, false, false, false, false, false},
    {"qwen2", true, "qwen2", 1e-6f, true, false, false, false, false, false},
    {"qwen3", true, "qwen2", 1e-6f, false, true, false, false, false, false},
    {"gemma2", false, "gpt-2", 1e-6f, false, false, true, false, true, true},
    {"gemma3", false, "gpt-2", 1e-6f, false, true, true, false, true, true},
    {"phi3", false, "gpt-2", 1e-5f, false, false, false, true, false, false},
};
const Architecture& find_architecture(const std::string& name) {
    for (const Architecture& a : kArchitectures)
        if (name == a.name) return a;
    throw std::invalid_argument("unknown architecture: " + name);
}

constexpr uint32_t kMinVocabulary = 512;

void check(const SynthSpec& s) {
    const auto require = [](bool ok, const char* what) {
        if (!ok) throw std::invalid_argument(what);
    };
    require(s.layers && s.embedding && s.heads && s.kv_heads && s.feed_forward && s.context, "a size is 0");
    require(s.heads % s.kv_heads == 0, "heads is not a multiple of kv_heads");
    require(s.head_dim && s.head_dim % 2 == 0, "head_dim is not even");
    require(s.vocabulary >= kMinVocabulary, "vocabulary is below 512");
    require(s.architecture != "phi3" || s.heads * s.head_dim == s.embedding, "phi3 needs heads * head_dim = embedding");
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
std::vector<float> phi3_factors(const SynthSpec& s, double largest) {
    std::vector<float> out;
    for (uint32_t i = 0; i < s.head_dim / 2; ++i) out.push_back(static_cast<float>(pow(largest, 2.0 * i / s.head_dim)));
    return out;
}

// All tensors in file order.
std::vector<TensorPlan> plan_tensors(const SynthSpec& s) {
    check(s);
    const Architecture& arch = find_architecture(s.architecture);
    const Mix& mix = find_mix(s.mix);
    const bool tied = s.tied || arch.always_tied;
    std::vector<TensorPlan> out;

    // A row of k weights of deviation 1/sqrt(k) keeps the variance of what it is multiplied with.
    const auto matrix = [&](const std::string& name, uint64_t k, uint64_t rows, WeightType type) {
        for (const auto& [part, type_name] : s.overrides)
            if (name.find(part) != std::string::npos) {
                type = find_mix(type_name).base;
                break;
            }
        out.push_back(
            {TensorPlan::kMatrix, name, {k, rows}, fitting_type(type, k), 1 / sqrt(static_cast<double>(k)), {}});
    };
    const auto norm = [&](const std::string& name, uint64_t n) {
        out.push_back({TensorPlan::kNorm, name, {n}, kF32, 0.1, {}});
    };
    const auto bias = [&](const std::string& name, uint64_t n) {
        out.push_back({TensorPlan::kBias, name, {n}, kF32, 0.5, {}});
    };
    const auto values = [&](const std::string& name, std::vector<float> v) {
        out.push_back({TensorPlan::kValues, name, {v.size()}, kF32, 0, std::move(v)});
    };

    const uint64_t d = s.embedding, q = uint64_t{s.heads} * s.head_dim, kv = uint64_t{s.kv_heads} * s.head_dim;
    matrix("token_embd.weight", d, s.vocabulary, tied ? mix.output : mix.base);
    norm("output_norm.weight", d);
    if (!tied) matrix("output.weight", d, s.vocabulary, mix.output);
    if (s.rope_factor > 0 && s.architecture == "llama") values("rope_freqs.weight", llama3_factors(s));
    if (s.rope_factor > 0 && s.architecture == "phi3") {
        values("rope_factors_long.weight", phi3_factors(s, s.rope_factor));
        values("rope_factors_short.weight", phi3_factors(s, 1.1));
    }
    for (uint32_t layer = 0; layer < s.layers; ++layer) {
        const bool more = keeps_more(layer, s.layers);
        const WeightType value_type = more ? mix.value_more : mix.value, down_type = more ? mix.down_more : mix.down;
        const std::string blk = "blk." + std::to_string(layer) + ".";
        norm(blk + "attn_norm.weight", d);
        if (arch.fused) {
            matrix(blk + "attn_qkv.weight", d, q + 2 * kv, value_type);
        } else {
            matrix(blk + "attn_q.weight", d, q, mix.base);
            matrix(blk + "attn_k.weight", d, kv, mix.base);
            matrix(blk + "attn_v.weight", d, kv, value_type);
        }
        if (arch.qkv_bias) {
            bias(blk + "attn_q.bias", q);
            bias(blk + "attn_k.bias", kv);
            bias(blk + "attn_v.bias", kv);
        }
        if (arch.qk_norm) {
            norm(blk + "attn_q_norm.weight", s.head_dim);
            norm(blk + "attn_k_norm.weight", s.head_dim);
        }
        matrix(blk + "attn_output.weight", q, d, mix.attention_out);
        if (arch.post_norms) norm(blk + "post_attention_norm.weight", d);
        norm(blk + "ffn_norm.weight", d);
        if (!arch.fused) matrix(blk + "ffn_gate.weight", d, s.feed_forward, mix.base);
        matrix(blk + "ffn_up.weight", d, arch.fused ? 2 * uint64_t{s.feed_forward} : s.feed_forward, mix.base);
        matrix(blk + "ffn_down.weight", s.feed_forward, d, down_type);
        if (arch.post_norms) norm(blk + "post_ffw_norm.weight", d);
    }
    return out;
}

// ---- tokenizers ----

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6 };

// Control tokens at the end of a vocabulary; the first two are beginning and end of a sequence.
std::vector<std::string> control_tokens(const SynthSpec& s, const std::string& pre) {
    if (s.architecture == "phi3") return {"<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"};
    if (s.architecture.starts_with("gemma")) return {"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"};
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

void write_tokenizer(const SynthSpec& s, const Architecture& arch, GgufWriter* w) {
    const bool bpe = s.tokenizer == SynthTokenizer::kBpe || (s.tokenizer == SynthTokenizer::kDefault && arch.bpe);
    const std::string pre = !bpe ? "" : s.pre_tokenizer.empty() ? arch.pre : s.pre_tokenizer;
    const std::vector<std::string> controls = control_tokens(s, pre);
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
    if (!bpe) w->boolean("tokenizer.ggml.add_space_prefix", !s.architecture.starts_with("gemma"));
}

// ---- metadata ----

void write_metadata(const SynthSpec& s, GgufWriter* w) {
    const Architecture& arch = find_architecture(s.architecture);
    const Mix& mix = find_mix(s.mix);
    const std::string a = s.architecture + ".";
    const auto u32 = [&](const char* key, uint32_t value) { w->number<uint32_t>(a + key, value); };
    const auto f32 = [&](const char* key, double value) { w->number<float>(a + key, static_cast<float>(value)); };

    w->string("general.architecture", s.architecture);
    w->string("general.type", "model");
    w->string("general.name", s.name);
    w->number<uint32_t>("general.file_type", mix.file_type);
    if (kWeightTypes[mix.base].block_elements > 1) w->number<uint32_t>("general.quantization_version", 2);
    u32("block_count", s.layers);
    u32("context_length", s.context);
    u32("embedding_length", s.embedding);
    u32("feed_forward_length", s.feed_forward);
    u32("attention.head_count", s.heads);
    u32("attention.head_count_kv", s.kv_heads);
    u32("attention.key_length", s.head_dim);
    u32("attention.value_length", s.head_dim);
    f32("attention.layer_norm_rms_epsilon", arch.rms_epsilon);
    f32("rope.freq_base", s.rope_base);
    if (s.architecture == "llama" || s.architecture == "phi3") {
        u32("rope.dimension_count", s.head_dim);
        u32("vocab_size", s.vocabulary);
    }
    if (arch.sliding || s.sliding_window)
        u32("attention.sliding_window", s.sliding_window ? s.sliding_window : s.context / 2);
    if (s.architecture == "gemma2") {
        f32("attn_logit_softcapping", 50);
        f32("final_logit_softcapping", 30);
    }
    if (s.architecture == "gemma3" && s.rope_factor > 0) {
        w->string(a + "rope.scaling.type", "linear");
        f32("rope.scaling.factor", s.rope_factor);
    }
    if (s.architecture == "phi3") {
        const double trained = s.rope_factor > 0 ? std::max(2.0, s.context / s.rope_factor) : s.context;
        u32("rope.scaling.original_context_length", static_cast<uint32_t>(trained));
        // Long-context attention factor of Phi-3: sqrt(1 + ln(extension) / ln(trained context)).
        if (s.rope_factor > 1) f32("rope.scaling.attn_factor", sqrt(1 + log(s.rope_factor) / log(trained)));
    }
    write_tokenizer(s, arch, w);
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

}  // namespace keel::tools
