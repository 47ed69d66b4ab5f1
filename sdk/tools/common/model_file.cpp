#include "sdk/tools/common/model_file.h"

#include <filesystem>

#include "sdk/format/gguf.h"
#include "sdk/format/pack.h"
#include "sdk/tools/common/console.h"

namespace keel::tools {

const uint8_t* ModelFile::bytes_of(const GgufTensor& t) const {
    if (t.interleaved)
        throw ToolError(KEEL_E_UNSUPPORTED, path + ": its rows are interleaved; keel unpack gives plain ones");
    if (gguf()->coded_bytes)
        throw ToolError(KEEL_E_UNSUPPORTED, path + ": its weights are coded; keel unpack gives plain ones");
    return static_cast<const uint8_t*>(gguf()->mapped) + t.offset;
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

std::unique_ptr<Pack> open_pack_of(const keel_reader& file, const std::string& path) {
    if (!is_pack(file)) return nullptr;
    auto pack = std::make_unique<Pack>();
    keel_error error = make<keel_error>();
    check(pack->open(&file, &error), "cannot use " + path, &error);
    return pack;
}

}  // namespace keel::tools
