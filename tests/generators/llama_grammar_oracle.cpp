// llama_grammar_oracle CASES: the lines of a file of grammar cases (tests/data/grammar), with what llama.cpp's grammars
// say of each string. Of a grammar that it refuses no line is written. Built against a source tree of llama.cpp, whose
// other parts are not needed:
//
//     L=DIR; g++ -std=c++17 -I$L/src -I$L/include -I$L/ggml/include tests/generators/llama_grammar_oracle.cpp
//         $L/src/llama-grammar.cpp $L/src/unicode.cpp $L/src/unicode-data.cpp -o llama_grammar_oracle
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "ggml.h"
#include "llama-grammar.h"
#include "llama-impl.h"
#include "llama-vocab.h"

// What llama-grammar.cpp links to and does not reach without tokens.
const std::string& llama_vocab::token_to_piece(llama_token) const {
    static const std::string nothing;
    return nothing;
}
bool llama_vocab::is_eog(llama_token) const {
    return false;
}
int32_t llama_vocab::tokenize(const char*, int32_t, llama_token*, int32_t, bool, bool) const {
    return 0;
}
void llama_log_internal(ggml_log_level, const char*, ...) {}
extern "C" void ggml_abort(const char*, int, const char*, ...) {
    throw std::runtime_error("refused");
}

static std::string unhex(const std::string& hex) {
    std::string out;
    for (size_t i = 0; hex != "-" && i + 1 < hex.size(); i += 2)
        out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    return out;
}

static bool accepts(llama_grammar* grammar, const llama_grammar_stacks& begin, const std::string& text) {
    llama_grammar_stacks& stacks = llama_grammar_get_stacks(grammar);
    stacks = begin;
    grammar->partial_utf8 = {0, 0};
    try {
        llama_grammar_accept_str(*grammar, text);
    } catch (const std::exception&) {
        return false;
    }
    for (const auto& stack : stacks)
        if (stack.empty()) return grammar->partial_utf8.n_remain == 0;
    return false;
}

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    std::ifstream file(argv[1]);
    llama_grammar* grammar = nullptr;
    llama_grammar_stacks begin;
    for (std::string line, kind, hex; std::getline(file, line);) {
        std::istringstream(line) >> kind >> hex;
        if (kind == "gbnf") {
            if (grammar) llama_grammar_free_impl(grammar);
            grammar = llama_grammar_init_impl(nullptr, unhex(hex).c_str(), "root", false, nullptr, 0, nullptr, 0);
            if (grammar) begin = llama_grammar_get_stacks(grammar);
            if (grammar) std::cout << line << "\n";
        } else if ((kind == "yes" || kind == "no") && grammar) {
            std::cout << (accepts(grammar, begin, unhex(hex)) ? "yes " : "no ") << hex << "\n";
        } else if (kind == "schema") {
            if (grammar) llama_grammar_free_impl(grammar);
            grammar = nullptr;
        }
    }
}
