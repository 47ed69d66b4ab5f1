#include "sdk/tools/common/wproj_discovery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "keel/keel.hpp"
#include "sdk/format/wproj_key.h"
#include "sdk/format/wproj_v1.h"
#include "sdk/tools/common/console.h"

namespace keel::tools {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxEntries = 65536, kMaxCaches = 1024;

// Paths of caches in a directory, sorted. `error` says what could not be read.
std::vector<std::string> caches_in(const fs::path& directory, std::error_code* error) {
    std::vector<std::string> found;
    fs::directory_iterator entry(directory, *error);
    for (size_t n = 0; !*error && entry != fs::directory_iterator() && n < kMaxEntries; entry.increment(*error), ++n) {
        uint32_t tag;
        if (wproj_file_tag(entry->path().filename().string().c_str(), &tag)) found.push_back(entry->path().string());
    }
    std::sort(found.begin(), found.end());
    return found;
}

class Search {
  public:
    explicit Search(const WprojSearch& search) : search_(search) {}

    void look(const std::string& path, const char* what) {
        if (path.empty() || result_.path) return;
        std::error_code error;
        if (!fs::is_directory(path, error)) {
            if (what)
                result_.seen.push_back({path, 0, 0, std::string("no ") + what});
            else
                look_at(path);
            return;
        }
        // The same directory under two names is looked at once.
        const fs::path real = fs::weakly_canonical(path, error);
        if (error || std::find(directories_.begin(), directories_.end(), real) != directories_.end()) return;
        directories_.push_back(real);
        std::error_code unread;
        const std::vector<std::string> caches = caches_in(path, &unread);
        if (unread) result_.seen.push_back({path, 0, 0, "cannot be read: " + unread.message()});
        if (caches.empty() && !unread) result_.seen.push_back({path, 0, 0, "no caches there"});
        for (const std::string& cache : caches) {
            if (result_.path) return;
            look_at(cache);
        }
    }

    WprojFound finish() {
        if (!result_.path && search_.force && foreign_) {
            result_.path = result_.seen[*foreign_].path;
            result_.foreign = true;
            result_.seen[*foreign_].verdict = "found: another key, accepted by force";
        }
        return std::move(result_);
    }

  private:
    void look_at(const std::string& path) {
        if (++opened_ > kMaxCaches) return;
        const std::optional<WprojTag> tag = read_wproj_tag(path);
        result_.seen.push_back({path, tag ? tag->version : 0, tag ? tag->key : 0, {}});
        std::string& verdict = result_.seen.back().verdict;
        if (!tag) {
            verdict = "no W_proj cache, or not readable";
            return;
        }
        const bool matches = search_.key
                                 ? tag->key == search_.key
                                 : search_.shape && tag->version == 2 && tag->fingerprint == search_.shape->fingerprint;
        if (!matches && !(search_.force && search_.shape && !foreign_)) {
            verdict = "another key";
            return;
        }
        if (const std::string why = refused(path, !matches); !why.empty()) {
            verdict = (matches ? "" : "another key; ") + why;
        } else if (matches) {
            verdict = "found";
            result_.path = path;
        } else {
            verdict = "another key; fits";
            foreign_ = result_.seen.size() - 1;
        }
    }
    // Why wproj_open refuses the file for this model; empty: it does not.
    std::string refused(const std::string& path, bool any_key) const {
        if (!search_.shape) return {};
        const Result<FileReader> file = FileReader::open(path.c_str());
        if (!file) return "cannot be read";
        WprojFile view;
        keel_error error = make<keel_error>();
        const keel_status status = wproj_open(*file.value.get(), *search_.shape, search_.key, any_key, &view, &error);
        return status == KEEL_OK ? std::string()
                                 : std::string(keel_status_name(status)) + ": " + error.field + ": " + error.reason;
    }

    const WprojSearch& search_;
    WprojFound result_;
    std::vector<fs::path> directories_;
    std::optional<size_t> foreign_;
    size_t opened_ = 0;
};

}  // namespace

std::string wproj_user_cache_directory() {
    for (const auto& [variable, below] : {std::pair("XDG_CACHE_HOME", "keel"), std::pair("HOME", ".cache/keel")}) {
        const char* value = getenv(variable);
        if (value && fs::path(value).is_absolute()) return (fs::path(value) / below).string();
    }
    return {};
}

std::optional<WprojTag> read_wproj_tag(const std::string& path) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) return {};  // a pipe would wait for its writer
    const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(path.c_str(), "rb"), fclose);
    uint8_t head[sizeof(WprojHeader2)];
    const size_t bytes = file ? fread(head, 1, sizeof head, file.get()) : 0;
    WprojHeader1 one;
    WprojHeader2 two;
    if (bytes < sizeof one) return {};
    memcpy(&one, head, sizeof one);
    if (one.magic == kWprojMagic1) return WprojTag{1, one.key, 0};
    if (one.magic != kWprojMagic2 || bytes < sizeof two) return {};
    memcpy(&two, head, sizeof two);
    return WprojTag{2, two.key, two.fingerprint};
}

WprojFound find_wproj_cache(const WprojSearch& search) {
    Search s(search);
    s.look(search.explicit_path, nullptr);
    s.look(".", "working directory");
    if (!search.model_path.empty()) {
        const fs::path parent = fs::path(search.model_path).parent_path();
        s.look(parent.empty() ? "." : parent.string(), "such directory");
    }
    s.look(wproj_user_cache_directory(), "such directory");
    return s.finish();
}

}  // namespace keel::tools
