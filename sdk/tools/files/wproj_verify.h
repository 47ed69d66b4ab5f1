// Looks into every number of a W_proj cache.
#pragma once
#include <string>
#include <vector>

#include "sdk/tools/files/wproj_table.h"

namespace keel::tools {

// Of a basis or a record.
struct WprojPartCheck {
    uint32_t layer;
    std::string part;                     // "attn_in Pt", "q"
    bool finite = true, checksum = true;  // checksum: true in version 1, which has none
    double unit_error = 0;                // of Pt: largest | |row| - 1 |
    double mu_error = -1;                 // of Pt: largest |mu - Pt mean| / (1 + |mu|); negative: no mu or no mean
    double energy = -1;  // of a record: |W_proj|^2 / |W|^2, cut to 1; negative: no model, or no tensor of its own in it
    double stored_energy = 0;
    bool broken() const { return !finite || !checksum; }
};

// Every part of a plain cache, in the order of the file. model may be null.
std::vector<WprojPartCheck> verify_wproj(const WprojTable& table, const ModelFile* model);

}  // namespace keel::tools
