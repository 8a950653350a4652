/* OPT (Zhang et al. 2022): decoder with ReLU and learned positions whose table starts with two spare rows. Pre-norm
 * but for the 350M, which is post-norm without a final norm and has an embedding narrower than the model, projected in
 * and out.
 */
#include "model/family.h"

#define BODY "model.decoder."
static const struct family_row before[] = {
    ROW(BODY "embed_tokens", PART_TOKENS, ROW_EMBEDDING, EXTENT_VOCABULARY, EXTENT_EMBEDDING),
    ROW(BODY "embed_positions", PART_POSITIONS, ROW_EMBEDDING, EXTENT_POSITIONS, EXTENT_WIDTH),
    ROW(BODY "project_in", PART_PROJECT_IN, ROW_LINEAR_PLAIN, EXTENT_WIDTH, EXTENT_EMBEDDING, .when = WHEN_PROJECTED),
    ROWS_END,
};

#define LAYER BODY "layers.%zu."
static const struct family_row block[] = {
    ROW(LAYER "self_attn_layer_norm", PART_ATTENTION_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "self_attn.q_proj", PART_QUERY, ROW_LINEAR, EXTENT_ATTENTION, EXTENT_WIDTH),
    ROW(LAYER "self_attn.k_proj", PART_KEY, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "self_attn.v_proj", PART_VALUE, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "self_attn.out_proj", PART_ATTENTION_OUTPUT, ROW_LINEAR, EXTENT_WIDTH, EXTENT_ATTENTION),
    ROW(LAYER "final_layer_norm", PART_FEED_FORWARD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "fc1", PART_UP, ROW_LINEAR, EXTENT_FEED_FORWARD, EXTENT_WIDTH),
    ROW(LAYER "fc2", PART_DOWN, ROW_LINEAR, EXTENT_WIDTH, EXTENT_FEED_FORWARD),
    ROWS_END,
};

static const struct family_row after[] = {
    ROW(BODY "final_layer_norm", PART_FINAL_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, .when = WHEN_FINAL_NORM),
    ROW(BODY "project_out", PART_PROJECT_OUT, ROW_LINEAR_PLAIN, EXTENT_EMBEDDING, EXTENT_WIDTH, .when = WHEN_PROJECTED),
    ROW("lm_head", PART_HEAD, ROW_LINEAR_PLAIN, EXTENT_VOCABULARY, EXTENT_EMBEDDING, .heads = HEAD_CAUSAL_LM,
        .when = WHEN_UNTIED),
    ROWS_END,
};

static const char *const ignored_tensors[] = {"lm_head.weight", NULL};

static const struct tied_tensor tied[] = {{"lm_head.weight", BODY "embed_tokens.weight"}, {NULL, NULL}};

static void defaults(struct model_config *config) {
    config->norm = NORM_LAYER;
    config->norm_first = config->final_norm = config->causal = true;
    config->activation = ACTIVATION_RELU;
    config->position = POSITION_LEARNED;
    config->position_offset = 2;
    config->norm_epsilon = 1e-5f;
    config->tied = config->query_bias = true;
    config->pad_id = 1;
}

static const struct config_field fields[] = {
    FIELD("_remove_final_layer_norm", FIELD_UNTRUTH, final_norm),
    FIELD_MUST("activation_function", FIELD_STATED, "relu"),
    FIELD("do_layer_norm_before", FIELD_TRUTH, norm_first),
    FIELD_MUST("enable_bias", FIELD_FIXED, "true"),
    FIELD("ffn_dim", FIELD_SIZE, feed_forward),
    FIELD("hidden_size", FIELD_SIZE, width),
    FIELD_MUST("layer_norm_elementwise_affine", FIELD_FIXED, "true"),
    FIELD("max_position_embeddings", FIELD_SIZE, positions),
    FIELD("num_attention_heads", FIELD_SIZE, heads),
    FIELD("num_hidden_layers", FIELD_SIZE, layers),
    FIELD("pad_token_id", FIELD_ID, pad_id),
    FIELD("tie_word_embeddings", FIELD_TRUTH, tied),
    FIELD("vocab_size", FIELD_SIZE, vocabulary),
    FIELD("word_embed_proj_dim", FIELD_SIZE_OPTIONAL, embedding_width),
    FIELDS_END,
};

static const char *const ignored_fields[] = {"activation_dropout", "dropout", "init_std", "layerdrop", NULL};

static const struct architecture architectures[] = {
    {"OPTForCausalLM", HEAD_CAUSAL_LM},
    {"OPTModel", 0},
    {NULL, 0},
};

static int finish(struct model_config *config) {
    config->final_norm = config->final_norm && config->norm_first;
    return 0;
}

const struct family family_opt = {
    .name = "opt",
    .before = before,
    .block = block,
    .after = after,
    .prefix = "model.",
    .ignored = ignored_tensors,
    .tied = tied,
    .fields = fields,
    .ignored_fields = ignored_fields,
    .architectures = architectures,
    .heads = HEAD_CAUSAL_LM,
    .any_norm_place = true,
    .defaults = defaults,
    .finish = finish,
};
