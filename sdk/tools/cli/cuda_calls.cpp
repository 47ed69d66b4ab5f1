#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

const CudaCalls* cuda_calls() {
    static const CudaCalls calls = {keel_cuda(), keel_cuda_memory, keel_cuda_memory_release, keel_cuda_read_stream};
    return &calls;
}

}  // namespace keel::tools
