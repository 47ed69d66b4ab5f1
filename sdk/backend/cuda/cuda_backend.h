// The backend that computes on an NVIDIA GPU, on the kernels of kernels/cuda. keel_cuda() of keel_cuda.h is its table.
#pragma once
#include "keel/keel_cuda.h"
#include "sdk/backend/backend.h"

namespace keel {

extern const Backend kCudaBackend;

}  // namespace keel

// The kernels: a fatbin of every architecture that was built for (cmake/cuda.cmake).
extern "C" const unsigned char keel_cuda_fatbin[];
