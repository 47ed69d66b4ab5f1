// The subcommands of `keel wproj`, a file each; build, compare and synth need the solvers.
#pragma once
#include "sdk/tools/cli/verbs.h"

namespace keel::tools {

void add_wproj_build_verb(CLI::App& wproj, Console& console);
void add_wproj_compare_verb(CLI::App& wproj, Console& console);
void add_wproj_synth_verb(CLI::App& wproj, Console& console);
void add_wproj_inspect_verb(CLI::App& wproj, Console& console);
void add_wproj_verify_verb(CLI::App& wproj, Console& console);
void add_wproj_pack_verb(CLI::App& wproj, Console& console);  // pack and unpack
void add_wproj_find_verb(CLI::App& wproj, Console& console);
void add_wproj_manifest_verb(CLI::App& wproj, Console& console);

}  // namespace keel::tools
