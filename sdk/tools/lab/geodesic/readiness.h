// The readiness report of the published runtime (ott_readiness_report.json), its field names with honest meanings.
#pragma once
#include <stdint.h>

#include <optional>
#include <string>
#include <string_view>

namespace keel::geodesic {

// Answers to the same prompts, decoded twice: plainly, and with drafts that the model verifies.
struct SelfTest {
    std::string model;
    uint64_t fingerprint = 0;  // of the model
    uint64_t test_hash = 0;    // of everything else that the outcome depends on: prompts, tokens, drafters, store
    uint64_t tokens = 0, agreeing_tokens = 0;  // of the plain answers; of these, the same at the same place with drafts
    uint64_t answers = 0, identical_answers = 0;
    uint64_t steps = 0, steps_without_draft = 0;      // of the drafted run
    uint64_t drafts = 0, accepted = 0;                // computed and accepted
    uint64_t record_drafts = 0, record_accepted = 0;  // of these, by a record store
    bool records = false;                             // a record store drafted
    bool replayed = false;                            // drafts were the plain answers themselves ("perfect")
    double prefill_ms = 0, plain_ms = 0, drafted_ms = 0, total_ms = 0;

    double consistency() const;  // agreeing_tokens of tokens; 0 without tokens
    // Every answer, and there were some.
    bool ready() const { return answers > 0 && identical_answers == answers && agreeing_tokens == tokens; }
};

// The report as JSON.
//     ready                      the self test was identical with and without drafts
//     hybrid_ready               the same: there is no readiness for answers that differ
//     degraded_geodesic          ready, with a record store that gave less than 8 % of the tokens
//     ott_perfect                drafts were replayed; ott_full, ott_theorem: modes that are not here, false
//     status                     geodesic_ready, degraded_geodesic, hybrid_ready (no record store) or not_ready
//     geodesic.runtime_tokens    tokens that record drafts gave; local_tokens: all the others
//     geodesic.runtime_rejects   record drafts that were computed and not accepted
//     geodesic.quality_gate_pass ready; fallback_used: a step had no draft
//     axiom.consistency          SelfTest::consistency; projected_speedup: plain time over drafted time, measured
//     axiom.ran                  false, and intrinsic_dim 0: there is no survey
//     attnres, depth_attention   off: they change the model
//     fingerprint, self_test     what the consistency belongs to, 16 hex digits each
std::string readiness_report(const SelfTest& test);

// A report whose consistency may be used again: one of this model and this self test. Nothing: it is another's, or no
// report.
std::optional<double> stored_consistency(std::string_view report, uint64_t fingerprint, uint64_t test_hash);

}  // namespace keel::geodesic
