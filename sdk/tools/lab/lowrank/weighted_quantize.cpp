#include "sdk/tools/lab/lowrank/weighted_quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/cpu/kernel_set.h"
#include "sdk/tools/lab/codecs/row_bits.h"

namespace keel::tools {
namespace {

using kernels::WeightType;

using kernels::kIq4Values;
constexpr double kScaleSteps[] = {1, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1};  // about extreme / largest code
constexpr double kRangeSteps[] = {0, 0.05, 0.1, 0.2};                         // cut off a range's ends
constexpr int kRefinements = 3, kBlockRounds = 4;

// What codes a run of elements may have: all integers of [low, high], or the IQ4 values in that range.
struct CodeSet {
    int low, high;
    bool table = false;
    int nearest(double x) const {
        if (!(x > low)) return low;
        if (x >= high) return high;
        if (!table) return static_cast<int>(std::nearbyint(x));
        const auto above = std::upper_bound(std::begin(kIq4Values), std::end(kIq4Values), x,
                                            [](double v, int code) { return v < code; });
        return *above - x < x - *(above - 1) ? *above : *(above - 1);
    }
};

// w = scale q + offset for a run, and what that costs.
struct RunFit {
    float scale = 0, offset = 0;
    double error = std::numeric_limits<double>::infinity();
    std::array<int8_t, 32> codes{};  // of IQ4_NL the values themselves
};

// A run of n <= 32 elements with their importance.
struct Run {
    const float* x;
    const double* weight;
    int n;
};

// Codes for a scale and an offset as the decoder has them; the product is rounded as the decoder rounds it.
RunFit fit_codes(const Run& run, const CodeSet& set, float scale, float offset) {
    RunFit fit;
    fit.scale = scale;
    fit.offset = offset;
    fit.error = 0;
    for (int i = 0; i < run.n; ++i) {
        const int q = set.nearest(scale != 0 ? (static_cast<double>(run.x[i]) - offset) / scale : 0.0);
        const float product = scale * static_cast<float>(q), decoded = product + offset;
        const double e = static_cast<double>(decoded) - run.x[i];
        fit.codes[static_cast<size_t>(i)] = static_cast<int8_t>(q);
        fit.error += run.weight[i] * e * e;
    }
    return fit;
}

float as_float(double x) {
    constexpr double kMax = std::numeric_limits<float>::max();
    return static_cast<float>(std::clamp(x, -kMax, kMax));
}
// How a fitted scale is rounded: stored_f16, as blocks of 32 elements keep it; as_float where integer scales are made
// of it (assemble).
using Stored = float (*)(double);
float stored_f16(double x) {
    return through_f16(as_float(x));
}

void keep(const RunFit& candidate, RunFit& best) {
    if (candidate.error < best.error) best = candidate;
}

float extreme(const Run& run) {
    float most = 0;
    for (int i = 0; i < run.n; ++i)
        if (std::fabs(run.x[i]) > std::fabs(most)) most = run.x[i];
    return most;
}

RunFit plain_scaled(const Run& run, const CodeSet& set, Stored stored) {
    const double most = extreme(run), scale = -set.low > set.high ? most / set.low : std::fabs(most) / set.high;
    return fit_codes(run, set, stored(scale), 0);
}

// The best scale found for w = scale q.
RunFit search_scaled(const Run& run, const CodeSet& set, Stored stored) {
    RunFit best = plain_scaled(run, set, stored);
    const double most = extreme(run);
    for (const int end : {set.low, set.high}) {
        for (const double step : kScaleSteps) {
            RunFit fit = fit_codes(run, set, stored(most / end * step), 0);
            keep(fit, best);
            for (int i = 0; i < kRefinements; ++i) {  // least squares: sum w x q / sum w q^2
                double xq = 0, qq = 0;
                for (int j = 0; j < run.n; ++j) {
                    const double q = fit.codes[static_cast<size_t>(j)];
                    xq += run.weight[j] * run.x[j] * q;
                    qq += run.weight[j] * q * q;
                }
                if (!(qq > 0)) break;
                const float scale = stored(xq / qq);
                if (scale == fit.scale) break;
                fit = fit_codes(run, set, scale, 0);
                keep(fit, best);
            }
        }
    }
    return best;
}

// offset_limit: largest offset allowed, 0 for the K types.
RunFit plain_affine(const Run& run, const CodeSet& set, Stored stored, double offset_limit) {
    const auto [low, high] = std::minmax_element(run.x, run.x + run.n);
    const double offset = std::min<double>(*low, offset_limit);
    return fit_codes(run, set, stored(std::max<double>(*high - offset, 0) / set.high), stored(offset));
}

// The best scale and offset found for w = scale q + offset, codes from 0.
RunFit search_affine(const Run& run, const CodeSet& set, Stored stored, double offset_limit) {
    RunFit best = plain_affine(run, set, stored, offset_limit);
    const auto [low, high] = std::minmax_element(run.x, run.x + run.n);
    const double range = static_cast<double>(*high) - *low;
    for (const double cut_low : kRangeSteps) {
        for (const double cut_high : kRangeSteps) {
            const double from = std::min(*low + cut_low * range, offset_limit),
                         to = std::max(*high - cut_high * range, from);
            RunFit fit = fit_codes(run, set, stored((to - from) / set.high), stored(from));
            keep(fit, best);
            for (int i = 0; i < kRefinements; ++i) {
                double w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
                for (int j = 0; j < run.n; ++j) {
                    const double q = fit.codes[static_cast<size_t>(j)], weight = run.weight[j];
                    w += weight, wq += weight * q, wqq += weight * q * q, wx += weight * run.x[j],
                        wqx += weight * q * run.x[j];
                }
                const double determinant = w * wqq - wq * wq;
                if (!(determinant > 1e-12 * w * wqq)) break;
                double scale = (w * wqx - wq * wx) / determinant, offset = (wqq * wx - wq * wqx) / determinant;
                if (offset > offset_limit) offset = offset_limit, scale = (wqx - offset * wq) / wqq;
                if (!(scale > 0)) break;
                const float s = stored(scale), o = stored(offset);
                if (s == fit.scale && o == fit.offset) break;
                fit = fit_codes(run, set, s, o);
                keep(fit, best);
            }
        }
    }
    return best;
}

void put_u16(uint8_t* out, uint32_t v) {
    out[0] = static_cast<uint8_t>(v);
    out[1] = static_cast<uint8_t>(v >> 8);
}
void put_f16(uint8_t* out, float x) {
    put_u16(out, f16_saturated(x));
}

// ---- 32-element types ----
struct SmallType {
    CodeSet set;
    bool minimum;
    int code_offset;  // of stored codes against the integers
};
SmallType small_type(uint32_t type) {
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    if (type == kernels::kQ8_0) return {{-127, 127}, false, 0};
    if (type == kernels::kIQ4_NL) return {{kIq4Values[0], kIq4Values[15], true}, false, 0};
    const int offset = info.codes.offset, f16s = info.has_minimum() ? 2 : 1;
    const int bits = (info.block_bytes - 2 * f16s) * 8 / 32;
    return {{-offset, (1 << bits) - 1 - offset}, info.has_minimum(), offset};
}

void pack_small(uint32_t type, const RunFit& fit, const SmallType& kind, uint8_t* out) {
    put_f16(out, fit.scale);
    out += 2;
    if (kind.minimum) {
        put_f16(out, fit.offset);
        out += 2;
    }
    if (type == kernels::kQ8_0) {
        std::memcpy(out, fit.codes.data(), 32);
        return;
    }
    std::array<uint32_t, 32> codes;
    for (size_t i = 0; i < 32; ++i)
        codes[i] =
            kind.set.table
                ? static_cast<uint32_t>(std::lower_bound(std::begin(kIq4Values), std::end(kIq4Values), fit.codes[i]) -
                                        std::begin(kIq4Values))
                : static_cast<uint32_t>(fit.codes[i] + kind.code_offset);
    if (type == kernels::kQ5_0 || type == kernels::kQ5_1) {
        uint32_t fifth = 0;
        for (uint32_t i = 0; i < 32; ++i) fifth |= (codes[i] >> 4) << i;
        put_u16(out, fifth & 0xffff);
        put_u16(out + 2, fifth >> 16);
        out += 4;
    }
    for (size_t i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

template <WeightType type>
void code_small(const float* x, const double* weight, bool search, uint8_t* out) {
    const SmallType kind = small_type(type);
    const Run run = {x, weight, 32};
    constexpr double kAny = std::numeric_limits<double>::infinity();
    if (kind.minimum) {
        pack_small(
            type,
            search ? search_affine(run, kind.set, stored_f16, kAny) : plain_affine(run, kind.set, stored_f16, kAny),
            kind, out);
    } else {
        pack_small(type, search ? search_scaled(run, kind.set, stored_f16) : plain_scaled(run, kind.set, stored_f16),
                   kind, out);
    }
}

// ---- 256-element types: w = d scale_j q - dmin minimum_j ----
struct KType {
    CodeSet set;
    int sub;                    // elements of a sub-block
    int scale_low, scale_high;  // integer scales
    bool minimum;               // integer minima of 0..63
};
constexpr KType kQ4KType = {{0, 15}, 32, 0, 63, true}, kQ6KType = {{-32, 31}, 16, -128, 127, false};

struct KFit {
    float d = 0, dmin = 0;
    std::array<int, 16> scale{}, minimum{};
    std::array<RunFit, 16> runs;
    double error() const {
        double sum = 0;
        for (const RunFit& run : runs) sum += run.error;
        return sum;
    }
};

int blocks_of(const KType& kind) {
    return 256 / kind.sub;
}

RunFit fit_sub_block(const KType& kind, const Run& run, float d, float dmin, int scale, int minimum) {
    const float s = d * static_cast<float>(scale), m = kind.minimum ? dmin * static_cast<float>(minimum) : 0.0f;
    return fit_codes(run, kind.set, s, -m);
}

Run sub_block(const KType& kind, const float* x, const double* weight, int j) {
    return {x + j * kind.sub, weight + j * kind.sub, kind.sub};
}

void fit_all(const KType& kind, const float* x, const double* weight, KFit& fit) {
    for (size_t j = 0; j < 16; ++j)
        fit.runs[j] = static_cast<int>(j) < blocks_of(kind)
                          ? fit_sub_block(kind, sub_block(kind, x, weight, static_cast<int>(j)), fit.d, fit.dmin,
                                          fit.scale[j], fit.minimum[j])
                          : RunFit{0, 0, 0, {}};
}

// Integer scales for sub-blocks fitted one by one.
KFit assemble(const KType& kind, const float* x, const double* weight, const std::array<RunFit, 16>& runs) {
    KFit fit;
    double most_scale = 0, most_minimum = 0;
    for (const RunFit& run : runs) {
        if (std::fabs(run.scale) > std::fabs(most_scale)) most_scale = run.scale;
        most_minimum = std::max<double>(most_minimum, -run.offset);
    }
    fit.d = stored_f16(most_scale / (kind.minimum ? kind.scale_high : kind.scale_low));
    fit.dmin = stored_f16(most_minimum / 63);
    for (int j = 0; j < blocks_of(kind); ++j) {
        const size_t i = static_cast<size_t>(j);
        if (fit.d != 0)
            fit.scale[i] = static_cast<int>(std::nearbyint(
                std::clamp<double>(runs[i].scale / static_cast<double>(fit.d), kind.scale_low, kind.scale_high)));
        if (fit.dmin != 0)
            fit.minimum[i] = static_cast<int>(
                std::nearbyint(std::clamp<double>(-runs[i].offset / static_cast<double>(fit.dmin), 0, 63)));
    }
    fit_all(kind, x, weight, fit);
    return fit;
}

// Integer scales and minima one step away, where that is better.
void step_integers(const KType& kind, const float* x, const double* weight, KFit& fit) {
    for (int j = 0; j < blocks_of(kind); ++j) {
        const size_t i = static_cast<size_t>(j);
        const int scale = fit.scale[i], minimum = fit.minimum[i];
        for (int s = std::max(scale - 1, kind.scale_low); s <= std::min(scale + 1, kind.scale_high); ++s) {
            for (int m = kind.minimum ? std::max(minimum - 1, 0) : 0;
                 m <= (kind.minimum ? std::min(minimum + 1, 63) : 0); ++m) {
                const RunFit run = fit_sub_block(kind, sub_block(kind, x, weight, j), fit.d, fit.dmin, s, m);
                if (!(run.error < fit.runs[i].error)) continue;
                fit.runs[i] = run;
                fit.scale[i] = s;
                fit.minimum[i] = m;
            }
        }
    }
}

// d and dmin by least squares against the block's codes and integers; false when that changes nothing.
bool solve_block_scales(const KType& kind, const float* x, const double* weight, KFit& fit) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // x ~ d a - dmin b with a = scale q, b = minimum
    for (int i = 0; i < 256; ++i) {
        const size_t j = static_cast<size_t>(i / kind.sub);
        const double a = static_cast<double>(fit.scale[j]) * fit.runs[j].codes[static_cast<size_t>(i % kind.sub)],
                     b = fit.minimum[j], w = weight[i];
        aa += w * a * a, ab += w * a * b, bb += w * b * b, ax += w * a * x[i], bx += w * b * x[i];
    }
    if (!(aa > 0)) return false;
    const double determinant = aa * bb - ab * ab;
    double d = ax / aa, dmin = fit.dmin;
    if (kind.minimum && bb > 0 && determinant > 1e-12 * aa * bb) {
        d = (ax * bb - ab * bx) / determinant;
        dmin = (ab * ax - aa * bx) / determinant;
    } else if (kind.minimum) {
        d = (ax + dmin * ab) / aa;
    }
    if (!(dmin >= 0) || d == 0) return false;
    KFit solved = fit;
    solved.d = stored_f16(d);
    solved.dmin = stored_f16(dmin);
    if (solved.d == fit.d && solved.dmin == fit.dmin) return false;
    fit_all(kind, x, weight, solved);
    if (!(solved.error() < fit.error())) return false;
    fit = solved;
    return true;
}

KFit fit_k(const KType& kind, const float* x, const double* weight, bool search) {
    const auto fitted = [&](bool searching) {
        std::array<RunFit, 16> runs{};
        for (int j = 0; j < blocks_of(kind); ++j) {
            const Run run = sub_block(kind, x, weight, j);
            runs[static_cast<size_t>(j)] =
                kind.minimum
                    ? (searching ? search_affine(run, kind.set, as_float, 0) : plain_affine(run, kind.set, as_float, 0))
                    : (searching ? search_scaled(run, kind.set, as_float) : plain_scaled(run, kind.set, as_float));
        }
        return assemble(kind, x, weight, runs);
    };
    KFit best = fitted(false);
    if (!search) return best;
    const KFit searched = fitted(true);
    const auto refine = [&](KFit fit) {
        for (int round = 0; round < kBlockRounds; ++round) {
            step_integers(kind, x, weight, fit);
            if (!solve_block_scales(kind, x, weight, fit)) break;
        }
        return fit;
    };
    const KFit a = refine(searched), b = refine(best);
    return a.error() < b.error() ? a : b;
}

void pack_q4_k(const KFit& fit, uint8_t* out) {
    std::memset(out, 0, 144);
    put_f16(out, fit.d);
    put_f16(out + 2, fit.dmin);
    uint8_t* packed = out + 4;
    for (size_t j = 0; j < 4; ++j) {
        const int s = fit.scale[j], m = fit.minimum[j], s4 = fit.scale[j + 4], m4 = fit.minimum[j + 4];
        packed[j] = static_cast<uint8_t>(s | (s4 >> 4) << 6);
        packed[j + 4] = static_cast<uint8_t>(m | (m4 >> 4) << 6);
        packed[j + 8] = static_cast<uint8_t>((s4 & 15) | (m4 & 15) << 4);
    }
    for (size_t g = 0; g < 4; ++g)
        for (size_t l = 0; l < 32; ++l)
            out[16 + 32 * g + l] = static_cast<uint8_t>(fit.runs[2 * g].codes[l] | fit.runs[2 * g + 1].codes[l] << 4);
}

void pack_q6_k(const KFit& fit, uint8_t* out) {
    std::memset(out, 0, 210);
    for (size_t i = 0; i < 256; ++i) {
        const size_t half = i / 128, g = i / 32 % 4, l = i % 32;
        const uint32_t code = static_cast<uint32_t>(fit.runs[i / 16].codes[i % 16] + 32);
        uint8_t &low = out[64 * half + 32 * (g % 2) + l], &high = out[128 + 32 * half + l];
        low = static_cast<uint8_t>(low | (code & 15) << 4 * (g / 2));
        high = static_cast<uint8_t>(high | (code >> 4) << 2 * g);
    }
    for (size_t j = 0; j < 16; ++j) out[192 + j] = static_cast<uint8_t>(static_cast<int8_t>(fit.scale[j]));
    put_f16(out + 208, fit.d);
}

// One block; `search`: for the best codes, else the nearest.
using BlockCoder = void (*)(const float* x, const double* weight, bool search, uint8_t* out);
void code_f32(const float* x, const double*, bool, uint8_t* out) {
    std::memcpy(out, x, 4);
}
void code_f16(const float* x, const double*, bool, uint8_t* out) {
    put_f16(out, *x);
}
void code_q8_f32(const float* x, const double*, bool, uint8_t* out) {
    const float most = std::fabs(extreme({x, nullptr, 32}));
    float d = most / 127.0f;
    if (d == 0) d = 1;
    std::memcpy(out, &d, 4);
    for (int i = 0; i < 32; ++i)
        out[4 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::nearbyint(x[i] / d), -128.0f, 127.0f)));
}
void code_q4_k(const float* x, const double* weight, bool search, uint8_t* out) {
    pack_q4_k(fit_k(kQ4KType, x, weight, search), out);
}
void code_q6_k(const float* x, const double* weight, bool search, uint8_t* out) {
    pack_q6_k(fit_k(kQ6KType, x, weight, search), out);
}

// Null for types that are only read.
BlockCoder coder_of(uint32_t type) {
    switch (type) {
        case kernels::kF32:
            return code_f32;
        case kernels::kF16:
            return code_f16;
        case kernels::kQ8_F32:
            return code_q8_f32;
        case kernels::kQ4_0:
            return code_small<kernels::kQ4_0>;
        case kernels::kQ4_1:
            return code_small<kernels::kQ4_1>;
        case kernels::kQ5_0:
            return code_small<kernels::kQ5_0>;
        case kernels::kQ5_1:
            return code_small<kernels::kQ5_1>;
        case kernels::kQ8_0:
            return code_small<kernels::kQ8_0>;
        case kernels::kIQ4_NL:
            return code_small<kernels::kIQ4_NL>;
        case kernels::kQ4_K:
            return code_q4_k;
        case kernels::kQ6_K:
            return code_q6_k;
        default:
            return nullptr;
    }
}

// Importance of a block, scaled to a mean of 1.
void block_importance(std::span<const float> importance, double* weight) {
    double sum = 0;
    for (const float w : importance) sum += w;
    for (size_t i = 0; i < importance.size(); ++i)
        weight[i] = sum > 0 ? importance[i] * static_cast<double>(importance.size()) / sum : 1;
}

std::vector<uint8_t> code_rows(uint32_t type, std::span<const float> values, uint64_t columns,
                               std::span<const float> importance, bool search) {
    const BlockCoder code = coder_of(type);
    if (!code) throw std::invalid_argument("a weight type that is not written: " + std::to_string(type));
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    if (!columns || columns % info.block_elements || values.size() % columns)
        throw std::invalid_argument("rows are no whole number of blocks");
    if (!importance.empty() && importance.size() != columns)
        throw std::invalid_argument("importance of another number of columns");
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
        throw std::invalid_argument("a value that is not finite");
    if (!std::all_of(importance.begin(), importance.end(), [](float x) { return std::isfinite(x) && x >= 0; }))
        throw std::invalid_argument("an importance that is negative or not finite");

    std::vector<double> weight(columns, 1.0);
    const size_t block = info.block_elements;
    for (size_t c = 0; c < columns && !importance.empty(); c += block)
        block_importance(importance.subspan(c, block), weight.data() + c);
    std::vector<uint8_t> out(values.size() / block * info.block_bytes);
    uint8_t* at = out.data();
    for (size_t i = 0; i < values.size(); i += block, at += info.block_bytes)
        code(values.data() + i, weight.data() + i % columns, search, at);
    return out;
}

}  // namespace

