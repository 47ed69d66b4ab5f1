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
#include <stdint.h>

#include <string>
#include <string_view>

namespace keel::tools {

// At most four times as long. decode_case gives back `text`, whatever its bytes are.
std::string encode_case(std::string_view text);

// The text of an encoded one that comes piece by piece, cut anywhere. Operators that stand where encode_case never puts
// them are left out and counted: models write such things.
class CaseDecoder {
  public:
    // Appends what is known now: at most as many bytes as were added so far.
    void add(std::string_view encoded, std::string* out);
    // The end: appends what was held back. False: an operator waits for what follows it.
    bool finish(std::string* out);
    uint64_t malformed() const { return malformed_; }

  private:
    void add_operator(char which, std::string* out);
    void add_plain(char c, std::string* out);

    bool in_word_ = false, capitals_ = false;
    char pending_ = 0;  // an operator that a letter, or another operator, has to follow
    char held_[3];      // what may become an operator
    size_t held_count_ = 0;
    uint64_t malformed_ = 0;
};

struct DecodedCase {
    std::string text;  // up to where something is wrong
    bool well_formed;  // an operator stands where encode_case never puts one: false, as for one at the very end
};
// Of what a model wrote, or of the first part of an encoded text: then an operator may stand at the end.
DecodedCase decode_case(std::string_view encoded);

}  // namespace keel::tools
