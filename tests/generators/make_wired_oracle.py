#!/usr/bin/env python3
"""Writes tests/data/wired: a tiny random model with wired layers, and its logits by this script, in float64.

The forward pass below is written down from the published description of a record of the 16 MB contest (depth recurrence,
skips with gates, two lanes, exclusive attention, gates of heads, smeared embeddings, rotation by the negative angle,
squared leaky ReLU, soft cap), with that model's own parameters. `fold` makes the tensors of sdk/model/WIRED_MODELS.md of
them, so the comparison also proves what that page says about folding. Needs numpy and gguf (gguf-py).
"""
import json
from pathlib import Path

import gguf
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "data" / "wired"
VOCABULARY, WIDTH, HEADS, KV_HEADS, HEAD, ROPE, FFN, BLOCKS = 272, 32, 4, 2, 16, 8, 64, 5
ENCODER, DECODER = [0, 1, 2, 1], [2, 1, 2, 3, 4]  # blocks in the order in which a token passes them
LANES_FROM = 3  # block
GATE, SMEAR = 12, 12
EPS, CAP, LEAK, BOS, IDS = 1.1920929e-7, 5.0, 0.5, 1, 160
POSITIONS = [0, 1, 15, 16, 17, 40, 63, 64, 100, 127, 128, 159]


