"""families/NAME: a random model of each family as Hugging Face saves it, what it computes, and how it trains."""
import json
import os

import torch
from torch.nn import functional

from folder import draw, pick
from shapes import FAMILIES, MASK_ID
from training import train, twin_of

LOGIT_NOISE_MAX = 1e-4  # relative; a reference that is further from its own float64 self proves nothing
RELU_EDGE = 5e-6        # inputs of a ReLU nearer to zero are on one side or the other by rounding, and gradients with them
IGNORED = -100


# ---- model ------------------------------------------------------------------------------------------------

def fill(model, rng):
    """Weights of standard deviation 0.2 (less in wide models), norm gains uniform in 0.5..1.5, biases random."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            numbers = rng.standard_normal(tuple(parameter.shape))
            if parameter.dim() > 1:
                numbers *= 0.2 * min(1, 8 / max(parameter.shape[-2:]) ** 0.5)
            elif name.endswith("weight"):
                numbers = rng.uniform(0.5, 1.5, tuple(parameter.shape))
            else:
                numbers *= 0.2
            parameter.copy_(torch.from_numpy(numbers))


def make(name, seed, scale):
    """(model, kind, sizes, generator for what follows) of a family; the same for every part that asks."""
    kind_of_model, kind, shape, _ = FAMILIES[name]
    rng = draw(seed, "families/" + name)
    sizes, config = shape(rng, scale)
    config._attn_implementation = "eager"
    model = kind_of_model(config).eval()
    model.tie_weights()
    fill(model, rng)
    return model, kind, sizes, rng


def version_4(config):
    """The same configuration in the words of transformers 4, which did not state a usual head_dim."""
    old = dict(config)
    if old.get("head_dim", 0) * old["num_attention_heads"] == old["hidden_size"]:
        del old["head_dim"]
    rope = old.pop("rope_parameters")
    dtype = old.pop("dtype", "float32")
    old.update(rope_theta=rope["rope_theta"], rope_scaling=None, torch_dtype=dtype, transformers_version="4.46.0")
    return old


def save_model(model, folder):
    model.save_pretrained(folder.path)
    generation = os.path.join(folder.path, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    with open(os.path.join(folder.path, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if "rope_parameters" in config:
        folder.json("config.v4.json", version_4(config))


# ---- batches ----------------------------------------------------------------------------------------------

def draw_labels(rng, kind, ids, mask, config):
    """Targets of a batch, which is changed where words are masked."""
    B, T = ids.shape
    if kind == "cls":
        return {"labels": torch.from_numpy(rng.integers(0, config.num_labels, B))}
    if kind == "qa":
        ends = {key: rng.integers(0, T + 2, B) for key in ("start_positions", "end_positions")}  # some outside
        for positions in ends.values():
            positions[int(rng.integers(B))] = int(rng.integers(T))
        return {key: torch.from_numpy(positions) for key, positions in ends.items()}
    labels = torch.where(mask == 1, ids, IGNORED)
    if kind == "mlm":
        chosen = torch.from_numpy(rng.random((B, T)) < 0.3)
        chosen[0, int(rng.integers(T))] = True
        labels = torch.where(chosen & (mask == 1), ids, IGNORED)
        ids[labels != IGNORED] = MASK_ID
    elif T > 2 and rng.random() < 0.3:
        labels[:, :T // 2] = IGNORED  # as of a prompt
    return {"labels": labels}


def draw_batch(rng, kind, sizes, config, padded):
    """Inputs and targets: the first sequence is the longest, others are as short as one token."""
    B, T = sizes["batch"], sizes["longest"]
    lengths = [T] + [int(rng.integers(1, T + 1)) if padded else T for _ in range(B - 1)]
    if padded and B > 2:
        lengths[-1] = 1
    pad = config.pad_token_id or 0
    ids = torch.from_numpy(rng.integers(pick(rng, (0, 5)), config.vocab_size, (B, T)))
    mask = torch.tensor([[int(t < length) for t in range(T)] for length in lengths])
    ids[mask == 0] = pad
    targets = draw_labels(rng, kind, ids, mask, config)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if config.model_type == "bert":
        inputs["token_type_ids"] = torch.from_numpy(rng.integers(0, config.type_vocab_size, (B, T))) * mask
    return inputs, targets


def nearest_edge(twin, inputs):
    """The smallest input of a ReLU, by size: of OPT's feed-forward layers, of DistilBERT's classifier."""
    sizes, mask, hooks = [1.0], inputs["attention_mask"].bool(), []

    def hook(per_token):
        return lambda _module, _args, output: sizes.append(
            float((output.reshape(*mask.shape, -1)[mask] if per_token else output).abs().min()))
    for name, module in twin.named_modules():
        per_token = twin.config.model_type == "opt" and name.endswith("fc1")
        if per_token or name.endswith("pre_classifier"):
            hooks.append(module.register_forward_hook(hook(per_token)))
    with torch.no_grad():
        twin(**inputs)
    for one in hooks:
        one.remove()
    return min(sizes)


def draw_clear_batch(rng, kind, sizes, model, twin):
    """A batch that trains the same however sums are rounded; it is made smaller where that is not found."""
    while True:
        for _ in range(20):
            inputs, targets = draw_batch(rng, kind, sizes, model.config, True)
            if nearest_edge(twin, inputs) > RELU_EDGE:
                return inputs, targets
        sizes["batch"], sizes["longest"] = (sizes["batch"] + 1) // 2, max(2, sizes["longest"] * 3 // 4)


# ---- what it computes -------------------------------------------------------------------------------------

def loss_of(kind, output, targets):
    """The loss in the precision of the logits; transformers' own rounds language models' to float32."""
    if kind == "qa":
        T = output.start_logits.shape[1]
        parts = [functional.cross_entropy(getattr(output, side + "_logits"),
                                          targets[side + "_positions"].clamp(0, T), ignore_index=T)
                 for side in ("start", "end")]
        return sum(parts) / 2
    labels, logits = targets["labels"], output.logits
    if kind == "lm":
        labels, logits = labels[:, 1:], logits[:, :-1]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED)


def first_tensor(value):
    return value[0] if isinstance(value, tuple) else value


def run(model, blocks, inputs):
    """A pass, and what went in and out of its blocks, its pooler and its language-model head."""
    seen, hooks = {}, []

    def before(name):
        def hook(_module, args, kwargs):
            seen[name] = args[0] if args else kwargs["hidden_states"]
        return hook

    def after(name):
        return lambda _module, _args, output: seen.__setitem__(name, first_tensor(output))

    layers = model.get_submodule(blocks)
    hooks.append(layers[0].register_forward_pre_hook(before("hidden.0"), with_kwargs=True))
    for i, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(after("hidden.%d" % (i + 1))))
    if hasattr(model, "lm_head"):
        hooks.append(model.lm_head.register_forward_pre_hook(before("final"), with_kwargs=True))
    if getattr(getattr(model, "bert", None), "pooler", None) is not None:
        hooks.append(model.bert.pooler.register_forward_hook(after("pooled")))
    output = model(**inputs, use_cache=False) if hasattr(model, "lm_head") else model(**inputs)
    for hook in hooks:
        hook.remove()
    seen.setdefault("final", seen["hidden.%d" % len(layers)])
    return output, seen


def logits_of(kind, output):
    if kind == "qa":
        return {"start_logits": output.start_logits, "end_logits": output.end_logits}
    return {"logits": output.logits}


def relative(kind, a, b, mask):
    """Largest difference over largest value; of language models where the mask is one."""
    if kind in ("mlm", "lm"):
        a, b = a[mask == 1], b[mask == 1]
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def without_window(model):
    config = type(model.config).from_dict({**model.config.to_dict(), "sliding_window": None})
    config._attn_implementation = "eager"
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def outputs_of(model, name, kind, batches, io, meta):
    blocks = FAMILIES[name][3]
    twin = twin_of(model)
    for prefix, (inputs, targets) in batches.items():
        with torch.no_grad():
            output, seen = run(model, blocks, inputs)
            exact, _ = run(twin, blocks, inputs)
            loss = float(loss_of(kind, output, targets))
            theirs = float(model(**inputs, **targets).loss)
        if abs(loss - theirs) > 1e-5 * abs(theirs):
            raise ValueError("%s: loss %g is %g for transformers" % (name, loss, theirs))
        meta["loss"][prefix] = loss
        values = logits_of(kind, output)
        for key, value in logits_of(kind, exact).items():
            noise = relative(kind, values[key], value, inputs["attention_mask"])
            meta["noise"]["%s.%s" % (prefix, key)] = noise
            if noise > LOGIT_NOISE_MAX:
                raise ValueError("%s: %s are %g off their float64 twin" % (name, key, noise))
        if getattr(model.config, "sliding_window", None):
            with torch.no_grad():
                output, _ = run(without_window(model), blocks, inputs)
            values["logits_no_window"] = output.logits
            meta["loss"][prefix + "_no_window"] = float(loss_of(kind, output, targets))
        for group in (inputs, targets, values, seen):
            io.update({"%s.%s" % (prefix, key): value for key, value in group.items()})


def write_family(out, name, seed, scale):
    model, kind, sizes, rng = make(name, seed, scale)
    folder = out.below(name)
    save_model(model, folder)
    batches = {"padded": draw_clear_batch(rng, kind, sizes, model, twin_of(model))}
    if kind == "lm":
        batches["unpadded"] = draw_batch(rng, kind, sizes, model.config, False)
    meta = {"class": type(model).__name__, "kind": kind, "sizes": sizes, "train_batch": "padded", "loss": {}, "noise": {}}
    io = {}
    outputs_of(model, name, kind, batches, io, meta)
    folder.tensors("io.safetensors", io)
    grads, updated, trained = train(model, batches["padded"], lambda output, targets: loss_of(kind, output, targets))
    meta["noise"].update(trained.pop("noise"))
    meta.update(trained)
    folder.tensors("grads.safetensors", grads)
    folder.tensors("adamw.safetensors", updated)
    folder.json("meta.json", meta)
    return {"kind": kind, "class": meta["class"], "sizes": sizes, "loss": meta["loss"],
            "adamw_rule": meta["adamw_rule"], "zero": meta["gradient_is_zero"]}


def write(out, seed, scale):
    folder = out.below("families")
    folder.json("index.json", {name: write_family(folder, name, seed, scale) for name in FAMILIES})
