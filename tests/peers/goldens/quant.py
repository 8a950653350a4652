"""quant: what torch, ONNX Runtime and ggml make of the same weights and activations.

bitsandbytes and HQQ are no packages of the peers' environment: their files are left out.
"""
import ctypes
import os

import llama_cpp
import numpy
import torch
from torch.ao import quantization

import quant_onnx
from folder import draw, normals, pick

# Name: ggml's number, values of a block, its bytes.
BLOCKS = {"Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34),
          "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
          "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18)}
RANGES = {"u8": (0, 255), "s8": (-128, 127), "u4": (0, 15)}


def draw_inputs(rng, scale):
    """Weights with some columns of outliers, activations with some of their own, a bias."""
    R, C, n = int(rng.integers(3, 120)), int(rng.integers(8, 300)) * pick(rng, (1, scale)), int(rng.integers(5, 70))
    outliers = numpy.sort(rng.choice(C, int(rng.integers(1, 5)), replace=False)).astype("int32")
    w, x = normals(rng, R, C, spread=0.1), normals(rng, n, C, spread=1.5)
    w[:, outliers] *= 6
    x[:, outliers] *= numpy.float32(10)
    return {"w": w, "x": x, "bias": normals(rng, R), "outlier_columns": outliers}


# ---- torch ------------------------------------------------------------------------------------------------

def gradient_of(function, values, upstream):
    values = [value.clone().requires_grad_() for value in values]
    result = function(*values)
    return result.detach(), torch.autograd.grad(result, values, upstream)


def fake_tensor(rng, name, x, upstream, tensors, settings):
    """Fixed and learned fake quantization on one grid, of which a few values lie outside."""
    low, high = RANGES[name]
    scale = float(numpy.float32(x.abs().quantile(pick(rng, (0.9, 0.99, 1.0))) * 2 / (high - low)))
    zero = 0 if low < 0 else int(rng.integers(high // 3, 2 * high // 3 + 1))
    y, (gradient,) = gradient_of(lambda v: torch.fake_quantize_per_tensor_affine(v, scale, zero, low, high), [x], upstream)
    tensors.update({"fake.tensor.%s.y" % name: y, "fake.tensor.%s.grad" % name: gradient})
    settings["fake.tensor." + name] = {"scale": scale, "zero_point": zero, "quant_min": low, "quant_max": high}
    learned = gradient_of(
        lambda v, s, z: torch._fake_quantize_learnable_per_tensor_affine(v, s, z, low, high, 1.0),
        [x, torch.tensor([scale]), torch.tensor([float(zero)])], upstream)[1]
    for key, value in zip(("x", "scale", "zero_point"), learned):
        tensors["fake.learnable.%s.grad_%s" % (name, key)] = value


def fake_channels(rng, w, tensors, settings):
    scales = w.abs().amax(1) / pick(rng, (7, 7.5, 9))
    upstream = torch.from_numpy(normals(rng, *w.shape))
    y, (gradient,) = gradient_of(lambda v: torch.fake_quantize_per_channel_affine(
        v, scales, torch.zeros(len(scales), dtype=torch.int32), 0, -8, 7), [w], upstream)
    tensors.update({"fake.upstream_w": upstream, "fake.channel.s4.scale": scales, "fake.channel.s4.y": y,
                    "fake.channel.s4.grad": gradient})
    settings["fake.channel.s4"] = {"zero_point": 0, "quant_min": -8, "quant_max": 7, "axis": 0}


def observed(x):
    """x in four parts along its rows through torch's observers."""
    observers = {
        "min_max.u8": quantization.MinMaxObserver(dtype=torch.quint8),
        "min_max.s8_symmetric": quantization.MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric),
        "moving_average.u8": quantization.MovingAverageMinMaxObserver(dtype=torch.quint8),
        "histogram.u8": quantization.HistogramObserver(dtype=torch.quint8)}
    results = {}
    for name, observer in observers.items():
        for part in x.chunk(4):
            observer(part)
        scale, zero = observer.calculate_qparams()
        results[name] = {"scale": float(scale), "zero_point": int(zero), "min": float(observer.min_val),
                         "max": float(observer.max_val)}
    return {"batches": "x cut in 4 along rows as torch.chunk does", "result": results}


def dynamic_layer(inputs, channels, tensors):
    torch.backends.quantized.engine = "x86"
    R, C = inputs["w"].shape
    layer = torch.nn.Linear(C, R)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(inputs["w"]))
        layer.bias.copy_(torch.from_numpy(inputs["bias"]))
    settings = quantization.per_channel_dynamic_qconfig if channels else quantization.default_dynamic_qconfig
    model = quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear: settings}, dtype=torch.qint8)
    weight, name = model[0].weight(), "dynamic." + ("channel" if channels else "tensor")
    scale = weight.q_per_channel_scales() if channels else torch.tensor([weight.q_scale()])
    tensors.update({name + ".w": weight.int_repr(), name + ".w_scale": scale,
                    name + ".y": model(torch.from_numpy(inputs["x"]))})


