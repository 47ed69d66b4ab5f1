#include "sdk/tools/lab/codecs/lattice_code.h"

#include <algorithm>

namespace keel::tools {
namespace {

constexpr uint32_t kE8 = 8;

uint32_t bit_width(u128 value) {
    uint32_t width = 0;
    for (; value; value >>= 1) ++width;
    return width;
}

// The integers of [low, high] with an even sum that are nearest to y - shift; returns the squared distance.
// The cost is a sum over coordinates and convex in each: from the nearest integers, an odd sum is mended best by the
// one step of one coordinate that costs least and stays within.
float closest_even(const float* y, uint32_t dim, float shift, int32_t low, int32_t high, int32_t* x) {
    int32_t sum = 0, best_step = 0;
    uint32_t best = 0;
    float least = 0;
    for (uint32_t i = 0; i < dim; ++i) {
        const float w = y[i] - shift;
        x[i] =
            static_cast<int32_t>(kernels::rint_f32(std::clamp(w, static_cast<float>(low), static_cast<float>(high))));
        sum += x[i];
        const float off = w - static_cast<float>(x[i]);
        for (const int32_t step : {off >= 0 ? 1 : -1, off >= 0 ? -1 : 1}) {
            if (x[i] + step < low || x[i] + step > high) continue;
            const float cost = 1 - 2 * off * static_cast<float>(step);
            if (!best_step || cost < least) best = i, best_step = step, least = cost;
        }
    }
    if (sum & 1) x[best] += best_step;
    float distance = 0;
    for (uint32_t i = 0; i < dim; ++i) {
        const float off = y[i] - shift - static_cast<float>(x[i]);
        distance += off * off;
    }
    return distance;
}

}  // namespace

LatticeCode::LatticeCode(uint32_t dim, uint32_t radius) : dim_(dim), radius_(static_cast<int32_t>(radius)) {
    u128 cube = 1;
    for (uint32_t i = 0; i < dim; ++i) cube *= 2 * radius + 1;
    integers_ = (cube >> 1) + 1;  // cube is odd, and one more even sum than odd ones
    bits_ = bit_width(cube) - (dim == kE8 ? 0 : 1);
}

void LatticeCode::closest(const float* y, int32_t* twice) const {
    int32_t whole[kMaxLatticeBlock], half[kMaxLatticeBlock];
    const float distance = closest_even(y, dim_, 0, -radius_, radius_, whole);
    if (dim_ == kE8 && closest_even(y, dim_, 0.5f, -radius_, radius_ - 1, half) < distance) {
        for (uint32_t i = 0; i < dim_; ++i) twice[i] = 2 * half[i] + 1;
        return;
    }
    for (uint32_t i = 0; i < dim_; ++i) twice[i] = 2 * whole[i];
}

u128 LatticeCode::index(const int32_t* twice) const {
    u128 number = 0;
    const uint32_t radix = static_cast<uint32_t>(2 * radius_);
    if (!(twice[0] & 1)) {
        for (uint32_t i = 0; i < dim_; ++i)
            number = number * (radix + 1) + static_cast<uint32_t>(twice[i] / 2 + radius_);
        return number >> 1;
    }
    for (uint32_t i = 0; i + 1 < dim_; ++i)
        number = number * radix + static_cast<uint32_t>((twice[i] - 1) / 2 + radius_);
    return integers_ + number * (radix / 2) + static_cast<uint32_t>((twice[dim_ - 1] - 1) / 2 + radius_) / 2;
}

void LatticeCode::point(u128 index, int32_t* twice) const {
    const uint32_t radix = static_cast<uint32_t>(2 * radius_);
    if (index < integers_ || dim_ != kE8) {
        index <<= 1;
        for (uint32_t i = dim_; i-- > 0; index /= radix + 1)
            twice[i] = 2 * (static_cast<int32_t>(index % (radix + 1)) - radius_);
        return;
    }
    index -= integers_;
    uint32_t last = 2 * static_cast<uint32_t>(index % (radix / 2)), sum = 0;
    index /= radix / 2;
    for (uint32_t i = dim_ - 1; i-- > 0; index /= radix) {
        const uint32_t digit = static_cast<uint32_t>(index % radix);
        sum += digit;
        twice[i] = 2 * (static_cast<int32_t>(digit) - radius_) + 1;
    }
    last += sum & 1;
    twice[dim_ - 1] = 2 * (static_cast<int32_t>(last) - radius_) + 1;
}

}  // namespace keel::tools
