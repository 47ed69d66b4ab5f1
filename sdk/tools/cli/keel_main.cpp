// The keel command: parses the line, runs one verb, turns errors into messages and exit codes.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <new>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/help_text.h"
#include "sdk/tools/common/interrupt.h"

namespace {

using namespace keel::tools;

class WrappedHelp : public CLI::Formatter {
  public:
    std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
        return wrap_help(CLI::Formatter::make_help(app, std::move(name), mode));
    }
};

// The code, or kExitRuntime with a message where not all of the output could be written.
int finish(int code) {
    errno = 0;
    std::cout.flush();
    if (fflush(stdout) == 0 && !ferror(stdout) && std::cout) return code;
    fprintf(stderr, "error: cannot write to standard output%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
    return code == kExitOk ? static_cast<int>(kExitRuntime) : code;
}

}  // namespace

int main(int argc, char** argv) {
    watch_interrupts();
    Console console;
    console.progress = stderr_is_terminal();

    CLI::App app{"Keel runs GGUF language models inside memory you plan first."};
    app.name("keel");
    app.formatter(std::make_shared<WrappedHelp>());
    app.require_subcommand(1);
    app.set_version_flag("--version",
                         strf("keel %d.%d.%d", KEEL_VERSION_MAJOR, KEEL_VERSION_MINOR, KEEL_VERSION_PATCH));
    app.footer(
        "Exit codes:\n"
        "  0  done\n"
        "  1  something failed while running\n"
        "  2  the command line is wrong\n"
        "  3  a file cannot be read, is malformed or is not supported\n"
        "  4  memory, context or another limit is too small\n"
        "  5  stopped by Ctrl-C\n"
        "`keel VERB --help` shows a verb's options with examples.");
    add_run_verb(app, console);
    add_chat_verb(app, console);
    add_plan_verb(app, console);
    add_inspect_verb(app, console);
    add_bench_verb(app, console);
    add_profile_verb(app, console);
    add_eval_verb(app, console);
    add_calibrate_verb(app, console);
    add_capture_verb(app, console);
    add_tokenize_verb(app, console);
    add_synth_verb(app, console);
    add_wproj_verb(app, console);
    add_geometry_verb(app, console);
    add_pack_verb(app, console);
    add_unpack_verb(app, console);
    add_quantize_verb(app, console);

    try {
        app.parse(argc, argv);
    } catch (const ExitWith& done) {
        return finish(done.code);
    } catch (const CLI::ParseError& error) {
        return finish(app.exit(error) == 0 ? kExitOk : kExitUsage);
    } catch (const ToolError& error) {
        print_error(console, error);
        return finish(error.exit_code);
    } catch (const std::bad_alloc&) {
        print_error(console, ToolError(kExitMemory, "out of memory"));
        return finish(kExitMemory);
    } catch (const std::exception& error) {
        print_error(console, ToolError(kExitRuntime, error.what()));
        return finish(kExitRuntime);
    }
    return finish(interrupted() ? kExitCancelled : kExitOk);
}
