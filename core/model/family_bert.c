/* BERT (Devlin et al. 2018) as Hugging Face stores it: post-norm encoder, erf GELU, learned positions, token
 * types; a pooler and classifier, a span head, a masked-LM head whose decoder is the token embedding.
 */
#include "model/family.h"

#define POOLS (HEAD_CLASSIFICATION | HEAD_POOLER)

static const struct family_row before[] = {
    ROW("bert.embeddings.word_embeddings", PART_TOKENS, ROW_EMBEDDING, EXTENT_VOCABULARY, EXTENT_WIDTH),
    ROW("bert.embeddings.position_embeddings", PART_POSITIONS, ROW_EMBEDDING, EXTENT_POSITIONS, EXTENT_WIDTH),
    ROW("bert.embeddings.token_type_embeddings", PART_TYPES, ROW_EMBEDDING, EXTENT_TYPES, EXTENT_WIDTH),
    ROW("bert.embeddings.LayerNorm", PART_EMBEDDING_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROWS_END,
};

#define LAYER "bert.encoder.layer.%zu."
static const struct family_row block[] = {
    ROW(LAYER "attention.self.query", PART_QUERY, ROW_LINEAR, EXTENT_ATTENTION, EXTENT_WIDTH),
    ROW(LAYER "attention.self.key", PART_KEY, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "attention.self.value", PART_VALUE, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "attention.output.dense", PART_ATTENTION_OUTPUT, ROW_LINEAR, EXTENT_WIDTH, EXTENT_ATTENTION),
    ROW(LAYER "attention.output.LayerNorm", PART_ATTENTION_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "intermediate.dense", PART_UP, ROW_LINEAR, EXTENT_FEED_FORWARD, EXTENT_WIDTH),
    ROW(LAYER "output.dense", PART_DOWN, ROW_LINEAR, EXTENT_WIDTH, EXTENT_FEED_FORWARD),
    ROW(LAYER "output.LayerNorm", PART_FEED_FORWARD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROWS_END,
};

#define TRANSFORM "cls.predictions.transform."
static const struct family_row after[] = {
    ROW("bert.pooler.dense", PART_POOLER, ROW_LINEAR, EXTENT_WIDTH, EXTENT_WIDTH, .heads = POOLS),
    ROW("classifier", PART_CLASSIFIER, ROW_LINEAR, EXTENT_CLASSES, EXTENT_WIDTH, .heads = HEAD_CLASSIFICATION),
    ROW("qa_outputs", PART_SPAN, ROW_LINEAR, EXTENT_SPAN, EXTENT_WIDTH, .heads = HEAD_SPAN),
    ROW(TRANSFORM "dense", PART_HEAD_TRANSFORM, ROW_LINEAR, EXTENT_WIDTH, EXTENT_WIDTH, .heads = HEAD_MASKED_LM),
    ROW(TRANSFORM "LayerNorm", PART_HEAD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, .heads = HEAD_MASKED_LM),
    ROW("cls.predictions.bias", PART_HEAD_BIAS, ROW_VECTOR, EXTENT_VOCABULARY, EXTENT_ONE, .heads = HEAD_MASKED_LM),
    ROWS_END,
};

/* Copies and buffers that Hugging Face files may hold beside the parameters. */
static const char *const ignored_tensors[] = {
    "embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "pooler.dense.weight",
    "pooler.dense.bias",       "cls.seq_relationship.weight",    "cls.seq_relationship.bias",    NULL,
};

static const struct tied_tensor tied[] = {
    {"cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"},
    {"cls.predictions.decoder.bias", "cls.predictions.bias"},
    {NULL, NULL},
};

static void defaults(struct model_config *config) {
    config->norm = NORM_LAYER;
    config->activation = ACTIVATION_GELU_ERF;
    config->position = POSITION_LEARNED;
    config->norm_epsilon = 1e-12f;
    config->token_types = 2;
    config->tied = config->query_bias = true;
    config->pad_id = 0;
}

static const struct config_field fields[] = {
    FIELD_MUST("hidden_act", FIELD_STATED, "gelu"),
    FIELD("hidden_size", FIELD_SIZE, width),
    FIELD("intermediate_size", FIELD_SIZE, feed_forward),
    FIELD("layer_norm_eps", FIELD_FLOAT, norm_epsilon),
    FIELD("max_position_embeddings", FIELD_SIZE, positions),
    FIELD("num_attention_heads", FIELD_SIZE, heads),
    FIELD("num_hidden_layers", FIELD_SIZE, layers),
    FIELD("pad_token_id", FIELD_ID, pad_id),
    FIELD_MUST("position_embedding_type", FIELD_FIXED, "absolute"),
    FIELD("tie_word_embeddings", FIELD_TRUTH, tied),
    FIELD("type_vocab_size", FIELD_SIZE, token_types),
    FIELD("vocab_size", FIELD_SIZE, vocabulary),
    FIELDS_END,
};

static const char *const ignored_fields[] = {
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "directionality",
    "hidden_dropout_prob",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    NULL,
};

static const struct architecture architectures[] = {
    {"BertForSequenceClassification", HEAD_CLASSIFICATION},
    {"BertForQuestionAnswering", HEAD_SPAN},
    {"BertForMaskedLM", HEAD_MASKED_LM},
    {"BertForPreTraining", HEAD_MASKED_LM},
    {"BertModel", HEAD_POOLER},
    {NULL, 0},
};

const struct family family_bert = {
    .name = "bert",
    .before = before,
    .block = block,
    .after = after,
    .prefix = "bert.",
    .ignored = ignored_tensors,
    .tied = tied,
    .fields = fields,
    .ignored_fields = ignored_fields,
    .architectures = architectures,
    .heads = HEAD_CLASSIFICATION | HEAD_MASKED_LM | HEAD_POOLER | HEAD_SPAN,
    .defaults = defaults,
    .finish = family_finish_tied,
};
