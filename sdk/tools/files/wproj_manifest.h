// Release manifests of W_proj caches, in the published schema: a JSON array of {name, sha256, bytes, mb, mtime}.
#pragma once
#include <string>
#include <vector>

namespace keel::tools {

struct WprojManifestEntry {
    std::string name;    // ott_wproj_cache_<8 hex>.bin, without a directory
    std::string sha256;  // 64 hex digits, upper case
    uint64_t bytes = 0;
    double mb = 0;      // bytes / 2^20, two decimals
    std::string mtime;  // ISO 8601
    bool operator==(const WprojManifestEntry&) const = default;
};

// A UTF-8 byte order mark at the beginning is skipped. Throws ToolError (kExitFile) for what is no such manifest: names
// with a directory, names twice, no 8 hex digits, negative sizes and the like.
std::vector<WprojManifestEntry> parse_wproj_manifest(const std::string& text);
std::vector<WprojManifestEntry> read_wproj_manifest(const std::string& path);
// As the published file is laid out.
std::string wproj_manifest_text(const std::vector<WprojManifestEntry>& entries);

// Of the caches in a directory, sorted by name. Throws ToolError (kExitFile).
std::vector<WprojManifestEntry> describe_wproj_caches(const std::string& directory);

// What is wrong with an entry's file in a directory: missing, another size, no cache, a key whose low 32 bits are not
// the name's tag, another sha256 (only with `hash`). Empty: nothing.
std::string check_wproj_entry(const WprojManifestEntry& entry, const std::string& directory, bool hash);

}  // namespace keel::tools
