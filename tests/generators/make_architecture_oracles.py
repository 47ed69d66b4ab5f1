#!/usr/bin/env python3
"""Writes tests/data/architectures: tiny random GGUFs of every architecture and their logits by another implementation.

The forward pass is transformers' (eager attention, float32); the files are written by llama.cpp's own converter, with
only the vocabulary replaced by a minimal one. Matrices are rounded to what the file stores before the forward pass, so
the logits are the exact target of the file up to float32 rounding.

Needs torch, transformers, numpy, safetensors and a llama.cpp source tree (conversion/, gguf-py/):
    make_architecture_oracles.py --llama-cpp DIR [--only NAME ...] [--check-dir DIR]

For every case each feature is also switched off or changed (ABLATIONS below) and the change of the logits is written to
index.json: a feature whose absence would not show is an error here. --check-dir keeps what a second implementation
needs to confirm the files: an F32 copy of each GGUF and the logits of all positions.
"""
import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

OUT = Path(__file__).resolve().parent.parent / "data" / "architectures"
VOCABULARY = 272
IDS = 160  # crosses the attention tile (64), the default chunk (128) and every sliding window below
POSITIONS = [0, 1, 15, 16, 17, 40, 63, 64, 100, 127, 128, 159]
SHORT_POSITIONS = [0, 1, 7, 15, 16, 23, 31, 32, 40, 48, 55, 59]

# ---- vocabularies ----------------------------------------------------------------------------------------------------


def spm_vocabulary(writer, gemma):
    """3 specials, 256 bytes, 12 pieces, 1 added token: SentencePiece BPE with byte fallback."""
    from gguf import TokenType

    pieces = ["▁", "t", "h", "e", "a", "n", "d", "▁t", "he", "an", "▁the", "and"]
    specials = ["<pad>", "<eos>", "<bos>"] if gemma else ["<unk>", "<s>", "</s>"]
    tokens = specials + [f"<0x{b:02X}>" for b in range(256)] + pieces + ["<|endoftext|>"]
    types = [TokenType.CONTROL if gemma else TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    types += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces) + [TokenType.CONTROL]
    scores = [0.0] * 259 + [-float(1000 if len(p) == 1 else i) for i, p in enumerate(pieces)] + [-1000.0]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokens.index("<bos>" if gemma else "<s>"))
    writer.add_eos_token_id(tokens.index("<eos>" if gemma else "</s>"))
    if gemma:
        writer.add_pad_token_id(0)
    else:
        writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(not gemma)


def bpe_vocabulary(writer, pre):
    """The 256 byte characters, 14 merges, 2 control tokens: byte-level BPE."""
    from gguf import TokenType

    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    alphabet = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    merges = ["Ġ t", "h e", "Ġt he", "a n", "an d", "Ġ and", "i n", "e r", "o n", "Ġ a", "r e", "in g", "e n", "o u"]
    specials = ["<|endoftext|>", "<|im_end|>"]
    tokens = [alphabet[b] for b in sorted(printable) + others] + [m.replace(" ", "") for m in merges] + specials
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 2) + [TokenType.CONTROL] * 2)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)


# ---- models ----------------------------------------------------------------------------------------------------------

SHAPE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             intermediate_size=64, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0)
THETA = lambda base, **more: dict(rope_type="default", rope_theta=base) | more
GEMMA3_ROPE = dict(full_attention=THETA(1e6), sliding_attention=THETA(1e4))
GEMMA3_LINEAR = dict(full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0), sliding_attention=THETA(1e4))
SLIDING, FULL = "sliding_attention", "full_attention"


def longrope(pairs, **more):
    """Factors as in the published models: short close to 1, long growing with the wavelength."""
    return dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=64,
                short_factor=[round(1.0 + 0.07 * i, 2) for i in range(pairs)],
                long_factor=[round(1.05 + 0.9 * i * i / pairs, 3) for i in range(pairs)]) | more


MSCALE = dict(mscale=1.0, mscale_all_dim=0.5)


def yarn(**more):
    return dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=512, beta_fast=24.0, beta_slow=2.0) | more


