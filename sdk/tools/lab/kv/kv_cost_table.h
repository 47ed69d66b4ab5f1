// What profiles cost, or what matrices are worth (sdk/tools/lab/quantize/type_solver.h), kept in a file as it is
// measured: a calibration that was stopped goes on where it was, and one under another budget measures little anew.
#pragma once
#include <stdint.h>

#include <map>
#include <optional>
#include <string>

#include "sdk/tools/common/console.h"

namespace keel::tools {

class KvCostTable {
  public:
    // setup: everything a cost depends on but the profile itself. A file that is there is read. ToolError when it is of
    // another setup, or no such file.
    KvCostTable(std::string path, Json setup);
    // Mean KL in nats of a profile, by the hash of its bytes; of a matrix, by that of its name, KL per relative error.
    std::optional<double> find(uint64_t profile) const;
    // Adds one and writes the file.
    void add(uint64_t profile, double kl);
    size_t size() const { return costs_.size(); }

  private:
    std::string path_;
    Json setup_;
    std::map<uint64_t, double> costs_;
};

}  // namespace keel::tools
