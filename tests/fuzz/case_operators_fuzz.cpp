// Any bytes: encoded they decode to themselves, and decoded they are a text or malformed. What decodes well and is
// encoded again decodes to the same.
#include <stdint.h>
#include <stdlib.h>

#include <algorithm>

#include "sdk/tools/common/case_operators.h"

using keel::tools::decode_case;
using keel::tools::encode_case;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    const std::string text(reinterpret_cast<const char*>(data), bytes);
    const auto back = decode_case(encode_case(text));
    if (!back.well_formed || back.text != text) abort();
    const auto decoded = decode_case(text);
    if (decode_case(encode_case(decoded.text)).text != decoded.text) abort();
    // Any pieces of it give the same, up to where something is malformed.
    keel::tools::CaseDecoder decoder;
    std::string streamed;
    for (size_t at = 0; at < bytes;) {
        const size_t piece = std::min<size_t>(data[at] % 5 + 1, bytes - at);
        decoder.add(std::string_view(text).substr(at, piece), &streamed);
        at += piece;
    }
    if ((decoder.finish(&streamed) && decoder.malformed() == 0) != decoded.well_formed ||
        !streamed.starts_with(decoded.text))
        abort();
    return 0;
}
