#include "sdk/tools/lab/geodesic/readiness.h"

#include <algorithm>

#include "sdk/tools/common/console.h"

namespace keel::geodesic {
namespace {

using tools::hex64;
using tools::Json;

constexpr double kGeodesicShare = 0.08;  // published

double ratio(double part, double all) {
    return all > 0 ? part / all : 0;
}

}  // namespace

double SelfTest::consistency() const {
    return ratio(static_cast<double>(agreeing_tokens), static_cast<double>(tokens));
}

std::string readiness_report(const SelfTest& t) {
    const double share = ratio(static_cast<double>(t.record_accepted), static_cast<double>(t.tokens));
    const bool degraded = t.ready() && t.records && share < kGeodesicShare;
    const char* const status = !t.ready()  ? "not_ready"
                               : degraded  ? "degraded_geodesic"
                               : t.records ? "geodesic_ready"
                                           : "hybrid_ready";
    const Json report = {{"ott_full", false},
                         {"ott_theorem", false},
                         {"ott_perfect", t.replayed},
                         {"ready", t.ready()},
                         {"hybrid_ready", t.ready()},
                         {"degraded_geodesic", degraded},
                         {"status", status},
                         {"model", t.model},
                         {"generation",
                          {{"tokens", t.tokens},
                           {"total_ms", t.prefill_ms + t.drafted_ms},
                           {"tok_per_s", ratio(1e3 * static_cast<double>(t.tokens), t.prefill_ms + t.drafted_ms)},
                           {"prefill_ms", t.prefill_ms},
                           {"decode_tok_per_s", ratio(1e3 * static_cast<double>(t.tokens), t.drafted_ms)}}},
                         {"geodesic",
                          {{"enabled", t.records},
                           {"runtime_tokens", t.record_accepted},
                           {"local_tokens", t.tokens - std::min(t.tokens, t.record_accepted)},
                           {"runtime_rejects", t.record_drafts - t.record_accepted},
                           {"runtime_share", share},
                           {"runtime_reject_rate", ratio(static_cast<double>(t.record_drafts - t.record_accepted),
                                                         static_cast<double>(t.record_drafts))},
                           {"quality_gate_pass", t.ready()},
                           {"generated_tokens", t.tokens},
                           {"fallback_used", t.steps_without_draft > 0}}},
                         {"axiom",
                          {{"ran", false},
                           {"intrinsic_dim", 0},
                           {"consistency", t.consistency()},
                           {"projected_speedup", ratio(t.plain_ms, t.drafted_ms)},
                           {"total_ms", t.total_ms}}},
                         {"attnres", {{"enabled", false}, {"strength", 0.0}}},
                         {"depth_attention", {{"enabled", false}, {"strength", 0.0}, {"window", 0}}},
                         {"fingerprint", hex64(t.fingerprint)},
                         {"self_test",
                          {{"hash", hex64(t.test_hash)},
                           {"answers", t.answers},
                           {"identical_answers", t.identical_answers},
                           {"steps", t.steps},
                           {"drafts", t.drafts},
                           {"accepted", t.accepted}}}};
    return report.dump(2) + "\n";
}

std::optional<double> stored_consistency(std::string_view report, uint64_t fingerprint, uint64_t test_hash) {
    const Json json = Json::parse(report, nullptr, false);
    try {
        if (json.at("fingerprint") != hex64(fingerprint) || json.at("self_test").at("hash") != hex64(test_hash))
            return {};
        const double value = json.at("axiom").at("consistency");
        if (!(value >= 0 && value <= 1) || (json.at("ready") == true && value != 1)) return {};
        return value;
    } catch (const nlohmann::json::exception&) {
        return {};
    }
}

}  // namespace keel::geodesic
