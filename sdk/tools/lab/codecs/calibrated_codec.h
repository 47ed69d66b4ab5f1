// Codecs with offline tables fitted to data: what they fit, from rows of other text than they will code.
#pragma once
#include <span>
#include <vector>

#include "sdk/tools/lab/codecs/kv_codec.h"

namespace keel::tools {

// Where heads are pooled (KvCodec::pools_heads), row r of a call belongs to kv head r mod heads, and the calibration
// holds the tables of all heads one after another: query_covariance [heads][head_dim][head_dim], group_scales
// [heads][groups].
class CalibratedCodec : public KvCodec {
  public:
    // Fills the group scales or the codebook of `calibration` that this codec wants fitted to `rows`;
    // context.calibration may hold the query covariance, which is taken into account and never changed. Does nothing
    // where nothing is fitted.
    virtual void calibrate(const float* rows, uint32_t count, const KvCodecContext& context,
                           KvCodecCalibration* calibration) const = 0;
};

// codec.calibrate() for codecs that have it, nothing for the others.
inline void calibrate_codec(const KvCodec& codec, const float* rows, uint32_t count, const KvCodecContext& context,
                            KvCodecCalibration* calibration) {
    if (const auto* fitted = dynamic_cast<const CalibratedCodec*>(&codec))
        fitted->calibrate(rows, count, context, calibration);
}

// One calibration for a pooled block from those of its heads, in their order; the codebook is the first head's.
inline KvCodecCalibration pooled_calibration(std::span<const KvCodecCalibration> heads) {
    KvCodecCalibration pooled;
    for (const KvCodecCalibration& head : heads) {
        pooled.query_covariance.insert(pooled.query_covariance.end(), head.query_covariance.begin(),
                                       head.query_covariance.end());
        pooled.group_scales.insert(pooled.group_scales.end(), head.group_scales.begin(), head.group_scales.end());
    }
    if (!heads.empty()) pooled.codebook = heads.front().codebook;
    return pooled;
}

}  // namespace keel::tools
