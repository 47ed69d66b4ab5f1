#include "sdk/tools/common/console.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#ifdef _WIN32
#include <io.h>
#define KEEL_IS_TERMINAL(file) _isatty(_fileno(file))
#else
#include <sys/ioctl.h>
#include <unistd.h>
#define KEEL_IS_TERMINAL(file) isatty(fileno(file))
#endif

#include "sdk/tools/common/interrupt.h"

namespace keel::tools {

ExitCode exit_code_of(keel_status status) {
    switch (status) {
        case KEEL_OK:
        case KEEL_AGAIN:
            return kExitOk;
        case KEEL_E_FILE_READ:
        case KEEL_E_FILE_FORMAT:
        case KEEL_E_FILE_LIMIT:
        case KEEL_E_UNSUPPORTED:
        case KEEL_E_FILE_MISMATCH:
        case KEEL_E_FILE_MISSING:
        case KEEL_E_FILE_PERMISSION:
        case KEEL_E_FILE_KIND:
            return kExitFile;
        case KEEL_E_SLOTS_FULL:
        case KEEL_E_MEMORY_TOO_SMALL:
        case KEEL_E_MEMORY_ALIGN:
        case KEEL_E_BUFFER_TOO_SMALL:
        case KEEL_E_CONTEXT_FULL:
        case KEEL_E_KV_FULL:
        case KEEL_E_TEXT_LIMIT:
            return kExitMemory;
        case KEEL_E_CANCELLED:
            return kExitCancelled;
        default:
            return kExitRuntime;
    }
}

namespace {

std::string error_line(keel_status status, const std::string& doing, const keel_error* detail) {
    std::string line = doing + ": " + keel_status_text(status) + " (" + keel_status_name(status) + ")";
    if (!detail || detail->status == KEEL_OK) return line;
    if (detail->field[0]) line += std::string("\n  field:  ") + detail->field;
    if (detail->offset) line += strf("\n  offset: %llu", static_cast<unsigned long long>(detail->offset));
    if (detail->reason[0]) line += std::string("\n  reason: ") + detail->reason;
    return line;
}

}  // namespace

ToolError::ToolError(keel_status status, const std::string& doing, const keel_error* detail)
    : std::runtime_error(error_line(status, doing, detail)), exit_code(exit_code_of(status)) {
    this->detail = {{"status", keel_status_name(status)}};
    if (!detail || detail->status == KEEL_OK) return;
    this->detail["field"] = detail->field;
    this->detail["offset"] = detail->offset;
    this->detail["reason"] = detail->reason;
}

void check(keel_status status, std::string_view doing, const keel_error* detail) {
    if (status != KEEL_OK && status != KEEL_AGAIN) throw ToolError(status, std::string(doing), detail);
}

namespace {
bool document_printed = false;  // stdout has one at most
}

void print_json(const Json& document) {
    document_printed = true;
    // Text from models and files may hold bytes that are not UTF-8; they become U+FFFD instead of an exception.
    const std::string text = document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    fwrite(text.data(), 1, text.size(), stdout);
}

void print_error(const Console& console, const ToolError& error) {
    fprintf(stderr, "error: %s\n", error.what());
    if (!console.json || document_printed) return;
    Json document = {{"error", error.what()}, {"exit_code", error.exit_code}};
    if (!error.detail.is_null()) document["detail"] = error.detail;
    print_json(document);
}

std::string strf(const char* format, ...) {
    va_list arguments, copy;
    va_start(arguments, format);
    va_copy(copy, arguments);
    std::string text(static_cast<size_t>(std::max(0, vsnprintf(nullptr, 0, format, copy))), '\0');
    va_end(copy);
    vsnprintf(text.data(), text.size() + 1, format, arguments);
    va_end(arguments);
    return text;
}

std::string hex64(uint64_t value) {
    return strf("%016llx", static_cast<unsigned long long>(value));
}

std::string human_bytes(uint64_t bytes) {
    static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = static_cast<double>(bytes);
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
    return unit == 0 ? strf("%llu B", static_cast<unsigned long long>(bytes)) : strf("%.1f %s", value, kUnits[unit]);
}

std::string human_count(uint64_t count) {
    static const char* const kUnits[] = {"", " k", " M", " G", " T"};
    double value = static_cast<double>(count);
    size_t unit = 0;
    for (; value >= 1000 && unit + 1 < std::size(kUnits); ++unit) value /= 1000;
    return unit == 0 ? strf("%llu", static_cast<unsigned long long>(count)) : strf("%.2f%s", value, kUnits[unit]);
}

std::string human_us(double us) {
    if (us < 1000) return strf("%.1f us", us);
    if (us < 1e6) return strf("%.2f ms", us / 1e3);
    return strf("%.2f s", us / 1e6);
}

uint64_t parse_bytes(std::string_view text) {
    const std::string copy(text);
    char* end = nullptr;
    const double value = strtod(copy.c_str(), &end);
    const ToolError bad(kExitUsage, "'" + copy + "' is not a size; write 4096, 512M or 1.5GiB");
    if (end == copy.c_str() || !(value >= 0)) throw bad;
    std::string unit;
    for (const char* c = end; *c; ++c)
        if (*c != ' ') unit += static_cast<char>(*c | 0x20);
    static const char* const kUnits[] = {"", "k", "m", "g", "t"};
    for (size_t i = 0; i < std::size(kUnits); ++i) {
        const std::string u = kUnits[i];
        if (unit != u && unit != u + "b" && (u.empty() || unit != u + "ib")) continue;
        const double bytes = value * pow(1024, static_cast<double>(i));
        if (bytes >= 18446744073709551616.0) throw bad;
        return static_cast<uint64_t>(bytes);
    }
    throw bad;
}

std::string Table::text() const {
    std::vector<size_t> width;
    for (const auto& row : rows_) {
        width.resize(std::max(width.size(), row.size()));
        for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
    }
    std::string out;
    for (const auto& row : rows_) {
        std::string line;
        for (size_t i = 0; i < row.size(); ++i) {
            const std::string pad(width[i] - row[i].size(), ' ');
            line += (i ? "  " : "") + (i < left_ ? row[i] + pad : pad + row[i]);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + "\n";
    }
    return out;
}

std::string progress_line(std::string_view label, double part, double seconds_left, std::string_view note,
                          size_t columns) {
    part = std::clamp(part, 0.0, 1.0);
    std::string percent = strf("%3.0f %%", part * 100);
    if (seconds_left >= 90)
        percent += strf("  %.0f min left", seconds_left / 60);
    else if (seconds_left >= 0)
        percent += strf("  %.0f s left", seconds_left);
    constexpr size_t kMostBar = 30, kLeastBar = 5;
    std::string line(label);
    // Label, blank, brackets, two blanks, percent; two blanks and the note.
    const size_t fixed = label.size() + 4 + percent.size() + (note.empty() ? 0 : note.size() + 2);
    const size_t bar = std::min(columns > fixed ? columns - fixed : 0, kMostBar);
    if (bar >= kLeastBar) {
        const size_t filled = static_cast<size_t>(part * static_cast<double>(bar));
        line += " [" + std::string(filled, '#') + std::string(bar - filled, '.') + "]";
    }
    line += " " + percent;
    if (!note.empty()) line += "  " + std::string(note);
    if (line.size() > columns) line.resize(columns);
    return line;
}

ProgressBar::ProgressBar(const Console& console, std::string label)
    : terminal_(console.progress),
      label_(std::move(label)),
      start_(std::chrono::steady_clock::now()),
      next_(start_ + (terminal_ ? std::chrono::seconds(0) : std::chrono::seconds(15))) {}

void ProgressBar::update(uint64_t done, uint64_t total, std::string_view note) {
    stop_if_interrupted();
    draw(done, total, note);
}

void ProgressBar::draw(uint64_t done, uint64_t total, std::string_view note) {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_ && (!terminal_ || done < total)) return;
    const double part = total ? static_cast<double>(done) / static_cast<double>(total) : 1;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    // An estimate from the first moments would jump about.
    const double left = seconds > 1 && part > 0.01 ? seconds * (1 - part) / part : -1;
    if (terminal_) {
        next_ = now + std::chrono::milliseconds(100);
        drawn_ = true;
        // The last column stays empty: some terminals go to the next line when it is written.
        fprintf(stderr, "\r%s\033[K", progress_line(label_, part, left, note, terminal_columns() - 1).c_str());
    } else {
        next_ = now + std::chrono::seconds(15);
        fprintf(stderr, "%s\n", progress_line(label_, part, left, note, 200).c_str());
    }
}

ProgressBar::~ProgressBar() {
    if (drawn_) fprintf(stderr, "\r\033[K");
}

size_t terminal_columns() {
#ifdef TIOCGWINSZ
    winsize size{};
    if (ioctl(fileno(stderr), TIOCGWINSZ, &size) == 0 && size.ws_col > 1) return size.ws_col;
#endif
    return 80;
}

bool stderr_is_terminal() {
    return KEEL_IS_TERMINAL(stderr);
}
bool stdin_is_terminal() {
    return KEEL_IS_TERMINAL(stdin);
}

std::string read_text(const std::string& path) {
    if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
    // A device may have no end; pipes, as a shell makes of <(command), have one.
    std::error_code error;
    const std::filesystem::file_type type = std::filesystem::status(path, error).type();
    using enum std::filesystem::file_type;
    if (type == directory || type == character || type == block)
        throw ToolError(kExitFile, "cannot read " + path + ": it is a " + (type == directory ? "directory" : "device"));
    std::ifstream in(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(in), {}};
    if (!in) throw ToolError(kExitFile, "cannot read " + path + (error ? ": " + error.message() : ""));
    return text;
}

}  // namespace keel::tools
