/* config.json by a family's tables, both ways.
 *
 * A config is read strictly: transformers 4 and 5 spellings of the fields that change nothing are ignored by name,
 * fields that would change the arithmetic must have the value that is built, and any other field is refused by name,
 * because ignoring what one does not understand gives wrong numbers with no error. What is printed holds both
 * spellings of the rotary base, so that either version of transformers reads it.
 */
#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Fields of every family that would change the arithmetic. */
static const struct config_field common_fields[] = {
    FIELD_MUST("add_cross_attention", FIELD_FIXED, "false"),
    FIELD_MUST("cross_attention_hidden_size", FIELD_FIXED, "null"),
    FIELD_MUST("is_decoder", FIELD_FIXED, "false"),
    FIELD_MUST("is_encoder_decoder", FIELD_FIXED, "false"),
    FIELD_MUST("pruned_heads", FIELD_FIXED, "{}|null"),
    FIELD_MUST("quantization_config", FIELD_FIXED, "null"),
    FIELD_MUST("tie_encoder_decoder", FIELD_FIXED, "false"),
    FIELDS_END,
};

/* Fields of every family that say nothing about inference: bookkeeping, defaults of generation, and how much of a
 * feed-forward layer is computed at a time. */
static const char *const common_ignored[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "_num_labels",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "eos_token_ids",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "language",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "model_type",
    "name",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "xla_device",
    NULL,
};

/* Who may say the rotary base. */
enum { ROTARY_THETA, ROTARY_SCALING, ROTARY_PARAMETERS, ROTARY_PLACES };
static const char *const rotary_names[ROTARY_PLACES] = {"rope_theta", "rope_scaling.rope_theta",
                                                        "rope_parameters.rope_theta"};

/* How frequencies are scaled: linear takes the first alone, llama3 all. */
enum { ROTARY_FACTOR, ROTARY_LOW, ROTARY_HIGH, ROTARY_ORIGINAL, ROTARY_NUMBERS };
static const char *const rotary_number_names[ROTARY_NUMBERS] = {"factor", "low_freq_factor", "high_freq_factor",
                                                                "original_max_position_embeddings"};

/* What a config says beside its own fields. */
struct reading {
    const struct family *family;
    struct model_config *config;
    size_t labels;                /* entries of id2label */
    double rotary[ROTARY_PLACES]; /* the base, by who says it; 0: not said */
    bool scaled;                  /* rope_scaling says something */
    struct rotary_saying {
        const char *type;               /* NULL: nothing said */
        double numbers[ROTARY_NUMBERS]; /* 0: not said */
    } sayings[ROTARY_PLACES];           /* of scaled frequencies */
    size_t layer_types, sliding, full;  /* items of layer_types */
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

/* Whether the node holds one of the values between bars; numbers compare as numbers. */
static bool value_matches(const struct json *node, const char *values) {
    const char *text = value_text(node);
    while (*values) {
        size_t length = strcspn(values, "|");
        bool number = node->type == JSON_NUMBER && *values >= '0' && *values <= '9';
        if (number && strtod(text, NULL) == strtod(values, NULL)) return true;
        if (strlen(text) == length && memcmp(text, values, length) == 0) return true;
        values += length + (values[length] == '|');
    }
    return false;
}

static int must_match(const struct json *node, const char *name, const char *values) {
    if (value_matches(node, values)) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "%s %.40s is not supported (only %.*s)", name,
                        value_text(node), (int)strcspn(values, "|"), values);
}

