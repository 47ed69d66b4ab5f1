// Text without capitals, and back: words become lower case behind operators that say how they were written, so that a
// vocabulary needs one spelling of each. The operators are code points of the private use area:
//
//     U+E001 title      The    -> <title>the          a single capital too: I -> <title>i
//     U+E002 capitals   NBA    -> <capitals>nba       words of two letters and more, to the end of the word
//     U+E003 next       iPhone -> i<next>phone        the next letter, within a word
//     U+E004 escape     an operator that the text has itself stands behind it
//
// A word is a run of ASCII letters; everything else, all bytes that are no UTF-8 among it, stays as it is. As the
// "lossless caps" of models of the 16 MB contest have it.
#pragma once
#include <string>
#include <string_view>

namespace keel::tools {

// At most four times as long. decode_case gives back `text`, whatever its bytes are.
std::string encode_case(std::string_view text);

struct DecodedCase {
    std::string text;  // up to where something is wrong
    bool well_formed;  // an operator stands where encode_case never puts one: false, as for one at the very end
};
// Of what a model wrote, or of the first part of an encoded text: then an operator may stand at the end.
DecodedCase decode_case(std::string_view encoded);

}  // namespace keel::tools
