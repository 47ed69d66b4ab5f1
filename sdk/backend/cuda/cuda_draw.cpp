// Draws on the device (kernels/cuda/sample.cu): what a draw depends on goes up in one copy, the token comes back.
#include <string.h>

#include "sdk/backend/cuda/cuda_launch.h"
#include "sdk/backend/draw.h"

namespace keel {
namespace {

using namespace platform::cuda;

static_assert(sizeof(TokenUses) == sizeof(cuda::TokenCount));

template <class T>
T* at(const uint8_t* base, uint64_t offset) {
    return reinterpret_cast<T*>(const_cast<uint8_t*>(base) + offset);
}

// Writes what the kernels read into `to`, and their arguments, which lie at `device`. Returns the bytes.
uint64_t pack_draw(const CudaDevice& d, const DrawRequest& r, uint8_t* to, const uint8_t* device, cuda::SampleArgs* a) {
    const DrawBlock& b = d.draw_block;
    const SamplerParams& p = r.params;
    const uint32_t vocabulary = d.program->spec.vocabulary;
    for (uint32_t i = 0; i < p.bias_count; ++i)
        at<cuda::TokenBias>(to, b.bias)[i] = {static_cast<uint32_t>(p.bias_ids[i]), p.bias_values[i]};
    memcpy(to + b.forbidden, r.forbidden, r.forbidden_count * sizeof(uint32_t));
    uint64_t end = b.forbidden + r.forbidden_count * sizeof(uint32_t);
    if (r.mask) {
        memcpy(to + b.mask, r.mask, (vocabulary + 7) / 8);
        end = b.mask + (vocabulary + 7) / 8;
    }
    if (r.window_count) {
        memcpy(to + b.window, r.window, r.window_count * sizeof(TokenUses));
        end = b.window + r.window_count * sizeof(TokenUses);
    }
    *a = {};
    a->logits = d.kept_logits() + uint64_t{r.row} * vocabulary;
    a->mask = r.mask ? device + b.mask : nullptr;
    a->bias = at<cuda::TokenBias>(device, b.bias);
    a->forbidden = at<uint32_t>(device, b.forbidden);
    a->window = at<cuda::TokenCount>(device, b.window);
    a->bias_count = p.bias_count;
    a->forbidden_count = r.forbidden_count;
    a->window_count = r.window_count;
    a->vocabulary = vocabulary;
    a->repetition = p.repetition_penalty;
    a->frequency = p.frequency_penalty;
    a->presence = p.presence_penalty;
    a->temperature = p.temperature;
    a->top_p = p.top_p;
    a->min_p = p.min_p;
    a->typical_p = p.typical_p;
    a->top_k = p.top_k;
    a->position = r.position;
    a->seed = p.seed;
    a->distance = at<double>(device, b.distance);
    a->mass = at<uint64_t>(device, b.mass);
    a->weighted = at<uint64_t>(device, b.weighted);
    a->list = at<uint32_t>(device, b.list);
    a->best = at<cuda::SampleBest>(device, b.best);
    a->left = at<cuda::SampleLeft>(device, b.left);
    a->result = at<cuda::SampleResult>(device, b.result);
    return end;
}

Result run_draw(const CudaDevice& d, const DrawRequest& r, cuda::SampleResult* result) {
    const Driver& driver = d.cuda.driver;
    uint8_t* staging = d.region[KEEL_REGION_PINNED] + d.at.draw_staging;
    uint8_t* device = d.scratch(d.at.draw);
    cuda::SampleArgs a;
    const uint64_t bytes = pack_draw(d, r, staging, device, &a);
    Result status = driver.copy_to_device(reinterpret_cast<DevicePointer>(device), staging, bytes, d.draws);
    if (status == kSuccess) status = launch(d, d.draws, cuda::kernel_sample_adjust, a, sample_shape(a));
    if (status == kSuccess && r.params.temperature > 0)
        status = launch(d, d.draws, cuda::kernel_sample_weigh, a, sample_shape(a));
    if (status == kSuccess) status = launch(d, d.draws, cuda::kernel_sample_select, a, select_shape(a));
    if (status == kSuccess && r.params.temperature > 0) {
        status = launch(d, d.draws, cuda::kernel_sample_race, a, sample_shape(a));
        if (status == kSuccess) status = launch(d, d.draws, cuda::kernel_sample_finish, a, finish_shape(a));
    }
    if (status == kSuccess)
        status = driver.copy_to_host(staging, reinterpret_cast<DevicePointer>(a.result), sizeof *result, d.draws);
    if (status == kSuccess) status = driver.stream_synchronize(d.draws);
    memcpy(result, staging, sizeof *result);
    return status;
}

}  // namespace

DrawBlock draw_block(const Program& p) {
    const uint64_t vocabulary = p.spec.vocabulary;
    DrawBlock b = {};
    const auto place = [&](uint64_t count, uint64_t bytes) { return place_in_block(&b.bytes, count * bytes); };
    b.bias = place(kMaxBias, sizeof(cuda::TokenBias));
    b.forbidden = place(kMaxForbidden, sizeof(uint32_t));
    b.mask = place((vocabulary + 7) / 8, 1);
    const uint64_t window = p.config.context_tokens < vocabulary ? p.config.context_tokens : vocabulary;
    b.window = place(window, sizeof(cuda::TokenCount));
    b.input_bytes = b.bytes;
    b.result = place(1, sizeof(cuda::SampleResult));
    b.left = place(1, sizeof(cuda::SampleLeft));
    b.distance = place(vocabulary, sizeof(double));
    b.mass = place(vocabulary, sizeof(uint64_t));
    b.weighted = place(vocabulary, sizeof(uint64_t));
    b.list = place(vocabulary, sizeof(uint32_t));
    b.best = place(cuda::sample_blocks(p.spec.vocabulary), sizeof(cuda::SampleBest));
    return b;
}

keel_status cuda_draw(Device* device, const DrawRequest& request, int32_t* token) {
    CudaDevice& d = *cuda_device(device);
    if (d.drawing.exchange(1, std::memory_order_acquire)) return KEEL_E_BUSY;
    CurrentCuda current(d.cuda);
    cuda::SampleResult result = {};
    const bool drawn = current.ok() && run_draw(d, request, &result) == kSuccess;
    d.drawing.store(0, std::memory_order_release);
    if (!drawn) return KEEL_E_DEVICE;
    if (result.status != cuda::SampleStatus::kDrawn) return KEEL_E_NUMERIC;
    *token = static_cast<int32_t>(result.token);
    return KEEL_OK;
}

}  // namespace keel
