// The weights of a plan: where they lie, and what each product of a variant multiplies with.
//
// WeightPlacer puts tensors of a file into the weights region, repacked or as they are, or leaves them where they are
// mapped. PlanWeights knows the model and the variants: it places every tensor once, when the first op asks for it, so
// that weights lie in the order in which ops read them.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/backend/backend.h"
#include "sdk/core/arena.h"
#include "sdk/model/model.h"
#include "sdk/plan/config.h"
#include "sdk/plan/ops.h"

namespace keel {

class CodedFile;  // coded_file.h

// A vector, widened to f32. Null in count mode, and where there is none.
struct Vector {
    const float* host;
    const float* op;  // as ops hold it: an address of the backend that runs them
};

// A matrix as an op holds it; of a tensor of three dimensions the first, with the others behind it.
struct Matrix {
    const void* data;  // null in count mode
    uint32_t type, k, rows;
    bool repacked;
    keel_repack_skip repack_skip;
};
// What was placed of a slot.
struct PlacedWeight {
    bool done;
    Matrix matrix;
    Vector vector;
};

struct WeightPlacer {
    Arena& arena;       // of the region WEIGHTS
    Arena& own_memory;  // the same of a backend with memory of its own
    keel_weights mode;
    keel_hooks hooks;
    const uint64_t load_bytes;  // place mode: total_bytes of the count run, for the progress hook
    const kernels::KernelSet* kernels;
    keel_error* error;
    bool host = true;                  // what comes next is computed in host memory
    const Backend* backend = nullptr;  // place mode: who uploads to own_memory, and its device
    Device* device = nullptr;
    const CodedFile* coded = nullptr;          // what the reader of the model decodes, if it does
    AdapterFactor* adapter_factors = nullptr;  // place mode: [blocks][kAdapterSlotCount][adapters], zeroed
    PlacedWeight* of_blocks = nullptr;         // place mode, where layers share blocks: [blocks][kLayerSlots], zeroed
    uint64_t mapped_bytes = 0, copied_bytes = 0, total_bytes = 0;
    keel_status status = KEEL_OK;

    // Results are null in count mode, and else addresses as ops hold them. `from`: the reader of the file the tensor
    // lies in. `name`, `layer`: the object's.
    const void* matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer);
    // As matrix() of the host, but copied whatever `mode` says.
    const void* copied_matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer);
    // As matrix(), repacked; of an interleaved tensor that is as it is. On the host the rows of each matrix of the
    // tensor are a multiple of kernels::kRepackRows; elsewhere its last group is filled up.
    const void* repacked_matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer);
    // Always copied, widened to f32.
    Vector vector(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer);
    // f32[n] at `offset` of `from`, plus `model_bias` where that is not null.
    Vector factor_bias(const keel_reader& from, uint64_t offset, uint32_t n, const float* model_bias, const char* name,
                       int32_t layer);

  private:
    bool maps() const { return mode == KEEL_WEIGHTS_MAP || mode == KEEL_WEIGHTS_MAP_LOCKED; }
    const void* mapped_matrix(const keel_reader& from, const GgufTensor& t);
    const void* own_matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer);
    Vector shared(float* data, uint32_t n, const char* name, int32_t layer);
    void upload(uint64_t to, const void* from, uint64_t bytes);
    void load(const keel_reader& from, const GgufTensor& t, uint8_t* dst);
    template <class Sink>
    void read_groups(const keel_reader& from, const GgufTensor& t, const Sink& sink);
    void read(const keel_reader& from, const GgufTensor& t, uint64_t at, void* dst, uint64_t bytes);
    // What became of a read of so many bytes.
    void took(keel_status read, uint64_t offset, uint64_t bytes);
    void progress(uint64_t bytes);
};

// A vector of a file, or rows of coefficients one behind another, widened to f32[elements].
keel_status read_vector(const keel_reader& from, const GgufTensor& t, const kernels::KernelSet& kernels, float* dst);
// The same in place: the tensor's bytes stand at the end of dst.
void widen_vector(const GgufTensor& t, const kernels::KernelSet& kernels, float* dst);

