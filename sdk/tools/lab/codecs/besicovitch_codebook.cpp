#include "sdk/tools/lab/codecs/besicovitch_codebook.h"

#include <cmath>
#include <numbers>

#include "kernels/formats/math_f64.h"
#include "kernels/formats/numeric.h"
#include "sdk/tools/lab/codecs/codebook_fit.h"

namespace keel::tools {

std::vector<float> besicovitch_codebook(uint32_t direction_bits, uint32_t bits) {
    // Midpoints of equal probability of r and phi stand for the distribution.
    constexpr uint32_t kRadii = 4096, kAngles = 8;
    std::vector<double> alpha;
    double square = 0;
    for (uint32_t j = 0; j < kAngles; ++j) {
        double s, c;
        kernels::sincos_f64((j + 0.5) / kAngles * std::numbers::pi / (2u << direction_bits), &s, &c);
        for (uint32_t i = 0; i < kRadii; ++i) {
            const double r = std::sqrt(-2 * kernels::log_f64((kRadii - i - 0.5) / kRadii));
            alpha.push_back(r * c);
            square += r * c * r * c;
        }
    }
    const double rms = std::sqrt(square / static_cast<double>(alpha.size()));
    std::vector<float> samples;
    for (const double a : alpha) samples.push_back(static_cast<float>(a / rms));

    const uint32_t half = 1u << (bits - 1);
    std::vector<float> positive(half), book;
    for (uint32_t i = 0; i < half; ++i) positive[i] = 2.5f * (static_cast<float>(i) + 0.5f) / static_cast<float>(half);
    positive = fit_codebook(samples, positive, 4000);
    for (uint32_t i = half; i-- > 0;) book.push_back(-positive[i]);
    book.insert(book.end(), positive.begin(), positive.end());
    return book;
}

}  // namespace keel::tools
