// KakeyaLattice: a unit vector, Hadamard without signs, scaled so that its largest coordinate is Q, and the nearest D4
// or E8 points. The published pipeline but for the search within the box (lattice_code.h) and for bytes that exist.
//
// Row: f16 norm | f16 largest coordinate | indices: (D/4) ceil(4 log2(2Q+1) - 1) + 32 bits with D4,
// (D/8) ceil(8 log2(2Q+1)) + 32 with E8, rounded up to bytes per row. As published, decoding needs the product of the
// two numbers only, and for many Q a larger one costs no bits: both are upstream's price.
// A norm above 65504 is stored as 65504 (upstream stores infinity): the row keeps its direction.
#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/lattice_code.h"
#include "sdk/tools/lab/codecs/row_codec.h"
#include "sdk/tools/lab/codecs/row_rotation.h"

namespace keel::tools {
namespace {

constexpr float kEpsilon = 0x1p-23f;  // upstream's floor of both numbers; as f16 it is 2 units
constexpr uint32_t kScalarBits = 32;

class LatticeCodec final : public RowCodec {
  public:
    LatticeCodec(std::string family, uint32_t dim, uint32_t radius)
        : family_(std::move(family)), radius_(radius), code_(dim, radius) {}
    std::string name() const override { return family_ + ":" + std::to_string(radius_); }
    bool before_rope() const override { return true; }
    uint64_t row_bytes(const KvCodecContext& context) const override {
        const uint64_t blocks = checked_dim(*this, context, code_.dim()) / code_.dim();
        return (blocks * code_.index_bits() + kScalarBits + 7) / 8;
    }

  protected:
    void encode_row(std::span<float> row, const KvCodecContext&, BitWriter& bits) const override {
        const float norm = std::max(row_norm(row), kEpsilon);
        for (float& x : row) x /= norm;
        hadamard(row);
        const float largest = std::max(row_absmax(row), kEpsilon);
        const float unit = through_f16(largest) / static_cast<float>(radius_);
        bits.put_f16(norm);
        bits.put_f16(largest);
        for (float& x : row) x /= unit;
        int32_t twice[kMaxLatticeBlock];
        for (size_t at = 0; at < row.size(); at += code_.dim()) {
            code_.closest(&row[at], twice);
            bits.put(code_.index(twice), code_.index_bits());
        }
    }
    void decode_row(BitReader& bits, const KvCodecContext&, std::span<float> row) const override {
        const float norm = bits.take_f16();
        const float unit = bits.take_f16() / static_cast<float>(radius_);
        int32_t twice[kMaxLatticeBlock];
        for (size_t at = 0; at < row.size(); at += code_.dim()) {
            code_.point(bits.take(code_.index_bits()), twice);
            for (uint32_t i = 0; i < code_.dim(); ++i) row[at + i] = 0.5f * static_cast<float>(twice[i]) * unit;
        }
        hadamard(row);
        for (float& x : row) x *= norm;
    }

  private:
    std::string family_;
    uint32_t radius_;
    LatticeCode code_;
};

}  // namespace

std::unique_ptr<KvCodec> make_lattice_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || (fields[0] != "kakeya-d4" && fields[0] != "kakeya-e8")) return nullptr;
    const auto radius = spec_number(fields[1], 1, LatticeCode::kMaxRadius);
    if (!radius) return nullptr;
    return std::make_unique<LatticeCodec>(std::string(fields[0]), fields[0] == "kakeya-d4" ? 4 : 8, *radius);
}

}  // namespace keel::tools
