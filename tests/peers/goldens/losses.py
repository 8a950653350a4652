"""losses: every loss and its gradients by torch, in float64 on the float32 inputs that are stored."""
import math

import numpy
import torch
from torch.nn import functional

from folder import draw, normals, pick

IGNORED = -100
SMOOTHING = 0.1  # is in the name of the loss


class Losses:
    """Collects arrays, values and the gradients of named inputs."""

    def __init__(self):
        self.arrays, self.values = {}, {}

    def input(self, name, values):
        self.arrays[name] = values
        tensor = torch.from_numpy(values)
        return tensor.double().requires_grad_() if values.dtype.kind == "f" else tensor.long()

    def loss(self, name, loss, **inputs):
        self.values[name] = float(loss.detach())
        for key, gradient in zip(inputs, torch.autograd.grad(loss, list(inputs.values()), retain_graph=True)):
            self.arrays["%s.grad.%s" % (name, key)] = gradient


def soft(student, teacher, temperature):
    """T^2 times the divergence from the teacher, for each row."""
    divergence = functional.kl_div(functional.log_softmax(student / temperature, -1),
                                   functional.log_softmax(teacher / temperature, -1), reduction="none", log_target=True)
    return temperature ** 2 * divergence.sum(-1)


def of_logits(out, rng, N, V):
    labels = rng.integers(0, V, N).astype("int32")
    labels[rng.random(N) < 0.2] = IGNORED
    labels[int(rng.integers(N))] = 0
    logits, target = out.input("ce.logits", normals(rng, N, V, spread=2.5)), out.input("ce.target", labels)
    mean = functional.cross_entropy(logits, target)
    out.loss("ce.mean", mean, logits=logits)
    out.loss("ce.sum", functional.cross_entropy(logits, target, reduction="sum"), logits=logits)
    out.loss("ce.smooth0.1", functional.cross_entropy(logits, target, label_smoothing=SMOOTHING), logits=logits)
    out.values["ce.perplexity"] = math.exp(float(mean.detach()))


def of_teachers(out, rng, N, V, B, T, temperature, alpha):
    student, teacher = (out.input("kd." + who, normals(rng, N, V, spread=2)) for who in ("student", "teacher"))
    target = out.input("kd.target", rng.integers(0, V, N).astype("int32"))
    kl, ce = soft(student, teacher, temperature).mean(), functional.cross_entropy(student, target)
    out.loss("kd.kl", kl, student=student)
    out.loss("kd.ce", ce, student=student)
    out.loss("kd.combined", alpha * kl + (1 - alpha) * ce, student=student)
    student, teacher = (out.input("kd3." + who, normals(rng, B, T, V, spread=2)) for who in ("student", "teacher"))
    lengths = [T] + [int(rng.integers(1, T + 1)) for _ in range(B - 1)]
    mask = out.input("kd3.mask", numpy.array([[t < length for t in range(T)] for length in lengths]).astype("int32"))
    rows = soft(student, teacher, temperature)
    out.loss("kd3.kl_masked_tokens", (rows * mask).sum() / mask.sum(), student=student)
    out.loss("kd3.kl_batchmean_over_sequences", rows.sum() / B, student=student)


def of_states(out, rng, N, C, V):
    student, teacher = (out.input("hidden." + who, normals(rng, N, C, spread=2)) for who in ("student", "teacher"))
    out.loss("hidden.cosine", (1 - functional.cosine_similarity(student, teacher, -1)).mean(), student=student)
    out.loss("hidden.mse", functional.mse_loss(student, teacher), student=student)
    student, weight = out.input("projected.student", normals(rng, N, C, spread=2)), \
        out.input("projected.weight", normals(rng, V, C, spread=0.3))
    teacher = out.input("projected.teacher", normals(rng, N, V, spread=2))
    out.loss("projected.mse", functional.mse_loss(functional.linear(student, weight), teacher), student=student,
             weight=weight)


def of_scores(out, rng, B, H, T):
    student, teacher = (out.input("attention.%s_scores" % who, normals(rng, B, H, T, T, spread=2))
                        for who in ("student", "teacher"))
    added = normals(rng, B, 1, 1, T, spread=0)
    for b in range(1, B):
        added[b, 0, 0, int(rng.integers(1, T + 1)):] = pick(rng, (-1e4, -1e9))
    mask = out.input("attention.added_mask", added).detach()
    seen = [torch.where(scores + mask <= -100, 0.0, scores + mask) for scores in (student, teacher)]
    out.loss("attention.mse", functional.mse_loss(*seen), student_scores=student)


def of_texts(out, rng, B, T, V):
    labels = rng.integers(0, V, (B, T)).astype("int32")
    labels[rng.random((B, T)) < 0.2] = IGNORED
    labels[0, 1] = V - 1
    logits, target = out.input("lm.logits", normals(rng, B, T, V, spread=2.5)), out.input("lm.labels", labels)
    loss = functional.cross_entropy(logits[:, :-1].reshape(-1, V), target[:, 1:].reshape(-1))
    out.loss("lm.shifted", loss, logits=logits)
    out.values["lm.perplexity"] = math.exp(float(loss.detach()))
    out.values["lm.targets"] = int((target[:, 1:] != IGNORED).sum())


def of_spans(out, rng, B, T):
    logits = {side + "_logits": out.input("qa.%s_logits" % side, normals(rng, B, T, spread=2)) for side in ("start", "end")}
    parts = []
    for side in ("start", "end"):
        positions = rng.integers(0, T + 3, B).astype("int32")
        positions[int(rng.integers(B))] = int(rng.integers(T))
        target = out.input("qa.%s_positions" % side, positions).clamp(max=T)
        parts.append(functional.cross_entropy(logits[side + "_logits"], target, ignore_index=T))
    out.loss("qa.span", sum(parts) / 2, **logits)


def write(out, seed, scale):
    rng, losses = draw(seed, "losses"), Losses()
    N, V, C = int(rng.integers(1, 20)), int(rng.integers(2, 40)) * pick(rng, (1, scale)), int(rng.integers(2, 40))
    B, T, H = int(rng.integers(1, 5)), int(rng.integers(2, 12)), int(rng.integers(1, 5))
    temperature, alpha = pick(rng, (1.0, 2.0, 3.5)), pick(rng, (0.5, 0.25, 0.9))
    of_logits(losses, rng, N, V)
    of_teachers(losses, rng, N, V, B, T, temperature, alpha)
    of_states(losses, rng, N, C, V)
    of_scores(losses, rng, B, H, T)
    of_texts(losses, rng, B, T, V)
    of_spans(losses, rng, B, T)
    folder = out.below("losses")
    folder.tensors("arrays.safetensors", losses.arrays)
    folder.json("values.json", {"temperature": temperature, "alpha": alpha, "label_smoothing": SMOOTHING,
                                "values": losses.values})
