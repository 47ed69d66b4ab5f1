// W_proj caches among other files: discovery in hostile directories, release manifests, SHA-256, packed files.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sdk/format/wproj_key.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/wproj_discovery.h"
#include "sdk/tools/files/sha256.h"
#include "sdk/tools/files/wproj_manifest.h"
#include "sdk/tools/files/wproj_zstd.h"
#include "tests/test_paths.h"
#include "tests/wproj_images.h"
#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace {

namespace fs = std::filesystem;
using namespace keel;
using namespace keel::tools;
using namespace keel_test;
using Bytes = std::vector<uint8_t>;

std::string name_of(uint64_t key) {
    char name[kWprojFileNameBytes];
    wproj_file_name(key, name);
    return name;
}

// A working directory, a model's directory and a user cache directory of the test's own.
class WprojFiles : public testing::Test {
  protected:
    void SetUp() override {
        root_ = fs::path(testing::TempDir()) / ("keel_wproj_" + std::to_string(getpid()));
        fs::remove_all(root_);
        for (const char* name : {"work", "models", "cache/keel", "elsewhere"}) fs::create_directories(root_ / name);
        old_ = fs::current_path();
        fs::current_path(root_ / "work");
        if (const char* value = getenv("XDG_CACHE_HOME")) old_cache_ = value;
        setenv("XDG_CACHE_HOME", (root_ / "cache").c_str(), 1);
    }
    void TearDown() override {
        fs::current_path(old_);
        if (old_cache_)
            setenv("XDG_CACHE_HOME", old_cache_->c_str(), 1);
        else
            unsetenv("XDG_CACHE_HOME");
        std::error_code ignored;
        fs::permissions(root_ / "elsewhere", fs::perms::owner_all, ignored);
        fs::remove_all(root_, ignored);
    }
    fs::path put(const fs::path& directory, uint64_t key, int version = 1) const {
        const fs::path path = root_ / directory / name_of(key);
        if (version == 1)
            write_wproj_v1(path.string(), small_image_v1(), key);
        else
            write_wproj_v2(path.string(), small_image_v2(), key);
        return path;
    }
    WprojFound find(uint64_t key, bool force = false, const std::string& explicit_path = {}) const {
        WprojSearch search;
        search.key = key;
        search.shape = &shape_;
        search.force = force;
        search.explicit_path = explicit_path;
        search.model_path = (root_ / "models/m.gguf").string();
        return find_wproj_cache(search);
    }
    bool is(const std::optional<std::string>& found, const fs::path& wanted) const {
        return found && fs::equivalent(*found, wanted);
    }

    fs::path root_, old_;
    std::optional<std::string> old_cache_;
    WprojShape shape_ = small_shape(4);
};

TEST_F(WprojFiles, TheOrderOfDirectories) {
    EXPECT_FALSE(find(7).path);
    const fs::path cache = put("cache/keel", 7);
    EXPECT_TRUE(is(find(7).path, cache));
    const fs::path models = put("models", 7);
    EXPECT_TRUE(is(find(7).path, models));
    const fs::path work = put("work", 7);
    EXPECT_TRUE(is(find(7).path, work));
    const fs::path elsewhere = put("elsewhere", 7);
    EXPECT_TRUE(is(find(7, false, elsewhere.string()).path, elsewhere));
    EXPECT_TRUE(is(find(7, false, (root_ / "elsewhere").string()).path, elsewhere));
    EXPECT_TRUE(is(find(7, false, (root_ / "no/such/file").string()).path, work));
    // A file of another name is found when it is named.
    fs::rename(elsewhere, root_ / "elsewhere/my.cache");
    EXPECT_TRUE(is(find(7, false, (root_ / "elsewhere/my.cache").string()).path, root_ / "elsewhere/my.cache"));
}

TEST_F(WprojFiles, AreMatchedByTheirHeaders) {
    // The name says 7, the header another key with the same low 32 bits.
    put("work", 7 | 1ull << 40);
    EXPECT_FALSE(find(7).path);
    EXPECT_EQ(find(7).seen.front().verdict, "another key");
    EXPECT_EQ(find(7).seen.front().key, 7 | 1ull << 40);
    const fs::path two = put("models", 7, 2);
    EXPECT_TRUE(is(find(7).path, two));
    // Without a key the fingerprint of version 2 counts.
    EXPECT_TRUE(is(find(0).path, two));
    shape_.fingerprint ^= 1;
    EXPECT_FALSE(find(0).path);
}

