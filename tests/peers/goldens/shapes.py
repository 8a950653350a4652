"""Sizes of the twelve families' models: drawn anew for each seed, odd ones on purpose.

Every model is small; --scale multiplies widths and vocabularies. What a family is (README of the golden layout: which
norm, which activation, tied or not) stays as it is.
"""
from transformers import (BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification,
                          DistilBertConfig, DistilBertForQuestionAnswering, DistilBertForSequenceClassification,
                          GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM)

from folder import pick

MASK_ID = 3        # of bert-mlm
NEW_TOKENS = 24    # generation needs this many positions after its prompts
WIDTH_MIN = 8      # a norm over fewer values makes noise of rounding


def head_width(rng, even):
    widths = (2, 4, 6, 8, 10, 16, 20, 32, 48, 66) if even else (1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 24, 32, 33, 64)
    return pick(rng, widths)


def draw_sizes(rng, scale, even):
    """What all families have: layers, heads, their width, feed-forward width, vocabulary, the batch."""
    heads = pick(rng, (1, 1, 2, 3, 4, 5, 6, 8))
    width = head_width(rng, even)
    while heads * width < WIDTH_MIN:
        width += 2 if even else 1
    width *= pick(rng, (1, scale))
    sizes = {"layers": pick(rng, (1, 1, 2, 3, 4)), "heads": heads, "head": width,
             "inner": int(rng.integers(1, 4 * heads * width + 1)) if rng.random() < 0.3 else
             int(heads * width * rng.uniform(1, 4)),
             "vocabulary": int(rng.integers(24, 600)) * pick(rng, (1, scale)),
             "batch": pick(rng, (1, 2, 3, 3, 4, 7, 19)), "longest": pick(rng, (2, 3, 8, 15, 16, 17, 24, 33, 64, 70, 131))}
    sizes["positions"] = sizes["longest"] + pick(rng, (0, 0, 1, 40, 111))
    sizes["key_heads"] = pick(rng, [n for n in range(1, heads + 1) if heads % n == 0])
    return sizes


def pad_id(rng, sizes, usual):
    """The id whose look-up has no gradient."""
    return pick(rng, (usual, usual, int(rng.integers(sizes["vocabulary"]))))


def bert(rng, scale, **head):
    s = draw_sizes(rng, scale, even=False)
    return s, BertConfig(
        vocab_size=s["vocabulary"], hidden_size=s["heads"] * s["head"], num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"], intermediate_size=s["inner"], max_position_embeddings=s["positions"],
        type_vocab_size=pick(rng, (1, 2, 2, 2, 3)), layer_norm_eps=pick(rng, (1e-12, 1e-12, 1e-5)), hidden_act="gelu",
        pad_token_id=pad_id(rng, s, 0), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **head)


def distilbert(rng, scale, **head):
    s = draw_sizes(rng, scale, even=False)
    return s, DistilBertConfig(
        vocab_size=s["vocabulary"], dim=s["heads"] * s["head"], n_layers=s["layers"], n_heads=s["heads"],
        hidden_dim=s["inner"], max_position_embeddings=s["positions"], activation="gelu", pad_token_id=pad_id(rng, s, 0),
        dropout=0.0, attention_dropout=0.0, qa_dropout=0.0, seq_classif_dropout=0.0, **head)


def writer_sizes(rng, scale, even):
    """Of a model that generates: room for its prompts and what it adds."""
    s = draw_sizes(rng, scale, even)
    s["positions"] += NEW_TOKENS + 12
    return s


def gpt2(rng, scale):
    s = writer_sizes(rng, scale, even=False)
    inner = pick(rng, (None, s["inner"], s["inner"]))  # none: four times the width
    return s, GPT2Config(
        vocab_size=s["vocabulary"], n_embd=s["heads"] * s["head"], n_layer=s["layers"], n_head=s["heads"], n_inner=inner,
        n_positions=s["positions"], activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=2, eos_token_id=2)


def opt(rng, scale, before):
    s = writer_sizes(rng, scale, even=False)
    width = s["heads"] * s["head"]
    projected = width
    while not before and projected == width:
        projected = int(rng.integers(2, 2 * width))
    return s, OPTConfig(
        vocab_size=s["vocabulary"], hidden_size=width, num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
        ffn_dim=s["inner"], max_position_embeddings=s["positions"], do_layer_norm_before=before,
        word_embed_proj_dim=projected, activation_function="relu", pad_token_id=pad_id(rng, s, 1), dropout=0.0,
        attention_dropout=0.0, bos_token_id=2, eos_token_id=2)


def rope_sizes(rng, scale):
    s = writer_sizes(rng, scale, even=True)
    return s, dict(
        vocab_size=s["vocabulary"], hidden_size=s["heads"] * s["head"], num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"], num_key_value_heads=s["key_heads"], intermediate_size=s["inner"],
        max_position_embeddings=s["positions"], rms_norm_eps=pick(rng, (1e-5, 1e-6)), hidden_act="silu",
        pad_token_id=pad_id(rng, s, None), attention_dropout=0.0)


def rope(theta):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


def llama(rng, scale, tied):
    s, common = rope_sizes(rng, scale)
    theta = 100000.0 if tied else pick(rng, (10000.0, 10000.0, 500000.0))
    return s, LlamaConfig(head_dim=s["head"], tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, **rope(theta),
                          **common)


def qwen2(rng, scale):
    s, common = rope_sizes(rng, scale)
    return s, Qwen2Config(tie_word_embeddings=True, use_sliding_window=False, **rope(1000000.0), **common)


def mistral(rng, scale):
    s, common = rope_sizes(rng, scale)
    head = s["head"]
    while head == s["head"]:
        head = head_width(rng, even=True)
    common["hidden_size"] = max(WIDTH_MIN, common["hidden_size"] - pick(rng, (0, 1, 3)))
    return s, MistralConfig(head_dim=head, sliding_window=int(rng.integers(1, s["longest"] + 3)),
                            tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, **rope(10000.0), **common)


# Name: (class, kind, draws sizes and configuration, where the blocks are).
FAMILIES = {
    "bert-cls": (BertForSequenceClassification, "cls",
                 lambda rng, scale: bert(rng, scale, num_labels=pick(rng, (2, 3, 3, 5))), "bert.encoder.layer"),
    "bert-qa": (BertForQuestionAnswering, "qa", bert, "bert.encoder.layer"),
    "bert-mlm": (BertForMaskedLM, "mlm", bert, "bert.encoder.layer"),
    "distilbert-cls": (DistilBertForSequenceClassification, "cls",
                       lambda rng, scale: distilbert(rng, scale, num_labels=pick(rng, (2, 3, 3, 5))),
                       "distilbert.transformer.layer"),
    "distilbert-qa": (DistilBertForQuestionAnswering, "qa", distilbert, "distilbert.transformer.layer"),
    "gpt2-lm": (GPT2LMHeadModel, "lm", gpt2, "transformer.h"),
    "opt-lm": (OPTForCausalLM, "lm", lambda rng, scale: opt(rng, scale, True), "model.decoder.layers"),
    "opt350-lm": (OPTForCausalLM, "lm", lambda rng, scale: opt(rng, scale, False), "model.decoder.layers"),
    "llama-lm": (LlamaForCausalLM, "lm", lambda rng, scale: llama(rng, scale, False), "model.layers"),
    "llama-tied": (LlamaForCausalLM, "lm", lambda rng, scale: llama(rng, scale, True), "model.layers"),
    "qwen2-lm": (Qwen2ForCausalLM, "lm", qwen2, "model.layers"),
    "mistral-lm": (MistralForCausalLM, "lm", mistral, "model.layers"),
}
