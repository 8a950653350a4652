#!/usr/bin/env python3
"""Compare our reading of a GGUF file's SentencePiece tokenizer with llama.cpp's, on the golden cases.

Writes a vocabulary-only GGUF file from a BPE .model file. Needs Python with llama-cpp-python (make peers) and
build/release/tests/helpers/tokenize_main.
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import llama_cpp

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def read_pieces(model):
    at = 0
    while at < len(model):
        key, at = read_varint(model, at)
        size, at = read_varint(model, at)  # all fields of ModelProto are messages
        end = at + size
        if key == (1 << 3 | 2):
            text, score, kind = b"", 0.0, 1
            while at < end:
                field, at = read_varint(model, at)
                if field & 7 == 5:
                    score = struct.unpack_from("<f", model, at)[0]
                    at += 4
                    continue
                value, at = read_varint(model, at)
                if field & 7 == 2:
                    text = model[at:at + value]
                    at += value
                else:
                    kind = value
            yield text, score, kind
        at = end


def text_bytes(text):
    return struct.pack("<Q", len(text)) + text


def entry(key, kind, value):
    return text_bytes(key.encode()) + struct.pack("<I", kind) + value


def array(key, kind, items):
    return entry(key, ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def write_gguf(path, pieces):
    entries = [
        entry("general.architecture", STRING, text_bytes(b"llama")),
        entry("tokenizer.ggml.model", STRING, text_bytes(b"llama")),
        array("tokenizer.ggml.tokens", STRING, [text_bytes(text) for text, _, _ in pieces]),
        array("tokenizer.ggml.scores", F32, [struct.pack("<f", score) for _, score, _ in pieces]),
        array("tokenizer.ggml.token_type", I32, [struct.pack("<i", kind) for _, _, kind in pieces]),
        entry("tokenizer.ggml.unknown_token_id", U32, struct.pack("<I", 0)),
        entry("tokenizer.ggml.bos_token_id", U32, struct.pack("<I", 1)),
        entry("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 2)),
    ]
    for key, value in (("context_length", 128), ("embedding_length", 64), ("block_count", 1), ("feed_forward_length", 64),
                       ("attention.head_count", 1)):
        entries.append(entry("llama." + key, U32, struct.pack("<I", value)))
    entries.append(entry("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)))
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)
    with open(path, "wb") as file:
        file.write(data + b"\0" * (-len(data) % 32))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--helper", default="build/release/tests/helpers/tokenize_main")
    parser.add_argument("--goldens", default="../shared/goldens")
    parser.add_argument("--model", default="../shared/data/models/stories260K/tok512.model")
    arguments = parser.parse_args()
    with open(os.path.join(arguments.goldens, "tokenizers", "cases.jsonl"), encoding="ascii") as lines:
        texts = [json.loads(line)["text"].encode() for line in lines]
    texts = [text for text in texts if text]
    with open(arguments.model, "rb") as file:
        pieces = list(read_pieces(file.read()))
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pieces.gguf")
        write_gguf(path, pieces)
        llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        request = b"".join(b"%d\n%s" % (len(text), text) for text in texts)
        answer = subprocess.run([arguments.helper, "--special", "--literal", path], input=request, stdout=subprocess.PIPE,
                                check=True).stdout.decode("ascii").splitlines()
        for text, line in zip(texts, answer):
            ours = [int(i) for i in line.split("|")[0].split()]
            theirs = llama.tokenize(text, add_bos=True, special=False)
            if ours != theirs:
                different += 1
                print("differs:", ascii(text[:200]), "\n  ours  ", ours, "\n  theirs", theirs)
    print("%d texts, %d differ" % (len(texts), different))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
