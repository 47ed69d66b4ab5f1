// The bundled model to be quantized, one thread, and its sample text to calibrate on.
#pragma once
#include "sdk/tools/lab/quantize/calibration.h"
#include "sdk/tools/lab/quantize/type_rules.h"
#include "tests/test_paths.h"

namespace keel_test {

struct BundledRequest {
    // rules: as TypeRules reads them. The first documents of the text, cut to so many tokens.
    BundledRequest(const std::string& rules, uint32_t documents, uint32_t tokens) {
        engine.model = source_path("samples/models/books-7m-f16.gguf");
        engine.threads = 1;
        source = keel::tools::open_model(engine.model);
        request.matrices = keel::tools::matrices_of(*source.model, *source.reader.get());
        request.types = keel::tools::TypeRules(rules).choose(request.matrices, source.model->spec);
        options.text = {source_path("samples/models/books-val-sample.jsonl"), documents, tokens};
    }
    keel::tools::EngineOptions engine;
    keel::tools::ModelFile source;
    keel::tools::QuantizeRequest request;
    keel::tools::CalibrationOptions options;
};

}  // namespace keel_test
