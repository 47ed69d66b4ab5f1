// The subcommands of `keel wproj`, a file each; the first three lie in sdk/tools/wproj_build, which needs the solvers.
#pragma once
#include "sdk/tools/verbs.h"

namespace keel::tools {

void add_wproj_build_verb(CLI::App& wproj, Console& console);
void add_wproj_compare_verb(CLI::App& wproj, Console& console);
void add_wproj_synth_verb(CLI::App& wproj, Console& console);
void add_wproj_inspect_verb(CLI::App& wproj, Console& console);
void add_wproj_verify_verb(CLI::App& wproj, Console& console);
void add_wproj_pack_verb(CLI::App& wproj, Console& console);    // pack and unpack
void add_wproj_find_verb(CLI::App& wproj, Console& console);
void add_wproj_manifest_verb(CLI::App& wproj, Console& console);

}  // namespace keel::tools
