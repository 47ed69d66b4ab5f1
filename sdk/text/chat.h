// Chat templates: the named families Keel writes. A GGUF carries Jinja text; Keel does not run Jinja, it recognises
// which family the text is, and reports KEEL_CHAT_UNKNOWN rather than guess.
//
// What is written is what the family's published templates write for the same messages, without what they add of their
// own: no system message nobody gave (Qwen 2.5, SmolLM2), no date (Llama 3.1), no tools, and no BOS, which belongs to
// KEEL_TOKENIZE_BOS. Templates that write a message otherwise (reasoning left out of the history, say) are followed in
// the plain form only.
#pragma once
#include "keel/keel.h"

namespace keel {

// A family and which of its published spellings. Zero is KEEL_CHAT_NONE.
struct ChatTemplate {
    keel_chat_family family;
    uint32_t spelling;  // row of the family's spellings in chat.cpp; 0 where it has one
};

// Recognises a template's text. KEEL_CHAT_MISTRAL covers, in this order of spelling: the first templates of
// Mistral-7B-Instruct ("[INST] text [/INST]", v0.1 with a space after </s>, v0.2 without), and mistral-common's v1
// (" [INST] text [/INST]"), v3 ("[INST] text[/INST]") and v3-tekken ("[INST]text[/INST]"). The [SYSTEM_PROMPT] form
// (v7) and Llama 2's <<SYS>> are KEEL_CHAT_UNKNOWN.
ChatTemplate chat_detect(const char* jinja, size_t bytes);

// As keel_chat_format. A family whose templates refuse a role (system in Gemma and the first Mistral templates), or an
// order of roles, is KEEL_E_ARGUMENT here too. `eos`: text of the model's end-of-sequence token, which some templates
// end a turn with.
keel_status chat_format(ChatTemplate chat, const char* eos, size_t eos_bytes, const keel_chat_message* messages,
                        uint32_t count, bool open_assistant, char* dst, size_t capacity, size_t* bytes);

}  // namespace keel
