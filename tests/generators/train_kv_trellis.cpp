// Trains the tables of bit-shift trellises. Those of the tcq formats, with states of 8 bits:
//
//     g++ -std=c++20 -O3 -march=native -ffp-contract=off -I. tests/generators/train_kv_trellis.cpp -o train_kv_trellis
//     ./train_kv_trellis > kernels/formats/kv_trellis_tables.h
//
// and those of the laboratory's longer ones, with states of 10 and 12 bits (some 20 minutes):
//
//     ./train_kv_trellis long > sdk/tools/lab/codecs/long_trellis_tables.h
//
// Rows are 64 independent Gaussian numbers, scaled to unit root mean square, as rotated rows of a head are. Lloyd's
// algorithm over the trellis: code all rows with the exact search, then move every state's value to the mean of what
// was coded with it. It only finds a local optimum, so it starts from many tables whose neighbours are far apart: the
// 2^b values that may follow a state are the Gaussian's quantiles of every (states / 2^b)-th rank, shifted by a rank
// that is a random permutation of the states. The best starts by relative error are annealed: noise that fades is added
// to their values before every round. The best of these is trained on more rows and rounded to int8. The last argument
// may be the number of starts (24).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/kv_codec/kv_codecs_impl.h"
#include "sdk/tools/lab/codecs/trellis_search.h"
#include "tests/generators/gaussian_rows.h"

