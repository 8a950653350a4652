/* safetensors (huggingface/safetensors, format.md): mapped for reading, replaced whole when written.
 *
 * Nothing of the header is believed: after its JSON is read, every tensor's size is computed from shape
 * and dtype and compared with its offsets, and the tensors, sorted by offset, must tile the data from
 * first to last byte. The map is private; a file shortened while it is mapped would still raise SIGBUS,
 * which is why our own writer never changes a file in place.
 */
#include "io/safetensors.h"

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX 100000000u /* the reference reader's limit */
#define LENGTH_BYTES 8
#define DATA_ALIGN 64
#define METADATA "__metadata__"

/* ---- reading the header --------------------------------------------------------------------------- */
static int read_shape(struct tensor *tensor, const struct json *shape) {
    int status = 0;
    if (!shape || shape->type != JSON_ARRAY) FAIL(E_FORMAT, "needs a shape, an array of whole numbers");
    if (shape->count > TENSOR_DIMENSIONS)
        FAIL(E_FORMAT, "shape has %zu dimensions, more than %d", shape->count, TENSOR_DIMENSIONS);
    for (const struct json *item = shape->child; item; item = item->next) {
        uint64_t size;
        TRY(json_u64(item, "shape", &size));
        tensor->shape[tensor->dimensions++] = (size_t)size;
    }
    if (tensor_measure(tensor) < 0) {
        char text[256];
        FAIL(E_FORMAT, "shape %s does not fit in memory", tensor_shape_text(tensor->dimensions, tensor->shape, text));
    }
out:
    return status;
}

static int read_dtype(struct tensor *tensor, const struct json *node) {
    int status = 0;
    const char *name;
    TRY(json_text(node, "dtype", &name));
    for (size_t i = 0; i < DTYPES; i++) {
        if (!dtype_bytes((enum dtype)i) || strcmp(dtype_name((enum dtype)i), name) != 0) continue;
        tensor->dtype = (enum dtype)i;
        return 0;
    }
    FAIL(E_FORMAT, "dtype '%.40s' is not known", name);
out:
    return status;
}

static int read_tensor(struct tensor *tensor, const struct json *node, const uint8_t *data, size_t data_bytes) {
    int status = 0;
    char text[256];
    uint64_t begin, end;
    if (node->type != JSON_OBJECT) FAIL(E_FORMAT, "needs an object with dtype, shape and data_offsets");
    TRY(read_dtype(tensor, json_member(node, "dtype")));
    TRY(read_shape(tensor, json_member(node, "shape")));
    const struct json *offsets = json_member(node, "data_offsets");
    if (!offsets || offsets->type != JSON_ARRAY || offsets->count != 2)
        FAIL(E_FORMAT, "needs data_offsets, an array of two whole numbers");
    TRY(json_u64(offsets->child, "data_offsets", &begin));
    TRY(json_u64(offsets->child->next, "data_offsets", &end));
    if (begin > end) FAIL(E_FORMAT, "data_offsets [%zu, %zu] run backwards", (size_t)begin, (size_t)end);
    if (end - begin != tensor->bytes)
        FAIL(E_FORMAT, "data_offsets [%zu, %zu] are %zu bytes but %s %s takes %zu", (size_t)begin, (size_t)end,
             (size_t)(end - begin), dtype_name(tensor->dtype),
             tensor_shape_text(tensor->dimensions, tensor->shape, text), tensor->bytes);
    if (end > data_bytes)
        FAIL(E_FORMAT, "data_offsets [%zu, %zu] lie outside the file's %zu bytes of data (file cut short?)",
             (size_t)begin, (size_t)end, data_bytes);
    tensor->data = data + begin;
out:
    return status;
}

static int read_metadata(struct safetensors *file, const struct json *node) {
    int status = 0;
    void *block = NULL;
    if (node->type != JSON_OBJECT) FAIL(E_FORMAT, METADATA " must be an object of strings");
    TRY(memory_take(&block, node->count, sizeof *file->metadata));
    file->metadata = block;
    for (const struct json *member = node->child; member; member = member->next) {
        const char *value;
        status = json_text(member, "value", &value);
        if (status < 0) {
            error_prefix(status, METADATA " '%.100s'", member->key);
            goto out;
        }
        file->metadata[file->metadata_count++] = (struct safetensors_meta){member->key, value};
    }
out:
    return status;
}

