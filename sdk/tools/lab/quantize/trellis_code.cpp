#include "sdk/tools/lab/quantize/trellis_code.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/formats/rotation.h"
#include "kernels/formats/weight_trellis_tables.h"
#include "sdk/tools/lab/codecs/row_bits.h"

namespace keel::tools {
namespace {

using kernels::kTrellisBlock, kernels::TrellisCode;

TrellisCode code_of(uint32_t type) {
    if (!kernels::is_trellis(type)) throw std::invalid_argument("not a trellis type: " + std::to_string(type));
    return kernels::trellis_code(type);
}

constexpr float kMost = 1e36f;  // sums of 256 fit

// The integers of 256 symbols in the order of coding.
void values_of(const TrellisCode& code, const uint8_t* symbol, float* value) {
    const uint32_t mask = (1u << code.state_bits()) - 1;
    uint32_t state = 0;
    for (size_t i = kTrellisBlock - code.state_bits() / 2; i < kTrellisBlock; ++i)
        state = (state << code.bits | symbol[i]) & mask;
    for (size_t i = 0; i < kTrellisBlock; ++i) {
        state = (state << code.bits | symbol[i]) & mask;
        value[i] = static_cast<float>(code.value(state));
    }
}

// The scale of the values that leaves the least of x, after what errors make of later elements: those are linear in x
// and in the values.
double best_scale(const float* x, const float* value, const TrellisFeedback* feedback) {
    double xv = 0, vv = 0;
    std::array<double, kTrellisBlock> of_x{}, of_value{};
    for (size_t i = 0; i < kTrellisBlock; ++i) {
        of_x[i] = x[i], of_value[i] = value[i];
        for (size_t j = 0; feedback && j < i; ++j) {
            const double ratio = feedback->ratio[i * feedback->stride + j];
            of_x[i] -= ratio * of_x[j], of_value[i] -= ratio * of_value[j];
        }
        const double weight = feedback ? feedback->weight[i] : 1;
        xv += weight * of_x[i] * of_value[i], vv += weight * of_value[i] * of_value[i];
    }
    return xv / vv;
}

// d and symbols, in the order of coding, as weight_trellis.h has them.
void write_block(const TrellisCode& code, float scale, const uint8_t* symbol, uint8_t* block) {
    std::vector<uint8_t> d;
    BitWriter(d).put_f16(scale);
    std::copy(d.begin(), d.end(), block);
    std::memset(block + 2, 0, kTrellisBlock * code.bits / 8);
    for (uint32_t u = 0; u < kTrellisBlock; ++u)
        for (uint32_t bit = 0; bit < code.bits; ++bit) {
            const uint32_t lane = u / kernels::kTrellisLane, at = u % kernels::kTrellisLane * code.bits + bit;
            const uint32_t value = symbol[kTrellisBlock - 1 - u] >> bit & 1u;
            block[2 + at / 8 * 4 + lane] |= static_cast<uint8_t>(value << at % 8);
        }
}

void check_rows(std::span<const float> x, uint64_t columns) {
    if (columns == 0 || columns % kTrellisBlock || x.size() % columns)
        throw std::invalid_argument("rows are no whole number of blocks");
}

}  // namespace

class TrellisBlockSearch {
  public:
    virtual ~TrellisBlockSearch() = default;
    virtual void code(const float* x, const TrellisFeedback* feedback, uint8_t* symbol) = 0;
};
namespace {

template <uint32_t type>
class SearchOf final : public TrellisBlockSearch {
  public:
    SearchOf() : value_(state_values()), plain_(value_.data()), passing_on_(value_.data()) {}
    void code(const float* x, const TrellisFeedback* feedback, uint8_t* symbol) override {
        if (feedback)
            passing_on_.code(x, kTrellisBlock, *feedback, symbol);
        else
            plain_.code(x, kTrellisBlock, {}, symbol);
    }

  private:
    static constexpr TrellisCode kCode = kernels::trellis_code(type);
    static std::vector<float> state_values() {
        std::vector<float> value;
        for (uint32_t s = 0; s < 1u << kCode.state_bits(); ++s) value.push_back(static_cast<float>(kCode.value(s)));
        return value;
    }
    std::vector<float> value_;
    TrellisSearch<kCode.state_bits(), kCode.bits, false> plain_;
    TrellisSearch<kCode.state_bits(), kCode.bits, true> passing_on_;
};

std::unique_ptr<TrellisBlockSearch> search_of(uint32_t type) {
#define KEEL_SEARCH(name, ...) \
    if (type == kernels::k##name) return std::make_unique<SearchOf<kernels::k##name>>();
    KEEL_TRELLIS_TYPES(KEEL_SEARCH)
#undef KEEL_SEARCH
    return nullptr;
}

}  // namespace

TrellisCoder::TrellisCoder(uint32_t type) : code_(code_of(type)), search_(search_of(type)) {}
TrellisCoder::~TrellisCoder() = default;

void TrellisCoder::code(const float* x, const TrellisFeedback* feedback, uint8_t* block, float* value) {
    double square = 0;
    for (size_t i = 0; i < kTrellisBlock; ++i) square += double{x[i]} * x[i];
    const auto stored = [](double scale) { return through_f16(static_cast<float>(scale)); };
    const double wanted = std::sqrt(square / kTrellisBlock) / double{code_.unit};
    float scale = stored(wanted);
    uint8_t symbol[kTrellisBlock] = {};
    if (scale > 0) {
        float units[kTrellisBlock];
        const float shape = std::max(scale, static_cast<float>(wanted));  // of a block beyond the largest scale, too
        for (size_t i = 0; i < kTrellisBlock; ++i) units[i] = x[i] / shape;
        search_->code(units, feedback, symbol);
    }
    values_of(code_, symbol, value);
    if (scale > 0) {
        const double best = best_scale(x, value, feedback);
        if (best > 0) scale = stored(best);
    }
    for (size_t i = 0; i < kTrellisBlock; ++i) value[i] *= scale;
    write_block(code_, scale, symbol, block);
}

void to_coding_order(std::span<float> x, uint64_t columns) {
    check_rows(x, columns);
    for (size_t at = 0; at < x.size(); at += kTrellisBlock) {
        float* const block = x.data() + at;
        float rotated[kTrellisBlock];
        std::transform(block, block + kTrellisBlock, rotated, [](float v) { return std::clamp(v, -kMost, kMost); });
        kernels::rotate_row(rotated, kTrellisBlock);
        for (uint32_t u = 0; u < kTrellisBlock; ++u)
            block[kTrellisBlock - 1 - u] = rotated[kernels::trellis_element(u)];
    }
}

std::vector<uint8_t> encode_trellis(uint32_t type, std::span<const float> values, uint64_t columns) {
    check_rows(values, columns);
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
        throw std::invalid_argument("a value that is not finite");
    TrellisCoder coder(type);
    const size_t block_bytes = kernels::kWeightTypes[type].block_bytes;
    std::vector<float> x(values.begin(), values.end());
    to_coding_order(x, columns);
    std::vector<uint8_t> out(x.size() / kTrellisBlock * block_bytes);
    float unused[kTrellisBlock];
    for (size_t b = 0; b < x.size() / kTrellisBlock; ++b)
        coder.code(x.data() + b * kTrellisBlock, nullptr, out.data() + b * block_bytes, unused);
    return out;
}

}  // namespace keel::tools
