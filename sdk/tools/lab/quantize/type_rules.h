// What the command line says of weight types: a mixture or a type for all matrices, and rules for some of them.
#pragma once
#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "sdk/model/model.h"
#include "sdk/tools/files/type_mix.h"

namespace keel::tools {

// A tensor of a file that is a matrix of the model: what may change its type.
struct ModelMatrix {
    uint32_t tensor;  // of the GGUF
    TensorSlot slot;
    uint32_t layer;  // 0 of global slots
    std::string name;
    uint32_t type;
    uint64_t columns, rows;  // rows: of all matrices of the tensor
};
std::vector<ModelMatrix> matrices_of(const keel_model& model, const keel_reader& reader);

class TypeRules {
  public:
    // "Q4_K_M", "Q4_K,token_embd=Q6_K,blk.0.*=keep": at most one mixture or type, before or between rules
    // PATTERN=TYPE. A pattern is a tensor's name, with or without ".weight", * any run of characters, ? one; the
    // first rule that matches decides. "keep" is the type there is; without a mixture all others keep theirs.
    // std::invalid_argument for anything else.
    explicit TypeRules(const std::string& text);

    // Of each matrix, the stand-in where rows are not whole blocks. std::invalid_argument: a rule that no matrix
    // matches.
    std::vector<uint32_t> choose(const std::vector<ModelMatrix>& matrices, const ModelSpec& spec) const;
    // Of each matrix whether neither a rule nor a mixture says its type.
    std::vector<bool> undecided(const std::vector<ModelMatrix>& matrices) const;
    // Null without a mixture.
    const TypeMix* mix() const { return mix_ ? &*mix_ : nullptr; }

  private:
    struct Rule {
        std::string pattern;
        std::optional<uint32_t> type;  // none: keep
    };
    std::optional<TypeMix> mix_;
    std::vector<Rule> rules_;
};

}  // namespace keel::tools
