#!/usr/bin/env python3
"""Compare our SentencePiece tokenizers with the library's: ids, offsets and decoded text.

Trains small models of both kinds on the data folder's texts with many settings, encodes the golden cases, lines of
WikiText-2, texts mixed from pieces, and bytes that are no UTF-8, and compares what both make of them.
Needs Python with sentencepiece (pip install sentencepiece; 0.2.3 was used) and build/release/tests/helpers/tokenize_main.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import sentencepiece

SETTINGS = {
    "plain": {},
    "identity": {"normalization_rule_name": "identity"},
    "nfkc_cf": {"normalization_rule_name": "nfkc_cf"},
    "bytes": {"byte_fallback": True, "character_coverage": 0.98},
    "rare": {"character_coverage": 0.98},
    "user": {"user_defined_symbols": ["<sep>", "New York", "the", "\u2581of", "@-@", "ing"]},
    "spaces": {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"},
    "noprefix": {"add_dummy_prefix": False},
    "suffix": {"treat_whitespace_as_suffix": True},
    "inner": {"split_by_whitespace": False},
    "digits": {"split_digits": True, "byte_fallback": True, "allow_whitespace_only_pieces": True,
               "remove_extra_whitespaces": False, "user_defined_symbols": ["\u2581\u2581", "\u2581\u2581\u2581\u2581"]},
    "llama": {"byte_fallback": True, "split_digits": True, "normalization_rule_name": "identity",
              "pad_id": 3, "unk_surface": " ? "},
}


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def write_varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def mark_unused(model, every):
    """The model with every so-manieth normal piece of several characters of type UNUSED."""
    out, at, seen = b"", 0, 0
    while at < len(model):
        key, at = read_varint(model, at)
        size, at = read_varint(model, at)  # all fields of ModelProto are messages
        body = model[at:at + size]
        at += size
        if key == (1 << 3 | 2) and b"\x18" not in body[2 + body[1]:]:  # a piece without a type: normal
            seen += 1
            if body[1] > 1 and seen % every == 0:
                body += b"\x18\x05"
        out += write_varint(key) + write_varint(len(body)) + body
    return out


def make_texts(data, goldens, generator):
    texts = []
    path = os.path.join(goldens, "tokenizers", "cases.jsonl")
    with open(path, encoding="ascii") as lines:
        texts += [json.loads(line)["text"].encode() for line in lines]
    with open(os.path.join(data, "wikitext2", "test.txt"), "rb") as file:
        lines = [line for line in file.read().split(b"\n") if line.strip()]
    texts += lines[:2000]
    texts.append(b" ".join(lines[:400]))  # one long text: sums of many scores
    words = b" ".join(lines[:200]).decode().split()
    marks = [" ", "  ", "\u2581", "\u2581\u2581", "\t", "\u3000", "e\u0301", "\ufb01", "\u00bd", "\u4e2d", "\U0001f600", "",
             "<s>", "<unk>", "<sep>", "New York", "\r\n", "\u200b", "\uac00", "\u1100\u1161", "0", "\u0660"]
    for _ in range(2000):
        text = "".join(generator.choice(words if generator.random() < 0.5 else marks) +
                       generator.choice(["", "", " "]) for _ in range(generator.randint(1, 12)))
        texts.append(text.encode())
    for _ in range(500):
        texts.append(bytes(generator.choice([32, 65, 97, 0x80, 0xc3, 0xa9, 0xe2, 0x96, 0x81, 0xf0, 0x9f, 0xed, 0xa0])
                           for _ in range(generator.randint(1, 24))))
    return [text for text in texts if b"\0" not in text]


def ours(helper, path, texts, options=("--literal",)):
    request = b"".join(b"%d\n%s" % (len(text), text) for text in texts)
    answer = subprocess.run([helper, *options, path], input=request, stdout=subprocess.PIPE, check=True).stdout
    for line in answer.decode("ascii").splitlines():
        ids, places, decoded = line.split("|")
        yield ([int(i) for i in ids.split()], [tuple(map(int, p.split("-"))) for p in places.split()],
               bytes.fromhex(decoded.strip()))


def theirs(processor, text):
    proto = processor.encode(text, return_type="serialized_proto")
    ids, places, at = [], [], 0
    while at < len(proto):  # SentencePieceText: pieces = 2 {piece 1, id 2, surface 3, begin 4, end 5}
        key, at = read_varint(proto, at)
        if key & 7 == 5:
            at += 4
            continue
        size, at = read_varint(proto, at)
        end = at + size
        if key != (2 << 3 | 2):
            at = end
            continue
        piece = {2: 0, 4: 0, 5: 0}
        while at < end:
            key, at = read_varint(proto, at)
            value, at = read_varint(proto, at)
            if key & 7 == 2:
                at += value
            else:
                piece[key >> 3] = value
        ids.append(piece[2])
        places.append((piece[4], piece[5]))
    return ids, places


def compare(helper, path, texts):
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    different = tokens = 0
    for text, answer in zip(texts, ours(helper, path, texts)):
        ids, places = theirs(processor, text)
        decoded = processor.decode(ids, return_type=bytes)
        tokens += len(ids)
        if answer == (ids, places, decoded):
            continue
        different += 1
        if different <= 2:
            print("  differs:", ascii(text[:200]))
            for name, a, b in zip(("ids", "offsets", "text"), answer, (ids, places, decoded)):
                if a != b:
                    print("   %s: ours %s\n   %s  theirs %s" % (name, str(a)[:300], " " * len(name), str(b)[:300]))
    return tokens, different


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--helper", default="build/release/tests/helpers/tokenize_main")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--goldens", default="../shared/goldens")
    parser.add_argument("--models", help="keep the trained models in this folder")
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    texts = make_texts(arguments.data, arguments.goldens, random.Random(arguments.seed))
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.models or scratch
        os.makedirs(folder, exist_ok=True)
        corpus = [os.path.join(arguments.data, *part) for part in (("wikitext2", "valid.txt"), ("tinystories", "valid.txt"))]
        for kind in ("bpe", "unigram"):
            for name, settings in SETTINGS.items():
                prefix = os.path.join(folder, "%s_%s" % (kind, name))
                if not os.path.exists(prefix + ".model"):
                    sentencepiece.SentencePieceTrainer.train(
                        input=corpus, model_prefix=prefix, model_type=kind, vocab_size=arguments.vocabulary,
                        hard_vocab_limit=False, minloglevel=2, **settings)
                if name in ("plain", "bytes"):
                    with open(prefix + ".model", "rb") as file:
                        model = mark_unused(file.read(), 5)
                    with open(prefix + "_unused.model", "wb") as file:
                        file.write(model)
        for path in sorted(os.listdir(folder)):
            if path.endswith(".model"):
                tokens, different = compare(arguments.helper, os.path.join(folder, path), texts)
                failed += different
                print("%-24s %6d texts %8d tokens %5d differ" % (path, len(texts), tokens, different), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