static int compare_places(const void *a, const void *b) {
    const struct tensor *x = a, *y = b;
    if (x->data != y->data) return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The tensors must lie end to end over all of the data. */
static int check_tiling(const struct safetensors *file, const uint8_t *data, size_t data_bytes) {
    int status = 0;
    const uint8_t *expected = data;
    for (size_t i = 0; i < file->count; i++) {
        const struct tensor *tensor = &file->tensors[i];
        const uint8_t *begin = tensor->data;
        if (begin < expected)
            FAIL(E_FORMAT, "tensor '%.200s': its data overlaps that of '%.200s'", tensor->name,
                 file->tensors[i - 1].name);
        if (begin > expected)
            FAIL(E_FORMAT, "tensor '%.200s': %zu bytes before its data belong to no tensor", tensor->name,
                 (size_t)(begin - expected));
        expected = begin + tensor->bytes;
    }
    if (expected != data + data_bytes)
        FAIL(E_FORMAT, "%zu bytes at the end belong to no tensor", (size_t)(data + data_bytes - expected));
out:
    return status;
}

static int read_header(struct safetensors *file) {
    int status = 0;
    void *block = NULL;
    uint64_t length = 0;
    struct json_document *document;
    if (file->map.count < LENGTH_BYTES)
        FAIL(E_FORMAT, "has %zu bytes; a safetensors file starts with 8 bytes of header length", file->map.count);
    for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)file->map.bytes[i] << 8 * i;
    if (length > HEADER_MAX)
        FAIL(E_FORMAT, "header of %llu bytes is larger than the allowed %u (not a safetensors file?)",
             (unsigned long long)length, HEADER_MAX);
    if (length > file->map.count - LENGTH_BYTES)
        FAIL(E_FORMAT, "header of %zu bytes in a file of %zu (file cut short?)", (size_t)length, file->map.count);
    const uint8_t *data = file->map.bytes + LENGTH_BYTES + length;
    size_t data_bytes = file->map.count - LENGTH_BYTES - (size_t)length;
    TRY(memory_take(&block, 1, sizeof *document));
    file->document = document = block;
    status = json_open(document, (const char *)file->map.bytes + LENGTH_BYTES, (size_t)length);
    if (status < 0) {
        error_prefix(status, "header");
        goto out;
    }
    const struct json *root = json_root(document);
    if (root->type != JSON_OBJECT || file->map.bytes[LENGTH_BYTES] != '{')
        FAIL(E_FORMAT, "header must be a JSON object");
    TRY(memory_take(&block, root->count, sizeof *file->tensors));
    file->tensors = block;
    for (const struct json *member = root->child; member; member = member->next) {
        if (strcmp(member->key, METADATA) == 0) {
            TRY(read_metadata(file, member));
            continue;
        }
        struct tensor *tensor = &file->tensors[file->count++];
        tensor->name = member->key;
        status = read_tensor(tensor, member, data, data_bytes);
        if (status < 0) {
            error_prefix(status, "tensor '%.200s'", member->key);
            goto out;
        }
    }
    qsort(file->tensors, file->count, sizeof *file->tensors, compare_places);
    TRY(check_tiling(file, data, data_bytes));
    qsort(file->tensors, file->count, sizeof *file->tensors, tensor_compare_names);
out:
    return status;
}

int safetensors_open(struct safetensors *file, const char *path) {
    int status = 0;
    *file = (struct safetensors){0};
    TRY(file_map_open(&file->map, path));
    status = read_header(file);
    if (status < 0) error_prefix(status, "%s", path);
out:
    if (status < 0) safetensors_close(file);
    return status;
}

void safetensors_close(struct safetensors *file) {
    if (file->document) json_close(file->document);
    memory_release(file->document);
    memory_release(file->tensors);
    memory_release(file->metadata);
    file_map_close(&file->map);
    *file = (struct safetensors){0};
}

/* ---- looking up ----------------------------------------------------------------------------------- */
const struct tensor *safetensors_find(const struct safetensors *file, const char *name) {
    struct tensor key = {.name = name};
    if (!file->count) return NULL;
    return bsearch(&key, file->tensors, file->count, sizeof key, tensor_compare_names);
}

