/* One stage as harness/run makes it, without processes or a store. */
#include "technique_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/experiment.h"
#include "scratch_file.h"

void technique_run_open(struct technique_run *run, uint64_t seed) { technique_run_open_sized(run, seed, 128); }

void technique_run_open_sized(struct technique_run *run, uint64_t seed, size_t feed_forward) {
    struct model_config config = {0};
    *run = (struct technique_run){0};
    CHECK(model_config_family(&config, "bert") == 0, "%s", error_text());
    config.layers = 2;
    config.width = 64;
    config.heads = config.key_value_heads = 4;
    config.head_width = 16;
    config.feed_forward = feed_forward;
    config.vocabulary = 100;
    config.positions = 16;
    config.token_types = 2;
    config.classes = 3;
    config.model_heads = HEAD_CLASSIFICATION;
    CHECK(model_create(&run->model, &config, seed, 0.2) == 0, "%s", error_text());
}

static void metric_keep(void *host, const char *name, const char *unit, double value) {
    struct technique_run *run = host;
    CHECK(run->metric_count < 16, "too many metrics");
    struct metric_seen *seen = &run->metrics[run->metric_count++];
    snprintf(seen->name, sizeof seen->name, "%s", name);
    snprintf(seen->unit, sizeof seen->unit, "%s", unit);
    seen->value = value;
}

static void layer_keep(void *host, const struct technique_layer *layer) {
    struct technique_run *run = host;
    CHECK(run->layer_count < 32, "too many layers");
    struct layer_seen *seen = &run->layers[run->layer_count++];
    snprintf(seen->name, sizeof seen->name, "%s", layer->name);
    snprintf(seen->format, sizeof seen->format, "%s", layer->format);
    seen->low = layer->low;
    seen->high = layer->high;
    seen->error = layer->error;
    seen->score_lost = layer->score_lost;
    seen->bytes_f32 = layer->bytes_f32;
    seen->bytes_packed = layer->bytes_packed;
    if (layer->inputs == NULL) return;
    seen->seen_low = (double)layer->inputs->low;
    seen->seen_high = (double)layer->inputs->high;
    for (size_t i = 0; i < layer->inputs->bins; i++) seen->values += layer->inputs->counts[i];
}

static int score(void *host, const struct model *model, double *value, bool *higher_is_better) {
    struct technique_run *run = host;
    return run->evaluate(run->evaluate_host, model, value, higher_is_better);
}

int technique_run_stage(struct technique_run *run, const struct technique *technique, const char *const *settings) {
    int status = 0;
    void *state = NULL;
    struct technique_context context = {.model = &run->model,
                                        .seed = 1,
                                        .calibration = run->calibration,
                                        .metric = metric_keep,
                                        .evaluate = run->evaluate ? score : NULL,
                                        .layer = layer_keep,
                                        .host = run};
    CHECK(technique_check(technique, technique->name) == 0, "%s", error_text());
    memory_release(run->options);
    run->options = NULL;
    run->metric_count = run->layer_count = 0;
    TRY(memory_take(&state, 1, technique->state_bytes));
    TRY(memory_take(&run->options, 1, technique->options_bytes));
    if (technique->options != NULL) TRY(option_defaults(technique->options, run->options, &run->store));
    for (; settings != NULL && *settings != NULL; settings++) {
        char name[64];
        size_t length = strcspn(*settings, "=");
        snprintf(name, sizeof name, "%.*s", (int)length, *settings);
        const struct option *option = option_find(technique->options, name);
        CHECK(option != NULL, "no option %s", name);
        TRY(option_set(option, run->options, *settings + length + 1, &run->store));
    }
    if (run->fail_after != 0) memory_fail_after(run->fail_after);
    if (technique->settle != NULL) TRY(technique->settle(run->options));
    if (technique->probe != NULL) TRY(technique->probe(&context, run->options));
    if (technique->open != NULL) TRY(technique->open(&context, state, run->options));
    TRY(technique->apply(&context, state, run->options));
    if (technique->report != NULL) TRY(technique->report(&context, state, run->options));
out:
    if (run->fail_after != 0) run->allocations = memory_count();
    if (run->fail_after != 0) memory_fail_after(0);
    if (technique->close != NULL && state != NULL) technique->close(state);
    memory_release(state);
    return status;
}

void technique_run_close(struct technique_run *run) {
    model_close(&run->model);
    memory_release(run->options);
    option_store_close(&run->store);
    *run = (struct technique_run){0};
}

double technique_run_metric(const struct technique_run *run, const char *name) {
    for (size_t i = 0; i < run->metric_count; i++)
        if (strcmp(run->metrics[i].name, name) == 0) return run->metrics[i].value;
    return NAN;
}

void technique_run_logits(struct technique_run *run, float logits[12]) {
    static const int32_t ids[] = {1, 20, 30, 2, 1, 50, 2, 1, 9, 8, 7, 6, 2, 1, 99, 98, 2};
    static const uint32_t offset[] = {0, 4, 7, 13, 17};
    struct batch batch = {.sequences = 4, .tokens = 17, .ids = ids, .offset = offset};
    struct workspace workspace = {0};
    struct model_output output;
    CHECK(model_prepare(&run->model, GEMM_BUILTIN) == 0, "%s", error_text());
    CHECK(model_forward(&run->model, &batch, NULL, &workspace, &output) == 0, "%s", error_text());
    memcpy(logits, output.logits, 12 * sizeof *logits);
    workspace_close(&workspace);
}

void technique_run_hash(const struct technique_run *run, char hex[HASH_HEX]) {
    char path[128];
    scratch_file(path, ".safetensors", "");
    CHECK(model_save(&run->model, path, HEAD_CLASSIFICATION) == 0, "%s", error_text());
    CHECK(hash_file(path, hex) == 0, "%s", error_text());
    scratch_remove(path);
}

double logits_distance(const float a[12], const float b[12]) {
    double sum = 0;
    for (size_t i = 0; i < 12; i++) sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum;
}
