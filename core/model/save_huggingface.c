/* A model as a plain Hugging Face directory: config.json and model.safetensors under the names, fused and transposed,
 * that transformers loads.
 *
 * The family's table says for every parameter which tensor holds it and where (layout_stored); several parameters of
 * one tensor follow each other in the table. A tensor that is one parameter as it lies is written from where it is.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "io/safetensors.h"
#include "model/family.h"

struct exporting {
    const struct model *model;
    bool unpack;
    struct tensor *tensors;
    char (*names)[MODEL_NAME_BYTES];
    float **owned; /* values made here, by tensor; NULL where they are borrowed */
    size_t count;
};

static const struct linear *packed_linear(const struct model *model, const char *name) {
    size_t length = strlen(name) - strlen(".weight");
    for (size_t i = 0; i < model->linear_count; i++)
        if (strlen(model->linears[i].name) == length && memcmp(model->linears[i].name, name, length) == 0)
            return &model->linears[i];
    return NULL;
}

/* All values of an entry: rows (rows, columns). */
static int entry_values(const struct exporting *exporting, const struct layout_entry *entry, float *out) {
    int status = 0;
    const struct parameter *parameter = model_parameter(exporting->model, entry->name);
    const struct linear *linear;
    if (parameter) {
        parameter_rows(parameter, 0, entry->rows, out);
        goto out;
    }
    linear = packed_linear(exporting->model, entry->name);
    CHECK(linear, "'%s' has neither parameter nor packed bytes", entry->name);
    if (!exporting->unpack)
        FAIL(E_UNSUPPORTED, "layer '%s' is packed as %s, which Hugging Face's files do not have: ask to unpack it",
             linear->name, linear->weight.format->name);
    TRY(linear->weight.format->unpack(&linear->weight.shape, linear->weight.packed, out));
out:
    return status;
}

static void describe(struct tensor *tensor, const struct layout_entry *entry, const struct stored_tensor *stored) {
    bool vector = entry->kind == PARAMETER_VECTOR;
    tensor->dtype = DTYPE_F32;
    tensor->dimensions = vector ? 1 : 2;
    tensor->shape[0] = stored->transposed ? entry->columns : stored->total;
    tensor->shape[1] = vector ? 0 : stored->transposed ? stored->total : entry->columns;
}

static int export_visit(void *context, const struct layout_entry *entry) {
    int status = 0;
    struct exporting *exporting = context;
    const struct parameter *parameter = model_parameter(exporting->model, entry->name);
    bool vector = entry->kind == PARAMETER_VECTOR;
    size_t outputs = vector ? entry->columns : entry->rows, columns = vector ? 1 : entry->columns;
    struct stored_tensor stored;
    void *values = NULL;
    float *whole;

    layout_stored(entry, &stored);
    size_t i = 0;
    while (i < exporting->count && strcmp(exporting->names[i], stored.name) != 0) i++;
    struct tensor *tensor = &exporting->tensors[i];
    if (i == exporting->count) {
        exporting->count++;
        memcpy(exporting->names[i], stored.name, sizeof stored.name);
        tensor->name = exporting->names[i];
        describe(tensor, entry, &stored);
        if (parameter && parameter->value && !stored.transposed && stored.total == outputs) {
            tensor->data = parameter->value;
            goto out;
        }
        TRY(memory_take((void **)&exporting->owned[i], stored.total * columns, sizeof(float)));
        tensor->data = exporting->owned[i];
    }
    whole = exporting->owned[i];
    TRY(memory_take(&values, outputs * columns, sizeof(float)));
    TRY(entry_values(exporting, entry, values));
    for (size_t r = 0; r < outputs; r++)
        for (size_t n = 0; n < columns; n++) {
            size_t at =
                stored.transposed && !vector ? n * stored.total + stored.first + r : (stored.first + r) * columns + n;
            whole[at] = ((float *)values)[r * columns + n];
        }
out:
    memory_release(values);
    return status;
}

static int write_config(const struct model *model, const char *path) {
    int status = 0;
    struct file_replace file = {.file = -1};
    char *text = NULL;
    TRY(model_config_print(&model->config, &text));
    TRY(file_replace_open(&file, path));
    TRY(file_replace_write(&file, text, strlen(text)));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    memory_release(text);
    return status;
}

int model_save_huggingface(const struct model *model, const char *folder, bool unpack) {
    int status = 0;
    struct exporting exporting = {.model = model, .unpack = unpack};
    static const struct safetensors_meta metadata[] = {{"format", "pt"}}; /* transformers asks for it */
    size_t most = model->parameter_count + model->linear_count, bytes = strlen(folder) + 32;
    void *block, *path = NULL;

    if (model->int8_attention && !unpack)
        FAIL(E_UNSUPPORTED, "attention is in 8 bits, which Hugging Face's files cannot say: ask to unpack it");
    TRY(memory_take(&block, most, sizeof *exporting.owned));
    exporting.owned = block;
    TRY(memory_take(&block, most, sizeof *exporting.tensors));
    exporting.tensors = block;
    TRY(memory_take(&block, most, sizeof *exporting.names));
    exporting.names = block;
    TRY(memory_take(&path, bytes, 1));
    TRY(layout_walk(&model->config, export_visit, &exporting));
    snprintf(path, bytes, "%s/model.safetensors", folder);
    TRY(file_folders(path, "choose another folder"));
    TRY(safetensors_write(path, exporting.tensors, exporting.count, metadata, 1));
    snprintf(path, bytes, "%s/config.json", folder);
    TRY(write_config(model, path));
    TRY(pooling_write(folder, &model->config));
out:
    for (size_t i = 0; i < exporting.count; i++) memory_release(exporting.owned[i]);
    memory_release(exporting.owned);
    memory_release(exporting.tensors);
    memory_release(exporting.names);
    memory_release(path);
    return status;
}
