// Lines from standard input; on a terminal with editing and a history, where the build found libedit.
#pragma once
#include <memory>
#include <optional>
#include <string>

namespace keel::tools {

class LineEditor {
  public:
    // `interactive`: a person types; the prompt goes to stderr. Else lines are read as they come.
    LineEditor(bool interactive, const char* prompt);
    LineEditor(const LineEditor&) = delete;
    ~LineEditor();
    // Without its end of line; nothing at the end of the input, or after Ctrl-C (interrupted() tells).
    std::optional<std::string> read();

  private:
    struct Terminal;
    std::unique_ptr<Terminal> terminal_;  // null: plain lines
    const char* prompt_;
    bool interactive_;
};

}  // namespace keel::tools
