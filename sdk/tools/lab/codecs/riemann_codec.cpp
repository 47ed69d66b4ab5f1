// Riemann K-Besi: rows whitened by the query covariance, less their block's mean, coded pair by pair as a direction and
// a signed length in units of a fixed scale per (layer, kv head, pair). Nothing is stored per row but codes.
//
// Block of B rows: f16 mean [D], then per row G = D / 2 directions of d bits from the lowest bit, padded to a byte, and
// G magnitudes of m bits, padded likewise; rows that fill no block are f16, unwhitened. Bytes per row: (D/2) (d + m) /
// 8 + 2 D / B.
//   Scales  a statistic of |alpha| on other text (calibrate()): pct99 / 2.7 and the like. As published they came from
//           the very rows that were coded, for all heads together, and were not charged; here they are offline, per
//           head, and in side_bytes().
//   Levels  calibrated: the published ones of 3 and 4 bits. quantile: what was published under the name of Lloyd-Max;
//           it clips beyond 1.863 (m = 4), while pct99 / 2.7 expects 2.7. own: fitted by calibrate().
//   V       is never whitened: there is no query covariance for it. "plain" whitens nothing.
#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "sdk/tools/lab/codecs/block_stream.h"
#include "sdk/tools/lab/codecs/calibrated_codec.h"
#include "sdk/tools/lab/codecs/codebook_fit.h"
#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/plane_directions.h"
#include "sdk/tools/lab/codecs/query_whitening.h"

namespace keel::tools {
namespace {

constexpr uint32_t kBlock = 1024, kMaxBlock = 1 << 20;

// Positive halves of the published calibrated levels.
constexpr float kCalibrated3[] = {0.422f, 0.992f, 1.595f, 2.276f};  // measured at d = 5
constexpr float kCalibrated4[] = {0.2556f, 0.5596f, 0.8555f, 1.1603f,
                                  1.4761f, 1.8087f, 2.1725f, 2.6055f};  // measured at d = 6

std::vector<float> both_signs(std::span<const float> positive) {
    std::vector<float> book;
    for (size_t i = positive.size(); i-- > 0;) book.push_back(-positive[i]);
    book.insert(book.end(), positive.begin(), positive.end());
    return book;
}

// Scale of a group: statistic / divisor.
struct ScaleRule {
    std::string_view name;
    double percentile;  // of |alpha|; 0: rms of alpha; < 0: rms of the pair's coordinates
    double divisor;
};
constexpr ScaleRule kScaleRules[] = {
    {"pct99", 99, 2.7}, {"pct95", 95, 2.7}, {"pct99.9", 99.9, 2.7}, {"rms", 0, 1}, {"trace", -1, 1},
};

struct RiemannForm {
    uint32_t direction_bits = 6, bits = 4;
    ScaleRule rule = kScaleRules[0];
    bool own_levels = false, whitened = true;
    std::vector<float> book;
    uint32_t block = kBlock;
};

class RiemannCodec final : public CalibratedCodec {
  public:
    RiemannCodec(std::string_view name, RiemannForm form)
        : name_(name), form_(std::move(form)), directions_(form_.direction_bits) {}
    std::string name() const override { return name_; }
    uint32_t block_rows(bool) const override { return form_.block; }
    bool before_rope() const override { return true; }

    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override {
        const uint32_t dim = checked_dim(*this, context, 2), groups = dim / 2;
        const std::span<const float> scales = group_scales(context), book = levels(context);
        std::vector<float> finite = finite_rows(rows, count, dim);
        const std::vector<float> plain = finite;
        whiten(finite, context);
        BitWriter bits(out);
        for (uint32_t r = 0; r < count; ++r) {
            const std::span<float> rest(finite.begin() + size_t{r} * dim, finite.end());
            if (r % form_.block == 0) {
                if (count - r < form_.block) {
                    put_f16_rows(std::span(plain).subspan(size_t{r} * dim), bits);
                    break;
                }
                put_mean(rest.first(size_t{form_.block} * dim), dim, bits);
            }
            const PlaneCodes codes = directions_.split(rest.first(dim));
            for (const uint8_t direction : codes.direction) bits.put(direction, form_.direction_bits);
            bits.align();
            for (uint32_t g = 0; g < groups; ++g) {
                const float scale = scale_of(scales, r, g, groups);
                bits.put(nearest_level(book, scale > 0 ? codes.alpha[g] / scale : 0), form_.bits);
            }
            bits.align();
        }
    }
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                float* rows) const override {
        const uint32_t dim = checked_dim(*this, context, 2), groups = dim / 2;
        const std::span<const float> scales = group_scales(context), book = levels(context);
        const std::optional<QueryWhitening> whitening = whitening_of(context);
        const uint64_t row_bytes =
            (uint64_t{groups} * form_.direction_bits + 7) / 8 + (uint64_t{groups} * form_.bits + 7) / 8;
        ByteCursor cursor(*this, bytes);
        std::vector<float> mean(dim), row(dim);
        std::vector<double> wide(dim);
        PlaneCodes codes{std::vector<uint8_t>(groups), std::vector<float>(groups)};
        for (uint32_t r = 0; r < count; ++r) {
            float* const out = rows + size_t{r} * dim;
            if (r % form_.block == 0) {
                if (count - r < form_.block) {
                    const uint64_t values = uint64_t{count - r} * dim;
                    take_f16_rows(cursor.take(2 * values), {out, values});
                    break;
                }
                take_f16_rows(cursor.take(2 * uint64_t{dim}), mean);
            }
            BitReader bits = cursor.take(row_bytes);
            for (uint8_t& direction : codes.direction)
                direction = static_cast<uint8_t>(bits.take_code(form_.direction_bits));
            bits.align();
            for (uint32_t g = 0; g < groups; ++g)
                codes.alpha[g] = book[bits.take_code(form_.bits)] * scale_of(scales, r, g, groups);
            directions_.join(codes, row);
            for (uint32_t j = 0; j < dim; ++j) wide[j] = double{row[j]} + mean[j];
            if (whitening) whitening->unwhiten(r, wide);
            for (uint32_t j = 0; j < dim; ++j) out[j] = static_cast<float>(wide[j]);
        }
        cursor.finish();
    }
    // Scales in f32, the triangle of L, and levels that were fitted.
    uint64_t side_bytes(const KvCodecContext& context) const override {
        const uint64_t groups = checked_dim(*this, context, 2) / 2, heads = group_scales(context).size() / groups;
        return heads * groups * 4 +
               (whitens(context) ? QueryWhitening::side_bytes(static_cast<uint32_t>(heads), context.head_dim) : 0) +
               (form_.own_levels ? uint64_t{4} << form_.bits : 0);
    }

