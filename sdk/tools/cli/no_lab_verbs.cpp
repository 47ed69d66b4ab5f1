// In a command without the laboratory (KEEL_BUILD_LAB=OFF): its verbs, which say how to get them.
#include "sdk/tools/cli/verbs.h"

namespace keel::tools {
namespace {

void add_missing_verb(Verb app, const std::string& name) {
    Verb verb = add_subcommand(app, name, "laboratory: not in this keel, which says how to get it");
    verb.prefix_command();
    verb.callback([name] {
        throw ToolError(kExitUsage,
                        "`keel " + name +
                            "` is part of the laboratory, which this keel was built without. This builds it:\n"
                            "  cmake --preset release && cmake --build --preset release --target keel_command\n"
                            "and build/release/keel has it.");
    });
}

}  // namespace

void add_eval_kv_verb(Verb eval, Console&) {
    add_missing_verb(eval, "kv");
}
void add_eval_learn_verb(Verb eval, Console&) {
    add_missing_verb(eval, "learn");
}
void add_calibrate_verb(Verb app, Console&) {
    add_missing_verb(app, "calibrate");
}
void add_capture_verb(Verb app, Console&) {
    add_missing_verb(app, "capture");
}
void add_synth_verb(Verb app, Console&) {
    add_missing_verb(app, "synth");
}
void add_wproj_verb(Verb app, Console&) {
    add_missing_verb(app, "wproj");
}
void add_geometry_verb(Verb app, Console&) {
    add_missing_verb(app, "geometry");
}
void add_pack_verb(Verb app, Console&) {
    add_missing_verb(app, "pack");
}
void add_unpack_verb(Verb app, Console&) {
    add_missing_verb(app, "unpack");
}
void add_quantize_verb(Verb app, Console&) {
    add_missing_verb(app, "quantize");
}

}  // namespace keel::tools
