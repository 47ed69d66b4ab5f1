// Numbers within bounds, to the graph of a grammar: as the decimals that have them.
#include "sdk/text/grammar_builder.h"

namespace keel {
namespace {

constexpr uint32_t kDigits = 16;  // most of a number without a bound on that side

uint64_t power_of_ten(uint32_t n) {
    uint64_t out = 1;
    while (n--) out *= 10;
    return out;
}

class NumberWriter {
  public:
    NumberWriter(GrammarBuilder* builder, const NumberBounds& bounds) : builder_(*builder), bounds_(bounds) {}

    Fragment write() {
        const uint64_t most = power_of_ten(kDigits) - 1;
        const bool has_low = bounds_.has_low, has_high = bounds_.has_high;
        const int64_t low = bounds_.low, high = bounds_.high;
        // From 0 up.
        if (!has_high || high >= 0) {
            const bool from_low = has_low && low >= 0;
            magnitudes(from_low ? static_cast<uint64_t>(low) : 0, from_low && bounds_.low_exclusive,
                       has_high ? static_cast<uint64_t>(high) : most, has_high && bounds_.high_exclusive, false);
        }
        // Below 0: the magnitudes of what is negated; 0 is none of them.
        if (!has_low || low < 0) {
            const bool from_high = has_high && high < 0;
            magnitudes(from_high ? static_cast<uint64_t>(-high) : 0, !from_high || bounds_.high_exclusive,
                       has_low ? static_cast<uint64_t>(-low) : most, has_low && bounds_.low_exclusive, true);
        }
        return any_ ? out_ : builder_.any_of(nullptr, 0, false);
    }
    bool any() const { return any_; }

  private:
    void also(Fragment one, bool negative) {
        if (negative) one = builder_.sequence(builder_.bytes("-", 1), one);
        out_ = any_ ? builder_.either(out_, one) : one;
        any_ = true;
    }
    Fragment digit(uint32_t low, uint32_t high) {
        CodeRange range = {'0' + low, '0' + high};
        return builder_.any_of(&range, 1, false);
    }
    Fragment digits(uint32_t n) {
        Fragment out = builder_.nothing();
        for (uint32_t i = 0; i < n; ++i) out = builder_.sequence(out, digit(0, 9));
        return out;
    }

    // `low` to `high`, numbers of n digits, leading zeros included.
    Fragment between(uint64_t low, uint64_t high, uint32_t n) {
        if (n == 0 || !builder_.ok()) return builder_.nothing();
        const uint64_t unit = power_of_ten(n - 1);
        const uint32_t first = static_cast<uint32_t>(low / unit), last = static_cast<uint32_t>(high / unit);
        const uint64_t low_rest = low % unit, high_rest = high % unit;
        if (low_rest == 0 && high_rest == unit - 1) return builder_.sequence(digit(first, last), digits(n - 1));
        if (first == last) return builder_.sequence(digit(first, first), between(low_rest, high_rest, n - 1));
        Fragment out = builder_.either(builder_.sequence(digit(first, first), between(low_rest, unit - 1, n - 1)),
                                       builder_.sequence(digit(last, last), between(0, high_rest, n - 1)));
        if (last - first > 1) out = builder_.either(out, builder_.sequence(digit(first + 1, last - 1), digits(n - 1)));
        return out;
    }

    // Whole numbers, without leading zeros.
    Fragment whole(uint64_t low, uint64_t high) {
        Fragment out = {};
        bool any = false;
        for (uint32_t n = 1; n <= kDigits; ++n) {
            const uint64_t least = n == 1 ? 0 : power_of_ten(n - 1), most = power_of_ten(n) - 1;
            if (low > most || high < least) continue;
            const Fragment one = between(low > least ? low : least, high < most ? high : most, n);
            out = any ? builder_.either(out, one) : one;
            any = true;
        }
        return out;
    }

    enum Fraction { kAny, kZero, kNotZero };
    Fragment fraction(Fraction kind) {
        // Few enough digits that the number, read as a double, is on the same side of a bound.
        uint32_t most = kDigits - 1;
        const int64_t bounds[] = {bounds_.low, bounds_.high};
        for (const int64_t bound : bounds)
            for (uint64_t rest = static_cast<uint64_t>(bound < 0 ? -bound : bound), n = kDigits - 1; rest; rest /= 10)
                most = static_cast<uint32_t>(--n) < most ? static_cast<uint32_t>(n) : most;
        const Fragment point = builder_.bytes(".", 1);
        if (kind == kZero) return builder_.sequence(point, builder_.repeat(digit(0, 0), 1, most));
        if (kind == kAny) return builder_.sequence(point, builder_.repeat(digit(0, 9), 1, most));
        const Fragment zeros = builder_.repeat(digit(0, 0), 0, most / 2),
                       rest = builder_.repeat(digit(0, 9), 0, most - most / 2 - 1);
        return builder_.sequence(builder_.sequence(point, zeros), builder_.sequence(digit(1, 9), rest));
    }
    Fragment maybe(Fragment one) { return builder_.repeat(one, 0, 1); }

    void magnitudes(uint64_t low, bool low_exclusive, uint64_t high, bool high_exclusive, bool negative) {
        if (low > high || (low == high && (low_exclusive || high_exclusive))) return;
        if (bounds_.integer) {
            low += low_exclusive;
            high -= high_exclusive;
            if (low <= high) also(whole(low, high), negative);
            return;
        }
        // What begins with each whole number below `high` may have any fraction; `high` itself only zeros.
        const uint64_t first = low + low_exclusive;
        if (first < high) also(builder_.sequence(whole(first, high - 1), maybe(fraction(kAny))), negative);
        if (low_exclusive) also(builder_.sequence(whole(low, low), fraction(kNotZero)), negative);
        if (!high_exclusive) also(builder_.sequence(whole(high, high), maybe(fraction(kZero))), negative);
    }

    GrammarBuilder& builder_;
    const NumberBounds& bounds_;
    Fragment out_ = {};
    bool any_ = false;
};

}  // namespace

Fragment numbers_within(GrammarBuilder* builder, const NumberBounds& bounds, size_t place) {
    NumberWriter writer(builder, bounds);
    const Fragment out = writer.write();
    if (!writer.any()) builder->fail(KEEL_E_UNSUPPORTED, place, "bounds with no number between them");
    return out;
}

}  // namespace keel
