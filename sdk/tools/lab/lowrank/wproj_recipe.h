// How a W_proj cache is to be made, in the words of the command line, and the key that follows.
#pragma once
#include <string>

#include "sdk/format/wproj_key.h"
#include "sdk/tools/lab/lowrank/wproj_builder.h"

namespace keel::tools {

struct WprojRecipe {
    std::string solver = "whitened";  // or weight-pca
    std::string rank,
        budget;  // rank: columns, or a share of the input's below 1. budget: bytes, or a share of the dense ones below
                 // 1
    double loss = 0;                             // a mean relative squared error, instead of a budget
    std::string groups = "qkv,qk,q,o,ffn,down";  // sets of projections that share a basis, and may be chosen between
    std::string basis_type = "Q8_0", record_type = "Q8_0";
    double bound = 0.02;
    bool sensitivities = true, attention_metric = true, centred = true, massive = true, published = false;
    uint32_t format = 2;
};

// Bits of all slots of the groups named; throws ToolError (kExitUsage) for another name.
uint32_t wproj_slots_of(const std::string& groups);
// A weight type that factors can have, by name; throws ToolError (kExitUsage) for another.
uint32_t factor_type(const std::string& name);
// What the solver is asked for. columns: of Q, K and V's input; dense_bytes: of all slots as the model has them, for
// shares.
WprojSolveOptions solve_options(const WprojRecipe& recipe, uint32_t columns, uint64_t dense_bytes);
// Of a cache by this recipe for this model and text, which it computed with these activations.
uint64_t recipe_key(const WprojRecipe& recipe, const WprojSolveOptions& options, uint64_t fingerprint,
                    uint64_t calibration_hash, keel_activation activation);
// Bytes of the model's tensors of these slots.
uint64_t dense_bytes_of(const ModelFile& model, uint32_t slots);

}  // namespace keel::tools
