/* GPT-2 (Radford et al. 2019): pre-norm decoder, tanh GELU, learned positions, tied head.
 *
 * Hugging Face stores its matrices as Conv1D does, (inputs, outputs), and query, key and value in one. Here each is
 * a linear layer of its own, so that a technique can treat them apart.
 */
#include "model/family.h"

static const struct family_row before[] = {
    ROW("transformer.wte", PART_TOKENS, ROW_EMBEDDING, EXTENT_VOCABULARY, EXTENT_WIDTH),
    ROW("transformer.wpe", PART_POSITIONS, ROW_EMBEDDING, EXTENT_POSITIONS, EXTENT_WIDTH),
    ROWS_END,
};

#define LAYER "transformer.h.%zu."
#define FUSED(SLICE) .stored = LAYER "attn.c_attn", .slice = (SLICE), .slices = 3, .transposed = true
static const struct family_row block[] = {
    ROW(LAYER "ln_1", PART_ATTENTION_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "attn.c_attn.query", PART_QUERY, ROW_LINEAR, EXTENT_ATTENTION, EXTENT_WIDTH, FUSED(0)),
    ROW(LAYER "attn.c_attn.key", PART_KEY, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH, FUSED(1)),
    ROW(LAYER "attn.c_attn.value", PART_VALUE, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH, FUSED(2)),
    ROW(LAYER "attn.c_proj", PART_ATTENTION_OUTPUT, ROW_LINEAR, EXTENT_WIDTH, EXTENT_ATTENTION, .transposed = true),
    ROW(LAYER "ln_2", PART_FEED_FORWARD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "mlp.c_fc", PART_UP, ROW_LINEAR, EXTENT_FEED_FORWARD, EXTENT_WIDTH, .transposed = true),
    ROW(LAYER "mlp.c_proj", PART_DOWN, ROW_LINEAR, EXTENT_WIDTH, EXTENT_FEED_FORWARD, .transposed = true),
    ROWS_END,
};

static const struct family_row after[] = {
    ROW("transformer.ln_f", PART_FINAL_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW("lm_head", PART_HEAD, ROW_LINEAR_PLAIN, EXTENT_VOCABULARY, EXTENT_EMBEDDING, .heads = HEAD_CAUSAL_LM,
        .when = WHEN_UNTIED),
    ROWS_END,
};

/* attn.bias and attn.masked_bias are the causal mask. */
static const char *const ignored_tensors[] = {"attn.bias", "attn.masked_bias", "lm_head.weight", NULL};

static const struct tied_tensor tied[] = {{"lm_head.weight", "transformer.wte.weight"}, {NULL, NULL}};

static void defaults(struct model_config *config) {
    config->norm = NORM_LAYER;
    config->norm_first = config->final_norm = config->causal = true;
    config->activation = ACTIVATION_GELU_TANH;
    config->position = POSITION_LEARNED;
    config->norm_epsilon = 1e-5f;
    config->tied = config->query_bias = true;
    config->pad_id = -1;
}

static const struct config_field fields[] = {
    FIELD_MUST("activation_function", FIELD_STATED, "gelu_new|gelu_pytorch_tanh|gelu_fast"),
    FIELD("layer_norm_epsilon", FIELD_FLOAT, norm_epsilon),
    FIELD("n_embd", FIELD_SIZE, width),
    FIELD("n_head", FIELD_SIZE, heads),
    FIELD("n_inner", FIELD_SIZE_OPTIONAL, feed_forward),
    FIELD("n_layer", FIELD_SIZE, layers),
    FIELD("n_positions", FIELD_SIZE, positions),
    FIELD_MUST("n_special", FIELD_FIXED, "0"),
    FIELD_MUST("reorder_and_upcast_attn", FIELD_FIXED, "false"),
    FIELD_MUST("scale_attn_by_inverse_layer_idx", FIELD_FIXED, "false"),
    FIELD_MUST("scale_attn_weights", FIELD_FIXED, "true"),
    FIELD("tie_word_embeddings", FIELD_TRUTH, tied),
    FIELD("vocab_size", FIELD_SIZE, vocabulary),
    FIELDS_END,
};

/* The padding token is an ordinary row here: transformers gives the embedding no padding index. */
static const char *const ignored_fields[] = {
    "attn_pdrop",
    "embd_pdrop",
    "n_ctx",
    "pad_token_id",
    "predict_special_tokens",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    NULL,
};

static const struct architecture architectures[] = {
    {"GPT2LMHeadModel", HEAD_CAUSAL_LM},
    {"GPT2Model", 0},
    {NULL, 0},
};

static int finish(struct model_config *config) {
    if (!config->feed_forward) config->feed_forward = 4 * config->width;
    return 0;
}

const struct family family_gpt2 = {
    .name = "gpt2",
    .before = before,
    .block = block,
    .after = after,
    .prefix = "transformer.",
    .ignored = ignored_tensors,
    .tied = tied,
    .fields = fields,
    .ignored_fields = ignored_fields,
    .architectures = architectures,
    .heads = HEAD_CAUSAL_LM,
    .defaults = defaults,
    .finish = finish,
};
