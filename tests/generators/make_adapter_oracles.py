#!/usr/bin/env python3
"""Writes tests/data/adapters: LoRA files for models of tests/data/architectures, and logits with them by transformers.

Matrices are random. Every Linear of the model gets a hook that adds scale * alpha / rank * B (A x) to its output, so the
model's own matrices stay as they are: nothing is merged. Without hooks the logits have to be those committed for the
model. Files are written by gguf-py, as llama.cpp's converter names things; rows of llama's q and k come in the order of
the file, which is another one than that of transformers.

Needs torch, transformers, accelerate, numpy, gguf:  make_adapter_oracles.py
"""
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoConfig, AutoModelForCausalLM

DATA = Path(__file__).resolve().parent.parent / "data"
MODELS, OUT = DATA / "architectures", DATA / "adapters"
F32, F16, BF16, Q8_0 = (gguf.GGMLQuantizationType[t] for t in ("F32", "F16", "BF16", "Q8_0"))

ATTENTION = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}
FFN = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
FUSED = {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
# name: model, what the file does not tell transformers, matrices, rank, alpha (None: no key), types of A and B, scale
CASES = {
    "llama-all": ("smollm2-q8_0", {}, ATTENTION | FFN, 16, 32.0, F16, F16, 1.0),
    "llama-rank-3": ("smollm2-q8_0", {}, {k: ATTENTION[k] for k in ("attn_k", "attn_output")} | {"ffn_up": FFN["ffn_up"]}, 3, 0.0, F32, F32, -0.5),
    "qwen2-quantized": ("qwen2-mqa-tied", {}, {k: ATTENTION[k] for k in ("attn_q", "attn_v")} | {"ffn_down": FFN["ffn_down"]}, 32, 16.0, Q8_0, Q8_0, 0.75),
    "phi3-fused": ("phi3", dict(pad_token_id=0, sliding_window=24, original_max_position_embeddings=2048), FUSED, 8, None, BF16, F32, 0.25),
    "gemma2-post-norms": ("gemma2", dict(query_pre_attn_scalar=16, sliding_window=16, attn_logit_softcapping=3.0, final_logit_softcapping=4.0,
                                         head_dim=16), ATTENTION | FFN, 4, 4.0, F32, F16, 1.0),
}


def llama_order(rows, heads):
    """Which row of transformers stands in each row of the file."""
    dim = rows // heads
    return np.arange(rows).reshape(heads, 2, dim // 2).swapaxes(1, 2).reshape(-1)


def stored(matrix, kind):
    data = matrix.astype(np.float32) if kind == F32 else quantize(matrix.astype(np.float32), kind)
    return data, np.asarray(dequantize(data, kind), np.float64)


def main():
    OUT.mkdir(exist_ok=True)
    index = json.loads((MODELS / "index.json").read_text())
    models = {c["name"]: c for c in index["cases"]}
    cases = []
    for number, (name, (base, settings, matrices, rank, alpha, a_type, b_type, scale)) in enumerate(CASES.items()):
        case = models[base]
        config = AutoConfig.from_pretrained(MODELS, gguf_file=case["file"])
        for key, value in settings.items():
            setattr(config, key, value)
        model = AutoModelForCausalLM.from_pretrained(MODELS, gguf_file=case["file"], config=config, attn_implementation="eager",
                                                     dtype=torch.float32).eval()
        ids = torch.tensor([index["tokens"][: case["ids"]]])
        logits = lambda: model(ids).logits[0].detach().numpy()[case["positions"]]
        reference = np.fromfile(MODELS / case["logits"], "<f4").reshape(len(case["positions"]), -1)
        plain = logits()
        error = np.abs(plain - reference).max() / np.abs(reference).max()
        assert error < 1e-5, (base, error)

        random = np.random.default_rng(number)
        architecture = gguf.GGUFReader(MODELS / case["file"]).get_field("general.architecture").contents()
        writer = gguf.GGUFWriter(OUT / f"{name}.gguf", architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        if alpha is not None:
            writer.add_float32("adapter.lora.alpha", alpha)
        s = scale * alpha / rank if alpha else scale
        modules = dict(model.named_modules())
        for layer in range(config.num_hidden_layers):
            for tensor, module in matrices.items():
                if layer == 1 and tensor == "attn_v":
                    continue  # not every layer has every pair
                linear = modules[f"model.layers.{layer}.{module}"]
                a, a_value = stored(random.normal(0, linear.in_features**-0.5, (rank, linear.in_features)), a_type)
                b, b_value = stored(random.normal(0, 0.3 / abs(s) * rank**-0.5, (linear.out_features, rank)), b_type)
                writer.add_tensor(f"blk.{layer}.{tensor}.weight.lora_a", a, raw_dtype=a_type)
                writer.add_tensor(f"blk.{layer}.{tensor}.weight.lora_b", b, raw_dtype=b_type)
                if architecture == "llama" and tensor in ("attn_q", "attn_k"):
                    heads = config.num_attention_heads if tensor == "attn_q" else config.num_key_value_heads
                    order, value = llama_order(linear.out_features, heads), b_value
                    b_value = np.empty_like(value)
                    b_value[order] = value
                delta = torch.tensor(s * b_value @ a_value, dtype=torch.float64)
                linear.register_forward_hook(lambda _, x, y, delta=delta: (y.double() + x[0].double() @ delta.T).float())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        changed = logits()
        changed.astype("<f4").tofile(OUT / f"{name}.f32")
        change = float(np.abs(changed - plain).max() / np.abs(plain).max())
        assert change > 0.05, (name, change)
        cases.append(dict(name=name, model=base, file=f"{name}.gguf", logits=f"{name}.f32", scale=scale, rank=rank, logits_change=round(change, 3)))
        print(name, error, change)
    (OUT / "index.json").write_text(json.dumps(dict(cases=cases), indent=1) + "\n")


if __name__ == "__main__":
    main()
