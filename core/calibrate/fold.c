/* See fold.h. Sites come from the parts of a block, so no family has code of its own here. */
#include "calibrate/fold.h"

#include <math.h>

#include "base/error.h"
#include "model/family.h"

static const char *const kind_names[] = {"norm_attention", "value", "norm_feed", "up"};

const char *fold_kind_name(enum fold_kind kind) { return kind_names[kind]; }

static const char post_norm[] = "the norm's output is also what a residual sum adds (post-norm)";
static const char gelu[] = "GELU lets no factor through";

static size_t index_of(const struct model *model, size_t block, enum part part) {
    return (size_t)(block_part(model, block, part)->linear - model->linears);
}

static void add_consumer(const struct model *model, struct fold_site *site, enum part part) {
    if (!block_part(model, site->block, part)->linear) return;
    site->consumer[site->consumers++] = index_of(model, site->block, part);
    site->columns = model->linears[site->consumer[0]].columns;
}

void fold_sites(const struct model *model, struct fold_site *sites) {
    const struct model_config *config = &model->config;
    for (size_t i = 0; i < FOLD_KINDS * config->layers; i++) {
        struct fold_site *site = &sites[i];
        *site = (struct fold_site){.kind = (enum fold_kind)(i % FOLD_KINDS), .block = i / FOLD_KINDS};
        switch (site->kind) {
        case FOLD_NORM_ATTENTION:
            add_consumer(model, site, PART_QUERY);
            add_consumer(model, site, PART_KEY);
            add_consumer(model, site, PART_VALUE);
            site->channels = site->columns;
            if (!config->norm_first) site->reason = post_norm;
            break;
        case FOLD_VALUE:
            add_consumer(model, site, PART_ATTENTION_OUTPUT);
            site->source = index_of(model, site->block, PART_VALUE);
            site->channels = model->linears[site->source].rows;
            break;
        case FOLD_NORM_FEED:
            add_consumer(model, site, PART_GATE);
            add_consumer(model, site, PART_UP);
            site->channels = site->columns;
            if (!config->norm_first) site->reason = post_norm;
            break;
        case FOLD_UP:
            add_consumer(model, site, PART_DOWN);
            site->source = index_of(model, site->block, PART_UP);
            site->channels = site->columns;
            if (config->activation != ACTIVATION_RELU && config->activation != ACTIVATION_SILU_GATED)
                site->reason = gelu;
            break;
        case FOLD_KINDS: break;
        }
    }
}

/* Head h of the queries reads the values of head h / group. */
size_t fold_channel(const struct model *model, const struct fold_site *site, size_t column) {
    const struct model_config *config = &model->config;
    size_t D = config->head_width, group = config->heads / config->key_value_heads;
    return site->kind == FOLD_VALUE ? column / D / group * D + column % D : column;
}

void fold_channel_absmax(const struct model *model, const struct fold_site *site, const float *columns, float *most) {
    for (size_t i = 0; i < site->channels; i++) most[i] = 0;
    for (size_t n = 0; n < site->columns; n++) {
        float *at = &most[fold_channel(model, site, n)];
        *at = columns[n] > *at ? columns[n] : *at;
    }
}

void fold_consumer_absmax(const struct model *model, const struct fold_site *site, float *most) {
    for (size_t i = 0; i < site->channels; i++) most[i] = 0;
    for (size_t k = 0; k < site->consumers; k++) {
        const struct linear *linear = &model->linears[site->consumer[k]];
        for (size_t r = 0; r < linear->rows; r++)
            for (size_t n = 0; n < linear->columns; n++) {
                float *at = &most[site->kind == FOLD_VALUE ? fold_channel(model, site, n) : n];
                float size = fabsf(linear->value[r * linear->columns + n]);
                *at = size > *at ? size : *at;
            }
    }
}

void fold_source_absmax(const struct model *model, const struct fold_site *site, float *most) {
    const struct linear *linear = &model->linears[site->source];
    for (size_t r = 0; r < linear->rows; r++) {
        most[r] = 0;
        for (size_t n = 0; n < linear->columns; n++)
            most[r] = fmaxf(most[r], fabsf(linear->value[r * linear->columns + n]));
    }
}

static bool has_source(const struct fold_site *site) { return site->kind == FOLD_VALUE || site->kind == FOLD_UP; }

static const struct part_view *norm_of(const struct model *model, const struct fold_site *site) {
    return block_part(model, site->block,
                      site->kind == FOLD_NORM_ATTENTION ? PART_ATTENTION_NORM : PART_FEED_FORWARD_NORM);
}

static int check_layer(const struct linear *linear) {
    if (linear->value) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "%s is packed as %s: move factors before quantizing",
                        linear->name, linear->weight.format->name);
}

int fold_check(const struct model *model, const struct fold_site *site) {
    int status = 0;
    if (!model->editable) FAIL(E_UNSUPPORTED, "the model was opened for reading only");
    for (size_t k = 0; k < site->consumers; k++) TRY(check_layer(&model->linears[site->consumer[k]]));
    if (has_source(site)) TRY(check_layer(&model->linears[site->source]));
out:
    return status;
}

void fold_apply(struct model *model, const struct fold_site *site, const float *factor) {
    CHECK(!site->reason, "%s", site->reason);
    model_unprepare(model);
    for (size_t k = 0; k < site->consumers; k++) {
        struct linear *linear = &model->linears[site->consumer[k]];
        for (size_t i = 0; i < linear->rows * linear->columns; i++)
            linear->value[i] *= factor[fold_channel(model, site, i % linear->columns)];
    }
    if (has_source(site)) {
        struct linear *linear = &model->linears[site->source];
        for (size_t i = 0; i < linear->rows * linear->columns; i++) linear->value[i] /= factor[i / linear->columns];
        for (size_t r = 0; linear->bias && r < linear->rows; r++) linear->bias[r] /= factor[r];
        return;
    }
    const struct part_view *norm = norm_of(model, site);
    for (size_t i = 0; i < site->channels; i++) {
        norm->weight->value[i] /= factor[i];
        if (norm->bias) norm->bias->value[i] /= factor[i];
    }
}
