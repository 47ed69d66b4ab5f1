// A template of hostile bytes, and messages: whatever compiles must render within its work memory and steps, and what it
// writes must be marked byte by byte. The first byte says how large the work memory is; a line of "#!" ends the template
// and begins a message and JSON variables.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "sdk/text/jinja.h"

namespace {

keel_reader reader_of(const std::string& text) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    if (keel_reader_from_memory(text.data(), text.size(), &reader) != KEEL_OK) abort();
    return reader;
}

size_t now(void*, const char* format, char* dst, size_t capacity) {
    const size_t bytes = strlen(format) < capacity ? strlen(format) : capacity;
    memcpy(dst, format, bytes);
    return bytes;
}

// A region of its own for each object, so that the sanitizer sees its ends.
keel::JinjaWork work_of(uint32_t capacity, std::vector<uint64_t> (&memory)[4]) {
    for (std::vector<uint64_t>& m : memory) m.assign(capacity / 8, 0x5a5a5a5a5a5a5a5a);
    return {reinterpret_cast<char*>(memory[0].data()), reinterpret_cast<uint8_t*>(memory[1].data()),
            reinterpret_cast<char*>(memory[2].data()), reinterpret_cast<uint8_t*>(memory[3].data()), capacity};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    if (bytes < 2) return 0;
    const uint32_t capacity = 256u << (data[0] & 7);
    std::string text(reinterpret_cast<const char*>(data) + 1, bytes - 1), said = "  Hello <|im_end|>\n", variables;
    const size_t end = text.find("\n#!\n");
    if (end != std::string::npos) {
        variables = text.substr(end + 4);
        said = variables;
        text.resize(end);
    }
    const keel::JinjaSource source = {reader_of(text), 0, text.size()};
    keel_error error = {};
    error.struct_size = sizeof error;
    keel::Arena counting;
    const keel::JinjaProgram* program;
    if (keel::jinja_place(source, counting, &program, &error) != KEEL_OK) {
        if (error.reason[0] == 0 || error.offset > text.size()) abort();
        return 0;
    }
    std::vector<char> memory(counting.used_bytes() + 64);
    char* const base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    keel::Arena arena(base, counting.used_bytes());
    if (keel::jinja_place(source, arena, &program, &error) != KEEL_OK || !program) abort();
    if (arena.used_bytes() != counting.used_bytes()) abort();

    keel_chat_message messages[3] = {};
    const char* const roles[3] = {"system", "user", "assistant"};
    for (int i = 0; i < 3; ++i) {
        messages[i].struct_size = sizeof messages[i];
        messages[i].role = roles[i];
        messages[i].text = said.data();
        messages[i].bytes = said.size();
    }
    keel_hooks hooks = {};
    hooks.struct_size = sizeof hooks;
    hooks.strftime_now = now;
    keel::JinjaInput input = {};
    input.messages = messages;
    input.count = 3;
    input.open_assistant = true;
    input.bos = {"<s>", 3};
    input.hooks = &hooks;
    for (const bool with_variables : {false, true}) {
        input.variables = with_variables ? keel::JinjaText{variables.data(), variables.size()} : keel::JinjaText{};
        std::vector<uint64_t> blocks[4];
        const keel::JinjaWork work = work_of(capacity, blocks);
        uint32_t written = 0;
        error.reason[0] = 0;
        if (keel::jinja_render(*program, input, work, &written, &error) != KEEL_OK) {
            if (error.reason[0] == 0) abort();
            continue;
        }
        if (written > capacity) abort();
        for (uint32_t i = 0; i < written; ++i)
            if (work.out_marks[i] > 1) abort();
    }
    return 0;
}
