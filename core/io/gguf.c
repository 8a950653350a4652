/* Reading GGUF: one walk through the header with a cursor that cannot leave the file.
 *
 * Memory is taken only for what the file can really hold: counts are bounded by the bytes that their entries need
 * at least. Strings inside arrays are walked at once, so that later iteration needs no checks.
 */
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#define ALIGNMENT_KEY "general.alignment"
#define ALIGNMENT_USUAL 32u
#define ALIGNMENT_MOST (1u << 20)
#define NAME_MOST 4096    /* bytes of a key or tensor name; the format allows keys of 65535, ggml names of 63 */
#define DIMENSIONS_MOST 4 /* ggml's own limit */

static const size_t type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* ggml's numbers of tensor types (ggml.h); the rest are withdrawn, need tables of their own, or are ternary. */
static const struct {
    uint32_t number;
    enum dtype dtype;
} tensor_types[] = {
    {0, DTYPE_F32},   {1, DTYPE_F16},   {2, DTYPE_Q4_0},    {3, DTYPE_Q4_1},  {6, DTYPE_Q5_0},
    {7, DTYPE_Q5_1},  {8, DTYPE_Q8_0},  {10, DTYPE_Q2_K},   {11, DTYPE_Q3_K}, {12, DTYPE_Q4_K},
    {13, DTYPE_Q5_K}, {14, DTYPE_Q6_K}, {20, DTYPE_IQ4_NL}, {24, DTYPE_I8},   {25, DTYPE_I16},
    {26, DTYPE_I32},  {27, DTYPE_I64},  {28, DTYPE_F64},    {30, DTYPE_BF16},
};

