// Where the weights of a plan go: into the weights region, repacked or as they are, or nowhere when they are mapped.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/core/arena.h"
#include "sdk/model/model.h"

namespace keel {

struct WeightPlacer {
    const keel_reader* reader;  // of the model, or for a while of a W_proj cache
    Arena& arena;
    keel_weights mode;
    keel_hooks hooks;
    const uint64_t load_bytes;  // place mode: total_bytes of the count run, for the progress hook
    const kernels::KernelSet* kernels;
    keel_error* error;
    uint64_t mapped_bytes = 0, copied_bytes = 0, total_bytes = 0;
    keel_status status = KEEL_OK;

    const void* matrix(const GgufTensor& t);  // null in count mode
    // Whether the matrix of a product (lookup false) or an embedding table is interleaved, and if not, why.
    bool interleaves(const GgufTensor& t, bool q8, bool lookup, keel_repack_skip* reason) const;
    // As matrix(), interleaved.
    const void* interleaved_matrix(const GgufTensor& t);
    const float* vector(const GgufTensor& t);  // always copied, widened to f32
    // The bias of a record: f32[n] at `offset` of `from`, plus `model_bias` (null in count mode and where the model has
    // none).
    const float* record_bias(const keel_reader& from, uint64_t offset, uint32_t n, const float* model_bias);

  private:
    void load(const GgufTensor& t, uint8_t* dst);
    void load_repacked(const GgufTensor& t, uint8_t* dst);
    void read(uint64_t offset, void* dst, uint64_t bytes);
};

}  // namespace keel