def of_torch(rng, inputs, info):
    x, w, tensors, settings = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["w"]), {}, {}
    upstream = tensors["fake.upstream_x"] = torch.from_numpy(normals(rng, *x.shape))
    for name in RANGES:
        fake_tensor(rng, name, x, upstream, tensors, settings)
    fake_channels(rng, w, tensors, settings)
    for channels in (False, True):
        dynamic_layer(inputs, channels, tensors)
    info["torch.fake_settings"], info["torch.observers"] = settings, observed(x)
    return tensors


# ---- ggml -------------------------------------------------------------------------------------------------

def pointer(values):
    return values.ctypes.data_as(ctypes.c_void_p)


def of_ggml(rng, scale):
    """Each type's bytes and values; rows of its own, because blocks of 256 must fit."""
    ggml = ctypes.CDLL(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    rows, columns = int(rng.integers(1, 20)), 256 * pick(rng, (1, 2, 3)) * pick(rng, (1, scale))
    values, tensors = normals(rng, rows, columns, spread=0.1), {}
    values[:, int(rng.integers(columns))] *= 30
    values[int(rng.integers(rows)), :256] = 0
    for name, (number, block, size) in BLOCKS.items():
        packed, back = numpy.zeros((rows, columns // block * size), numpy.uint8), numpy.zeros((rows, columns), numpy.float32)
        written = ggml.ggml_quantize_chunk(ctypes.c_int(number), pointer(values), pointer(packed), ctypes.c_int64(0),
                                           ctypes.c_int64(rows), ctypes.c_int64(columns), None)
        if written != packed.nbytes:
            raise ValueError("ggml wrote %d bytes of %s, not %d" % (written, name, packed.nbytes))
        lower = name if name.endswith("_K") else name.lower()
        getattr(ggml, "dequantize_row_" + lower.replace("Q", "q"))(pointer(packed), pointer(back), ctypes.c_int64(back.size))
        tensors.update({name + ".bytes": packed, name + ".dequantized": back})
    return tensors


def write(out, seed, scale):
    folder, info = out.below("quant"), {}
    inputs = draw_inputs(draw(seed, "quant/inputs"), scale)
    folder.tensors("inputs.safetensors", inputs)
    folder.tensors("torch.safetensors", of_torch(draw(seed, "quant/torch"), inputs, info))
    folder.tensors("onnxruntime.safetensors", quant_onnx.layers(draw(seed, "quant/onnxruntime"), inputs))
    folder.tensors("calibration.safetensors", quant_onnx.calibration(draw(seed, "quant/calibration"), info))
    folder.tensors("gguf.safetensors", of_ggml(draw(seed, "quant/gguf"), scale))
    folder.json("info.json", info)
