// The bytes behind scored tokens: the denominator of bits per byte.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <optional>
#include <string_view>

namespace keel::tools {

struct ScoredText {
    uint64_t bytes = 0;      // of the document as it lies in the file, never of a token table
    bool lossy = false;      // its tokens do not give the document back
    bool estimated = false;  // `bytes` is a share of a lossy document, by the bytes of what its tokens give back
};

// decoded: what all tokens of `text` give back. The scored ones begin behind tokens that give back `begin` bytes, and
// end behind tokens that give back `end`, or with the document. A document scored whole has its own number of bytes.
ScoredText scored_text(std::string_view text, std::string_view decoded, size_t begin, std::optional<size_t> end);

}  // namespace keel::tools
