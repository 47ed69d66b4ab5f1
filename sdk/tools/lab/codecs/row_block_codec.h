// Codecs that cut a row into short blocks and code each by itself.
#pragma once
#include "sdk/tools/lab/codecs/row_codec.h"

namespace keel::tools {

// Blocks of `block` (a power of two) values; what is left of a row is cut into smaller powers of two, largest first (D
// = 80 in 32s: 32 + 32 + 16; D = 64 in 128s: 64). A block: one f16, then `bits` bits a value; every block begins a
// byte.
class RowBlockCodec : public RowCodec {
  public:
    RowBlockCodec(uint32_t bits, uint32_t block) : bits_(bits), block_(block) {}
    uint64_t row_bytes(const KvCodecContext& context) const final;

  protected:
    uint32_t bits() const { return bits_; }
    uint32_t block() const { return block_; }
    // One block, which may be overwritten.
    virtual void encode_block(std::span<float> y, BitWriter& bits) const = 0;
    virtual void decode_block(BitReader& bits, std::span<float> y) const = 0;

  private:
    void encode_row(std::span<float> row, const KvCodecContext& context, BitWriter& bits) const final;
    void decode_row(BitReader& bits, const KvCodecContext& context, std::span<float> row) const final;
    // The next block of a row of which `left` values are left.
    size_t width(size_t left) const;

    uint32_t bits_, block_;
};

}  // namespace keel::tools
