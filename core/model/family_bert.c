/* BERT (Devlin et al. 2018) as Hugging Face stores it: post-norm encoder, erf GELU, learned positions, token
 * types; a pooler and classifier, a masked-LM head whose decoder is the token embedding.
 *
 * config.json is read strictly: transformers 4 and 5 spellings of the fields that change nothing are ignored by
 * name, fields that would change the arithmetic must have the value that is built, and any other field is
 * refused by name, because ignoring what one does not understand gives wrong numbers with no error.
 */
#include "model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define CLASSIFIES (HEAD_CLASSIFICATION)
#define POOLS (HEAD_CLASSIFICATION | HEAD_POOLER)

static const struct family_row before[] = {
    {"bert.embeddings.word_embeddings", PART_TOKENS, ROW_EMBEDDING, EXTENT_VOCABULARY, EXTENT_WIDTH, 0},
    {"bert.embeddings.position_embeddings", PART_POSITIONS, ROW_EMBEDDING, EXTENT_POSITIONS, EXTENT_WIDTH, 0},
    {"bert.embeddings.token_type_embeddings", PART_TYPES, ROW_EMBEDDING, EXTENT_TYPES, EXTENT_WIDTH, 0},
    {"bert.embeddings.LayerNorm", PART_EMBEDDING_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, 0},
    {NULL, PARTS, ROW_VECTOR, EXTENT_ONE, EXTENT_ONE, 0},
};

#define LAYER "bert.encoder.layer.%zu."
static const struct family_row block[] = {
    {LAYER "attention.self.query", PART_QUERY, ROW_LINEAR, EXTENT_ATTENTION, EXTENT_WIDTH, 0},
    {LAYER "attention.self.key", PART_KEY, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH, 0},
    {LAYER "attention.self.value", PART_VALUE, ROW_LINEAR, EXTENT_KEY_VALUE, EXTENT_WIDTH, 0},
    {LAYER "attention.output.dense", PART_ATTENTION_OUTPUT, ROW_LINEAR, EXTENT_WIDTH, EXTENT_ATTENTION, 0},
    {LAYER "attention.output.LayerNorm", PART_ATTENTION_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, 0},
    {LAYER "intermediate.dense", PART_UP, ROW_LINEAR, EXTENT_FEED_FORWARD, EXTENT_WIDTH, 0},
    {LAYER "output.dense", PART_DOWN, ROW_LINEAR, EXTENT_WIDTH, EXTENT_FEED_FORWARD, 0},
    {LAYER "output.LayerNorm", PART_FEED_FORWARD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, 0},
    {NULL, PARTS, ROW_VECTOR, EXTENT_ONE, EXTENT_ONE, 0},
};

static const struct family_row after[] = {
    {"bert.pooler.dense", PART_POOLER, ROW_LINEAR, EXTENT_WIDTH, EXTENT_WIDTH, POOLS},
    {"classifier", PART_CLASSIFIER, ROW_LINEAR, EXTENT_CLASSES, EXTENT_WIDTH, CLASSIFIES},
    {"cls.predictions.transform.dense", PART_HEAD_TRANSFORM, ROW_LINEAR, EXTENT_WIDTH, EXTENT_WIDTH, HEAD_MASKED_LM},
    {"cls.predictions.transform.LayerNorm", PART_HEAD_NORM, ROW_NORM, EXTENT_WIDTH, EXTENT_ONE, HEAD_MASKED_LM},
    {"cls.predictions.bias", PART_HEAD_BIAS, ROW_VECTOR, EXTENT_VOCABULARY, EXTENT_ONE, HEAD_MASKED_LM},
    {NULL, PARTS, ROW_VECTOR, EXTENT_ONE, EXTENT_ONE, 0},
};

/* Copies and buffers that Hugging Face files may hold beside the parameters. */
static const char *const ignored_tensors[] = {
    "embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "pooler.dense.weight",
    "pooler.dense.bias",       "cls.seq_relationship.weight",    "cls.seq_relationship.bias",    NULL,
};

