/* Mistral (Jiang et al. 2023): Llama with a sliding window. */
#include "model/family.h"

static void defaults(struct model_config *config) {
    llama_defaults(config);
    config->window = 4096;
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
    FIELD("rms_norm_eps", FIELD_FLOAT, norm_epsilon),
    FIELD("sliding_window", FIELD_SIZE_OPTIONAL, window),
    FIELD("tie_word_embeddings", FIELD_TRUTH, tied),
    FIELD("vocab_size", FIELD_SIZE, vocabulary),
    FIELDS_END,
};

static const char *const ignored_fields[] = {NULL};

static const struct architecture architectures[] = {
    {"MistralForCausalLM", HEAD_CAUSAL_LM},
    {"MistralModel", 0},
    {NULL, 0},
};

const struct family family_mistral = {
    .name = "mistral",
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
    .defaults = defaults,
};
