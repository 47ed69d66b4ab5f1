// W_proj caches for tests: random factors, or ones that change nothing, for the model of a GGUF file.
#pragma once
#include <math.h>
#include <string.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/formats/numeric.h"
#include "sdk/model/wproj_slots.h"
#include "sdk/tools/files/wproj_image.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace keel_test {

// A file in memory, inspected.
class InspectedFile {
  public:
    explicit InspectedFile(const std::string& path) : bytes(read_file(path)) {
        check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
        info = sized<keel_model_info>();
        check(keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &info, nullptr), "inspect");
        buffer_.resize(info.model_bytes / 8 + 1);
        check(keel_inspect(&reader, nullptr, buffer_.data(), buffer_.size() * 8, &model, &info, nullptr), "inspect");
    }
    std::vector<char> bytes;
    keel_reader reader = sized<keel_reader>();
    keel_model_info info{};
    const keel_model* model = nullptr;

  private:
    std::vector<uint64_t> buffer_;
};

// f32 rows in a weight type, by plain rounding: F32, F16, and types of 32-element blocks with signed codes (Q8_0,
// Q8_F32, Q4_0).
inline std::vector<uint8_t> encode_rows(uint32_t type, const std::vector<float>& x) {
    using namespace keel::kernels;
    std::vector<uint8_t> out;
    const auto put = [&out](const void* p, size_t bytes) {
        out.insert(out.end(), static_cast<const uint8_t*>(p), static_cast<const uint8_t*>(p) + bytes);
    };
    if (type == kF32) put(x.data(), x.size() * 4);
    if (type == kF16)
        for (float v : x) {
            const uint16_t h = f32_to_f16(v);
            put(&h, 2);
        }
    if (type != kQ8_0 && type != kQ8_F32 && type != kQ4_0) return out;
    for (size_t at = 0; at < x.size(); at += 32) {
        float most = 0;
        for (size_t i = 0; i < 32; ++i) most = std::max(most, fabsf(x[at + i]));
        const float d = most > 0 ? most / (type == kQ4_0 ? 7.0f : 127.0f) : 1.0f;
        const uint16_t half = f32_to_f16(d);
        if (type == kQ8_F32)
            put(&d, 4);
        else
            put(&half, 2);
        int code[32];
        for (size_t i = 0; i < 32; ++i) code[i] = static_cast<int>(lrintf(x[at + i] / d));
        for (int i = 0; i < (type == kQ4_0 ? 16 : 32); ++i) {
            const uint8_t byte = type == kQ4_0 ? static_cast<uint8_t>((code[i] + 8) | (code[i + 16] + 8) << 4)
                                               : static_cast<uint8_t>(code[i]);
            put(&byte, 1);
        }
    }
    return out;
}

struct WprojOptions {
    uint32_t rank = 32, basis_type = keel::kernels::kF16, record_type = keel::kernels::kQ8_0;
    uint32_t slots = 0xfe;  // bits of WprojSlot
    bool bias = false;
    uint32_t seed = 1;
};

// Random factors of every slot in `slots`, of variance 1 / inner dimension; a basis per group.
inline keel::tools::WprojImage random_wproj(const InspectedFile& file, const WprojOptions& o) {
    using namespace keel;
    const WprojShape shape = wproj_shape_of(*file.model);
    std::mt19937 random(o.seed);
    std::normal_distribution<float> normal;
    const auto matrix = [&](uint32_t rows, uint32_t columns) {
        std::vector<float> x(uint64_t{rows} * columns);
        for (float& v : x) v = normal(random) / sqrtf(static_cast<float>(columns));
        return x;
    };
    tools::WprojImage image;
    image.fingerprint = file.info.fingerprint;
    image.solver = "whitened";
    image.layers.resize(shape.layers);
    for (tools::WprojImageLayer& layer : image.layers)
        for (uint32_t slot = 1; slot < kWprojSlots; ++slot) {
            if (!(o.slots >> slot & 1) || shape.rows[slot] == 0) continue;
            const WprojGroup group = wproj_group(static_cast<WprojSlot>(slot));
            tools::WprojImageBasis& basis = layer.basis[group];
            if (basis.rank == 0) {
                basis.rank = o.rank;
                basis.columns = shape.columns[group];
                basis.type = o.basis_type;
                basis.matrix = encode_rows(o.basis_type, matrix(o.rank, basis.columns));
            }
            tools::WprojImageRecord& r = layer.record[slot];
            r.rows = shape.rows[slot];
            r.rank = o.rank;
            r.type = o.record_type;
            r.matrix = encode_rows(o.record_type, matrix(r.rows, o.rank));
            if (o.bias) r.bias = matrix(r.rows, 1);
            r.compression = tools::wproj_compression(r.rows, r.rank, basis.columns);
            r.energy = 0.5f;
            r.error = 0.01f * static_cast<float>(slot);
        }
    return image;
}

// Bytes of a cache and a reader over them.
struct WprojBytes {
    explicit WprojBytes(std::vector<uint8_t> data) : bytes(std::move(data)) {
        check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
    }
    std::vector<uint8_t> bytes;
    keel_reader reader = sized<keel_reader>();
};

}  // namespace keel_test
