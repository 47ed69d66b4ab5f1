// KakeyaTurbo's block code: PCA of a block of rows, a clustered direction per row, the rest rotated by signs and a
// Walsh-Hadamard transform and coded with a few bits per coordinate. Needs Eigen.
//
// Of each block of B rows (K whitened where asked for):
//   1. mean mu and R directions U of the PCA, f16; coefficients c = U (x - mu) with the rounded values
//   2. k unit centres, f16; per row the centre m of largest |<c, m>|, t = <c, m>, residual e = c - t m with t not
//      rounded
//   3. z = H (signs * e) / ||e||, e padded with zeros to W = the power of two from R on, H of entries +-1: unit
//      variance per coordinate
//   4. the nearest level to each z; where |z| > T also its place and its f16 value, which decoding takes instead
//   decoded: e' = ||e|| signs * H z' / W,  x' = mu + U^T (t m + e')
// The published decoder left ||e|| out under the inner-product metric (and stored ||x||, which nothing read); this one
// never does.
//
// Bytes, least significant bit first, every part beginning at a byte. minimum:
//   u16 R | mu: D f16 | U: R D f16 (these three in the first block only where the basis is shared) | centres: k R f16 |
//   per row the centre in ceil(log2 k) bits | per row f16 t | per row f16 ||e|| | with T, per row the number of
//   outliers in bit_width(W) bits | per row W levels of b bits, padded to a byte | outliers: u16 place, f16 value
// published, the size that was charged: per row 10 bytes, u32 (centre in the low 10 bits, then outliers in 11 and R in
// 11: the field was
//   a whole u32 for the centre) | f16 reserved | f16 t | f16 norm | then mu, U, centres, levels and outliers as above.
//   mse: norm = ||e||, reserved 0. ip: norm = ||x||, reserved = ||e||.
//   Per row on average: 10 + W b / 8 + 4 W p(outlier) + (2 k R + 2 D + 2 R D) / B
// Rows that fill no block are f16 and not whitened. head_dim <= 1024.
#pragma once
#include <memory>

#include "sdk/tools/lab/codecs/calibrated_codec.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_options.h"

namespace keel::tools {

class KakeyaturboCodec final : public CalibratedCodec {
  public:
    KakeyaturboCodec(std::string_view name, const KakeyaturboOptions& options) : name_(name), options_(options) {}
    std::string name() const override { return name_; }
    // With a shared basis the rows of a whole stream belong together.
    uint32_t block_rows(bool) const override { return options_.share_basis ? 1 << 20 : options_.block; }
    bool pools_heads() const override { return options_.pooled; }
    bool before_rope() const override { return options_.before_rope; }
    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override;
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                float* rows) const override;
    // Triangles of L in f32 (published bytes: L and L^-1), a codebook that is not the Gaussian's.
    uint64_t side_bytes(const KvCodecContext& context) const override;
    // Fits calibration->codebook where the options ask for an own one.
    void calibrate(const float* rows, uint32_t count, const KvCodecContext& context,
                   KvCodecCalibration* calibration) const override;
    // The numbers z of step 3, of all whole blocks.
    std::vector<float> scaled_residuals(const float* rows, uint32_t count, const KvCodecContext& context) const;

  private:
    std::string name_;
    KakeyaturboOptions options_;
};

}  // namespace keel::tools
