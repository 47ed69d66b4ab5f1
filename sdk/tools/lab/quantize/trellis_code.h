// Weights of 2, 3 or 4 bits by a separable trellis, as laboratory formats: what a type wt-2, wt-3 or wt-4 would hold.
//
// Block of 256 elements of a row (the last one of a row may be shorter): f16 d, then the symbols of `bits` bits each,
// the first in the lowest bits of the first byte. Element i stands for
//     w_i = d / 32 (tables[0][s_i mod 16] + tables[1][s_i / 16 mod 16] + tables[2][s_i / 256])
// with s_i the last state_bits bits of symbols, the newest lowest: s_i = (s_i-1 << bits | symbol_i) mod 2^state_bits.
// Before the block's first symbol come its last ones. The sum of the tables is an int8.
//
// Rows are rotated before: signs, then the Hadamard matrix of each block of hadamard_width(columns), the same for every
// row, so that a product rotates its input once. Rotated weights are near to Gaussian whatever they were.
#pragma once
#include <stdint.h>

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "sdk/tools/lab/quantize/trellis_search.h"

namespace keel::tools {

struct TrellisCode {
    uint32_t bits, state_bits;
    float unit;                                    // integers in one root mean square of a block
    std::array<std::array<int8_t, 16>, 3> tables;  // the third is zeros with 8 state bits
};
constexpr uint32_t kTrellisBlock = 256;

// bits 2 to 4, state_bits 8 or 12. std::invalid_argument: others.
const TrellisCode& trellis_code(uint32_t bits, uint32_t state_bits);

// std::invalid_argument: columns that are not of 16 elements each.
uint64_t trellis_row_bytes(const TrellisCode& code, uint64_t columns);

class TrellisBlockSearch;

// Codes blocks of one code, one after the other.
class TrellisCoder {
  public:
    explicit TrellisCoder(const TrellisCode& code);
    ~TrellisCoder();
    // x of n <= 256 elements, rotated and finite. Symbols of the least error at d of the block's root mean square,
    // then the best d for those symbols; feedback null: every error weighs the same and none is passed on. value [n]:
    // what the block stands for. Returns its bytes.
    std::vector<uint8_t> code(std::span<const float> x, const TrellisFeedback* feedback, float* value);

  private:
    const TrellisCode& code_;
    std::unique_ptr<TrellisBlockSearch> search_;
};

// x [rows][columns] <-> its rotated rows.
void rotate_weights(std::span<float> x, uint64_t columns);
void unrotate_weights(std::span<float> x, uint64_t columns);

// values [rows][columns], which are not rotated yet -> rows of trellis_row_bytes(code, columns), each block by itself.
// std::invalid_argument: sizes that do not fit, a value that is not finite.
std::vector<uint8_t> encode_trellis(const TrellisCode& code, std::span<const float> values, uint64_t columns);
// What the blocks of rows stand for, still rotated.
std::vector<float> decode_trellis(const TrellisCode& code, std::span<const uint8_t> bytes, uint64_t columns);
// decode_trellis(encode_trellis(values)), rotated back.
std::vector<float> trellis_values(const TrellisCode& code, std::span<const float> values, uint64_t columns);

}  // namespace keel::tools
