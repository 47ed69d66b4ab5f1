// SHA-256 (FIPS 180-4), for release manifests.
#pragma once
#include <stdint.h>

#include <array>
#include <string>

namespace keel::tools {

class Sha256 {
  public:
    void update(const void* data, size_t bytes);
    // The digest as 64 upper-case hex digits; call once, last.
    std::string hex();

  private:
    void block(const uint8_t* p);
    std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<uint8_t, 64> pending_{};
    uint64_t bytes_ = 0;
};

// Of a whole file. Throws ToolError (kExitFile).
std::string sha256_of_file(const std::string& path);

}  // namespace keel::tools
