// Synthetic models: well-formed GGUF files with random weights and a complete made-up tokenizer, of any shape and type
// mix, for tests and benchmarks of shapes whose real weights are not at hand. They load in any GGUF runtime and compute
// finite, unremarkable activations (weights keep the variance of what they are multiplied with); they know no language.
#pragma once
#include <stdint.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "keel/keel.h"

namespace keel::tools {

enum class SynthTokenizer {
    kDefault,  // what models of the architecture usually carry: BPE for qwen2 and qwen3, SPM for the others
    kSpm,      // tokenizer.ggml.model "llama": byte tokens, scores
    kBpe       // tokenizer.ggml.model "gpt2": byte alphabet, merges
};

struct SynthSpec {
    std::string architecture = "llama";  // llama, qwen2, qwen3, gemma2, gemma3, phi3, glm4, keel-wired
    std::string name = "synthetic";      // general.name
    uint32_t layers = 2, embedding = 256, heads = 4, kv_heads = 2, head_dim = 64, feed_forward = 512;
    uint32_t vocabulary = 1024;  // at least 512
    uint32_t context = 2048;     // tokens
    bool tied = true;            // no output.weight; gemma2 and gemma3 always are
    double rope_base = 10000;
    // Context extension as the architecture does it; 0: none. llama: rope_freqs.weight by the rule of Llama 3.1 (8) and
    // 3.2 (32); phi3: rope_factors_long and _short, trained context = context / rope_factor; gemma3: linear scaling
    // key.
    double rope_factor = 0;
    uint32_t sliding_window = 0;  // tokens; 0: half the context for gemma2, gemma3; no window for the others
    SynthTokenizer tokenizer = SynthTokenizer::kDefault;
    std::string pre_tokenizer;  // tokenizer.ggml.pre of a BPE tokenizer; empty: by architecture
    // A tensor type ("F32", "F16", "BF16", "Q8_0", "Q4_0", ..., "IQ4_XS") for every matrix, or a mixture in the manner
    // of quantized files: "Q3_K_M", "Q4_K_M", "Q5_K_M" (value, down and output matrices in larger types). Rows that are
    // no whole number of 256-element blocks take a 32-element type instead, and F16 where that does not fit either.
    // Norms and biases are F32.
    std::string mix = "F16";
    // First match wins over the mix: {part of a tensor name, type name}, such as {"ffn_down", "Q8_0"}.
    std::vector<std::pair<std::string, std::string>> overrides;
    uint64_t seed = 1;  // same spec and seed, same file
};

// Shapes by name: "tiny", "smollm2-135m", "738m", "1b" (Llama 3.2), "3b" (Llama 3.2), "8b" (Llama 3.1).
// std::invalid_argument for another name.
SynthSpec synth_shape(const std::string& name);
std::vector<std::string> synth_shape_names();

struct SynthSize {
    uint64_t parameters;  // elements of all tensors
    uint64_t file_bytes;
};
// What synth_write would produce.
SynthSize synth_size(const SynthSpec& spec);

using SynthProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;
// std::invalid_argument with Keel's own words when it would not take the file: what keel_inspect and keel_plan (with
// the default configuration) say of its header.
void synth_check(const SynthSpec& spec);
// Writes the file, which appears when it is complete. std::invalid_argument names what is wrong with the spec; throws
// as AtomicFile when writing fails.
void synth_write(const std::string& path, const SynthSpec& spec, const SynthProgress& progress = {});

// The same file with zeros for weights, which take no room on a disk that knows holes: to plan with. Throws likewise.
void synth_write_hollow(const std::string& path, const SynthSpec& spec);

// A file of the spec that lies nowhere: its header, and of each tensor some 256 KiB that repeat. Weights of any size
// for who only copies them, such as timings of a device. Throws as synth_write.
class SynthReader {
  public:
    explicit SynthReader(const SynthSpec& spec);
    SynthReader(const SynthReader&) = delete;
    SynthReader& operator=(const SynthReader&) = delete;
    const keel_reader* get() const { return &reader_; }

  private:
    struct Tensor {
        uint64_t begin, end;  // in the file
        std::vector<uint8_t> bytes;
    };
    void read(uint64_t offset, uint8_t* dst, uint64_t bytes) const;
    std::vector<uint8_t> header_;
    std::vector<Tensor> tensors_;
    keel_reader reader_;
};

}  // namespace keel::tools
