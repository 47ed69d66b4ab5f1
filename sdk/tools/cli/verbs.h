// The verbs of the keel command. Each adds one subcommand whose callback does the work and throws ToolError when it
// fails.
#pragma once
#include <CLI/CLI.hpp>

#include "sdk/tools/common/console.h"

namespace keel::tools {

struct EngineOptions;

void add_run_verb(CLI::App& app, Console& console);
void add_chat_verb(CLI::App& app, Console& console);
void add_plan_verb(CLI::App& app, Console& console);
void add_inspect_verb(CLI::App& app, Console& console);
void add_bench_verb(CLI::App& app, Console& console);
void add_profile_verb(CLI::App& app, Console& console);
void add_eval_verb(CLI::App& app, Console& console);
void add_eval_kv_verb(CLI::App& eval, Console& console);  // below eval
void add_eval_draws_verb(CLI::App& eval, Console& console);
void add_eval_learn_verb(CLI::App& eval, Console& console);
void add_calibrate_verb(CLI::App& app, Console& console);
void add_capture_verb(CLI::App& app, Console& console);
void add_capture_trace_verb(CLI::App& capture, Console& console);  // below capture
void add_capture_pool_verb(CLI::App& capture, Console& console);
void add_tokenize_verb(CLI::App& app, Console& console);
void add_synth_verb(CLI::App& app, Console& console);
void add_wproj_verb(CLI::App& app, Console& console);
void add_geometry_verb(CLI::App& app, Console& console);
void add_quantize_verb(CLI::App& app, Console& console);

// A subcommand with --json and examples in its help.
inline CLI::App* add_verb(CLI::App& app, Console& console, const char* name, const char* what, const char* examples) {
    CLI::App* verb = app.add_subcommand(name, what);
    verb->add_flag("--json", console.json, "one JSON document on stdout");
    verb->footer(std::string("Examples:\n") + examples);
    return verb;
}

// --backend and --device, for verbs that need nothing of the CPU's backend. verb_options.cpp
void add_backend_options(CLI::App& verb, EngineOptions& options);

// The model of a verb: by its place, or as -m FILE.
inline CLI::Option* add_model_option(CLI::App& verb, std::string& path, const std::string& what = "GGUF file") {
    return verb.add_option("model,-m,--model", path, what);
}

}  // namespace keel::tools
