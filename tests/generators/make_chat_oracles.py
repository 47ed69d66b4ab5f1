#!/usr/bin/env python3
"""Writes tests/data/chat/expected.txt: what the templates of the named families write, by jinja2.

Usage: make_chat_oracles.py        (needs: jinja2)

    template NAME FAMILY EOS       FAMILY as in keel_chat_family, EOS in hexadecimal
    case OPEN ROLE:TEXT ... = RESULT        texts in hexadecimal; RESULT is "refused" where the template raises an error

Left out are conversations for which a template adds something of its own: see without_own_text.
"""
import itertools
import pathlib

from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parents[1] / "data/chat"
CHATML, LLAMA3, MISTRAL, GEMMA, PHI3, ZEPHYR, OTHER = 2, 3, 4, 5, 6, 7, 8

# name -> family, end-of-sequence text of the model it came with
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"), "qwen-2.5": (CHATML, "<|im_end|>"), "smollm2": (CHATML, "<|im_end|>"),
    "llama-3-instruct": (LLAMA3, "<|eot_id|>"), "own-llama-3": (LLAMA3, "<|eot_id|>"),
    "mistral-v0.1": (MISTRAL, "</s>"), "mistral-v0.2": (MISTRAL, "</s>"), "mistral-v1": (MISTRAL, "</s>"),
    "mistral-v3": (MISTRAL, "</s>"), "mistral-nemo": (MISTRAL, "</s>"),
    "own-gemma": (GEMMA, "<eos>"), "own-gemma-3": (GEMMA, "<eos>"),
    "phi-3-mini": (PHI3, "<|endoftext|>"), "phi-3.5": (PHI3, "<|endoftext|>"),
    "zephyr": (ZEPHYR, "</s>"),
}

CONVERSATIONS = [
    [("user", "Hello")],
    [("user", "  padded \n")],
    [("system", "Be brief."), ("user", "Hello")],
    [("system", " Be\nbrief. "), ("user", "Hello"), ("assistant", " Hi there "), ("user", "Who are you?\n")],
    [("user", "Hello"), ("assistant", "Hi"), ("user", "More"), ("assistant", "Done")],
    [("user", "Hello"), ("user", "again")],
    [("assistant", "I begin"), ("user", "Hello")],
    [("user", "caf\u00e9 \U0001f600")],
]


def without_own_text(name, conversation, is_open):
    """False for what a template adds to: a system message, or an opening or an end nobody asked for."""
    has_system = conversation[0][0] == "system"
    if name in ("qwen-2.5", "smollm2"):
        return has_system
    if name == "llama-3-instruct":  # refuses what the family writes: messages out of turn
        roles = [role for role, _ in conversation[has_system:]]
        return roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
    if name == "phi-3-mini":  # opens after every user message, and has no system message
        roles = [role for role, _ in conversation]
        return is_open and not has_system and roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    if name in ("mistral-v3", "mistral-nemo"):  # loses the system message when the user does not have the last word
        return not has_system or conversation[-1][0] == "user"
    return True


def raise_exception(message):
    raise ValueError(message)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
environment.globals["raise_exception"] = raise_exception
hexed = lambda text: text.encode("utf-8").hex()
lines = []
for name, (family, eos) in TEMPLATES.items():
    template = environment.from_string((HERE / (name + ".jinja")).read_text())
    lines.append(f"template {name} {family} {hexed(eos)}")
    for conversation, is_open in itertools.product(CONVERSATIONS, (1, 0)):
        if not without_own_text(name, conversation, is_open):
            continue
        messages = [{"role": role, "content": text} for role, text in conversation]
        try:
            result = template.render(messages=messages, add_generation_prompt=bool(is_open), bos_token="", eos_token=eos)
            # Llama 3.1 puts a date before every system message, and has one for that where there is none.
            result = result.replace("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", "")
            result = result.replace("<|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>", "")
            result = hexed(result)
        except ValueError:
            result = "refused"
        lines.append(f"case {is_open} " + " ".join(f"{r}:{hexed(t)}" for r, t in conversation) + " = " + result)
for path in sorted(HERE.glob("unknown-*.jinja")):
    lines.append(f"template {path.stem} {OTHER} 00")
(HERE / "expected.txt").write_text("".join(line + "\n" for line in lines))
