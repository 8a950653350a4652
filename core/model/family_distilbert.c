/* DistilBERT (Sanh et al. 2019): BERT without token types and pooler; its classifier has a hidden layer with ReLU,
 * which takes the pooler's part.
 */
#include "model/family.h"

static const struct family_row before[] = {
    ROW("distilbert.embeddings.word_embeddings", PART_TOKENS, ROW_EMBEDDING, EXTENT_VOCABULARY, EXTENT_WIDTH),
    ROW("distilbert.embeddings.position_embeddings", PART_POSITIONS, ROW_EMBEDDING, EXTENT_POSITIONS, EXTENT_WIDTH),
    ROW("distilbert.embeddings.LayerNorm", PART_EMBEDDING_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROWS_END,
};

#define LAYER "distilbert.transformer.layer.%zu."
static const struct family_row block[] = {
    ROW(LAYER "attention.q_lin", PART_QUERY, ROW_LINEAR, EXTENT_ATTENTION, EXTENT_WIDTH),
    ROW(LAYER "attention.k_lin", PART_KEY, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "attention.v_lin", PART_VALUE, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH),
    ROW(LAYER "attention.out_lin", PART_ATTENTION_OUTPUT, ROW_LINEAR, EXTENT_WIDTH, EXTENT_ATTENTION),
    ROW(LAYER "sa_layer_norm", PART_ATTENTION_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROW(LAYER "ffn.lin1", PART_UP, ROW_LINEAR, EXTENT_FEED_FORWARD, EXTENT_WIDTH),
    ROW(LAYER "ffn.lin2", PART_DOWN, ROW_LINEAR, EXTENT_WIDTH, EXTENT_FEED_FORWARD),
    ROW(LAYER "output_layer_norm", PART_FEED_FORWARD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE),
    ROWS_END,
};

static const struct family_row after[] = {
    ROW("pre_classifier", PART_POOLER, ROW_LINEAR, EXTENT_WIDTH, EXTENT_WIDTH, .heads = HEAD_CLASSIFICATION),
    ROW("classifier", PART_CLASSIFIER, ROW_LINEAR, EXTENT_CLASSES, EXTENT_WIDTH, .heads = HEAD_CLASSIFICATION),
    ROW("qa_outputs", PART_SPAN, ROW_LINEAR, EXTENT_SPAN, EXTENT_WIDTH, .heads = HEAD_SPAN),
    ROW("vocab_transform", PART_HEAD_TRANSFORM, ROW_LINEAR, EXTENT_WIDTH, EXTENT_WIDTH, .heads = HEAD_MASKED_LM),
    ROW("vocab_layer_norm", PART_HEAD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, .heads = HEAD_MASKED_LM),
    ROW("vocab_projector.bias", PART_HEAD_BIAS, ROW_VECTOR, EXTENT_VOCABULARY, EXTENT_ONE, .heads = HEAD_MASKED_LM),
    ROWS_END,
};

static const char *const ignored_tensors[] = {"embeddings.position_ids", "vocab_projector.weight", NULL};

static const struct tied_tensor tied[] = {
    {"vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"},
    {NULL, NULL},
};

static void defaults(struct model_config *config) {
    config->norm = NORM_LAYER;
    config->activation = ACTIVATION_GELU_ERF;
    config->position = POSITION_LEARNED;
    config->norm_epsilon = 1e-12f;
    config->tied = config->query_bias = true;
    config->pad_id = 0;
}

static const struct config_field fields[] = {
    FIELD_MUST("activation", FIELD_STATED, "gelu"),
    FIELD("dim", FIELD_SIZE, width),
    FIELD("hidden_dim", FIELD_SIZE, feed_forward),
    FIELD("max_position_embeddings", FIELD_SIZE, positions),
    FIELD("n_heads", FIELD_SIZE, heads),
    FIELD("n_layers", FIELD_SIZE, layers),
    FIELD("pad_token_id", FIELD_ID, pad_id),
    FIELD_MUST("tie_weights_", FIELD_FIXED, "true"),
    FIELD("tie_word_embeddings", FIELD_TRUTH, tied),
    FIELD("vocab_size", FIELD_SIZE, vocabulary),
    FIELDS_END,
};

/* sinusoidal_pos_embds only says how the table was filled. */
static const char *const ignored_fields[] = {
    "dropout", "qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", NULL,
};

static const struct architecture architectures[] = {
    {"DistilBertForSequenceClassification", HEAD_CLASSIFICATION},
    {"DistilBertForQuestionAnswering", HEAD_SPAN},
    {"DistilBertForMaskedLM", HEAD_MASKED_LM},
    {"DistilBertModel", 0},
    {NULL, 0},
};

const struct family family_distilbert = {
    .name = "distilbert",
    .before = before,
    .block = block,
    .after = after,
    .prefix = "distilbert.",
    .ignored = ignored_tensors,
    .tied = tied,
    .fields = fields,
    .ignored_fields = ignored_fields,
    .architectures = architectures,
    .heads = HEAD_CLASSIFICATION | HEAD_MASKED_LM | HEAD_SPAN,
    .pooler_relu = true,
    .defaults = defaults,
    .finish = family_finish_tied,
};
