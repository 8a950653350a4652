"""A peer of `make bench-peers`: one library with one model, kept open, that does a piece of work when told to.

    peer.py KIND MODEL IDS THREADS

KIND: onnx, llama, torch-bf16, torch-bf16-compiled, torch-train, torch-train-compiled, torch-train-autocast,
torch-train-autocast-compiled; for onnx and llama, more may follow that tells models apart. Prints "ready HOW" (how it runs, for the table), then answers the commands of
tests/bench/bench_model.c or, when it trains, tests/bench/bench_training.c with "ns value", or "error TEXT". Each is set
up as its own users would run it fastest."""
import ctypes
import math
import os
import sys
import time

import numpy as np


def ids_of(path, vocabulary):
    return (np.fromfile(path, dtype="<i4").astype(np.int64)) % vocabulary


class Onnx:
    """The graph that tests/peers/prepare.py wrote in fused operators, on ONNX Runtime's CPU provider."""

    def __init__(self, path, ids, threads):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ids = ids_of(ids, 30522)
        self.how = f"ONNX Runtime {ort.__version__}, {os.path.basename(path)}"

    def inputs(self, sequences, tokens):
        ids = self.ids[: sequences * tokens].reshape(sequences, tokens)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {i.name: feed[i.name] for i in self.session.get_inputs()}

    def encode(self, sequences, tokens):
        feed = self.inputs(sequences, tokens)
        start = time.perf_counter_ns()
        out = self.session.run(None, feed)
        return time.perf_counter_ns() - start, float(out[0].ravel()[0])

    def vector(self, tokens):
        hidden = self.session.run(None, self.inputs(1, tokens))[0][0].astype(np.float64)
        mean = hidden.mean(axis=0)
        return [f"{v:.8f}" for v in mean / np.linalg.norm(mean)]


class Torch:
    """transformers' BertModel in bf16 with scaled-dot-product attention, eager or compiled."""

    def __init__(self, path, ids, threads, compiled):
        import torch
        import transformers

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        model = transformers.AutoModel.from_pretrained(
            path, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
        ).eval()
        self.model = torch.compile(model, mode="max-autotune-no-cudagraphs") if compiled else model
        self.ids = ids_of(ids, 30522)
        self.how = f"torch {torch.__version__} bf16, SDPA, {'compiled' if compiled else 'eager'}"

    def hidden(self, ids):
        with self.torch.inference_mode():
            return self.model(input_ids=ids).last_hidden_state

    def encode(self, sequences, tokens):
        ids = self.torch.from_numpy(self.ids[: sequences * tokens].reshape(sequences, tokens))
        start = time.perf_counter_ns()
        out = self.hidden(ids)
        return time.perf_counter_ns() - start, float(out.flatten()[0])

    def vector(self, tokens):
        ids = self.torch.from_numpy(self.ids[:tokens].reshape(1, tokens))
        mean = self.hidden(ids)[0].double().mean(dim=0)
        return [f"{float(v):.8f}" for v in mean / mean.norm()]


def peak_bytes():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class TorchTraining:
    """transformers' BertForSequenceClassification; ids, labels and head are those of tests/bench/bench_training.c."""

    def __init__(self, path, threads, autocast, compiled):
        import torch
        import transformers
        from torch_training import Training, classifier

        self.torch = torch
        torch.set_num_threads(threads)
        sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        tiny = Training(transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)), 1e-3, 2, 1)
        tiny.step(lambda logits: logits.sum(), input_ids=torch.ones(2, 2, dtype=torch.int64))
        self.before = peak_bytes()  # with all that torch imports when first used
        model = classifier(path)
        with torch.no_grad():
            model.classifier.weight.copy_(0.02 * torch.arange(model.classifier.weight.numel()).cos().view(2, -1))
        self.training = Training(model, 3e-5, 1000, 60, autocast, compiled)
        self.vocabulary = model.config.vocab_size
        self.drawn = 0
        kind = "bf16 autocast" if autocast else "f32"
        self.how = f"torch {torch.__version__} {kind}, AdamW fused, SDPA, {'compiled' if compiled else 'eager'}"

    def draw(self, sequences, tokens):
        at = np.arange(self.drawn, self.drawn + sequences * tokens, dtype=np.uint64)
        self.drawn += sequences * tokens
        x = (at + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(32))).reshape(sequences, tokens)
        ids = self.torch.from_numpy((1 + x % np.uint64(self.vocabulary - 1)).astype(np.int64))
        labels = self.torch.from_numpy((x[:, 0] >> np.uint64(40) & np.uint64(1)).astype(np.int64))
        return ids, lambda logits: self.torch.nn.functional.cross_entropy(logits, labels)

    def drop(self, share):
        for module in self.training.model.modules():
            if isinstance(module, self.torch.nn.Dropout):
                module.p = share

    def train(self, sequences, tokens, percent):
        self.drop(percent / 100)
        ids, loss_of = self.draw(sequences, tokens)
        start = time.perf_counter_ns()
        loss = self.training.step(loss_of, input_ids=ids)
        return time.perf_counter_ns() - start, float(loss)

    def gradients(self, sequences, tokens):
        self.drop(0.0)
        self.drawn = 0
        ids, loss_of = self.draw(sequences, tokens)
        return [f"{float(v):.9g}" for v in self.training.gradients(loss_of, input_ids=ids)]

    def memory(self):
        return [f"{peak_bytes()} {self.before}"]


