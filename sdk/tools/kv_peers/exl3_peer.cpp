// The cache of exllamav3: groups of 32 values, rotated by a Hadamard matrix without signs, divided by their largest one and cut
// into 2^b equal cells between -1 and 1, of which the middles are decoded. Its optional compander is left out.
//
// Group: f16 largest | 32 codes of b bits: b + 0.5 bits per value. What is left of a row is cut into smaller powers of two, largest
// first. Every group begins a byte. Values above 65504 are stored as 65504.
#include <bit>
#include <cmath>

#include "sdk/tools/kv_peers/peer_makers.h"
#include "sdk/tools/kv_peers/peer_spec.h"
#include "sdk/tools/kv_peers/row_peer.h"
#include "sdk/tools/kv_peers/row_rotation.h"

namespace keel::tools {
namespace {

constexpr size_t kGroup = 32;
constexpr float kFloor = 1e-10f;  // added to the divisor, as there

size_t width(size_t left) { return std::min(kGroup, std::bit_floor(left)); }

class Exl3Peer final : public RowPeer {
  public:
    explicit Exl3Peer(uint32_t bits) : bits_(bits), half_(static_cast<float>(1u << (bits - 1))) {}
    std::string name() const override { return "exl3:" + std::to_string(bits_); }
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
            hadamard(y);
            const float largest = row_absmax(y) + kFloor;
            bits.put_f16(largest);
            for (const float x : y)
                bits.put(static_cast<uint32_t>(std::clamp(std::floor(x / largest * half_ + half_), 0.0f, 2 * half_ - 1)), bits_);
            bits.align();
        }
    }
    void decode_row(BitReader& bits, const KvPeerContext&, std::span<float> row) const override {
        for (std::span<float> rest = row; !rest.empty(); rest = rest.subspan(width(rest.size()))) {
            const std::span<float> y = rest.first(width(rest.size()));
            const float step = bits.take_f16() / half_;
            for (float& x : y) x = (static_cast<float>(bits.take_code(bits_)) - (half_ - 0.5f)) * step;
            bits.align();
            hadamard(y);
        }
    }

  private:
    uint32_t bits_;
    float half_;  // 2^(b-1)
};

}  // namespace

std::unique_ptr<KvPeer> make_exl3_peer(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || fields[0] != "exl3") return nullptr;
    const auto bits = spec_number(fields[1], 2, 8);
    if (!bits) return nullptr;
    return std::make_unique<Exl3Peer>(*bits);
}

}  // namespace keel::tools
