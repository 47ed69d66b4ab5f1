// The verbs below `keel geometry`, and the files they share.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/lab/geodesic/record_store.h"
#include "sdk/tools/lab/geodesic/trace_tape.h"

namespace keel::geodesic {
struct StoreOptions;
}

namespace keel::tools {

void add_geometry_protocol_verb(Verb geometry, Console& console);
void add_geometry_build_verb(Verb geometry, Console& console);
void add_geometry_measure_verb(Verb geometry, Console& console);
void add_geometry_interpolate_verb(Verb geometry, Console& console);
void add_geometry_ready_verb(Verb geometry, Console& console);

// What the records of a store are made of.
void add_store_options(Verb verb, geodesic::StoreOptions& options);

// Tapes of `keel capture trace`. ToolError (kExitFile) for what is none.
struct TapeFiles {
    std::vector<std::vector<unsigned char>> files;
    std::vector<geodesic::TraceTape> tapes;
};
TapeFiles read_tapes(const std::vector<std::string>& paths);

}  // namespace keel::tools