int safetensors_require(const struct safetensors *file, const char *name, enum dtype dtype, size_t dimensions,
                        const size_t *shape, const struct tensor **tensor) {
    int status = 0;
    char wanted[256], given[256];
    const struct tensor *found = safetensors_find(file, name);
    *tensor = NULL;
    if (!found) FAIL(E_NOT_FOUND, "%s: has no tensor '%.200s'", file->map.path, name);
    if (found->dtype != dtype || found->dimensions != dimensions ||
        (dimensions && memcmp(found->shape, shape, dimensions * sizeof *shape) != 0))
        FAIL(E_SHAPE, "%s: tensor '%.200s' is %s %s but must be %s %s", file->map.path, name, dtype_name(found->dtype),
             tensor_shape_text(found->dimensions, found->shape, given), dtype_name(dtype),
             tensor_shape_text(dimensions, shape, wanted));
    *tensor = found;
out:
    return status;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key) {
    for (size_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
    return NULL;
}

/* ---- writing -------------------------------------------------------------------------------------- */
static void print_header(struct json_writer *header, const struct tensor *tensors, size_t count,
                         const struct safetensors_meta *metadata, size_t metadata_count) {
    char shape[256];
    size_t begin = 0;
    json_raw(header, "{");
    if (metadata_count) {
        json_raw(header, "\"" METADATA "\":{");
        for (size_t i = 0; i < metadata_count; i++) {
            if (i) json_raw(header, ",");
            json_quoted(header, metadata[i].key);
            json_raw(header, ":");
            json_quoted(header, metadata[i].value);
        }
        json_raw(header, "}");
    }
    for (size_t i = 0; i < count; i++) {
        if (i || metadata_count) json_raw(header, ",");
        json_quoted(header, tensors[i].name);
        json_format(header, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", dtype_name(tensors[i].dtype),
                    tensor_shape_text(tensors[i].dimensions, tensors[i].shape, shape), begin, begin + tensors[i].bytes);
        begin += tensors[i].bytes;
    }
    json_raw(header, "}");
    while (header->status == 0 && (LENGTH_BYTES + header->bytes) % DATA_ALIGN) json_raw(header, " ");
}

static int compare_texts(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static int check_unique(const char **names, size_t count, const char *what) {
    int status = 0;
    qsort(names, count, sizeof *names, compare_texts);
    for (size_t i = 1; i < count; i++)
        if (strcmp(names[i - 1], names[i]) == 0) FAIL(E_ARGUMENT, "%s '%.200s' is given twice", what, names[i]);
out:
    return status;
}

/* The arguments, checked, with count and bytes filled in; the caller releases *measured. */
static int measure_all(const struct tensor *tensors, size_t count, const struct safetensors_meta *metadata,
                       size_t metadata_count, struct tensor **measured) {
    int status = 0;
    void *block = NULL, *names_block = NULL;
    size_t total = 0;
    TRY(memory_take(&block, count, sizeof **measured));
    *measured = block;
    TRY(memory_take(&names_block, count > metadata_count ? count : metadata_count, sizeof(char *)));
    const char **names = names_block;
    for (size_t i = 0; i < count; i++) {
        struct tensor *tensor = &(*measured)[i];
        *tensor = tensors[i];
        names[i] = tensor->name;
        if (strcmp(tensor->name, METADATA) == 0) FAIL(E_ARGUMENT, "a tensor must not be named " METADATA);
        if (tensor->dimensions > TENSOR_DIMENSIONS || !dtype_bytes(tensor->dtype))
            FAIL(E_ARGUMENT, "tensor '%.200s' has %zu dimensions and dtype %d", tensor->name, tensor->dimensions,
                 (int)tensor->dtype);
        TRY(tensor_measure(tensor));
        TRY(size_add(total, tensor->bytes, &total));
        if (!tensor->data && tensor->bytes) FAIL(E_ARGUMENT, "tensor '%.200s' has no data", tensor->name);
    }
    TRY(check_unique(names, count, "tensor"));
    for (size_t i = 0; i < metadata_count; i++) names[i] = metadata[i].key;
    TRY(check_unique(names, metadata_count, "metadata key"));
out:
    memory_release(names_block);
    return status;
}

int safetensors_write(const char *path, const struct tensor *tensors, size_t count,
                      const struct safetensors_meta *metadata, size_t metadata_count) {
    int status = 0;
    struct file_replace file = {.file = -1};
    struct json_writer header = {0};
    struct tensor *measured = NULL;
    uint8_t length[LENGTH_BYTES];
    TRY(measure_all(tensors, count, metadata, metadata_count, &measured));
    print_header(&header, measured, count, metadata, metadata_count);
    TRY(header.status);
    if (header.bytes > HEADER_MAX) FAIL(E_LIMIT, "header of %zu bytes is larger than %u", header.bytes, HEADER_MAX);
    for (int i = 0; i < LENGTH_BYTES; i++) length[i] = (uint8_t)((uint64_t)header.bytes >> 8 * i);
    TRY(file_replace_open(&file, path));
    TRY(file_replace_write(&file, length, sizeof length));
    TRY(file_replace_write(&file, header.text, header.bytes));
    for (size_t i = 0; i < count; i++) TRY(file_replace_write(&file, measured[i].data, measured[i].bytes));
    TRY(file_replace_commit(&file));
out:
    file_replace_close(&file);
    json_writer_close(&header);
    memory_release(measured);
    return status;
}
