#include "sdk/tools/lab/codecs/kakeyaturbo_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "sdk/tools/lab/codecs/block_stream.h"
#include "sdk/tools/lab/codecs/codebook_fit.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_block.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_tables.h"
#include "sdk/tools/lab/codecs/query_whitening.h"

namespace keel::tools {
namespace {

using Eigen::Index;
using Codebook = KakeyaturboOptions::Codebook;

constexpr uint32_t kMaxDim = 1024;
// Fields of the u32 that was charged for the centre alone.
constexpr uint32_t kCentreBits = 10, kOutlierCountBits = 11, kRankBits = 11;

// One row as it is stored.
struct StoredRow {
    uint32_t centre = 0, rank = 0;
    float t = 0, residual_norm = 0, norm = 0;
    std::vector<uint32_t> codes;
    std::vector<std::pair<uint32_t, float>> outliers;  // place, value
};

uint32_t checked_head_dim(const KvCodec& codec, const KvCodecContext& context) {
    if (context.head_dim > kMaxDim)
        throw std::invalid_argument(codec.name() + ": no form for head_dim " + std::to_string(context.head_dim));
    return checked_dim(codec, context);
}

bool whitens(const KakeyaturboOptions& options, const KvCodecContext& context) {
    return options.whitened && !context.value && !options.plain_layers.contains(context.layer, context.layers);
}

std::optional<QueryWhitening> whitening_of(const KvCodec& codec, const KakeyaturboOptions& options,
                                           const KvCodecContext& context) {
    if (!whitens(options, context)) return std::nullopt;
    if (!context.calibration || context.calibration->query_covariance.empty())
        throw std::invalid_argument(codec.name() + ": no query covariance");
    return QueryWhitening(context.calibration->query_covariance, context.head_dim);
}

bool has_own_codebook(const KakeyaturboOptions& options, const KvCodecContext& context) {
    return options.codebook == Codebook::own && context.calibration &&
           context.calibration->codebook.size() == size_t{1} << options.bits;
}

std::span<const float> levels_of(const KakeyaturboOptions& options, const KvCodecContext& context) {
    if (has_own_codebook(options, context)) return context.calibration->codebook;
    const auto published = published_codebook(options.codebook, options.bits, context.value);
    return published.empty() ? gaussian_codebook(options.bits) : published;
}

// Rows [first, first + n) of a call, finite, whitened.
RowMatrix block_of(const std::vector<float>& finite, uint64_t first, uint32_t n, uint32_t dim,
                   const std::optional<QueryWhitening>& whitening) {
    RowMatrix rows(n, dim);
    for (uint32_t r = 0; r < n; ++r) {
        double* const row = rows.row(r).data();
        std::copy_n(finite.data() + (first + r) * dim, dim, row);
        if (whitening) whitening->whiten(first + r, {row, dim});
    }
    return rows;
}

void put_matrix(const RowMatrix& values, BitWriter& bits) {
    for (Index i = 0; i < values.size(); ++i) bits.put_f16(static_cast<float>(values.data()[i]));
}
void take_matrix(BitReader bits, RowMatrix& values) {
    for (Index i = 0; i < values.size(); ++i) values.data()[i] = bits.take_f16();
}
void put_basis(const BlockBasis& basis, BitWriter& bits) {
    put_matrix(basis.mean, bits);
    put_matrix(basis.directions, bits);
}
BlockBasis take_basis(ByteCursor& cursor, uint32_t rank, uint32_t dim) {
    RowMatrix mean(1, dim), directions(rank, dim);
    take_matrix(cursor.take(2 * uint64_t{dim}), mean);
    take_matrix(cursor.take(2 * uint64_t{rank} * dim), directions);
    return {mean, directions};
}

uint64_t bytes_of(uint64_t fields, uint32_t bits) {
    return (fields * bits + 7) / 8;
}
uint32_t centre_bits(const KakeyaturboOptions& options) {
    return static_cast<uint32_t>(std::bit_width(options.centres - 1));
}

// Step 4.
StoredRow quantize(const KakeyaturboBlock& block, const KakeyaturboBlock::Row& row, const KakeyaturboOptions& options,
                   std::span<const float> levels) {
    StoredRow stored{
        row.centre, static_cast<uint32_t>(block.basis.directions.rows()), row.t, row.residual_norm, row.norm, {}, {}};
    for (uint32_t i = 0; i < row.scaled.size(); ++i) {
        stored.codes.push_back(nearest_level(levels, row.scaled[i]));
        if (options.outlier > 0 && std::fabs(row.scaled[i]) > options.outlier)
            stored.outliers.emplace_back(i, row.scaled[i]);
    }
    return stored;
}

// ---- the fields of all rows of a block, before the skeleton (published) or after it (minimum) ----

void put_published_headers(const std::vector<StoredRow>& rows, bool inner_product, BitWriter& bits) {
    for (const StoredRow& row : rows) {
        bits.put(row.centre, kCentreBits);
        bits.put(row.outliers.size(), kOutlierCountBits);
        bits.put(row.rank, kRankBits);
        bits.put_f16(inner_product ? row.residual_norm : 0);
        bits.put_f16(row.t);
        bits.put_f16(inner_product ? row.norm : row.residual_norm);
    }
}
void take_published_headers(ByteCursor& cursor, bool inner_product, std::vector<StoredRow>& rows) {
    BitReader bits = cursor.take(10 * rows.size());
    for (StoredRow& row : rows) {
        row.centre = bits.take_code(kCentreBits);
        row.outliers.resize(bits.take_code(kOutlierCountBits));
        row.rank = bits.take_code(kRankBits);
        const float reserved = bits.take_f16();
        row.t = bits.take_f16();
        const float norm = bits.take_f16();
        row.residual_norm = inner_product ? reserved : norm;
    }
}

void put_minimum_fields(const std::vector<StoredRow>& rows, const KakeyaturboOptions& options, uint32_t width,
                        BitWriter& bits) {
    for (const StoredRow& row : rows) bits.put(row.centre, centre_bits(options));
    bits.align();
    for (const StoredRow& row : rows) bits.put_f16(row.t);
    for (const StoredRow& row : rows) bits.put_f16(row.residual_norm);
    if (options.outlier > 0)
        for (const StoredRow& row : rows) bits.put(row.outliers.size(), static_cast<uint32_t>(std::bit_width(width)));
    bits.align();
}
void take_minimum_fields(ByteCursor& cursor, const KakeyaturboOptions& options, uint32_t width,
                         std::vector<StoredRow>& rows) {
    const uint32_t count_bits = static_cast<uint32_t>(std::bit_width(width));
    BitReader centres = cursor.take(bytes_of(rows.size(), centre_bits(options)));
    for (StoredRow& row : rows) row.centre = centres.take_code(centre_bits(options));
    BitReader scalars = cursor.take(4 * rows.size());
    for (StoredRow& row : rows) row.t = scalars.take_f16();
    for (StoredRow& row : rows) row.residual_norm = scalars.take_f16();
    if (options.outlier > 0) {
        BitReader counts = cursor.take(bytes_of(rows.size(), count_bits));
        for (StoredRow& row : rows) row.outliers.resize(counts.take_code(count_bits));
    }
}

void put_codes(const std::vector<StoredRow>& rows, uint32_t code_bits, BitWriter& bits) {
    for (const StoredRow& row : rows) {
        for (const uint32_t code : row.codes) bits.put(code, code_bits);
        bits.align();
    }
    for (const StoredRow& row : rows)
        for (const auto& [place, value] : row.outliers) {
            bits.put(place, 16);
            bits.put_f16(value);
        }
}
void take_codes(ByteCursor& cursor, uint32_t code_bits, uint32_t width, std::vector<StoredRow>& rows) {
    for (StoredRow& row : rows) {
        BitReader bits = cursor.take(bytes_of(width, code_bits));
        row.codes.resize(width);
        for (uint32_t& code : row.codes) code = bits.take_code(code_bits);
    }
    for (StoredRow& row : rows) {
        cursor.expect(row.outliers.size() <= width);
        BitReader bits = cursor.take(4 * row.outliers.size());
        for (auto& [place, value] : row.outliers) {
            place = bits.take_code(16);
            value = bits.take_f16();
            cursor.expect(place < width);
        }
    }
}

}  // namespace

void KakeyaturboCodec::encode(const float* rows, uint32_t count, const KvCodecContext& context,
                              std::vector<uint8_t>& out) const {
    const uint32_t dim = checked_head_dim(*this, context), block_rows = options_.block, blocks = count / block_rows;
    const std::optional<QueryWhitening> whitening = whitening_of(*this, options_, context);
    const std::span<const float> levels = levels_of(options_, context);
    const std::vector<float> finite = finite_rows(rows, count, dim);
    BitWriter bits(out);
    BlockBasis shared;
    for (uint32_t b = 0; b < blocks; ++b) {
        const bool reuse = options_.share_basis && b > 0;
        const RowMatrix plain = block_of(finite, uint64_t{b} * block_rows, block_rows, dim, whitening);
        const KakeyaturboBlock block = analyse_kakeyaturbo(plain, options_, reuse ? &shared : nullptr);
        if (!reuse) shared = block.basis;
        const uint32_t rank = static_cast<uint32_t>(block.basis.directions.rows());
        std::vector<StoredRow> stored;
        for (const KakeyaturboBlock::Row& row : block.rows) stored.push_back(quantize(block, row, options_, levels));

        if (options_.published_bytes)
            put_published_headers(stored, options_.inner_product, bits);
        else if (!reuse)
            bits.put(rank, 16);
        if (!reuse) put_basis(block.basis, bits);
        put_matrix(block.centres, bits);
        if (!options_.published_bytes) put_minimum_fields(stored, options_, kakeyaturbo_width(rank), bits);
        put_codes(stored, options_.bits, bits);
    }
    put_f16_rows(std::span(finite).subspan(uint64_t{blocks} * block_rows * dim), bits);
}

void KakeyaturboCodec::decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                              float* rows) const {
    const uint32_t dim = checked_head_dim(*this, context), block_rows = options_.block, blocks = count / block_rows;
    const std::optional<QueryWhitening> whitening = whitening_of(*this, options_, context);
    const std::span<const float> levels = levels_of(options_, context);
    ByteCursor cursor(*this, bytes);
    BlockBasis basis;
    uint32_t rank = 0;
    for (uint32_t b = 0; b < blocks; ++b) {
        const bool reuse = options_.share_basis && b > 0;
        std::vector<StoredRow> stored(block_rows);
        uint32_t stored_rank = rank;
        if (options_.published_bytes) {
            take_published_headers(cursor, options_.inner_product, stored);
            stored_rank = stored[0].rank;
        } else if (!reuse) {
            stored_rank = cursor.take(2).take_code(16);
        }
        cursor.expect(stored_rank >= 1 && stored_rank <= dim && (!reuse || stored_rank == rank));
        rank = stored_rank;
        const uint32_t width = kakeyaturbo_width(rank);
        if (!reuse) basis = take_basis(cursor, rank, dim);
        RowMatrix centres(options_.centres, rank);
        take_matrix(cursor.take(2 * uint64_t{options_.centres} * rank), centres);
        if (!options_.published_bytes) take_minimum_fields(cursor, options_, width, stored);
        take_codes(cursor, options_.bits, width, stored);

        std::vector<float> scaled(width);
        for (uint32_t r = 0; r < block_rows; ++r) {
            const StoredRow& row = stored[r];
            cursor.expect(row.centre < options_.centres);
            for (uint32_t i = 0; i < width; ++i) scaled[i] = levels[row.codes[i]];
            for (const auto& [place, value] : row.outliers) scaled[place] = value;
            Eigen::RowVectorXd x = synthesize_kakeyaturbo(basis, centres, row.centre, row.t, row.residual_norm, scaled);
            const uint64_t index = uint64_t{b} * block_rows + r;
            if (whitening) whitening->unwhiten(index, {x.data(), dim});
            for (uint32_t j = 0; j < dim; ++j) rows[index * dim + j] = static_cast<float>(x[j]);
        }
    }
    const uint64_t coded = uint64_t{blocks} * block_rows * dim, rest = uint64_t{count} * dim - coded;
    take_f16_rows(cursor.take(2 * rest), {rows + coded, rest});
    cursor.finish();
}