TEST_F(WprojFiles, ForeignKeysByForceWhenShapesFit) {
    const fs::path foreign = put("models", 9);
    EXPECT_FALSE(find(7).path);
    const WprojFound found = find(7, true);
    EXPECT_TRUE(is(found.path, foreign));
    EXPECT_TRUE(found.foreign);
    const fs::path own = put("cache/keel", 7);  // later in the order, but its own
    EXPECT_TRUE(is(find(7, true).path, own));
    EXPECT_FALSE(find(7, true).foreign);
    shape_.layers = 3;
    EXPECT_FALSE(find(7, true).path);
}

TEST_F(WprojFiles, DamagedOnesArePassedOver) {
    const fs::path broken = put("work", 7);
    fs::resize_file(broken, fs::file_size(broken) - 1);
    const fs::path whole = put("models", 7);
    const WprojFound found = find(7);
    EXPECT_TRUE(is(found.path, whole));
    EXPECT_NE(found.seen.front().verdict.find("KEEL_E_FILE_FORMAT"), std::string::npos);
}

TEST_F(WprojFiles, HostileDirectories) {
    const fs::path work = root_ / "work";
    fs::create_symlink(name_of(1), work / name_of(1));  // to itself
    fs::create_symlink(name_of(3), work / name_of(2));  // a ring of two
    fs::create_symlink(name_of(2), work / name_of(3));
    fs::create_symlink("/nowhere/at/all", work / name_of(4));
    fs::create_directory(work / name_of(5));
    ASSERT_EQ(mkfifo((work / name_of(6)).c_str(), 0600), 0);  // opening it would wait
    std::ofstream(work / name_of(8)).put('W');
    std::ofstream(work / "ott_wproj_cache_\xff\xfe.bin").put('x');
    fs::create_directory_symlink(".", work / "loop");
    for (int i = 0; i < 300; ++i) std::ofstream(work / ("other" + std::to_string(i))).put('x');
    const fs::path wanted = put("work", 7);
    EXPECT_TRUE(is(find(7).path, wanted));
    const WprojFound by_force = find(99, true, (work / "loop/loop/loop").string());
    EXPECT_TRUE(is(by_force.path, wanted));
    fs::permissions(root_ / "elsewhere", fs::perms::none);
    EXPECT_TRUE(is(find(7, false, (root_ / "elsewhere").string()).path, wanted));
    fs::create_symlink("self", root_ / "self");
    EXPECT_TRUE(is(find(7, false, (root_ / "self").string()).path, wanted));
    // The working directory is gone.
    fs::create_directory(root_ / "gone");
    fs::current_path(root_ / "gone");
    fs::remove(root_ / "gone");
    const fs::path models = put("models", 7);
    EXPECT_TRUE(is(find(7).path, models));
    fs::current_path(root_ / "work");
}

TEST(WprojUserCache, FollowsTheEnvironment) {
    const std::string home = getenv("HOME") ? getenv("HOME") : "",
                      cache = getenv("XDG_CACHE_HOME") ? getenv("XDG_CACHE_HOME") : "";
    setenv("HOME", "/home/someone", 1);
    setenv("XDG_CACHE_HOME", "/var/x", 1);
    EXPECT_EQ(wproj_user_cache_directory(), "/var/x/keel");
    setenv("XDG_CACHE_HOME", "relative", 1);
    EXPECT_EQ(wproj_user_cache_directory(), "/home/someone/.cache/keel");
    unsetenv("XDG_CACHE_HOME");
    EXPECT_EQ(wproj_user_cache_directory(), "/home/someone/.cache/keel");
    unsetenv("HOME");
    EXPECT_EQ(wproj_user_cache_directory(), "");
    if (!home.empty()) setenv("HOME", home.c_str(), 1);
    if (!cache.empty()) setenv("XDG_CACHE_HOME", cache.c_str(), 1);
}

// ---- SHA-256: the vectors of FIPS 180-4 and its lengths around a block ----