    void calibrate(const float* rows, uint32_t count, const KvCodecContext& context,
                   KvCodecCalibration* calibration) const override {
        const uint32_t dim = checked_dim(*this, context, 2), groups = dim / 2;
        const std::optional<QueryWhitening> whitening = whitening_of(context);
        const uint32_t heads = whitening ? whitening->heads() : 1;
        std::vector<float> finite = finite_rows(rows, count, dim);
        whiten(finite, context);
        // Means of blocks as in encode(); what fills no block is a block here.
        std::vector<uint8_t> ignored;
        BitWriter bits(ignored);
        for (size_t at = 0, n = size_t{form_.block} * dim; at < finite.size(); at += n)
            put_mean(std::span(finite).subspan(at, std::min(n, finite.size() - at)), dim, bits);

        std::vector<std::vector<float>> alpha(size_t{heads} * groups);  // per group, of all rows of the head
        std::vector<double> square(alpha.size());                       // of the coordinates
        for (uint32_t r = 0; r < count; ++r) {
            const std::span<const float> row(finite.data() + size_t{r} * dim, dim);
            const PlaneCodes codes = directions_.split(row);
            for (uint32_t g = 0; g < groups; ++g) {
                const size_t at = size_t{r % heads} * groups + g;
                alpha[at].push_back(codes.alpha[g]);
                square[at] += double{row[2 * g]} * row[2 * g] + double{row[2 * g + 1]} * row[2 * g + 1];
            }
        }
        std::vector<float> scaled;
        calibration->group_scales.clear();
        for (size_t at = 0; at < alpha.size(); ++at) {
            const float scale = static_cast<float>(statistic(alpha[at], square[at]) / form_.rule.divisor);
            calibration->group_scales.push_back(scale);
            if (scale > 0)
                for (const float a : alpha[at]) scaled.push_back(a / scale);
        }
        if (form_.own_levels) calibration->codebook = fit_codebook(scaled, gaussian_codebook(form_.bits));
    }

