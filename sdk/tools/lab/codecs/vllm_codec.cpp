// vLLM's TurboQuant presets. A slot of the cache is a K row beside a V row:
//
// K, b = 3, 4  D Lloyd-Max codes of the Hadamard-rotated unit row (no signs), ceil(D b / 8) bytes | f16 norm. Decoding
// gives the
//              levels the norm 1 again before it multiplies (norm correction).
// K, b = 8     D FP8-E4M3 numbers, not rotated, not scaled.
// V, b = 3, 4  D codes of equal steps from the smallest to the largest coordinate, ceil(D b / 8) bytes | f16 step | f16
// smallest. The slot is padded to an even number of bytes; where K + V is odd, the K row carries the byte. Norms, steps
// and smallest coordinates that f16 does not hold are stored as +-65504, E4M3 saturates at 448.
//
// skip2: the first two and last two layers (never more than half of all at either end) are f16.
#include <cmath>

#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/row_codec.h"
#include "sdk/tools/lab/codecs/row_rotation.h"

namespace keel::tools {
namespace {

// ---- FP8-E4M3: 4 bits of exponent (bias 7), 3 of fraction, no infinities ----

// Round to nearest even, beyond 448 to 448. x is finite.
uint8_t f32_to_e4m3(float x) {
    const float a = std::fabs(x);
    uint32_t code = 0x7e;
    if (a < 0x1p-6f) {
        code = static_cast<uint32_t>(
            kernels::rint_f32(a * 0x1p9f));  // units of 2^-9; 8 of them are the first normal number
    } else if (a < 448) {
        const int exponent = std::ilogb(a);
        code = static_cast<uint32_t>(exponent + 6) * 8 +
               static_cast<uint32_t>(kernels::rint_f32(std::ldexp(a, 3 - exponent)));
    }
    return static_cast<uint8_t>(code | (std::signbit(x) ? 0x80 : 0));
}
float e4m3_to_f32(uint32_t code) {
    const int exponent = static_cast<int>(code >> 3 & 15), fraction = static_cast<int>(code & 7);
    const float a =
        exponent ? std::ldexp(static_cast<float>(8 + fraction), exponent - 10) : static_cast<float>(fraction) * 0x1p-9f;
    return code & 0x80 ? -a : a;
}

struct Preset {
    std::string_view name;
    uint32_t k_bits, v_bits;
};
constexpr Preset kPresets[] = {{"vllm-k8v4", 8, 4}, {"vllm-k4v4", 4, 4}, {"vllm-k3v4", 3, 4}, {"vllm-k3v3", 3, 3}};
constexpr uint32_t kSkippedLayers = 2;

class VllmCodec final : public RowCodec {
  public:
    VllmCodec(const Preset& preset, bool skip) : preset_(preset), skip_(skip) {}
    std::string name() const override { return std::string(preset_.name) + (skip_ ? ":skip2" : ""); }
    uint64_t row_bytes(const KvCodecContext& context) const override {
        const uint64_t dim = checked_dim(*this, context);
        if (skipped(context)) return 2 * dim;
        const uint64_t k = (dim * preset_.k_bits + 7) / 8 + (preset_.k_bits == 8 ? 0 : 2),
                       v = (dim * preset_.v_bits + 7) / 8 + 4;
        return context.value ? v : k + (k + v) % 2;
    }

  protected:
    void encode_row(std::span<float> row, const KvCodecContext& context, BitWriter& bits) const override {
        if (skipped(context))
            for (const float x : row) bits.put_f16(x);
        else if (context.value)
            encode_v(row, bits);
        else if (preset_.k_bits == 8)
            for (const float x : row) bits.put(f32_to_e4m3(x), 8);
        else
            encode_k(row, bits);
    }
    void decode_row(BitReader& bits, const KvCodecContext& context, std::span<float> row) const override {
        if (skipped(context))
            for (float& x : row) x = bits.take_f16();
        else if (context.value)
            decode_v(bits, row);
        else if (preset_.k_bits == 8)
            for (float& x : row) x = e4m3_to_f32(bits.take_code(8));
        else
            decode_k(bits, row);
    }

  private:
    bool skipped(const KvCodecContext& context) const {
        const uint32_t n = skip_ ? std::min(kSkippedLayers, context.layers / 2) : 0;
        return n && (context.layer < n || context.layer + n >= context.layers);
    }

    void encode_k(std::span<float> row, BitWriter& bits) const {
        const float norm = row_norm(row),
                    up = norm > 0 ? static_cast<float>(std::sqrt(static_cast<double>(row.size()))) / norm : 0;
        hadamard(row);
        const auto book = gaussian_codebook(preset_.k_bits);
        for (const float x : row) bits.put(nearest_level(book, x * up), preset_.k_bits);
        bits.align();
        bits.put_f16(norm);
    }
    void decode_k(BitReader& bits, std::span<float> row) const {
        const auto book = gaussian_codebook(preset_.k_bits);
        for (float& x : row) x = book[bits.take_code(preset_.k_bits)];
        bits.align();
        const float factor = bits.take_f16() / row_norm(row);
        hadamard(row);
        for (float& x : row) x *= factor;
    }

    void encode_v(std::span<float> row, BitWriter& bits) const {
        const auto [low, high] = std::minmax_element(row.begin(), row.end());
        const float smallest = *low, top = static_cast<float>((1u << preset_.v_bits) - 1);
        const float step = std::max((*high - smallest) / top, 1e-8f);
        for (const float x : row)
            bits.put(static_cast<uint32_t>(std::clamp((x - smallest) / step + 0.5f, 0.0f, top)), preset_.v_bits);
        bits.align();
        bits.put_f16(step);
        bits.put_f16(smallest);
    }
    void decode_v(BitReader& bits, std::span<float> row) const {
        for (float& x : row) x = static_cast<float>(bits.take_code(preset_.v_bits));
        bits.align();
        const float step = bits.take_f16(), smallest = bits.take_f16();
        for (float& x : row) x = x * step + smallest;
    }

    Preset preset_;
    bool skip_;
};

}  // namespace

std::unique_ptr<KvCodec> make_vllm_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() > 2 || (fields.size() == 2 && fields[1] != "skip2")) return nullptr;
    for (const Preset& preset : kPresets)
        if (fields[0] == preset.name) return std::make_unique<VllmCodec>(preset, fields.size() == 2);
    return nullptr;
}

}  // namespace keel::tools
