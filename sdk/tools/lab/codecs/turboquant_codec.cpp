// TurboQuant (arXiv 2504.19874) after DRIVE, EDEN and HIGGS: random rotation, then the Gaussian's Lloyd-Max levels for
// every coordinate alone. The rotation is a Hadamard matrix with fixed random signs.
//
// tq-mse:b   row: f16 scale | D codes of b bits: bD + 16 bits. With y the rotated row and c its levels, y is decoded as
//            (scale / sqrt(D)) c. scale: ||x|| as published; ls: least squares; nc: such that the decoded row has the
//            norm ||x||; eden: such that <x, decoded> = ||x||^2, which makes inner products unbiased.
// tq-prod:b  row: f16 ||x|| | f16 ||r|| | D codes of b - 1 bits | D signs: bD + 32 bits. r is what tq-mse:b-1 leaves,
// the signs
//            are those of S r (QJL), S Gaussian. Decoded is the row whose inner product with a query is the estimator:
//            x_mse + sqrt(pi/2)/D ||r|| S^T sign(S r).
// Rows are rounded up to bytes; scales above 65504 are stored as 65504.
#include <cmath>
#include <numbers>

#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/row_codec.h"
#include "sdk/tools/lab/codecs/row_rotation.h"

namespace keel::tools {
namespace {

constexpr uint64_t kSignSeed = 0x6b65656c7471;

enum class Scale { kNorm, kLeastSquares, kNormCorrecting, kUnbiased };

float root_of(size_t dim) {
    return static_cast<float>(std::sqrt(static_cast<double>(dim)));
}

// Codes of a rotated row of this norm: the levels nearest to y sqrt(D) / norm. A zero row takes the levels beside 0.
void levels_of(std::span<const float> y, float norm, std::span<const float> book, std::vector<uint32_t>& codes) {
    const float up = norm > 0 ? root_of(y.size()) / norm : 0;
    codes.resize(y.size());
    for (size_t i = 0; i < y.size(); ++i) codes[i] = nearest_level(book, y[i] * up);
}

void unrotated(std::span<float> row, float scale) {
    signed_hadamard_inverse(row, kSignSeed);
    const float factor = scale / root_of(row.size());
    for (float& x : row) x *= factor;
}

class TurboQuantMseCodec final : public RowCodec {
  public:
    TurboQuantMseCodec(uint32_t bits, Scale scale, std::string_view suffix)
        : bits_(bits), scale_(scale), suffix_(suffix), book_(gaussian_codebook(bits)) {}
    std::string name() const override {
        return "tq-mse:" + std::to_string(bits_) + (suffix_.empty() ? "" : ":" + suffix_);
    }
    uint64_t row_bytes(const KvCodecContext& context) const override {
        return (static_cast<uint64_t>(bits_) * checked_dim(*this, context) + 16 + 7) / 8;
    }

  protected:
    void encode_row(std::span<float> row, const KvCodecContext&, BitWriter& bits) const override {
        const float norm = row_norm(row);
        signed_hadamard(row, kSignSeed);
        std::vector<uint32_t> codes;
        levels_of(row, norm, book_, codes);
        bits.put_f16(scale_of(row, norm, codes));
        for (const uint32_t code : codes) bits.put(code, bits_);
    }
    void decode_row(BitReader& bits, const KvCodecContext&, std::span<float> row) const override {
        const float scale = bits.take_f16();
        for (float& x : row) x = book_[bits.take_code(bits_)];
        unrotated(row, scale);
    }

  private:
    float scale_of(std::span<const float> y, float norm, const std::vector<uint32_t>& codes) const {
        if (!(norm > 0)) return 0;
        double yc = 0, cc = 0;
        for (size_t i = 0; i < y.size(); ++i) {
            const double c = book_[codes[i]];
            yc += y[i] * c, cc += c * c;
        }
        const double root = std::sqrt(static_cast<double>(y.size())), n = norm;
        switch (scale_) {
            case Scale::kLeastSquares:
                return static_cast<float>(root * yc / cc);
            case Scale::kNormCorrecting:
                return static_cast<float>(root * n / std::sqrt(cc));
            case Scale::kUnbiased:
                return static_cast<float>(root * n * n / yc);  // yc > 0: no level has the other sign
            default:
                return norm;
        }
    }

