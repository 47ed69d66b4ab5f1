// A model's file, opened and inspected.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "keel/keel.hpp"

namespace keel {
struct GgufTensor;
}

namespace keel::tools {

// A pack whose text is expanded.
struct PackFile {
    Pack pack;
    std::vector<std::vector<uint8_t>> text;
};

// A GGUF file or a pack of one that passed keel_inspect, and its keel_model.
struct ModelFile {
    std::string path;
    FileReader reader;               // of the whole file
    std::unique_ptr<PackFile> pack;  // null: a GGUF file
    const keel_reader* gguf() const { return pack ? pack->pack.model() : reader.get(); }
    // Whether weights can be used where they are mapped: those of a pack may be coded, or interleaved.
    bool can_stay_mapped(keel_activation activation) const;
    // A tensor's bytes as they are mapped. Throws where its rows are interleaved or it is coded.
    const uint8_t* bytes_of(const GgufTensor& t) const;
    std::vector<uint64_t> buffer;  // where the keel_model lies
    const keel_model* model = nullptr;
    keel_model_info info{};
};
// Throws ToolError.
FileReader open_file(const std::string& path);
ModelFile open_model(const std::string& path);
// What `file` is as a pack, or null if it calls itself none. Throws ToolError for a damaged one. `path`: to say so.
// With PackUse::kParts the model's text stays packed.
enum class PackUse { kAll, kParts };
std::unique_ptr<PackFile> open_pack_of(const keel_reader& file, const std::string& path, PackUse use = PackUse::kAll);

}  // namespace keel::tools
