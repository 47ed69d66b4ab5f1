#!/usr/bin/env python3
"""make_real_model_oracles.py NAME: tests/data/real-models/NAME.json, what llama.cpp makes of a model of samples/models/get.

Needs xllamacpp (llama.cpp and its server as a wheel) and the fetched model. Written are token ids of texts, prompts of the
model's own chat template, greedy continuations with the log-probabilities of what was chosen, and log-probabilities of a
text's tokens, each after everything before it. Weights are quantized and so are llama.cpp's activations: the tests allow
for that.
"""
import json
import pathlib
import subprocess
import sys
import urllib.request

import xllamacpp

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [
    "Hello, world!",
    "  two blanks, a\ttab\nand a new line\n\n",
    "It's 1234567 km -- isn't it? \"Yes\", she'd said.",
    "naïve café, Straße, 東京, Привет, שלום, 👩‍🚀",
    "def f(x):\n    return x ** 2  # squared\n",
    "<|im_start|>system\n<start_of_turn>",
]
CHATS = [
    [{"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "And now?"}],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "What is the capital of France?"}],
]
PROMPTS = ["The capital of France is", "Once upon a time", "1, 2, 3, 4, 5,", "Water boils at"]
PASSAGE = ("The sun is a star. It is the nearest star to the Earth, and it gives light and heat to all the planets that move "
           "around it. Plants use its light to grow, and animals eat the plants.")


def main():
    name = sys.argv[1]
    model = subprocess.check_output([ROOT / "samples/models/get", name], text=True).strip()
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cpuparams.n_threads = 1  # two that wait for each other take minutes a token on a busy machine
    params.use_jinja = True
    params.warmup = False
    server = xllamacpp.Server(params)
    address = server.listening_address

    def call(path, body):
        request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def tokenize(text, special, bos):
        return call("/tokenize", {"content": text, "parse_special": special, "add_special": bos})["tokens"]

    out = {"model": pathlib.Path(model).name, "made_with": f"xllamacpp {xllamacpp.__version__}", "tokens": [], "chat": [],
           "greedy": [], "passage": {}}
    for text in TEXTS:
        out["tokens"].append({"text": text, "ids": tokenize(text, False, False)})
    with open(model, "rb") as file:
        template = b"tokenizer.chat_template" in file.read(64 << 20)
    for messages in CHATS if template else []:  # of a model without one llama.cpp makes a guess
        prompt = call("/apply-template", {"messages": messages})["prompt"]
        out["chat"].append({"messages": messages, "prompt": prompt})
    options = {"temperature": 0, "top_k": 1, "repeat_penalty": 1, "cache_prompt": True}

    def greedy(prompt, ids, n):
        answer = call("/completion", options | {"prompt": ids, "n_predict": n, "n_probs": 2, "return_tokens": True})
        steps = answer["completion_probabilities"]
        return {"prompt": prompt, "prompt_ids": ids, "text": answer["content"], "ids": [s["id"] for s in steps],
                "logprobs": [s["logprob"] for s in steps],
                "margins": [s["top_logprobs"][0]["logprob"] - s["top_logprobs"][1]["logprob"] for s in steps]}

    for prompt in PROMPTS:
        out["greedy"].append(greedy(prompt, tokenize(prompt, False, True), 32))
    for chat in out["chat"]:
        chat["ids"] = tokenize(chat["prompt"], True, True)
        chat["answer"] = greedy(None, chat["ids"], 24)
        del chat["answer"]["prompt"], chat["answer"]["prompt_ids"]

    ids = tokenize(PASSAGE, False, True)
    logprobs = []
    for i in range(1, len(ids)):
        step = call("/completion", options | {"prompt": ids[:i], "n_predict": 1, "n_probs": 300000})
        probabilities = {p["id"]: p["logprob"] for p in step["completion_probabilities"][0]["top_logprobs"]}
        logprobs.append(probabilities[ids[i]])
    out["passage"] = {"text": PASSAGE, "ids": ids, "logprobs": logprobs}
    path = ROOT / "tests/data/real-models" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(out, ensure_ascii=True, indent=1) + "\n")
    print(path)


main()
