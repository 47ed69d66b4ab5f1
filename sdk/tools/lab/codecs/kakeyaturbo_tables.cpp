#include "sdk/tools/lab/codecs/kakeyaturbo_tables.h"

namespace keel::tools {
namespace {

using Codebook = KakeyaturboOptions::Codebook;

constexpr float kDsK2[] = {-1.2301f, -0.4953f, 0.5449f, 1.2216f};
constexpr float kDsK3[] = {-1.6336f, -1.1112f, -0.7173f, -0.2515f, 0.3062f, 0.7663f, 1.1381f, 1.6298f};
constexpr float kDsV2[] = {-1.4997f, -0.4541f, 0.4504f, 1.4975f};
constexpr float kQwen3K3[] = {-2.0918f, -1.3221f, -0.7484f, -0.2424f, 0.2444f, 0.7496f, 1.3244f, 2.0957f};

struct Table {
    Codebook codebook;
    uint32_t bits;
    bool value;
    std::span<const float> levels;
};
constexpr Table kTables[] = {
    {Codebook::ds, 2, false, kDsK2},
    {Codebook::ds, 3, false, kDsK3},
    {Codebook::ds, 2, true, kDsV2},
    {Codebook::qwen3, 3, false, kQwen3K3},
};

}  // namespace

std::span<const float> published_codebook(Codebook codebook, uint32_t bits, bool value) {
    for (const Table& table : kTables)
        if (table.codebook == codebook && table.bits == bits && table.value == value) return table.levels;
    return {};
}

}  // namespace keel::tools
