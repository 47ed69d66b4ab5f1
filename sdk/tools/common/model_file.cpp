#include "sdk/tools/common/model_file.h"

#include <filesystem>

#include "sdk/format/bytes.h"
#include "sdk/format/gguf.h"
#include "sdk/format/pack.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/pack_text.h"

namespace keel::tools {

const uint8_t* ModelFile::bytes_of(const GgufTensor& t) const {
    if (t.interleaved)
        throw ToolError(KEEL_E_UNSUPPORTED, path + ": its rows are interleaved; keel unpack gives plain ones");
    if (gguf()->coded_bytes)
        throw ToolError(KEEL_E_UNSUPPORTED, path + ": its weights are coded; keel unpack gives plain ones");
    return mapped_at(*gguf(), t.offset);
}

bool ModelFile::can_stay_mapped(keel_activation activation) const {
    return gguf()->mapped && !gguf()->coded_bytes && (!gguf()->interleaved_rows || activation != KEEL_ACTIVATION_F32);
}

FileReader open_file(const std::string& path) {
    Result<FileReader> file = FileReader::open(path.c_str());
    check(file.status, "cannot open " + path);
    return std::move(*file);
}

ModelFile open_model(const std::string& path) {
    ModelFile file;
    file.path = path;
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) throw ToolError(kExitFile, "cannot open " + path + ": no such file");
    file.reader = open_file(path);
    file.pack = open_pack_of(*file.reader.get(), path);

    keel_error error = make<keel_error>();
    file.info = make<keel_model_info>();
    check(keel_inspect(file.gguf(), nullptr, nullptr, 0, nullptr, &file.info, &error), "cannot use " + path, &error);
    file.buffer.resize((file.info.model_bytes + 7) / 8);
    check(
        keel_inspect(file.gguf(), nullptr, file.buffer.data(), file.buffer.size() * 8, &file.model, &file.info, &error),
        "cannot use " + path, &error);
    return file;
}

std::unique_ptr<PackFile> open_pack_of(const keel_reader& file, const std::string& path, PackUse use) {
    if (!is_pack(file)) return nullptr;
    auto out = std::make_unique<PackFile>();
    keel_error error = make<keel_error>();
    check(out->pack.open(&file, &error), "cannot use " + path, &error);
    for (uint32_t i = 0; keel_reader* section = out->pack.packed_text(i); ++i)
        if (use == PackUse::kAll || section != out->pack.model()) out->text.push_back(expand_text(section, path));
    return out;
}

}  // namespace keel::tools
