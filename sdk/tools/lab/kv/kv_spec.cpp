#include "sdk/tools/lab/kv/kv_spec.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "sdk/kv/kv_f16_window.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/files/kv_profile_file.h"

namespace keel::tools {
namespace {

// "tcq" of "tcq-3", "tcq10" of "tcq10-3", "kakeya-d4" of "kakeya-d4:10", "turbo" of "turbo3:32": forms of one codec in
// different sizes.
std::string family_of(std::string_view side) {
    if (find_kv_format(std::string(side)))
        return std::string(side.ends_with("-rot") ? side : side.substr(0, side.find('-')));
    for (const std::string_view prefix : {"turbo", "vllm"})
        if (side.starts_with(prefix)) return std::string(prefix);
    return std::string(side.substr(0, side.find(side.starts_with("tcq") ? '-' : ':')));
}

void add_family(std::string& families, const std::string& family) {
    if (families.empty())
        families = family;
    else if (families != family && !families.ends_with("+" + family) && !families.starts_with(family + "+"))
        families += "+" + family;
}

// Takes "+sN" and "+rM" from the end of native formats.
struct Precise {
    std::optional<uint32_t> sinks, recent;
};
Precise take_precise(std::string_view* formats) {
    Precise precise;
    for (;;) {
        const size_t plus = formats->rfind('+');
        if (plus == std::string_view::npos || formats->size() < plus + 3) return precise;
        const char what = (*formats)[plus + 1];
        uint32_t count = 0;
        const char* end = formats->data() + formats->size();
        const auto [stop, error] = std::from_chars(formats->data() + plus + 2, end, count);
        if ((what != 's' && what != 'r') || error != std::errc() || stop != end) return precise;
        (what == 's' ? precise.sinks : precise.recent) = count;
        formats->remove_suffix(formats->size() - plus);
    }
}

bool plain_float(keel_kv_format format) {
    return format == KEEL_KV_F16 || format == KEEL_KV_F32;
}

}  // namespace

KvSpec exact_kv() {
    KvSpec spec;
    spec.k_format = spec.v_format = KEEL_KV_F32;
    return spec;
}

KvSpec parse_kv_spec(std::string_view text, const KvSpecDefaults& defaults) {
    KvSpec spec;
    spec.name = text;
    const auto bad = [&](const std::string& why) {
        return ToolError(kExitUsage, "'" + std::string(text) + "': " + why);
    };
    std::string_view formats = text;
    bool names_profile = false;
    if (const size_t at = text.rfind('@');
        at != std::string_view::npos && text.find("kakeyaturbo:") == std::string_view::npos) {
        formats = text.substr(0, at);
        names_profile = true;
        if (text.substr(at + 1) != "none") spec.profile = text.substr(at + 1);
    }
    const Precise precise = take_precise(&formats);
    const auto asked = [](uint32_t sinks) { return sinks ? sinks : KEEL_KV_NO_SINKS; };
    spec.sinks = precise.sinks ? asked(*precise.sinks) : defaults.sinks;
    spec.recent = precise.recent.value_or(defaults.recent);
    if (formats == "profile") {
        if (!names_profile) spec.profile = defaults.profile;
        if (spec.profile.empty()) throw bad("no KV profile is named");
        for (const kernels::KvFormat format : formats_of_profile(spec.profile))
            add_family(spec.family, family_of(kv_format_name(static_cast<keel_kv_format>(format + 1))));
        return spec;
    }
    std::string_view sides[2] = {formats, formats};
    if (formats.starts_with("k=")) {
        const size_t v = formats.find(":v=");
        if (v == std::string_view::npos) throw bad("write k=FORMAT:v=FORMAT");
        sides[0] = formats.substr(2, v - 2);
        sides[1] = formats.substr(v + 3);
    }
    std::optional<keel_kv_format> native[2];
    std::shared_ptr<const KvCodec> codecs[2];
    for (int i = 0; i < 2; ++i) {
        native[i] = find_kv_format(std::string(sides[i]));
        if (!native[i]) codecs[i] = make_kv_codec(sides[i]);
        if (!native[i] && !codecs[i])
            throw bad("'" + std::string(sides[i]) + "' is neither a KV format nor a published codec");
        add_family(spec.family, family_of(sides[i]));
    }
    spec.native = native[0] && native[1];
    if (!spec.native) {
        for (int i = 0; i < 2; ++i)
            if (native[i] && *native[i] != KEEL_KV_F16)
                throw bad("a published codec goes with another one or with f16");
        if (!spec.profile.empty()) throw bad("published codecs take no KV profile");
        if (precise.sinks.value_or(0) || precise.recent.value_or(0))
            throw bad("published codecs keep no positions in f16");
        spec.sinks = spec.recent = 0;
        spec.k_codec = codecs[0];
        spec.v_codec = codecs[1];
        return spec;
    }
    spec.k_format = *native[0];
    spec.v_format = *native[1];
    if (!plain_float(spec.k_format) || !plain_float(spec.v_format)) {
        if (!names_profile) spec.profile = defaults.profile;
    } else {
        spec.sinks = precise.sinks ? asked(*precise.sinks) : 0;
        spec.recent = precise.recent.value_or(0);
    }
    return spec;
}

uint32_t sinks_of_coded_rows(uint32_t kv_sink_tokens) {
    if (kv_sink_tokens == KEEL_KV_NO_SINKS) return 0;
    return kv_sink_tokens ? kv_sink_tokens : kDefaultSinks;
}

std::vector<std::string> split_kv_specs(std::string_view text) {
    std::vector<std::string> specs;
    while (!text.empty()) {
        const size_t end = std::min(text.find_first_of(", \t\n"), text.size());
        const std::string piece(text.substr(0, end));
        const size_t equals = piece.find('=');
        const bool option = equals != std::string::npos && piece.find_first_of(":@") >= equals &&
                            piece.find(":v=") == std::string::npos;
        if (!piece.empty() && option && !specs.empty())
            specs.back() += "," + piece;
        else if (!piece.empty())
            specs.push_back(piece);
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return specs;
}

std::string kv_spec_help() {
    std::string help =
        "Formats: SIDE for both K and V, k=SIDE:v=SIDE, or profile; +sN+rM keeps the first N and the last M positions "
        "in f16 (native\n"
        "formats); @FILE or @none names a profile for one of them.\n"
        "Native sides: f16 f32 fp8 q8_0 q4_0 q8_0-rot q4_0-rot e8-2 e8-3 e8-4 e8-5 e8-6 e8-8 tcq-2 tcq-3 tcq-4 tcq-5 "
        "tcq-6\n"
        "Published codecs:\n";
    for (std::string_view names = kv_codec_names(); !names.empty();) {
        const size_t end = std::min(names.find('\n'), names.size());
        help += "  " + std::string(names.substr(0, end)) + "\n";
        names.remove_prefix(std::min(end + 1, names.size()));
    }
    return help;
}

}  // namespace keel::tools
