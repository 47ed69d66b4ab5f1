// Trains the tables of the tcq formats and prints kernels/kv_trellis_tables.h:
//
//     g++ -std=c++20 -O3 -march=native -ffp-contract=off -I. tests/generators/train_kv_trellis.cpp -o train_kv_trellis
//     ./train_kv_trellis > kernels/kv_trellis_tables.h
//
// Rows are 64 independent Gaussian numbers, scaled to unit root mean square, as rotated rows of a head are. Lloyd's algorithm over
// the trellis: code all rows with the exact search, then move every state's value to the mean of what was coded with it. It
// only finds a local optimum, so it starts from many tables whose neighbours are far apart: the 2^b values that may follow a
// state are the Gaussian's quantiles of every (256 / 2^b)-th rank, shifted by a rank that is a random permutation of the states.
// The best starts by relative error are annealed: noise that fades is added to their values before every round. The best of
// these is trained on more rows and rounded to int8.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/kv_codecs_impl.h"

namespace {

using namespace keel::kernels;

constexpr uint32_t kRow = 64;

std::vector<float> gaussian_rows(uint32_t rows, uint32_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    std::vector<float> x(rows * kRow);
    for (uint32_t r = 0; r < rows; ++r) {
        double square = 0;
        for (uint32_t i = 0; i < kRow; ++i) {
            const double v = normal(random);
            x[r * kRow + i] = static_cast<float>(v);
            square += v * v;
        }
        for (uint32_t i = 0; i < kRow; ++i) x[r * kRow + i] = static_cast<float>(x[r * kRow + i] / sqrt(square / kRow));
    }
    return x;
}

double quantile(double p) {  // of the unit Gaussian, by bisection
    double low = -9, high = 9;
    while (high - low > 1e-12) {
        const double middle = (low + high) / 2;
        (0.5 * erfc(-middle / sqrt(2.0)) < p ? low : high) = middle;
    }
    return (low + high) / 2;
}

// Codes all rows; the mean of the relative squared errors left by the best scale. With `sum` and `count`, also each state's share.
template <int kBits>
double code_rows(const std::vector<float>& rows, const float* value, double* sum, double* count) {
    double error = 0;
    const size_t n = rows.size() / kRow;
    for (size_t r = 0; r < n; ++r) {
        const float* x = rows.data() + r * kRow;
        uint8_t state[kRow];
        search_trellis<kBits>(x, kRow, value, state);
        double xx = 0, xc = 0, cc = 0;
        for (uint32_t i = 0; i < kRow; ++i) {
            const double c = value[state[i]];
            xx += double{x[i]} * x[i];
            xc += x[i] * c;
            cc += c * c;
            if (sum) sum[state[i]] += x[i], count[state[i]] += 1;
        }
        error += (xx - xc * xc / cc) / xx;
    }
    return error / static_cast<double>(n);
}

template <int kBits>
double train(const std::vector<float>& rows, float* value, int rounds, double noise, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    double error = 0;
    for (int round = 0; round < rounds; ++round) {
        const double now = noise * pow(1.0 - static_cast<double>(round) / rounds, 2);
        if (noise > 0 && round + 10 < rounds)
            for (int s = 0; s < 256; ++s) value[s] += static_cast<float>(now * normal(random));
        double sum[256] = {}, count[256] = {};
        error = code_rows<kBits>(rows, value, sum, count);
        for (int s = 0; s < 256; ++s)
            if (count[s] > 0) value[s] = static_cast<float>(sum[s] / count[s]);
    }
    return error;
}

template <int kBits>
float make_table(int starts, int8_t* table) {
    constexpr int kGroups = 256 >> kBits, kWays = 1 << kBits;
    const std::vector<float> few = gaussian_rows(2048, 1), more = gaussian_rows(8192, 4), many = gaussian_rows(32768, 2), test = gaussian_rows(32768, 3);
    struct Start {
        double error;
        float value[256];
    };
    std::vector<Start> candidates;
    for (int start = 0; start < starts; ++start) {
        std::mt19937 random(static_cast<uint32_t>(start));
        std::vector<int> shift(kGroups);
        std::iota(shift.begin(), shift.end(), 0);
        std::shuffle(shift.begin(), shift.end(), random);
        Start s;
        for (int g = 0; g < kGroups; ++g)
            for (int w = 0; w < kWays; ++w) s.value[g * kWays + w] = static_cast<float>(quantile((w * kGroups + shift[g] + 0.5) / 256));
        s.error = train<kBits>(few, s.value, 12, 0, 0);
        candidates.push_back(s);
    }
    const auto less = [](const Start& a, const Start& b) { return a.error < b.error; };
    std::sort(candidates.begin(), candidates.end(), less);
    candidates.resize(std::min<size_t>(candidates.size(), 6));
    for (size_t i = 0; i < candidates.size(); ++i) {
        const double before = candidates[i].error;
        candidates[i].error = train<kBits>(more, candidates[i].value, 80, 0.25 / kWays * 2, static_cast<uint32_t>(i));
        fprintf(stderr, "tcq_%d candidate %zu: %.5f, annealed %.5f\n", kBits, i, before, candidates[i].error);
    }
    float* best = std::min_element(candidates.begin(), candidates.end(), less)->value;
    train<kBits>(many, best, 40, 0, 0);
    float largest = 0;
    for (int s = 0; s < 256; ++s) largest = std::max(largest, fabsf(best[s]));
    const float unit = 127.0f / largest;
    float rounded[256];
    for (int s = 0; s < 256; ++s) {
        table[s] = static_cast<int8_t>(lrintf(best[s] * unit));
        rounded[s] = static_cast<float>(table[s]) / unit;
    }
    fprintf(stderr, "tcq_%d: %.5f on other rows, %.5f before rounding, unit %.4f\n", kBits, code_rows<kBits>(test, rounded, nullptr, nullptr),
            code_rows<kBits>(test, best, nullptr, nullptr), static_cast<double>(unit));
    return unit;
}

}  // namespace

int main(int argc, char** argv) {
    const int starts = argc > 1 ? atoi(argv[1]) : 24;
    int8_t tables[5][256];
    const float unit[5] = {make_table<2>(starts, tables[0]), make_table<3>(starts, tables[1]), make_table<4>(starts, tables[2]), make_table<5>(starts, tables[3]),
                           make_table<6>(starts, tables[4])};
    printf("// Tables of the tcq formats (kernels/kv_formats.h): what each 8-bit state stands for. Made by tests/generators/train_kv_trellis.cpp.\n"
           "#pragma once\n#include <stdint.h>\n\nnamespace keel::kernels {\n\n"
           "// Units of a table's integers in one root mean square of a row.\n"
           "constexpr float kTrellisUnit[5] = {%.6ff, %.6ff, %.6ff, %.6ff, %.6ff};\n\n"
           "// By bits of a code minus 2, then state.\nconstexpr int8_t kTrellisTables[5][256] = {\n",
           static_cast<double>(unit[0]), static_cast<double>(unit[1]), static_cast<double>(unit[2]), static_cast<double>(unit[3]), static_cast<double>(unit[4]));
    for (const auto& table : tables) {
        printf("    {");
        for (int s = 0; s < 256; ++s) printf("%s%d%s", s % 24 == 0 ? "\n        " : " ", table[s], s == 255 ? "" : ",");
        printf("\n    },\n");
    }
    printf("};\n\n}  // namespace keel::kernels\n");
}
