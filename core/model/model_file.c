/* Models on disk: opening whatever model_source.c tells apart, and our own artifact, one safetensors file with its
 * config in the metadata.
 *
 * Every tensor that the config asks for is found and its shape checked before memory is taken, and every
 * tensor of the file must be asked for, so a config that does not belong to its tensors is named from either
 * side. f32 values of a model that nobody edits are views of the mapped file.
 */
#include "model/family.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/model_source.h"

#define FORMAT_VERSION "shrinklab-2"
#define FORMAT_VERSION_1                                                                                               \
    "shrinklab-1"                 /* before f16 and bf16_weights had their panels in pairs; all else is the same       \
                                   */
#define ATTENTION_KEY "attention" /* in the metadata of an artifact whose attention is not f32 */

/* ---- open ------------------------------------------------------------------------------------------- */

static int read_packed(struct model *model, const struct model_source *source, const struct packed_entry *packed,
                       size_t packed_count) {
    int status = 0;
    for (size_t i = 0; i < packed_count; i++) {
        if (packed[i].format->bits == 32) continue;
        struct linear *linear = model_linear_find(model, packed[i].name);
        char name[MODEL_NAME_BYTES + 8];
        const struct tensor *tensor;
        snprintf(name, sizeof name, "%s.packed", linear->name);
        tensor = source_tensor(source, name);
        if (!tensor) FAIL(E_NOT_FOUND, "tensor '%s' is missing", name);
        if (tensor->dtype != DTYPE_U8 || tensor->dimensions != 1)
            FAIL(E_SHAPE, "tensor '%s' must be a U8 vector", name);
        status = weight_view(&linear->weight, packed[i].format, &packed[i].shape, tensor->data, tensor->bytes);
        if (status < 0) {
            error_prefix(status, "tensor '%s'", name);
            goto out;
        }
        linear->weight.simulated = linear->simulated;
        linear->weight.activation = packed[i].activation;
    }
out:
    return status;
}

/* {"range": "static", "asymmetric": bool, "reduced": bool, "scale": S, "zero": Z, "outlier": X} */
static int parse_activation(const struct json *object, struct activation_quantizer *activation) {
    int status = 0;
    const char *range = NULL;
    char words[160];
    double scale = 0, zero = 0, outlier = 0;
    if (object->type != JSON_OBJECT) FAIL(E_FORMAT, "expected an object");
    for (const struct json *field = object->child; field; field = field->next) {
        bool truth = field->type == JSON_TRUE, boolean = truth || field->type == JSON_FALSE;
        if (strcmp(field->key, "range") == 0) TRY(json_text(field, "range", &range));
        else if (strcmp(field->key, "scale") == 0) TRY(json_number(field, "scale", &scale));
        else if (strcmp(field->key, "zero") == 0) TRY(json_number(field, "zero", &zero));
        else if (strcmp(field->key, "outlier") == 0) TRY(json_number(field, "outlier", &outlier));
        else if (strcmp(field->key, "asymmetric") == 0 && boolean) activation->asymmetric = truth;
        else if (strcmp(field->key, "reduced") == 0 && boolean) activation->reduced = truth;
        else FAIL(E_FORMAT, "field \"%.40s\" is not understood", field->key);
    }
    if (!range) FAIL(E_FORMAT, "has no range");
    if (activation_range_find(range, &activation->range) < 0) FAIL(E_FORMAT, "range \"%.40s\" is not known", range);
    if (!(zero >= -128 && zero <= 127) || zero != (int32_t)zero) FAIL(E_FORMAT, "zero point %g is no code", zero);
    if (!(scale <= (double)FLT_MAX)) FAIL(E_FORMAT, "scale %g is too large", scale);
    if (!(outlier <= (double)FLT_MAX)) FAIL(E_FORMAT, "threshold of outliers %g is too large", outlier);
    activation->outlier = (float)outlier;
    activation->scale = (float)scale;
    activation->zero = (int32_t)zero;
    if (activation_check(activation) < 0) {
        snprintf(words, sizeof words, "%s", error_text());
        FAIL(E_FORMAT, "%s", words);
    }
out:
    return status;
}

/* The "weights" metadata: {"NAME": {"format": "int4", "rows": R, "columns": N, "group": G, "symmetric": bool,
 * "simulated": bool}, …}, 8-bit formats also with an "activation". Names point into the document. */