namespace {

using namespace keel;

constexpr uint32_t kRow = 64;

// A trellis of 2^kStateBits states and kBits new bits an element, with its search: the kernels' own for 8 bits.
template <int kStateBitsOf, int kBitsOf>
struct Trellis {
    static constexpr int kStateBits = kStateBitsOf, kBits = kBitsOf, kStates = 1 << kStateBits;
    using State = std::conditional_t<kStateBits == 8, uint8_t, uint16_t>;
    using Values = std::array<float, kStates>;
    using Table = std::array<int8_t, kStates>;
    static void search(const float* x, const float* value, State* state) {
        if constexpr (kStateBits == 8)
            kernels::search_trellis<kBits>(x, kRow, value, state);
        else
            tools::search_trellis<kStateBits, kBits>(x, kRow, value, state);
    }
};

// Codes all rows; the mean of the relative squared errors left by the best scale. With `sum` and `count`, also each
// state's share.
template <class T>
double code_rows(const std::vector<float>& rows, const typename T::Values& value, double* sum, double* count) {
    double error = 0;
    const size_t n = rows.size() / kRow;
    for (size_t r = 0; r < n; ++r) {
        const float* x = rows.data() + r * kRow;
        typename T::State state[kRow];
        T::search(x, value.data(), state);
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

template <class T>
double train(const std::vector<float>& rows, typename T::Values& value, int rounds, double noise, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    double error = 0;
    for (int round = 0; round < rounds; ++round) {
        const double now = noise * pow(1.0 - static_cast<double>(round) / rounds, 2);
        if (noise > 0 && round + 10 < rounds)
            for (float& v : value) v += static_cast<float>(now * normal(random));
        double sum[T::kStates] = {}, count[T::kStates] = {};
        error = code_rows<T>(rows, value, sum, count);
        for (int s = 0; s < T::kStates; ++s)
            if (count[s] > 0) value[s] = static_cast<float>(sum[s] / count[s]);
    }
    return error;
}

// The table, and its integers in one root mean square of a row.
template <class T>
float make_table(int starts, typename T::Table* table) {
    constexpr int kGroups = T::kStates >> T::kBits, kWays = 1 << T::kBits;
    const std::vector<float> few = gaussian_rows(2048, kRow, 1), more = gaussian_rows(8192, kRow, 4),
                             many = gaussian_rows(32768, kRow, 2), test = gaussian_rows(32768, kRow, 3);
    struct Start {
        double error;
        typename T::Values value;
    };
    std::vector<Start> candidates;
    for (int start = 0; start < starts; ++start) {
        std::mt19937 random(static_cast<uint32_t>(start));
        std::vector<int> shift(kGroups);
        std::iota(shift.begin(), shift.end(), 0);
        std::shuffle(shift.begin(), shift.end(), random);
        Start s;
        for (int g = 0; g < kGroups; ++g)
            for (int w = 0; w < kWays; ++w)
                s.value[g * kWays + w] =
                    static_cast<float>(gaussian_quantile((w * kGroups + shift[g] + 0.5) / T::kStates));
        s.error = train<T>(few, s.value, 12, 0, 0);
        candidates.push_back(s);
    }
    const auto less = [](const Start& a, const Start& b) { return a.error < b.error; };
    std::sort(candidates.begin(), candidates.end(), less);
    candidates.resize(std::min<size_t>(candidates.size(), 6));
    for (size_t i = 0; i < candidates.size(); ++i) {
        const double before = candidates[i].error;
        candidates[i].error = train<T>(more, candidates[i].value, 80, 0.25 / kWays * 2, static_cast<uint32_t>(i));
        fprintf(stderr, "%d states, %d bits, candidate %zu: %.5f, annealed %.5f\n", T::kStates, T::kBits, i, before,
                candidates[i].error);
    }
    typename T::Values& best = std::min_element(candidates.begin(), candidates.end(), less)->value;
    train<T>(many, best, 40, 0, 0);
    float largest = 0;
    for (const float v : best) largest = std::max(largest, fabsf(v));
    const float unit = 127.0f / largest;
    typename T::Values rounded;
    for (int s = 0; s < T::kStates; ++s) {
        (*table)[s] = static_cast<int8_t>(lrintf(best[s] * unit));
        rounded[s] = static_cast<float>((*table)[s]) / unit;
    }
    fprintf(stderr, "%d states, %d bits: %.5f on other rows, %.5f before rounding, unit %.4f\n", T::kStates, T::kBits,
            code_rows<T>(test, rounded, nullptr, nullptr), code_rows<T>(test, best, nullptr, nullptr),
            static_cast<double>(unit));
    return unit;
}

void print_kernel_tables(int starts) {
    std::array<int8_t, 256> tables[5];
    const float unit[5] = {make_table<Trellis<8, 2>>(starts, &tables[0]), make_table<Trellis<8, 3>>(starts, &tables[1]),
                           make_table<Trellis<8, 4>>(starts, &tables[2]), make_table<Trellis<8, 5>>(starts, &tables[3]),
                           make_table<Trellis<8, 6>>(starts, &tables[4])};
    printf(
        "// Tables of the tcq formats (kernels/formats/kv_formats.h): what each 8-bit state stands for. Made by "
        "tests/generators/train_kv_trellis.cpp.\n"
        "#pragma once\n#include <stdint.h>\n\n#include \"kernels/formats/device.h\"\n\nnamespace keel::kernels {\n\n"
        "// Units of a table's integers in one root mean square of a row.\n"
        "KEEL_TABLE float kTrellisUnit[5] = {%.6ff, %.6ff, %.6ff, %.6ff, %.6ff};\n\n"
        "// By bits of a code minus 2, then state.\nKEEL_TABLE int8_t kTrellisTables[5][256] = {\n",
        static_cast<double>(unit[0]), static_cast<double>(unit[1]), static_cast<double>(unit[2]),
        static_cast<double>(unit[3]), static_cast<double>(unit[4]));
    for (const auto& table : tables) {
        printf("    {");
        for (int s = 0; s < 256; ++s) printf("%s%d%s", s % 24 == 0 ? "\n        " : " ", table[s], s == 255 ? "" : ",");
        printf("\n    },\n");
    }
    printf("};\n\n}  // namespace keel::kernels\n");
}

template <int kStateBits, int kBits>
void print_long_table(int starts) {
    static typename Trellis<kStateBits, kBits>::Table table;
    const float unit = make_table<Trellis<kStateBits, kBits>>(starts, &table);
    printf("    {%d, %d, %.6ff,", kStateBits, kBits, static_cast<double>(unit));
    for (size_t s = 0; s < table.size(); ++s)
        printf("%s%02x%s", s % 64 == 0 ? "\n     \"" : "", static_cast<uint8_t>(table[s]), s % 64 == 63 ? "\"" : "");
    printf("},\n");
    fflush(stdout);
}
void print_long_tables(int starts) {
    printf(
        "// Tables of trellises with more than 256 states (long_trellis_codec.cpp). Made by "
        "tests/generators/train_kv_trellis.cpp.\n"
        "#pragma once\n#include <string_view>\n\nnamespace keel::tools {\n\n"
        "struct LongTrellisTable {\n    int state_bits, bits;\n    float unit;              // of the integers, in one "
        "root mean square of a row\n"
        "    std::string_view table;  // what each state stands for: int8, two hexadecimal digits\n};\n"
        "constexpr LongTrellisTable kLongTrellisTables[] = {\n");
    print_long_table<10, 2>(starts);
    print_long_table<10, 3>(starts);
    print_long_table<10, 4>(starts);
    print_long_table<12, 2>(starts);
    print_long_table<12, 3>(starts);
    printf("};\n\n}  // namespace keel::tools\n");
}

}  // namespace

int main(int argc, char** argv) {
    const bool longer = argc > 1 && strcmp(argv[1], "long") == 0;
    const int starts = argc > 1 + longer ? atoi(argv[1 + longer]) : 24;
    longer ? print_long_tables(starts) : print_kernel_tables(starts);
}
