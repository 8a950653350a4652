#include "golden_family.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

bool golden_family_open(struct golden_family *family, const char *name, bool editable) {
    char path[160];
    memset(family, 0, sizeof *family);
    snprintf(family->name, sizeof family->name, "%s", name);
    snprintf(path, sizeof path, "families/%s", family->name);
    if (!golden_path(family->folder, sizeof family->folder, path)) return false;
    snprintf(path, sizeof path, "families/%s/io.safetensors", family->name);
    golden_open(&family->io, path);
    snprintf(path, sizeof path, "families/%s/meta.json", family->name);
    golden_json(&family->meta, &family->meta_text, path);
    if (model_open(&family->model, family->folder, editable) < 0) fail_msg("%s: %s", name, error_text());
    return true;
}

void golden_family_close(struct golden_family *family) {
    workspace_close(&family->workspace);
    model_close(&family->model);
    safetensors_close(&family->io);
    json_close(&family->meta);
    memory_release(family->meta_text);
    memset(family, 0, sizeof *family);
}

bool golden_families(void (*test)(struct golden_family *family)) {
    char path[512];
    if (!golden_path(path, sizeof path, "families")) return false;
    DIR *folder = opendir(path);
    if (!folder) fail_msg("%s cannot be read", path);
    size_t tested = 0;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        struct golden_family family;
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.') || strlen(entry->d_name) > 60) continue;
        if (!golden_family_open(&family, entry->d_name, false)) continue;
        test(&family);
        golden_family_close(&family);
        tested++;
    }
    closedir(folder);
    if (!tested) fail_msg("%s holds no family", path);
    return true;
}

static const struct tensor *batch_tensor(const struct golden_family *family, const struct golden_batch *batch,
                                         const char *name) {
    char full[64];
    snprintf(full, sizeof full, "%s.%s", batch->prefix, name);
    return safetensors_find(&family->io, full);
}

bool golden_batch_open(struct golden_batch *batch, const struct golden_family *family, const char *prefix) {
    memset(batch, 0, sizeof *batch);
    batch->prefix = prefix;
    const struct tensor *ids = batch_tensor(family, batch, "input_ids"),
                        *mask = batch_tensor(family, batch, "attention_mask"),
                        *types = batch_tensor(family, batch, "token_type_ids"),
                        *labels = batch_tensor(family, batch, "labels");
    size_t used = 0;
    if (!ids || !mask) return false;
    assert_true(ids->dtype == DTYPE_I32 && mask->dtype == DTYPE_I32 && ids->dimensions == 2);
    assert_int_equal(mask->count, ids->count);
    size_t B = batch->B = ids->shape[0], T = batch->T_padded = ids->shape[1];
    batch->mask = mask->data;
    batch->per_token = labels && labels->dimensions == 2;
    batch->ids = calloc(3 * B * T, sizeof(int32_t));
    batch->types = batch->ids + B * T;
    if (labels) batch->labels = batch->types + B * T;
    batch->offset = calloc(B + 1, sizeof(uint32_t));
    for (size_t b = 0; b < B; b++) {
        for (size_t i = b * T; i < (b + 1) * T; i++) {
            if (!batch->mask[i]) continue;
            batch->ids[used] = ((const int32_t *)ids->data)[i];
            if (types) batch->types[used] = ((const int32_t *)types->data)[i];
            if (batch->per_token) batch->labels[used] = ((const int32_t *)labels->data)[i];
            used++;
        }
        if (labels && !batch->per_token) batch->labels[b] = ((const int32_t *)labels->data)[b];
        batch->offset[b + 1] = (uint32_t)used;
    }
    batch->batch = (struct batch){.sequences = B,
                                  .tokens = used,
                                  .ids = batch->ids,
                                  .offset = batch->offset,
                                  .token_types = types ? batch->types : NULL};
    return true;
}

void golden_batch_close(struct golden_batch *batch) {
    free(batch->ids);
    free(batch->offset);
    memset(batch, 0, sizeof *batch);
}

const float *golden_batch_floats(const struct golden_family *family, const struct golden_batch *batch,
                                 const char *name) {
    const struct tensor *tensor = batch_tensor(family, batch, name);
    if (!tensor) return NULL;
    assert_int_equal(tensor->dtype, DTYPE_F32);
    return tensor->data;
}

void golden_batch_close_to(const struct golden_family *family, const struct golden_batch *batch, const char *name,
                           const float *packed, size_t n, double tolerance) {
    const struct tensor *tensor = batch_tensor(family, batch, name);
    char what[160];
    size_t used = 0;
    snprintf(what, sizeof what, "%s %s.%s", family->name, batch->prefix, name);
    if (!tensor) fail_msg("%s is not in io.safetensors", what);
    assert_int_equal(tensor->count, batch->B * batch->T_padded * n);
    float *padded = calloc(tensor->count, sizeof(float));
    for (size_t i = 0; i < batch->B * batch->T_padded; i++)
        if (batch->mask[i]) memcpy(padded + i * n, packed + used++ * n, n * sizeof(float));
    golden_close(what, golden_difference(padded, tensor->data, tensor->count, batch->mask, n), tolerance);
    free(padded);
}