std::string sha256(const std::string& text, size_t slice = 1000) {
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += slice) hash.update(text.data() + at, std::min(slice, text.size() - at));
    return hash.hex();
}

TEST(WprojSha256, KnownAnswers) {
    EXPECT_EQ(sha256(""), "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855");
    EXPECT_EQ(sha256("abc"), "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD");
    EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
              "248D6A61D20638B8E5C026930C3E6039A33CE45964FF2167F6ECEDD419DB06C1");
    EXPECT_EQ(sha256(std::string(1000000, 'a')), "CDC76E5C9914FB9281A1C7E284D73E67F1809A48A497200E046D39CCC7112CD0");
    for (const size_t bytes : {55, 56, 63, 64, 65, 119, 120, 128})
        EXPECT_EQ(sha256(std::string(bytes, 'x'), 1), sha256(std::string(bytes, 'x'), 64)) << bytes;
}

// ---- manifests ----

constexpr char kManifest[] = R"([
    {
        "name":  "ott_wproj_cache_0A2337F6.bin",
        "sha256":  "61BEB19DFF3F8E07F410E7783ABE596D392820DC5BF884F1DC202565D94658E2",
        "bytes":  191403296,
        "mb":  182.54,
        "mtime":  "2026-04-28T23:54:48.3107894-06:00"
    },
    {
        "name":  "ott_wproj_cache_A402C8CC.bin",
        "sha256":  "48240AC9553B75AED42D637EBB90519BE8F530B63B20C50C02EA4FB7E998F145",
        "bytes":  52113872,
        "mb":  49.7,
        "mtime":  "2026-04-28T21:53:14.5590963-06:00"
    }
]
)";

TEST(WprojManifest, ReadsAndWritesThePublishedLayout) {
    const std::vector<WprojManifestEntry> entries = parse_wproj_manifest(kManifest);
    ASSERT_EQ(entries.size(), 2u);
    EXPECT_EQ(entries[0].bytes, 191403296u);
    EXPECT_EQ(entries[1].mb, 49.7);
    EXPECT_EQ(wproj_manifest_text(entries), kManifest);
    EXPECT_EQ(parse_wproj_manifest(std::string("\xef\xbb\xbf") + kManifest), entries);
    EXPECT_TRUE(parse_wproj_manifest("[]").empty());
}

TEST(WprojManifest, ThePublishedOneToTheByte) {
    KEEL_SHARED_OR_SKIP(path, "data/cache_inventory.json");
    const std::vector<char> file = read_file(path);
    std::string text(file.begin(), file.end());
    if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
    EXPECT_EQ(read_wproj_manifest(path).size(), 10u);
    EXPECT_EQ(wproj_manifest_text(read_wproj_manifest(path)), text);
}

TEST(WprojManifest, RefusesWhatIsNone) {
    const auto with = [](const std::string& from, const std::string& to) {
        std::string text = kManifest;
        text.replace(text.find(from), from.size(), to);
        return text;
    };
    EXPECT_NO_THROW(parse_wproj_manifest(with("61BEB1", "61beb1")));
    for (const std::string& text :
         {std::string(), std::string("{}"), std::string("[1]"), std::string("[{}]"),
          std::string(kManifest).substr(0, 200), std::string(100000, '['), with("0A2337F6", "../../F6"),
          with("ott_wproj_cache_0A2337F6.bin", "/etc/passwd"),
          with("ott_wproj_cache_0A2337F6.bin", "ott_wproj_cache_A402C8CC.bin"), with("191403296", "-1"),
          with("191403296", "\"191403296\""), with("191403296", "1e3"), with("61BEB1", "61BEBX"),
          with("61BEB1", "1BEB1"), with("182.54", "182"), with("182.54", "null"), with("mtime", "time"),
          with("ott_wproj_cache_0A2337F6.bin", "ott_wproj_cache_0A2337F6.bin\\u0000x")})
        EXPECT_THROW(parse_wproj_manifest(text), ToolError) << text.substr(0, 100);
}

