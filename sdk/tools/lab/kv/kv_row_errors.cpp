#include "sdk/tools/lab/kv/kv_row_errors.h"

#include <algorithm>

#include "sdk/tools/common/console.h"

namespace keel::tools {

double squared_norm(const float* row, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += static_cast<double>(row[i]) * row[i];
    return sum;
}
double squared_distance(const float* a, const float* b, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    return sum;
}

KvRowErrors::KvRowErrors(const KvShape& shape) : shape_(shape) {
    for (int side = 0; side < 2; ++side) {
        rows_[side].resize(shape.rows());
        layers_[side].resize(shape.layers);
    }
}

void KvRowErrors::set(bool value, uint32_t layer, uint32_t kv_head, uint32_t position, double squared_error,
                      double energy) {
    rows_[value][shape_.row(layer, kv_head, position)] = {squared_error, energy};
}

void KvRowErrors::add_document(uint32_t tokens) {
    for (int side = 0; side < 2; ++side)
        for (uint32_t layer = 0; layer < shape_.layers; ++layer)
            for (uint32_t head = 0; head < shape_.kv_heads; ++head)
                for (uint32_t p = 0; p < tokens; ++p) {
                    layers_[side][layer].squared_error += rows_[side][shape_.row(layer, head, p)].squared_error;
                    layers_[side][layer].energy += rows_[side][shape_.row(layer, head, p)].energy;
                }
}

std::vector<double> KvRowErrors::relative_mse(bool value) const {
    std::vector<double> mse;
    for (const Sum& sum : layers_[value]) mse.push_back(sum.energy > 0 ? sum.squared_error / sum.energy : 0);
    return mse;
}

KvStoredErrors::KvStoredErrors(const KvShape& shape)
    : shape_(shape),
      errors_(shape),
      k_(shape.rows() * shape.head_dim),
      v_(shape.rows() * shape.head_dim),
      k_energy_(shape.rows()) {}

void KvStoredErrors::begin(keel_session session, uint32_t tokens, uint32_t) {
    session_ = session;
    tokens_ = tokens;
}

void KvStoredErrors::heads(const keel_lab_heads& h) {
    const size_t row = shape_.row(h.layer, h.kv_head, h.position);
    if (h.stage == KEEL_LAB_BEFORE_ROPE) {
        // A rotation lengthens by its attention factor alone.
        const double factor = h.rope_dims ? static_cast<double>(h.cos_sin[0]) * h.cos_sin[0] +
                                                static_cast<double>(h.cos_sin[1]) * h.cos_sin[1]
                                          : 1;
        k_energy_[row] = squared_norm(h.k, shape_.head_dim) * factor;
        return;
    }
    std::copy_n(h.k, shape_.head_dim, &k_[row * shape_.head_dim]);
    std::copy_n(h.v, shape_.head_dim, &v_[row * shape_.head_dim]);
}

void KvStoredErrors::end() {
    std::vector<float> stored(shape_.head_dim);
    for (uint32_t layer = 0; layer < shape_.layers; ++layer)
        for (uint32_t head = 0; head < shape_.kv_heads; ++head)
            for (uint32_t p = 0; p < tokens_; ++p) {
                const size_t row = shape_.row(layer, head, p);
                for (const bool value : {false, true}) {
                    const float* exact = (value ? v_ : k_).data() + row * shape_.head_dim;
                    check(keel_lab_decode_kv_row(session_, layer, head, p, value, stored.data()),
                          "cannot read the KV arena");
                    errors_.set(value, layer, head, p, squared_distance(stored.data(), exact, shape_.head_dim),
                                value ? squared_norm(exact, shape_.head_dim) : k_energy_[row]);
                }
            }
    errors_.add_document(tokens_);
}

}  // namespace keel::tools
