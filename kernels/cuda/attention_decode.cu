// Attention of at most eight columns: decoding.
#include "kernels/cuda/attention.cuh"

namespace keel::cuda {

KEEL_GPU_KERNEL_OF(attend_8, 3) {  // few wait long: decoding reads and does little else
    attend<8>(args);
}

}  // namespace keel::cuda
