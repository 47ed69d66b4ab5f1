// Rows of f32 as rows of a weight type (kernels/formats/weight_types.h), so that the error that reaches the output is
// small: with an importance per column, the second moment of what the column is multiplied by, each block minimises
// sum_j importance_j (decoded_j - row_j)^2 over scales.
#pragma once
#include <stdint.h>

#include <memory>
#include <span>
#include <vector>

#include "kernels/formats/weight_types.h"

namespace keel::tools {

// Every type that is read.
bool can_quantize(uint32_t type);

// values [rows][columns] -> rows of weight_row_bytes(type, columns). importance [columns], >= 0; empty: all alike; a
// block of zeros: alike within it.
//
// 32-element types: scales around the extreme value over the largest code, both signs, each followed by least squares
// against its own codes; the best in the weighted error of what the decoder computes. K types: sub-blocks so, then
// their integer scales, the block's scales by least squares, and integer scales one step up and down. Never worse than
// nearest_rows in weighted error, which is one of the starts.
// F32, F16 and BF16 are rounded, Q8_F32 is as published: d = max |x| / 127, or 1 for zeros; q = the nearest integer to
// x / d. Values beyond what the type's scales reach become the nearest it has. std::invalid_argument: a value or
// importance that is NaN or infinite, a negative importance, another type, columns that are no whole number of blocks,
// sizes that do not fit.
std::vector<uint8_t> quantize_rows(uint32_t type, std::span<const float> values, uint64_t columns,
                                   std::span<const float> importance = {});

// Plain rounding: d from the extreme value, codes the nearest. The same conditions.
std::vector<uint8_t> nearest_rows(uint32_t type, std::span<const float> values, uint64_t columns);

// What a reader computes of them, by NUMERICS section 3. std::invalid_argument: another type, no whole number of rows.
std::vector<float> decode_rows(uint32_t type, std::span<const uint8_t> bytes, uint64_t columns);

// Types whose codes can be chosen one by one: all quantized ones but Q8_F32.
bool has_codes(uint32_t type);

// A row whose scales stay, while its codes are chosen column by column, in any order.
class RowGrid {
  public:
    // Scales of quantize_rows, under the same conditions. Codes are quantize_rows' until they are chosen.
    RowGrid(uint32_t type, std::span<const float> row, std::span<const float> importance = {});
    // Q8_0 with one scale for all of its blocks, as f16 has it. Codes are the nearest until they are chosen.
    // std::invalid_argument: a value that is not finite, columns that are no whole blocks.
    RowGrid(std::span<const float> row, float scale);
    RowGrid(RowGrid&&) noexcept;
    ~RowGrid();
    // The value nearest to x that the column can have; its code is kept.
    float choose(size_t column, double x);
    // weight_row_bytes bytes.
    void write(uint8_t* out) const;

  private:
    struct Blocks;
    std::unique_ptr<Blocks> blocks_;
};

}  // namespace keel::tools
