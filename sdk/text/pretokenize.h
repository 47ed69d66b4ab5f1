// Pre-tokenizers of byte-level BPE: cut a text into pre-tokens, inside which alone merges happen. Each is a short
// sequence of stages as published with its models; a stage cuts every piece the stage before left into matches and what
// lies between.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel {

constexpr uint32_t kMaxStages = 6;

// A stage: finds the leftmost match of its pattern in the first `bytes` bytes of text, which is all it sees, also when
// it looks ahead. Returns false when there is none.
struct Match {
    size_t begin, end;  // never empty
};
using Matcher = bool (*)(const char* text, size_t bytes, Match* match);

struct PreTokenizer {
    const char* name;       // tokenizer.ggml.pre
    bool ignore_merges;     // a pre-token that is itself a token is taken whole
    bool add_bos;           // when the file does not say
    const Matcher* stages;  // at most kMaxStages, then null
};

// By name. Null for one that Keel does not know or cannot cut like: *reason (may be null) says which.
const PreTokenizer* pretokenizer_find(const char* name, size_t bytes, const char** reason);

// Walks the pre-tokens of a text in order. The text may be any bytes; a byte outside valid UTF-8 is a character of no
// class.
class PreTokenCursor {
  public:
    PreTokenCursor(const PreTokenizer& pre, const char* text, size_t bytes);
    // False at the end; else the next pre-token, as offsets into the text.
    bool next(size_t* begin, size_t* end);

  private:
    struct Level {  // the rest of a piece that stage `depth` cuts
        size_t at, end;
        Match match;  // waits while the gap before it is handed on
        bool has_match;
    };
    const PreTokenizer* pre_;
    const char* text_;
    uint32_t depth_ = 0;
    Level levels_[kMaxStages + 1];
};

}  // namespace keel
