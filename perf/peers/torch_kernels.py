#!/usr/bin/env python3
"""torch_kernels.py OUT.json: what PyTorch's own kernels reach on this machine's GPU, to stand beside Keel's timings of the same run
(perf/device.sh): the dense f16 and int8 rates that prefill is measured against, a read of memory, and one decode step's products and
attention of the shapes of an 8B model in f16.
"""
import json
import sys

import torch


def time_us(work, count=20):
    """Microseconds of one call, the median of five."""
    for _ in range(3):
        work()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / count)
    return sorted(times)[2]


def main():
    device = "cuda"
    rows = {}
    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.float16) for _ in range(2))
    rows["f16_tflops"] = 2 * n**3 / time_us(lambda: a @ b, 5) / 1e6
    ai, bi = (torch.randint(-127, 128, (n, n), device=device, dtype=torch.int8) for _ in range(2))
    try:
        rows["int8_tops"] = 2 * n**3 / time_us(lambda: torch._int_mm(ai, bi.t()), 5) / 1e6
    except RuntimeError as error:
        rows["int8_tops_error"] = str(error).splitlines()[0]
    del a, b, ai, bi
    memory = torch.randint(0, 1 << 30, (1 << 29,), device=device, dtype=torch.int32)
    rows["sum_gb_per_s"] = memory.numel() * 4 / time_us(lambda: memory.sum(), 5) / 1e3
    del memory
    # Products of one token over all layers' worth of distinct matrices, so that none is in the cache.
    shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
    layers = [[torch.randn(rows_, k, device=device, dtype=torch.float16) for rows_, k in shapes] for _ in range(8)]
    for tokens in (1, 8):
        x = {k: torch.randn(k, tokens, device=device, dtype=torch.float16) for _, k in shapes}
        us = time_us(lambda: [w @ x[w.shape[1]] for layer in layers for w in layer], 5)
        bytes_ = sum(w.numel() * 2 for layer in layers for w in layer)
        rows[f"decode_products_f16_{tokens}_tokens"] = {"us_of_8_layers": us, "gb_per_s": bytes_ / us / 1e3}
    del layers
    for context in (4096, 32768):
        k, v = (torch.randn(8, 8, context, 128, device=device, dtype=torch.float16) for _ in range(2))  # 8 layers
        q = torch.randn(8, 32, 1, 128, device=device, dtype=torch.float16)
        us = time_us(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True), 5)
        rows[f"decode_attention_f16_{context}"] = {"us_of_8_layers": us, "gb_per_s": 2 * k.numel() * 2 / us / 1e3}
    document = {"torch": torch.__version__, "commit": torch.version.git_version, "cuda": torch.version.cuda,
                "gpu": torch.cuda.get_device_name(), "flags": "defaults", **rows}
    with open(sys.argv[1], "w") as file:
        json.dump(document, file, indent=1)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
