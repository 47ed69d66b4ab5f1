#include "sdk/tools/common/line_editor.h"

#include <stdio.h>

#include <iostream>

#ifdef KEEL_HAVE_EDITLINE
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#endif

namespace keel::tools {

#ifdef KEEL_HAVE_EDITLINE

struct LineEditor::Terminal {
    explicit Terminal(const char* prompt_text) : prompt(prompt_text) {
        setlocale(LC_CTYPE, "");  // letters of several bytes are edited as one
        edit = el_init("keel", stdin, stderr, stderr);
        lines = history_init();
        HistEvent event;
        history(lines, &event, H_SETSIZE, 1000);
        history(lines, &event, H_SETUNIQUE, 1);
        el_set(edit, EL_CLIENTDATA, this);
        el_set(edit, EL_PROMPT, static_cast<char* (*)(EditLine*)>([](EditLine* e) {
                   Terminal* self = nullptr;
                   el_get(e, EL_CLIENTDATA, &self);
                   return const_cast<char*>(self->prompt);
               }));
        el_set(edit, EL_EDITOR, "emacs");
        el_set(edit, EL_HIST, history, lines);
        // Ctrl-C is a key while a line is edited, since libedit goes on reading after a signal; it is passed on as one.
        el_set(edit, EL_ADDFN, "keel-interrupt", "passes Ctrl-C on",
               static_cast<unsigned char (*)(EditLine*, int)>([](EditLine*, int) {
                   raise(SIGINT);
                   return static_cast<unsigned char>(CC_EOF);
               }));
        el_set(edit, EL_BIND, "^C", "keel-interrupt", nullptr);
        el_set(edit, EL_SETTY, "-d", "-isig", nullptr);
    }
    ~Terminal() {
        el_end(edit);
        history_end(lines);
    }
    std::optional<std::string> read() {
        int bytes = 0;
        const char* line = el_gets(edit, &bytes);
        if (!line || bytes <= 0) {
            fputs("\n", stderr);
            return {};
        }
        std::string text(line, static_cast<size_t>(bytes));
        while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
        HistEvent event;
        if (!text.empty()) history(lines, &event, H_ENTER, text.c_str());
        return text;
    }

    const char* prompt;
    EditLine* edit;
    History* lines;
};

#else

struct LineEditor::Terminal {
    explicit Terminal(const char*) {}
    std::optional<std::string> read() { return {}; }
};

#endif

LineEditor::LineEditor(bool interactive, const char* prompt) : prompt_(prompt), interactive_(interactive) {
#ifdef KEEL_HAVE_EDITLINE
    if (interactive) terminal_ = std::make_unique<Terminal>(prompt);
#endif
}
LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::read() {
    if (terminal_) return terminal_->read();
    if (interactive_) fputs(prompt_, stderr);
    std::string line;
    if (!std::getline(std::cin, line)) return {};
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
}

}  // namespace keel::tools
