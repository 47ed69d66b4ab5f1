// Pieces of a WPROJV01 file (layout in wproj.h), one checked read each. Internal to readers of the format; use wproj.h.
#pragma once
#include "sdk/format/wproj.h"

namespace keel {

constexpr uint64_t kWprojHeader1Bytes = 32, kWprojBasis1Bytes = 16, kWprojRecord1Bytes = 40;

struct WprojHeader1 {
    uint64_t magic, key;
    uint32_t layers, slots, columns, zero;
};
static_assert(sizeof(WprojHeader1) == kWprojHeader1Bytes);

// KEEL_E_FILE_FORMAT for counts beyond the limits of wproj.h.
keel_status wproj_read_header1(const keel_reader& reader, WprojHeader1* out, keel_error* error);

struct WprojBasis1 {
    uint32_t rank;
    uint32_t has_mu, has_mean;  // as the file says, also where rank is 0 and neither is there
    uint64_t matrix, mu, mean;  // offsets; 0: not there
    uint64_t end;
};
// The basis at `at` of a file with `columns` columns; it ends inside the file.
keel_status wproj_read_basis1(const keel_reader& reader, uint64_t at, uint32_t columns, uint32_t layer,
                              WprojBasis1* out, keel_error* error);

struct WprojRecord1 {
    uint32_t present;  // the rest is zero without it, but end
    uint32_t rows, rank, has_bias, has_q8;
    float compression, energy, weight;
    uint64_t matrix, bytes, bias;  // offset and bytes of the matrix, offset of the bias or 0
    uint64_t end;
};
// The record at `at`. basis_rank: of the layer; records of slots 1 to 6 have to have it.
keel_status wproj_read_record1(const keel_reader& reader, uint64_t at, uint32_t basis_rank, uint32_t layer,
                               uint32_t slot, WprojRecord1* out, keel_error* error);

}  // namespace keel
