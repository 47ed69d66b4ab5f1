// Writing packs, and their sections as files again. The format: sdk/format/pack.h.
#pragma once
#include <string>
#include <vector>

#include "sdk/format/pack.h"
#include "sdk/tools/files/coded_writer.h"

namespace keel::tools {

constexpr size_t kMostPackName = sizeof(PackSection::name) - 1;  // bytes

struct PackInput {
    uint32_t kind, flags;  // kPackInterleaved: `bytes` is plain and written with rows interleaved. Not kPackCoded
    std::string name;      // of the section: see valid_pack_name
    const keel_reader* bytes;
};

// Appears whole or not at all. The first input is the model. Throws ToolError when a name is no name of a section or
// taken, there are too many parts or notes, a section is empty, or a file cannot be read or written. `codec`: of the
// tensors of the model and of text; text stays as it is with kAuto, and is KEEL_E_UNSUPPORTED with kZstd, where this
// build has no zstd.
void write_pack(const std::string& path, const std::vector<PackInput>& inputs, PackCodec codec = PackCodec::kRaw);

// The bytes of what write_pack would write. Throws likewise.
uint64_t pack_bytes(const std::vector<PackInput>& inputs, PackCodec codec);

// Throws ToolError with the library's reason.
PackTable open_pack_table(const std::string& path, const keel_reader& file);
// A pack's sections as files of their names in `directory`, which is made if it is missing. Only after all of the pack
// was checked.
void unpack(const std::string& path, const keel_reader& file, const std::string& directory);

}  // namespace keel::tools
