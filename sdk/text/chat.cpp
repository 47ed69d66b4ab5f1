// The families as data: what stands around a message of each role.
#include "sdk/text/chat.h"

#include <string.h>

#include "sdk/core/status.h"

namespace keel {
namespace {

enum Role : uint32_t { kSystem = 0, kUser, kAssistant, kRoleCount };
constexpr const char* kRoleNames[kRoleCount] = {"system", "user", "assistant"};

// Where the system message goes.
enum SystemPlace : uint8_t {
    kSystemNowhere,    // the template refuses it
    kSystemTurn,       // a turn like the others, anywhere
    kSystemFirstUser,  // before the text of the first user message, an empty line between
    kSystemLastUser    // before the text of the last message, if it is the user's
};

struct Spelling {
    keel_chat_family family;
    SystemPlace system;
    bool alternating;  // user first, then in turns
    bool trim[kRoleCount];
    const char* before[kRoleCount];
    const char* after[kRoleCount];
    const char* open;    // opening of an assistant turn
    const char* closed;  // end of the text when none is opened
};

// Stands for the model's end-of-sequence text.
#define kEos "\x01"

// Texts of published templates; tests/generators/make_chat_oracles.py runs them.
constexpr Spelling kSpellings[] = {
    {KEEL_CHAT_CHATML,
     kSystemTurn,
     false,
     {},
     {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
     {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"},
     "<|im_start|>assistant\n",
     ""},
    {KEEL_CHAT_LLAMA3,
     kSystemTurn,
     false,
     {true, true, true},
     {"<|start_header_id|>system<|end_header_id|>\n\n", "<|start_header_id|>user<|end_header_id|>\n\n",
      "<|start_header_id|>assistant<|end_header_id|>\n\n"},
     {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     ""},
    // Mistral: 0 and 1 the first templates, 2 v1, 3 v3, 4 v3-tekken. The [/INST] opens the assistant's turn.
    {KEEL_CHAT_MISTRAL, kSystemNowhere, true, {}, {"", "[INST] ", ""}, {"", " [/INST]", kEos " "}, "", ""},
    {KEEL_CHAT_MISTRAL, kSystemNowhere, true, {}, {"", "[INST] ", ""}, {"", " [/INST]", kEos}, "", ""},
    {KEEL_CHAT_MISTRAL, kSystemFirstUser, true, {}, {"", " [INST] ", " "}, {"", " [/INST]", kEos}, "", ""},
    {KEEL_CHAT_MISTRAL,
     kSystemLastUser,
     true,
     {false, false, true},
     {"", "[INST] ", " "},
     {"", "[/INST]", kEos},
     "",
     ""},
    {KEEL_CHAT_MISTRAL, kSystemLastUser, true, {}, {"", "[INST]", ""}, {"", "[/INST]", kEos}, "", ""},
    // Gemma: 0 the first two generations, 1 the third, which has a system message.
    {KEEL_CHAT_GEMMA,
     kSystemNowhere,
     true,
     {false, true, true},
     {"", "<start_of_turn>user\n", "<start_of_turn>model\n"},
     {"", "<end_of_turn>\n", "<end_of_turn>\n"},
     "<start_of_turn>model\n",
     ""},
    {KEEL_CHAT_GEMMA,
     kSystemFirstUser,
     true,
     {false, true, true},
     {"", "<start_of_turn>user\n", "<start_of_turn>model\n"},
     {"", "<end_of_turn>\n", "<end_of_turn>\n"},
     "<start_of_turn>model\n",
     ""},
    {KEEL_CHAT_PHI3,
     kSystemTurn,
     false,
     {},
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {"<|end|>\n", "<|end|>\n", "<|end|>\n"},
     "<|assistant|>\n",
     kEos},
    {KEEL_CHAT_ZEPHYR,
     kSystemTurn,
     false,
     {},
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {kEos "\n", kEos "\n", kEos "\n"},
     "<|assistant|>\n",
     ""},
};

// How a spelling is recognised: every text of `has` occurs, none of `lacks` does. The first row that fits decides.
struct Mark {
    ChatTemplate chat;
    const char* has[3];
    const char* lacks[3];
};
constexpr Mark kMarks[] = {
    {{KEEL_CHAT_CHATML, 0}, {"<|im_start|>", "<|im_end|>"}, {"<|im_sep|>", "<end_of_utterance>"}},
    {{KEEL_CHAT_LLAMA3, 0}, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, {"<|im_start|>"}},
    {{KEEL_CHAT_MISTRAL, 4}, {"\"[INST]\"", "[/INST]"}, {"<<SYS>>", "[SYSTEM_PROMPT]"}},
    {{KEEL_CHAT_MISTRAL, 3}, {"\"[INST] \"", "[/INST]"}, {"<<SYS>>", "[SYSTEM_PROMPT]"}},
    {{KEEL_CHAT_MISTRAL, 2}, {"' [INST] '", "' [/INST]'"}, {"<<SYS>>", "[SYSTEM_PROMPT]"}},
    {{KEEL_CHAT_MISTRAL, 0},
     {"'[INST] '", "' [/INST]'", "eos_token + ' '"},
     {"<<SYS>>", "[SYSTEM_PROMPT]", "content.strip()"}},
    {{KEEL_CHAT_MISTRAL, 1},
     {"'[INST] '", "' [/INST]'", "eos_token"},
     {"<<SYS>>", "[SYSTEM_PROMPT]", "content.strip()"}},
    {{KEEL_CHAT_GEMMA, 1}, {"<start_of_turn>", "<end_of_turn>", "first_user_prefix if loop.first"}, {}},
    {{KEEL_CHAT_GEMMA, 0}, {"<start_of_turn>", "<end_of_turn>", "'System role not supported'"}, {}},
    {{KEEL_CHAT_PHI3, 0}, {"<|user|>", "<|assistant|>", "<|end|>"}, {"<|start|>", "[gMASK]"}},
    {{KEEL_CHAT_ZEPHYR, 0},
     {"'<|user|>\n' + message['content'] + eos_token", "'<|assistant|>\n'  + message['content'] + eos_token"},
     {}},
};

// True when `what` stands in the text; a newline in it is a newline or, as in a quoted string of the template, "\n".
bool contains(const char* text, size_t bytes, const char* what) {
    for (size_t begin = 0; begin < bytes; ++begin) {
        size_t at = begin;
        const char* w = what;
        for (; *w && at < bytes; ++w) {
            const bool escaped = *w == '\n' && bytes - at >= 2 && text[at] == '\\' && text[at + 1] == 'n';
            if (!escaped && text[at] != *w) break;
            at += escaped ? 2 : 1;
        }
        if (!*w) return true;
    }
    return false;
}

const Spelling* find_spelling(ChatTemplate chat) {
    uint32_t left = chat.spelling;
    for (const Spelling& s : kSpellings)
        if (s.family == chat.family && left-- == 0) return &s;
    return nullptr;
}

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

// Writes what fits and counts everything.
struct Output {
    char* dst;
    size_t capacity;
    const char* eos;
    size_t eos_bytes, bytes;
    void raw(const char* s, size_t n) {
        if (bytes <= capacity && n <= capacity - bytes && n) memcpy(dst + bytes, s, n);
        bytes += n;
    }
    void text(const char* s) {
        for (; *s; ++s) *s == *kEos ? raw(eos, eos_bytes) : raw(s, 1);
    }
    void message(const keel_chat_message& m, bool trim) {
        const char* s = m.text;
        size_t n = m.bytes;
        for (; trim && n && is_space(*s); ++s) --n;
        while (trim && n && is_space(s[n - 1])) --n;
        raw(s, n);
    }
};

keel_status role_of(const keel_chat_message& m, uint32_t* role) {
    if (!m.role || (!m.text && m.bytes)) return KEEL_E_ARGUMENT;
    for (*role = 0; *role < kRoleCount; ++*role)
        if (strcmp(m.role, kRoleNames[*role]) == 0) return KEEL_OK;
    return KEEL_E_ARGUMENT;
}

}  // namespace

ChatTemplate chat_detect(const char* jinja, size_t bytes) {
    if (bytes == 0) return {KEEL_CHAT_NONE, 0};
    for (const Mark& mark : kMarks) {
        bool fits = true;
        for (const char* text : mark.has) fits = fits && (!text || contains(jinja, bytes, text));
        for (const char* text : mark.lacks) fits = fits && (!text || !contains(jinja, bytes, text));
        if (fits) return mark.chat;
    }
    return {KEEL_CHAT_UNKNOWN, 0};
}

keel_status chat_format(ChatTemplate chat, const char* eos, size_t eos_bytes, const keel_chat_message* messages,
                        uint32_t count, bool open_assistant, char* dst, size_t capacity, size_t* bytes) {
    const Spelling* const spelling = find_spelling(chat);
    if (!spelling) return KEEL_E_UNSUPPORTED;
    const Spelling& s = *spelling;
    Output out = {dst, capacity, eos, eos_bytes, 0};
    keel_chat_message system = {};
    bool system_waits = false;  // for the user message it stands in
    uint32_t turn = 0;
    for (uint32_t i = 0; i < count; ++i) {
        keel_chat_message message;
        uint32_t role;
        KEEL_TRY(read_versioned(messages, &message, i));
        KEEL_TRY(role_of(message, &role));
        if (role == kSystem && s.system != kSystemTurn) {
            if (i != 0 || s.system == kSystemNowhere) return KEEL_E_ARGUMENT;
            system = message;
            system_waits = true;
            continue;
        }
        if (s.alternating && (role == kUser) != (turn++ % 2 == 0)) return KEEL_E_ARGUMENT;
        out.text(s.before[role]);
        if (system_waits && role == kUser && (s.system == kSystemFirstUser || i + 1 == count)) {
            out.message(system, s.trim[kSystem]);
            out.text("\n\n");
            system_waits = false;
        }
        out.message(message, s.trim[role]);
        out.text(s.after[role]);
    }
    if (system_waits) return KEEL_E_ARGUMENT;  // the template would lose it
    out.text(open_assistant ? s.open : s.closed);
    *bytes = out.bytes;
    return dst && out.bytes > capacity ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

}  // namespace keel
