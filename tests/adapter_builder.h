// LoRA files of random matrices for a model, as good or as wrong as a test wants them.
#pragma once
#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "sdk/core/status.h"
#include "sdk/model/adapter_file.h"
#include "sdk/tools/files/gguf_writer.h"
#include "tests/wproj_builder.h"

namespace keel_test {

struct AdapterSpec {
    uint32_t rank = 16, a_type = keel::kernels::kF32, b_type = keel::kernels::kF32, seed = 1;
    float alpha = 16;
    keel::SlotSet slots = ~keel::SlotSet{0};
    std::string type = "adapter", kind = "lora", architecture;  // empty: the model's
    bool invocation_tokens = false;
    // Of layer 0: a matrix that is not there.
    keel::TensorSlot left_out = keel::kSlotCount;
    int left_out_side = 0;
    struct Extra {
        std::string name;
        std::vector<uint64_t> dims;
    };
    std::vector<Extra> extra;  // F32
};

struct AdapterBytes {
    explicit AdapterBytes(std::vector<uint8_t> data) : bytes(std::move(data)) {
        check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
    }
    AdapterBytes(AdapterBytes&&) = default;  // the bytes stay where they are
    AdapterBytes(const AdapterBytes&) = delete;
    AdapterBytes prefix(size_t n) const { return AdapterBytes({bytes.begin(), bytes.begin() + static_cast<long>(n)}); }
    std::vector<uint8_t> bytes;
    keel_reader reader = sized<keel_reader>();
    uint64_t matrix_bytes = 0;
};

// A and B of every matrix of `slots` that the model has.
inline AdapterBytes random_adapter(const InspectedFile& file, const AdapterSpec& o) {
    using namespace keel;
    std::mt19937 random(o.seed);
    std::normal_distribution<float> normal;
    tools::GgufWriter writer;
    writer.string("general.type", o.type);
    writer.string("general.architecture", o.architecture.empty() ? file.info.architecture : o.architecture);
    writer.string("adapter.type", o.kind);
    writer.number("adapter.lora.alpha", o.alpha);
    if (o.invocation_tokens) writer.numbers<uint32_t>("adapter.alora.invocation_tokens", {1, 2});
    std::vector<std::vector<uint8_t>> data;
    uint64_t matrix_bytes = 0;
    const auto add = [&](const std::string& name, uint64_t k, uint64_t rows, uint32_t type, float deviation) {
        std::vector<float> x(k * rows);
        for (float& v : x) v = deviation * normal(random);
        writer.tensor(name, {k, rows}, type);
        data.push_back(encode_rows(type, x));
        matrix_bytes += data.back().size();
    };
    for (uint32_t layer = 0; layer < file.info.layers; ++layer)
        for (const TensorSlot slot : kAdapterSlots) {
            const GgufTensor* w = file.model->tensor(slot, layer);
            if (!w || !(o.slots & slot_bit(slot))) continue;
            const std::string name = "blk." + std::to_string(layer) + "." + kSlots[slot].name;
            const bool here = layer == 0 && slot == o.left_out;
            if (!here || o.left_out_side != 0)
                add(name + ".lora_a", w->dims[0], o.rank, o.a_type, 1 / std::sqrt(static_cast<float>(w->dims[0])));
            if (!here || o.left_out_side != 1)
                add(name + ".lora_b", o.rank, w->dims[1], o.b_type, 0.5f / std::sqrt(static_cast<float>(o.rank)));
        }
    for (const AdapterSpec::Extra& e : o.extra) {
        uint64_t elements = 1;
        for (const uint64_t d : e.dims) elements *= d;
        writer.tensor(e.name, e.dims, kernels::kF32);
        data.emplace_back(elements * sizeof(float));
    }
    std::vector<uint8_t> bytes = writer.header();
    for (const std::vector<uint8_t>& tensor : data) {
        bytes.insert(bytes.end(), tensor.begin(), tensor.end());
        bytes.resize((bytes.size() + 31) / 32 * 32);
    }
    AdapterBytes out(std::move(bytes));
    out.matrix_bytes = matrix_bytes;
    return out;
}

// Writes the model, whose matrices are F32, with an F32 adapter added into them.
inline void merge_adapter(const AdapterBytes& adapter, const InspectedFile& file, float scale,
                          const std::string& path) {
    using namespace keel;
    AdapterFile opened;
    check(adapter_open(adapter.reader, file.model, &opened, nullptr), "adapter_open");
    std::vector<char> bytes = file.bytes;
    for (uint32_t layer = 0; layer < file.info.layers; ++layer) {
        AdapterPair pairs[kAdapterSlotCount];
        check(adapter_layer(opened, layer, pairs, nullptr), "adapter_layer");
        for (uint32_t i = 0; i < kAdapterSlotCount; ++i) {
            const AdapterPair& p = pairs[i];
            if (p.rank == 0) continue;
            std::vector<float> a(p.a_bytes / 4), b(p.b_bytes / 4);
            memcpy(a.data(), adapter.bytes.data() + p.a_offset, p.a_bytes);
            memcpy(b.data(), adapter.bytes.data() + p.b_offset, p.b_bytes);
            char* w = bytes.data() + file.model->tensor(kAdapterSlots[i], layer)->offset;
            for (uint64_t row = 0; row < p.rows; ++row)
                for (uint64_t k = 0; k < p.k; ++k) {
                    double sum = 0;
                    for (uint64_t r = 0; r < p.rank; ++r) sum += double{b[row * p.rank + r]} * a[r * p.k + k];
                    float v;
                    memcpy(&v, w + (row * p.k + k) * 4, 4);
                    v = static_cast<float>(v + double{scale} * opened.alpha / p.rank * sum);
                    memcpy(w + (row * p.k + k) * 4, &v, 4);
                }
        }
    }
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
}

}  // namespace keel_test
