// Chat templates: the part of Jinja that published templates use, in fixed memory.
//
// A template is compiled once, into an arena (count mode, then place mode, same function), and rendered without
// allocation in work memory of a planned size. What it writes is what jinja2 writes with the settings of transformers
// (trim_blocks, lstrip_blocks, break and continue, its tojson, raise_exception, strftime_now), or an error: a construct
// that is not known here is KEEL_E_UNSUPPORTED and named: statements, operators and names when compiling, arguments and
// kinds of values when they are met.
//
// Known: text, {# #}, {{ }}, if/elif/else, for (with `if`, `else`, several targets, break, continue, loop.*), set (also
// of an attribute of a namespace, and of a block), macro at the top level, generation; all operators but ** / and
// printf's %; slices; literals; the filters, tests, methods and functions of jinja_program.h. Numbers are 64-bit
// integers; other numbers are carried and written, not computed with. Case is changed in ASCII only. Iterators (what
// select, map, reverse and so on give), ranges and views of dicts are read, iterators once, and not written or indexed.
//
// Every byte that is written is either scaffold (it comes from the template, or stands for a role) or from a message
// (it comes from a text, or from a JSON value of the caller). Marks follow bytes through concatenation, slices, replace
// and so on; only scaffold may spell control tokens.
#pragma once
#include "keel/keel.h"
#include "sdk/core/arena.h"

namespace keel {

struct JinjaProgram;  // lives in the arena

constexpr uint32_t kMaxTemplateBytes = 32 * 1024;
constexpr uint32_t kMaxRoleBytes = 64;

// Where the text of a template is.
struct JinjaSource {
    keel_reader reader;
    uint64_t offset, bytes;
};
// Places the program of a template, at most kMaxTemplateBytes. In count mode *out is null. KEEL_E_UNSUPPORTED names the
// construct, with error->offset its byte in the template; KEEL_E_FILE_LIMIT: longer, or nested too deeply;
// KEEL_E_FILE_READ.
keel_status jinja_place(const JinjaSource& source, Arena& arena, const JinjaProgram** out, keel_error* error);

// Memory of one rendering at a time.
struct JinjaWork {
    char* out;           // [capacity] what is written
    uint8_t* out_marks;  // [capacity] 1: from a message
    char* heap;          // [capacity] values and strings while rendering
    uint8_t* heap_marks;
    uint32_t capacity;
};
void jinja_place_work(uint32_t capacity, Arena& arena, JinjaWork* out);

struct JinjaText {
    const char* data;  // null: the template sees no such variable
    size_t bytes;
};
struct JinjaInput {
    const keel_chat_message* messages;  // with the caller's stride in element 0
    uint32_t count;
    bool open_assistant;      // add_generation_prompt
    JinjaText variables;      // JSON object
    JinjaText bos, eos;       // bos_token, eos_token
    const keel_hooks* hooks;  // strftime_now
};

// Renders; work.out has *bytes bytes then. `tools` and `documents` are none unless they are among the variables.
// KEEL_E_ARGUMENT: the template refuses the messages (error->reason is what it says), or a message or JSON value is not
// well formed; KEEL_E_UNSUPPORTED names what was met; KEEL_E_TEXT_LIMIT: the work memory is too small;
// KEEL_E_FILE_LIMIT: more steps than any sane template takes.
keel_status jinja_render(const JinjaProgram& program, const JinjaInput& input, const JinjaWork& work, uint32_t* bytes,
                         keel_error* error);

}  // namespace keel