// What a product of a variant multiplies with.
struct Product {
    Matrix matrix;
    const float* bias;  // as ops hold it; null: none, or count mode
    bool low_rank;      // the matrix is a factor that multiplies x_sub
    keel_low_rank_reason reason;
    float error;
};

// What adapters add to a product: the largest rank, and the bytes of the largest pair.
struct AdapterUse {
    uint32_t rank, k, rows;
    uint32_t a_type, b_type;  // of the first adapter that has a pair
    uint64_t a_bytes, b_bytes;
    const AdapterFactor* factors;  // null in count mode
};

class PlanWeights {
  public:
    PlanWeights(const keel_reader& reader, const keel_model& model, const PlanConfig& config, WeightPlacer& placer)
        : reader_(reader), m_(model), c_(config), placer_(placer) {
        compute_as(0);
    }

    // Layers come in ascending order, behind what stands before them. Forgets the layer before, and reads what the
    // W_proj cache has for this one; in place mode its contents are checked, unless they are to be left where they are
    // until needed.
    void open_layer(uint32_t layer);
    void open_head();  // what stands behind the layers
    bool has(TensorSlot slot) const { return tensor(slot) != nullptr; }
    // Weight type of what the variant's product reads x with: of the tensor, or of the factor that makes x_sub.
    uint32_t reading_type(keel_variant variant, TensorSlot slot) const;
    // The group whose x_sub the variant's product reads, or kWprojGroups.
    WprojGroup group_of(keel_variant variant, TensorSlot slot) const;
    // Output elements of a slot's product, the same in every variant.
    uint32_t rows(TensorSlot slot) const { return static_cast<uint32_t>(tensor(slot)->dims[1]); }

    Product product(keel_variant variant, TensorSlot slot, TensorSlot bias);
    Matrix table(TensorSlot slot, bool also_product);  // an embedding
    // Weight type of the factor of a slot that has one.
    uint32_t factor_type(TensorSlot slot) const { return low_.parts.record[wproj_slot_of(slot)].type; }
    // Pt of a group.
    Matrix basis(WprojGroup group);
    Vector vector(TensorSlot slot);
    // Places the pairs that adapters have for a matrix of the current layer. Called once for each.
    AdapterUse adapters(TensorSlot slot);
    // The largest rank; 0: no adapter has a pair.
    uint32_t adapter_rank(TensorSlot slot) const;

    uint64_t adapter_bytes() const { return adapter_bytes_; }
    uint32_t low_rank_records() const { return low_rank_records_; }
    uint64_t low_rank_bytes() const { return low_rank_bytes_; }

  private:
    const GgufTensor* tensor(TensorSlot slot) const {
        return m_.tensor(slot, layer_ < 0 ? 0 : static_cast<uint32_t>(layer_));
    }
    void close_layer();
    PlacedWeight* block_weights(uint32_t layer) const;
    void open_adapters(uint32_t layer);
    // In host memory, or where the layer's ops are. What the other of the two has of the whole model is no use there.
    void compute_as(uint32_t layer);
    WeightUse use_of(const GgufTensor& t, bool lookup) const;
    Matrix place(const keel_reader& from, const GgufTensor& t, bool lookup, const char* name);
    Matrix place_factor(uint32_t type, uint32_t k, uint32_t rows, uint64_t offset, uint64_t bytes, const char* name);

    const keel_reader& reader_;
    const keel_model& m_;
    const PlanConfig& c_;
    WeightPlacer& placer_;
    int32_t layer_ = -1;
    const Backend* backend_ = nullptr;      // of the layer
    bool again_ = false;                    // the weights of the layer were placed for an earlier one
    PlacedWeight placed_[kSlotCount] = {};  // of the current layer, or the whole model: all variants refer to it
    LowRankLayer low_ = {};                 // of the current layer
    WprojCursor cursor_ = {};
    Matrix basis_[kWprojGroups] = {};
    bool basis_done_[kWprojGroups] = {};
    uint32_t low_rank_records_ = 0;
    uint64_t low_rank_bytes_ = 0;
    AdapterPair pairs_[kMaxAdapters][kAdapterSlotCount] = {};  // of the current layer
    uint64_t adapter_bytes_ = 0;
};

}  // namespace keel
