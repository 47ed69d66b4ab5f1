#include "sdk/tools/lab/kv/kv_probe.h"

namespace keel::tools {

std::vector<KvProbeText> make_probe_texts(const std::vector<std::vector<int32_t>>& documents,
                                          const std::vector<uint32_t>& sources, uint32_t passage,
                                          const std::vector<uint32_t>& distances) {
    std::vector<KvProbeText> texts;
    for (size_t d = 0; d < documents.size(); ++d) {
        if (documents[d].size() < size_t{passage} + 1) continue;
        const auto begin = documents[d].begin() + 1, end = begin + passage;
        for (const uint32_t distance : distances) {
            KvProbeText text{distance, {documents[d].begin(), end}, 0, sources[d]};
            size_t next = d, at = passage + 1;
            while (text.ids.size() < size_t{passage} + 1 + distance) {
                if (at < documents[next].size()) {
                    text.ids.push_back(documents[next][at++]);
                } else {
                    next = (next + 1) % documents.size();
                    at = std::min<size_t>(documents[next].size() - 1, next == d ? passage + 1 : 1);
                }
            }
            text.repeat_begin = static_cast<uint32_t>(text.ids.size());
            text.ids.insert(text.ids.end(), begin, end);
            texts.push_back(std::move(text));
        }
    }
    return texts;
}

std::vector<std::vector<KvProbeScore>> run_probe(KvRun& reference, const std::vector<KvRun*>& runs,
                                                 const std::vector<KvProbeText>& texts,
                                                 const std::vector<uint32_t>& distances) {
    std::vector<std::vector<KvProbeScore>> scores(runs.size());
    for (const uint32_t distance : distances) {
        std::vector<std::vector<PairedUnit>> units(runs.size());
        double first_nll = 0, reference_nll = 0, tokens = 0;
        for (const KvProbeText& text : texts) {
            if (text.distance != distance) continue;
            const KvReference exact(reference, text.ids);
            const size_t length = text.ids.size() - text.repeat_begin;
            for (size_t i = 1; i < length; ++i) {  // position p predicts token p + 1
                first_nll += exact.nll(i);
                reference_nll += exact.nll(text.repeat_begin + i - 1);
                ++tokens;
            }
            for (size_t r = 0; r < runs.size(); ++r) {
                PairedUnit unit;
                unit.source = text.source;
                runs[r]->forward(exact.input(), [&](size_t position, std::span<const float> logits) {
                    if (position < text.repeat_begin) return;
                    unit.reference_nll += exact.nll(position);
                    unit.nll += log_sum_exp(logits) - logits[static_cast<size_t>(text.ids[position + 1])];
                    ++unit.tokens;
                });
                units[r].push_back(unit);
            }
        }
        for (size_t r = 0; r < runs.size(); ++r)
            scores[r].push_back({distance, tokens > 0 ? first_nll / tokens : 0, tokens > 0 ? reference_nll / tokens : 0,
                                 paired_delta(units[r])});
    }
    return scores;
}

}  // namespace keel::tools
