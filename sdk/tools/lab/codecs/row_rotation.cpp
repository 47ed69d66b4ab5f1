#include "sdk/tools/lab/codecs/row_rotation.h"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>

#include "sdk/tools/common/random_sequence.h"

namespace keel::tools {
namespace {

constexpr uint64_t kMatrixSeed = 0x6b65656c51;

void flip_signs(std::span<float> x, uint64_t seed) {
    for (size_t i = 0; i < x.size(); ++i)
        if (random_word(seed, i) >> 63) x[i] = -x[i];
}

std::vector<float> make_gaussian_matrix(uint32_t dim) {
    std::vector<float> m(static_cast<size_t>(dim) * dim);
    for (size_t i = 0; i < m.size(); ++i) m[i] = static_cast<float>(random_normal(kMatrixSeed, i));
    return m;
}

}  // namespace

uint32_t hadamard_width(uint32_t dim) {
    return dim & (0 - dim);
}

void hadamard(std::span<float> x) {
    const size_t width = hadamard_width(static_cast<uint32_t>(x.size()));
    for (size_t step = 1; step < width; step *= 2)
        for (size_t i = 0; i < x.size(); i += 2 * step)
            for (size_t j = i; j < i + step; ++j) {
                const float a = x[j], b = x[j + step];
                x[j] = a + b;
                x[j + step] = a - b;
            }
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width)));
    for (float& value : x) value *= scale;
}

void signed_hadamard(std::span<float> x, uint64_t seed) {
    flip_signs(x, seed);
    hadamard(x);
}

void signed_hadamard_inverse(std::span<float> x, uint64_t seed) {
    hadamard(x);
    flip_signs(x, seed);
}

const std::vector<float>& gaussian_matrix(uint32_t dim) {
    static std::mutex mutex;
    static std::map<uint32_t, std::vector<float>> made;  // references to nodes stay valid
    const std::lock_guard lock(mutex);
    std::vector<float>& m = made[dim];
    if (m.empty()) m = make_gaussian_matrix(dim);
    return m;
}

}  // namespace keel::tools
