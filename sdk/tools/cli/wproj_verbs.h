// The subcommands of `keel wproj`, a file each; build, compare and synth need the solvers.
#pragma once
#include "sdk/tools/cli/verbs.h"

namespace keel::tools {

void add_wproj_build_verb(Verb wproj, Console& console);
void add_wproj_compare_verb(Verb wproj, Console& console);
void add_wproj_synth_verb(Verb wproj, Console& console);
void add_wproj_inspect_verb(Verb wproj, Console& console);
void add_wproj_verify_verb(Verb wproj, Console& console);
void add_wproj_pack_verb(Verb wproj, Console& console);  // pack and unpack
void add_wproj_find_verb(Verb wproj, Console& console);
void add_wproj_manifest_verb(Verb wproj, Console& console);

}  // namespace keel::tools
