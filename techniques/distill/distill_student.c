/* The student: chosen layers of its source, narrower where asked, or random weights of the sizes asked for. */
#include "distill.h"

#include <string.h>

#include "model/take_layers.h"

#define INITIAL_DEVIATION 0.02 /* of random weights: Devlin et al. 2018, as their code has it */

/* A layer's number as text. */
static int layer_number(const char *text, size_t *layer) {
    int status = 0;
    *layer = 0;
    if (!*text) FAIL(E_ARGUMENT, "a layer's name is empty");
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9' || *layer > 9999) FAIL(E_ARGUMENT, "layers are whole numbers from 0 (got %s)", text);
        *layer = 10 * *layer + (size_t)(*c - '0');
    }
out:
    return status;
}

int distill_layer_list(const struct option_names *names, const char *option, size_t limit, size_t *layers) {
    int status = 0;
    for (size_t i = 0; i < names->count; i++) {
        status = layer_number(names->items[i], &layers[i]);
        if (status < 0) {
            error_prefix(status, "%s", option);
            goto out;
        }
        if (layers[i] >= limit)
            FAIL(E_ARGUMENT, "%s: layer %zu does not exist: there are %zu, from 0", option, layers[i], limit);
    }
out:
    return status;
}

static bool is_scratch(const struct distill_options *o) { return strcmp(o->from, "scratch") == 0; }

/* Heads so that each is as wide as the source's, where that comes out even; else the source's number of heads. */
static size_t heads_for(const struct model_config *source, size_t width) {
    return source->heads * width % source->width ? source->heads : source->heads * width / source->width;
}

int distill_student_config(const struct model_config *source, const struct distill_options *o,
                           struct model_config *config) {
    int status = 0;
    size_t group = source->heads / source->key_value_heads, attention;

    *config = *source;
    config->layers = o->layers.count ? o->layers.count : o->depth ? (size_t)o->depth : (source->layers + 1) / 2;
    if (config->layers > source->layers && !o->layers.count && !is_scratch(o))
        FAIL(E_ARGUMENT, "depth %zu is more than the %zu layers to choose from", config->layers, source->layers);
    config->width = o->width ? (size_t)o->width : source->width;
    config->heads = o->heads ? (size_t)o->heads : heads_for(source, config->width);
    config->key_value_heads = config->heads % group ? config->heads : config->heads / group;
    /* Attention is as wide beside the model as in the source. */
    attention = source->heads * source->head_width * config->width;
    if (attention % (source->width * config->heads))
        FAIL(E_ARGUMENT, "width %zu cannot be shared out among %zu heads", config->width, config->heads);
    config->head_width = attention / (source->width * config->heads);
    config->feed_forward =
        o->feed_forward ? (size_t)o->feed_forward : source->feed_forward * config->width / source->width;
    TRY(model_config_check(config));
out:
    return status;
}

/* layers [config->layers] of the source that the student's are. */
static int student_layers(const struct model_config *source, const struct distill_options *o,
                          const struct model_config *config, size_t **layers) {
    int status = 0;
    void *block;
    TRY(memory_take(&block, config->layers, sizeof **layers));
    *layers = block;
    if (o->layers.count) TRY(distill_layer_list(&o->layers, "layers", source->layers, *layers));
    else layers_spread(source->layers, config->layers, *layers);
out:
    return status;
}

int distill_student_check(const struct model_config *source, const struct distill_options *o,
                          struct model_config *config) {
    int status = 0;
    size_t *layers = NULL;
    TRY(distill_student_config(source, o, config));
    if (is_scratch(o)) goto out;
    TRY(model_take_check(config, source));
    TRY(student_layers(source, o, config, &layers));
out:
    memory_release(layers);
    return status;
}

int distill_student_open(struct model *student, const struct model *source, const struct distill_options *o,
                         uint64_t seed) {
    int status = 0;
    struct model_config config;
    size_t *layers = NULL;
    bool opened = false;

    TRY(distill_student_config(&source->config, o, &config));
    if (is_scratch(o)) {
        TRY(model_create(student, &config, seed, INITIAL_DEVIATION));
        opened = true;
        for (size_t i = 0; i < source->metadata_count; i++)
            TRY(model_set_metadata(student, source->metadata[i].key, source->metadata[i].value));
        goto out;
    }
    TRY(student_layers(&source->config, o, &config, &layers));
    TRY(model_take_layers(student, source, &config, layers, config.layers));
out:
    memory_release(layers);
    if (status < 0 && opened) model_close(student);
    return status;
}
