// Text injected as records: the tokens that followed states like this one, mixed with what the model expects
// (Khandelwal and others, 2020, "kNN-LM").
#pragma once
#include <stdint.h>

#include "sdk/tools/lab/geodesic/record_store.h"

namespace keel::geodesic {

// p(token) = sum over the k nearest records whose gate is `token` of exp(-d^2 / temperature), over the sum of all k.
// k at most kStoreMaxCandidates.
double neighbour_probability(const RecordStore& store, const float* key, int32_t token, uint32_t k, double temperature);
// (1 - weight) model + weight neighbours.
inline double mixed_probability(double model, double neighbours, double weight) {
    return (1 - weight) * model + weight * neighbours;
}

}  // namespace keel::geodesic