# name: (transformers class prefix, config, vocabulary, what it shows, ablations {what is wrong: config changes})
MODELS = {
    "qwen3": (
        "Qwen3", dict(head_dim=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
                      tie_word_embeddings=True, rope_parameters=THETA(1e6)), "qwen2",
        "QK-norm before NeoX RoPE, heads x head_dim = 64 against embedding 32, tied head, rope base 1e6",
        {"rope base 1e4": dict(rope_parameters=THETA(1e4)), "no QK-norm": "qk_norm"}),
    "qwen2-mqa-tied": (
        "Qwen2", dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True,
                      rope_parameters=THETA(1e6)), "qwen2",
        "QKV bias, one KV head for four query heads, NeoX RoPE, tied head",
        {"rope base 1e4": dict(rope_parameters=THETA(1e4)), "no bias": "bias"}),
    "gemma2": (
        "Gemma2", dict(num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                       query_pre_attn_scalar=16, sliding_window=16, attn_logit_softcapping=3.0,
                       final_logit_softcapping=4.0, bos_token_id=2, eos_token_id=1), "gemma",
        "post norms, attention and final soft caps (3 and 4, smaller than in the published models so that they bite), "
        "sliding window 16 on layers 0 and 2, embedding scale sqrt(32), GELU-tanh gate, norm weights stored + 1",
        {"no sliding window": dict(layer_types=[FULL] * 4), "window 17": dict(sliding_window=17),
         "window 15": dict(sliding_window=15), "windows on odd layers": dict(layer_types=[FULL, SLIDING] * 2),
         "no attention cap": dict(attn_logit_softcapping=None), "no final cap": dict(final_logit_softcapping=None),
         "query scale from embedding/heads": dict(query_pre_attn_scalar=8), "SiLU": dict(hidden_activation="silu"),
         "exact GELU": dict(hidden_activation="gelu")}),
    "gemma3": (
        "Gemma3Text", dict(num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=16, intermediate_size=48,
                           sliding_window=16, rope_parameters=GEMMA3_ROPE, bos_token_id=2, eos_token_id=1), "gemma",
        "QK-norm, five sliding layers (window 16, rope base 1e4) to one global (base 1e6), post norms, embedding scale",
        {"no sliding window": dict(layer_types=[FULL] * 7, rope_parameters=GEMMA3_ROPE), "window 17": dict(sliding_window=17),
         "all sliding": dict(layer_types=[SLIDING] * 7), "local base 1e6": dict(rope_parameters=dict(full_attention=THETA(1e6), sliding_attention=THETA(1e6))),
         "global base 1e4": dict(rope_parameters=dict(full_attention=THETA(1e4), sliding_attention=THETA(1e4))),
         "no QK-norm": "qk_norm"}),
    "gemma3-linear": (
        "Gemma3Text", dict(num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=16, intermediate_size=48,
                           sliding_window=16, rope_parameters=GEMMA3_LINEAR, bos_token_id=2, eos_token_id=1), "gemma",
        "as gemma3, with linear rope scaling 8 on the global layer only and no rope.freq_base_swa key (older files have "
        "none: 1e4 is meant)",
        {"no scaling": dict(rope_parameters=GEMMA3_ROPE),
         "local layers scaled too": dict(rope_parameters=dict(full_attention=GEMMA3_LINEAR["full_attention"], sliding_attention=dict(rope_type="linear", rope_theta=1e4, factor=8.0)))}),
    "phi3": (
        "Phi3", dict(num_key_value_heads=2, sliding_window=24, original_max_position_embeddings=2048,
                     rope_parameters=THETA(1e4)), "spm",
        "fused QKV and gate_up, sliding window 24 on every layer, NeoX RoPE, untied head",
        {"no sliding window": dict(sliding_window=None), "window 25": dict(sliding_window=25), "window 23": dict(sliding_window=23)}),
    "phi3-longrope": (
        "Phi3", dict(sliding_window=2048, original_max_position_embeddings=64, rope_parameters=longrope(8)), "spm",
        "GQA in the fused QKV, rope_factors_long/short, original context 64 of 2,048, attention factor; two cases: a "
        "context above 64 uses the long factors, one of at most 64 the short ones",
        {"attention factor 1": dict(rope_parameters=longrope(8, attention_factor=1.0)),
         "long and short exchanged": dict(rope_parameters=longrope(8) | dict(short_factor=longrope(8)["long_factor"], long_factor=longrope(8)["short_factor"])),
         "no factors": dict(rope_parameters=longrope(8) | dict(short_factor=[1.0] * 8, long_factor=[1.0] * 8))}),
    "phi4-partial-rotary": (
        "Phi3", dict(hidden_size=64, intermediate_size=32, num_attention_heads=2, tie_word_embeddings=True, original_max_position_embeddings=64,
                     rope_parameters=longrope(12, partial_rotary_factor=0.75)), "qwen2",
        "as Phi-4-mini: rope over 24 of 32 head elements, tied head, long factors, byte-level BPE, window 0 in the file: none",
        {"long and short exchanged": dict(rope_parameters=longrope(12, partial_rotary_factor=0.75) | dict(short_factor=longrope(12)["long_factor"], long_factor=longrope(12)["short_factor"]))}),
    "mistral": (
        "Mistral", dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, head_dim=16, intermediate_size=48,
                        sliding_window=None, rope_parameters=THETA(1e4)), "spm",
        "architecture llama: interleaved RoPE (Q and K rows permuted), three query heads, untied, rows of 48 elements",
        {"rope base 1e6": dict(rope_parameters=THETA(1e6))}),
    "mistral-wide-heads": (
        "Mistral", dict(num_attention_heads=4, num_key_value_heads=2, head_dim=24, sliding_window=None,
                        rope_parameters=THETA(1e6)), "spm",
        "as Mistral-Nemo: heads x head_dim = 96 against embedding 32, head_dim 24, untied",
        {"rope base 1e4": dict(rope_parameters=THETA(1e4))}),
    "smollm2-q8_0": (
        "Llama", dict(hidden_size=96, num_attention_heads=3, head_dim=32, intermediate_size=96, tie_word_embeddings=True,
                      rope_parameters=THETA(1e5)), "smollm",
        "as SmolLM2: rows of 96 = 3 x 32 elements, not divisible by 256, tied; Q8_0, logits of the decoded weights",
        {"rope base 1e4": dict(rope_parameters=THETA(1e4))}),
    "llama-linear": (
        "Llama", dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)), "spm",
        "rope.scaling.type linear, factor 4, tied head",
        {"no scaling": dict(rope_parameters=THETA(1e4))}),
    "glm4": (
        "Glm4", dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, attention_bias=True, tie_word_embeddings=False,
                     rope_parameters=THETA(1e4, partial_rotary_factor=0.5)), "glm4",
        "as GLM-4-0414: interleaved RoPE over half of each head, QKV bias, post norms before the residuals, fused gate_up, untied head",
        {"whole heads rotated": dict(rope_parameters=THETA(1e4, partial_rotary_factor=1.0)),
         "rope base 1e6": dict(rope_parameters=THETA(1e6, partial_rotary_factor=0.5)), "no bias": "bias"}),
    "qwen3-yarn": (
        "Qwen3", dict(head_dim=32, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64, rope_parameters=yarn()), "qwen2",
        "rope.scaling.type yarn, factor 4 over a trained context of 512, turns 24 and 2: pairs kept, mixed and stretched, attention factor",
        {"no scaling": dict(rope_parameters=THETA(1e4)), "attention factor 1": dict(rope_parameters=yarn(attention_factor=1.0)),
         "linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
         "usual turns": dict(rope_parameters=yarn(beta_fast=32.0, beta_slow=1.0)),
         "trained context 2048": dict(rope_parameters=yarn(original_max_position_embeddings=2048))}),
    "llama-yarn": (
        "Llama", dict(tie_word_embeddings=True, rope_parameters=yarn(factor=8.0, beta_fast=32.0, beta_slow=1.0, **MSCALE)), "spm",
        "interleaved pairs, factor 8, the usual turns, and rope.scaling.yarn_log_multiplier 0.5, which takes back some of the attention factor",
        {"no multiplier": dict(rope_parameters=yarn(factor=8.0, beta_fast=32.0, beta_slow=1.0)),
         "factor 4": dict(rope_parameters=yarn(beta_fast=32.0, beta_slow=1.0, **MSCALE))}),
}
GLM4_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "post_self_attn_layernorm": "post_attention_norm", "post_attention_layernorm": "ffn_norm",
              "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_mlp_layernorm": "post_ffw_norm",
              "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def build(prefix, config, weights=None):
    made = getattr(transformers, prefix + "Config")(**(SHAPE | copy.deepcopy(config)), attn_implementation="eager")
    cls = getattr(transformers, {"Gemma3Text": "Gemma3"}.get(prefix, prefix) + "ForCausalLM")
    model = cls(made).float().eval()
    assert model.config._attn_implementation == "eager"
    if weights is not None:
        model.load_state_dict(weights)
    return model


