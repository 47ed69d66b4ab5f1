#include "sdk/tools/lab/lowrank/wproj_recipe.h"

#include <math.h>

#include <limits>
#include <sstream>

#include "sdk/core/hash.h"
#include "sdk/model/wproj_slots.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {
namespace {

// Changes whenever the bytes of a cache by the same recipe do.
constexpr uint32_t kSolverVersion = 2;

constexpr struct {
    const char* name;
    uint32_t slots;
} kGroups[] = {{"qkv", 1u << kWprojQ | 1u << kWprojK | 1u << kWprojV},
               {"qk", 1u << kWprojQ | 1u << kWprojK},
               {"q", 1u << kWprojQ},
               {"o", 1u << kWprojO},
               {"ffn", 1u << kWprojUp | 1u << kWprojGate},
               {"down", 1u << kWprojDown}};

std::vector<uint32_t> configurations_of(const std::string& groups) {
    std::vector<uint32_t> out;
    std::istringstream in(groups);
    for (std::string name; std::getline(in, name, ',');) {
        uint32_t slots = 0;
        for (const auto& group : kGroups)
            if (name == group.name) slots = group.slots;
        if (!slots) throw ToolError(kExitUsage, "--groups: '" + name + "' is none of qkv, qk, q, o, ffn, down");
        out.push_back(slots);
    }
    if (out.empty()) throw ToolError(kExitUsage, "--groups names no group");
    return out;
}

double number_of(const std::string& text, const char* option) {
    char* end = nullptr;
    const double x = strtod(text.c_str(), &end);
    if (text.empty() || *end || !isfinite(x) || x <= 0)
        throw ToolError(kExitUsage, strf("%s: '%s' is no positive number", option, text.c_str()));
    return x;
}

}  // namespace

uint32_t factor_type(const std::string& name) {
    for (uint32_t type = 0; type < kernels::kWeightTypeCount; ++type)
        if (can_quantize(type) && name == kernels::kWeightTypes[type].name) return type;
    throw ToolError(kExitUsage, "'" + name + "' is no weight type that factors can have");
}

uint32_t wproj_slots_of(const std::string& groups) {
    uint32_t slots = 0;
    for (uint32_t set : configurations_of(groups)) slots |= set;
    return slots;
}

WprojSolveOptions solve_options(const WprojRecipe& r, uint32_t columns, uint64_t dense_bytes) {
    WprojSolveOptions o;
    o.solver = r.solver == "weight-pca" ? WprojSolver::kWeightPca : WprojSolver::kWhitened;
    o.configurations = configurations_of(r.groups);
    o.basis_type = factor_type(r.published ? "F32" : r.basis_type);
    o.record_type = factor_type(r.published ? "Q8_F32" : r.record_type);
    o.bound = r.published || r.bound == 0 ? std::numeric_limits<double>::infinity() : r.bound;
    o.centred = r.centred;
    o.keep_massive = r.massive;
    o.shared_basis = r.published || (r.format == 1 && o.solver == WprojSolver::kWeightPca);
    if ((r.rank.empty() ? 0 : 1) + (r.budget.empty() ? 0 : 1) + (r.loss > 0) != 1)
        throw ToolError(kExitUsage, "one of --rank, --budget and --loss is needed");
    if (!r.rank.empty()) {
        const double rank = number_of(r.rank, "--rank");
        o.rule = WprojRankRule::kUniform;
        o.rank = static_cast<uint32_t>(rank < 1 ? lround(rank * columns / 32) * 32 : lround(rank));
        if (o.rank == 0) o.rank = 32;
    } else if (!r.budget.empty()) {
        const double budget = number_of(r.budget, "--budget");
        o.rule = WprojRankRule::kBytes;
        o.budget_bytes = static_cast<uint64_t>(budget < 1 ? budget * static_cast<double>(dense_bytes) : budget);
    } else {
        o.rule = WprojRankRule::kLoss;
        o.budget_loss = r.loss;
    }
    return o;
}

uint64_t recipe_key(const WprojRecipe& r, const WprojSolveOptions& o, uint64_t fingerprint, uint64_t calibration_hash,
                    keel_activation activation) {
    const bool whitened = o.solver == WprojSolver::kWhitened,  // weight PCA knows neither sensitivities nor attention
        of_text = whitened || o.bound <= 1e300;
    // What else decides the contents stands in the solver's name.
    const std::string solver =
        strf("%s groups=%s bound=%.9g sensitivities=%d attention=%d centred=%d massive=%d shared=%d activations=%d",
             r.solver.c_str(), r.groups.c_str(), o.bound, r.sensitivities && whitened, r.attention_metric && whitened,
             o.centred, o.keep_massive, o.shared_basis, of_text ? static_cast<int>(activation) : 0);
    WprojKeyDesc desc = {};
    desc.format = r.published ? 1 : r.format;
    desc.fingerprint = fingerprint;
    desc.rank_policy = o.rule == WprojRankRule::kUniform ? kWprojRankUniform
                       : o.rule == WprojRankRule::kBytes ? kWprojRankBytes
                                                         : kWprojRankError;
    desc.rank_value = o.rule == WprojRankRule::kUniform ? o.rank
                      : o.rule == WprojRankRule::kBytes ? o.budget_bytes
                                                        : static_cast<uint64_t>(llround(o.budget_loss * 1e6));
    for (uint32_t set : o.configurations) desc.slots |= set;
    desc.calibration_hash = of_text ? calibration_hash : 0;
    desc.solver = solver.c_str();
    desc.solver_version = kSolverVersion;
    desc.basis_type = o.basis_type;
    desc.record_type = o.record_type;
    return wproj_key(desc);
}

uint64_t dense_bytes_of(const ModelFile& model, uint32_t slots) {
    uint64_t bytes = 0;
    for (uint32_t layer = 0; layer < model.info.layers; ++layer)
        for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
            if (const GgufTensor* t = slots >> slot & 1 ? wproj_tensor(*model.model, layer, slot) : nullptr)
                bytes += t->bytes;
    return bytes;
}

}  // namespace keel::tools
