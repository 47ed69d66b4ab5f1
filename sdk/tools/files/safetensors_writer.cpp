#include "sdk/tools/files/safetensors_writer.h"

namespace keel::tools {

uint64_t SafetensorsEntry::bytes() const {
    uint64_t bytes = 4;
    for (const uint64_t n : shape) bytes *= n;
    return bytes;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafetensorsEntry> entries,
                                     const Json& metadata)
    : file_(path) {
    Json header = {{"__metadata__", metadata}};
    uint64_t at = 0;
    for (const SafetensorsEntry& entry : entries) {
        header[entry.name] = {
            {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {at, at + entry.bytes()}}};
        offsets_.push_back(at);
        at += entry.bytes();
    }
    offsets_.push_back(at);
    std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
    text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors begin at multiples of 8
    const uint64_t length = text.size();
    file_.write(&length, sizeof length);
    file_.write(text.data(), text.size());
    for (uint64_t& offset : offsets_) offset += sizeof length + length;
}

void SafetensorsWriter::write(size_t index, uint64_t first, const void* data, uint64_t count) {
    const uint64_t begin = offsets_.at(index) + first * 4;
    if (begin + count * 4 > offsets_.at(index + 1)) throw ToolError(kExitRuntime, "a tensor is longer than announced");
    file_.write_at(begin, data, count * 4);
}

void SafetensorsWriter::commit() {
    file_.extend(offsets_.back());  // it may end in unwritten elements
    file_.commit();
}

}  // namespace keel::tools
