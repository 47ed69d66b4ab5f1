// The whole way of a hostile file: inspect, plan, init, tokenize, feed, advance, sample, text, save, restore. The file
// is one of the committed models with bytes replaced, from the start or from the n-th read on: then the reader says
// something else the second time. Everything lies in memory of exactly the planned size, so that a sanitizer sees one
// byte more; a broken promise traps, so that unit tests and the fuzzer stop there.
#pragma once
#include <string.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "keel/keel.h"
#include "tests/gguf_exercise.h"
#include "tests/test_engine.h"

namespace keel_test {

// Bytes that decide; zeros when they run out.
class Script {
  public:
    Script(const uint8_t* data, size_t bytes) : data_(data), left_(bytes) {}
    uint32_t byte() { return left_ ? --left_, *data_++ : 0; }
    uint32_t number() {
        uint32_t v = 0;
        for (int i = 0; i < 4; ++i) v = v << 8 | byte();
        return v;
    }

  private:
    const uint8_t* data_;
    size_t left_;
};

// Bytes of a model and where its weights begin.
struct BaseModel {
    std::vector<char> bytes;
    uint64_t header_bytes;
};
inline const BaseModel& base_model(uint32_t index) {
    static const std::vector<BaseModel> models = [] {
        std::vector<BaseModel> out;
        for (const char* name : {"architectures/smollm2-q8_0", "architectures/gemma3", "architectures/phi3-longrope",
                                 "architectures/qwen3", "wired/wired"}) {
            std::ifstream in(std::string(KEEL_SOURCE_DIR) + "/tests/data/" + name + ".gguf", std::ios::binary);
            BaseModel m = {{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()}, 0};
            GgufTables tables;
            keel_error error = sized<keel_error>();
            check(scan(memory_reader(m.bytes.data(), m.bytes.size()), default_limits(), &tables, &error), "scan");
            m.header_bytes = tables.view.data_offset;
            out.push_back(std::move(m));
        }
        return out;
    }();
    return models[index % models.size()];
}

// A file with patches that begin to be there at the n-th read.
struct LyingFile {
    struct Patch {
        uint64_t offset;
        uint32_t value, from_read;
    };
    std::vector<char> bytes;
    std::vector<Patch> patches;
    uint32_t reads = 0;