class Llama:
    """llama.cpp through its C interface: no Python work inside what is timed but one call per batch."""

    def __init__(self, path, ids, threads):
        import llama_cpp

        self.c = llama_cpp
        self.path = path.encode()
        self.threads = threads
        # LLAMA_EXTRA_BUFFERS=0: without the CPU's repacked weights, whose AMX path crashes on some machines.
        self.extra = os.environ.get("LLAMA_EXTRA_BUFFERS", "1") != "0"
        quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self.quiet = quiet
        llama_cpp.llama_log_set(quiet, None)
        llama_cpp.llama_backend_init()
        self.model = self.open()
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.context = self.context_of(640)
        self.sampler = llama_cpp.llama_sampler_init_greedy()
        self.ids = ids_of(ids, self.vocabulary).astype(np.int32)
        extra = "" if self.extra else ", use_extra_bufts off"
        self.how = f"llama.cpp (llama-cpp-python {llama_cpp.__version__}), {os.path.basename(path)}{extra}"

    def open(self):
        parameters = self.c.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = self.extra
        model = self.c.llama_model_load_from_file(self.path, parameters)
        if not model:
            raise RuntimeError("llama.cpp cannot load the file")
        return model

    def context_of(self, tokens):
        parameters = self.c.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_batch = 512
        parameters.n_ubatch = 512
        parameters.n_threads = self.threads
        parameters.n_threads_batch = self.threads
        return self.c.llama_init_from_model(self.model, parameters)

    def clear(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)

    def feed(self, ids):
        array = (ctypes.c_int32 * len(ids))(*[int(i) for i in ids])
        batch = self.c.llama_batch_get_one(array, len(ids))
        return array, batch

    def run(self, batch):
        if self.c.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        # Work is done when its result can be read.
        self.c.llama_synchronize(self.context)

    def prefill(self, tokens):
        self.clear()
        array, batch = self.feed(self.ids[:tokens])
        start = time.perf_counter_ns()
        self.run(batch)
        spent = time.perf_counter_ns() - start
        return spent, float(self.logits().max())

    def logits(self, row=-1):
        pointer = self.c.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))

    def decode(self, prompt, tokens):
        self.prefill(prompt)
        id = 0
        one = (ctypes.c_int32 * 1)()
        start = time.perf_counter_ns()
        for _ in range(tokens):
            id = self.c.llama_sampler_sample(self.sampler, self.context, -1)
            one[0] = id
            self.run(self.c.llama_batch_get_one(one, 1))
        return time.perf_counter_ns() - start, float(id)

    def perplexity(self, windows, tokens):
        """Timed: the passes with logits of every position. The softmax is not timed, to the peer's advantage."""
        batch = self.c.llama_batch_init(tokens, 0, 1)
        spent, total = 0, 0.0
        for w in range(windows):
            ids = self.ids[w * tokens : (w + 1) * tokens]
            for i in range(tokens):
                batch.token[i] = int(ids[i])
                batch.pos[i] = i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            batch.n_tokens = tokens
            self.clear()
            start = time.perf_counter_ns()
            self.run(batch)
            spent += time.perf_counter_ns() - start
            if w == 0:  # the value, of the first window, shows that both sides do the same work
                for i in range(tokens - 1):
                    row = self.logits(i).astype(np.float64)
                    top = row.max()
                    total += top + math.log(np.exp(row - top).sum()) - row[ids[i + 1]]
        self.c.llama_batch_free(batch)
        return spent, total / (tokens - 1)

    def load(self):
        start = time.perf_counter_ns()
        model = self.open()
        spent = time.perf_counter_ns() - start
        self.c.llama_model_free(model)
        return spent, 0.0

    def top(self, tokens, count):
        self.prefill(tokens)
        logits = self.logits()
        return [f"{i} {logits[i]:.6f}" for i in np.argsort(-logits, kind="stable")[:count]]


def main():
    kind, path, ids, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not get between the answers
    if kind.startswith("onnx"):
        peer = Onnx(path, ids, threads)
    elif kind.startswith("llama"):
        peer = Llama(path, ids, threads)
    elif kind.startswith("torch-train"):
        peer = TorchTraining(path, threads, "autocast" in kind, kind.endswith("compiled"))
    else:
        peer = Torch(path, ids, threads, kind.endswith("compiled"))
    print("ready", peer.how, file=answers, flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        try:
            result = getattr(peer, name)(*map(int, numbers))
            if name in ("top", "vector", "gradients", "memory"):
                print("\n".join("= " + line for line in result), file=answers)
                result = (0, 0.0)
            print(result[0], f"{result[1]:.9g}", file=answers, flush=True)
        except Exception as error:  # the driver shows it in the row and goes on
            print("error", " ".join(str(error).split()), file=answers, flush=True)


main()
