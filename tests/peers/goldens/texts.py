"""Texts for tokenizers, made here: sentences from word lists, and characters of many scripts thrown together."""
import unicodedata

from folder import pick

NOUNS = ("river lantern market sparrow engine winter letter bridge garden teacher harbor pocket thunder basket window "
         "kitchen mountain violin shadow copper orchard station pebble meadow candle ladder turtle blanket compass").split()
VERBS = ("carried followed painted answered repaired remembered watched borrowed counted measured opened buried "
         "whispered collected crossed polished unfolded forgot rewrote overlooked").split()
ADJECTIVES = ("quiet golden narrow broken gentle curious hollow bright distant wooden heavy silver unlikely restless "
              "careful forgotten twenty-third half-finished").split()
NAMES = "Ana Björn Chloé Dmitri Eşref Fiona Gœthe Håkon İlker José Łukasz Nguyễn Søren Zoë".split()
OTHERS = ("être façade Straße naïve coöperate señor Ärger přítel żółć ὀδός λόγος Ελλάδα привет мир ёлка Київ שלום "
          "مرحبا नमस्ते สวัสดี 你好 世界 東京 こんにちは カタカナ 한국어 안녕 😀 👍🏽 ½ ① x² µm ﬁne Ⅳ").split()
MARKS = [".", ".", ".", "!", "?", "...", ";", " — right?", ", or so.", '."', " (twice).", ": 3.14", " #7", " @ 5%"]

# First and last character of scripts and sorts; what Python's Unicode does not know is left out.
RANGES = ((0x20, 0x7E), (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x2AF), (0x2B0, 0x36F), (0x370, 0x3FF),
          (0x400, 0x52F), (0x531, 0x58A), (0x591, 0x5F4), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE5B), (0xF00, 0xFD8),
          (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x209C),
          (0x20A0, 0x20BF), (0x20D0, 0x20F0), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2580, 0x27BF),
          (0x3000, 0x30FF), (0x3130, 0x318E), (0x3400, 0x4DBF), (0x4E00, 0x9FFC), (0xAC00, 0xD7A3), (0xE000, 0xE010),
          (0xF900, 0xFAD9), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF01, 0xFFEF), (0x10300, 0x1034A), (0x10400, 0x1044F),
          (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x1F900, 0x1F9FF), (0x20000, 0x200FF), (0x01, 0x1F), (0x7F, 0x9F))
SPACES = (" ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u0085", "\u2028")
LITERALS = ("[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "[mask]", "<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>",
            "<|im_start|>", "<0x0A>", "\u2581", "\u0120", "##ing", "a\u2581b")
APOSTROPHES = ("it's", "we've", "I'LL", "they'd", "don't", "'s", "'RE you", "y'all", "'tis", "rock'n'roll", "l'été")


def number(rng):
    digits = str(int(rng.integers(0, 10 ** int(rng.integers(1, 8)))))
    return pick(rng, (digits, digits, digits + ".5", "-" + digits, digits[:1] + "," + digits, "٣٤" + digits, digits + "²"))


def sentence(rng):
    words = ["the", pick(rng, ADJECTIVES), pick(rng, NOUNS), pick(rng, VERBS), pick(rng, ("a", "its", "no", "every")),
             pick(rng, NOUNS)]
    if rng.random() < 0.4:
        words[0] = pick(rng, NAMES) + pick(rng, ("'s", "’s", " and the"))
    if rng.random() < 0.3:
        words.insert(int(rng.integers(len(words))), pick(rng, OTHERS))
    if rng.random() < 0.2:
        words.append(number(rng))
    text = " ".join(words) + pick(rng, MARKS)
    return text[0].upper() + text[1:]


def corpus(rng, count):
    return [sentence(rng) for _ in range(count)]


def character(rng):
    while True:
        first, last = pick(rng, RANGES)
        one = chr(int(rng.integers(first, last + 1)))
        if unicodedata.category(one) not in ("Cn", "Cs"):
            return one


def scramble(rng):
    """Characters of every script, a combining mark or a space now and then."""
    out = []
    for _ in range(int(rng.integers(1, 25))):
        kind = rng.random()
        out.append(pick(rng, SPACES) if kind < 0.15 else chr(int(rng.integers(0x300, 0x34F))) if kind < 0.2
                   else number(rng) if kind < 0.25 else character(rng))
    return "".join(out)


def noise(rng):
    letters = "abcdefghinorstuyABCST0123456789'  .,-'"
    return "".join(pick(rng, letters) for _ in range(int(rng.integers(1, 60))))


def composed(rng):
    parts = (sentence, scramble, noise, number, lambda r: pick(r, OTHERS), lambda r: pick(r, APOSTROPHES),
             lambda r: pick(r, LITERALS), lambda r: unicodedata.normalize("NFD", pick(r, NAMES + OTHERS)))
    return "".join(pick(rng, parts)(rng) + pick(rng, SPACES + ("", "", "/", ".."))
                   for _ in range(int(rng.integers(2, 5))))


def repeated(rng):
    """One word longer than tokenizers like."""
    piece = pick(rng, ("a", "ab", "é", "e\u0301", "中", "1", "!", "-", "w ", "😀", "na", "  ", "\n")) * int(rng.integers(90, 220))
    return piece + pick(rng, ("", " end", "x"))


def changed_case(rng):
    return pick(rng, (str.upper, str.lower, str.swapcase, str.title))(sentence(rng) + pick(rng, SPACES) + pick(rng, OTHERS))


def cases(rng, count):
    """(category, text) of every case; no empty text, no NUL."""
    sorts = {"sentence": sentence, "apostrophe": lambda r: pick(r, APOSTROPHES) + pick(r, ("", " ", "!")) + noise(r),
             "space": lambda r: "".join(pick(r, SPACES) for _ in range(int(r.integers(1, 7)))) + pick(r, ("", "x", "the")),
             "special-literal": lambda r: pick(r, ("", "a", " ")) + pick(r, LITERALS) + pick(r, ("", " b", "?")),
             "random": scramble, "noise": noise, "composed": composed, "long": repeated, "case": changed_case,
             "number": lambda r: " ".join(number(r) for _ in range(int(r.integers(1, 5))))}
    names = list(sorts)
    for i in range(count):
        category = names[i % len(names)]
        yield category, sorts[category](rng)