    keel_reader reader() {
        keel_reader r = sized<keel_reader>();
        r.size_bytes = bytes.size();
        r.user_data = this;
        r.read_at = [](void* file, uint64_t offset, void* dst, size_t n) {
            LyingFile& f = *static_cast<LyingFile*>(file);
            promise(offset <= f.bytes.size() && n <= f.bytes.size() - offset);
            memcpy(dst, f.bytes.data() + offset, n);
            for (const Patch& p : f.patches)
                if (f.reads >= p.from_read && p.offset >= offset && p.offset - offset < n)
                    static_cast<uint8_t*>(dst)[p.offset - offset] = static_cast<uint8_t>(p.value);
            ++f.reads;
            return KEEL_OK;
        };
        return r;
    }
};

// What is done with an engine that could be made.
inline void use_engine(keel_engine engine, const keel_model_info& info, Script& script) {
    size_t count = 0;
    const char text[] = "The 2nd ship\n  <s>\xe2\x96\x81\xff na\xc3\xafve";
    std::vector<int32_t> ids(64);
    if (keel_tokenize(engine, text, sizeof text - 1, KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS, ids.data(), ids.size(),
                      &count) == KEEL_OK)
        for (size_t i = 0; i < count; ++i) promise(ids[i] >= 0 && static_cast<uint32_t>(ids[i]) < info.vocabulary);
    keel_session s, fork;
    if (keel_session_open(engine, nullptr, &s) != KEEL_OK) return;
    std::vector<int32_t> prompt(1 + script.byte() % 80);
    for (int32_t& id : prompt) id = static_cast<int32_t>(script.byte() * 7 % info.vocabulary);
    promise(keel_session_feed(s, prompt.data(), static_cast<uint32_t>(prompt.size()), 0) == KEEL_OK);
    keel_advance_result result = sized<keel_advance_result>();
    const uint64_t budget_us = script.byte();
    keel_status status = KEEL_AGAIN;
    for (int call = 0; call < 100000 && status == KEEL_AGAIN; ++call)
        status = keel_advance(engine, &s, 1, budget_us, &result);
    promise(status == KEEL_OK);
    keel_sampling sampling = sized<keel_sampling>();
    sampling.temperature = static_cast<float>(script.byte() % 3);
    sampling.top_p = 0.9f;
    sampling.seed = script.byte();
    promise(keel_session_set_sampling(s, &sampling) == KEEL_OK);
    for (int i = 0; i < 3; ++i) {
        int32_t token = 0;
        const keel_status drawn = keel_session_sample(s, &token);
        promise(drawn == KEEL_OK || drawn == KEEL_E_NUMERIC);  // weights may be anything
        if (drawn != KEEL_OK) break;
        keel_text shown = sized<keel_text>();
        promise(keel_session_text(s, token, &shown) == KEEL_OK);
        promise(keel_session_feed(s, &token, 1, 0) == KEEL_OK);
        promise(keel_advance(engine, &s, 1, 0, &result) == KEEL_OK);
    }
    uint64_t bytes = 0, written = 0;
    promise(keel_session_save_bytes(s, &bytes) == KEEL_OK);
    std::unique_ptr<uint8_t[]> saved(new uint8_t[bytes]);
    promise(keel_session_save(s, saved.get(), bytes, &written) == KEEL_OK && written == bytes);
    promise(keel_session_restore(s, saved.get(), bytes, nullptr) == KEEL_OK);
    if (keel_session_fork(s, &fork) == KEEL_OK) promise(keel_session_close(fork) == KEEL_OK);
    promise(keel_session_truncate(s, 1) == KEEL_OK);
    promise(keel_session_close(s) == KEEL_OK);
}

// The whole way for a script. `lies`: patches come into force while the file is read, weights included; else they are
// there from the start, most of them in the header. Returns how far it came: 0 refused by inspect, 1 by plan, 2 by
// init, 3 used.
inline int exercise_engine(const uint8_t* data, size_t bytes, bool lies) {
    Script script(data, bytes);
    const BaseModel& base = base_model(script.byte());
    LyingFile file;
    file.bytes = base.bytes;
    for (uint32_t n = script.byte() % 8; n > 0; --n) {
        const uint64_t range = lies && script.byte() % 4 == 0 ? file.bytes.size() : base.header_bytes;
        const LyingFile::Patch patch = {script.number() % range, script.byte(), lies ? script.number() % 1024 : 0};
        if (lies)
            file.patches.push_back(patch);
        else
            file.bytes[patch.offset] = static_cast<char>(patch.value);
    }
    keel_reader reader = file.reader();
    const keel_weights modes[] = {KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_MAP};
    const keel_weights weights = modes[script.byte() % (lies ? 2 : 3)];
    if (weights == KEEL_WEIGHTS_MAP) reader.mapped = file.bytes.data();
    keel_error error = sized<keel_error>();
    keel_model_info info = sized<keel_model_info>();
    const auto refused = [&](keel_status status) {
        if (status == KEEL_OK) return false;
        promise(error.status == status && error.reason[0]);
        return true;
    };
    if (refused(keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &info, &error))) return 0;
    if (info.model_bytes > 16 << 20) return 0;
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model = nullptr;
    if (refused(keel_inspect(&reader, nullptr, buffer.data(), info.model_bytes, &model, &info, &error))) return 0;
    keel_config config = sized<keel_config>();
    config.context_tokens = 128;
    config.max_sessions = 2;
    config.threads = 1;
    config.weights = weights;
    config.k_format = script.byte() % 2 ? KEEL_KV_F16 : KEEL_KV_DEFAULT;
    keel_memory_plan plan = sized<keel_memory_plan>();
    if (refused(keel_plan(&reader, model, &config, &plan, &error))) return 1;
    for (const keel_region_plan& region : plan.regions)
        if (region.bytes > 64 << 20) return 1;
    const Memory memory(plan);
    keel_engine engine = {};
    if (refused(keel_engine_init(&reader, model, &config, memory.get(), &engine, &error))) return 2;
    use_engine(engine, info, script);
    keel_stats stats = sized<keel_stats>();
    promise(keel_engine_stats(engine, &stats) == KEEL_OK);
    promise(stats.engine_status == KEEL_OK && stats.allocations_after_init == 0);
    promise(keel_engine_close(engine) == KEEL_OK);
    return 3;
}

}  // namespace keel_test
