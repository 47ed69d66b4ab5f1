#include "sdk/tools/lab/quantize/row_quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/cpu/kernel_set.h"
#include "sdk/tools/lab/codecs/row_bits.h"
#include "sdk/tools/lab/quantize/trellis_code.h"

namespace keel::tools {
namespace {

using kernels::WeightType;

using kernels::kIq4Values;
constexpr double kScaleSteps[] = {1, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1};  // about extreme / largest code
constexpr double kRangeSteps[] = {0, 0.05, 0.1, 0.2};                         // cut off a range's ends
constexpr int kRefinements = 3, kBlockRounds = 4;

// Between which two IQ4 values x lies: above the middle it is the next one, this much larger.
struct Iq4Step {
    double middle, size;
};
constexpr std::array<Iq4Step, 15> kIq4Steps = [] {
    std::array<Iq4Step, 15> steps{};
    for (size_t i = 0; i < steps.size(); ++i)
        steps[i] = {(kIq4Values[i] + kIq4Values[i + 1]) / 2.0, static_cast<double>(kIq4Values[i + 1] - kIq4Values[i])};
    return steps;
}();

// What codes a run of elements may have: all integers of [low, high], or the IQ4 values in that range. The nearest one
// without branches, so that loops over a run become vectors; what is no number becomes `low`.
struct CodeSet {
    int low, high;
    bool table = false;
    double nearest_integer(double x) const {                  // ties to even
        constexpr double kIntegersFrom = 6755399441055744.0;  // 1.5 * 2^52: sums have no fraction there
        return within(x) + kIntegersFrom - kIntegersFrom;
    }
    double nearest_value(double x) const {  // ties to the smaller
        x = within(x);
        double value = kIq4Values[0];
        for (const Iq4Step& step : kIq4Steps) value += x > step.middle ? step.size : 0;
        return value;
    }
    int nearest(double x) const { return static_cast<int>(table ? nearest_value(x) : nearest_integer(x)); }

