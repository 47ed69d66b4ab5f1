// Trains the codebooks of trellis weights (kernels/formats/weight_trellis.h), some minutes on one core:
//
//     g++ -std=c++20 -O3 -march=native -ffp-contract=off -I. tests/generators/train_weight_trellis.cpp -o train
//     ./train > kernels/formats/weight_trellis_tables.h
//
// Rows are 256 independent Gaussian numbers of unit root mean square, as rotated blocks of weights are. Lloyd's
// algorithm over the trellis: code all rows with the exact search, then the tables that fit best to what was coded with
// each state: a least squares problem of 16 unknowns a table, solved one table after the other. It only finds a local
// optimum, so it starts from many: Gaussian quantiles in random order, the sum of squares shared out among the tables.
// The best are annealed: noise that fades is added before every round. The best of these is trained on more rows and
// rounded to integers within +-63; then single entries are moved up and down as long as that lowers the error.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

#include "sdk/tools/lab/quantize/trellis_search.h"
#include "tests/generators/gaussian_rows.h"

namespace {

using namespace keel::tools;

constexpr uint32_t kRow = 256;
constexpr double kMost = 63;  // of integers
using Tables = std::array<std::array<double, 16>, 3>;

template <int kBits, int kStride>
struct Trainer {
    static constexpr int kStep = kBits * kStride, kStateBits = 4 + 2 * kStep;
    static constexpr uint32_t kStates = 1u << kStateBits, kTables = 3;
    static uint32_t field(uint32_t state, uint32_t table) { return state >> (kStep * table) & 15; }
    static std::vector<float> values(const Tables& t) {
        std::vector<float> v(kStates);
        for (uint32_t s = 0; s < kStates; ++s) {
            double sum = 0;
            for (uint32_t k = 0; k < kTables; ++k) sum += t[k][field(s, k)];
            v[s] = static_cast<float>(sum);
        }
        return v;
    }
    // Mean of the relative squared errors left by the best scale. With `sum` and `count`, each state's share.
    static double code_rows(const std::vector<float>& rows, const Tables& t, double* sum, double* count) {
        const std::vector<float> value = values(t);
        TrellisSearch<kStateBits, kBits, false> search(value.data());
        double error = 0;
        for (size_t at = 0; at < rows.size(); at += kRow) {
            const float* const x = rows.data() + at;
            uint8_t symbol[kRow];
            search.code(x, kRow, {}, symbol);
            uint32_t state = 0;
            for (uint32_t i = kRow - 16; i < kRow; ++i) state = (state << kBits | symbol[i]) & (kStates - 1);
            double xx = 0, xc = 0, cc = 0;
            for (uint32_t i = 0; i < kRow; ++i) {
                state = (state << kBits | symbol[i]) & (kStates - 1);
                const double c = static_cast<double>(value[state]), v = static_cast<double>(x[i]);
                xx += v * v, xc += v * c, cc += c * c;
                if (sum) sum[state] += v, count[state] += 1;
            }
            error += (xx - xc * xc / cc) / xx;
        }
        return error / static_cast<double>(rows.size() / kRow);
    }
    static void fit(const std::vector<double>& sum, const std::vector<double>& count, Tables* t) {
        for (int round = 0; round < 20; ++round) {
            for (uint32_t k = 0; k < kTables; ++k) {
                double wanted[16] = {}, n[16] = {};
                for (uint32_t s = 0; s < kStates; ++s) {
                    double others = 0;
                    for (uint32_t o = 0; o < kTables; ++o) others += o == k ? 0 : (*t)[o][field(s, o)];
                    wanted[field(s, k)] += sum[s] - count[s] * others;
                    n[field(s, k)] += count[s];
                }
                for (uint32_t i = 0; i < 16; ++i)
                    if (n[i] > 0) (*t)[k][i] = wanted[i] / n[i];
            }
        }
    }
    static double train(const std::vector<float>& rows, Tables* t, int rounds, double noise, uint32_t seed) {
        std::mt19937 random(seed);
        std::normal_distribution<double> normal;
        double error = 0;
        for (int round = 0; round < rounds; ++round) {
            const double now = noise * pow(1.0 - static_cast<double>(round) / rounds, 2);
            if (noise > 0 && round + 6 < rounds)
                for (uint32_t k = 0; k < kTables; ++k)
                    for (double& v : (*t)[k]) v += now * normal(random);
            std::vector<double> sum(kStates), count(kStates);
            error = code_rows(rows, *t, sum.data(), count.data());
            fit(sum, count, t);
        }
        return error;
    }
    static void make(int starts) {
        const uint32_t unit = kStateBits < 12 ? 4 : 1;  // more rows where the search is quick
        const std::vector<float> few = gaussian_rows(24 * unit, kRow, 1), more = gaussian_rows(96 * unit, kRow, 4),
                                 many = gaussian_rows(512 * unit, kRow, 2), test = gaussian_rows(1024, kRow, 3);
        struct Start {
            double error;
            Tables t;
        };
        std::vector<Start> all;
        for (int start = 0; start < starts; ++start) {
            std::mt19937 random(static_cast<uint32_t>(start));
            Start s = {};
            double share[3], shares = 0;
            for (uint32_t k = 0; k < kTables; ++k) shares += share[k] = 0.05 + 0.95 * (random() % 1024 / 1024.0);
            for (uint32_t k = 0; k < kTables; ++k) {
                for (int i = 0; i < 16; ++i) s.t[k][i] = sqrt(share[k] / shares) * gaussian_quantile((i + 0.5) / 16);
                std::shuffle(s.t[k].begin(), s.t[k].end(), random);
            }
            s.error = train(few, &s.t, 10, 0, 0);
            all.push_back(s);
        }
        const auto less = [](const Start& a, const Start& b) { return a.error < b.error; };
        std::sort(all.begin(), all.end(), less);
        fprintf(stderr, "%d state bits, %d bits: starts %.5f .. %.5f\n", kStateBits, kBits, all[0].error,
                all.back().error);
        all.resize(std::min<size_t>(all.size(), 5));
        for (size_t i = 0; i < all.size(); ++i) {
            all[i].error = train(more, &all[i].t, 60, 0.3 / (1 << kBits), static_cast<uint32_t>(i));
            fprintf(stderr, "  annealed %.5f\n", all[i].error);
        }
        Tables& best = std::min_element(all.begin(), all.end(), less)->t;
        train(many, &best, 12, 0, 0);
        finish(best, more, test);
    }
    // Sums over all tables stay within kMost.
    static void finish(Tables best, const std::vector<float>& rows, const std::vector<float>& test) {
        for (uint32_t k = 1; k < kTables; ++k) {  // tables centred: only their sum matters
            const double mean = std::accumulate(best[k].begin(), best[k].end(), 0.0) / 16;
            for (double& v : best[k]) v -= mean;
            for (double& v : best[0]) v += mean;
        }
        float largest = 0;
        for (const float v : values(best)) largest = std::max(largest, fabsf(v));
        const double unit = (kMost - 0.5) / static_cast<double>(largest);
        Tables rounded = best;
        for (auto& table : rounded)
            for (double& v : table) v = std::rint(v * unit) / unit;
        const double before = code_rows(test, best, nullptr, nullptr),
                     plain = code_rows(test, rounded, nullptr, nullptr);
        double error = code_rows(rows, rounded, nullptr, nullptr);
        for (uint32_t k = 0; k < kTables; ++k) {
            for (double& v : rounded[k]) {
                for (const double step : {1.0, -1.0}) {
                    const double old = v;
                    v = std::rint(v * unit + step) / unit;
                    float most = 0;
                    for (const float value : values(rounded)) most = std::max(most, fabsf(value));
                    const double now =
                        static_cast<double>(most) * unit < kMost + 0.4 ? code_rows(rows, rounded, nullptr, nullptr) : 1;
                    if (now < error) {
                        error = now;
                        break;
                    }
                    v = old;
                }
            }
        }
        fprintf(stderr, "  on other rows: %.5f, rounded to integers %.5f, moved %.5f; unit %.3f\n", before, plain,
                code_rows(test, rounded, nullptr, nullptr), unit);
        printf("    {%d,\n     %d,\n     %.6ff,\n     {", kBits, kStride, unit);
        for (uint32_t k = 0; k < kTables; ++k) {
            printf("%s{", k ? ",\n      " : "");
            for (int i = 0; i < 16; ++i)
                printf("%s%d", i ? ", " : "", static_cast<int>(std::rint(rounded[k][i] * unit)));
            printf("}");
        }
        printf("}},\n");
        fflush(stdout);
    }
};

}  // namespace

int main(int argc, char** argv) {
    const int starts = argc > 1 ? atoi(argv[1]) : 24, only = argc > 2 ? atoi(argv[2]) : 0;
    printf(
        "// Codebooks of trellis weights (weight_trellis.h). Made by tests/generators/train_weight_trellis.cpp.\n"
        "#pragma once\n#include \"kernels/formats/weight_trellis.h\"\n\nnamespace keel::kernels {\n\n"
        "KEEL_TABLE TrellisCode kTrellisCodes[] = {\n");
    if (only == 0 || only == 22) Trainer<2, 2>::make(starts);
    if (only == 0 || only == 31) Trainer<3, 1>::make(starts);
    if (only == 21) Trainer<2, 1>::make(starts);
    printf(
        "};\nKEEL_DEVICE constexpr TrellisCode trellis_code(uint32_t type) {\n"
        "    return kTrellisCodes[type - kWT2];\n}\n\n}  // namespace keel::kernels\n");
}
