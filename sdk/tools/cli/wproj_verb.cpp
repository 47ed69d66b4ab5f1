// keel wproj: everything about W_proj caches, low-rank factors of projection weights.
#include "sdk/tools/cli/wproj_verbs.h"

namespace keel::tools {

void add_wproj_verb(Verb app, Console& console) {
    Verb wproj = add_group(app, "wproj", "W_proj caches: low-rank factors of projection weights");
#ifdef KEEL_HAVE_WPROJ_LAB
    add_wproj_build_verb(wproj, console);
    add_wproj_synth_verb(wproj, console);
    add_wproj_compare_verb(wproj, console);
#else
    for (const char* name : {"build", "synth", "compare"}) {
        Verb verb = add_subcommand(wproj, name, "not in this keel, which was built without Eigen");
        verb.allow_extras().callback(
            [] { throw ToolError(kExitUsage, "this keel was built without Eigen, which making caches needs"); });
    }
#endif
    add_wproj_inspect_verb(wproj, console);
    add_wproj_verify_verb(wproj, console);
    add_wproj_pack_verb(wproj, console);
    add_wproj_find_verb(wproj, console);
    add_wproj_manifest_verb(wproj, console);
}

}  // namespace keel::tools
