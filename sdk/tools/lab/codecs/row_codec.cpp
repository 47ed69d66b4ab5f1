#include "sdk/tools/lab/codecs/row_codec.h"

#include <cmath>
#include <stdexcept>

namespace keel::tools {

void finite_row(const float* row, uint32_t dim, float* out) {
    for (uint32_t i = 0; i < dim; ++i)
        out[i] = std::isnan(row[i]) ? 0.0f : std::clamp(row[i], -kMaxCoordinate, kMaxCoordinate);
}

float row_norm(std::span<const float> row) {
    double sum = 0;
    for (const float x : row) sum += static_cast<double>(x) * x;
    return static_cast<float>(std::sqrt(sum));
}

float row_absmax(std::span<const float> row) {
    float largest = 0;
    for (const float x : row) largest = std::max(largest, std::fabs(x));
    return largest;
}

void expect_bytes(const KvCodec& codec, std::span<const uint8_t> bytes, uint64_t expected) {
    if (bytes.size() != expected)
        throw std::invalid_argument(codec.name() + ": " + std::to_string(bytes.size()) + " bytes instead of " +
                                    std::to_string(expected));
}

uint32_t checked_dim(const KvCodec& codec, const KvCodecContext& context, uint32_t multiple) {
    if (context.head_dim == 0 || context.head_dim % multiple)
        throw std::invalid_argument(codec.name() + ": no form for head_dim " + std::to_string(context.head_dim));
    return context.head_dim;
}

void RowCodec::encode(const float* rows, uint32_t count, const KvCodecContext& context,
                      std::vector<uint8_t>& out) const {
    const uint64_t stride = row_bytes(context);
    std::vector<float> row(context.head_dim);
    for (uint32_t r = 0; r < count; ++r) {
        const uint64_t end = out.size() + stride;
        finite_row(rows + static_cast<size_t>(r) * row.size(), context.head_dim, row.data());
        BitWriter bits(out);
        encode_row(row, context, bits);
        if (out.size() > end) throw std::logic_error(name() + ": a row is longer than its stride");
        out.resize(end);
    }
}

void RowCodec::decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                      float* rows) const {
    const uint64_t stride = row_bytes(context);
    expect_bytes(*this, bytes, stride * count);
    for (uint32_t r = 0; r < count; ++r) {
        BitReader bits(bytes.subspan(r * stride, stride));
        decode_row(bits, context, {rows + static_cast<size_t>(r) * context.head_dim, context.head_dim});
    }
}

}  // namespace keel::tools
