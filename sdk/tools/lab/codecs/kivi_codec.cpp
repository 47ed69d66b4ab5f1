// KIVI: no rotation; equal steps from the smallest to the largest value of a group, both of f16. K is grouped along
// positions, one group per channel and 32 positions, because its outliers stay in their channels; V along channels, 32
// of one position.
//
// Group: f16 smallest | f16 step | codes of b bits, beginning at a byte: b + 1 bits per value. K: groups of all
// channels of 32 positions, one channel after the other; positions that do not fill 32 are f16 rows after them (KIVI's
// residual window at its smallest). V: groups of one row, the last of them shorter where 32 does not divide head_dim.
// Codes are made with the stored f16 numbers. What f16 does not hold is stored as +-65504.
#include <cmath>

#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/row_codec.h"

namespace keel::tools {
namespace {

constexpr uint32_t kGroup = 32;

class KiviCodec final : public KvCodec {
  public:
    explicit KiviCodec(uint32_t bits) : bits_(bits), top_((1u << bits) - 1) {}
    std::string name() const override { return "kivi:" + std::to_string(bits_); }
    uint32_t block_rows(bool value) const override { return value ? 1 : kGroup; }

    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override {
        const uint32_t dim = checked_dim(*this, context);
        std::vector<float> finite(static_cast<size_t>(count) * dim);
        for (uint32_t r = 0; r < count; ++r)
            finite_row(rows + static_cast<size_t>(r) * dim, dim, &finite[static_cast<size_t>(r) * dim]);
        BitWriter bits(out);
        each_group(count, context,
                   [&](size_t at, uint32_t n, size_t stride) { put_group(&finite[at], n, stride, bits); });
        for (size_t i = coded_rows(count, context) * size_t{dim}; i < finite.size(); ++i) bits.put_f16(finite[i]);
    }
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                float* rows) const override {
        const size_t dim = checked_dim(*this, context), coded = coded_rows(count, context) * dim;
        uint64_t expected = 2 * (count * dim - coded);
        each_group(count, context, [&](size_t, uint32_t n, size_t) { expected += 4 + (uint64_t{n} * bits_ + 7) / 8; });
        expect_bytes(*this, bytes, expected);
        BitReader bits(bytes);
        each_group(count, context,
                   [&](size_t at, uint32_t n, size_t stride) { take_group(rows + at, n, stride, bits); });
        for (size_t i = coded; i < count * dim; ++i) rows[i] = bits.take_f16();
    }

  private:
    // Rows in groups; the others are f16.
    static uint32_t coded_rows(uint32_t count, const KvCodecContext& context) {
        return context.value ? count : count - count % kGroup;
    }
    // visit(first value, number of values, distance between them) for every group, in stored order.
    template <class Visit>
    static void each_group(uint32_t count, const KvCodecContext& context, const Visit& visit) {
        const size_t dim = context.head_dim, coded = coded_rows(count, context);
        if (context.value) {
            for (size_t row = 0; row < coded; ++row)
                for (size_t channel = 0; channel < dim; channel += kGroup)
                    visit(row * dim + channel, static_cast<uint32_t>(std::min<size_t>(kGroup, dim - channel)),
                          size_t{1});
        } else {
            for (size_t row = 0; row < coded; row += kGroup)
                for (size_t channel = 0; channel < dim; ++channel) visit(row * dim + channel, kGroup, dim);
        }
    }

    void put_group(const float* x, uint32_t n, size_t stride, BitWriter& bits) const {
        float low = x[0], high = x[0];
        for (uint32_t i = 1; i < n; ++i) low = std::min(low, x[i * stride]), high = std::max(high, x[i * stride]);
        const float smallest = through_f16(low), step = through_f16((high - low) / static_cast<float>(top_));
        bits.put_f16(smallest);
        bits.put_f16(step);
        for (uint32_t i = 0; i < n; ++i) {
            const float steps = step > 0 ? (x[i * stride] - smallest) / step : 0;
            bits.put(static_cast<uint32_t>(kernels::rint_f32(std::clamp(steps, 0.0f, static_cast<float>(top_)))),
                     bits_);
        }
        bits.align();
    }
    void take_group(float* x, uint32_t n, size_t stride, BitReader& bits) const {
        const float smallest = bits.take_f16(), step = bits.take_f16();
        for (uint32_t i = 0; i < n; ++i) x[i * stride] = static_cast<float>(bits.take_code(bits_)) * step + smallest;
        bits.align();
    }

    uint32_t bits_, top_;
};

}  // namespace

std::unique_ptr<KvCodec> make_kivi_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() != 2 || fields[0] != "kivi") return nullptr;
    const auto bits = spec_number(fields[1], 2, 8);
    if (!bits) return nullptr;
    return std::make_unique<KiviCodec>(*bits);
}

}  // namespace keel::tools