bool can_quantize(uint32_t type) {
    return coder_of(type) != nullptr;
}

std::vector<uint8_t> quantize_rows(uint32_t type, std::span<const float> values, uint64_t columns,
                                   std::span<const float> importance) {
    return code_rows(type, values, columns, importance, true);
}

std::vector<uint8_t> nearest_rows(uint32_t type, std::span<const float> values, uint64_t columns) {
    return code_rows(type, values, columns, {}, false);
}

std::vector<float> decode_rows(uint32_t type, std::span<const uint8_t> bytes, uint64_t columns) {
    const kernels::WeightTypeInfo* info = kernels::weight_type_info(type);
    if (!info || !columns || columns % info->block_elements)
        throw std::invalid_argument("a weight type or row length that cannot be read");
    const uint64_t row_bytes = kernels::weight_row_bytes(type, columns);
    if (bytes.size() % row_bytes) throw std::invalid_argument("no whole number of rows");
    const auto decode = kernels::kScalarSet.dequantize_row[type];
    std::vector<float> values(bytes.size() / row_bytes * columns);
    for (size_t r = 0; r < bytes.size() / row_bytes; ++r)
        decode(bytes.data() + r * row_bytes, values.data() + r * columns, static_cast<uint32_t>(columns));
    return values;
}

}  // namespace keel::tools
