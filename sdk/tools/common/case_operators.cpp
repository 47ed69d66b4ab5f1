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

DecodedCase decode_case(std::string_view encoded) {
    DecodedCase out = {"", false};
    bool in_word = false, capitals = false;
    char pending = 0;  // an operator that a letter has to follow
    for (size_t at = 0; at < encoded.size();) {
        if (const char which = operator_at(encoded.substr(at))) {
            if (pending || (which != kNext && which != kEscape && in_word) ||
                (which == kNext && (!in_word || capitals)))
                return out;
            at += kOperatorBytes;
            if (which != kEscape) {
                pending = which;
                continue;
            }
            if (!operator_at(encoded.substr(at))) return out;
            out.text.append(encoded.substr(at, kOperatorBytes));
            at += kOperatorBytes;
            in_word = capitals = false;
            continue;
        }
        const char c = encoded[at++];
        const bool letter = is_letter(c);
        if (pending && !letter) return out;
        capitals = letter && (capitals || pending == kCapitals);
        in_word = letter;
        out.text.push_back(pending || capitals ? upper(c) : c);
        pending = 0;
    }
    out.well_formed = pending == 0;
    return out;
}

}  // namespace keel::tools