TEST_F(WprojFiles, ManifestsDescribeAndCheckThem) {
    const fs::path one = put("work", 7), two = put("work", 0x1122334455667788ull, 2);
    std::ofstream(root_ / "work/readme.txt").put('x');
    std::vector<WprojManifestEntry> entries = describe_wproj_caches(".");
    ASSERT_EQ(entries.size(), 2u);
    EXPECT_EQ(entries[0].name, "ott_wproj_cache_00000007.bin");
    EXPECT_EQ(entries[1].name, "ott_wproj_cache_55667788.bin");
    EXPECT_EQ(entries[0].bytes, fs::file_size(one));
    EXPECT_EQ(parse_wproj_manifest(wproj_manifest_text(entries)), entries);
    EXPECT_EQ(entries[0].mtime.size(), 33u);
    for (const WprojManifestEntry& e : entries) EXPECT_EQ(check_wproj_entry(e, ".", true), "");
    // The last byte: same size and tag, another hash.
    std::fstream(one, std::ios::in | std::ios::out | std::ios::binary).seekp(-1, std::ios::end).put('\x55');
    EXPECT_EQ(check_wproj_entry(entries[0], ".", false), "");
    EXPECT_EQ(check_wproj_entry(entries[0], ".", true), "another sha256");
    // Another key under the same name.
    write_wproj_v1(one.string(), small_image_v1(), 8);
    EXPECT_EQ(check_wproj_entry(entries[0], ".", false), "its key is 0000000000000008");
    fs::resize_file(one, 100);
    EXPECT_EQ(check_wproj_entry(entries[0], ".", false).find("100 bytes instead of"), 0u);
    std::ofstream(one, std::ios::binary) << std::string(entries[0].bytes, 'x');
    EXPECT_EQ(check_wproj_entry(entries[0], ".", false), "no W_proj cache");
    fs::remove(one);
    EXPECT_EQ(check_wproj_entry(entries[0], ".", true), "missing");
    EXPECT_THROW(describe_wproj_caches("no/such/directory"), ToolError);
}

// ---- packed files ----

#ifdef KEEL_HAVE_PACK

constexpr WprojPacking kPacked = {kWprojZstd, 3};

struct Expanded {
    keel_status status;
    Bytes plain;
};
// Into buffers of exactly the sizes asked for, on the heap: a sanitizer sees one byte more.
Expanded expand(const keel_reader& reader, keel_error* error = nullptr) {
    keel_pack_info info = {};
    info.struct_size = sizeof info;
    keel_status status = keel_pack_inspect(&reader, &info, error);
    if (status != KEEL_OK || info.plain_bytes > 1u << 24) return {status == KEEL_OK ? KEEL_E_FILE_LIMIT : status, {}};
    Bytes plain(info.plain_bytes, 0xcc);
    std::vector<uint64_t> work((info.work_bytes + 7) / 8);
    status = keel_pack_expand(&reader, plain.data(), plain.size(), work.data(), info.work_bytes, error);
    return {status, plain};
}

TEST(WprojPack, ExpandsToThePlainFile) {
    const Bytes plain = encode_wproj_v2(small_image_v2(), 5), packed = encode_wproj_v2(small_image_v2(), 5, kPacked);
    EXPECT_NE(packed.size(), plain.size());
    for (const keel_reader& reader : {memory_reader(packed), callback_reader(packed)}) {
        const Expanded got = expand(reader);
        EXPECT_EQ(got.status, KEEL_OK);
        EXPECT_EQ(got.plain, plain);
        WprojFile view;
        EXPECT_EQ(wproj_open(reader, small_shape(4), 5, false, &view, nullptr), KEEL_E_UNSUPPORTED);
        // Rewriting gives the same bytes.
        EXPECT_EQ(encode_wproj_v2(read_wproj_image(reader), 5, kPacked), packed);
    }
    const keel_reader not_packed = memory_reader(plain);
    EXPECT_EQ(expand(not_packed).status, KEEL_E_UNSUPPORTED);
}

