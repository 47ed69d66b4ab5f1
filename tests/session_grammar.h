// The grammar that saved sessions may be held to in tests/fuzz/session_fuzz.cpp and in its seeds.
#pragma once
#include <string.h>

#include "tests/test_engine.h"

namespace keel_test {

// A configuration whose engine has it. Rules within rules, and tokens that leave no choice.
inline keel_config with_session_grammar(keel_config config) {
    static const char text[] =
        "root ::= (text | list)*\n"
        "list ::= \"[\" (list (\",\" list)*)? \"] so\"\n"
        "text ::= [^\\[\\]]+\n";
    static keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(text, sizeof text - 1, &reader), "keel_reader_from_memory");
    static const keel_part grammar = part(KEEL_PART_GRAMMAR, &reader);
    config.parts = &grammar;
    config.part_count = 1;
    return config;
}

}  // namespace keel_test
