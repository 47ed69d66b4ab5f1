// Chat templates: the named families Keel writes. A GGUF carries Jinja text; Keel does not run Jinja, it recognises which
// family the text is, and reports KEEL_CHAT_UNKNOWN rather than guess.
#pragma once
#include "keel/keel.h"

namespace keel {

// Recognises the family of a template's text.
keel_chat_family chat_detect(const char* jinja, size_t bytes);
// As keel_chat_format.
keel_status chat_format(keel_chat_family family, const keel_chat_message* messages, uint32_t count, bool open_assistant, char* dst, size_t capacity, size_t* bytes);

}  // namespace keel
