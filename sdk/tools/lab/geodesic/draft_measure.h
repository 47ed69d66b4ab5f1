// How often records of states are right as drafts, beside a table of two tokens from the same tapes: the share of first
// drafts that are the token the model wrote.
#pragma once
#include <stdint.h>

#include <span>
#include <string>
#include <vector>

#include "sdk/tools/lab/geodesic/record_store.h"
#include "sdk/tools/lab/geodesic/token_table.h"

namespace keel::geodesic {

// A draft is made at a step whose state and drawn token are known, for the token after that one.
struct DrafterScore {
    std::string name;
    uint64_t drafted = 0, right = 0;  // of DraftMeasure::steps
};
// The same of one text of the queries: steps of a text are not independent of each other.
struct TextScore {
    uint64_t steps = 0;
    std::vector<uint64_t> right;  // of each drafter
    // Of each step what most of the nearest records say: `count` of kVoters; -1 where none has the drawn token.
    std::vector<Continuation> votes;
};
constexpr uint32_t kVoters = 8;
struct DraftMeasure {
    uint64_t steps = 0;  // of the queries, with a token before, the drawn one and the one to be drafted
    // In this order: the token that most often followed the last two tokens, else the last one; that of the last two
    // alone; the nearest record with the drawn token, by Euclid, by the metric, and only where it lies within its
    // radius; a record of chance with that token; the nearest record of any token, by Euclid and by the metric; what
    // most of the kVoters nearest records with the drawn token say, by Euclid, of equals the nearer.
    std::vector<DrafterScore> drafters;
    std::vector<TextScore> texts;
    // Mean cosines between the next displacement of a query's key and the mean one of the 8 nearest records (the
    // initial-velocity surrogate), and between it and the displacement before; 0 for a store without waypoints.
    double surrogate_cosine = 0, persistence_cosine = 0;
};

// `store` is what build_store made of some tapes and `table` what token_table did; queries are other tapes of the same
// model and dim. std::invalid_argument: tapes of another shape.
DraftMeasure measure_drafts(const RecordStore& store, const TokenTable& table, std::span<const TraceTape> queries,
                            uint64_t seed);

}  // namespace keel::geodesic
