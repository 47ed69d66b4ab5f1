#include "sdk/tools/common/case_operators.h"

#include <algorithm>

namespace keel::tools {
namespace {

// UTF-8 of an operator: these two bytes, then its own.
constexpr std::string_view kOperatorPrefix = "\xee\x80";
constexpr char kTitle = '\x81', kCapitals = '\x82', kNext = '\x83', kEscape = '\x84';
constexpr size_t kOperatorBytes = 3;

bool is_upper(char c) {
    return c >= 'A' && c <= 'Z';
}
bool is_letter(char c) {
    return is_upper(c) || (c >= 'a' && c <= 'z');
}
char lower(char c) {
    return is_upper(c) ? static_cast<char>(c + 32) : c;
}
char upper(char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
}

// The last byte of the operator that `text` begins with; 0: none.
char operator_at(std::string_view text) {
    if (!text.starts_with(kOperatorPrefix) || text.size() < kOperatorBytes) return 0;
    const char last = text[kOperatorBytes - 1];
    return last >= kTitle && last <= kEscape ? last : 0;
}

void append_operator(char which, std::string* out) {
    out->append(kOperatorPrefix);
    out->push_back(which);
}

void encode_word(std::string_view word, std::string* out) {
    const size_t capitals = static_cast<size_t>(std::count_if(word.begin(), word.end(), is_upper));
    const bool all = capitals == word.size() && word.size() >= 2, first = is_upper(word[0]);
    if (all)
        append_operator(kCapitals, out);
    else if (first)
        append_operator(kTitle, out);
    for (size_t i = 0; i < word.size(); ++i) {
        if (i > 0 && !all && is_upper(word[i])) append_operator(kNext, out);
        out->push_back(lower(word[i]));
    }
}

}  // namespace

std::string encode_case(std::string_view text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        size_t end = at;
        while (end < text.size() && is_letter(text[end])) ++end;
        if (end > at) {
            encode_word(text.substr(at, end - at), &out);
        } else if (operator_at(text.substr(at))) {
            append_operator(kEscape, &out);
            end = at + kOperatorBytes;
            out.append(text.substr(at, kOperatorBytes));
        } else {
            out.push_back(text[end++]);
        }
        at = end;
    }
    return out;
}

void CaseDecoder::add_operator(char which, std::string* out) {
    if (pending_ == kEscape) {
        append_operator(which, out);
        in_word_ = capitals_ = false;
        pending_ = 0;
    } else if (pending_ || (which != kNext && which != kEscape && in_word_) ||
               (which == kNext && (!in_word_ || capitals_))) {
        ++malformed_;
    } else {
        pending_ = which;
    }
}

void CaseDecoder::add_plain(char c, std::string* out) {
    const bool letter = is_letter(c);
    if (pending_ && (!letter || pending_ == kEscape)) {
        ++malformed_;
        pending_ = 0;
    }
    capitals_ = letter && (capitals_ || pending_ == kCapitals);
    in_word_ = letter;
    out->push_back(pending_ || capitals_ ? upper(c) : c);
    pending_ = 0;
}

void CaseDecoder::add(std::string_view encoded, std::string* out) {
    for (const char c : encoded) {
        held_[held_count_++] = c;
        while (held_count_ > 0) {
            const std::string_view held(held_, held_count_);
            if (const char which = operator_at(held)) {
                held_count_ = 0;
                add_operator(which, out);
            } else if (held.size() < kOperatorBytes && kOperatorPrefix.starts_with(held)) {
                break;
            } else {
                add_plain(held[0], out);
                std::copy(held_ + 1, held_ + held_count_, held_);
                --held_count_;
            }
        }
    }
}

bool CaseDecoder::finish(std::string* out) {
    for (size_t i = 0; i < held_count_; ++i) add_plain(held_[i], out);
    held_count_ = 0;
    return pending_ == 0;
}

DecodedCase decode_case(std::string_view encoded) {
    DecodedCase out = {"", false};
    CaseDecoder decoder;
    size_t good = 0;  // bytes: what is malformed shows in the first byte behind it
    bool ended = false;
    for (size_t at = 0; at <= encoded.size() && decoder.malformed() == 0; ++at) {
        good = out.text.size();
        if (at < encoded.size())
            decoder.add(encoded.substr(at, 1), &out.text);
        else
            ended = decoder.finish(&out.text);
    }
    if (decoder.malformed()) out.text.resize(good);
    out.well_formed = ended && decoder.malformed() == 0;
    return out;
}

}  // namespace keel::tools
