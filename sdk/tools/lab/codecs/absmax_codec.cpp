// A unit vector, Hadamard without signs, and rounding to 2^b - 1 levels between +-its largest coordinate.
// KakeyaLattice's tables call this TurboQuant, which it is not: no Lloyd-Max levels, no correction of norms, no QJL
// (turboquant_codec.cpp).
//
// Row: f16 norm | f16 largest coordinate | D codes of b bits: bD + 32 bits, rounded up to bytes. Before RoPE, as it was
// measured there. A norm above 65504 is stored as 65504.
#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/row_codec.h"
#include "sdk/tools/lab/codecs/row_rotation.h"

namespace keel::tools {
namespace {

constexpr float kEpsilon = 0x1p-23f;

class AbsmaxCodec final : public RowCodec {
  public:
    explicit AbsmaxCodec(uint32_t bits) : bits_(bits), top_(static_cast<float>((1u << (bits - 1)) - 1)) {}
    std::string name() const override { return "absmax:" + std::to_string(bits_); }
    bool before_rope() const override { return true; }
    uint64_t row_bytes(const KvCodecContext& context) const override {
        return (static_cast<uint64_t>(bits_) * checked_dim(*this, context) + 32 + 7) / 8;
    }

  protected:
    void encode_row(std::span<float> row, const KvCodecContext&, BitWriter& bits) const override {
        const float norm = std::max(row_norm(row), kEpsilon);
        for (float& x : row) x /= norm;
        hadamard(row);
        const float largest = std::max(row_absmax(row), kEpsilon);
        const float unit = through_f16(largest) / top_;
        bits.put_f16(norm);
        bits.put_f16(largest);
        for (const float x : row)
            bits.put(static_cast<uint32_t>(kernels::rint_f32(std::clamp(x / unit, -top_, top_)) + top_), bits_);
    }
    void decode_row(BitReader& bits, const KvCodecContext&, std::span<float> row) const override {
        const float norm = bits.take_f16();
        const float unit = bits.take_f16() / top_;
        for (float& x : row) x = (static_cast<float>(bits.take_code(bits_)) - top_) * unit;
        hadamard(row);
        for (float& x : row) x *= norm;
    }

  private:
    uint32_t bits_;
    float top_;  // the levels are -top_ .. top_
};

}  // namespace

std::unique_ptr<KvCodec> make_absmax_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || fields[0] != "absmax") return nullptr;
    const auto bits = spec_number(fields[1], 2, 8);
    if (!bits) return nullptr;
    return std::make_unique<AbsmaxCodec>(*bits);
}

}  // namespace keel::tools
