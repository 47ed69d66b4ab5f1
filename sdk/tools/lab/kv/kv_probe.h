// The repeat-copy probe: a passage, other text of a given length, the passage again. What is it worth to have read it
// before?
#pragma once
#include <vector>

#include "sdk/tools/lab/kv/kv_quality.h"

namespace keel::tools {

struct KvProbeText {
    uint32_t distance;         // tokens between the end of the passage and its repetition
    std::vector<int32_t> ids;  // [first] passage filler passage
    uint32_t repeat_begin;     // index of the repetition's first token
    uint32_t source;           // of the passage, as source_numbers() has it
};
// One text per (document, distance) from tokenized documents: the passage is the document's tokens [1, 1 + passage),
// the filler comes from the documents after it, round and round. Documents shorter than the passage are left out.
// sources: of the documents.
std::vector<KvProbeText> make_probe_texts(const std::vector<std::vector<int32_t>>& documents,
                                          const std::vector<uint32_t>& sources, uint32_t passage,
                                          const std::vector<uint32_t>& distances);

// Mean NLL of the repetition's tokens but the first one (which nothing announces), and of the passage where it stands
// first.
struct KvProbeScore {
    uint32_t distance;
    double first_nll;      // of the reference
    double reference_nll;  // of the repetition
    PairedDelta delta;     // over sources of texts
};
// Scores per distance, in the order of `distances`, for every run.
std::vector<std::vector<KvProbeScore>> run_probe(KvRun& reference, const std::vector<KvRun*>& runs,
                                                 const std::vector<KvProbeText>& texts,
                                                 const std::vector<uint32_t>& distances);

}  // namespace keel::tools
