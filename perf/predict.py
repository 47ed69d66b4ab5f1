#!/usr/bin/env python3
"""predict.py: what a graphics card would take for a step, from what is known without one. Every figure is *predicted, never run*.

    predict.py --count CUBIN... [-o perf/instructions.json]
        Counts machine instructions of the inner loops of products: for every product kernel of cubins (nvcc -cubin) those of the loop
        with matrix instructions, of few tokens those of the shortest way round it, and the bytes of weights that a warp multiplies.
    predict.py [--keel KEEL] [--cards NAME,...] [--shapes 8b:Q4_K_M,...] [--kv f16,e8-4,tcq-3] [--contexts 0,32768]
            [--measured device.json] [--json]
        Time of a decode step and of prefill for each card of perf/cards.json. A dispatch takes a launch and the longer of its bytes at
        the card's reading speed and its instructions at its issue rate, products as much longer as their last round of blocks is not
        full, and what they take beside; a norm adds its chain of additions. Attention, which appends the step's rows, takes at least
        what these and the positions behind them take.
        Bytes and dispatches are those of `keel plan --backend cuda` (KEEL: a build with KEEL_CUDA=ON, or keel_command_on_fake).
        --measured: beside each prediction what perf/device.sh measured on such a card, and the error.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
LABEL = "predicted, never run"

# ---- instructions of inner loops ----
# Lowest twelve bits of an instruction of 16 bytes: BRA, the call and return that end a way, EXIT, IMMA, and cp.async.
BRANCH, ENDS, EXIT, MATRIX, COPY = 0x947, (0x944, 0x950), 0x94D, 0x237, 0xFAE
ALWAYS = 7  # a predicate
# Bytes of a block (kernels/formats/weight_types.h), and matrix instructions for 16 rows of up to eight tokens, those of minima
# included.
TYPES = {"Q4_0": (18, 1), "Q4_1": (20, 1), "Q5_0": (22, 1), "Q5_1": (24, 1), "Q8_0": (34, 1), "Q8_F32": (36, 1), "Q2_K": (84, 18),
         "Q3_K": (110, 16), "Q4_K": (144, 10), "Q5_K": (176, 10), "Q6_K": (210, 16), "IQ4_NL": (18, 1), "IQ4_XS": (136, 8)}
# Of one token, whose minima and offsets are no matrix instructions.
TOKEN_MATRIX = {"Q2_K": 8, "Q3_K": 8, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8}
# Of those in kernels of prompts, for eight tokens: some scale codes and not sums, some sum activations by matrix instructions.
PROMPT_MATRIX = {"Q2_K": 10, "Q3_K": 8, "Q4_1": 2, "Q5_1": 2}


def sections_of(cubin):
    """{kernel: machine code}: the sections .text.KERNEL of an ELF file."""
    data = pathlib.Path(cubin).read_bytes()
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    text = sections[names][4]
    for s in sections:
        start = text + s[0]
        name = data[start:data.index(0, start)].decode()
        if name.startswith(".text."):
            yield name[6:], data[s[4]:s[4] + s[5]]


def ways_of(words, new_branches):
    """[[what may follow an instruction]]. new_branches: the lowest eight bits of a distance are in other bits (sm_90 and later)."""
    ways = []
    for at, (low, high) in enumerate(words):
        kind, sure = low & 0xFFF, low >> 12 & 15 == ALWAYS
        follow = [at + 1]
        if kind == BRANCH:
            offset = low >> 34 | (high & (1 << 18) - 1) << 30
            offset -= (offset >> 47) << 48
            target = at + 1 + (offset << 8 | low >> 16 & 0xFF if new_branches else offset) * 4 // 16
            follow = [target] if sure and high >> 23 & 15 == ALWAYS else [at + 1, target]
        elif kind == EXIT or kind in ENDS:
            follow = [] if sure else [at + 1]
        ways.append([to for to in follow if 0 <= to < len(words)])
    return ways


def shortest(ways, first, last):
    """Instructions from `first` to before `last` on the shortest way, None if there is none."""
    seen, edge, steps = set(), [first], 0
    while edge:
        steps += 1
        edge = {to for at in edge for to in ways[at]} - seen
        if last in edge:
            return steps
        seen |= edge
    return None


def loop_of(words, ways):
    """(instructions, matrix instructions) of the way round that brings weights and multiplies them; None if there is no loop."""
    matrix = [at for at, (low, _) in enumerate(words) if low & 0xFFF == MATRIX]
    if not matrix:
        return None
    # Weights are brought by the longest row of copies within the loop.
    copies, rows = [at for at, (low, _) in enumerate(words) if low & 0xFFF == COPY], []
    for at in copies:
        if shortest(ways, matrix[0], at) is None:
            continue
        if rows and all(low & 0xFFF != BRANCH for low, _ in words[rows[-1][-1]:at]):
            rows[-1].append(at)
        else:
            rows.append([at])
    stops = sorted(max(rows, key=len) + matrix) if rows else matrix
    parts = [shortest(ways, a, b) for a, b in zip(stops, stops[1:] + stops[:1])]
    return (sum(parts), len(matrix)) if None not in parts else None


def innermost_loop(words, ways):
    """The same of all instructions of the innermost loop with matrix instructions, but for loops in it without, which run once a
    group of rows."""
    loops = [(to, at, sum(low & 0xFFF == MATRIX for low, _ in words[to:at + 1])) for at, follow in enumerate(ways) for to in follow
             if to < at]
    with_matrix = [loop for loop in loops if loop[2]]
    if not with_matrix:
        return None
    first, last, matrix = min(with_matrix, key=lambda loop: loop[1] - loop[0])
    rare = {at for f, l, m in loops if not m and first < f and l < last for at in range(f, l + 1)}
    return last + 1 - first - len(rare), matrix


def count(cubin):
    """{kernel: {"instructions", "bytes"}}"""
    out = {}
    new_branches = pathlib.Path(cubin).read_bytes()[0x31] >= 90  # of the architecture
    for name, code in sections_of(cubin):
        weight_type = next((t for t in TYPES if name.startswith("product_") and name.endswith("_" + t)), None)
        if not weight_type:
            continue
        words = list(struct.iter_unpack("<QQ", code))
        ways = ways_of(words, new_branches)
        loop = innermost_loop(words, ways) if "_prompt_" in name else loop_of(words, ways)
        if not loop:
            continue
        block_bytes, matrix_of_block = TYPES[weight_type]
        if "_prompt_" in name:
            matrix_of_block = 8 * PROMPT_MATRIX.get(weight_type, matrix_of_block)
        elif "_token_" in name:
            matrix_of_block = TOKEN_MATRIX.get(weight_type, matrix_of_block)
        out[name] = {"instructions": loop[0], "bytes": loop[1] // matrix_of_block * 16 * block_bytes}
    return out


# ---- predictions ----
# Of a warp's lane for an element of K or V, four query heads: the mean of both and the softmax's share, counted by hand
# (perf/RESULTS.md). That of f16 is a guess.
ATTENTION_INSTRUCTIONS = {"f16": 1.5, "e8-4": 9.6, "tcq-3": 11.2}
# Of the step's row: what the append takes beside a launch (f16, e8-4, tcq-3: measured on an H200 in a launch of its own), and
# attention of the tile that has it, which waits for that; of every block, to make its queries. The last two are guesses.
APPEND_US, NEWEST_TILE_US, QUERY_US = {"f16": 3, "e8-4": 9, "tcq-3": 21}, 4, 1
NORM_CYCLES = 4  # of an addition that waits for the one before
# Of products of few tokens, fitted to the dispatches that were measured on an H200 (perf/RESULTS.md): what a launch takes beside its
# weights, for the input in 8 bits, the first strips and code that is not near; the part of issue slots that is filled; what a norm takes
# beside its chain, which is a guess since the last block makes it.
START_US, ISSUED, NORM_US = 2.0, 0.6, 1.5
GROUP_ROWS, BLOCKS = 16, 2  # kGroupRows; of a multiprocessor


def plan_of(keel, shape, mix, kv, context):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        subprocess.run([keel, "synth", path, "--shape", shape, "--mix", mix, "--hollow"], check=True, capture_output=True)
        run = subprocess.run([keel, "plan", path, "--backend", "cuda", "-c", str(max(context, 64) + 8), "--kv-k", kv, "--kv-v", kv,
                              "--json"], check=True, capture_output=True, text=True)
        return json.loads(run.stdout)


def rate_of(card):
    """Instructions a microsecond of all multiprocessors: four warps each, one a cycle."""
    return card["multiprocessors"] * 4 * card["clock_ghz"] * 1e3


def instructions_of(table, kernel, weight_type, size):
    """Of a product's weights, `size` bytes."""
    loop = table.get(f"product_{kernel}_{weight_type}")
    return size * loop["instructions"] / loop["bytes"] if loop else 0