  private:
    double within(double x) const {
        x = x > low ? x : low;
        return x < high ? x : high;
    }
};

constexpr int kMostRun = 32;

// w = scale q + offset for a run, and what that costs.
struct RunFit {
    float scale = 0, offset = 0;
    double error = std::numeric_limits<double>::infinity();
    std::array<int8_t, kMostRun> codes{};  // of IQ4_NL the values themselves
};

// A run of n <= kMostRun elements with their importance.
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
    // Loops of their own, so that compilers make vectors of the first two.
    double code[kMostRun] = {}, cost[kMostRun];
    if (scale == 0)
        for (int i = 0; i < run.n; ++i) code[i] = set.nearest(0);
    else if (set.table)
        for (int i = 0; i < run.n; ++i) code[i] = set.nearest_value((static_cast<double>(run.x[i]) - offset) / scale);
    else
        for (int i = 0; i < run.n; ++i) code[i] = set.nearest_integer((static_cast<double>(run.x[i]) - offset) / scale);
    for (int i = 0; i < run.n; ++i) {
        const float product = scale * static_cast<float>(code[i]), decoded = product + offset;
        const double e = static_cast<double>(decoded) - run.x[i];
        cost[i] = run.weight[i] * e * e;
    }
    for (int i = 0; i < run.n; ++i) {
        fit.codes[static_cast<size_t>(i)] = static_cast<int8_t>(code[i]);
        fit.error += cost[i];
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

// ---- types ----

// How a type's weights are made: w = scale q + offset for runs of `sub` elements. Without integer scales (block = run):
// scale = d, offset = m. With them: scale = d s, offset = -dmin t, s and t integers of the run.
struct TypeShape {
    CodeSet set;
    int block, sub;
    int scale_low = 0, scale_high = 0;  // integer scales
    int most_minimum = 0;               // integer minima of 0..that
    bool minimum = false;
    int code_offset = 0;  // of stored codes against the integers

    int runs() const { return block / sub; }
    bool integer_scales() const { return sub < block; }
};
constexpr CodeSet kIq4Codes = {kIq4Values[0], kIq4Values[15], true};

// A block's scales and codes. Without integer scales runs[0] has all.
struct BlockFit {
    float d = 0, dmin = 0;
    std::array<int, 16> scale{}, minimum{};
    std::array<RunFit, 16> runs;

    double error(const TypeShape& shape) const {
        double sum = 0;
        for (int j = 0; j < shape.runs(); ++j) sum += runs[static_cast<size_t>(j)].error;
        return sum;
    }
};

// Element i of the block as an unsigned code.
uint32_t stored_code(const TypeShape& shape, const BlockFit& fit, size_t i) {
    const size_t sub = static_cast<size_t>(shape.sub);
    const int q = fit.runs[i / sub].codes[i % sub];
    if (shape.set.table)
        return static_cast<uint32_t>(std::lower_bound(std::begin(kIq4Values), std::end(kIq4Values), q) -
                                     std::begin(kIq4Values));
    return static_cast<uint32_t>(q + shape.code_offset);
}

// ---- blocks as bytes ----

void pack_small(uint32_t type, const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    put_f16(out, fit.runs[0].scale);
    out += 2;
    if (shape.minimum) {
        put_f16(out, fit.runs[0].offset);
        out += 2;
    }
    if (type == kernels::kQ8_0) {
        std::memcpy(out, fit.runs[0].codes.data(), 32);
        return;
    }
    std::array<uint32_t, 32> codes;
    for (size_t i = 0; i < 32; ++i) codes[i] = stored_code(shape, fit, i);
    if (type == kernels::kQ5_0 || type == kernels::kQ5_1) {
        uint32_t fifth = 0;
        for (uint32_t i = 0; i < 32; ++i) fifth |= (codes[i] >> 4) << i;
        put_u16(out, fifth & 0xffff);
        put_u16(out + 2, fifth >> 16);
        out += 4;
    }
    for (size_t i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

// Eight scales and minima of six bits in 12 bytes, as Q4_K and Q5_K have them.
void pack_scales_6bit(const BlockFit& fit, uint8_t* packed) {
    for (size_t j = 0; j < 4; ++j) {
        const int s = fit.scale[j], m = fit.minimum[j], s4 = fit.scale[j + 4], m4 = fit.minimum[j + 4];
        packed[j] = static_cast<uint8_t>(s | (s4 >> 4) << 6);
        packed[j + 4] = static_cast<uint8_t>(m | (m4 >> 4) << 6);
        packed[j + 8] = static_cast<uint8_t>((s4 & 15) | (m4 & 15) << 4);
    }
}

// out: zeros. Bits of several elements share a byte.
void set_bits(uint8_t* byte, uint32_t bits, size_t shift) {
    *byte = static_cast<uint8_t>(*byte | bits << shift);
}

void pack_q2_k(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    for (size_t j = 0; j < 16; ++j) out[j] = static_cast<uint8_t>(fit.scale[j] | fit.minimum[j] << 4);
    for (size_t i = 0; i < 256; ++i)
        set_bits(out + 16 + i / 128 * 32 + i % 32, stored_code(shape, fit, i), i / 32 % 4 * 2);
    put_f16(out + 80, fit.d);
    put_f16(out + 82, fit.dmin);
}

void pack_q3_k(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    for (size_t i = 0; i < 256; ++i) {
        const uint32_t code = stored_code(shape, fit, i);
        set_bits(out + i % 32, code >> 2, i / 32);
        set_bits(out + 32 + i / 128 * 32 + i % 32, code & 3, i / 32 % 4 * 2);
    }
    for (size_t j = 0; j < 16; ++j) {
        const uint32_t s = static_cast<uint32_t>(fit.scale[j] + 32);
        set_bits(out + 96 + j % 8, s & 15, j / 8 * 4);
        set_bits(out + 104 + j % 4, s >> 4, j / 4 * 2);
    }
    put_f16(out + 108, fit.d);
}

void pack_q4_k(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    put_f16(out, fit.d);
    put_f16(out + 2, fit.dmin);
    pack_scales_6bit(fit, out + 4);
    for (size_t i = 0; i < 256; ++i)
        set_bits(out + 16 + i / 64 * 32 + i % 32, stored_code(shape, fit, i), i / 32 % 2 * 4);
}

void pack_q5_k(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    put_f16(out, fit.d);
    put_f16(out + 2, fit.dmin);
    pack_scales_6bit(fit, out + 4);
    for (size_t i = 0; i < 256; ++i) {
        const uint32_t code = stored_code(shape, fit, i);
        set_bits(out + 16 + i % 32, code >> 4, i / 32);
        set_bits(out + 48 + i / 64 * 32 + i % 32, code & 15, i / 32 % 2 * 4);
    }
}

void pack_q6_k(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    for (size_t i = 0; i < 256; ++i) {
        const size_t half = i / 128, g = i / 32 % 4, l = i % 32;
        const uint32_t code = stored_code(shape, fit, i);
        set_bits(out + 64 * half + 32 * (g % 2) + l, code & 15, 4 * (g / 2));
        set_bits(out + 128 + 32 * half + l, code >> 4, 2 * g);
    }
    for (size_t j = 0; j < 16; ++j) out[192 + j] = static_cast<uint8_t>(static_cast<int8_t>(fit.scale[j]));
    put_f16(out + 208, fit.d);
}

void pack_iq4_xs(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    put_f16(out, fit.d);
    uint32_t high = 0;
    for (size_t j = 0; j < 8; ++j) {
        const uint32_t s = static_cast<uint32_t>(fit.scale[j] + 32);
        set_bits(out + 4 + j / 2, s & 15, 4 * (j % 2));
        high |= (s >> 4) << 2 * j;
        for (size_t l = 0; l < 32; ++l)
            set_bits(out + 8 + 16 * j + l % 16, stored_code(shape, fit, 32 * j + l), l / 16 * 4);
    }
    put_u16(out + 2, high);
}

using Packer = void (*)(const TypeShape& shape, const BlockFit& fit, uint8_t* out);
template <WeightType type>
void pack_as(const TypeShape& shape, const BlockFit& fit, uint8_t* out) {
    pack_small(type, shape, fit, out);
}

// The types that have codes and a search for scales.
struct CodedType {
    WeightType type;
    TypeShape shape;
    Packer pack;
};
constexpr CodedType kCodedTypes[] = {
    {kernels::kQ8_0, {.set = {-127, 127}, .block = 32, .sub = 32}, pack_as<kernels::kQ8_0>},
    {kernels::kQ4_0, {.set = {-8, 7}, .block = 32, .sub = 32, .code_offset = 8}, pack_as<kernels::kQ4_0>},
    {kernels::kQ4_1, {.set = {0, 15}, .block = 32, .sub = 32, .minimum = true}, pack_as<kernels::kQ4_1>},
    {kernels::kQ5_0, {.set = {-16, 15}, .block = 32, .sub = 32, .code_offset = 16}, pack_as<kernels::kQ5_0>},
    {kernels::kQ5_1, {.set = {0, 31}, .block = 32, .sub = 32, .minimum = true}, pack_as<kernels::kQ5_1>},
    {kernels::kIQ4_NL, {.set = kIq4Codes, .block = 32, .sub = 32}, pack_as<kernels::kIQ4_NL>},
    {kernels::kQ2_K,
     {.set = {0, 3}, .block = 256, .sub = 16, .scale_high = 15, .most_minimum = 15, .minimum = true},
     pack_q2_k},
    {kernels::kQ3_K,
     {.set = {-4, 3}, .block = 256, .sub = 16, .scale_low = -32, .scale_high = 31, .code_offset = 4},
     pack_q3_k},
    {kernels::kQ4_K,
     {.set = {0, 15}, .block = 256, .sub = 32, .scale_high = 63, .most_minimum = 63, .minimum = true},
     pack_q4_k},
    {kernels::kQ5_K,
     {.set = {0, 31}, .block = 256, .sub = 32, .scale_high = 63, .most_minimum = 63, .minimum = true},
     pack_q5_k},
    {kernels::kQ6_K,
     {.set = {-32, 31}, .block = 256, .sub = 16, .scale_low = -128, .scale_high = 127, .code_offset = 32},
     pack_q6_k},
    {kernels::kIQ4_XS, {.set = kIq4Codes, .block = 256, .sub = 32, .scale_low = -32, .scale_high = 31}, pack_iq4_xs},
};
const CodedType* find_coded(uint32_t type) {
    for (const CodedType& coded : kCodedTypes)
        if (coded.type == type) return &coded;
    return nullptr;
}

// ---- blocks of integer scales: w = d scale_j q - dmin minimum_j ----

RunFit fit_sub_block(const TypeShape& shape, const Run& run, float d, float dmin, int scale, int minimum) {
    const float s = d * static_cast<float>(scale), m = shape.minimum ? dmin * static_cast<float>(minimum) : 0.0f;
    return fit_codes(run, shape.set, s, -m);
}

Run sub_block(const TypeShape& shape, const float* x, const double* weight, int j) {
    return {x + j * shape.sub, weight + j * shape.sub, shape.sub};
}

void fit_all(const TypeShape& shape, const float* x, const double* weight, BlockFit& fit) {
    for (int j = 0; j < shape.runs(); ++j) {
        const size_t i = static_cast<size_t>(j);
        fit.runs[i] =
            fit_sub_block(shape, sub_block(shape, x, weight, j), fit.d, fit.dmin, fit.scale[i], fit.minimum[i]);
    }
}

// Integer scales for sub-blocks fitted one by one.
BlockFit assemble(const TypeShape& shape, const float* x, const double* weight, const std::array<RunFit, 16>& runs) {
    BlockFit fit;
    double most_scale = 0, most_minimum = 0;
    for (const RunFit& run : runs) {
        if (std::fabs(run.scale) > std::fabs(most_scale)) most_scale = run.scale;
        most_minimum = std::max<double>(most_minimum, -run.offset);
    }
    fit.d = stored_f16(most_scale / (shape.minimum ? shape.scale_high : shape.scale_low));
    if (shape.minimum) fit.dmin = stored_f16(most_minimum / shape.most_minimum);
    for (int j = 0; j < shape.runs(); ++j) {
        const size_t i = static_cast<size_t>(j);
        if (fit.d != 0)
            fit.scale[i] = static_cast<int>(std::nearbyint(
                std::clamp<double>(runs[i].scale / static_cast<double>(fit.d), shape.scale_low, shape.scale_high)));
        if (fit.dmin != 0)
            fit.minimum[i] = static_cast<int>(std::nearbyint(
                std::clamp<double>(-runs[i].offset / static_cast<double>(fit.dmin), 0, shape.most_minimum)));
    }
    fit_all(shape, x, weight, fit);
    return fit;
}

// Integer scales and minima one step away, where that is better.
void step_integers(const TypeShape& shape, const float* x, const double* weight, BlockFit& fit) {
    for (int j = 0; j < shape.runs(); ++j) {
        const size_t i = static_cast<size_t>(j);
        const int scale = fit.scale[i], minimum = fit.minimum[i];
        for (int s = std::max(scale - 1, shape.scale_low); s <= std::min(scale + 1, shape.scale_high); ++s) {
            for (int m = std::max(minimum - 1, 0); m <= std::min(minimum + 1, shape.most_minimum); ++m) {
                const RunFit run = fit_sub_block(shape, sub_block(shape, x, weight, j), fit.d, fit.dmin, s, m);
                if (!(run.error < fit.runs[i].error)) continue;
                fit.runs[i] = run;
                fit.scale[i] = s;
                fit.minimum[i] = m;
            }
        }
    }
}

// d and dmin by least squares against the block's codes and integers; false when that changes nothing.
bool solve_block_scales(const TypeShape& shape, const float* x, const double* weight, BlockFit& fit) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // x ~ d a - dmin b with a = scale q, b = minimum
    for (int i = 0; i < shape.block; ++i) {
        const size_t j = static_cast<size_t>(i / shape.sub);
        const double a = static_cast<double>(fit.scale[j]) * fit.runs[j].codes[static_cast<size_t>(i % shape.sub)],
                     b = fit.minimum[j], w = weight[i];
        aa += w * a * a, ab += w * a * b, bb += w * b * b, ax += w * a * x[i], bx += w * b * x[i];
    }
    if (!(aa > 0)) return false;
    const double determinant = aa * bb - ab * ab;
    double d = ax / aa, dmin = fit.dmin;
    if (shape.minimum && bb > 0 && determinant > 1e-12 * aa * bb) {
        d = (ax * bb - ab * bx) / determinant;
        dmin = (ab * ax - aa * bx) / determinant;
    } else if (shape.minimum) {
        d = (ax + dmin * ab) / aa;
    }
    if (!(dmin >= 0) || d == 0) return false;
    BlockFit solved = fit;
    solved.d = stored_f16(d);
    solved.dmin = stored_f16(dmin);
    if (solved.d == fit.d && solved.dmin == fit.dmin) return false;
    fit_all(shape, x, weight, solved);
    if (!(solved.error(shape) < fit.error(shape))) return false;
    fit = solved;
    return true;
}

// ---- any coded type ----

// `search`: for the best scales, else the nearest codes of the plain ones.
RunFit fit_run(const TypeShape& shape, const Run& run, bool search, Stored stored, double offset_limit) {
    if (shape.minimum)
        return search ? search_affine(run, shape.set, stored, offset_limit)
                      : plain_affine(run, shape.set, stored, offset_limit);
    return search ? search_scaled(run, shape.set, stored) : plain_scaled(run, shape.set, stored);
}

BlockFit fit_block(const TypeShape& shape, const float* x, const double* weight, bool search) {
    if (!shape.integer_scales()) {
        BlockFit fit;
        fit.runs[0] =
            fit_run(shape, {x, weight, shape.sub}, search, stored_f16, std::numeric_limits<double>::infinity());
        return fit;
    }
    const auto fitted = [&](bool searching) {
        std::array<RunFit, 16> runs{};
        for (int j = 0; j < shape.runs(); ++j)
            runs[static_cast<size_t>(j)] = fit_run(shape, sub_block(shape, x, weight, j), searching, as_float, 0);
        return assemble(shape, x, weight, runs);
    };
    const BlockFit plain = fitted(false);
    if (!search) return plain;
    const auto refined = [&](BlockFit fit) {
        for (int round = 0; round < kBlockRounds; ++round) {
            step_integers(shape, x, weight, fit);
            if (!solve_block_scales(shape, x, weight, fit)) break;
        }
        return fit;
    };
    const BlockFit a = refined(fitted(true)), b = refined(plain);
    return a.error(shape) < b.error(shape) ? a : b;
}

// ---- types without a search ----

using BlockCoder = void (*)(const float* x, uint8_t* out);
void code_f32(const float* x, uint8_t* out) {
    std::memcpy(out, x, 4);
}
void code_f16(const float* x, uint8_t* out) {
    put_f16(out, *x);
}
void code_bf16(const float* x, uint8_t* out) {
    uint32_t bits;
    std::memcpy(&bits, x, 4);
    bits += 0x7fff + (bits >> 16 & 1);                     // round to nearest even
    if ((bits >> 16 & 0x7f80) == 0x7f80) bits -= 0x10000;  // the largest, not an infinity
    put_u16(out, bits >> 16);
}
void code_q8_f32(const float* x, uint8_t* out) {
    const float most = std::fabs(extreme({x, nullptr, 32}));
    float d = most / 127.0f;
    if (d == 0) d = 1;
    std::memcpy(out, &d, 4);
    for (int i = 0; i < 32; ++i)
        out[4 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::nearbyint(x[i] / d), -128.0f, 127.0f)));
}

BlockCoder rounding_coder(uint32_t type) {
    switch (type) {
        case kernels::kF32:
            return code_f32;
        case kernels::kF16:
            return code_f16;
        case kernels::kBF16:
            return code_bf16;
        case kernels::kQ8_F32:
            return code_q8_f32;
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

// [columns], block by block.
std::vector<double> row_importance(std::span<const float> importance, uint64_t columns, size_t block) {
    std::vector<double> weight(columns, 1.0);
    for (size_t c = 0; c < columns && !importance.empty(); c += block)
        block_importance(importance.subspan(c, block), weight.data() + c);
    return weight;
}

void check_values(uint32_t type, std::span<const float> values, uint64_t columns, std::span<const float> importance) {
    if (!can_quantize(type)) throw std::invalid_argument("a weight type that is not written: " + std::to_string(type));
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    if (!columns || columns % info.block_elements || values.size() % columns)
        throw std::invalid_argument("rows are no whole number of blocks");
    if (!importance.empty() && importance.size() != columns)
        throw std::invalid_argument("importance of another number of columns");
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
        throw std::invalid_argument("a value that is not finite");
    if (!std::all_of(importance.begin(), importance.end(), [](float x) { return std::isfinite(x) && x >= 0; }))
        throw std::invalid_argument("an importance that is negative or not finite");
}

std::vector<uint8_t> code_rows(uint32_t type, std::span<const float> values, uint64_t columns,
                               std::span<const float> importance, bool search) {
    check_values(type, values, columns, importance);
    if (kernels::is_trellis(type)) return encode_trellis(type, values, columns);
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    const std::vector<double> weight = row_importance(importance, columns, info.block_elements);
    const size_t block = info.block_elements;
    std::vector<uint8_t> out(values.size() / block * info.block_bytes);
    uint8_t* at = out.data();
    const BlockCoder round = rounding_coder(type);
    const CodedType* const coded = find_coded(type);
    for (size_t i = 0; i < values.size(); i += block, at += info.block_bytes) {
        if (round) {
            round(values.data() + i, at);
            continue;
        }
        const BlockFit fit = fit_block(coded->shape, values.data() + i, weight.data() + i % columns, search);
        coded->pack(coded->shape, fit, at);
    }
    return out;
}

}  // namespace

bool can_quantize(uint32_t type) {
    return rounding_coder(type) || find_coded(type) || kernels::is_trellis(type);
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

// ---- fixed scales ----

struct RowGrid::Blocks {
    const CodedType* coded;
    std::vector<BlockFit> fits;
};

bool has_codes(uint32_t type) {
    return find_coded(type) != nullptr;
}

RowGrid::RowGrid(uint32_t type, std::span<const float> row, std::span<const float> importance)
    : blocks_(std::make_unique<Blocks>()) {
    blocks_->coded = find_coded(type);
    if (!blocks_->coded) throw std::invalid_argument("a weight type without codes: " + std::to_string(type));
    const TypeShape& shape = blocks_->coded->shape;
    const size_t block = static_cast<size_t>(shape.block);
    check_values(type, row, row.size(), importance);
    const std::vector<double> weight = row_importance(importance, row.size(), block);
    for (size_t c = 0; c < row.size(); c += block)
        blocks_->fits.push_back(fit_block(shape, row.data() + c, weight.data() + c, true));
}
RowGrid::RowGrid(std::span<const float> row, float scale) : blocks_(std::make_unique<Blocks>()) {
    blocks_->coded = find_coded(kernels::kQ8_0);
    const TypeShape& shape = blocks_->coded->shape;
    check_values(kernels::kQ8_0, row, row.size(), {});
    constexpr double kAlike[32] = {};
    for (size_t c = 0; c < row.size(); c += static_cast<size_t>(shape.block))
        blocks_->fits.emplace_back().runs[0] =
            fit_codes({row.data() + c, kAlike, shape.block}, shape.set, through_f16(scale), 0);
}
RowGrid::RowGrid(RowGrid&&) noexcept = default;
RowGrid::~RowGrid() = default;

float RowGrid::choose(size_t column, double x) {
    const TypeShape& shape = blocks_->coded->shape;
    const size_t block = static_cast<size_t>(shape.block), sub = static_cast<size_t>(shape.sub), i = column % block;
    RunFit& run = blocks_->fits[column / block].runs[i / sub];
    const int q =
        run.scale != 0 ? shape.set.nearest((x - static_cast<double>(run.offset)) / run.scale) : shape.set.nearest(0.0);
    run.codes[i % sub] = static_cast<int8_t>(q);
    const float product = run.scale * static_cast<float>(q);
    return product + run.offset;
}

void RowGrid::write(uint8_t* out) const {
    const size_t bytes = kernels::kWeightTypes[blocks_->coded->type].block_bytes;
    for (const BlockFit& fit : blocks_->fits) {
        std::memset(out, 0, bytes);
        blocks_->coded->pack(blocks_->coded->shape, fit, out);
        out += bytes;
    }
}

}  // namespace keel::tools