  private:
    bool whitens(const KvCodecContext& context) const { return form_.whitened && !context.value; }
    std::optional<QueryWhitening> whitening_of(const KvCodecContext& context) const {
        if (!whitens(context)) return std::nullopt;
        if (!context.calibration || context.calibration->query_covariance.empty())
            throw std::invalid_argument(name_ + ": no query covariance");
        return QueryWhitening(context.calibration->query_covariance, context.head_dim);
    }
    void whiten(std::span<float> rows, const KvCodecContext& context) const {
        const std::optional<QueryWhitening> whitening = whitening_of(context);
        if (!whitening) return;
        const size_t dim = context.head_dim;
        std::vector<double> wide(dim);
        for (size_t r = 0; r < rows.size() / dim; ++r) {
            std::copy_n(rows.begin() + static_cast<ptrdiff_t>(r * dim), dim, wide.begin());
            whitening->whiten(r, wide);
            for (size_t j = 0; j < dim; ++j) rows[r * dim + j] = static_cast<float>(wide[j]);
        }
    }
    // [heads][groups], checked.
    std::span<const float> group_scales(const KvCodecContext& context) const {
        const size_t groups = context.head_dim / 2;
        if (!context.calibration || context.calibration->group_scales.empty())
            throw std::invalid_argument(name_ + ": no group scales");
        const std::span<const float> scales = context.calibration->group_scales;
        if (scales.size() % groups) throw std::invalid_argument(name_ + ": group scales of another head_dim");
        for (const float scale : scales)
            if (!(scale >= 0 && std::isfinite(scale)))
                throw std::invalid_argument(name_ + ": a group scale is negative or not finite");
        return scales;
    }
    static float scale_of(std::span<const float> scales, size_t row, size_t group, size_t groups) {
        return scales[row % (scales.size() / groups) * groups + group];
    }
    std::span<const float> levels(const KvCodecContext& context) const {
        if (!form_.own_levels) return form_.book;
        if (!context.calibration || context.calibration->codebook.size() != size_t{1} << form_.bits)
            throw std::invalid_argument(name_ + ": no codebook of 2^m levels");
        return context.calibration->codebook;
    }
    double statistic(std::span<const float> alpha, double coordinate_square) const {
        if (alpha.empty()) return 0;
        const double n = static_cast<double>(alpha.size());
        if (form_.rule.percentile < 0) return std::sqrt(coordinate_square / (2 * n));
        if (form_.rule.percentile == 0) return row_norm(alpha) / std::sqrt(n);
        std::vector<float> sorted;
        for (const float a : alpha) sorted.push_back(std::fabs(a));
        std::sort(sorted.begin(), sorted.end());
        const size_t rank = static_cast<size_t>(std::ceil(form_.rule.percentile / 100 * n));  // nearest rank, from 1
        return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
    }

    std::string name_;
    RiemannForm form_;
    PlaneDirections directions_;
};

}  // namespace

std::unique_ptr<KvCodec> make_riemann_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() < 3 || fields[0] != "riemann") return nullptr;
    const auto direction_bits = spec_number(fields[1], 1, 8), bits = spec_number(fields[2], 1, 8);
    if (!direction_bits || !bits) return nullptr;
    RiemannForm form;
    form.direction_bits = *direction_bits;
    form.bits = *bits;
    const auto calibrated = [&] {
        return *bits == 3 ? both_signs(kCalibrated3) : *bits == 4 ? both_signs(kCalibrated4) : std::vector<float>();
    };
    for (size_t i = 3; i < fields.size(); ++i) {
        const auto rule = std::find_if(std::begin(kScaleRules), std::end(kScaleRules),
                                       [&](const ScaleRule& r) { return r.name == fields[i]; });
        if (rule != std::end(kScaleRules)) {
            form.rule = *rule;
        } else if (fields[i] == "calibrated") {
            form.book = calibrated();
            if (form.book.empty()) return nullptr;
        } else if (fields[i] == "quantile") {
            form.book = quantile_codebook(*bits);
        } else if (fields[i] == "own") {
            form.own_levels = true;
        } else if (fields[i] == "plain") {
            form.whitened = false;
        } else if (fields[i].starts_with("block=")) {
            const auto block = spec_number(fields[i].substr(6), 1, kMaxBlock);
            if (!block) return nullptr;
            form.block = *block;
        } else {
            return nullptr;
        }
    }
    if (form.book.empty()) form.book = calibrated();
    if (form.book.empty()) form.book = quantile_codebook(*bits);
    return std::make_unique<RiemannCodec>(spec, std::move(form));
}

}  // namespace keel::tools