def decode_us(card, plan, table, kv, context, tokens=1):
    """(microseconds, launches) of a step of `tokens` tokens behind `context` positions."""
    speed, rate = card["gb_per_s"] * card["reads"] * 1e3, rate_of(card)  # bytes and instructions a microsecond
    layers = max(op["layer"] for op in plan["ops"]) + 1
    dispatches = {}
    for op in plan["ops"]:
        if not op["low_rank"]:
            dispatches.setdefault(op["dispatch"], []).append(op)
    total = launches = 0
    for ops in dispatches.values():
        moved = instructions = beside = groups = row_us = 0
        count = 2 if ops[0]["name"] == "attention_finish" else 1  # it runs by itself, and its 8-bit form with the product
        launches += count
        for op in ops:
            moved += op["fixed_bytes"] + op["token_bytes"] * tokens
            if op["weight_type"] and op["name"] != "embed":
                groups += -(-op["rows"] // GROUP_ROWS)
                instructions += instructions_of(table, "token" if tokens == 1 else "stream", op["weight_type"], op["fixed_bytes"])
            if op["name"].endswith("norm") and not op["name"].startswith("qk"):
                beside = op["rows"] / 16 * NORM_CYCLES / card["clock_ghz"] / 1e3 + NORM_US
            if op["name"] == "attention":
                kv_bytes = plan["kv_bytes_per_token"] / layers * context
                elements = kv_bytes * 8 / {"f16": 16, "e8-4": 4.25, "tcq-3": 3.25}[kv]
                moved += kv_bytes
                instructions += elements * ATTENTION_INSTRUCTIONS[kv] / 32
                row_us = APPEND_US[kv] + NEWEST_TILE_US  # one launch with the append, which older positions do not wait for
                beside = QUERY_US
        took = max(moved / speed, instructions / rate / (ISSUED if groups else 1), row_us)
        if groups:
            groups = groups // 2 if ops[-1]["name"].endswith("glu") else groups
            blocks = BLOCKS * card["multiprocessors"]
            took = took * -(-groups // blocks) * blocks / groups + START_US
        total += count * card["launch_us"] + took + beside
    return total, launches


def prefill_us(card, plan, table, tokens):
    """Of the products alone, whose weights are taken up anew for 64 tokens: the longest of their bytes, their instructions and
    their multiply-adds on matrix units."""
    moved = instructions = macs = 0
    for op in plan["ops"]:
        if not op["weight_type"] or op["low_rank"] or op["name"] in ("embed", "output"):
            continue
        moved += op["fixed_bytes"]
        instructions += instructions_of(table, "prompt", op["weight_type"], op["fixed_bytes"]) * tokens / 64
        macs += op["rows"] * op["inner"] * tokens
    return max(moved / (card["gb_per_s"] * card["reads"] * 1e3), instructions / rate_of(card), 2 * macs / (card["int8_tops"] * 1e6))


def measured_us(document, shape, mix, kv, context, tokens):
    for row in (document or {}).get("timings", {}).get("steps", []):
        if (row["shape"], row["weights"], row["kv"], row.get("tokens")) == (shape, mix, kv, tokens) and abs(row["context"] - context) < 16:
            return row["us"]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", metavar="CUBIN", nargs="+")
    parser.add_argument("-o", "--output")
    parser.add_argument("--keel", default="build/device/keel")
    parser.add_argument("--cards")
    parser.add_argument("--shapes", default="8b:Q4_K_M,8b:Q8_0,1b:Q4_K_M,smollm2-135m:Q8_0")
    parser.add_argument("--kv", default="f16,e8-4,tcq-3")
    parser.add_argument("--contexts", default="0,4096,32768")
    parser.add_argument("--measured")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.count:
        counted = {name: loop for cubin in options.count for name, loop in count(cubin).items()}
        text = json.dumps({"comment": "Instructions of the inner loop of products and the bytes of weights that a warp loads in it, "
                                      "counted by perf/predict.py --count", **counted}, indent=1)
        if options.output:
            pathlib.Path(options.output).write_text(text + "\n")
        else:
            print(text)
        return 0
    table = json.loads((HERE / "instructions.json").read_text())
    cards = {name: card for name, card in json.loads((HERE / "cards.json").read_text()).items() if name != "comment"}
    wanted = options.cards.split(",") if options.cards else list(cards)
    unknown = [name for name in wanted if name not in cards]
    if unknown:
        print(f"no such card: {', '.join(unknown)}; there are {', '.join(cards)}", file=sys.stderr)
        return 2
    measured = json.loads(pathlib.Path(options.measured).read_text()) if options.measured else None
    rows = []
    for shape_mix in options.shapes.split(","):
        shape, mix = shape_mix.split(":")
        for kv in options.kv.split(","):
            for context in map(int, options.contexts.split(",")):
                plan = plan_of(options.keel, shape, mix, kv, context)
                for name in wanted:
                    for tokens in (1, 8):
                        us, launches = decode_us(cards[name], plan, table, kv, context, tokens)
                        row = {"card": name, "shape": shape, "weights": mix, "kv": kv, "context": context, "tokens": tokens,
                               "launches": launches, "us": round(us, 1), "tokens_per_s": round(tokens * 1e6 / us, 1), "what": LABEL}
                        got = measured_us(measured, shape, mix, kv, context, tokens)
                        if got:
                            row.update(measured_us=got, error_percent=round((us / got - 1) * 100, 1))
                        rows.append(row)
                    if kv == "f16" and context == 0:
                        us = prefill_us(cards[name], plan, table, 2048)
                        rows.append({"card": name, "shape": shape, "weights": mix, "prefill": 2048, "us": round(us, 1),
                                     "tokens_per_s": round(2048e6 / us, 1), "what": LABEL})
    if options.json:
        print(json.dumps({"what": LABEL, "cards": {name: cards[name] for name in wanted}, "rows": rows}, indent=1))
        return 0
    for name in wanted:
        c = cards[name]
        print(f"\n{name} ({LABEL}): {c['gb_per_s']} GB/s, of which {c['reads']:.0%} are read; {c['multiprocessors']} multiprocessors at "
              f"{c['clock_ghz']} GHz; f16 {c['f16_tflops']} TFLOP/s, int8 {c['int8_tops']} TOP/s; a launch {c['launch_us']} us")
        for r in rows:
            if r["card"] != name:
                continue
            model = f"{r['shape']} {r['weights']}"
            what = f"prefill of {r['prefill']}, products alone" if "prefill" in r else f"KV {r['kv']:5} at {r['context']:5}, {r['tokens']} tokens, {r['launches']} launches"
            error = f"; measured {r['measured_us']:.1f} us, predicted {r['error_percent']:+.1f} %" if "measured_us" in r else ""
            print(f"  {model:20} {what:44} {r['us']:10.1f} us {r['tokens_per_s']:9.1f} tok/s{error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