static int parse_weights(const struct json *root, struct packed_entry **entries, size_t *count) {
    int status = 0;
    void *block;

    if (root->type != JSON_OBJECT) FAIL(E_FORMAT, "expected an object");
    TRY(memory_take(&block, root->count, sizeof **entries));
    *entries = block;
    for (const struct json *layer = root->child; layer; layer = layer->next) {
        struct packed_entry *entry = &(*entries)[*count];
        const char *format = NULL;
        uint64_t rows = 0, columns = 0, group = 0;
        for (const struct json *field = layer->child; layer->type == JSON_OBJECT && field; field = field->next) {
            bool truth = field->type == JSON_TRUE;
            if (strcmp(field->key, "format") == 0) TRY(json_text(field, "format", &format));
            else if (strcmp(field->key, "rows") == 0) TRY(json_u64(field, "rows", &rows));
            else if (strcmp(field->key, "columns") == 0) TRY(json_u64(field, "columns", &columns));
            else if (strcmp(field->key, "group") == 0) TRY(json_u64(field, "group", &group));
            else if (strcmp(field->key, "activation") == 0) {
                status = parse_activation(field, &entry->activation);
                if (status < 0) {
                    error_prefix(status, "layer '%.100s': activation", layer->key);
                    goto out;
                }
            } else if (!truth && field->type != JSON_FALSE)
                FAIL(E_FORMAT, "layer '%.100s': field \"%.40s\" is not understood", layer->key, field->key);
            else if (strcmp(field->key, "symmetric") == 0) entry->shape.symmetric = truth;
            else if (strcmp(field->key, "simulated") == 0) entry->simulated = truth;
            else FAIL(E_FORMAT, "layer '%.100s': field \"%.40s\" is not understood", layer->key, field->key);
        }
        if (!format) FAIL(E_FORMAT, "layer '%.100s' has no format", layer->key);
        entry->name = layer->key;
        entry->format = weight_format_find(format);
        if (!entry->format)
            FAIL(E_UNSUPPORTED, "layer '%.100s': format '%.40s' is not known to this build", layer->key, format);
        if (entry->activation.outlier > 0 && strcmp(format, "int8") != 0)
            FAIL(E_FORMAT, "layer '%.100s': %.40s does not leave outliers out", layer->key, format);
        if (json_member(layer, "activation") && !entry->format->quantizes_input)
            FAIL(E_FORMAT, "layer '%.100s': %.40s has no activation of its own", layer->key, format);
        entry->shape.rows = (size_t)rows;
        entry->shape.columns = (size_t)columns;
        entry->shape.group = (size_t)group;
        (*count)++;
    }
out:
    return status;
}

/* What our own files hold beside the config: the formats of packed layers, and whatever the model carries. */
/* What an earlier version laid out otherwise must not be read as if it were laid out now. */
static int check_version(const struct safetensors *file, const struct packed_entry *packed, size_t packed_count) {
    int status = 0;
    const char *version = safetensors_metadata(file, "format");
    if (version && strcmp(version, FORMAT_VERSION) == 0) goto out;
    if (version && strcmp(version, FORMAT_VERSION_1) != 0)
        FAIL(E_FORMAT, "format \"%.40s\" is not known (this version writes \"%s\")", version, FORMAT_VERSION);
    for (size_t i = 0; i < packed_count; i++)
        if (packed[i].format->paired)
            FAIL(E_FORMAT, "tensor '%s.packed' has the layout of an earlier version: make the artifact anew",
                 packed[i].name);
out:
    return status;
}

static int read_artifact(struct model *model, struct json_document *document, struct packed_entry **packed,
                         size_t *packed_count) {
    int status = 0;
    const struct safetensors *file = &model->source->artifact;
    const char *weights = safetensors_metadata(file, "weights");
    for (size_t i = 0; i < file->metadata_count; i++) {
        const struct safetensors_meta *meta = &file->metadata[i];
        if (strcmp(meta->key, ATTENTION_KEY) == 0) {
            if (strcmp(meta->value, "int8") != 0) FAIL(E_FORMAT, "attention \"%.40s\" is not known", meta->value);
            TRY(model_set_int8_attention(model));
            continue;
        }
        if (strcmp(meta->key, "config") == 0 || strcmp(meta->key, "weights") == 0 || strcmp(meta->key, "format") == 0)
            continue;
        TRY(model_set_metadata(model, meta->key, meta->value));
    }
    if (!weights) goto out;
    TRY(json_open(document, weights, strlen(weights)));
    TRY(parse_weights(json_root(document), packed, packed_count));
    TRY(check_version(file, *packed, *packed_count));
out:
    return status;
}

int model_open(struct model *model, const char *path, bool editable) {
    int status = 0;
    struct json_document document = {0};
    struct packed_entry *packed = NULL;
    struct value_source values;
    size_t packed_count = 0;
    bool opened = false;
    void *block;

    memset(model, 0, sizeof *model);
    TRY(memory_take(&block, 1, sizeof *model->source));
    model->source = block;
    TRY(model_source_open(model->source, path, &model->config));
    opened = true;
    model->editable = editable;
    if (model->source->kind == SOURCE_ARTIFACT) TRY(read_artifact(model, &document, &packed, &packed_count));
    TRY(model_layout(model, packed, packed_count));
    values = (struct value_source){source_place, model->source};
    TRY(model_read_values(model, &values, editable));
    TRY(read_packed(model, model->source, packed, packed_count));
    TRY(source_check_used(model->source));
    model_bind(model);
    model->source->config = NULL; /* the caller may move the model */
out:
    if (status < 0 && opened) error_prefix(status, "%s", path);
    json_close(&document);
    memory_release(packed);
    if (status < 0) model_close(model);
    return status;
}

/* ---- save ------------------------------------------------------------------------------------------- */

struct saving {
    const struct model *model;
    struct tensor *tensors;
    struct arena *names;
    size_t count;
};

