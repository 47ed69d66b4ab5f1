// A W_proj cache as tools look at it: header and table of any file, plain or packed, without its payloads; and the
// model beside it.
#pragma once
#include <string>
#include <vector>

#include "keel/keel.hpp"
#include "sdk/format/wproj.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/model_file.h"

namespace keel::tools {

struct WprojTable {
    std::string path;
    FileReader reader;
    bool packed = false;
    WprojFile file{};  // of a packed one only what its header says
    std::vector<WprojLayer> layers;
    uint64_t file_bytes = 0, plain_bytes = 0;
    double open_us = 0;  // what mapping the file and validating header and table took
};
// Whatever model it was made for, or only the one of `shape`. Throws ToolError.
WprojTable open_wproj_table(const std::string& path, const WprojShape* shape = nullptr);

// The rank of a group at which the low-rank form moves as many bytes as the dense one: M n b_w / (n b_P + M b_q),
// summed over the group's slots that have records; above it the cache is larger than what it replaces. 0: a slot has no
// tensor of its own in the model.
double wproj_break_even_rank(const keel_model& model, const WprojLayer& parts, uint32_t layer, uint32_t group);

}  // namespace keel::tools
