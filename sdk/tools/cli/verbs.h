// The verbs of the keel command. Each adds one subcommand whose callback does the work and throws ToolError when it
// fails.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sdk/tools/common/console.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace keel::tools {

struct EngineOptions;

// Handles to options and verbs of CLI11, with its names and meanings. CLI11 is headers only: whatever file includes it
// compiles most of it, three seconds each. So verbs include this, and verbs.cpp alone has the templates.
class VerbOption {
  public:
    explicit VerbOption(CLI::Option* option) : option_(option) {}
    VerbOption required(bool value = true);
    VerbOption capture_default_str();
    VerbOption group(const std::string& name);
    VerbOption needs(VerbOption other);
    VerbOption excludes(VerbOption other);
    VerbOption delimiter(char between);
    VerbOption expected(int count);
    VerbOption take_all();
    VerbOption allow_extra_args(bool value);
    VerbOption positive();
    VerbOption not_negative();
    // what(text): empty where the text is good, else what is wrong with it.
    VerbOption check(std::function<std::string(const std::string&)> what);
    VerbOption one_of(const std::vector<std::string>& values);
    template <class T>
    VerbOption range(T low, T high);  // of int, uint64_t and double

  private:
    CLI::Option* option_;
};

class Verb {
  public:
    Verb(CLI::App& app) : app_(&app) {}
    operator CLI::App&() const { return *app_; }  // for options that other rooms add
    // T: one of those at the end of verbs.cpp.
    template <class T>
    VerbOption add_option(const std::string& names, T& value, const std::string& what = "");
    VerbOption add_flag(const std::string& names, bool& value, const std::string& what);
    VerbOption get_option(const std::string& name);
    void callback(std::function<void()> work);
    void add_footer(const std::string& text);
    // For a verb that this command lacks, whose callback says so: words it does not know are no error.
    Verb allow_extras();
    Verb prefix_command();  // nor is anything else, --help included

  private:
    CLI::App* app_;
};

void add_run_verb(Verb app, Console& console);
void add_chat_verb(Verb app, Console& console);
void add_plan_verb(Verb app, Console& console);
void add_inspect_verb(Verb app, Console& console);
void add_bench_verb(Verb app, Console& console);
void add_profile_verb(Verb app, Console& console);
void add_eval_verb(Verb app, Console& console);
void add_eval_kv_verb(Verb eval, Console& console);  // below eval
void add_eval_draws_verb(Verb eval, Console& console);
void add_eval_learn_verb(Verb eval, Console& console);
void add_calibrate_verb(Verb app, Console& console);
void add_capture_verb(Verb app, Console& console);
void add_capture_trace_verb(Verb capture, Console& console);  // below capture
void add_capture_pool_verb(Verb capture, Console& console);
void add_tokenize_verb(Verb app, Console& console);
void add_synth_verb(Verb app, Console& console);
void add_wproj_verb(Verb app, Console& console);
void add_geometry_verb(Verb app, Console& console);
void add_pack_verb(Verb app, Console& console);
void add_unpack_verb(Verb app, Console& console);
void add_quantize_verb(Verb app, Console& console);

// What a callback throws that has said all there is to say.
struct ExitWith {
    int code;
};

// A verb below another, or below the command.
Verb add_subcommand(Verb above, const std::string& name, const std::string& what);
// One that only has others below it.
Verb add_group(Verb above, const char* name, const char* what);
// One with --json and examples in its help.
Verb add_verb(Verb above, Console& console, const char* name, const char* what, const char* examples);

// --backend and --device, for verbs that need nothing of the CPU's backend. verb_options.cpp
void add_backend_options(CLI::App& verb, EngineOptions& options);

// The model of a verb: by its place, or as -m FILE.
VerbOption add_model_option(Verb verb, std::string& path, const std::string& what = "GGUF file");

}  // namespace keel::tools
