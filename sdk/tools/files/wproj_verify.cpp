#include "sdk/tools/files/wproj_verify.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "kernels/cpu/kernel_set.h"
#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"
#include "sdk/format/gguf.h"
#include "sdk/model/wproj_slots.h"

namespace keel::tools {
namespace {

std::vector<uint8_t> load(const keel_reader& reader, uint64_t offset, uint64_t bytes) {
    std::vector<uint8_t> out(bytes);
    check(read_at(reader, offset, out.data(), bytes), "cannot read the file");
    return out;
}
std::vector<uint8_t> plain_bytes(const keel_reader& reader, const GgufTensor& t) {
    std::vector<uint8_t> out(t.bytes);
    check(read_tensor(reader, t, 0, out.data(), t.bytes), "cannot read the file");
    return out;
}
std::vector<float> load_floats(const keel_reader& reader, uint64_t offset, uint32_t count) {
    std::vector<float> out(count);
    check(read_at(reader, offset, out.data(), uint64_t{count} * 4), "cannot read the file");
    return out;
}

// Calls visit(row, floats) for every row of a matrix.
template <class Visit>
void for_rows(const uint8_t* matrix, uint32_t type, uint64_t rows, uint32_t row, Visit visit) {
    const auto decode = kernels::kScalarSet.dequantize_row[type];
    const uint64_t row_bytes = kernels::weight_row_bytes(type, row);
    std::vector<float> floats(row);
    for (uint64_t i = 0; i < rows; ++i) {
        decode(matrix + i * row_bytes, floats.data(), row);
        visit(i, floats);
    }
}

double square_norm(const std::vector<float>& x) {
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v) * v;
    return sum;
}
bool all_finite(const std::vector<float>& x) {
    return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
}

WprojPartCheck check_basis(const WprojTable& t, uint32_t layer, uint32_t group) {
    const keel_reader& reader = *t.reader.get();
    const WprojBasis& b = t.layers[layer].basis[group];
    WprojPartCheck c;
    c.layer = layer;
    c.part = std::string(wproj_group_name(group)) + " Pt";
    const std::vector<uint8_t> matrix = load(reader, b.offset, b.bytes);
    if (t.file.version == 2) c.checksum = hash64(matrix.data(), matrix.size()) == b.checksum;
    std::vector<float> mu, mean;
    if (b.mu) mu = load_floats(reader, b.mu, b.rank);
    if (b.mean) mean = load_floats(reader, b.mean, b.columns);
    c.finite = all_finite(mu) && all_finite(mean);
    for_rows(matrix.data(), b.type, b.rank, b.columns, [&](uint64_t i, const std::vector<float>& row) {
        const double norm = sqrt(square_norm(row));
        c.finite = c.finite && std::isfinite(norm);
        c.unit_error = std::max(c.unit_error, fabs(norm - 1));
        if (mu.empty() || mean.empty()) return;
        double dot = 0;
        for (uint32_t j = 0; j < b.columns; ++j) dot += static_cast<double>(row[j]) * mean[j];
        c.mu_error = std::max(c.mu_error, fabs(dot - mu[i]) / (1 + fabs(dot)));
    });
    return c;
}

WprojPartCheck check_record(const WprojTable& t, uint32_t layer, uint32_t slot, const ModelFile* model) {
    const keel_reader& reader = *t.reader.get();
    const WprojRecord& r = t.layers[layer].record[slot];
    WprojPartCheck c;
    c.layer = layer;
    c.part = wproj_slot_name(slot);
    c.stored_energy = r.energy;
    const std::vector<uint8_t> matrix = load(reader, r.offset, r.bytes);
    std::vector<float> bias;
    if (r.bias) bias = load_floats(reader, r.bias, r.rows);
    if (t.file.version == 2)
        c.checksum =
            wproj_checksum(matrix.data(), matrix.size(), bias.data(), static_cast<uint32_t>(bias.size())) == r.checksum;
    c.finite = all_finite(bias);
    double kept = 0, all = 0;
    for_rows(matrix.data(), r.type, r.rows, r.rank,
             [&](uint64_t, const std::vector<float>& row) { kept += square_norm(row); });
    c.finite = c.finite && std::isfinite(kept);
    const GgufTensor* tensor = model ? wproj_tensor(*model->model, layer, slot) : nullptr;
    if (!tensor) return c;
    const std::vector<uint8_t> dense = plain_bytes(*model->gguf(), *tensor);
    for_rows(dense.data(), tensor->type, tensor->dims[1], static_cast<uint32_t>(tensor->dims[0]),
             [&](uint64_t, const std::vector<float>& row) { all += square_norm(row); });
    if (all > 0) c.energy = std::min(1.0, kept / all);
    return c;
}

}  // namespace

std::vector<WprojPartCheck> verify_wproj(const WprojTable& t, const ModelFile* model) {
    std::vector<WprojPartCheck> out;
    for (uint32_t l = 0; l < t.file.layers; ++l) {
        for (uint32_t g = 0; g < kWprojGroups; ++g)
            if (t.layers[l].basis[g].rank) out.push_back(check_basis(t, l, g));
        for (uint32_t s = 0; s < kWprojSlots; ++s)
            if (t.layers[l].record[s].rank) out.push_back(check_record(t, l, s, model));
    }
    return out;
}

}  // namespace keel::tools
