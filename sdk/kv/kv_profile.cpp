#include "sdk/kv/kv_profile.h"

#include <stddef.h>
#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"

namespace keel {
namespace {

constexpr uint32_t kKnownParts = kKvKeyMeans | kKvValueMeans | kKvGains;

bool usable_mean(float x) {
    return __builtin_fabsf(x) <= 1e6f;
}
bool usable_gain(float x) {
    return x >= 1e-6f && x <= 1e6f;
}

keel_status read(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes, keel_error* error) {
    return read_at(reader, offset, dst, bytes) == KEEL_OK
               ? KEEL_OK
               : fail(error, KEEL_E_FILE_READ, offset, "kv_profile", "the reader failed");
}

// Reads floats [0, count) at `offset` and checks each: into dst, or, where that is null, in slices through the stack.
keel_status read_floats(const keel_reader& reader, uint64_t offset, uint64_t count, float* dst, const char* field,
                        bool (*usable)(float), keel_error* error) {
    float slice[512];
    for (uint64_t at = 0; at < count; at += 512) {
        const uint64_t n = count - at < 512 ? count - at : 512;
        float* x = dst ? dst + at : slice;
        KEEL_TRY(read(reader, offset + at * 4, x, n * 4, error));
        for (uint64_t i = 0; i < n; ++i)
            if (!usable(x[i]))
                return fail(error, KEEL_E_FILE_FORMAT, offset + (at + i) * 4, field, "a number is out of range");
    }
    return KEEL_OK;
}

// Pairs below `rope_pairs`, in ascending order; dst may be null.
keel_status read_pairs(const keel_reader& reader, uint64_t offset, uint32_t count, uint32_t rope_pairs, uint32_t* dst,
                       keel_error* error) {
    uint32_t previous = 0;
    for (uint32_t i = 0; i < count; ++i) {
        uint32_t pair;
        KEEL_TRY(read(reader, offset + uint64_t{i} * 4, &pair, 4, error));
        if (pair >= rope_pairs || (i && pair <= previous))
            return fail(error, KEEL_E_FILE_FORMAT, offset + uint64_t{i} * 4, "pairs",
                        "not ascending, or no pair of the model");
        if (dst) dst[i] = pair;
        previous = pair;
    }
    return KEEL_OK;
}

keel_status read_arrays(const keel_reader& reader, const KvProfileHeader& h, uint32_t rope_pairs,
                        const KvProfileArrays& out, keel_error* error) {
    const KvProfileOffsets o = kv_profile_offsets(h);
    const uint64_t floats = uint64_t{h.layers} * h.kv_heads * h.head_dim;
    KEEL_TRY(read_pairs(reader, o.pairs, h.mean_pairs, rope_pairs, out.pairs, error));
    if (o.key_means) KEEL_TRY(read_floats(reader, o.key_means, floats, out.key_means, "K means", usable_mean, error));
    if (o.value_means)
        KEEL_TRY(read_floats(reader, o.value_means, floats, out.value_means, "V means", usable_mean, error));
    return o.gains ? read_floats(reader, o.gains, floats, out.gains, "gains", usable_gain, error) : KEEL_OK;
}

keel_status check_header(const KvProfileHeader& h, const keel_reader& reader, const KvModelShape& model,
                         keel_error* error) {
    const auto bad = [&](keel_status status, size_t offset, const char* field, const char* reason) {
        return fail(error, status, offset, field, reason);
    };
    if (h.magic != kKvProfileMagic) return bad(KEEL_E_FILE_FORMAT, 0, "magic", "not a KV profile");
    if (h.version != kKvProfileVersion)
        return bad(KEEL_E_UNSUPPORTED, offsetof(KvProfileHeader, version), "version", "another version of the format");
    if (h.header_bytes != sizeof h)
        return bad(KEEL_E_FILE_FORMAT, offsetof(KvProfileHeader, header_bytes), "header_bytes",
                   "differs from this version's");
    if (h.fingerprint != model.fingerprint)
        return bad(KEEL_E_FILE_MISMATCH, offsetof(KvProfileHeader, fingerprint), "fingerprint",
                   "made for another model");
    if (h.layers != model.layers || h.kv_heads != model.kv_heads || h.head_dim != model.head_dim)
        return bad(KEEL_E_FILE_MISMATCH, offsetof(KvProfileHeader, layers), "layers", "another shape than the model's");
    if (h.layers > kMaxProfileLayers)
        return bad(KEEL_E_UNSUPPORTED, offsetof(KvProfileHeader, layers), "layers",
                   "more layers than a profile can describe");
    if (h.parts & ~kKnownParts || h.reserved)
        return bad(KEEL_E_FILE_FORMAT, offsetof(KvProfileHeader, parts), "parts", "unknown parts");
    if (h.mean_pairs > model.rope_pairs || (h.mean_pairs && !(h.parts & kKvKeyMeans)))
        return bad(KEEL_E_FILE_FORMAT, offsetof(KvProfileHeader, mean_pairs), "mean_pairs",
                   "more pairs than the model rotates, or pairs without means");
    if (h.total_bytes != reader.size_bytes || kv_profile_offsets(h).total_bytes != h.total_bytes)
        return bad(KEEL_E_FILE_FORMAT, offsetof(KvProfileHeader, total_bytes), "total_bytes",
                   "size contradicts the contents");
    return KEEL_OK;
}

keel_status read_formats(const keel_reader& reader, const KvProfileHeader& h, uint64_t offset, KvChoice* out,
                         keel_error* error) {
    for (uint32_t layer = 0; layer < h.layers; ++layer) {
        uint8_t code[4];
        KEEL_TRY(read(reader, offset + layer * 4, code, 4, error));
        for (int i = 0; i < 2; ++i) {
            if (code[i] == 0 || code[i] > kernels::kKvFormatCount ||
                !kv_format_fits(static_cast<kernels::KvFormat>(code[i] - 1), h.head_dim))
                return fail(error, KEEL_E_FILE_FORMAT, offset + layer * 4 + static_cast<uint64_t>(i), "formats",
                            "no KV format, or none for this head size");
            if (code[2 + i] > static_cast<uint8_t>(kernels::KvScaleMode::kUnbiased))
                return fail(error, KEEL_E_FILE_FORMAT, offset + layer * 4 + 2 + static_cast<uint64_t>(i), "formats",
                            "no scale mode");
        }
        out->layer[layer] = {static_cast<kernels::KvFormat>(code[0] - 1), static_cast<kernels::KvFormat>(code[1] - 1),
                             static_cast<kernels::KvScaleMode>(code[2]), static_cast<kernels::KvScaleMode>(code[3])};
    }
    return KEEL_OK;
}

}  // namespace

KvProfileOffsets kv_profile_offsets(const KvProfileHeader& h) {
    // Within 64 bits: layers, heads, head_dim and pairs are 32-bit numbers that the model's own limits bound.
    const uint64_t array = uint64_t{h.layers} * h.kv_heads * h.head_dim * 4;
    KvProfileOffsets o = {};
    uint64_t at = sizeof h;
    const auto part = [&at](uint64_t bytes) {
        const uint64_t here = at;
        at += bytes;
        return here;
    };
    o.formats = part(uint64_t{h.layers} * 4);
    o.pairs = part(uint64_t{h.mean_pairs} * 4);
    if (h.parts & kKvKeyMeans) o.key_means = part(array);
    if (h.parts & kKvValueMeans) o.value_means = part(array);
    if (h.parts & kKvGains) o.gains = part(array);
    o.checksum = part(8);
    o.total_bytes = at;
    return o;
}

keel_status read_kv_profile(const keel_reader& reader, const KvModelShape& model, KvChoice* out, keel_error* error) {
    KvProfileHeader h;
    if (reader.size_bytes < sizeof h) return fail(error, KEEL_E_FILE_FORMAT, reader.size_bytes, "header", "ends early");
    KEEL_TRY(read(reader, 0, &h, sizeof h, error));
    KEEL_TRY(check_header(h, reader, model, error));
    const KvProfileOffsets o = kv_profile_offsets(h);
    KEEL_TRY(read_formats(reader, h, o.formats, out, error));
    KEEL_TRY(read_arrays(reader, h, model.rope_pairs, {}, error));
    uint64_t hash = kHashSeed;
    char slice[2048];
    for (uint64_t at = 0; at < o.checksum; at += sizeof slice) {
        const uint64_t n = o.checksum - at < sizeof slice ? o.checksum - at : sizeof slice;
        KEEL_TRY(read(reader, at, slice, n, error));
        hash = hash_update(hash, slice, n);
    }
    KEEL_TRY(read(reader, o.checksum, &out->checksum, 8, error));
    if (hash_finish(hash) != out->checksum)
        return fail(error, KEEL_E_FILE_FORMAT, o.checksum, "checksum", "the contents were changed");
    out->has_profile = true;
    out->reader = reader;
    out->header = h;
    return KEEL_OK;
}

keel_status read_kv_profile_arrays(const KvChoice& choice, uint32_t rope_pairs, const KvProfileArrays& out,
                                   keel_error* error) {
    const keel_status status = read_arrays(choice.reader, choice.header, rope_pairs, out, error);
    return status == KEEL_E_FILE_FORMAT ? fail(error, KEEL_E_FILE_READ, 0, "kv_profile", "the file changed meanwhile")
                                        : status;
}

}  // namespace keel
