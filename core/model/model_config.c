/* Configurations: defaults of a family, the check of sizes, and Hugging Face's config.json both ways.
 *
 * A config from outside is trusted only after model_config_check: every size has a ceiling, so that no
 * product of two of them overflows and a lying file cannot ask for absurd memory before its tensors are seen.
 */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

static const struct family *const families[] = {
    &family_bert, &family_distilbert, &family_gpt2, &family_opt, &family_llama, &family_qwen2, &family_mistral, NULL,
};

const struct family *family_find(const char *name) {
    for (size_t i = 0; families[i]; i++)
        if (strcmp(families[i]->name, name) == 0) return families[i];
    return NULL;
}

static void families_text(char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; families[i]; i++) {
        size_t length = strlen(families[i]->name);
        if (used + length + 3 > size) return;
        if (i) memcpy(text + used, ", ", 2), used += 2;
        memcpy(text + used, families[i]->name, length + 1);
        used += length;
    }
}

int model_config_family(struct model_config *config, const char *name) {
    const struct family *family = family_find(name);
    if (!family) {
        char known[128];
        families_text(known, sizeof known);
        return error_record(E_NOT_FOUND, __FILE__, __LINE__, "unknown model family '%.40s' (known: %s)", name, known);
    }
    memset(config, 0, sizeof *config);
    memcpy(config->family, family->name, strlen(family->name) + 1);
    family->defaults(config);
    return 0;
}

static int check_range(const char *name, size_t value, size_t low, size_t high) {
    if (value >= low && value <= high) return 0;
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be in %zu..%zu (got %zu)", name, low, high, value);
}

static bool has_types(const struct family *family) {
    for (const struct family_row *row = family->before; row->name; row++)
        if (row->part == PART_TYPES) return true;
    return false;
}