/* Known and not read. */
static const struct {
    uint32_t number;
    const char *name;
} other_types[] = {
    {9, "Q8_1"},   {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {21, "IQ3_S"},
    {22, "IQ2_S"}, {23, "IQ4_XS"}, {29, "IQ1_M"},   {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"},
};

/* ---- the cursor ------------------------------------------------------------------------------------- */
struct cursor {
    const uint8_t *at;
    size_t left;
};

static int take_bytes(struct cursor *cursor, uint64_t count, const uint8_t **bytes, const char *what) {
    int status = 0;
    if (count > cursor->left)
        FAIL(E_FORMAT, "%s takes %llu bytes but %zu are left (file cut short?)", what, (unsigned long long)count,
             cursor->left);
    *bytes = cursor->at;
    cursor->at += count;
    cursor->left -= (size_t)count;
out:
    return status;
}

static uint64_t whole_at(const uint8_t *bytes, size_t count) {
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++) value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

static int take_whole(struct cursor *cursor, size_t bytes, uint64_t *value, const char *what) {
    const uint8_t *at = NULL;
    int status = take_bytes(cursor, bytes, &at, what);
    *value = status == 0 ? whole_at(at, bytes) : 0;
    return status;
}

static int take_string(struct cursor *cursor, const char **text, size_t *bytes, const char *what) {
    int status = 0;
    uint64_t count;
    const uint8_t *at = NULL;
    TRY(take_whole(cursor, 8, &count, what));
    TRY(take_bytes(cursor, count, &at, what));
    *text = (const char *)at;
    *bytes = (size_t)count;
out:
    return status;
}

/* A key or a tensor's name, copied with a zero behind it to *names, which moves on. */
static int take_name(struct cursor *cursor, char **names, const char **name, const char *what) {
    int status = 0;
    const char *text = NULL;
    size_t bytes = 0;
    TRY(take_string(cursor, &text, &bytes, what));
    if (bytes == 0 || bytes > NAME_MOST)
        FAIL(E_FORMAT, "%s has %zu bytes (1 to %d are allowed)", what, bytes, NAME_MOST);
    if (memchr(text, 0, bytes)) FAIL(E_FORMAT, "%s holds a zero byte", what);
    *name = *names;
    memcpy(*names, text, bytes);
    (*names)[bytes] = 0;
    *names += bytes + 1;
out:
    return status;
}

/* ---- metadata --------------------------------------------------------------------------------------- */
static int take_strings(struct cursor *cursor, uint64_t count) {
    int status = 0;
    const char *text;
    size_t bytes;
    if (count > cursor->left / 8)
        FAIL(E_FORMAT, "%llu strings do not fit into the %zu bytes left", (unsigned long long)count, cursor->left);
    for (uint64_t i = 0; i < count; i++) TRY(take_string(cursor, &text, &bytes, "a string"));
out:
    return status;
}

static int take_value(struct cursor *cursor, struct gguf_entry *entry) {
    int status = 0;
    uint64_t type = 0;
    TRY(take_whole(cursor, 4, &type, "a type"));
    entry->count = 1;
    entry->array = type == GGUF_ARRAY;
    if (entry->array) {
        TRY(take_whole(cursor, 4, &type, "an array's type"));
        TRY(take_whole(cursor, 8, &entry->count, "an array's length"));
        if (type == GGUF_ARRAY) FAIL(E_UNSUPPORTED, "arrays of arrays are not supported");
    }
    if (type >= GGUF_TYPES) FAIL(E_FORMAT, "value type %llu is not known", (unsigned long long)type);
    entry->type = (enum gguf_type)type;
    entry->data = cursor->at;
    if (type == GGUF_STRING) {
        TRY(take_strings(cursor, entry->count));
    } else {
        const uint8_t *bytes = NULL;
        size_t size = type_bytes[type];
        if (entry->count > cursor->left / size)
            FAIL(E_FORMAT, "%llu values of %zu bytes do not fit into the %zu bytes left",
                 (unsigned long long)entry->count, size, cursor->left);
        TRY(take_bytes(cursor, entry->count * size, &bytes, "a value"));
        for (uint64_t i = 0; type == GGUF_BOOL && i < entry->count; i++)
            if (bytes[i] > 1) FAIL(E_FORMAT, "a bool is %u", bytes[i]);
    }
    entry->bytes = (size_t)(cursor->at - entry->data);
out:
    return status;
}

static int take_entries(struct gguf *file, struct cursor *cursor, char **names) {
    int status = 0;
    for (size_t i = 0; i < file->entry_count; i++) {
        struct gguf_entry *entry = &file->entries[i];
        TRY(take_name(cursor, names, &entry->key, "a key"));
        status = take_value(cursor, entry);
        if (status < 0) {
            error_prefix(status, "key '%.100s'", entry->key);
            goto out;
        }
    }
out:
    return status;
}

/* ---- tensors ---------------------------------------------------------------------------------------- */
static int tensor_type(uint64_t number, enum dtype *dtype) {
    for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++)
        if (tensor_types[i].number == number) {
            *dtype = tensor_types[i].dtype;
            return 0;
        }
    for (size_t i = 0; i < sizeof other_types / sizeof other_types[0]; i++)
        if (other_types[i].number == number)
            return error_record(E_UNSUPPORTED, __FILE__, __LINE__,
                                "tensor type %s is not supported; quantize the model to a K-quant, Q8_0 or F16",
                                other_types[i].name);
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "tensor type %llu is not supported",
                        (unsigned long long)number);
}

/* Shape, type and size; *offset into the data. */
static int take_tensor(struct cursor *cursor, struct tensor *tensor, uint64_t *offset) {
    int status = 0;
    uint64_t dimensions = 0, size = 0, number = 0;
    char text[256];
    TRY(take_whole(cursor, 4, &dimensions, "a number of dimensions"));
    if (dimensions < 1 || dimensions > DIMENSIONS_MOST)
        FAIL(E_FORMAT, "has %llu dimensions (1 to %d are allowed)", (unsigned long long)dimensions, DIMENSIONS_MOST);
    tensor->dimensions = (size_t)dimensions;
    for (size_t i = tensor->dimensions; i-- > 0;) {
        TRY(take_whole(cursor, 8, &size, "a size"));
        if (size == 0 || size > PTRDIFF_MAX) FAIL(E_FORMAT, "has a size of %llu", (unsigned long long)size);
        tensor->shape[i] = (size_t)size;
    }
    TRY(take_whole(cursor, 4, &number, "a tensor type"));
    TRY(take_whole(cursor, 8, offset, "an offset"));
    TRY(tensor_type(number, &tensor->dtype));
    status = tensor_measure(tensor);
    if (status < 0) error_prefix(status, "shape %s", tensor_shape_text(tensor->dimensions, tensor->shape, text));
out:
    return status;
}

