#include "sdk/tools/files/wproj_manifest.h"

#include <math.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>

#include "sdk/format/wproj_key.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/wproj_discovery.h"
#include "sdk/tools/files/sha256.h"

namespace keel::tools {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMaxManifestBytes = 16u << 20;

[[noreturn]] void malformed(size_t entry, const std::string& why) {
    throw ToolError(kExitFile, strf("no manifest of W_proj caches: entry %zu: ", entry) + why);
}

double megabytes(uint64_t bytes) {
    return round(static_cast<double>(bytes) / (1u << 20) * 100) / 100;
}

// Seconds and 7 decimals, as published; in UTC.
std::string iso_time(fs::file_time_type time) {
    const auto system = std::chrono::file_clock::to_sys(time).time_since_epoch();
    const auto ticks = std::chrono::duration_cast<std::chrono::nanoseconds>(system).count() / 100;
    const time_t seconds = static_cast<time_t>(ticks / 10000000 - (ticks % 10000000 < 0));
    struct tm utc = {};
    gmtime_r(&seconds, &utc);
    char text[32];
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    return strf("%s.%07lld+00:00", text, static_cast<long long>(ticks - static_cast<long long>(seconds) * 10000000));
}

}  // namespace

std::vector<WprojManifestEntry> parse_wproj_manifest(const std::string& text) {
    const bool marked = text.starts_with("\xef\xbb\xbf");
    const Json document = Json::parse(text.begin() + (marked ? 3 : 0), text.end(), nullptr, false);
    if (!document.is_array()) throw ToolError(kExitFile, "no manifest of W_proj caches: not a JSON array");
    std::vector<WprojManifestEntry> entries;
    std::set<std::string> names;
    for (const Json& item : document) {
        const size_t n = entries.size();
        const auto field = [&](const char* key, auto fits) -> const Json& {
            if (!item.is_object() || !item.contains(key) || !(item[key].*fits)())
                malformed(n, std::string(key) + " is missing or of another type");
            return item[key];
        };
        WprojManifestEntry e;
        e.name = field("name", &Json::is_string).get<std::string>();
        e.sha256 = field("sha256", &Json::is_string).get<std::string>();
        e.bytes = field("bytes", &Json::is_number_unsigned).get<uint64_t>();
        e.mb = field("mb", &Json::is_number).get<double>();
        e.mtime = field("mtime", &Json::is_string).get<std::string>();
        uint32_t tag;
        if (e.name.find('\0') != std::string::npos || !wproj_file_tag(e.name.c_str(), &tag))
            malformed(n, "name is not ott_wproj_cache_<8 hex>.bin");
        if (!names.insert(e.name).second) malformed(n, e.name + " is there twice");
        if (e.sha256.size() != 64 || e.sha256.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
            malformed(n, "sha256 is not 64 hex digits");
        std::transform(e.sha256.begin(), e.sha256.end(), e.sha256.begin(),
                       [](char c) { return c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c; });
        if (!(fabs(e.mb - megabytes(e.bytes)) < 0.01)) malformed(n, "mb is not bytes / 2^20");
        entries.push_back(std::move(e));
    }
    return entries;
}

std::vector<WprojManifestEntry> read_wproj_manifest(const std::string& path) {
    std::error_code error;
    if (fs::file_size(path, error) > kMaxManifestBytes && !error)
        throw ToolError(kExitFile, path + " is too large for a manifest");
    return parse_wproj_manifest(read_text(path));
}

std::string wproj_manifest_text(const std::vector<WprojManifestEntry>& entries) {
    std::string out = "[\n";
    for (size_t i = 0; i < entries.size(); ++i) {
        const WprojManifestEntry& e = entries[i];
        out += "    {\n";
        out += "        \"name\":  " + Json(e.name).dump() + ",\n";
        out += "        \"sha256\":  " + Json(e.sha256).dump() + ",\n";
        out += strf("        \"bytes\":  %llu,\n", static_cast<unsigned long long>(e.bytes));
        out += "        \"mb\":  " + Json(e.mb).dump() + ",\n";
        out += "        \"mtime\":  " + Json(e.mtime).dump() + "\n";
        out += i + 1 < entries.size() ? "    },\n" : "    }\n";
    }
    return out + "]\n";
}

std::vector<WprojManifestEntry> describe_wproj_caches(const std::string& directory) {
    std::vector<WprojManifestEntry> entries;
    std::error_code error;
    for (fs::directory_iterator at(directory, error); !error && at != fs::directory_iterator(); at.increment(error)) {
        uint32_t tag;
        const std::string path = at->path().string(), name = at->path().filename().string();
        if (!wproj_file_tag(name.c_str(), &tag) || !read_wproj_tag(path)) continue;
        WprojManifestEntry e;
        e.name = name;
        e.bytes = fs::file_size(path, error);
        e.mb = megabytes(e.bytes);
        if (!error) e.mtime = iso_time(fs::last_write_time(path, error));
        if (error) break;
        e.sha256 = sha256_of_file(path);
        entries.push_back(std::move(e));
    }
    if (error) throw ToolError(kExitFile, "cannot read " + directory + ": " + error.message());
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return entries;
}

std::string check_wproj_entry(const WprojManifestEntry& e, const std::string& directory, bool hash) {
    const std::string path = (fs::path(directory) / e.name).string();
    std::error_code error;
    const uint64_t bytes = fs::file_size(path, error);
    if (error) return "missing";
    if (bytes != e.bytes)
        return strf("%llu bytes instead of %llu", static_cast<unsigned long long>(bytes),
                    static_cast<unsigned long long>(e.bytes));
    const std::optional<WprojTag> header = read_wproj_tag(path);
    if (!header) return "no W_proj cache";
    uint32_t tag = 0;
    wproj_file_tag(e.name.c_str(), &tag);
    if (static_cast<uint32_t>(header->key) != tag) return "its key is " + hex64(header->key);
    if (hash && sha256_of_file(path) != e.sha256) return "another sha256";
    return {};
}

}  // namespace keel::tools
