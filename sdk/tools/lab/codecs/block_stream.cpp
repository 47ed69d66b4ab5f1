#include "sdk/tools/lab/codecs/block_stream.h"

namespace keel::tools {

std::vector<float> finite_rows(const float* rows, uint32_t count, uint32_t dim) {
    std::vector<float> finite(size_t{count} * dim);
    for (size_t r = 0; r < count; ++r) finite_row(rows + r * dim, dim, finite.data() + r * dim);
    return finite;
}

void put_mean(std::span<float> rows, uint32_t dim, BitWriter& bits) {
    const size_t count = rows.size() / dim;
    for (uint32_t j = 0; j < dim; ++j) {
        double sum = 0;
        for (size_t r = 0; r < count; ++r) sum += rows[r * dim + j];
        const float mean = through_f16(static_cast<float>(sum / static_cast<double>(count)));
        bits.put_f16(mean);
        for (size_t r = 0; r < count; ++r) rows[r * dim + j] -= mean;
    }
}

void put_f16_rows(std::span<const float> rows, BitWriter& bits) {
    for (const float x : rows) bits.put_f16(x);
}

void take_f16_rows(BitReader bits, std::span<float> rows) {
    for (float& x : rows) x = bits.take_f16();
}

}  // namespace keel::tools
