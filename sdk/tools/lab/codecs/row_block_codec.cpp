#include "sdk/tools/lab/codecs/row_block_codec.h"

#include <bit>

namespace keel::tools {

size_t RowBlockCodec::width(size_t left) const {
    return std::min<size_t>(block_, std::bit_floor(left));
}

uint64_t RowBlockCodec::row_bytes(const KvCodecContext& context) const {
    const size_t dim = checked_dim(*this, context);
    uint64_t bytes = 0;
    for (size_t at = 0; at < dim; at += width(dim - at)) bytes += 2 + (width(dim - at) * bits_ + 7) / 8;
    return bytes;
}

void RowBlockCodec::encode_row(std::span<float> row, const KvCodecContext&, BitWriter& bits) const {
    for (; !row.empty(); row = row.subspan(width(row.size()))) {
        encode_block(row.first(width(row.size())), bits);
        bits.align();
    }
}

void RowBlockCodec::decode_row(BitReader& bits, const KvCodecContext&, std::span<float> row) const {
    for (; !row.empty(); row = row.subspan(width(row.size()))) {
        decode_block(bits, row.first(width(row.size())));
        bits.align();
    }
}

}  // namespace keel::tools
