"""optim: torch's optimizers step by step on given gradients, and transformers' schedules of the learning rate."""
import torch
import transformers

from folder import draw, normals, pick

STEPS = 10


def draw_settings(rng):
    def adam(beta2, eps, decay):
        return {"lr": pick(rng, (0.003, 0.01, 0.03)), "betas": [0.9, beta2], "eps": eps, "weight_decay": decay}

    def sgd(decay, **more):
        return {"lr": pick(rng, (0.003, 0.01)), "momentum": pick(rng, (0.8, 0.9)), "weight_decay": decay, **more}
    decay = pick(rng, (0.01, 0.05, 0.1))
    return {"adamw": adam(0.999, 1e-8, decay), "adamw_beta95": adam(0.95, 1e-6, 0.0), "adam_l2": adam(0.999, 1e-8, decay),
            "sgd": sgd(0.0), "sgd_decay": sgd(decay), "sgd_nesterov": sgd(decay, nesterov=True)}


def optimizer_of(name, parameters, setting):
    kind = torch.optim.SGD if name.startswith("sgd") else torch.optim.AdamW if name.startswith("adamw") else torch.optim.Adam
    return kind(parameters, **setting)


def trace(name, setting, start, grads):
    """Parameters after every step and the state after the last, in float64."""
    parameter = torch.from_numpy(start).double().requires_grad_()
    optimizer, values = optimizer_of(name, [parameter], setting), []
    for gradient in grads:
        parameter.grad = torch.from_numpy(gradient).double()
        optimizer.step()
        values.append(parameter.detach().clone())
    tensors = {name + ".params": torch.stack(values)}
    for key, state in optimizer.state[parameter].items():
        if key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            tensors["%s.%s" % (name, key)] = state
    return tensors


def rates(total, base, make):
    """The rate that each of the steps uses."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    schedule, used = make(optimizer), []
    for _ in range(total):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


def draw_schedules(rng, total, base):
    lists = {}
    for warmup in sorted({0, 1, int(rng.integers(2, total))}):
        lists["linear_warmup%d" % warmup] = rates(
            total, base, lambda o, w=warmup: transformers.get_linear_schedule_with_warmup(o, w, total))
        lists["cosine_warmup%d" % warmup] = rates(
            total, base, lambda o, w=warmup: transformers.get_cosine_schedule_with_warmup(o, w, total))
        lists["constant_warmup%d" % warmup] = rates(
            total, base, lambda o, w=warmup: transformers.get_constant_schedule_with_warmup(o, w))
        for power, end in ((2, 0.1), (1, 0.0), (3, 0.25)):
            lists["polynomial_warmup%d_power%d_end%g" % (warmup, power, end)] = rates(
                total, base, lambda o, w=warmup, p=power, e=end: transformers.get_polynomial_decay_schedule_with_warmup(
                    o, w, total, lr_end=e * base, power=p))
    return lists


def write(out, seed, scale):
    rng, folder = draw(seed, "optim"), out.below("optim")
    n = int(rng.integers(8, 70)) * pick(rng, (1, scale))
    start = normals(rng, n)
    grads = normals(rng, STEPS, n) * (10.0 ** rng.uniform(-4, 1, n)).astype("float32")
    grads[rng.random((STEPS, n)) < 0.1] = 0
    settings = draw_settings(rng)
    tensors = {"start": start, "grads": grads}
    for name, setting in settings.items():
        tensors.update(trace(name, setting, start, grads))
    folder.tensors("traces.safetensors", tensors)
    total, base = int(rng.integers(4, 60)), pick(rng, (1.0, 1.0, 0.3))
    folder.json("schedules.json", {"base_lr": base, "total_steps": total, "settings": settings,
                                   "lr_used_by_step": draw_schedules(rng, total, base)})
