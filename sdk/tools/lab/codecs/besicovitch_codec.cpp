// Besicovitch product code: every pair of coordinates is a direction of the half circle and a signed length along it.
//
// Row of D values, G = D / 2 pairs: G directions of d bits from the lowest bit, padded to a byte | G magnitudes of m
// bits, padded
// likewise | f16 scale. With m = f16 the magnitudes are f16 numbers and there is no scale. d3m4 at D = 128: 24 + 32 + 2
// = 58 bytes.
//   published  scale = max |alpha|, magnitude = nearest Lloyd-Max level of N(0,1) to alpha / scale. Since |alpha /
//              scale| <= 1 and these levels reach 2.15 (m = 3) and 2.73 (m = 4), only half of them are ever used: one
//              of m bits carries nothing.
//   fitted     scale = rms(alpha), levels of besicovitch_codebook().
// With a mean, rows come in blocks: 2 D bytes of f16 mean, then the rows less that mean; rows that fill no block are
// f16. A row of zeros has scale 0 and decodes to zeros. There is no rotation: none was published.
#include <cmath>

#include "sdk/tools/lab/codecs/besicovitch_codebook.h"
#include "sdk/tools/lab/codecs/block_stream.h"
#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/plane_directions.h"

namespace keel::tools {
namespace {

constexpr uint32_t kMeanBlock = 1024, kMaxMeanBlock = 1 << 20;

struct BesicovitchForm {
    uint32_t direction_bits = 3;  // 1..8
    uint32_t bits = 4;            // of a magnitude, 1..8; 0: f16
    bool fitted = false;
    uint32_t mean_block = 0;  // rows that share a mean; 0: none is subtracted
};

class BesicovitchCodec final : public KvCodec {
  public:
    BesicovitchCodec(std::string_view name, const BesicovitchForm& form)
        : name_(name), form_(form), directions_(form.direction_bits) {
        if (form.bits == 0) return;
        if (form.fitted) {
            book_ = besicovitch_codebook(form.direction_bits, form.bits);
        } else {
            const auto gaussian = gaussian_codebook(form.bits);
            book_.assign(gaussian.begin(), gaussian.end());
        }
    }
    std::string name() const override { return name_; }
    uint32_t block_rows(bool) const override { return form_.mean_block ? form_.mean_block : 1; }
    bool before_rope() const override { return true; }

    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override {
        const uint32_t dim = checked_dim(*this, context, 2), block = block_rows(context.value);
        std::vector<float> finite = finite_rows(rows, count, dim);
        BitWriter bits(out);
        for (uint32_t r = 0; r < count; ++r) {
            const std::span<float> rest(finite.begin() + size_t{r} * dim, finite.end());
            if (r % block == 0) {
                if (count - r < block) {
                    put_f16_rows(rest, bits);
                    break;
                }
                if (form_.mean_block) put_mean(rest.first(size_t{block} * dim), dim, bits);
            }
            put_row(rest.first(dim), bits);
        }
    }
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                float* rows) const override {
        const uint32_t dim = checked_dim(*this, context, 2), block = block_rows(context.value);
        ByteCursor cursor(*this, bytes);
        std::vector<float> mean(dim);
        for (uint32_t r = 0; r < count; ++r) {
            float* const row = rows + size_t{r} * dim;
            if (r % block == 0) {
                if (count - r < block) {
                    const uint64_t values = uint64_t{count - r} * dim;
                    take_f16_rows(cursor.take(2 * values), {row, values});
                    break;
                }
                if (form_.mean_block) take_f16_rows(cursor.take(2 * uint64_t{dim}), mean);
            }
            take_row(cursor.take(row_bytes(dim)), {row, dim});
            for (uint32_t j = 0; j < dim; ++j) row[j] += mean[j];
        }
        cursor.finish();
    }

  private:
    uint64_t row_bytes(uint32_t dim) const {
        const uint64_t groups = dim / 2;
        return (groups * form_.direction_bits + 7) / 8 + (form_.bits ? (groups * form_.bits + 7) / 8 + 2 : groups * 2);
    }
    void put_row(std::span<const float> row, BitWriter& bits) const {
        const PlaneCodes codes = directions_.split(row);
        for (const uint8_t direction : codes.direction) bits.put(direction, form_.direction_bits);
        bits.align();
        if (form_.bits == 0) {
            for (const float alpha : codes.alpha) bits.put_f16(alpha);
            return;
        }
        const float scale =
            through_f16(form_.fitted ? row_norm(codes.alpha) / std::sqrt(static_cast<float>(codes.alpha.size()))
                                     : row_absmax(codes.alpha));
        for (const float alpha : codes.alpha) bits.put(nearest_level(book_, scale > 0 ? alpha / scale : 0), form_.bits);
        bits.align();
        bits.put_f16(scale);
    }
    void take_row(BitReader bits, std::span<float> row) const {
        const size_t groups = row.size() / 2;
        PlaneCodes codes{std::vector<uint8_t>(groups), std::vector<float>(groups)};
        for (uint8_t& direction : codes.direction)
            direction = static_cast<uint8_t>(bits.take_code(form_.direction_bits));
        bits.align();
        for (float& alpha : codes.alpha) alpha = form_.bits ? book_[bits.take_code(form_.bits)] : bits.take_f16();
        bits.align();
        if (form_.bits) {
            const float scale = bits.take_f16();
            for (float& alpha : codes.alpha) alpha *= scale;
        }
        directions_.join(codes, row);
    }

    std::string name_;
    BesicovitchForm form_;
    PlaneDirections directions_;
    std::vector<float> book_;
};

}  // namespace

std::unique_ptr<KvCodec> make_besicovitch_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() < 3 || fields[0] != "besicovitch") return nullptr;
    const auto direction_bits = spec_number(fields[1], 1, 8),
               bits = fields[2] == "f16" ? std::optional(0u) : spec_number(fields[2], 1, 8);
    if (!direction_bits || !bits) return nullptr;
    BesicovitchForm form{*direction_bits, *bits};
    size_t next = 3;
    if (next < fields.size() && (fields[next] == "published" || fields[next] == "fitted"))
        form.fitted = fields[next++] == "fitted";
    if (next < fields.size() && fields[next].starts_with("mean")) {
        const std::string_view rows = fields[next++].substr(4);
        const auto block = rows.empty()     ? std::optional(kMeanBlock)
                           : rows[0] == '=' ? spec_number(rows.substr(1), 1, kMaxMeanBlock)
                                            : std::nullopt;
        if (!block) return nullptr;
        form.mean_block = *block;
    }
    if (next != fields.size()) return nullptr;
    return std::make_unique<BesicovitchCodec>(spec, form);
}

}  // namespace keel::tools
