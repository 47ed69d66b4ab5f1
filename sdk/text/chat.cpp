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
    const char* name;
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
    {"chatml",
     KEEL_CHAT_CHATML,
     kSystemTurn,
     false,
     {},
     {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
     {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"},
     "<|im_start|>assistant\n",
     ""},
    {"llama3",
     KEEL_CHAT_LLAMA3,
     kSystemTurn,
     false,
     {true, true, true},
     {"<|start_header_id|>system<|end_header_id|>\n\n", "<|start_header_id|>user<|end_header_id|>\n\n",
      "<|start_header_id|>assistant<|end_header_id|>\n\n"},
     {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     ""},
    // Mistral: 0 and 1 the first templates, 2 v1, 3 v3, 4 v3-tekken. The [/INST] opens the assistant's turn.
    {"mistral-v0.1",
     KEEL_CHAT_MISTRAL,
     kSystemNowhere,
     true,
     {},
     {"", "[INST] ", ""},
     {"", " [/INST]", kEos " "},
     "",
     ""},
    {"mistral-v0.2", KEEL_CHAT_MISTRAL, kSystemNowhere, true, {}, {"", "[INST] ", ""}, {"", " [/INST]", kEos}, "", ""},
    {"mistral-v1",
     KEEL_CHAT_MISTRAL,
     kSystemFirstUser,
     true,
     {},
     {"", " [INST] ", " "},
     {"", " [/INST]", kEos},
     "",
     ""},
    {"mistral-v3",
     KEEL_CHAT_MISTRAL,
     kSystemLastUser,
     true,
     {false, false, true},
     {"", "[INST] ", " "},
     {"", "[/INST]", kEos},
     "",
     ""},
    {"mistral-nemo", KEEL_CHAT_MISTRAL, kSystemLastUser, true, {}, {"", "[INST]", ""}, {"", "[/INST]", kEos}, "", ""},
    // Gemma: 0 the first two generations, 1 the third, which has a system message.
    {"gemma",
     KEEL_CHAT_GEMMA,
     kSystemNowhere,
     true,
     {false, true, true},
     {"", "<start_of_turn>user\n", "<start_of_turn>model\n"},
     {"", "<end_of_turn>\n", "<end_of_turn>\n"},
     "<start_of_turn>model\n",
     ""},
    {"gemma3",
     KEEL_CHAT_GEMMA,
     kSystemFirstUser,
     true,
     {false, true, true},
     {"", "<start_of_turn>user\n", "<start_of_turn>model\n"},
     {"", "<end_of_turn>\n", "<end_of_turn>\n"},
     "<start_of_turn>model\n",
     ""},
    {"phi3",
     KEEL_CHAT_PHI3,
     kSystemTurn,
     false,
     {},
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {"<|end|>\n", "<|end|>\n", "<|end|>\n"},
     "<|assistant|>\n",
     kEos},
    {"zephyr",
     KEEL_CHAT_ZEPHYR,
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

// Writes until something does not fit.
struct Output {
    const JinjaWork& work;
    JinjaText eos;
    uint32_t bytes;
    bool full;
    void raw(const char* s, size_t n, bool from_message) {
        if (full || n > work.capacity - bytes) full = true;
        if (full || n == 0) return;
        memcpy(work.out + bytes, s, n);
        memset(work.out_marks + bytes, from_message, n);
        bytes += static_cast<uint32_t>(n);
    }
    void text(const char* s) {
        for (; *s; ++s) *s == *kEos ? raw(eos.data, eos.bytes, false) : raw(s, 1, false);
    }
    void message(const keel_chat_message& m, bool trim) {
        const char* s = m.text;
        size_t n = m.bytes;
        for (; trim && n && is_space(*s); ++s) --n;
        while (trim && n && is_space(s[n - 1])) --n;
        raw(s, n, true);
    }
};

keel_status role_of(const keel_chat_message& m, uint32_t* role) {
    if (!m.role || (!m.text && m.bytes) || m.field_bytes) return KEEL_E_ARGUMENT;
    for (*role = 0; *role < kRoleCount; ++*role)
        if (strcmp(m.role, kRoleNames[*role]) == 0) return KEEL_OK;
    return KEEL_E_ARGUMENT;
}

// A chat in the spelling of a family. *reason says why it is refused.
keel_status write_spelling(const Spelling& s, const JinjaInput& input, const JinjaWork& work, uint32_t* bytes,
                           const char** reason) {
    const uint32_t count = input.count;
    Output out = {work, input.eos, 0, false};
    *reason = "a message is null, of a role the family has none for, or out of turn";
    keel_chat_message system = {};
    bool system_waits = false;  // for the user message it stands in
    uint32_t turn = 0;
    for (uint32_t i = 0; i < count; ++i) {
        keel_chat_message message;
        uint32_t role;
        KEEL_TRY(read_versioned(input.messages, &message, i));
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
    out.text(input.open_assistant ? s.open : s.closed);
    *bytes = out.bytes;
    *reason = "the text is longer than max_chat_bytes";
    return out.full ? KEEL_E_TEXT_LIMIT : KEEL_OK;
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
    return {KEEL_CHAT_OTHER, 0};
}

ChatTemplate chat_named(const char* name, size_t bytes) {
    while (bytes && is_space(name[bytes - 1])) --bytes;
    uint32_t spelling = 0;
    for (const Spelling& s : kSpellings) {
        spelling = &s != kSpellings && s.family == (&s)[-1].family ? spelling + 1 : 0;
        if (strlen(s.name) == bytes && memcmp(s.name, name, bytes) == 0) return {s.family, spelling};
    }
    return {KEEL_CHAT_NONE, 0};
}

keel_status chat_place(const ChatChoice& choice, uint32_t max_bytes, Arena& arena, Chat* out, keel_error* error) {
    *out = {};
    out->choice = choice;
    if (choice.chat.family <= KEEL_CHAT_UNKNOWN) return KEEL_OK;
    if (!choice.named) KEEL_TRY(jinja_place(choice.source, arena, &out->program, error));
    jinja_place_work(max_bytes, arena, &out->work);
    return KEEL_OK;
}

keel_status chat_write(const Chat& chat, const JinjaInput& input, uint32_t* bytes, keel_error* error) {
    if (chat.program) return jinja_render(*chat.program, input, chat.work, bytes, error);
    const Spelling* const spelling = chat.choice.named ? find_spelling(chat.choice.chat) : nullptr;
    const char* reason = "the model has none that Keel can run";
    const keel_status status = !spelling               ? KEEL_E_UNSUPPORTED
                               : input.variables.bytes ? KEEL_E_ARGUMENT
                                                       : write_spelling(*spelling, input, chat.work, bytes, &reason);
    if (spelling && input.variables.bytes) reason = "a family has no variables";
    return status == KEEL_OK ? KEEL_OK : fail(error, status, 0, "chat template", reason);
}

}  // namespace keel