    uint32_t bits_;
    Scale scale_;
    std::string suffix_;
    std::span<const float> book_;
};

class TurboQuantProdCodec final : public RowCodec {
  public:
    explicit TurboQuantProdCodec(uint32_t bits) : bits_(bits), book_(gaussian_codebook(bits - 1)) {}
    std::string name() const override { return "tq-prod:" + std::to_string(bits_); }
    uint64_t row_bytes(const KvCodecContext& context) const override {
        return (static_cast<uint64_t>(bits_) * checked_dim(*this, context) + 32 + 7) / 8;
    }

  protected:
    void encode_row(std::span<float> row, const KvCodecContext&, BitWriter& bits) const override {
        const size_t dim = row.size();
        const float norm = row_norm(row);
        std::vector<float> rest(row.begin(), row.end()), decoded(dim);
        std::vector<uint32_t> codes;
        signed_hadamard(row, kSignSeed);
        levels_of(row, norm, book_, codes);
        for (size_t i = 0; i < dim; ++i) decoded[i] = book_[codes[i]];
        unrotated(decoded, through_f16(norm));
        for (size_t i = 0; i < dim; ++i) rest[i] -= decoded[i];
        bits.put_f16(norm);
        bits.put_f16(row_norm(rest));
        for (const uint32_t code : codes) bits.put(code, bits_ - 1);
        const std::vector<float>& s = gaussian_matrix(static_cast<uint32_t>(dim));
        for (size_t i = 0; i < dim; ++i) {
            double sum = 0;
            for (size_t j = 0; j < dim; ++j) sum += static_cast<double>(s[i * dim + j]) * rest[j];
            bits.put(sum >= 0, 1);
        }
    }
    void decode_row(BitReader& bits, const KvCodecContext&, std::span<float> row) const override {
        const size_t dim = row.size();
        const float norm = bits.take_f16(), rest_norm = bits.take_f16();
        for (float& x : row) x = book_[bits.take_code(bits_ - 1)];
        unrotated(row, norm);
        std::vector<double> sum(dim);
        const std::vector<float>& s = gaussian_matrix(static_cast<uint32_t>(dim));
        for (size_t i = 0; i < dim; ++i) {
            const double sign = bits.take_code(1) ? 1 : -1;
            for (size_t j = 0; j < dim; ++j) sum[j] += sign * s[i * dim + j];
        }
        const double factor = std::sqrt(std::numbers::pi / 2) / static_cast<double>(dim) * rest_norm;
        for (size_t j = 0; j < dim; ++j) row[j] += static_cast<float>(factor * sum[j]);
    }

  private:
    uint32_t bits_;
    std::span<const float> book_;
};

}  // namespace

std::unique_ptr<KvCodec> make_turboquant_codec(std::string_view spec) {
    const auto fields = spec_fields(spec);
    if (fields.size() < 2) return nullptr;
    if (fields[0] == "tq-prod" && fields.size() == 2) {
        const auto bits = spec_number(fields[1], 2, kMaxCodebookBits);
        return bits ? std::make_unique<TurboQuantProdCodec>(*bits) : nullptr;
    }
    const auto bits = spec_number(fields[1], 1, kMaxCodebookBits);
    if (fields[0] != "tq-mse" || fields.size() > 3 || !bits) return nullptr;
    if (fields.size() == 2) return std::make_unique<TurboQuantMseCodec>(*bits, Scale::kNorm, "");
    constexpr struct {
        std::string_view suffix;
        Scale scale;
    } kScales[] = {{"ls", Scale::kLeastSquares}, {"nc", Scale::kNormCorrecting}, {"eden", Scale::kUnbiased}};
    for (const auto& [suffix, scale] : kScales)
        if (fields[2] == suffix) return std::make_unique<TurboQuantMseCodec>(*bits, scale, suffix);
    return nullptr;
}

}  // namespace keel::tools
