// What every verb of the command shares on its way to a person or a script: exit codes, errors, units, tables,
// progress.
#pragma once
#include <stdint.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "keel/keel.h"

namespace keel::tools {

using Json = nlohmann::ordered_json;

// Documented in `keel --help`.
enum ExitCode {
    kExitOk = 0,
    kExitRuntime = 1,    // something failed while running
    kExitUsage = 2,      // the command line is wrong
    kExitFile = 3,       // a file cannot be read, is malformed or is not supported
    kExitMemory = 4,     // memory, context or another limit is too small
    kExitCancelled = 5,  // stopped by Ctrl-C
};
ExitCode exit_code_of(keel_status status);

// What verbs throw; main() prints it and exits with its code.
struct ToolError : std::runtime_error {
    ToolError(ExitCode exit_code, const std::string& what) : std::runtime_error(what), exit_code(exit_code) {}
    ToolError(keel_status status, const std::string& doing, const keel_error* detail = nullptr);

    ExitCode exit_code;
    Json detail;  // {"status", "field", "offset", "reason"} of an error that came from the library; else null
};

// Throws when `status` is neither KEEL_OK nor KEEL_AGAIN. `doing` reads well after "error: ", such as "cannot load
// m.gguf". Allocates only when it throws.
void check(keel_status status, std::string_view doing, const keel_error* detail = nullptr);

struct Console {
    bool json = false;      // --json: one JSON document on stdout, nothing else there
    bool progress = false;  // stderr is a terminal
};
void print_json(const Json& document);
void print_error(const Console& console, const ToolError& error);

// printf to a string.
[[gnu::format(printf, 1, 2)]] std::string strf(const char* format, ...);

std::string hex64(uint64_t value);            // 16 digits, of fingerprints, hashes and keys
std::string human_bytes(uint64_t bytes);      // "14.1 MiB"
std::string human_count(uint64_t count);      // "7.34 M"
std::string human_us(double microseconds);    // "812 us", "3.41 ms", "1.20 s"
uint64_t parse_bytes(std::string_view text);  // "4096", "512M", "1.5GiB"; powers of 1024; throws ToolError

// Columns padded to their widest cell: the first `left` columns to the left, the others to the right.
class Table {
  public:
    explicit Table(std::vector<std::string> head, size_t left = 1) : left_(left), rows_{std::move(head)} {}
    void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
    std::string text() const;

  private:
    size_t left_;
    std::vector<std::vector<std::string>> rows_;
};

// "loading [######....]  60 %  12 s left  94.2 MiB", never wider than `columns`: the bar gives way first, then the
// note. Without an estimate where seconds_left is negative.
std::string progress_line(std::string_view label, double part, double seconds_left, std::string_view note,
                          size_t columns);

// Progress on stderr. On a terminal one line, redrawn at most ten times a second and as wide as the terminal; elsewhere
// a line every 15 seconds.
class ProgressBar {
  public:
    ProgressBar(const Console& console, std::string label);
    ~ProgressBar();
    // Throws ToolError (kExitCancelled) after Ctrl-C.
    void update(uint64_t done, uint64_t total, std::string_view note = {});
    // The same for callers that must not throw.
    void draw(uint64_t done, uint64_t total, std::string_view note = {});

  private:
    bool terminal_, drawn_ = false;
    std::string label_;
    std::chrono::steady_clock::time_point start_, next_;
};

// Columns of the terminal on stderr; 80 where it does not say.
size_t terminal_columns();

bool stderr_is_terminal();
bool stdin_is_terminal();
// The whole file, or standard input for "-". Throws ToolError (kExitFile).
std::string read_text(const std::string& path);

}  // namespace keel::tools
