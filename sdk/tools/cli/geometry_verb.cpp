// keel geometry: the geometry laboratory over published clouds and traces of models.
#include "sdk/tools/cli/geometry_verbs.h"
#ifdef KEEL_HAVE_GEODESIC
#include "sdk/tools/lab/geodesic/record_builder.h"
#endif

namespace keel::tools {

#ifdef KEEL_HAVE_GEODESIC
TapeFiles read_tapes(const std::vector<std::string>& paths) {
    TapeFiles out;
    for (const std::string& path : paths) {
        const std::string text = read_text(path);
        out.files.emplace_back(text.begin(), text.end());
    }
    for (size_t i = 0; i < paths.size(); ++i) {
        geodesic::TraceTape tape;
        if (const char* why = geodesic::read_trace(out.files[i], &tape))
            throw ToolError(kExitFile, paths[i] + " is not a trace tape: " + why);
        out.tapes.push_back(tape);
    }
    return out;
}

void add_store_options(Verb verb, geodesic::StoreOptions& options) {
    verb.add_option("--block", options.block, "states whose mean is a feature too (default 0: none)");
    verb.add_option("--waypoints", options.waypoints, "states kept behind a record's (default 0: none)");
}

void add_geometry_verb(Verb app, Console& console) {
    Verb geometry = add_group(app, "geometry", "records of states: the published claims, measured");
    add_geometry_protocol_verb(geometry, console);
    add_geometry_build_verb(geometry, console);
    add_geometry_measure_verb(geometry, console);
    add_geometry_interpolate_verb(geometry, console);
    add_geometry_ready_verb(geometry, console);
}
#else
void add_geometry_verb(Verb app, Console&) {
    Verb verb = add_subcommand(app, "geometry", "not in this keel, which was built without Eigen");
    verb.allow_extras().callback(
        [] { throw ToolError(kExitUsage, "this keel was built without Eigen, which the laboratory needs"); });
}
#endif

}  // namespace keel::tools