TEST(WprojPack, SizesAreExact) {
    const Bytes packed = encode_wproj_v2(tiny_image_v2(), 5, kPacked);
    for (const keel_reader& reader : {memory_reader(packed), callback_reader(packed)}) {
        keel_pack_info info = {};
        info.struct_size = sizeof info;
        ASSERT_EQ(keel_pack_inspect(&reader, &info, nullptr), KEEL_OK);
        EXPECT_EQ(info.layers, 2u);
        EXPECT_EQ(info.sections, 7u);
        EXPECT_EQ(info.packed_bytes, packed.size());
        Bytes plain(info.plain_bytes);
        std::vector<uint64_t> work(info.work_bytes / 8 + 1);
        EXPECT_EQ(keel_pack_expand(&reader, plain.data(), plain.size() - 1, work.data(), info.work_bytes, nullptr),
                  KEEL_E_MEMORY_TOO_SMALL);
        EXPECT_EQ(keel_pack_expand(&reader, plain.data(), plain.size(), work.data(), info.work_bytes - 1, nullptr),
                  KEEL_E_MEMORY_TOO_SMALL);
        EXPECT_EQ(keel_pack_expand(&reader, plain.data(), plain.size(), reinterpret_cast<uint8_t*>(work.data()) + 1,
                                   info.work_bytes, nullptr),
                  KEEL_E_MEMORY_ALIGN);
        EXPECT_EQ(keel_pack_expand(&reader, plain.data(), plain.size(), work.data(), info.work_bytes, nullptr),
                  KEEL_OK);
        EXPECT_EQ(keel_pack_expand(nullptr, plain.data(), plain.size(), work.data(), info.work_bytes, nullptr),
                  KEEL_E_ARGUMENT);
    }
}

TEST(WprojPack, EveryTruncationAndFlipIsRefused) {
    const Bytes packed = encode_wproj_v2(tiny_image_v2(), 5, kPacked), plain = encode_wproj_v2(tiny_image_v2(), 5);
    for (size_t bytes = 0; bytes < packed.size(); ++bytes) {
        const Bytes cut(packed.begin(), packed.begin() + static_cast<ptrdiff_t>(bytes));
        ASSERT_EQ(expand(memory_reader(cut)).status, KEEL_E_FILE_FORMAT) << bytes;
    }
    Bytes longer = packed;
    longer.push_back(0);
    EXPECT_EQ(expand(memory_reader(longer)).status, KEEL_E_FILE_FORMAT);
    // zstd's frame checksum covers mu and mean too. Bits of a frame header that zstd ignores may flip: then the
    // contents are the same.
    for (size_t at = 0; at < packed.size(); ++at) {
        Bytes changed = packed;
        changed[at] ^= static_cast<uint8_t>(1u << at % 8);
        const Expanded got = expand(callback_reader(changed));
        ASSERT_TRUE(got.status != KEEL_OK || got.plain == plain) << at;
    }
}

TEST(WprojPack, HostileTables) {
    WprojRandom random(21);
    const Bytes packed = encode_wproj_v2(tiny_image_v2(), 5, kPacked);
    int passed = 0;
    for (int round = 0; round < 3000; ++round) {
        Bytes file = packed;
        for (uint32_t flips = 1 + random.below(3); flips; --flips)
            file[16 + random.below(static_cast<uint32_t>(wproj_table_end(2)) - 16)] ^=
                static_cast<uint8_t>(1u << random.below(8));
        reseal_v2(file, false);
        const Expanded got = expand(round % 2 ? memory_reader(file) : callback_reader(file));
        if (got.status != KEEL_OK) continue;
        ++passed;  // key, fingerprint, quality: what has no right value
        WprojFile view;
        ASSERT_EQ(wproj_open(memory_reader(got.plain), wproj_any_shape(), 0, true, &view, nullptr), KEEL_OK);
        ASSERT_NO_THROW(read_wproj_image(memory_reader(got.plain)));
    }
    EXPECT_LT(passed, 1500);
}

TEST(WprojPack, FuzzSeedIsCurrent) {
    const std::string path = source_path("tests/fuzz/corpus/wproj/packed");
    const Bytes packed = encode_wproj_v2(tiny_image_v2(), 5, kPacked);
    if (getenv("KEEL_WRITE_CORPUS"))
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char*>(packed.data()), static_cast<std::streamsize>(packed.size()));
    // Another zstd may write other frames: what counts is that the seed expands.
    const std::vector<char> seed = read_file(path);
    const Bytes bytes(seed.begin(), seed.end());
    const Expanded got = expand(memory_reader(bytes));
    EXPECT_EQ(got.status, KEEL_OK);
    EXPECT_EQ(got.plain, encode_wproj_v2(tiny_image_v2(), 5));
}

#endif

}  // namespace