static void architectures_text(const struct family *family, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (const struct architecture *item = family->architectures; item->name && used < size; item++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", item->name);
}

static int parse_architectures(const struct reading *reading, const struct json *node) {
    int status = 0;
    char known[160];
    if (node->type == JSON_NULL) goto out;
    if (node->type != JSON_ARRAY) FAIL(E_FORMAT, "architectures must be a list of names");
    for (const struct json *item = node->child; item; item = item->next) {
        const char *name;
        const struct architecture *architecture = reading->family->architectures;
        TRY(json_text(item, "architectures", &name));
        while (architecture->name && strcmp(architecture->name, name) != 0) architecture++;
        if (!architecture->name) {
            architectures_text(reading->family, known, sizeof known);
            FAIL(E_UNSUPPORTED, "architectures: \"%.60s\" is not supported (only %s)", name, known);
        }
        reading->config->model_heads |= architecture->heads;
    }
out:
    return status;
}

/* null: none, -1. A negative id counts from the end of the vocabulary, as torch takes it; until that is known it is
 * kept one lower. */
static int parse_id(const struct json *node, const char *name, int32_t *id) {
    int status = 0;
    double number = 0;
    *id = -1;
    if (node->type == JSON_NULL) goto out;
    TRY(json_number(node, name, &number));
    if (number != floor(number) || number > INT32_MAX || number <= INT32_MIN)
        FAIL(E_FORMAT, "%s must be a whole number of 32 bits", name);
    *id = number < 0 ? (int32_t)number - 1 : (int32_t)number;
out:
    return status;
}

static int parse_field(const struct config_field *field, struct model_config *config, const struct json *node) {
    int status = 0;
    char *at = (char *)config + field->offset;
    uint64_t number;
    double real;

    switch (field->kind) {
    case FIELD_SIZE:
    case FIELD_SIZE_OPTIONAL:
        number = 0;
        if (field->kind == FIELD_SIZE || node->type != JSON_NULL) TRY(json_u64(node, field->name, &number));
        if (field->kind == FIELD_SIZE_OPTIONAL && node->type != JSON_NULL && number == 0)
            FAIL(E_FORMAT, "%s 0 is not supported (1 or more, or null)", field->name);
        *(size_t *)(void *)at = (size_t)number;
        break;
    case FIELD_FLOAT:
        TRY(json_number(node, field->name, &real));
        *(float *)(void *)at = (float)real;
        break;
    case FIELD_TRUTH:
    case FIELD_UNTRUTH:
        if (node->type != JSON_TRUE && node->type != JSON_FALSE)
            FAIL(E_FORMAT, "%s must be true or false", field->name);
        *(bool *)(void *)at = (node->type == JSON_TRUE) == (field->kind == FIELD_TRUTH);
        break;
    case FIELD_ID: TRY(parse_id(node, field->name, (int32_t *)(void *)at)); break;
    case FIELD_FIXED:
    case FIELD_STATED: TRY(must_match(node, field->name, field->value)); break;
    }
out:
    return status;
}

static int parse_base(struct reading *reading, int place, const struct json *node) {
    int status = 0;
    double base;
    TRY(json_number(node, rotary_names[place], &base));
    if (!(base >= 1 && base <= 1e12)) FAIL(E_FORMAT, "%s must be in 1..1e12 (got %g)", rotary_names[place], base);
    reading->rotary[place] = base;
out:
    return status;
}

/* The place of a number of scaled frequencies, or ROTARY_NUMBERS. */
static size_t rotary_number(const char *key) {
    size_t i = 0;
    while (i < ROTARY_NUMBERS && strcmp(rotary_number_names[i], key) != 0) i++;
    return i;
}

/* rope_parameters of transformers 5: {"rope_theta": …, "rope_type": "default"}; rope_scaling of 4: null or as much. */
static int parse_rotary(struct reading *reading, const struct json *node) {
    int status = 0, place = strcmp(node->key, "rope_scaling") == 0 ? ROTARY_SCALING : ROTARY_PARAMETERS;
    size_t number;
    if (strcmp(node->key, "rope_theta") == 0) {
        TRY(parse_base(reading, ROTARY_THETA, node));
        goto out;
    }
    if (node->type == JSON_NULL) goto out;
    if (node->type != JSON_OBJECT) FAIL(E_FORMAT, "%s must be an object or null", node->key);
    reading->scaled = reading->scaled || (place == ROTARY_SCALING && node->count > 0);
    for (const struct json *field = node->child; field; field = field->next) {
        if (strcmp(field->key, "rope_theta") == 0) TRY(parse_base(reading, place, field));
        else if (strcmp(field->key, "rope_type") == 0 || strcmp(field->key, "type") == 0) {
            if (!value_matches(field, "default|linear|llama3"))
                FAIL(E_UNSUPPORTED, "%s.%s %.40s is not supported (only default, linear and llama3)", node->key,
                     field->key, value_text(field));
            if (reading->sayings[place].type && !value_matches(field, reading->sayings[place].type))
                FAIL(E_FORMAT, "%s says both %s and %s", node->key, reading->sayings[place].type, value_text(field));
            reading->sayings[place].type = value_text(field);
        } else if ((number = rotary_number(field->key)) < ROTARY_NUMBERS) {
            TRY(json_number(field, field->key, &reading->sayings[place].numbers[number]));
            if (!(reading->sayings[place].numbers[number] > 0))
                FAIL(E_FORMAT, "%s.%s must be above 0", node->key, field->key);
        } else if (strcmp(field->key, "partial_rotary_factor") == 0) {
            TRY(must_match(field, "partial_rotary_factor", "1"));
        } else {
            FAIL(E_UNSUPPORTED, "%s.%.40s is not supported", node->key, field->key);
        }
    }
out:
    return status;
}

static int parse_layer_types(struct reading *reading, const struct json *node) {
    int status = 0;
    if (node->type == JSON_NULL) goto out;
    if (node->type != JSON_ARRAY) FAIL(E_FORMAT, "layer_types must be a list of names");
    for (const struct json *item = node->child; item; item = item->next) {
        reading->layer_types++;
        if (value_matches(item, "full_attention")) reading->full++;
        else if (value_matches(item, "sliding_attention")) reading->sliding++;
        else FAIL(E_UNSUPPORTED, "layer_types: \"%.40s\" is not supported", value_text(item));
    }
out:
    return status;
}

static const struct config_field *field_find(const struct config_field *field, const char *name) {
    while (field->name && strcmp(field->name, name) != 0) field++;
    return field->name ? field : NULL;
}

static bool name_listed(const char *const *names, const char *name) {
    while (*names && strcmp(*names, name) != 0) names++;
    return *names != NULL;
}

static int parse_member(struct reading *reading, const struct json *node) {
    int status = 0;
    const struct family *family = reading->family;
    const struct config_field *field = field_find(family->fields, node->key);
    bool rotary = reading->config->position == POSITION_ROTARY;
    uint64_t number;

    if (!field && !(reading->config->causal && strcmp(node->key, "is_decoder") == 0))
        field = field_find(common_fields, node->key);
    if (field) {
        TRY(parse_field(field, reading->config, node));
    } else if (strcmp(node->key, "architectures") == 0) {
        TRY(parse_architectures(reading, node));
    } else if (rotary && (strcmp(node->key, "rope_theta") == 0 || strcmp(node->key, "rope_scaling") == 0 ||
                          strcmp(node->key, "rope_parameters") == 0)) {
        TRY(parse_rotary(reading, node));
    } else if (rotary && strcmp(node->key, "partial_rotary_factor") == 0) {
        TRY(must_match(node, "partial_rotary_factor", "1"));
    } else if (family->heads & HEAD_CAUSAL_LM && strcmp(node->key, "layer_types") == 0) {
        TRY(parse_layer_types(reading, node));
    } else if (strcmp(node->key, "pooling_mode") == 0) { /* ours: sentence-transformers has it in another file */
        TRY(pooling_parse(node, &reading->config->pooling));
    } else if (strcmp(node->key, "id2label") == 0) {
        if (node->type != JSON_OBJECT && node->type != JSON_NULL) FAIL(E_FORMAT, "id2label must be an object");
        if (family->heads & HEAD_CLASSIFICATION) reading->labels = node->count;
    } else if (strcmp(node->key, "num_labels") == 0) {
        TRY(json_u64(node, "num_labels", &number));
        if (family->heads & HEAD_CLASSIFICATION) reading->config->classes = (size_t)number;
    } else if (reading->config->causal && strcmp(node->key, "is_decoder") == 0) {
        ; /* it would give an encoder a causal mask */
    } else if (!name_listed(family->ignored_fields, node->key) && !name_listed(common_ignored, node->key)) {
        FAIL(E_UNSUPPORTED, "field \"%.60s\" is not supported in a %s model", node->key, family->name);
    }
out:
    return status;
}

/* Everybody who says a base must say the same. rope_scaling stands in the place of rope_parameters: where it has no
 * base, that of rope_parameters does not count. */
static int finish_rotary(const struct reading *reading) {
    int status = 0, found = -1;
    for (int place = 0; place < ROTARY_PLACES; place++) {
        if (reading->rotary[place] == 0) continue;
        if (found >= 0 && reading->rotary[found] != reading->rotary[place])
            FAIL(E_FORMAT, "%s is %g but %s is %g", rotary_names[found], reading->rotary[found], rotary_names[place],
                 reading->rotary[place]);
        if (found < 0) found = place;
    }
    if (found == ROTARY_PARAMETERS && reading->scaled)
        FAIL(E_FORMAT, "rope_parameters.rope_theta is %g, but rope_scaling, which stands in its place, says no base",
             reading->rotary[found]);
    if (found >= 0) reading->config->rotary_base = (float)reading->rotary[found];
out:
    return status;
}

/* rope_scaling stands in the place of rope_parameters here as well. */
static int finish_scaling(const struct reading *reading) {
    int status = 0;
    const struct rotary_saying *saying = &reading->sayings[reading->scaled ? ROTARY_SCALING : ROTARY_PARAMETERS];
    const char *type = saying->type ? saying->type : "default";
    size_t wanted = strcmp(type, "llama3") == 0 ? ROTARY_NUMBERS : strcmp(type, "linear") == 0;
    for (size_t i = 0; i < ROTARY_NUMBERS; i++)
        if ((saying->numbers[i] > 0) != (i < wanted))
            FAIL(E_UNSUPPORTED, "%s of rotary positions of type %s %s", rotary_number_names[i], type,
                 i < wanted ? "is missing" : "is not supported");
    if (!wanted) goto out;
    struct rotary_scaling *scaling = &reading->config->rotary_scaling;
    *scaling = (struct rotary_scaling){.factor = (float)saying->numbers[ROTARY_FACTOR]};
    if (wanted < ROTARY_NUMBERS) goto out;
    scaling->low = (float)saying->numbers[ROTARY_LOW];
    scaling->high = (float)saying->numbers[ROTARY_HIGH];
    scaling->original = (float)saying->numbers[ROTARY_ORIGINAL];
out:
    return status;
}

/* What only all fields together can say. */
static int reading_finish(const struct reading *reading) {
    int status = 0;
    struct model_config *config = reading->config;

    for (const struct config_field *field = reading->family->fields; field->name; field++)
        if (field->kind == FIELD_SIZE && *(const size_t *)(const void *)((const char *)config + field->offset) == 0)
            FAIL(E_FORMAT, "field \"%s\" is missing or 0", field->name);
    if (reading->labels && config->classes && reading->labels != config->classes)
        FAIL(E_SHAPE, "id2label has %zu entries but num_labels is %zu", reading->labels, config->classes);
    if (reading->labels) config->classes = reading->labels;
    if (!config->classes && (config->model_heads & HEAD_CLASSIFICATION))
        config->classes = 2; /* transformers' default */
    if (config->width % config->heads && (!reading->family->free_head_width || !config->head_width))
        FAIL(E_SHAPE, "width %zu is not a multiple of heads %zu", config->width, config->heads);
    if (!config->head_width) config->head_width = config->width / config->heads;
    if (!config->key_value_heads) config->key_value_heads = config->heads;
    if (config->embedding_width == config->width) config->embedding_width = 0;
    TRY(finish_rotary(reading));
    TRY(finish_scaling(reading));
    if (config->pad_id < -1 && config->vocabulary <= INT32_MAX) {
        config->pad_id += 1;
        if (-(int64_t)config->pad_id > (int64_t)config->vocabulary)
            FAIL(E_FORMAT, "pad_token_id %d is outside the vocabulary of %zu", config->pad_id, config->vocabulary);
        config->pad_id += (int32_t)config->vocabulary;
    }
    if (reading->layer_types && reading->layer_types != config->layers)
        FAIL(E_SHAPE, "layer_types has %zu entries for %zu layers", reading->layer_types, config->layers);
    if (config->window ? reading->full > 0 : reading->sliding > 0)
        FAIL(E_UNSUPPORTED, "layer_types: layers must be all %s here",
             config->window ? "sliding_attention" : "full_attention");
    if (reading->family->finish) TRY(reading->family->finish(config));
out:
    return status;
}

int family_finish_tied(struct model_config *config) {
    int status = 0;
    if (!config->tied && config->model_heads & HEAD_MASKED_LM)
        FAIL(E_UNSUPPORTED,
             "tie_word_embeddings false is not supported in a %s model with a masked-LM head (only true)",
             config->family);
    config->tied = true;
out:
    return status;
}

int family_parse(const struct family *family, struct model_config *config, const struct json *root) {
    int status = 0;
    struct reading reading = {.family = family, .config = config};
    for (const struct json *node = root->child; node; node = node->next) TRY(parse_member(&reading, node));
    TRY(reading_finish(&reading));
out:
    return status;
}

/* ---- print ------------------------------------------------------------------------------------------ */

/* The shortest decimal that reads back as the same float. */
static void print_float(struct json_writer *writer, float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    json_raw(writer, text);
}

static void print_scaling(const struct rotary_scaling *scaling, struct json_writer *writer) {
    const float numbers[ROTARY_NUMBERS] = {scaling->factor, scaling->low, scaling->high, scaling->original};
    bool all = scaling->original > 0, some = scaling->factor > 0;
    json_format(writer, ", \"rope_type\": \"%s\"", !some ? "default" : all ? "llama3" : "linear");
    for (size_t i = 0; i < (all ? ROTARY_NUMBERS : (size_t)some); i++) {
        json_format(writer, ", \"%s\": ", rotary_number_names[i]);
        print_float(writer, numbers[i]);
    }
}

static void print_labels(const struct model_config *config, struct json_writer *writer) {
    json_raw(writer, "  \"id2label\": {");
    for (size_t i = 0; i < config->classes; i++) json_format(writer, "%s\"%zu\": \"LABEL_%zu\"", i ? ", " : "", i, i);
    json_raw(writer, "},\n  \"label2id\": {");
    for (size_t i = 0; i < config->classes; i++) json_format(writer, "%s\"LABEL_%zu\": %zu", i ? ", " : "", i, i);
    json_raw(writer, "},\n");
}

/* A bare name, number, true, false, null, [] or {} as JSON. */
static void print_value(struct json_writer *writer, const char *values) {
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)strcspn(values, "|"), values);
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0 || strcmp(text, "null") == 0) json_raw(writer, text);
    else json_quoted(writer, text);
}