static int save_visit(void *context, const struct layout_entry *entry) {
    int status = 0;
    struct saving *saving = context;
    const struct parameter *parameter = model_parameter(saving->model, entry->name);
    struct tensor *tensor = &saving->tensors[saving->count++];
    const struct linear *linear = NULL;
    size_t length = strlen(entry->name) - strlen(".weight");
    void *view;

    if (parameter && !parameter->value)
        FAIL(E_STATE, "'%s' is in its file's own format: open the model editable to save it", parameter->name);
    if (parameter) {
        bool vector = parameter->kind == PARAMETER_VECTOR;
        tensor->name = parameter->name;
        tensor->dtype = DTYPE_F32;
        tensor->dimensions = vector ? 1 : 2;
        tensor->shape[0] = vector ? parameter->columns : parameter->rows;
        tensor->shape[1] = vector ? 0 : parameter->columns;
        tensor->data = parameter->value;
        goto out;
    }
    for (size_t i = 0; i < saving->model->linear_count && !linear; i++) {
        const char *name = saving->model->linears[i].name;
        if (strlen(name) == length && memcmp(name, entry->name, length) == 0) linear = &saving->model->linears[i];
    }
    CHECK(linear && linear->weight.packed, "'%s' has neither parameter nor packed bytes", entry->name);
    TRY(arena_take(saving->names, &view, MODEL_NAME_BYTES + 8, 1));
    snprintf(view, MODEL_NAME_BYTES + 8, "%s.packed", linear->name);
    tensor->name = view;
    tensor->dtype = DTYPE_U8;
    tensor->dimensions = 1;
    tensor->shape[0] = linear->weight.packed_bytes;
    tensor->data = linear->weight.packed;
out:
    return status;
}

/* Nothing for what layers have by themselves. */
static void activation_text(const struct activation_quantizer *activation, struct json_writer *writer) {
    if (activation_same(activation, &(struct activation_quantizer){0})) return;
    json_format(writer, ", \"activation\": {\"range\": \"%s\", \"asymmetric\": %s, \"reduced\": %s",
                activation_range_name(activation->range), activation->asymmetric ? "true" : "false",
                activation->reduced ? "true" : "false");
    if (activation->range == ACTIVATION_STATIC)
        json_format(writer, ", \"scale\": %.9g, \"zero\": %d", (double)activation->scale, activation->zero);
    if (activation->outlier > 0) json_format(writer, ", \"outlier\": %.9g", (double)activation->outlier);
    json_raw(writer, "}");
}

static int weights_text(const struct model *model, unsigned heads, struct json_writer *writer) {
    const char *separator = "";
    json_raw(writer, "{");
    for (size_t i = 0; i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        const struct weight *weight = &linear->weight;
        if ((linear->heads && !(linear->heads & heads)) || (linear->parameter && !linear->simulated)) continue;
        json_raw(writer, separator);
        json_quoted(writer, linear->name);
        json_format(writer,
                    ": {\"format\": \"%s\", \"rows\": %zu, \"columns\": %zu, \"group\": %zu, \"symmetric\": %s, "
                    "\"simulated\": %s",
                    weight->format->name, linear->rows, linear->columns, weight->shape.group,
                    weight->shape.symmetric ? "true" : "false", linear->simulated ? "true" : "false");
        activation_text(&weight->activation, writer);
        json_raw(writer, "}");
        separator = ", ";
    }
    json_raw(writer, "}");
    return writer->status;
}

int model_save(const struct model *model, const char *path, unsigned heads) {
    int status = 0;
    struct model_config config = model->config;
    struct json_writer weights = {0};
    struct arena names = {0};
    struct saving saving = {.model = model, .names = &names};
    struct safetensors_meta *metadata = NULL;
    char *config_text = NULL;
    size_t count = 0;
    void *block;

    config.model_heads &= heads;
    TRY(model_config_print(&config, &config_text));
    TRY(weights_text(model, config.model_heads, &weights));
    TRY(memory_take(&block, model->parameter_count + model->linear_count, sizeof *saving.tensors));
    saving.tensors = block;
    TRY(arena_open(&names, model->linear_count * size_round_up(MODEL_NAME_BYTES + 8, MEMORY_ALIGN)));
    TRY(layout_walk(&config, save_visit, &saving));
    TRY(memory_take(&block, model->metadata_count + 4, sizeof *metadata));
    metadata = block;
    metadata[count++] = (struct safetensors_meta){"format", FORMAT_VERSION};
    metadata[count++] = (struct safetensors_meta){"config", config_text};
    metadata[count++] = (struct safetensors_meta){"weights", weights.text};
    if (model->int8_attention) metadata[count++] = (struct safetensors_meta){ATTENTION_KEY, "int8"};
    for (size_t i = 0; i < model->metadata_count; i++)
        metadata[count++] = (struct safetensors_meta){model->metadata[i].key, model->metadata[i].value};
    TRY(safetensors_write(path, saving.tensors, saving.count, metadata, count));
out:
    json_writer_close(&weights);
    arena_close(&names);
    memory_release(config_text);
    memory_release(metadata);
    memory_release(saving.tensors);
    return status;
}
