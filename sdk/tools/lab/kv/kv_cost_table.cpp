#include "sdk/tools/lab/kv/kv_cost_table.h"

#include <stdlib.h>

#include <filesystem>

#include "sdk/tools/common/atomic_file.h"

namespace keel::tools {

KvCostTable::KvCostTable(std::string path, Json setup) : path_(std::move(path)), setup_(std::move(setup)) {
    std::error_code ignored;
    if (!std::filesystem::exists(path_, ignored)) return;
    const Json file = Json::parse(read_text(path_), nullptr, false);
    if (!file.is_object() || !file.contains("setup") || !file.contains("kl") || !file["kl"].is_object())
        throw ToolError(kExitFile, path_ + " is no table of costs");
    if (file["setup"] != setup_)
        throw ToolError(kExitUsage,
                        path_ + " has the costs of another model, text, slice or window; name another file");
    for (const auto& [profile, kl] : file["kl"].items()) {
        if (!kl.is_number()) throw ToolError(kExitFile, path_ + " is no table of costs");
        costs_[strtoull(profile.c_str(), nullptr, 16)] = kl;
    }
}

std::optional<double> KvCostTable::find(uint64_t profile) const {
    const auto it = costs_.find(profile);
    return it == costs_.end() ? std::nullopt : std::optional(it->second);
}

void KvCostTable::add(uint64_t profile, double kl) {
    costs_[profile] = kl;
    Json costs = Json::object();
    for (const auto& [hash, cost] : costs_) costs[hex64(hash)] = cost;
    write_file(path_, Json{{"setup", setup_}, {"kl", costs}}.dump(1) + "\n");
}

}  // namespace keel::tools