uint64_t KakeyaturboCodec::side_bytes(const KvCodecContext& context) const {
    const uint64_t dim = checked_head_dim(*this, context);
    uint64_t bytes = 0;
    if (const auto whitening = whitening_of(*this, options_, context))
        bytes += options_.published_bytes ? whitening->heads() * 2 * dim * dim * 4
                                          : QueryWhitening::side_bytes(whitening->heads(), context.head_dim);
    const bool table = has_own_codebook(options_, context) ||
                       !published_codebook(options_.codebook, options_.bits, context.value).empty();
    return bytes + (table ? uint64_t{4} << options_.bits : 0);
}

std::vector<float> KakeyaturboCodec::scaled_residuals(const float* rows, uint32_t count,
                                                      const KvCodecContext& context) const {
    const uint32_t dim = checked_head_dim(*this, context);
    const std::optional<QueryWhitening> whitening = whitening_of(*this, options_, context);
    const std::vector<float> finite = finite_rows(rows, count, dim);
    std::vector<float> all;
    BlockBasis shared;
    for (uint32_t b = 0; b < count / options_.block; ++b) {
        const bool reuse = options_.share_basis && b > 0;
        const RowMatrix plain = block_of(finite, uint64_t{b} * options_.block, options_.block, dim, whitening);
        const KakeyaturboBlock block = analyse_kakeyaturbo(plain, options_, reuse ? &shared : nullptr);
        if (!reuse) shared = block.basis;
        for (const KakeyaturboBlock::Row& row : block.rows) all.insert(all.end(), row.scaled.begin(), row.scaled.end());
    }
    return all;
}

void KakeyaturboCodec::calibrate(const float* rows, uint32_t count, const KvCodecContext& context,
                                 KvCodecCalibration* calibration) const {
    if (options_.codebook == Codebook::own)
        calibration->codebook = fit_codebook(scaled_residuals(rows, count, context), gaussian_codebook(options_.bits));
}

}  // namespace keel::tools
