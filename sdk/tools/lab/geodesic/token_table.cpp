#include "sdk/tools/lab/geodesic/token_table.h"

#include <algorithm>

#include "sdk/core/hash.h"

namespace keel::geodesic {
namespace {

uint64_t context_of(const int32_t* end, uint32_t order) {
    return hash64(end - order, order * sizeof *end) + order;
}

}  // namespace

void TokenTable::count(const int32_t* end, uint32_t order, int32_t next) {
    rows_.push_back({context_of(end, order), next});
}

void TokenTable::settle() {
    std::sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) {
        return a.context != b.context ? a.context < b.context : a.next < b.next;
    });
    best_.clear();
    for (size_t first = 0; first < rows_.size();) {
        size_t end = first;
        while (end < rows_.size() && rows_[end].context == rows_[first].context && rows_[end].next == rows_[first].next)
            ++end;
        const auto times = static_cast<uint32_t>(end - first);
        if (best_.empty() || best_.back().first != rows_[first].context) best_.push_back({rows_[first].context, {}});
        Continuation& best = best_.back().second;
        best.of += times;
        if (times > best.count) best.token = rows_[first].next, best.count = times;
        first = end;
    }
}

Continuation TokenTable::find(const int32_t* end, uint32_t order) const {
    const uint64_t context = context_of(end, order);
    const auto at = std::lower_bound(best_.begin(), best_.end(), context,
                                     [](const auto& entry, uint64_t wanted) { return entry.first < wanted; });
    return at != best_.end() && at->first == context ? at->second : Continuation{};
}

Continuation TokenTable::longest(const int32_t* end, uint32_t known, uint32_t most) const {
    for (const uint32_t order : kOrders) {
        if (order > most || order > known) continue;
        if (const Continuation found = find(end, order); found.token >= 0) return found;
    }
    return {};
}

EarlierSuffix earlier_suffix(std::span<const int32_t> text) {
    constexpr size_t kMost = 16;
    EarlierSuffix best;
    for (size_t next = text.size(); next-- > 1;) {
        size_t length = 0;
        while (length < next && length < kMost && text[next - 1 - length] == text[text.size() - 1 - length]) ++length;
        if (length > best.length) best = {next, length};
    }
    return best;
}

std::vector<std::vector<int32_t>> texts_of(const TraceTape& tape) {
    std::vector<std::vector<int32_t>> texts;
    for (size_t s = 0; s < tape.steps; ++s) {
        if (s == 0 || !tape.goes_on(s - 1)) texts.emplace_back();
        texts.back().push_back(tape.token(s));
    }
    return texts;
}

TokenTable token_table(std::span<const TraceTape> tapes) {
    TokenTable table;
    for (const TraceTape& tape : tapes)
        for (const std::vector<int32_t>& text : texts_of(tape))
            for (size_t at = 2; at < text.size(); ++at)
                for (const uint32_t order : TokenTable::kOrders)
                    if (order <= at) table.count(text.data() + at, order, text[at]);
    table.settle();
    return table;
}

}  // namespace keel::geodesic
