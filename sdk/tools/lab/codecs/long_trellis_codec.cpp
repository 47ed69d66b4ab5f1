// The tcq formats (kernels/formats/kv_formats.h) with more states: what a tier for cold pages could hold. tcq8-b is
// tcq-b itself, decoded to f32: the one to compare with, since tcq-b's attention works on integers.
//
// Row: the codes and the u16 of tcq_b, in the same bytes, of the row rotated in the same way. States have L bits: the
// L-bit window at bit i * b of the codes followed by the 8 - b start bits and L - 8 zeros, so that the start costs no
// byte more. What it costs is choice: the last element has 256 states, and all of them again two elements before at the
// latest.
#include <array>
#include <stdexcept>

#include "kernels/cpu/kv_codec/kv_codecs_impl.h"
#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/long_trellis_tables.h"
#include "sdk/tools/lab/codecs/row_codec.h"
#include "sdk/tools/lab/codecs/trellis_search.h"

namespace keel::tools {
namespace {

template <int kStateBits, int kBits>
class LongTrellisCodec final : public RowCodec {
  public:
    LongTrellisCodec() {
        if constexpr (kStateBits == 8) {
            unit_ = kernels::kTrellisUnit[kBits - 2];
            for (uint32_t s = 0; s < kStates; ++s) value_[s] = kernels::kTrellisTables[kBits - 2][s];
            return;
        }
        for (const LongTrellisTable& t : kLongTrellisTables) {
            if (t.state_bits != kStateBits || t.bits != kBits) continue;
            unit_ = t.unit;
            const auto digit = [&](size_t i) { return t.table[i] < 'a' ? t.table[i] - '0' : t.table[i] - 'a' + 10; };
            for (size_t s = 0; s < value_.size(); ++s)
                value_[s] = static_cast<int8_t>(digit(2 * s) << 4 | digit(2 * s + 1));
        }
    }
    std::string name() const override { return "tcq" + std::to_string(kStateBits) + "-" + std::to_string(kBits); }
    uint64_t row_bytes(const KvCodecContext& context) const override {
        const uint32_t dim = checked_dim(*this, context, 8);
        if (dim > kernels::kMaxHeadDim)
            throw std::invalid_argument(name() + ": no form for head_dim " + std::to_string(dim));
        return uint64_t{dim} * kBits / 8 + 2;
    }

  protected:
    void encode_row(std::span<float> row, const KvCodecContext&, BitWriter& bits) const override {
        const uint32_t n = static_cast<uint32_t>(row.size());
        kernels::rotate_row(row.data(), n);
        kernels::NormalRow x;
        kernels::normalise_row(row.data(), n, &x);
        if (x.kind != kernels::RowKind::kCoded) return;  // zeros
        const float units = unit_ / x.rms;
        float c[kernels::kMaxHeadDim] = {};
        uint16_t state[kernels::kMaxHeadDim];
        for (uint32_t i = 0; i < n; ++i) c[i] = x.x[i] * units;
        search_trellis<kStateBits, kBits>(c, n, value_.data(), state);
        for (uint32_t i = 0; i < n; ++i) {
            c[i] = value_[state[i]];
            bits.put(state[i] & ((1u << kBits) - 1), kBits);
        }
        const float s = kernels::fit_scale(x, c, n, kernels::KvScaleMode::kLeastSquares);
        bits.put(kernels::trellis_field(s, state[n - 1] >> kBits, kBits), 16);
    }
    void decode_row(BitReader& bits, const KvCodecContext&, std::span<float> row) const override {
        const size_t n = row.size();
        uint32_t fresh[kernels::kMaxHeadDim];
        for (size_t i = 0; i < n; ++i) fresh[i] = bits.take_code(kBits);
        const uint16_t field = static_cast<uint16_t>(bits.take_code(16));
        const float scale = kernels::trellis_scale<kBits>(field);
        uint32_t state = field & ((1u << (8 - kBits)) - 1);
        for (size_t i = n; i-- > 0;) {
            state = (state << kBits | fresh[i]) & (kStates - 1);
            row[i] = scale * value_[state];
        }
        kernels::unrotate_row(row.data(), static_cast<uint32_t>(n));
    }

  private:
    static constexpr uint32_t kStates = 1u << kStateBits;
    float unit_ = 0;
    std::array<float, kStates> value_{};  // integers
};

template <int kStateBits, int kBits>
std::unique_ptr<KvCodec> make_one() {
    return std::make_unique<LongTrellisCodec<kStateBits, kBits>>();
}

// 12 bits of state do not pay at 4 bits: trained alike, they leave more than 10 do.
constexpr struct {
    std::string_view name;
    std::unique_ptr<KvCodec> (*make)();
} kCodecs[] = {{"tcq8-2", make_one<8, 2>},   {"tcq8-3", make_one<8, 3>},   {"tcq8-4", make_one<8, 4>},
               {"tcq10-2", make_one<10, 2>}, {"tcq10-3", make_one<10, 3>}, {"tcq10-4", make_one<10, 4>},
               {"tcq12-2", make_one<12, 2>}, {"tcq12-3", make_one<12, 3>}};

}  // namespace

std::unique_ptr<KvCodec> make_long_trellis_codec(std::string_view spec) {
    for (const auto& [name, make] : kCodecs)
        if (spec == name) return make();
    return nullptr;
}

}  // namespace keel::tools