def to_q8_0(matrix):
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(matrix.numpy(), kind), kind))


def fill(model, seed, gemma, q8_0):
    """Random weights with sharp attention and moderate logits, rounded to the type of the file."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("norm.weight"):
                p.copy_((0.0 if gemma else 1.0) + 0.25 * noise)
            elif name.endswith("bias"):
                p.copy_(noise * (2.0 if "k_proj" in name else 0.5))
            else:
                sharp = any(part in name for part in ("q_proj", "k_proj", "qkv_proj"))
                scale = 0.4 if "embed_tokens" in name else (1.7 if sharp else 2.5 if "lm_head" in name else 1.0) / p.shape[1] ** 0.5
                p.copy_(to_q8_0(noise * scale) if q8_0 else (noise * scale).half().float())
    return model.state_dict()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def row_error(a, b):
    return float((np.abs(a - b).max(axis=1) / np.abs(b).max(axis=1)).max())


def ablate(prefix, config, weights, change, ids):
    if change == "qk_norm":
        weights = {k: torch.full_like(v, 0.0 if "Gemma" in prefix else 1.0) if k.endswith(("q_norm.weight", "k_norm.weight")) else v for k, v in weights.items()}
    elif change == "bias":
        weights = {k: torch.zeros_like(v) if k.endswith("bias") else v for k, v in weights.items()}
    changed = config if isinstance(change, str) else config | change
    return logits(build(prefix, changed, weights), ids)


def convert(model, name, vocabulary, outtype, path):
    """llama.cpp's converter, with our vocabulary in place of a tokenizer's files."""
    if name == "glm4":
        return write_glm4(model, outtype, path)
    from conversion import ModelBase, get_model_class, get_model_architecture
    from conversion.base import ModelType
    import gguf

    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp)
        # The Gemma 3 converter counts the vocabulary here to drop padding rows.
        Path(tmp, "tokenizer.json").write_text(json.dumps({"model": {"vocab": [""] * VOCABULARY}, "added_tokens": []}))
        architecture = get_model_architecture(ModelBase.load_hparams(Path(tmp), False), ModelType.TEXT)

        class Converter(get_model_class(architecture)):
            model_arch = get_model_class(architecture).model_arch

            def set_vocab(self):
                if vocabulary in ("spm", "gemma"):
                    spm_vocabulary(self.gguf_writer, vocabulary == "gemma")
                else:
                    bpe_vocabulary(self.gguf_writer, vocabulary)

        converter = Converter(Path(tmp), outtype, path, eager=True, model_name=name)
        if name == "gemma3-linear":
            converter.gguf_writer.add_rope_freq_base_swa = lambda value: None
        if name == "llama-yarn":  # of which the converter writes nothing
            converter.gguf_writer.add_rope_scaling_yarn_log_mul(MSCALE["mscale_all_dim"])
        converter.write()
    return [t.tensor_type.name for t in gguf.GGUFReader(path).tensors]


def write_glm4(model, outtype, path):
    """With gguf-py alone: the published models need nothing of the converter but these names."""
    import gguf

    c, writer = model.config, gguf.GGUFWriter(path, "glm4")
    half = outtype == gguf.LlamaFileType.MOSTLY_F16
    for add, value in ((writer.add_name, "glm4"), (writer.add_block_count, c.num_hidden_layers), (writer.add_context_length, c.max_position_embeddings),
                       (writer.add_embedding_length, c.hidden_size), (writer.add_feed_forward_length, c.intermediate_size),
                       (writer.add_head_count, c.num_attention_heads), (writer.add_head_count_kv, c.num_key_value_heads),
                       (writer.add_layer_norm_rms_eps, c.rms_norm_eps), (writer.add_rope_freq_base, 1e4), (writer.add_key_length, c.head_dim),
                       (writer.add_value_length, c.head_dim), (writer.add_rope_dimension_count, c.head_dim // 2),
                       (writer.add_file_type, 1 if half else 0), (writer.add_vocab_size, c.vocab_size)):
        add(value)
    bpe_vocabulary(writer, "glm4")
    for key, value in model.state_dict().items():
        base, kind = key.removeprefix("model.").rsplit(".", 1)
        layer, base = base.split(".", 2)[1:] if base.startswith("layers.") else (None, base)
        name = f"{GLM4_NAMES[base]}.{kind}" if layer is None else f"blk.{layer}.{GLM4_NAMES[base]}.{kind}"
        writer.add_tensor(name, value.numpy().astype(np.float16 if half and value.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [t.tensor_type.name for t in gguf.GGUFReader(path).tensors]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-cpp", required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--check-dir", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [args.llama_cpp, str(Path(args.llama_cpp, "gguf-py"))]
    import gguf

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    OUT.mkdir(parents=True, exist_ok=True)
    ids = np.random.default_rng(1).integers(3, VOCABULARY, IDS)
    ids[0] = 1
    ids = ids.tolist()
    cases = []
    for seed, (name, (prefix, config, vocabulary, shows, ablations)) in enumerate(MODELS.items()):
        if args.only and name not in args.only:
            continue
        gemma, q8_0 = "Gemma" in prefix, name.endswith("q8_0")
        model = build(prefix, config)
        weights = {k: v.clone() for k, v in fill(model, 100 + seed, gemma, q8_0).items()}
        types = gguf.LlamaFileType.MOSTLY_Q8_0 if q8_0 else gguf.LlamaFileType.MOSTLY_F16
        path = OUT / f"{name}.gguf"
        print(name, path, sorted(set(convert(model, name, vocabulary, types, path))), path.stat().st_size)
        for key, buffer in model.named_buffers():
            if key.endswith("inv_freq"):
                print("  ", key, [float(f"{v:.4g}") for v in buffer[:4]])
        if args.check_dir:
            args.check_dir.mkdir(parents=True, exist_ok=True)
            convert(model, name, vocabulary, gguf.LlamaFileType.ALL_F32, args.check_dir / f"{name}-f32.gguf")
        long = "longrope" in str(config)
        for suffix, count, positions in [("", IDS, POSITIONS)] + ([("-short", 60, SHORT_POSITIONS)] if long else []):
            full = logits(model, ids[:count])
            rows = full[positions].astype("<f4")
            assert np.isfinite(rows).all()
            rows.tofile(OUT / f"{name}{suffix}.f32")
            changes = {}
            for what, change in ablations.items():
                wrong = ablate(prefix, config, weights, change, ids[:count])
                changes[what] = float(f"{row_error(wrong[positions], rows):.2g}")
                if args.check_dir and what == "no sliding window":
                    wrong.astype("<f4").tofile(args.check_dir / f"{name}-no-window-all.f32")
            print("  ", suffix, "max |logit|", float(np.abs(rows).max()), changes)
            too_quiet = [w for w, c in changes.items() if c < 3e-4]
            assert not too_quiet, too_quiet
            if args.check_dir:
                full.astype("<f4").tofile(args.check_dir / f"{name}{suffix}-all.f32")
            cases.append(dict(name=name + suffix, file=f"{name}.gguf", ids=count, context_tokens=64 if suffix else 192,
                              positions=positions, logits=f"{name}{suffix}.f32", shows=shows,
                              logits_change_if_wrong=changes))
    if args.only:  # the others stay
        made = {case["name"] for case in cases}
        cases = [case for case in json.loads(OUT.joinpath("index.json").read_text())["cases"] if case["name"] not in made] + cases
    index = dict(about="see README.md; every case feeds the first `ids` of `tokens`", vocabulary=VOCABULARY, tokens=ids, cases=cases,
                 versions=dict(torch=torch.__version__, transformers=transformers.__version__, numpy=np.__version__))
    OUT.joinpath("index.json").write_text(json.dumps(index, indent=1) + "\n")
    if args.check_dir:
        args.check_dir.joinpath("ids.txt").write_text(" ".join(map(str, ids)))


if __name__ == "__main__":
    main()