static int take_tensors(struct gguf *file, struct cursor *cursor, char **names, uint64_t *offsets) {
    int status = 0;
    for (size_t i = 0; i < file->tensor_count; i++) {
        TRY(take_name(cursor, names, &file->tensors[i].name, "a tensor's name"));
        status = take_tensor(cursor, &file->tensors[i], &offsets[i]);
        if (status < 0) {
            error_prefix(status, "tensor '%.100s'", file->tensors[i].name);
            goto out;
        }
    }
out:
    return status;
}

static int compare_places(const void *a, const void *b) {
    const struct tensor *x = a, *y = b;
    if (x->data != y->data) return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Point tensors at their data, which must be aligned, inside the file, and disjoint. */
static int place_tensors(struct gguf *file, const uint64_t *offsets, const uint8_t *data, size_t data_bytes,
                         size_t alignment) {
    int status = 0;
    for (size_t i = 0; i < file->tensor_count; i++) {
        struct tensor *tensor = &file->tensors[i];
        if (offsets[i] % alignment)
            FAIL(E_FORMAT, "tensor '%.100s': offset %llu is not a multiple of the alignment %zu", tensor->name,
                 (unsigned long long)offsets[i], alignment);
        if (offsets[i] > data_bytes || tensor->bytes > data_bytes - offsets[i])
            FAIL(E_FORMAT,
                 "tensor '%.100s': %zu bytes at offset %llu lie outside the %zu bytes of data (file cut short?)",
                 tensor->name, tensor->bytes, (unsigned long long)offsets[i], data_bytes);
        tensor->data = data + offsets[i];
    }
    qsort(file->tensors, file->tensor_count, sizeof *file->tensors, compare_places);
    for (size_t i = 1; i < file->tensor_count; i++) {
        const struct tensor *before = &file->tensors[i - 1], *tensor = &file->tensors[i];
        if ((const uint8_t *)before->data + before->bytes > (const uint8_t *)tensor->data)
            FAIL(E_FORMAT, "tensor '%.100s': its data overlaps that of '%.100s'", tensor->name, before->name);
    }
    qsort(file->tensors, file->tensor_count, sizeof *file->tensors, tensor_compare_names);
    for (size_t i = 1; i < file->tensor_count; i++)
        if (strcmp(file->tensors[i - 1].name, file->tensors[i].name) == 0)
            FAIL(E_FORMAT, "tensor '%.100s' occurs twice", file->tensors[i].name);
out:
    return status;
}

/* ---- the header ------------------------------------------------------------------------------------- */
static int compare_keys(const void *a, const void *b) {
    const struct gguf_entry *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static int sort_entries(struct gguf *file) {
    int status = 0;
    qsort(file->entries, file->entry_count, sizeof *file->entries, compare_keys);
    for (size_t i = 1; i < file->entry_count; i++)
        if (strcmp(file->entries[i - 1].key, file->entries[i].key) == 0)
            FAIL(E_FORMAT, "key '%.100s' occurs twice", file->entries[i].key);
out:
    return status;
}

static int read_alignment(const struct gguf *file, size_t *alignment) {
    int status = 0;
    uint64_t value;
    *alignment = ALIGNMENT_USUAL;
    if (!gguf_find(file, ALIGNMENT_KEY)) goto out;
    TRY(gguf_u64(file, ALIGNMENT_KEY, &value));
    if (value == 0 || value > ALIGNMENT_MOST || (value & (value - 1)))
        FAIL(E_FORMAT, "key '" ALIGNMENT_KEY "': %llu is not a power of two up to %u", (unsigned long long)value,
             ALIGNMENT_MOST);
    *alignment = (size_t)value;
out:
    return status;
}

static int take_counts(struct gguf *file, struct cursor *cursor) {
    int status = 0;
    uint64_t version = 0, tensors = 0, entries = 0;
    const uint8_t *magic = NULL;
    TRY(take_bytes(cursor, 4, &magic, "the magic number"));
    if (memcmp(magic, "GGUF", 4) != 0) FAIL(E_FORMAT, "does not start with \"GGUF\"");
    TRY(take_whole(cursor, 4, &version, "the version"));
    if (version >= 1u << 16 && (version & 0xffff) == 0) FAIL(E_UNSUPPORTED, "is big endian");
    if (version != 2 && version != 3)
        FAIL(E_UNSUPPORTED, "GGUF version %llu is not supported (2 and 3 are)", (unsigned long long)version);
    TRY(take_whole(cursor, 8, &tensors, "the number of tensors"));
    TRY(take_whole(cursor, 8, &entries, "the number of metadata entries"));
    /* At least: an entry has a length, one byte of key, a type, one byte; a tensor a length, one byte of name,
     * dimensions, one size, a type, an offset. */
    if (entries > cursor->left / 14 || tensors > cursor->left / 33)
        FAIL(E_FORMAT, "%llu metadata entries and %llu tensors do not fit into the %zu bytes left (file cut short?)",
             (unsigned long long)entries, (unsigned long long)tensors, cursor->left);
    file->version = (uint32_t)version;
    file->entry_count = (size_t)entries;
    file->tensor_count = (size_t)tensors;
out:
    return status;
}

static int read_header(struct gguf *file) {
    int status = 0;
    struct cursor cursor = {file->map.bytes, file->map.count};
    void *block, *offsets = NULL;
    char *names;
    size_t alignment = ALIGNMENT_USUAL, header, entries, tensors;

    TRY(take_counts(file, &cursor));
    entries = file->entry_count, tensors = file->tensor_count;
    file->entry_count = file->tensor_count = 0; /* nothing to look through until the tables are whole */
    TRY(memory_take(&block, entries, sizeof *file->entries));
    file->entries = block;
    TRY(memory_take(&block, tensors, sizeof *file->tensors));
    file->tensors = block;
    TRY(memory_take(&offsets, tensors, sizeof(uint64_t)));
    /* A name takes eight bytes of length in the file and one zero here; none is longer than NAME_MOST. */
    size_t most = (entries + tensors) * (NAME_MOST + 1);
    TRY(memory_take(&block, most < cursor.left ? most : cursor.left, 1));
    file->names = names = block;
    file->entry_count = entries;
    TRY(take_entries(file, &cursor, &names));
    TRY(sort_entries(file));
    TRY(read_alignment(file, &alignment));
    file->tensor_count = tensors;
    TRY(take_tensors(file, &cursor, &names, offsets));
    header = size_round_up(file->map.count - cursor.left, alignment);
    if (header > file->map.count) {
        if (tensors) FAIL(E_FORMAT, "ends inside its header (file cut short?)");
        header = file->map.count;
    }
    TRY(place_tensors(file, offsets, file->map.bytes + header, file->map.count - header, alignment));
out:
    memory_release(offsets);
    return status;
}

int gguf_open(struct gguf *file, const char *path) {
    int status = 0;
    *file = (struct gguf){0};
    TRY(file_map_open(&file->map, path));
    status = read_header(file);
    if (status < 0) error_prefix(status, "%s", path);
out:
    if (status < 0) gguf_close(file);
    return status;
}

void gguf_close(struct gguf *file) {
    memory_release(file->entries);
    memory_release(file->tensors);
    memory_release(file->names);
    file_map_close(&file->map);
    *file = (struct gguf){0};
}

/* ---- looking up ------------------------------------------------------------------------------------- */
const struct gguf_entry *gguf_find(const struct gguf *file, const char *key) {
    struct gguf_entry wanted = {.key = key};
    if (!file->entry_count) return NULL;
    return bsearch(&wanted, file->entries, file->entry_count, sizeof wanted, compare_keys);
}

const struct tensor *gguf_tensor(const struct gguf *file, const char *name) {
    struct tensor_list list = {file->tensors, file->tensor_count};
    return tensor_list_find(&list, name);
}

static int require(const struct gguf *file, const char *key, const struct gguf_entry **entry) {
    int status = 0;
    *entry = gguf_find(file, key);
    if (!*entry) FAIL(E_NOT_FOUND, "key '%.100s' is missing", key);
    if ((*entry)->array) FAIL(E_FORMAT, "key '%.100s' is an array", key);
out:
    return status;
}

int64_t gguf_element_whole(const struct gguf_entry *entry, uint64_t i) {
    size_t size = type_bytes[entry->type];
    uint64_t value = whole_at(entry->data + i * size, size);
    switch (entry->type) {
    case GGUF_I8: return (int8_t)value;
    case GGUF_I16: return (int16_t)value;
    case GGUF_I32: return (int32_t)value;
    default: return (int64_t)value;
    }
}

double gguf_element(const struct gguf_entry *entry, uint64_t i) {
    float single;
    double wide;
    switch (entry->type) {
    case GGUF_F32: memcpy(&single, entry->data + 4 * i, 4); return (double)single;
    case GGUF_F64: memcpy(&wide, entry->data + 8 * i, 8); return wide;
    case GGUF_U64: return (double)whole_at(entry->data + 8 * i, 8);
    default: return (double)gguf_element_whole(entry, i);
    }
}

int gguf_u64(const struct gguf *file, const char *key, uint64_t *value) {
    int status = 0;
    const struct gguf_entry *entry;
    TRY(require(file, key, &entry));
    if (entry->type == GGUF_STRING || entry->type == GGUF_F32 || entry->type == GGUF_F64 || entry->type == GGUF_BOOL)
        FAIL(E_FORMAT, "key '%.100s' must be a whole number", key);
    int64_t whole = gguf_element_whole(entry, 0);
    if (whole < 0 && entry->type != GGUF_U64) FAIL(E_FORMAT, "key '%.100s' is negative", key);
    *value = (uint64_t)whole;
out:
    return status;
}

int gguf_number(const struct gguf *file, const char *key, double *value) {
    int status = 0;
    const struct gguf_entry *entry;
    TRY(require(file, key, &entry));
    if (entry->type == GGUF_STRING || entry->type == GGUF_BOOL) FAIL(E_FORMAT, "key '%.100s' must be a number", key);
    *value = gguf_element(entry, 0);
out:
    return status;
}

int gguf_bool(const struct gguf *file, const char *key, bool *value) {
    int status = 0;
    const struct gguf_entry *entry;
    TRY(require(file, key, &entry));
    if (entry->type != GGUF_BOOL) FAIL(E_FORMAT, "key '%.100s' must be a bool", key);
    *value = entry->data[0] == 1;
out:
    return status;
}

int gguf_text(const struct gguf *file, const char *key, const char **text, size_t *bytes) {
    int status = 0;
    size_t place = 0;
    const struct gguf_entry *entry;
    TRY(require(file, key, &entry));
    if (entry->type != GGUF_STRING) FAIL(E_FORMAT, "key '%.100s' must be a string", key);
    gguf_next_string(entry, &place, text, bytes);
out:
    return status;
}

bool gguf_next_string(const struct gguf_entry *entry, size_t *place, const char **text, size_t *bytes) {
    if (entry->type != GGUF_STRING || *place >= entry->bytes) return false;
    *bytes = (size_t)whole_at(entry->data + *place, 8);
    *text = (const char *)entry->data + *place + 8;
    *place += 8 + *bytes;
    return true;
}
