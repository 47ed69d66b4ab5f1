// The backend that computes in the calling thread and a team of its own, on the kernel sets of kernels/cpu. Its regions
// are host memory.
#pragma once
#include "sdk/backend/backend.h"

namespace keel {

extern const Backend kCpuBackend;

}  // namespace keel
