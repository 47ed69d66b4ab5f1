// Weights as trellis codes (WT2 and WT3, kernels/formats/weight_trellis.h): the symbols of a block by the search of
// trellis_search.h, its scale by least squares.
//
// The order of coding: a row rotated as its blocks are, and in each block its elements from symbol 255 down to 0, so
// that the newest symbol is the lowest of its state.
#pragma once
#include <stdint.h>

#include <memory>
#include <span>
#include <vector>

#include "kernels/formats/weight_trellis.h"
#include "sdk/tools/lab/quantize/trellis_search.h"

namespace keel::tools {

class TrellisBlockSearch;

// Codes blocks of one type, one after the other.
class TrellisCoder {
  public:
    // std::invalid_argument: not a trellis type.
    explicit TrellisCoder(uint32_t type);
    ~TrellisCoder();
    // x [256], in the order of coding and finite. Symbols of the least error at d of the block's root mean square, then
    // the best d for those symbols; feedback null: every error weighs the same and none is passed on. block: the
    // type's block_bytes. value [256]: what the block stands for, in the order of coding.
    void code(const float* x, const TrellisFeedback* feedback, uint8_t* block, float* value);

  private:
    const kernels::TrellisCode code_;
    std::unique_ptr<TrellisBlockSearch> search_;
};

// x [rows][columns] -> its rows in the order of coding; values beyond +-1e36 as that. std::invalid_argument: rows that
// are no whole number of blocks.
void to_coding_order(std::span<float> x, uint64_t columns);

// values [rows][columns] -> rows of weight_row_bytes(type, columns), each block by itself. std::invalid_argument as
// to_coding_order, and of a value that is not finite.
std::vector<uint8_t> encode_trellis(uint32_t type, std::span<const float> values, uint64_t columns);

}  // namespace keel::tools
