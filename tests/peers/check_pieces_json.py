#!/usr/bin/env python3
"""Compare our reading of SentencePiece models in tokenizer.json with Hugging Face's tokenizers: ids and decoded text.

Trains small BPE and Unigram models with sentencepiece, writes them as tokenizer.json in the layouts of Llama 2, of newer
Llama and Mistral files, of T5 and of XLM-RoBERTa, and compares on the golden cases and lines of WikiText-2.
Needs Python with sentencepiece and tokenizers, and build/release/tests/helpers/tokenize_main.
"""
import argparse
import json
import os
import random
import sys
import tempfile

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from check_sentencepiece import make_texts, ours, read_varint

SPACE = "\u2581"


def fields(data):
    """Keys of a message's fields, and their bytes where they are bytes."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if key & 7 == 2:
            yield key, data[at:at + value]
            at += value


def charsmap_of(path):
    """normalizer_spec.precompiled_charsmap: field 2 of field 3."""
    with open(path, "rb") as file:
        data = file.read()
    for key, body in fields(data):
        if key == (3 << 3 | 2):
            for inner, value in fields(body):
                if inner == (2 << 3 | 2):
                    return value
    return b""


def merges_of(pieces):
    """Every way to cut a piece into two, in the order of the pieces' scores."""
    known = {piece: i for i, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in sorted(pieces, key=lambda item: -item[1]):
        local = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in known and piece[i:] in known]
        merges += sorted(local, key=lambda pair: (known[pair[0]], known[pair[1]]))
    return merges


def build(kind, layout, path):
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    if kind == "bpe":
        normal = [p for i, p in enumerate(pieces) if not processor.is_byte(i) and not processor.is_control(i)
                  and not processor.is_unknown(i)]
        vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
        model = models.BPE(vocabulary, merges_of(normal), unk_token="<unk>", fuse_unk=True, byte_fallback=True,
                           ignore_merges=layout == "mistral")
    else:
        model = models.Unigram(pieces, unk_id=processor.unk_id(), byte_fallback=any(map(processor.is_byte, range(len(pieces)))))
    tokenizer = Tokenizer(model)
    byte_decoders = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if layout == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        tokenizer.decoder = decoders.Sequence(byte_decoders + [decoders.Strip(" ", 1, 0)])
    elif layout == "gemma":
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        tokenizer.decoder = decoders.Sequence(byte_decoders)
    elif layout in ("first", "mistral"):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=layout == "mistral")
        tokenizer.decoder = decoders.Sequence(byte_decoders + [decoders.Strip(" ", 1, 0)])
    else:
        rules = normalizers.Precompiled(charsmap_of(path))
        if layout == "t5":
            tokenizer.normalizer = normalizers.Sequence(
                [rules, normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), SPACE)])
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
        else:
            tokenizer.normalizer = normalizers.Sequence([rules, normalizers.Replace(Regex(" {2,}"), " ")])
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")])
        tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--helper", default="build/release/tests/helpers/tokenize_main")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--goldens", default="../shared/goldens")
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--keep", help="write the files to this folder")
    arguments = parser.parse_args()
    texts = [text for text in make_texts(arguments.data, arguments.goldens, random.Random(arguments.seed))]
    texts = [text for text in texts if text.decode("utf-8", "replace").encode() == text]
    # Normalization makes the unknown and other special tokens of these, alone and beside characters that are no piece.
    texts += [text.replace("<", "\uff1c").replace(">", "\uff1e").encode()
              for text in ("a<unk>b", "<unk>", "\u0e01<unk>", "<unk>\u0e01", "a <unk>\u0e01\u0e02 b", "<unk><unk>", "</s> a<s>")]
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or scratch
        os.makedirs(folder, exist_ok=True)
        corpus = os.path.join(arguments.data, "wikitext2", "valid.txt")
        for kind, settings, layouts in (
                ("bpe", {"byte_fallback": True, "normalization_rule_name": "identity", "character_coverage": 0.99},
                 ("llama2", "gemma", "first", "mistral")),
                ("unigram", {"character_coverage": 0.99}, ("t5", "xlmr")),
                ("unigram", {"byte_fallback": True, "character_coverage": 0.99}, ("t5",))):
            prefix = os.path.join(folder, kind + ("_bytes" if "byte_fallback" in settings else ""))
            sentencepiece.SentencePieceTrainer.train(
                input=corpus, model_prefix=prefix, model_type=kind, vocab_size=arguments.vocabulary,
                hard_vocab_limit=False, minloglevel=2, **settings)
            for layout in layouts:
                path = "%s_%s.json" % (prefix, layout)
                tokenizer = build(kind, layout, prefix + ".model")
                tokenizer.save(path)
                different = tokens = 0
                for text, (ids, _, decoded) in zip(texts, ours(arguments.helper, path, texts, ("--special",))):
                    theirs = tokenizer.encode(text.decode(), add_special_tokens=True).ids
                    wanted = tokenizer.decode(theirs).encode()
                    tokens += len(theirs)
                    if (ids, decoded) == (theirs, wanted):
                        continue
                    different += 1
                    if different <= 3:
                        print("  differs:", ascii(text[:200].decode("utf-8", "replace")))
                        print("   ours  ", str(ids)[:300], ascii(decoded.decode("utf-8", "replace"))[:200])
                        print("   theirs", str(theirs)[:300], ascii(wanted.decode())[:200])
                failed += different
                print("%-24s %6d texts %8d tokens %5d differ" % (os.path.basename(path), len(texts), tokens, different),
                      flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
