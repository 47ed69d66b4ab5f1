#include "sdk/tools/common/case_text.h"

#include <algorithm>

namespace keel::tools {
namespace {

constexpr size_t kLongestPiece = 4096;  // that a session gives at a time

}  // namespace

CaseText::CaseText(size_t most_bytes) : tokens_text_(most_bytes, 0) {
    text_.reserve(std::max(most_bytes, kLongestPiece));
}

bool CaseText::gives_back(const Engine& engine, std::span<const int32_t> ids, std::string_view text) {
    const Result<std::string_view> encoded = engine.detokenize(ids, tokens_text_);
    if (encoded.status == KEEL_E_BUFFER_TOO_SMALL) return false;  // longer than what was encoded
    check(encoded.status, "cannot detokenize");
    CaseDecoder decoder;
    text_.clear();
    decoder.add(*encoded, &text_);
    return decoder.finish(&text_) && decoder.malformed() == 0 && text_ == text;
}

TextSink CaseText::behind(std::string_view encoded, TextSink to) {
    to_ = to;
    decoder_ = {};
    text_.clear();
    decoder_.add(encoded, &text_);
    return {[](void* context, std::string_view piece) {
                CaseText& self = *static_cast<CaseText*>(context);
                self.text_.clear();
                self.decoder_.add(piece, &self.text_);
                self.to_.write(self.to_.context, self.text_);
            },
            this};
}

void CaseText::finish() {
    text_.clear();
    decoder_.finish(&text_);
    to_.write(to_.context, text_);
}

}  // namespace keel::tools
