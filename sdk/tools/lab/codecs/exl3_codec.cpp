// The cache of exllamav3: groups of 32 values, rotated by a Hadamard matrix without signs, divided by their largest one
// and cut into 2^b equal cells between -1 and 1, of which the middles are decoded. Its optional compander is left out.
//
// Group (row_block_codec.h): f16 largest | 32 codes of b bits: b + 0.5 bits per value. Values above 65504 are stored as
// 65504.
#include <cmath>

#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/row_block_codec.h"
#include "sdk/tools/lab/codecs/row_rotation.h"

namespace keel::tools {
namespace {

constexpr uint32_t kGroup = 32;
constexpr float kFloor = 1e-10f;  // added to the divisor, as there

class Exl3Codec final : public RowBlockCodec {
  public:
    explicit Exl3Codec(uint32_t bits) : RowBlockCodec(bits, kGroup), half_(static_cast<float>(1u << (bits - 1))) {}
    std::string name() const override { return "exl3:" + std::to_string(bits()); }

  protected:
    void encode_block(std::span<float> y, BitWriter& out) const override {
        hadamard(y);
        const float largest = row_absmax(y) + kFloor;
        out.put_f16(largest);
        for (const float x : y)
            out.put(static_cast<uint32_t>(std::clamp(std::floor(x / largest * half_ + half_), 0.0f, 2 * half_ - 1)),
                    bits());
    }
    void decode_block(BitReader& in, std::span<float> y) const override {
        const float step = in.take_f16() / half_;
        for (float& x : y) x = (static_cast<float>(in.take_code(bits())) - (half_ - 0.5f)) * step;
        hadamard(y);
    }

  private:
    float half_;  // 2^(b-1)
};

}  // namespace

std::unique_ptr<KvCodec> make_exl3_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || fields[0] != "exl3") return nullptr;
    const auto bits = spec_number(fields[1], 2, 8);
    if (!bits) return nullptr;
    return std::make_unique<Exl3Codec>(*bits);
}

}  // namespace keel::tools