static void defaults(struct model_config *config) {
    config->norm = NORM_LAYER;
    config->norm_first = false;
    config->causal = false;
    config->activation = ACTIVATION_GELU_ERF;
    config->position = POSITION_LEARNED;
    config->norm_epsilon = 1e-12f;
    config->token_types = 2;
    config->pad_id = 0;
}

/* Fields that are sizes. */
static const struct {
    const char *name;
    size_t offset;
} sizes[] = {
    {"hidden_size", offsetof(struct model_config, width)},
    {"intermediate_size", offsetof(struct model_config, feed_forward)},
    {"max_position_embeddings", offsetof(struct model_config, positions)},
    {"num_attention_heads", offsetof(struct model_config, heads)},
    {"num_hidden_layers", offsetof(struct model_config, layers)},
    {"type_vocab_size", offsetof(struct model_config, token_types)},
    {"vocab_size", offsetof(struct model_config, vocabulary)},
};

/* Fields that would change the arithmetic: the one value that is built. */
static const struct {
    const char *name, *value;
} fixed[] = {
    {"add_cross_attention", "false"},
    {"chunk_size_feed_forward", "0"},
    {"cross_attention_hidden_size", "null"},
    {"hidden_act", "gelu"},
    {"is_decoder", "false"},
    {"is_encoder_decoder", "false"},
    {"position_embedding_type", "absolute"},
    {"pruned_heads", "{}"},
    {"tie_encoder_decoder", "false"},
    {"tie_word_embeddings", "true"},
};

/* Fields that say nothing about inference. */
static const char *const ignored_fields[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "_num_labels",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "directionality",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "initializer_range",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    NULL,
};

static const struct {
    const char *name;
    unsigned heads;
} architectures[] = {
    {"BertForSequenceClassification", HEAD_CLASSIFICATION},
    {"BertForMaskedLM", HEAD_MASKED_LM},
    {"BertForPreTraining", HEAD_MASKED_LM},
    {"BertModel", HEAD_POOLER},
};

static const char *value_text(const struct json *node) {
    switch (node->type) {
    case JSON_NULL: return "null";
    case JSON_FALSE: return "false";
    case JSON_TRUE: return "true";
    case JSON_ARRAY: return node->count ? "[…]" : "[]";
    case JSON_OBJECT: return node->count ? "{…}" : "{}";
    default: return node->text;
    }
}

static int parse_architectures(struct model_config *config, const struct json *node) {
    int status = 0;
    if (node->type == JSON_NULL) goto out;
    if (node->type != JSON_ARRAY) FAIL(E_FORMAT, "architectures must be a list of names");
    for (const struct json *item = node->child; item; item = item->next) {
        const char *name;
        size_t i = 0, count = sizeof architectures / sizeof architectures[0];
        TRY(json_text(item, "architectures", &name));
        while (i < count && strcmp(architectures[i].name, name) != 0) i++;
        if (i == count) FAIL(E_UNSUPPORTED, "architectures: \"%.60s\" is not supported", name);
        config->model_heads |= architectures[i].heads;
    }
out:
    return status;
}

static int parse_field(struct model_config *config, const struct json *field, size_t *labels) {
    int status = 0;
    uint64_t number;

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (strcmp(field->key, sizes[i].name) == 0) {
            TRY(json_u64(field, sizes[i].name, &number));
            *(size_t *)(void *)((char *)config + sizes[i].offset) = (size_t)number;
            goto out;
        }
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (strcmp(field->key, fixed[i].name) == 0) {
            if (strcmp(value_text(field), fixed[i].value) != 0)
                FAIL(E_UNSUPPORTED, "%s %.40s is not supported (only %s)", fixed[i].name, value_text(field),
                     fixed[i].value);
            goto out;
        }
    if (strcmp(field->key, "architectures") == 0) {
        TRY(parse_architectures(config, field));
    } else if (strcmp(field->key, "id2label") == 0) {
        if (field->type != JSON_OBJECT) FAIL(E_FORMAT, "id2label must be an object");
        *labels = field->count;
    } else if (strcmp(field->key, "num_labels") == 0) {
        TRY(json_u64(field, "num_labels", &number));
        config->classes = (size_t)number;
    } else if (strcmp(field->key, "layer_norm_eps") == 0) {
        double epsilon;
        TRY(json_number(field, "layer_norm_eps", &epsilon));
        config->norm_epsilon = (float)epsilon;
    } else if (strcmp(field->key, "pad_token_id") == 0) {
        config->pad_id = -1;
        if (field->type != JSON_NULL) {
            TRY(json_u64(field, "pad_token_id", &number));
            if (number > INT32_MAX) FAIL(E_FORMAT, "pad_token_id is too large");
            config->pad_id = (int32_t)number;
        }
    } else {
        size_t i = 0;
        while (ignored_fields[i] && strcmp(ignored_fields[i], field->key) != 0) i++;
        if (!ignored_fields[i]) FAIL(E_UNSUPPORTED, "field \"%.60s\" is not supported in a bert model", field->key);
    }
out:
    return status;
}

