// What a W_proj cache that exists in memory only does to a model's predictions and its speed: the low-rank variant
// beside the dense one.
#pragma once
#include <vector>

#include "sdk/tools/common/statistics.h"
#include "sdk/tools/files/wproj_image.h"
#include "sdk/tools/lab/kv/kv_quality.h"

namespace keel::tools {

struct WprojReading {
    // Against the dense variant of the same engine, both with activations in f32 unless the options name a kind
    // (with_exact_activations).
    KvScore score;
    uint64_t decode_bytes = 0, dense_decode_bytes = 0;  // a token moves, as planned
    uint64_t records = 0, record_bytes = 0;             // bases, records and biases
    // Tokens per second of decoding, by turns in the same engine; empty: not measured.
    std::vector<double> rate, dense_rate;
};

class WprojMeter {
  public:
    // documents: token ids; sources: of each, as tokenize_documents numbers them. options: of the engine; its caches
    // and variant are not used.
    WprojMeter(EngineOptions options, std::vector<std::vector<int32_t>> documents, std::vector<uint32_t> sources);

    // rounds: decoding is timed so many times (64 tokens from position 128 on, dense and low-rank by turns); 0: not.
    WprojReading measure(const WprojImage& image, uint32_t rounds = 0);
    // The same for the bytes of a file.
    WprojReading measure_file(const keel_reader& reader, uint32_t rounds = 0);
    const std::vector<KvReference>& references() const { return references_; }
    uint64_t tokens() const;

  private:
    double decode_rate(LoadedModel& model, Session& session, keel_variant variant);
    EngineOptions options_, exact_;  // exact_: what the score is measured with
    uint32_t context_ = 0;
    std::vector<KvReference> references_;
    std::vector<uint32_t> sources_;
};

}  // namespace keel::tools
