// turbo2, turbo3, turbo4 of llama.cpp's forks: blocks of 32 or 128 values, each rotated by a Hadamard matrix with
// signs, its norm as f16 and the Gaussian's Lloyd-Max codes. The norm is divided by that of the levels, as their turbo4
// does: the decoded block has the norm of the original.
//
// Block (row_block_codec.h): f16 norm | n codes of b bits: b + 0.5 bits per value in blocks of 32, b + 0.125 in blocks
// of 128. Norms above 65504 are stored as 65504.
#include <cmath>

#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/row_block_codec.h"
#include "sdk/tools/lab/codecs/row_rotation.h"

namespace keel::tools {
namespace {

constexpr uint64_t kSignSeed = 0x6b65656c7462;

class TurboBlockCodec final : public RowBlockCodec {
  public:
    TurboBlockCodec(uint32_t bits, uint32_t block) : RowBlockCodec(bits, block), book_(gaussian_codebook(bits)) {}
    std::string name() const override { return "turbo" + std::to_string(bits()) + ":" + std::to_string(block()); }

  protected:
    void encode_block(std::span<float> y, BitWriter& out) const override {
        const double norm = row_norm(y), root = std::sqrt(static_cast<double>(y.size()));
        signed_hadamard(y, kSignSeed);
        const float up = norm > 0 ? static_cast<float>(root / norm) : 0;
        std::vector<uint32_t> codes;
        double squares = 0;
        for (const float x : y) {
            codes.push_back(nearest_level(book_, x * up));
            squares += static_cast<double>(book_[codes.back()]) * book_[codes.back()];
        }
        out.put_f16(static_cast<float>(norm * root / std::sqrt(squares)));
        for (const uint32_t code : codes) out.put(code, bits());
    }
    void decode_block(BitReader& in, std::span<float> y) const override {
        const float factor = static_cast<float>(in.take_f16() / std::sqrt(static_cast<double>(y.size())));
        for (float& x : y) x = book_[in.take_code(bits())];
        signed_hadamard_inverse(y, kSignSeed);
        for (float& x : y) x *= factor;
    }

  private:
    std::span<const float> book_;
};

}  // namespace

std::unique_ptr<KvCodec> make_turbo_block_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || !fields[0].starts_with("turbo") || (fields[1] != "32" && fields[1] != "128"))
        return nullptr;
    const auto bits = spec_number(fields[0].substr(5), 2, 4);
    if (!bits) return nullptr;
    return std::make_unique<TurboBlockCodec>(*bits, fields[1] == "32" ? 32 : 128);
}

}  // namespace keel::tools
