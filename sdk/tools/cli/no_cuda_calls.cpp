// For a keel command without the CUDA backend.
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

const CudaCalls* cuda_calls() {
    return nullptr;
}

}  // namespace keel::tools
