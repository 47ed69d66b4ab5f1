#!/usr/bin/env python3
"""contended.py --keel KEEL MODEL [--neighbours 0,2,4] [--rounds N] [--tokens N] [--threads N] [--output FILE]

Decoding while other programs compute on the same cores: Keel beside llama.cpp (the wheel xllamacpp of PyPI), in turn. For each
number of neighbours, processes that compute without a pause, and each round both generate --tokens tokens greedily behind the
same prompt; what is reported are medians (lowest .. highest) of tokens a second over the rounds. The load of the machine before
the first neighbour is written down: what else runs there is a neighbour too.
"""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import urllib.request

PROMPT = "The sun is a star. It is the nearest star to the Earth, and it gives light and heat to all the planets."


class Keel:
    name = "keel"

    def __init__(self, o):
        self.o = o
        self.command = [o.keel, "run", o.model, "-p", PROMPT, "--temp", "0", "--repeat-penalty", "1", "--threads", str(o.threads),
                        "-c", "512", "-n", str(o.tokens + 1), "--min-tokens", str(o.tokens + 1), "--json"]

    def rate(self):
        return json.loads(subprocess.check_output(self.command))["decode"]["tokens_per_second"]


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, o):
        import xllamacpp
        self.name = f"llama.cpp (xllamacpp {xllamacpp.__version__})"
        params = xllamacpp.CommonParams()
        params.model.path = o.model
        params.n_ctx = 512
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = o.threads
        params.warmup = True
        self.server, self.o = xllamacpp.Server(params), o

    def rate(self):
        body = {"prompt": PROMPT, "n_predict": self.o.tokens + 1, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
        request = urllib.request.Request(self.server.listening_address + "/completion", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))["timings"]["predicted_per_second"]


def spread(rates):
    return {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates), "rounds": len(rates)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--keel", default="build/release/keel")
    parser.add_argument("--neighbours", default="0,2,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output")
    o = parser.parse_args()
    o.model = str(pathlib.Path(o.model).resolve())
    sides = [Keel(o), LlamaCpp(o)]
    out = {"date": datetime.date.today().isoformat(), "model": os.path.basename(o.model), "threads": o.threads, "cores": os.cpu_count(),
           "tokens": o.tokens, "load_before": os.getloadavg()[0], "results": []}
    for neighbours in [int(n) for n in o.neighbours.split(",")]:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
        try:
            rates = {side.name: [] for side in sides}
            for _ in range(o.rounds):
                for side in sides:
                    rates[side.name].append(side.rate())
        finally:
            for process in busy:
                process.kill()
                process.wait()
        for name, values in rates.items():
            row = {"neighbours": neighbours, "program": name} | spread(values)
            out["results"].append(row)
            print(f"{neighbours} neighbours  {name:40} {row['median']:8.2f} tok/s ({row['lowest']:.2f} .. {row['highest']:.2f})", flush=True)
    if o.output:
        pathlib.Path(o.output).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
