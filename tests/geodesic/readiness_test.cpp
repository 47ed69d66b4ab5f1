// The readiness report: published fields, ready only where drafts changed nothing, reused only by its own model.
#include "sdk/tools/lab/geodesic/readiness.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace keel::geodesic {
namespace {

SelfTest identical() {
    SelfTest t;
    t.model = "a model";
    t.fingerprint = 0xabc, t.test_hash = 0xdef;
    t.tokens = t.agreeing_tokens = 100;
    t.answers = t.identical_answers = 4;
    t.steps = 60, t.drafts = 70, t.accepted = 40, t.steps_without_draft = 5;
    t.prefill_ms = 100, t.plain_ms = 1000, t.drafted_ms = 800;
    return t;
}
nlohmann::json report(const SelfTest& t) {
    return nlohmann::json::parse(readiness_report(t));
}

TEST(Readiness, HasEveryPublishedField) {
    const nlohmann::json r = report(identical());
    for (const char* field : {"/ott_full",
                              "/ott_theorem",
                              "/ott_perfect",
                              "/ready",
                              "/hybrid_ready",
                              "/degraded_geodesic",
                              "/status",
                              "/model",
                              "/generation/tokens",
                              "/generation/total_ms",
                              "/generation/tok_per_s",
                              "/generation/prefill_ms",
                              "/generation/decode_tok_per_s",
                              "/geodesic/enabled",
                              "/geodesic/runtime_tokens",
                              "/geodesic/local_tokens",
                              "/geodesic/runtime_rejects",
                              "/geodesic/runtime_share",
                              "/geodesic/runtime_reject_rate",
                              "/geodesic/quality_gate_pass",
                              "/geodesic/generated_tokens",
                              "/geodesic/fallback_used",
                              "/axiom/ran",
                              "/axiom/intrinsic_dim",
                              "/axiom/consistency",
                              "/axiom/projected_speedup",
                              "/axiom/total_ms",
                              "/attnres/enabled",
                              "/attnres/strength",
                              "/depth_attention/enabled",
                              "/depth_attention/strength",
                              "/depth_attention/window"})
        EXPECT_TRUE(r.contains(nlohmann::json::json_pointer(field))) << field;
    EXPECT_EQ(r["generation"]["decode_tok_per_s"], 125);
    EXPECT_EQ(r["axiom"]["projected_speedup"], 1.25);
    EXPECT_EQ(r["geodesic"]["fallback_used"], true);
}

TEST(Readiness, IsThereOnlyWhereNothingDiffers) {
    SelfTest t = identical();
    EXPECT_EQ(report(t)["ready"], true);
    EXPECT_EQ(report(t)["status"], "hybrid_ready");
    t.records = true;
    t.record_drafts = 20, t.record_accepted = 7;
    EXPECT_EQ(report(t)["status"], "degraded_geodesic");
    t.record_accepted = 8;
    EXPECT_EQ(report(t)["status"], "geodesic_ready");
    EXPECT_EQ(report(t)["geodesic"]["runtime_reject_rate"], 0.6);
    t.agreeing_tokens = 99, t.identical_answers = 3;
    const nlohmann::json r = report(t);
    EXPECT_EQ(r["ready"], false);
    EXPECT_EQ(r["hybrid_ready"], false);
    EXPECT_EQ(r["status"], "not_ready");
    EXPECT_EQ(r["axiom"]["consistency"], 0.99);
    EXPECT_EQ(report(SelfTest{})["ready"], false);  // nothing was tested
}

TEST(Readiness, IsUsedAgainByItsOwnModelAndTestAlone) {
    const std::string text = readiness_report(identical());
    EXPECT_EQ(stored_consistency(text, 0xabc, 0xdef), 1.0);
    EXPECT_FALSE(stored_consistency(text, 0xabd, 0xdef));
    EXPECT_FALSE(stored_consistency(text, 0xabc, 0xdee));
    EXPECT_FALSE(stored_consistency(text.substr(0, text.size() / 2), 0xabc, 0xdef));
    EXPECT_FALSE(stored_consistency("[]", 0xabc, 0xdef));
    nlohmann::json lie = report(identical());
    lie["axiom"]["consistency"] = 0.5;  // ready, and yet not in agreement
    EXPECT_FALSE(stored_consistency(lie.dump(), 0xabc, 0xdef));
}

}  // namespace
}  // namespace keel::geodesic
