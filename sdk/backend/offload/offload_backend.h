// A backend of two: PlanConfig::own_backend computes the first layers in memory of its own, PlanConfig::host_backend
// the rest in host memory. A step passes from one to the other at its op kToHost, which leaves the residual where the
// op kFromOwnMemory reads it.
#pragma once
#include "sdk/backend/backend.h"

namespace keel {

// Planning asks each of the two for its layers, so that the table has no planning functions.
extern const Backend kOffloadBackend;

}  // namespace keel
