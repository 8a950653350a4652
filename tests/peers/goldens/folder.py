"""Where a golden folder's files are written, and what every part draws its numbers from."""
import json
import os
import zlib

import numpy
from safetensors.numpy import save_file


def draw(seed, name):
    """A generator of its own for each part, so that a change of one leaves the others' numbers alone."""
    return numpy.random.default_rng([seed, zlib.crc32(name.encode())])


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def normals(rng, *shape, spread=1.0):
    return (spread * rng.standard_normal(shape)).astype(numpy.float32)


def array(tensor):
    """A tensor as it is stored: float32, int32, or bytes."""
    values = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else numpy.asarray(tensor)
    stored = numpy.float32 if values.dtype.kind == "f" else values.dtype if values.dtype.itemsize == 1 else numpy.int32
    return numpy.ascontiguousarray(values, dtype=stored)


class Folder:
    """OUT, or a folder below it; files are named by their path in it."""

    def __init__(self, path):
        self.path = path
        os.makedirs(path, exist_ok=True)

    def below(self, name):
        return Folder(os.path.join(self.path, name))

    def tensors(self, name, tensors):
        arrays = {key: array(value) for key, value in tensors.items()}
        for key, values in arrays.items():
            if not numpy.isfinite(values).all():
                raise ValueError("%s: %s is not finite" % (name, key))
        save_file(arrays, os.path.join(self.path, name))

    def json(self, name, value):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
            json.dump(value, file, indent=1, allow_nan=False)

    def json_lines(self, name, values):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
            for value in values:
                file.write(json.dumps(value, separators=(",", ":")) + "\n")