static int parse(struct model_config *config, const struct json *root) {
    int status = 0;
    size_t labels = 0;

    for (const struct json *field = root->child; field; field = field->next) TRY(parse_field(config, field, &labels));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (*(const size_t *)(const void *)((const char *)config + sizes[i].offset) == 0)
            FAIL(E_FORMAT, "field \"%s\" is missing or 0", sizes[i].name);
    if (labels && config->classes && labels != config->classes)
        FAIL(E_SHAPE, "id2label has %zu entries but num_labels is %zu", labels, config->classes);
    if (labels) config->classes = labels;
    if (!config->classes && (config->model_heads & HEAD_CLASSIFICATION))
        config->classes = 2; /* transformers' default */
    if (config->heads > config->width || config->width % config->heads)
        FAIL(E_SHAPE, "hidden_size %zu is not a multiple of num_attention_heads %zu", config->width, config->heads);
    config->head_width = config->width / config->heads;
    config->key_value_heads = config->heads;
out:
    return status;
}

/* The shortest decimal that reads back as the same float. */
static void print_float(struct json_writer *writer, float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    json_raw(writer, text);
}

static int print(const struct model_config *config, struct json_writer *writer) {
    const char *separator = "";
    json_raw(writer, "{\n  \"architectures\": [");
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
        if (!(config->model_heads & architectures[i].heads)) continue;
        if (strcmp(architectures[i].name, "BertForPreTraining") == 0) continue;
        json_raw(writer, separator);
        json_quoted(writer, architectures[i].name);
        separator = ", ";
    }
    json_raw(writer, "],\n  \"hidden_act\": \"gelu\",\n");
    json_format(writer, "  \"hidden_size\": %zu,\n", config->width);
    if (config->classes) {
        json_raw(writer, "  \"id2label\": {");
        for (size_t i = 0; i < config->classes; i++)
            json_format(writer, "%s\"%zu\": \"LABEL_%zu\"", i ? ", " : "", i, i);
        json_raw(writer, "},\n");
    }
    json_format(writer, "  \"intermediate_size\": %zu,\n", config->feed_forward);
    if (config->classes) {
        json_raw(writer, "  \"label2id\": {");
        for (size_t i = 0; i < config->classes; i++) json_format(writer, "%s\"LABEL_%zu\": %zu", i ? ", " : "", i, i);
        json_raw(writer, "},\n");
    }
    json_raw(writer, "  \"layer_norm_eps\": ");
    print_float(writer, config->norm_epsilon);
    json_format(writer, ",\n  \"max_position_embeddings\": %zu,\n  \"model_type\": \"bert\",\n", config->positions);
    json_format(writer, "  \"num_attention_heads\": %zu,\n  \"num_hidden_layers\": %zu,\n", config->heads,
                config->layers);
    if (config->pad_id >= 0) json_format(writer, "  \"pad_token_id\": %d,\n", config->pad_id);
    else json_raw(writer, "  \"pad_token_id\": null,\n");
    json_format(writer, "  \"tie_word_embeddings\": true,\n  \"type_vocab_size\": %zu,\n  \"vocab_size\": %zu\n}\n",
                config->token_types, config->vocabulary);
    return writer->status;
}

const struct family family_bert = {
    .name = "bert",
    .before = before,
    .block = block,
    .after = after,
    .prefix = "bert.",
    .ignored = ignored_tensors,
    .defaults = defaults,
    .parse = parse,
    .print = print,
};
