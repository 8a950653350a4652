/* Llama (Touvron et al. 2023): pre-norm decoder with RMSNorm, SwiGLU, rotary positions and grouped queries, no
 * biases; the head tied or not. Frequencies of rotary positions may be scaled (struct rotary_scaling). Qwen2 and
 * Mistral have the same layers and share the tables.
 */
#include "model/family.h"

const struct family_row llama_before[] = {
    ROW("model.embed_tokens", PART_TOKENS, ROW_EMBEDDING, EXTENT_VOCABULARY, EXTENT_WIDTH),
    ROWS_END,
};

#define LAYER "model.layers.%zu."
const struct family_row llama_block[] = {
    ROW(LAYER "input_layernorm", PART_ATTENTION_NORM, ROW_GAIN, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "self_attn.q_proj", PART_QUERY, ROW_LINEAR_QUERY, EXTENT_ATTENTION, EXTENT_WIDTH),
    ROW(LAYER "self_attn.k_proj", PART_KEY, ROW_LINEAR_QUERY, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "self_attn.v_proj", PART_VALUE, ROW_LINEAR_QUERY, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "self_attn.o_proj", PART_ATTENTION_OUTPUT, ROW_LINEAR_PLAIN, EXTENT_WIDTH, EXTENT_ATTENTION),
    ROW(LAYER "post_attention_layernorm", PART_FEED_FORWARD_NORM, ROW_GAIN, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "mlp.gate_proj", PART_GATE, ROW_LINEAR_PLAIN, EXTENT_FEED_FORWARD, EXTENT_WIDTH),
    ROW(LAYER "mlp.up_proj", PART_UP, ROW_LINEAR_PLAIN, EXTENT_FEED_FORWARD, EXTENT_WIDTH),
    ROW(LAYER "mlp.down_proj", PART_DOWN, ROW_LINEAR_PLAIN, EXTENT_WIDTH, EXTENT_FEED_FORWARD),
    ROWS_END,
};

const struct family_row llama_after[] = {
    ROW("model.norm", PART_FINAL_NORM, ROW_GAIN, EXTENT_WIDTH, EXTENT_ONE),
    ROW("lm_head", PART_HEAD, ROW_LINEAR_PLAIN, EXTENT_VOCABULARY, EXTENT_WIDTH, .heads = HEAD_CAUSAL_LM,
        .when = WHEN_UNTIED),
    ROWS_END,
};

const char *const llama_ignored[] = {"rotary_emb.inv_freq", "lm_head.weight", NULL};

const struct tied_tensor llama_tied[] = {{"lm_head.weight", "model.embed_tokens.weight"}, {NULL, NULL}};

void llama_defaults(struct model_config *config) {
    config->norm = NORM_RMS;
    config->norm_first = config->final_norm = config->causal = true;
    config->activation = ACTIVATION_SILU_GATED;
    config->position = POSITION_ROTARY;
    config->norm_epsilon = 1e-6f;
    config->rotary_base = 10000;
    config->pad_id = -1;
}

static const struct config_field fields[] = {
    FIELD_MUST("attention_bias", FIELD_FIXED, "false"),
    FIELD("head_dim", FIELD_SIZE_OPTIONAL, head_width),
    FIELD_MUST("hidden_act", FIELD_STATED, "silu"),
    FIELD("hidden_size", FIELD_SIZE, width),
    FIELD("intermediate_size", FIELD_SIZE, feed_forward),
    FIELD("max_position_embeddings", FIELD_SIZE, positions),
    FIELD_MUST("mlp_bias", FIELD_FIXED, "false"),
    FIELD("num_attention_heads", FIELD_SIZE, heads),
    FIELD("num_hidden_layers", FIELD_SIZE, layers),
    FIELD("num_key_value_heads", FIELD_SIZE_OPTIONAL, key_value_heads),
    FIELD("pad_token_id", FIELD_ID, pad_id),
    FIELD_MUST("pretraining_tp", FIELD_FIXED, "1"),
    FIELD("rms_norm_eps", FIELD_FLOAT, norm_epsilon),
    FIELD_MUST("rope_interleaved", FIELD_FIXED, "false"), /* of SmolLM2's files */
    FIELD("tie_word_embeddings", FIELD_TRUTH, tied),
    FIELD("vocab_size", FIELD_SIZE, vocabulary),
    FIELDS_END,
};

static const char *const ignored_fields[] = {"is_llama_config", "max_sequence_length", NULL};

static const struct architecture architectures[] = {
    {"LlamaForCausalLM", HEAD_CAUSAL_LM},
    {"LlamaModel", 0},
    {NULL, 0},
};

const struct family family_llama = {
    .name = "llama",
    .before = llama_before,
    .block = llama_block,
    .after = llama_after,
    .prefix = "model.",
    .ignored = llama_ignored,
    .tied = llama_tied,
    .fields = fields,
    .ignored_fields = ignored_fields,
    .architectures = architectures,
    .heads = HEAD_CAUSAL_LM,
    .free_head_width = true,
    .defaults = llama_defaults,
};
