// From weights and moments to the layers of a W_proj cache: which slots become low-rank, of what rank, their factors
// quantized, and what every factor was measured to cost. No files, no engine. Needs Eigen.
#pragma once
#include <stdint.h>

#include <array>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "sdk/tools/files/wproj_image.h"
#include "sdk/tools/lab/lowrank/activation_moments.h"

namespace keel::tools {

// One slot of a layer. data null: the layer has none.
struct WprojWeight {
    const float* data = nullptr;     // [rows][columns] as it is read (decoded)
    uint32_t rows = 0, columns = 0;  // of one group, all the same columns
    uint64_t dense_bytes = 0;        // as the model stores it
    double sensitivity = 1;  // what a relative squared output error of this slot costs, against other slots and layers
    const float* counted = nullptr;  // [counted_rows][columns], SolverSlot::counted; null: the rows themselves
    uint32_t counted_rows = 0;
};
struct WprojLayerInput {
    std::array<WprojWeight, kWprojSlots> weight;
    std::array<const MomentSummary*, kWprojGroups> moments{};  // null: not known; weight PCA can do without
};
// Layers in ascending order, once or (with a budget) twice; what it points to is used until the next call.
using WprojLayerSource = std::function<WprojLayerInput(uint32_t layer)>;

enum class WprojSolver { kWeightPca, kWhitened };
enum class WprojRankRule {
    kUniform,  // `rank` everywhere, the first of `configurations` that fits a group
    kBytes,  // the least loss with at most `budget_bytes` of everything the slots considered read: factors, biases and
             // what stays dense
    kLoss,   // the fewest such bytes with a loss of at most `budget_loss` times the sum of sensitivities
};

struct WprojSolveOptions {
    WprojSolver solver = WprojSolver::kWhitened;
    WprojRankRule rule = WprojRankRule::kUniform;
    uint32_t rank = 0;
    uint64_t budget_bytes = 0;
    double budget_loss = 0;  // a relative squared output error, mean over slots by sensitivity
    // Sets of slots that may be low-rank together, bit s for slot s, each within one group. Slots of the model missing
    // from a set do not count.
    std::vector<uint32_t> configurations = {1u << kWprojQ | 1u << kWprojK | 1u << kWprojV,
                                            1u << kWprojQ | 1u << kWprojK,
                                            1u << kWprojQ,
                                            1u << kWprojO,
                                            1u << kWprojUp | 1u << kWprojGate,
                                            1u << kWprojDown};
    uint32_t granularity = 32;  // of ranks; raised to a block of record_type
    uint32_t basis_type = kernels::kF16,
             record_type = kernels::kQ8_0;  // columns that are no whole number of basis blocks: F16
    // Largest relative squared output error on held-out rows; a factor above it, or one that cannot be measured, stays
    // dense, and the others of its configuration are solved again without it (under a budget they stay dense, too, when
    // they would save no bytes). Infinite: all are kept.
    double bound = 0.02;
    bool centred = true;       // whitened: S about the mean, and biases; false: E[x x^T] and none
    bool keep_massive = true;  // whitened: directions of massive activations are exact
    // Weight PCA as published: one basis per layer, of Q, K and V, for every configured slot of as many columns; mu and
    // mean are stored as zeros.
    bool shared_basis = false;
};

// What became of a configuration that was chosen.
struct WprojSlotReport {
    uint32_t layer = 0, slot = 0, rank = 0;
    double predicted =
        0;  // relative squared output error by the solver's metric, before quantization, of all of the output
    double solver_error = 0;  // the same of what varies, which is what sensitivities weigh
    double measured = -1;     // on held-out rows, of the stored bytes; negative: no rows
    bool accepted = false;    // a factor was stored
    uint32_t forced = 0;      // massive directions in the basis
};
struct WprojSolution {
    std::vector<WprojImageLayer> layers;
    std::vector<WprojSlotReport> reports;  // by layer and slot
    std::string solver;                    // "weight-pca", "whitened": of the file
    uint64_t dense_bytes = 0;              // of all configured slots as they were
    uint64_t bytes = 0;         // of them now: factors and biases of accepted ones, dense weights of the others
    double predicted_loss = 0;  // of what was chosen
};

// The same input gives the same bytes. std::invalid_argument: what the solvers and the quantizer refuse; a rank,
// granularity, type or configuration that cannot be; whitened without moments; a budget below the smallest there is.
WprojSolution solve_wproj(uint32_t layers, const WprojLayerSource& source, const WprojSolveOptions& options);

}  // namespace keel::tools
