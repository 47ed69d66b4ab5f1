// llama_quantize_oracle: the lines of tests/data/quant-blocks/llama-errors.txt, the relative squared error that
// llama.cpp's reference quantizers (without importance) make of three kinds of numbers. Built against a source tree of
// llama.cpp:
//
//     L=DIR; cmake -S $L -B build -DBUILD_SHARED_LIBS=OFF -DGGML_OPENMP=OFF -DGGML_NATIVE=OFF
//     cmake --build build --target ggml-base
//     g++ -std=c++17 -I$L/ggml/include tests/generators/llama_quantize_oracle.cpp
//         build/ggml/src/libggml-base.a -lpthread -lm -ldl -o llama_quantize_oracle
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ggml.h"

namespace {

constexpr int64_t kColumns = 512, kRows = 24;

// The numbers of RowQuantizer.ErrorsAreAtMostThoseOfLlamaCpp: splitmix64, twelve uniform ones to a nearly normal one.
std::vector<float> numbers(int kind) {
    uint64_t state = static_cast<uint64_t>(kind) + 1;
    const auto uniform = [&] {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
    };
    std::vector<float> x;
    for (int64_t i = 0; i < kRows * kColumns; ++i) {
        double v = -6;
        for (int j = 0; j < 12; ++j) v += uniform();
        x.push_back(static_cast<float>(kind == 0 ? v : kind == 1 ? v * v * v : v + 3));
    }
    return x;
}

}  // namespace

int main() {
    const struct {
        const char* name;
        ggml_type type;
    } types[] = {{"Q4_0", GGML_TYPE_Q4_0}, {"Q4_1", GGML_TYPE_Q4_1},     {"Q5_0", GGML_TYPE_Q5_0},
                 {"Q5_1", GGML_TYPE_Q5_1}, {"Q8_0", GGML_TYPE_Q8_0},     {"Q2_K", GGML_TYPE_Q2_K},
                 {"Q3_K", GGML_TYPE_Q3_K}, {"Q4_K", GGML_TYPE_Q4_K},     {"Q5_K", GGML_TYPE_Q5_K},
                 {"Q6_K", GGML_TYPE_Q6_K}, {"IQ4_NL", GGML_TYPE_IQ4_NL}, {"IQ4_XS", GGML_TYPE_IQ4_XS}};
    std::printf("# type, kind of numbers (0 normal, 1 its third power, 2 shifted by 3), relative squared error\n");
    for (const auto& t : types) {
        for (int kind = 0; kind < 3; ++kind) {
            const std::vector<float> x = numbers(kind);
            std::vector<char> coded(ggml_row_size(t.type, kColumns) * kRows);
            std::vector<float> back(x.size());
            ggml_quantize_chunk(t.type, x.data(), coded.data(), 0, kRows, kColumns, nullptr);
            ggml_get_type_traits(t.type)->to_float(coded.data(), back.data(), kRows * kColumns);
            double lost = 0, all = 0;
            for (size_t i = 0; i < x.size(); ++i) {
                const double e = static_cast<double>(back[i]) - x[i];
                lost += e * e, all += static_cast<double>(x[i]) * x[i];
            }
            std::printf("%s %d %.9g\n", t.name, kind, lost / all);
        }
    }
}
