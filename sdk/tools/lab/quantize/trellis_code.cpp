#include "sdk/tools/lab/quantize/trellis_code.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "sdk/tools/lab/codecs/row_bits.h"
#include "sdk/tools/lab/codecs/row_rotation.h"
#include "sdk/tools/lab/quantize/trellis_tables.h"

namespace keel::tools {
namespace {

constexpr float kScaleUnit = 1.0f / 32;  // keeps d of weights near 1e-3 away from f16's subnormal numbers
constexpr uint64_t kSignSeed = 0x6b65656c;

int state_value(const TrellisCode& code, uint32_t state) {
    return code.tables[0][state & 15] + code.tables[1][state >> 4 & 15] + code.tables[2][state >> 8 & 15];
}

// The values of n symbols.
void values_of(const TrellisCode& code, const uint8_t* symbol, size_t n, float* value) {
    const uint32_t mask = (1u << code.state_bits) - 1;
    uint32_t state = 0;
    for (size_t i = n - code.state_bits / 2; i < n; ++i) state = (state << code.bits | symbol[i]) & mask;
    for (size_t i = 0; i < n; ++i) {
        state = (state << code.bits | symbol[i]) & mask;
        value[i] = static_cast<float>(state_value(code, state));
    }
}

// The scale of the values that leaves the least of x, after what errors make of later elements: those are linear in x
// and in the values.
double best_scale(std::span<const float> x, const float* value, const TrellisFeedback* feedback) {
    double xv = 0, vv = 0;
    std::array<double, kTrellisBlock> of_x{}, of_value{};
    for (size_t i = 0; i < x.size(); ++i) {
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

uint64_t block_bytes(const TrellisCode& code, uint64_t n) {
    return 2 + n * code.bits / 8;
}

}  // namespace

const TrellisCode& trellis_code(uint32_t bits, uint32_t state_bits) {
    for (const TrellisCode& code : kTrellisCodes)
        if (code.bits == bits && code.state_bits == state_bits) return code;
    throw std::invalid_argument("no trellis of " + std::to_string(bits) + " bits with " + std::to_string(state_bits) +
                                " state bits");
}

uint64_t trellis_row_bytes(const TrellisCode& code, uint64_t columns) {
    if (columns == 0 || columns % 16) throw std::invalid_argument("rows are not of 16 elements each");
    const uint64_t last = columns % kTrellisBlock;
    return columns / kTrellisBlock * block_bytes(code, kTrellisBlock) + (last ? block_bytes(code, last) : 0);
}

class TrellisBlockSearch {
  public:
    virtual ~TrellisBlockSearch() = default;
    virtual void code(const float* x, uint32_t n, const TrellisFeedback* feedback, uint8_t* symbol) = 0;
};
namespace {

template <int kStateBits, int kBits>
class SearchOf final : public TrellisBlockSearch {
  public:
    explicit SearchOf(std::vector<float> state_values)
        : value_(std::move(state_values)), plain_(value_.data()), passing_on_(value_.data()) {}
    void code(const float* x, uint32_t n, const TrellisFeedback* feedback, uint8_t* symbol) override {
        if (feedback)
            passing_on_.code(x, n, *feedback, symbol);
        else
            plain_.code(x, n, {}, symbol);
    }

  private:
    std::vector<float> value_;
    TrellisSearch<kStateBits, kBits, false> plain_;
    TrellisSearch<kStateBits, kBits, true> passing_on_;
};

template <int kStateBits>
std::unique_ptr<TrellisBlockSearch> make_search(const TrellisCode& code) {
    std::vector<float> value;
    for (uint32_t s = 0; s < 1u << code.state_bits; ++s) value.push_back(static_cast<float>(state_value(code, s)));
    switch (code.bits) {
        case 2:
            return std::make_unique<SearchOf<kStateBits, 2>>(std::move(value));
        case 3:
            return std::make_unique<SearchOf<kStateBits, 3>>(std::move(value));
        default:
            return std::make_unique<SearchOf<kStateBits, 4>>(std::move(value));
    }
}

}  // namespace

TrellisCoder::TrellisCoder(const TrellisCode& code)
    : code_(code), search_(code.state_bits == 8 ? make_search<8>(code) : make_search<12>(code)) {}
TrellisCoder::~TrellisCoder() = default;

std::vector<uint8_t> TrellisCoder::code(std::span<const float> x, const TrellisFeedback* feedback, float* value) {
    const size_t n = x.size();
    double square = 0;
    for (const float v : x) square += double{v} * v;
    const auto stored = [](double scale) { return through_f16(static_cast<float>(scale) / kScaleUnit) * kScaleUnit; };
    float scale = stored(std::sqrt(square / static_cast<double>(n)) / code_.unit);
    uint8_t symbol[kTrellisBlock] = {};
    if (scale > 0) {
        float units[kTrellisBlock] = {};
        for (size_t i = 0; i < n; ++i) units[i] = x[i] / scale;
        search_->code(units, static_cast<uint32_t>(n), feedback, symbol);
    }
    values_of(code_, symbol, n, value);
    if (scale > 0) {
        const double best = best_scale(x, value, feedback);
        if (best > 0) scale = stored(best);
    }
    for (size_t i = 0; i < n; ++i) value[i] *= scale;
    std::vector<uint8_t> out;
    BitWriter bits(out);
    bits.put_f16(scale / kScaleUnit);
    for (size_t i = 0; i < n; ++i) bits.put(symbol[i], code_.bits);
    return out;
}

void rotate_weights(std::span<float> x, uint64_t columns) {
    for (size_t at = 0; at < x.size(); at += columns) signed_hadamard(x.subspan(at, columns), kSignSeed);
}
void unrotate_weights(std::span<float> x, uint64_t columns) {
    for (size_t at = 0; at < x.size(); at += columns) signed_hadamard_inverse(x.subspan(at, columns), kSignSeed);
}

std::vector<uint8_t> encode_trellis(const TrellisCode& code, std::span<const float> values, uint64_t columns) {
    const uint64_t row_bytes = trellis_row_bytes(code, columns);
    if (values.size() % columns) throw std::invalid_argument("rows are no whole number of blocks");
    for (const float v : values)
        if (!std::isfinite(v)) throw std::invalid_argument("a value that is not finite");
    std::vector<float> x(values.begin(), values.end());
    rotate_weights(x, columns);
    std::vector<uint8_t> out;
    out.reserve(values.size() / columns * row_bytes);
    TrellisCoder coder(code);
    float unused[kTrellisBlock];
    for (uint64_t row = 0; row < values.size(); row += columns) {
        for (uint64_t at = 0; at < columns; at += kTrellisBlock) {
            const uint64_t n = std::min<uint64_t>(kTrellisBlock, columns - at);
            const std::vector<uint8_t> block = coder.code(std::span(x).subspan(row + at, n), nullptr, unused);
            out.insert(out.end(), block.begin(), block.end());
        }
    }
    return out;
}

std::vector<float> decode_trellis(const TrellisCode& code, std::span<const uint8_t> bytes, uint64_t columns) {
    const uint64_t row_bytes = trellis_row_bytes(code, columns);
    if (bytes.size() % row_bytes) throw std::invalid_argument("no whole number of rows");
    std::vector<float> out(bytes.size() / row_bytes * columns);
    const uint8_t* from = bytes.data();
    for (uint64_t row = 0; row < out.size(); row += columns) {
        for (uint64_t at = 0; at < columns; at += kTrellisBlock) {
            const uint64_t n = std::min<uint64_t>(kTrellisBlock, columns - at);
            BitReader bits(std::span(from, block_bytes(code, n)));
            const float scale = bits.take_f16() * kScaleUnit;
            uint8_t symbol[kTrellisBlock];
            for (uint64_t i = 0; i < n; ++i) symbol[i] = static_cast<uint8_t>(bits.take_code(code.bits));
            float* const value = out.data() + row + at;
            values_of(code, symbol, n, value);
            for (uint64_t i = 0; i < n; ++i) value[i] *= scale;
            from += block_bytes(code, n);
        }
    }
    return out;
}

std::vector<float> trellis_values(const TrellisCode& code, std::span<const float> values, uint64_t columns) {
    std::vector<float> out = decode_trellis(code, encode_trellis(code, values, columns), columns);
    unrotate_weights(out, columns);
    return out;
}

}  // namespace keel::tools
