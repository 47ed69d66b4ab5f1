#include "sdk/tools/lab/codecs/kakeyaturbo_options.h"

#include <charconv>
#include <utility>

#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_tables.h"

namespace keel::tools {
namespace {

// A number of (0, limit] without an exponent.
std::optional<double> spec_fraction(std::string_view text, double limit) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc() || end != text.data() + text.size() || !(value > 0 && value <= limit)) return std::nullopt;
    return value;
}

template <class T, size_t n>
std::optional<T> one_of(std::string_view text, const std::pair<std::string_view, T> (&choices)[n]) {
    for (const auto& [name, value] : choices)
        if (text == name) return value;
    return std::nullopt;
}

template <class T, class U>
bool set(T& field, const std::optional<U>& value) {
    if (value) field = *value;
    return value.has_value();
}

bool set_option(KakeyaturboOptions& o, std::string_view key, std::string_view value) {
    using Pca = KakeyaturboOptions::Pca;
    using Codebook = KakeyaturboOptions::Codebook;
    static constexpr std::pair<std::string_view, Pca> kPca[] = {{"exact", Pca::exact}, {"rsvd", Pca::randomized}};
    static constexpr std::pair<std::string_view, Codebook> kCodebook[] = {
        {"gaussian", Codebook::gaussian}, {"own", Codebook::own}, {"ds", Codebook::ds}, {"qwen3", Codebook::qwen3}};
    static constexpr std::pair<std::string_view, bool> kSwitch[] = {{"0", false}, {"1", true}};
    static constexpr std::pair<std::string_view, bool> kMetric[] = {{"mse", false}, {"ip", true}};
    static constexpr std::pair<std::string_view, bool> kRope[] = {{"post", false}, {"pre", true}};
    static constexpr std::pair<std::string_view, bool> kBytes[] = {{"minimum", false}, {"published", true}};
    if (key == "pca") return set(o.pca, one_of(value, kPca));
    if (key == "vr") return set(o.variance_ratio, spec_fraction(value, 1));
    if (key == "rank") return set(o.rank, spec_number(value, 0, 1024));
    if (key == "k") return set(o.centres, spec_number(value, 1, 1024));
    if (key == "bits") return set(o.bits, spec_number(value, 1, 4));
    if (key == "outlier" && value == "0") return set(o.outlier, std::optional(0.0));
    if (key == "outlier") return set(o.outlier, spec_fraction(value, 100));
    if (key == "bs") return set(o.block, spec_number(value, 1, 1 << 16));
    if (key == "share") return set(o.share_basis, one_of(value, kSwitch));
    if (key == "pool") return set(o.pooled, one_of(value, kSwitch));
    if (key == "qp") return set(o.whitened, one_of(value, kSwitch));
    if (key == "skip") return set(o.plain_layers, LayerSet::parse(value));
    if (key == "metric") return set(o.inner_product, one_of(value, kMetric));
    if (key == "codebook") return set(o.codebook, one_of(value, kCodebook));
    if (key == "rope") return set(o.before_rope, one_of(value, kRope));
    if (key == "bytes") return set(o.published_bytes, one_of(value, kBytes));
    return false;
}

}  // namespace

std::optional<KakeyaturboOptions> parse_kakeyaturbo_options(std::string_view text) {
    KakeyaturboOptions options;
    for (bool more = true; more;) {
        const size_t comma = text.find(','), equals = text.find('=');
        more = comma != std::string_view::npos;
        const std::string_view item = text.substr(0, comma);
        if (equals >= item.size() || !set_option(options, item.substr(0, equals), item.substr(equals + 1)))
            return std::nullopt;
        if (more) text.remove_prefix(comma + 1);
    }
    const bool own_table = options.codebook == KakeyaturboOptions::Codebook::gaussian ||
                           options.codebook == KakeyaturboOptions::Codebook::own;
    if (!own_table && published_codebook(options.codebook, options.bits, false).empty() &&
        published_codebook(options.codebook, options.bits, true).empty())
        return std::nullopt;
    return options;
}

}  // namespace keel::tools
