// What codecs of whole blocks of rows have in common: f16 rows for those that fill no block, block means, checked
// reading.
#pragma once
#include <span>
#include <stdexcept>
#include <vector>

#include "sdk/tools/lab/codecs/row_codec.h"

namespace keel::tools {

// finite_row() of every row.
std::vector<float> finite_rows(const float* rows, uint32_t count, uint32_t dim);

// Writes the mean of the rows [n][dim] as f16 and subtracts what was written from each row.
void put_mean(std::span<float> rows, uint32_t dim, BitWriter& bits);

void put_f16_rows(std::span<const float> rows, BitWriter& bits);
void take_f16_rows(BitReader bits, std::span<float> rows);

// Hands out what encode() wrote, part by part; std::invalid_argument, naming the codec, where it ends early or late.
class ByteCursor {
  public:
    ByteCursor(const KvCodec& codec, std::span<const uint8_t> bytes) : codec_(codec), rest_(bytes) {}
    BitReader take(uint64_t bytes) {
        if (bytes > rest_.size()) throw std::invalid_argument(codec_.name() + ": bytes are missing");
        const BitReader part(rest_.first(bytes));
        rest_ = rest_.subspan(bytes);
        return part;
    }
    // For a stored number that encode() never writes.
    void expect(bool plausible) const {
        if (!plausible) throw std::invalid_argument(codec_.name() + ": bytes of another codec");
    }
    void finish() const {
        if (!rest_.empty()) throw std::invalid_argument(codec_.name() + ": bytes are left over");
    }

  private:
    const KvCodec& codec_;
    std::span<const uint8_t> rest_;
};

}  // namespace keel::tools
