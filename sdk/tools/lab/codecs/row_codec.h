// What every codec that codes each row by itself has in common: one stride for all rows, and rows without NaN.
#pragma once
#include "sdk/tools/lab/codecs/kv_codec.h"
#include "sdk/tools/lab/codecs/row_bits.h"

namespace keel::tools {

// Beyond this a coordinate counts as +-kMaxCoordinate, so that rotations in f32 stay finite; every stored scalar
// saturates at f16's 65504 long before.
constexpr float kMaxCoordinate = 0x1p100f;

// A row with NaN as 0 and everything else within +-kMaxCoordinate: all codecs of this room start from it. With scalars
// that saturate (f16_saturated), any row decodes to finite numbers.
void finite_row(const float* row, uint32_t dim, float* out);
// sqrt of the sum of squares; the sum is kept in f64, in order.
float row_norm(std::span<const float> row);
// The largest |x|.
float row_absmax(std::span<const float> row);
// std::invalid_argument unless bytes.size() == expected.
void expect_bytes(const KvCodec& codec, std::span<const uint8_t> bytes, uint64_t expected);
// head_dim; std::invalid_argument unless it is a positive multiple of `multiple`.
uint32_t checked_dim(const KvCodec& codec, const KvCodecContext& context, uint32_t multiple = 1);

class RowCodec : public KvCodec {
  public:
    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const final;
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context, float* rows) const final;
    // Stored bytes of one row; std::invalid_argument when there is no form for this head_dim.
    virtual uint64_t row_bytes(const KvCodecContext& context) const = 0;

  protected:
    // `row` is a finite copy and may be overwritten. At most row_bytes(): the rest is filled with zeros.
    virtual void encode_row(std::span<float> row, const KvCodecContext& context, BitWriter& bits) const = 0;
    virtual void decode_row(BitReader& bits, const KvCodecContext& context, std::span<float> row) const = 0;
};

}  // namespace keel::tools