def norm(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def half(x):
    return x.astype(np.float16).astype(np.float64)


def parameters(seed):
    """The published model's, as its training script names them."""
    g = np.random.default_rng(seed)
    n = lambda *shape: g.standard_normal(shape)
    p = dict(embedding=half(n(VOCABULARY, WIDTH) * 0.4), smear_w=n(SMEAR), smear_lambda=0.7, q_gain=g.uniform(1.5, 3, (BLOCKS, HEADS)),
             gate_w=n(BLOCKS, HEADS, GATE), attn_scale=g.uniform(0.6, 1.4, (BLOCKS, WIDTH)), mlp_scale=g.uniform(0.6, 1.4, (BLOCKS, WIDTH)),
             resid_mix=np.stack([1 + 0.2 * n(BLOCKS, WIDTH), 0.3 * n(BLOCKS, WIDTH)], 1), skip_weight=0.6 * n(len(ENCODER), WIDTH),
             skip_gate=n(len(ENCODER), WIDTH), post_lambda=1 + 0.3 * n(BLOCKS, 2, 2), resid_lambda=1.1 + 0.2 * n(BLOCKS, 2))
    for name, rows, columns, scale in (("q", HEADS * HEAD, WIDTH, 1), ("k", KV_HEADS * HEAD, WIDTH, 1), ("v", KV_HEADS * HEAD, WIDTH, 1),
                                       ("o", WIDTH, HEADS * HEAD, 1), ("up", FFN, WIDTH, 1), ("down", WIDTH, FFN, 0.4)):
        p[name] = half(n(BLOCKS, rows, columns) * scale / columns**0.5)
    # What the file has, scaled rows, is what is exactly a half.
    p["o"] /= p["attn_scale"][:, :, None]
    p["down"] /= p["mlp_scale"][:, :, None]
    return p


def forward(p, ids, without=()):
    """Logits of every position. `without`: features that are left out, to see that they matter."""
    ids = np.asarray(ids)
    count = len(ids)
    on = lambda feature: feature not in without
    e = p["embedding"][ids]
    x = e.copy()
    if on("smear"):
        gate = p["smear_lambda"] * sigmoid(e[1:, :SMEAR] @ p["smear_w"])
        x[1:] += (gate * ((ids[1:] != BOS) | (not on("no smear at a beginning"))))[:, None] * e[:-1]
    x = x0 = norm(x)
    turned = ROPE // 2
    angle = np.arange(count)[:, None] * 10000.0 ** (-2 * np.arange(turned) / ROPE)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    hidden = np.triu(np.full((count, count), -np.inf), 1)

    def rotated(x):
        a, b = x[..., :turned], x[..., turned:ROPE]
        return np.concatenate([a * cos + b * sin, -a * sin + b * cos, x[..., ROPE:]], -1)

    def attention(l, n):
        q, k, v = (n @ p[w][l].T for w in "qkv")
        q, k, v = (r.reshape(count, -1, HEAD) for r in (q, k, v))
        q, k = norm(q), norm(k)
        if on("rotation"):
            q, k = rotated(q), rotated(k)
        if on("gain of q"):
            q = q * p["q_gain"][l][:, None]
        out = np.empty((count, HEADS, HEAD))
        for h in range(HEADS):
            group = h // (HEADS // KV_HEADS)
            s = q[:, h] @ k[:, group].T / HEAD**0.5 + hidden
            w = np.exp(s - s.max(-1, keepdims=True))
            y = w / w.sum(-1, keepdims=True) @ v[:, group]
            if on("exclusive attention"):
                own = v[:, group] / np.maximum(np.linalg.norm(v[:, group], axis=-1, keepdims=True), 1e-12)
                y = y - (y * own).sum(-1, keepdims=True) * own
            out[:, h] = y
        if on("gates of heads"):
            out *= sigmoid(0.5 * (n[:, :GATE] @ p["gate_w"][l].T))[:, :, None]
        return p["attn_scale"][l] * (out.reshape(count, -1) @ p["o"][l].T)

    def mlp(l, n):
        f = n @ p["up"][l].T
        f = np.where(f > 0, f, (LEAK if on("leak") else 0) * f) ** 2
        return p["mlp_scale"][l] * (f @ p["down"][l].T)

    def scaled_norm(l, x):
        return norm(x) / (l + 1) ** 0.5

    def mixed(l, x):
        m = p["resid_mix"][l]
        return m[0] * x + m[1] * (x0 if on("first input") else 0)

    def block(l, x):
        u = mixed(l, x)
        u = u + attention(l, scaled_norm(l, u))
        return u + mlp(l, scaled_norm(l, u))

    encoder, decoder = ENCODER, DECODER
    if not on("recurrence"):  # each block once, as the same parts of a shorter net
        encoder, decoder = [0, 1], [2, 3, 4]
    kept, lanes = [], None
    for l in encoder:
        x = block(l, x)
        kept.append(x)
    for at, l in enumerate(decoder):
        two = l >= LANES_FROM and on("lanes")
        if two and lanes is None:
            lanes = [x, x]
        if at < len(kept) and on("skips"):
            s, g = p["skip_weight"][at] * kept[-1 - at], sigmoid(p["skip_gate"][at])
            if two:
                lanes[0] = s + g * (lanes[0] - s)
            else:
                x = s + g * (x - s)
        if not two:
            x = block(l, x)
            continue
        a = attention(l, scaled_norm(l, mixed(l, lanes[0])))
        b = mlp(l, scaled_norm(l, lanes[1]))
        post, resid = p["post_lambda"][l], p["resid_lambda"][l]
        lanes = [resid[i] * lanes[i] + post[0][i] * a + post[1][i] * b for i in range(2)]
    if lanes is not None:
        x = (lanes[0] + lanes[1]) / 2
    logits = norm(x) @ p["embedding"].T
    return CAP * np.tanh(logits / CAP) if on("soft cap") else logits


def exchanged(w):
    """Rotation by the negative angle is rotation by the angle with the elements of a pair exchanged."""
    order = np.concatenate([np.arange(ROPE // 2, ROPE), np.arange(ROPE // 2), np.arange(ROPE, HEAD)])
    return w.reshape(-1, HEAD, WIDTH)[:, order].reshape(w.shape)


def fold(p):
    """The tensors of the file, by name."""
    layers = ENCODER + DECODER
    ones = np.ones(WIDTH)
    skip = [len(ENCODER) - 1 - (i - len(ENCODER)) if len(ENCODER) <= i < 2 * len(ENCODER) else -1 for i in range(len(layers))]
    first = layers.index(LANES_FROM)
    inputs, lanes = np.zeros((len(layers), 3, WIDTH)), np.zeros((len(layers) - first, 7, WIDTH))
    for i, l in enumerate(layers):
        stays, comes = ones, 0 * ones
        if skip[i] >= 0:  # s + g (x - s) = g x + (1 - g) s
            gate = sigmoid(p["skip_gate"][i - len(ENCODER)])
            stays, comes = gate, (1 - gate) * p["skip_weight"][i - len(ENCODER)]
        m = p["resid_mix"][l]
        inputs[i] = m[0] * stays, m[1], m[0] * comes
        if i >= first:
            post, resid = p["post_lambda"][l], p["resid_lambda"][l]
            lanes[i - first] = (resid[0] * stays, post[0][0] * ones, post[1][0] * ones, resid[0] * comes, resid[1] * ones,
                                post[0][1] * ones, post[1][1] * ones)
    tensors = {"token_embd.weight": p["embedding"], "token_embd_norm.weight": ones, "output_norm.weight": ones,
               "smear_gate.weight": p["smear_w"][None], "input_mix.weight": inputs, "lane_mix.weight": lanes,
               "lane_end.weight": np.full((2, WIDTH), 0.5)}
    for l in range(BLOCKS):
        scale = ones / (l + 1) ** 0.5
        for name, value in (("attn_norm", scale), ("ffn_norm", scale), ("attn_q_norm", np.repeat(p["q_gain"][l], HEAD)),
                            ("attn_k_norm", np.ones(HEAD)), ("attn_q", exchanged(p["q"][l])), ("attn_k", exchanged(p["k"][l])),
                            ("attn_v", p["v"][l]), ("attn_gate", 0.5 * p["gate_w"][l]), ("attn_output", p["attn_scale"][l][:, None] * p["o"][l]),
                            ("ffn_up", p["up"][l]), ("ffn_down", p["mlp_scale"][l][:, None] * p["down"][l])):
            tensors[f"blk.{l}.{name}.weight"] = value
    return layers, skip, first, tensors


def write(path, p):
    layers, skip, first, tensors = fold(p)
    writer = gguf.GGUFWriter(path, "keel-wired")
    for add, value in ((writer.add_name, "wired"), (writer.add_block_count, BLOCKS), (writer.add_context_length, 2048),
                       (writer.add_embedding_length, WIDTH), (writer.add_feed_forward_length, FFN), (writer.add_head_count, HEADS),
                       (writer.add_head_count_kv, KV_HEADS), (writer.add_layer_norm_rms_eps, EPS), (writer.add_rope_freq_base, 1e4),
                       (writer.add_key_length, HEAD), (writer.add_value_length, HEAD), (writer.add_rope_dimension_count, ROPE),
                       (writer.add_final_logit_softcapping, CAP), (writer.add_file_type, 1), (writer.add_vocab_size, VOCABULARY)):
        add(value)
    writer.add_array("keel-wired.layer_blocks", layers)
    writer.add_array("keel-wired.layer_skips", skip)
    for key, value in (("two_lanes_from", first), ("attention.gate_length", GATE), ("smear_gate_length", SMEAR)):
        writer.add_uint32("keel-wired." + key, value)
    writer.add_bool("keel-wired.attention.exclusive", True)
    writer.add_float32("keel-wired.smear_scale", p["smear_lambda"])
    writer.add_float32("keel-wired.feed_forward_leak", LEAK)
    pieces = ["▁", "t", "h", "e", "a", "n", "d", "▁t", "he", "an", "▁the", "and"]
    types = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces + ["<|endoftext|>"])
    writer.add_token_scores([0.0] * 259 + [-float(1000 if len(s) == 1 else i) for i, s in enumerate(pieces)] + [-1000.0])
    writer.add_token_types([types.UNKNOWN, types.CONTROL, types.CONTROL] + [types.BYTE] * 256 + [types.NORMAL] * len(pieces) + [types.CONTROL])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    for name, value in tensors.items():
        coefficients = value.ndim != 2 or "gate" in name or name == "lane_end.weight"
        stored = value.astype(np.float32 if coefficients else np.float16)
        assert coefficients or np.abs(stored.astype(np.float64) - value).max() < 1e-12, name
        writer.add_tensor(name, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_adapter(path, p, rank=4, scale=0.75, alpha=6.0):
    """Pairs for two blocks that several layers have, and the parameters with what they add."""
    g = np.random.default_rng(11)
    writer = gguf.GGUFWriter(path, "keel-wired")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    changed = {name: np.copy(value) for name, value in p.items()}
    for l, name, tensor in ((1, "q", "attn_q"), (1, "down", "ffn_down"), (2, "o", "attn_output"), (2, "up", "ffn_up"), (3, "v", "attn_v")):
        rows, columns = p[name][l].shape
        a, b = (g.standard_normal((rank, columns)) / columns**0.5).astype(np.float32), (0.2 * g.standard_normal((rows, rank))).astype(np.float32)
        writer.add_tensor(f"blk.{l}.{tensor}.weight.lora_a", a)
        writer.add_tensor(f"blk.{l}.{tensor}.weight.lora_b", b)
        delta = scale * alpha / rank * b.astype(np.float64) @ a.astype(np.float64)
        if name == "q":
            delta = exchanged(delta)
        if name in ("o", "down"):
            delta = delta / p["attn_scale" if name == "o" else "mlp_scale"][l][:, None]
        changed[name][l] += delta
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return scale, changed


def row_error(a, b):
    return float((np.abs(a - b).max(axis=1) / np.abs(b).max(axis=1)).max())


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    p = parameters(7)
    ids = np.random.default_rng(1).integers(3, VOCABULARY, IDS)
    ids[[0, 40, 100]] = BOS  # texts that begin within the context
    write(OUT / "wired.gguf", p)
    rows = forward(p, ids)[POSITIONS]
    assert np.isfinite(rows).all()
    rows.astype("<f4").tofile(OUT / "wired.f32")
    changes = {}
    for feature in ("smear", "no smear at a beginning", "rotation", "gain of q", "exclusive attention", "gates of heads", "leak", "first input",
                    "recurrence", "lanes", "skips", "soft cap"):
        changes[feature] = float(f"{row_error(forward(p, ids, (feature,))[POSITIONS], rows):.2g}")
    print("largest logit", np.abs(rows).max(), changes)
    assert min(changes.values()) > 1e-3, changes
    case = dict(name="wired", file="wired.gguf", ids=IDS, context_tokens=192, positions=POSITIONS, logits="wired.f32",
                shows="every part of a wired model at once", logits_change_if_left_out=changes)
    scale, changed = write_adapter(OUT / "wired-lora.gguf", p)
    adapted = forward(changed, ids)[POSITIONS]
    assert row_error(adapted, rows) > 0.05
    adapted.astype("<f4").tofile(OUT / "wired-lora.f32")
    adapter = dict(name="wired-lora", model="wired", file="wired-lora.gguf", logits="wired-lora.f32", scale=scale)
    index = dict(about="see README.md", vocabulary=VOCABULARY, tokens=ids.tolist(), cases=[case], adapters=[adapter], versions=dict(numpy=np.__version__))
    OUT.joinpath("index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
