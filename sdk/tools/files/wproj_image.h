// W_proj caches (sdk/format/wproj.h) as values: what tools build, read, write and rewrite. One model of a file serves
// both versions.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "sdk/format/wproj.h"

namespace keel::tools {

// Pt of a group. rank 0: none, and all else is empty.
struct WprojImageBasis {
    uint32_t rank = 0, columns = 0;
    uint32_t type = kernels::kF32;
    std::vector<uint8_t> matrix;  // [rank][columns] in rows of `type`
    std::vector<float> mu, mean;  // [rank], [columns]; empty: none
    bool operator==(const WprojImageBasis&) const = default;
};
// W_proj of a slot. rank 0: none, and all else is empty.
struct WprojImageRecord {
    uint32_t rows = 0, rank = 0;
    uint32_t type = kernels::kF32;
    std::vector<uint8_t> matrix;  // [rows][rank] in rows of `type`
    std::vector<float> bias;      // [rows]; empty: none
    float compression = 0, energy = 0;
    float error = -1;  // version 2; negative: not known
    float weight = 0;  // version 1, "ricci weight": kept, of no use
};
struct WprojImageLayer {
    std::array<WprojImageBasis, kWprojGroups> basis;
    std::array<WprojImageRecord, kWprojSlots> record;
    uint32_t empty_flags = 0;  // version 1, of a layer without a basis: 1 has_mu, 2 has_mean are set all the same
};
struct WprojImage {
    uint32_t version = 2;  // of the file it was read from
    uint64_t key = 0;
    uint32_t columns = 0;  // version 1; 0: of the first basis
    // Version 2.
    uint64_t fingerprint = 0, calibration_hash = 0;
    WprojQuality quality{};
    std::string solver;
    std::vector<WprojImageLayer> layers;
};

// rank (rows + columns) / (rows columns): what both versions store as the compression of a record.
inline float wproj_compression(uint32_t rows, uint32_t rank, uint32_t columns) {
    return static_cast<float>(double{1} * rank * (double{1} * rows + columns) / (double{1} * rows * columns));
}

// Reads and validates a whole file, whatever model it was made for; version 2: checksums and the zeros between sections
// too, and packed files where this build has zstd. A version-1 layer's one basis appears in each group that has
// records; in attn_in where no group has. Throws ToolError.
WprojImage read_wproj_image(const keel_reader& reader);
WprojImage read_wproj_image(const std::string& path);

// Called now and then with bytes done and bytes in all; true cancels: the writer throws ToolError (KEEL_E_CANCELLED)
// and leaves no file.
using WprojProgress = std::function<bool(uint64_t done, uint64_t total)>;

// Writes what read_wproj_image reads, to the byte. Throws ToolError (KEEL_E_UNSUPPORTED) for what the version cannot
// hold: in version 1 bases that differ between groups, one for ffn_hidden, types but F32 and Q8_F32; in either a matrix
// that is not there or of another size than its shape says. A file appears whole or not at all.
std::vector<uint8_t> encode_wproj_v1(const WprojImage& image, uint64_t key);
void write_wproj_v1(const std::string& path, const WprojImage& image, uint64_t key, const WprojProgress& progress = {});

// With kWprojZstd each section is a zstd frame of this level; KEEL_E_UNSUPPORTED where this build has no zstd.
struct WprojPacking {
    WprojCodec codec = kWprojPlain;
    int level = 9;
};
std::vector<uint8_t> encode_wproj_v2(const WprojImage& image, uint64_t key, const WprojPacking& packing = {});
void write_wproj_v2(const std::string& path, const WprojImage& image, uint64_t key, const WprojPacking& packing = {},
                    const WprojProgress& progress = {});

}  // namespace keel::tools
