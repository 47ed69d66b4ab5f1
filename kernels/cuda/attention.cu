// Attention of many columns.
#include "kernels/cuda/attention.cuh"

namespace keel::cuda {
KEEL_GPU_KERNEL(attend_32) {
    attend<32>(args);
}

}  // namespace keel::cuda
