// Chats: messages to text, by a template that a GGUF or a part carries (sdk/text/jinja.h), or by one of the families
// that Keel knows by name, for models without a template.
//
// What a family writes is what its published templates write for the same messages, without what they add of their own:
// no system message nobody gave (Qwen 2.5, SmolLM2), no date (Llama 3.1), no tools, and no BOS, which belongs to
// KEEL_TOKENIZE_BOS. Templates that write a message otherwise (reasoning left out of the history, say) are followed in
// the plain form only. All of that is the business of the model's own template, which is run where there is one.
#pragma once
#include "sdk/text/jinja.h"

namespace keel {

// A family and which of its published spellings. Zero is KEEL_CHAT_NONE.
struct ChatTemplate {
    keel_chat_family family;
    uint32_t spelling;  // row of the family's spellings in chat.cpp; 0 where it has one
};

// Which family a template's text is of. KEEL_CHAT_MISTRAL covers, in this order of spelling: the first templates of
// Mistral-7B-Instruct ("[INST] text [/INST]", v0.1 with a space after </s>, v0.2 without), and mistral-common's v1
// (" [INST] text [/INST]"), v3 ("[INST] text[/INST]") and v3-tekken ("[INST]text[/INST]"). Others are KEEL_CHAT_OTHER.
ChatTemplate chat_detect(const char* jinja, size_t bytes);
// The family of a name ("chatml"), else KEEL_CHAT_NONE.
ChatTemplate chat_named(const char* name, size_t bytes);

// What a model's chats are written with, as a configuration chooses it.
struct ChatChoice {
    ChatTemplate chat;   // of a named family; else the family its template is of, for information
    bool named;          // no template: the family's own spelling
    JinjaSource source;  // unless named; chat.family is KEEL_CHAT_UNKNOWN or NONE where it is not to be used
};
struct Chat {
    ChatChoice choice;
    const JinjaProgram* program;  // null: named, or there is no template
    JinjaWork work;               // of one call at a time
};
// Places what `choice` needs, with `max_bytes` for the text; nothing where there is no template. Errors as jinja_place.
keel_status chat_place(const ChatChoice& choice, uint32_t max_bytes, Arena& arena, Chat* out, keel_error* error);

// Writes the messages to chat.work: out and out_marks have *bytes bytes then. A family whose templates refuse a role
// (system in Gemma and the first Mistral templates), or an order of roles, is KEEL_E_ARGUMENT here too, and it has no
// variables. `input.eos` ends a turn in some families. Errors as jinja_render; KEEL_E_UNSUPPORTED without a template.
keel_status chat_write(const Chat& chat, const JinjaInput& input, uint32_t* bytes, keel_error* error);

}  // namespace keel
