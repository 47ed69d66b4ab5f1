// Finds the W_proj cache of a model: ott_wproj_cache_*.bin files by the 8 key bytes in their headers.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "sdk/format/wproj.h"

namespace keel::tools {

struct WprojSearch {
    std::string explicit_path;          // a file of any name, or a directory; empty: none
    std::string model_path;             // the GGUF, whose directory is searched; empty: none
    uint64_t key = 0;                   // 0: a version-2 file of the model's fingerprint will do
    const WprojShape* shape = nullptr;  // when given, a file is found only if wproj_open accepts it for this model
    bool force = false;                 // with a shape: where no file has the key, the first of another key that fits
};

// A file or directory that was looked at, in order.
struct WprojSeen {
    std::string path;
    uint32_t version = 0;  // 0: not read as a cache
    uint64_t key = 0;
    std::string verdict;  // "found", or why not
};

struct WprojFound {
    std::optional<std::string> path;
    bool foreign = false;  // found by force
    std::vector<WprojSeen> seen;
};

// Searched in this order: explicit path, working directory, the model's directory, user cache directory; within a
// directory by name. Never throws for what lies there: what cannot be read is in `seen`. At most 65,536 entries of a
// directory are looked at, and 1,024 caches opened.
WprojFound find_wproj_cache(const WprojSearch& search);

// $XDG_CACHE_HOME/keel, else ~/.cache/keel; empty when neither is an absolute path.
std::string wproj_user_cache_directory();

// Version and key in the first bytes of a regular file; nothing else of it is checked.
struct WprojTag {
    uint32_t version;           // 1 or 2
    uint64_t key, fingerprint;  // fingerprint: 0 in version 1
};
std::optional<WprojTag> read_wproj_tag(const std::string& path);

}  // namespace keel::tools
