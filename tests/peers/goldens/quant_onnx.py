"""ONNX Runtime's dynamic quantization and its calibrators, on graphs of a node or two."""
import contextlib
import io
import os
import tempfile

import numpy
import onnxruntime
from onnx import TensorProto, helper, load, numpy_helper, save
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator, quantize_dynamic

from folder import normals, pick

CALIBRATORS = {
    "min_max": (CalibrationMethod.MinMax, {}),
    "min_max_symmetric": (CalibrationMethod.MinMax, {"symmetric": True}),
    "min_max_moving_average": (CalibrationMethod.MinMax, {"moving_average": True, "averaging_constant": 0.1}),
    "entropy": (CalibrationMethod.Entropy, {}),
    "entropy_512_128": (CalibrationMethod.Entropy, {"num_bins": 512, "num_quantized_bins": 128}),
    "percentile": (CalibrationMethod.Percentile, {}),
    "percentile_99": (CalibrationMethod.Percentile, {"num_bins": 2048, "percentile": 99.0}),
}


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs, outputs, **constants):
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "golden", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


# ---- layers -----------------------------------------------------------------------------------------------

def quantize_linear(x):
    """(codes, scale, zero point) by DynamicQuantizeLinear."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    outputs = [value("y", TensorProto.UINT8, *x.shape), value("scale", TensorProto.FLOAT), value("zero", TensorProto.UINT8)]
    y, scale, zero = run(model_of([node], [value("x", TensorProto.FLOAT, *x.shape)], outputs), x=x)
    return y, numpy.reshape(scale, 1), numpy.reshape(zero, 1)


def linear_inputs(rng, x):
    """All below zero, all above, halves between two codes, nothing but zeros."""
    lowest = -int(rng.integers(20, 200))
    halves = rng.integers(lowest, lowest + 255, 31) + 0.5
    ties = numpy.concatenate([[lowest, lowest + 255], halves]).astype("float32")[None, :]
    return {"x": x, "negative": -numpy.abs(normals(rng, 4, x.shape[1])) - 0.25, "positive": numpy.abs(normals(rng, 4, x.shape[1])),
            "ties": ties, "zeros": numpy.zeros((2, 8), "float32")}


def integer_product(rng, y, zero, rows):
    """(weights, exact product less the zero point) by MatMulInteger."""
    w = rng.integers(-127, 128, (rows, y.shape[1])).astype("int8")
    node = helper.make_node("MatMulInteger", ["a", "b", "zero"], ["c"])
    inputs = [value("a", TensorProto.UINT8, *y.shape)]
    c, = run(model_of([node], inputs, [value("c", TensorProto.INT32, y.shape[0], rows)], b=w.T.copy(), zero=zero[0]), a=y)
    if (c != (y.astype("int64") - int(zero[0])) @ w.T.astype("int64")).any():
        raise ValueError("ONNX Runtime's MatMulInteger saturates on this CPU")
    return w, c


def dynamic_layer(inputs, kind, channels, reduced):
    """Weights, scales, zero points and outputs of a MatMul and Add that quantize_dynamic has rewritten."""
    x, w, bias = inputs["x"], inputs["w"], inputs["bias"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node("Add", ["product", "bias"], ["y"])]
    model = model_of(nodes, [value("x", TensorProto.FLOAT, *x.shape)], [value("y", TensorProto.FLOAT, len(x), len(w))],
                     w=w.T.copy(), bias=bias)
    with tempfile.TemporaryDirectory() as scratch:
        paths = [os.path.join(scratch, name) for name in ("plain.onnx", "quantized.onnx")]
        save(model, paths[0])
        quantize_dynamic(*paths, weight_type=kind, per_channel=channels, reduce_range=reduced)
        model = load(paths[1])
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {"w": arrays["w_quantized"].T, "w_scale": arrays["w_scale"].reshape(-1),
            "w_zero_point": arrays["w_zero_point"].reshape(-1), "y": run(model, x=x)[0]}


def layers(rng, inputs):
    tensors = {}
    for name, x in linear_inputs(rng, inputs["x"]).items():
        y, scale, zero = quantize_linear(x)
        tensors.update({"dql.%s.y" % name: y, "dql.%s.scale" % name: scale, "dql.%s.zero_point" % name: zero})
        if name != "x":
            tensors["dql.%s.input" % name] = x
    tensors["matmul_integer.w"], tensors["matmul_integer.c"] = integer_product(
        rng, tensors["dql.x.y"], tensors["dql.x.zero_point"], len(inputs["w"]))
    for name, kind, channels, reduced in (("qint8.tensor", QuantType.QInt8, False, False),
                                          ("qint8.channel", QuantType.QInt8, True, False),
                                          ("qint8.channel.reduced", QuantType.QInt8, True, True),
                                          ("quint8.tensor", QuantType.QUInt8, False, False)):
        for key, array in dynamic_layer(inputs, kind, channels, reduced).items():
            tensors["dynamic.%s.%s" % (name, key)] = array
    return tensors


# ---- calibration ------------------------------------------------------------------------------------------

class Batches(CalibrationDataReader):
    def __init__(self, batches):
        self.left = iter([{"x": batch} for batch in batches])

    def get_next(self):
        return next(self.left, None)


def ranges_of(path, batches, method, options):
    calibrator = create_calibrator(path, ["MatMul", "Relu"], os.path.join(os.path.dirname(path), "augmented.onnx"), method,
                                   providers=["CPUExecutionProvider"], extra_options=options)
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator.collect_data(Batches(batches))
        found = calibrator.compute_data()
    return {name: [float(numpy.reshape(end, -1)[0]) for end in found[name].range_value] for name in ("x", "m", "y")}


def calibration(rng, info):
    """x, m = x times w and y = ReLU(m) through every calibrator."""
    count, rows, N, R = 0, 0, 0, 0
    while count * rows * N % 100 == 0 or count * rows * R % 100 == 0:  # 99 % of the values would end between two of them
        count, rows = int(rng.integers(2, 8)), int(rng.integers(4, 24))
        N, R = int(rng.integers(8, 48)), int(rng.integers(8, 48))
    batches = normals(rng, count, rows, N) * rng.uniform(0.5, 3, (count, 1, 1)).astype("float32")
    batches[rng.random(batches.shape) < 0.01] *= 8
    w = normals(rng, N, R, spread=pick(rng, (0.3, 1.0)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    model = model_of(nodes, [value("x", TensorProto.FLOAT, rows, N)], [value("y", TensorProto.FLOAT, rows, R)], w=w)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "model.onnx")
        save(model, path)
        info["ort.calibration"] = {name: {"options": options, "ranges": ranges_of(path, batches, method, options)}
                                   for name, (method, options) in CALIBRATORS.items()}
    return {"batches": batches, "w": w, "m": batches @ w}
