// turbo2, turbo3, turbo4 of llama.cpp's forks: blocks of 32 or 128 values, each rotated by a Hadamard matrix with signs, its norm
// as f16 and the Gaussian's Lloyd-Max codes. The norm is divided by that of the levels, as their turbo4 does: the decoded block
// has the norm of the original.
//
// Block: f16 norm | n codes of b bits: b + 0.5 bits per value in blocks of 32, b + 0.125 in blocks of 128. What is left of a row
// is cut into smaller powers of two, largest first (D = 80 in 32s: 32 + 32 + 16; D = 64 in 128s: 64), each with its norm.
// Every block begins a byte. Norms above 65504 are stored as 65504.
#include <bit>
#include <cmath>

#include "sdk/tools/kv_peers/gaussian_codebook.h"
#include "sdk/tools/kv_peers/peer_makers.h"
#include "sdk/tools/kv_peers/peer_spec.h"
#include "sdk/tools/kv_peers/row_peer.h"
#include "sdk/tools/kv_peers/row_rotation.h"

namespace keel::tools {
namespace {

constexpr uint64_t kSignSeed = 0x6b65656c7462;

class TurboBlockPeer final : public RowPeer {
  public:
    TurboBlockPeer(uint32_t bits, uint32_t block) : bits_(bits), block_(block), book_(gaussian_codebook(bits)) {}
    std::string name() const override { return "turbo" + std::to_string(bits_) + ":" + std::to_string(block_); }
    uint64_t row_bytes(const KvPeerContext& context) const override {
        const size_t dim = checked_dim(*this, context);
        uint64_t bytes = 0;
        for (size_t at = 0; at < dim; at += width(dim - at)) bytes += 2 + (width(dim - at) * bits_ + 7) / 8;
        return bytes;
    }

  protected:
    void encode_row(std::span<float> row, const KvPeerContext&, BitWriter& bits) const override {
        for (std::span<float> rest = row; !rest.empty(); rest = rest.subspan(width(rest.size()))) {
            const std::span<float> y = rest.first(width(rest.size()));
            const double norm = row_norm(y), root = std::sqrt(static_cast<double>(y.size()));
            signed_hadamard(y, kSignSeed);
            const float up = norm > 0 ? static_cast<float>(root / norm) : 0;
            std::vector<uint32_t> codes;
            double squares = 0;
            for (const float x : y) {
                codes.push_back(nearest_level(book_, x * up));
                squares += static_cast<double>(book_[codes.back()]) * book_[codes.back()];
            }
            bits.put_f16(static_cast<float>(norm * root / std::sqrt(squares)));
            for (const uint32_t code : codes) bits.put(code, bits_);
            bits.align();
        }
    }
    void decode_row(BitReader& bits, const KvPeerContext&, std::span<float> row) const override {
        for (std::span<float> rest = row; !rest.empty(); rest = rest.subspan(width(rest.size()))) {
            const std::span<float> y = rest.first(width(rest.size()));
            const float factor = static_cast<float>(bits.take_f16() / std::sqrt(static_cast<double>(y.size())));
            for (float& x : y) x = book_[bits.take_code(bits_)];
            bits.align();
            signed_hadamard_inverse(y, kSignSeed);
            for (float& x : y) x *= factor;
        }
    }

  private:
    // The next block of a row of which `left` values are left.
    size_t width(size_t left) const { return std::min<size_t>(block_, std::bit_floor(left)); }

    uint32_t bits_, block_;
    std::span<const float> book_;
};

}  // namespace

std::unique_ptr<KvPeer> make_turbo_block_peer(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || !fields[0].starts_with("turbo") || (fields[1] != "32" && fields[1] != "128")) return nullptr;
    const auto bits = spec_number(fields[0].substr(5), 2, 4);
    if (!bits) return nullptr;
    return std::make_unique<TurboBlockPeer>(*bits, fields[1] == "32" ? 32 : 128);
}

}  // namespace keel::tools
