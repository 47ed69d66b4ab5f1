// Prompts and answers of models that read words in lower case behind case operators (case_operators.h): the model is
// given encode_case of a text, and what it writes is decoded as it comes.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "keel/keel.hpp"
#include "sdk/tools/common/case_operators.h"
#include "sdk/tools/common/generation.h"

namespace keel::tools {

class CaseText {
  public:
    // most_bytes: of the encoded texts that are given to it. The other calls allocate nothing.
    explicit CaseText(size_t most_bytes);
    // Whether the tokens of a text, encoded, give it back.
    bool gives_back(const Engine& engine, std::span<const int32_t> ids, std::string_view text);
    // Takes what the model writes behind `encoded` and writes the text itself to `to`.
    TextSink behind(std::string_view encoded, TextSink to);
    // What was held back at the end of it.
    void finish();
    // Operators that the model wrote where no text has one, and which were left out.
    uint64_t malformed() const { return decoder_.malformed(); }

  private:
    CaseDecoder decoder_;
    std::string tokens_text_, text_;
    TextSink to_{};
};

}  // namespace keel::tools
