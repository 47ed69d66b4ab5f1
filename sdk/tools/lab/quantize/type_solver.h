// Which type each matrix gets under a bound on bits, bytes or loss. To first order the divergence of the predictions is
// the sum over matrices of sensitivity x relative squared error of its weights (Malinovskii et al. 2024, HIGGS); both
// are measured, one matrix at a time.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sdk/tools/lab/kv/kv_text.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"

namespace keel::tools {

struct TypeSolverOptions {
    KvText text;             // where predictions are compared
    uint64_t bytes = 0;      // of all matrices of the request, or
    double loss = 0;         // nats of KL per token that the sum may reach; one of the two is above 0
    bool trellises = false;  // WT3 and WT2 may be chosen too: only Keel reads such files
    std::string costs;       // a file that keeps sensitivities as they are measured, and is read where it is there
    // Where given, `bytes` is only where the search begins: by how many bytes a model of these types exceeds what it
    // may have; below 0: so many are left.
    std::function<int64_t(const std::vector<uint32_t>& types)> excess;
};

struct SolvedTypes {
    std::vector<uint32_t> types;      // of each matrix of the request
    std::vector<double> sensitivity;  // of each; 0 of fixed ones
    uint64_t bytes = 0;               // of all of them
    double predicted_loss = 0;        // nats of KL per token, of the solved ones
    uint64_t text_hash = 0;           // of the token ids
};

// Types of the matrices i with free[i] among what llama.cpp also reads, from Q2_K to Q8_0, their own, and trellises
// where they may be; the others have those of the request. work_file: where models with one changed matrix are written,
// removed afterwards.
// Throws ToolError: a bound that even the smallest types exceed; and what `progress` throws.
SolvedTypes solve_types(const EngineOptions& options, const QuantizeRequest& request, const std::vector<bool>& free,
                        const TypeSolverOptions& solver, const std::string& work_file,
                        const QuantizeProgress& progress);

// The choice itself: costs[i][t] and bytes[i][t] of matrix i with its choice t.
std::vector<size_t> choose_types(const std::vector<std::vector<uint64_t>>& bytes,
                                 const std::vector<std::vector<double>>& costs, uint64_t most_bytes, double most_loss);

}  // namespace keel::tools
