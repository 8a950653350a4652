"""Gradients and three steps of AdamW in float32, and what its float64 twin says about their rounding noise."""
import copy
import types

import torch

RATES = [0.0, 1e-2, 5e-3]  # linear, 1 warm-up step of 3
ZERO = 1e-12               # a gradient of float64 below this share of the largest one is mathematically zero
NUDGED = 3                 # walks from weights a last bit away: one float32 walk may keep close to float64 by luck


def rms_norm(self, hidden):
    return self.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def twin_of(model):
    """The model in float64 with other attention code, also where transformers computes in float32 on its own."""
    twin = copy.deepcopy(model).double()
    twin.set_attn_implementation("sdpa")
    for module in twin.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(rms_norm, module)
    return twin


def gradients(model, batch, loss_of):
    inputs, targets = batch
    model.zero_grad(set_to_none=False)
    loss = loss_of(model(**inputs), targets)
    loss.backward()
    return loss


def steps(model, batch, loss_of):
    """Losses and norms of three steps, which change the model."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.01},
         {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    walk = {"losses": [], "grad_norms": [], "learning_rates": RATES}
    for rate in RATES:
        walk["losses"].append(float(gradients(model, batch, loss_of).detach()))
        walk["grad_norms"].append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    with torch.no_grad():
        walk["loss_after"] = float(loss_of(model(**batch[0]), batch[1]))
    return walk


def nudged(model, seed):
    """A copy with every weight one bit larger or smaller."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + (2 * torch.randint(2, parameter.shape, generator=generator) - 1) * 2.0 ** -23)
    return other


def named(model, field=None):
    return {name: (getattr(p, field) if field else p).detach().clone() for name, p in model.named_parameters()}


def difference(a, b):
    return (a.double() - b.double()).abs()


def train(model, batch, loss_of):
    """(gradients, updated parameters, what meta.json says of both); the model itself stays as it is."""
    student, twin = copy.deepcopy(model), twin_of(model)
    gradients(student, batch, loss_of)
    gradients(twin, batch, loss_of)
    grads, exact = named(student, "grad"), named(twin, "grad")
    largest = max(float(g.abs().max()) for g in grads.values())
    threshold = 1e-4 * largest
    meta = {"max_abs_grad": {name: float(g.abs().max()) for name, g in grads.items()},
            "gradient_is_zero": [name for name, g in exact.items() if float(g.abs().max()) < ZERO * largest],
            "noise": {"grads": {name: float(difference(g, exact[name]).max()) / largest for name, g in grads.items()}}}
    meta["adamw"] = steps(student, batch, loss_of)
    meta["adamw_f64"] = steps(twin, batch, loss_of)
    updated, exact = named(student), named(twin)
    apart = {name: difference(p, exact[name]) for name, p in updated.items()}
    for seed in range(NUDGED):
        other = nudged(model, seed)
        steps(other, batch, loss_of)
        apart = {name: torch.maximum(apart[name], difference(p, exact[name])) for name, p in named(other).items()}
    meta["noise"]["adamw"] = {name: float(d.max()) for name, d in apart.items()}
    clear = torch.cat([(g.abs() >= threshold).flatten() for g in grads.values()])
    apart = torch.cat([d.flatten() for d in apart.values()])
    meta["adamw_rule"] = {
        "compare_where": "abs(grads) >= 1e-4 * largest abs gradient of the whole model", "threshold": threshold,
        "share_compared": float(clear.double().mean()),
        "f32_f64_max_diff_there": float(apart[clear].max()),
        "f32_f64_max_diff_elsewhere": float(apart[~clear].max()) if bool((~clear).any()) else 0.0}
    return grads, updated, meta