static void print_field(const struct config_field *field, const struct model_config *config,
                        struct json_writer *writer) {
    const char *at = (const char *)config + field->offset;
    size_t size = field->kind <= FIELD_SIZE_OPTIONAL ? *(const size_t *)(const void *)at : 0;
    if (field->kind == FIELD_FIXED) return;
    json_format(writer, "  \"%s\": ", field->name);
    switch (field->kind) {
    case FIELD_SIZE:
    case FIELD_SIZE_OPTIONAL:
        if (size || field->kind == FIELD_SIZE) json_format(writer, "%zu", size);
        else json_raw(writer, "null");
        break;
    case FIELD_FLOAT: print_float(writer, *(const float *)(const void *)at); break;
    case FIELD_TRUTH:
    case FIELD_UNTRUTH:
        json_raw(writer, *(const bool *)(const void *)at == (field->kind == FIELD_TRUTH) ? "true" : "false");
        break;
    case FIELD_ID: {
        int32_t id = *(const int32_t *)(const void *)at;
        if (id < 0) json_raw(writer, "null");
        else json_format(writer, "%d", id);
        break;
    }
    case FIELD_STATED: print_value(writer, field->value); break;
    case FIELD_FIXED: break;
    }
    json_raw(writer, ",\n");
}

static void print_architectures(const struct family *family, unsigned heads, struct json_writer *writer) {
    const char *separator = "";
    json_raw(writer, "{\n  \"architectures\": [");
    for (const struct architecture *item = family->architectures; item->name; item++) {
        bool same = false; /* an earlier class has this one's heads already */
        for (const struct architecture *other = family->architectures; other < item; other++)
            same = same || other->heads == item->heads;
        if (same || !(item->heads ? heads & item->heads : !heads)) continue;
        json_raw(writer, separator);
        json_quoted(writer, item->name);
        separator = ", ";
    }
    json_raw(writer, "],\n");
}

int family_print(const struct family *family, const struct model_config *config, struct json_writer *writer) {
    print_architectures(family, config->model_heads, writer);
    if (config->classes) print_labels(config, writer);
    for (const struct config_field *field = family->fields; field->name; field++) print_field(field, config, writer);
    if (config->position == POSITION_ROTARY) {
        json_raw(writer, "  \"rope_theta\": ");
        print_float(writer, config->rotary_base);
        json_raw(writer, ",\n  \"rope_parameters\": {\"rope_theta\": ");
        print_float(writer, config->rotary_base);
        print_scaling(&config->rotary_scaling, writer);
        json_raw(writer, "},\n");
        if (config->rotary_scaling.factor > 0) {
            json_raw(writer, "  \"rope_scaling\": {\"rope_theta\": ");
            print_float(writer, config->rotary_base);
            print_scaling(&config->rotary_scaling, writer);
            json_raw(writer, "},\n");
        }
    }
    if (config->pooling != POOLING_MEAN)
        json_format(writer, "  \"pooling_mode\": \"%s\",\n", pooling_name(config->pooling));
    json_format(writer, "  \"model_type\": \"%s\"\n}\n", family->name);
    return writer->status;
}