static int check_sizes(const struct model_config *config, const struct family *family) {
    int status = 0;
    const struct {
        const char *name;
        size_t value, low, high;
    } ranges[] = {
        {"layers", config->layers, 1, 1024},
        {"width", config->width, 1, 1u << 16},
        {"embedding_width", config->embedding_width, 0, 1u << 16},
        {"heads", config->heads, 1, 1u << 12},
        {"key_value_heads", config->key_value_heads, 1, 1u << 12},
        {"head_width", config->head_width, 1, 1u << 12},
        {"feed_forward", config->feed_forward, 1, 1u << 20},
        {"vocabulary", config->vocabulary, 1, 1u << 24},
        {"positions", config->positions, 1, 1u << 20},
        {"position_offset", config->position_offset, 0, 1u << 10},
        {"token_types", config->token_types, has_types(family), 1u << 10},
        {"window", config->window, 0, 1u << 20},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        TRY(check_range(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high));
    if (config->model_heads & HEAD_CLASSIFICATION) TRY(check_range("classes", config->classes, 1, 1u << 20));
out:
    return status;
}

static int check_heads(const struct model_config *config, const struct family *family) {
    int status = 0;
    if (!family->free_head_width) {
        if (config->width % config->heads)
            FAIL(E_SHAPE, "width %zu is not a multiple of heads %zu", config->width, config->heads);
        if (config->head_width != config->width / config->heads)
            FAIL(E_SHAPE, "head_width %zu is not width %zu / heads %zu", config->head_width, config->width,
                 config->heads);
        if (config->key_value_heads != config->heads)
            FAIL(E_UNSUPPORTED, "key_value_heads %zu differs from heads %zu: family %s has no grouped queries",
                 config->key_value_heads, config->heads, family->name);
    }
    if (config->heads % config->key_value_heads)
        FAIL(E_SHAPE, "heads %zu is not a multiple of key_value_heads %zu", config->heads, config->key_value_heads);
    if (config->position == POSITION_ROTARY && config->head_width % 2)
        FAIL(E_SHAPE, "head_width %zu is odd: rotary positions turn pairs", config->head_width);
out:
    return status;
}

static int check_scaling(const struct rotary_scaling *scaling) {
    int status = 0;
    if (scaling->factor == 0) goto out;
    if (!(scaling->factor >= 1 && scaling->factor <= 1e6f))
        FAIL(E_ARGUMENT, "the factor of rotary frequencies must be in 1..1e6 (got %g)", (double)scaling->factor);
    if (scaling->original == 0) goto out;
    if (!(scaling->original >= 1 && scaling->original <= 1e9f && scaling->low > 0 && scaling->high > scaling->low &&
          scaling->high <= 1e6f))
        FAIL(E_ARGUMENT, "low_freq_factor %g must be above 0 and below high_freq_factor %g, and %g tokens at least 1",
             (double)scaling->low, (double)scaling->high, (double)scaling->original);
out:
    return status;
}

/* What a family fixes must be as it fixes it. */
static int check_fixed(const struct model_config *config, const struct family *family) {
    int status = 0;
    struct model_config usual;
    TRY(model_config_family(&usual, family->name));
    if (config->norm != usual.norm || config->causal != usual.causal || config->activation != usual.activation ||
        config->position != usual.position || (config->norm_first != usual.norm_first && !family->any_norm_place))
        FAIL(E_UNSUPPORTED, "norm, activation, position and causal are fixed in family %s", family->name);
    if (config->position_offset != usual.position_offset || config->query_bias != usual.query_bias ||
        (config->final_norm && !usual.final_norm) || (config->window && !usual.window))
        FAIL(E_UNSUPPORTED, "position_offset, query_bias, final_norm and window are fixed in family %s", family->name);
    if (config->position == POSITION_ROTARY && !(config->rotary_base >= 1 && config->rotary_base <= 1e12f))
        FAIL(E_ARGUMENT, "rotary_base must be in 1..1e12 (got %g)", (double)config->rotary_base);
    TRY(check_scaling(&config->rotary_scaling));
    if (config->model_heads & ~family->heads)
        FAIL(E_ARGUMENT, "family %s has no such head (model_heads %#x)", family->name, config->model_heads);
out:
    return status;
}

int model_config_check(const struct model_config *config) {
    int status = 0;
    const struct family *family = NULL;

    if (memchr(config->family, 0, sizeof config->family)) family = family_find(config->family);
    if (!family) FAIL(E_ARGUMENT, "unknown model family '%.15s'", config->family);
    TRY(check_sizes(config, family));
    TRY(check_heads(config, family));
    if (!(config->norm_epsilon > 0 && config->norm_epsilon < 1))
        FAIL(E_ARGUMENT, "norm_epsilon must be between 0 and 1 (got %g)", (double)config->norm_epsilon);
    if (config->pad_id < -1 || (config->pad_id >= 0 && (size_t)config->pad_id >= config->vocabulary))
        FAIL(E_ARGUMENT, "pad_id %d is outside the vocabulary of %zu", config->pad_id, config->vocabulary);
    TRY(check_fixed(config, family));
out:
    return status;
}

int model_config_parse(struct model_config *config, const char *json, size_t bytes) {
    int status = 0;
    struct json_document document = {0};
    const char *type = NULL;
    const struct json *root, *member;
    const struct family *family;

    TRY(json_open(&document, json, bytes));
    root = json_root(&document);
    if (root->type != JSON_OBJECT) FAIL(E_FORMAT, "expected an object");
    member = json_member(root, "model_type");
    if (!member) FAIL(E_FORMAT, "field \"model_type\" is missing");
    TRY(json_text(member, "model_type", &type));
    family = family_find(type);
    if (!family) {
        char known[128];
        families_text(known, sizeof known);
        FAIL(E_UNSUPPORTED, "model_type \"%.40s\" is not supported (known: %s)", type, known);
    }
    TRY(model_config_family(config, type));
    TRY(family_parse(family, config, root));
    TRY(model_config_check(config));
out:
    json_close(&document);
    return status;
}

int model_config_print(const struct model_config *config, char **json) {
    int status = 0;
    struct json_writer writer = {0};
    const struct family *family;

    *json = NULL;
    TRY(model_config_check(config));
    family = family_find(config->family);
    TRY(family_print(family, config, &writer));
    TRY(writer.status);
    *json = writer.text;
    writer.text = NULL;
out:
    json_writer_close(&writer);
    return status;
}
