/* Types, sizes and reading as f32, common to all file formats. Reading is done by kernels/dequantize.h. */
#include "io/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/dequantize.h"
#include "kernels/kernels.h"

#define NOT_BLOCKS DEQUANTIZE_COUNT

static const struct {
    const char *name;
    size_t block, block_bytes;
    enum dequantize_type reader;
} types[DTYPES] = {
    [DTYPE_F32] = {"F32", 1, 4, NOT_BLOCKS},
    [DTYPE_F16] = {"F16", 1, 2, DEQUANTIZE_f16},
    [DTYPE_BF16] = {"BF16", 1, 2, DEQUANTIZE_bf16},
    [DTYPE_F64] = {"F64", 1, 8, NOT_BLOCKS},
    [DTYPE_I8] = {"I8", 1, 1, NOT_BLOCKS},
    [DTYPE_U8] = {"U8", 1, 1, NOT_BLOCKS},
    [DTYPE_I16] = {"I16", 1, 2, NOT_BLOCKS},
    [DTYPE_U16] = {"U16", 1, 2, NOT_BLOCKS},
    [DTYPE_I32] = {"I32", 1, 4, NOT_BLOCKS},
    [DTYPE_U32] = {"U32", 1, 4, NOT_BLOCKS},
    [DTYPE_I64] = {"I64", 1, 8, NOT_BLOCKS},
    [DTYPE_U64] = {"U64", 1, 8, NOT_BLOCKS},
    [DTYPE_BOOL] = {"BOOL", 1, 1, NOT_BLOCKS},
#define BLOCKS(upper, lower, values, bytes) [DTYPE_##upper] = {#upper, values, bytes, DEQUANTIZE_##lower}
    BLOCKS(Q8_0, q8_0, 32, 34),
    BLOCKS(Q4_0, q4_0, 32, 18),
    BLOCKS(Q4_1, q4_1, 32, 20),
    BLOCKS(Q5_0, q5_0, 32, 22),
    BLOCKS(Q5_1, q5_1, 32, 24),
    BLOCKS(IQ4_NL, iq4_nl, 32, 18),
    BLOCKS(Q2_K, q2_k, 256, 84),
    BLOCKS(Q3_K, q3_k, 256, 110),
    BLOCKS(Q4_K, q4_k, 256, 144),
    BLOCKS(Q5_K, q5_k, 256, 176),
    BLOCKS(Q6_K, q6_k, 256, 210),
};

const char *dtype_name(enum dtype dtype) { return (size_t)dtype < DTYPES ? types[dtype].name : "?"; }

size_t dtype_bytes(enum dtype dtype) {
    return (size_t)dtype < DTYPES && types[dtype].block == 1 ? types[dtype].block_bytes : 0;
}

size_t dtype_block(enum dtype dtype, size_t *block_bytes) {
    *block_bytes = (size_t)dtype < DTYPES ? types[dtype].block_bytes : 0;
    return (size_t)dtype < DTYPES ? types[dtype].block : 1;
}

bool dtype_is_real(enum dtype dtype) {
    return dtype == DTYPE_F32 || ((size_t)dtype < DTYPES && types[dtype].reader != NOT_BLOCKS);
}

const char *tensor_shape_text(size_t dimensions, const size_t *shape, char text[256]) {
    size_t used = (size_t)snprintf(text, 256, "[");
    for (size_t i = 0; i < dimensions && used < 230; i++)
        used += (size_t)snprintf(text + used, 256 - used, "%s%zu", i ? "," : "", shape[i]);
    snprintf(text + used, 256 - used, "]");
    return text;
}

int tensor_measure(struct tensor *tensor) {
    int status = 0;
    size_t block_bytes, block = dtype_block(tensor->dtype, &block_bytes);
    size_t columns = tensor->dimensions ? tensor->shape[tensor->dimensions - 1] : 1;
    tensor->count = 1;
    for (size_t i = 0; i < tensor->dimensions; i++) TRY(size_multiply(tensor->count, tensor->shape[i], &tensor->count));
    if (columns % block)
        FAIL(E_SHAPE, "rows of %zu are not whole %s blocks of %zu", columns, dtype_name(tensor->dtype), block);
    TRY(size_multiply(tensor->count / block, block_bytes, &tensor->bytes));
out:
    return status;
}

int tensor_compare_names(const void *a, const void *b) {
    const struct tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static void to_f32(const struct tensor *tensor, size_t block_begin, size_t blocks, float *out) {
    size_t block_bytes;
    dtype_block(tensor->dtype, &block_bytes);
    const uint8_t *bytes = (const uint8_t *)tensor->data + block_begin * block_bytes;
    if (tensor->dtype == DTYPE_F32) memcpy(out, bytes, blocks * block_bytes);
    else dequantize_find(types[tensor->dtype].reader, kernels.flags)(blocks, bytes, out);
}

void tensor_rows_to_f32(const struct tensor *tensor, size_t begin, size_t end, float *out) {
    size_t block_bytes, block = dtype_block(tensor->dtype, &block_bytes);
    size_t row_blocks = (tensor->dimensions ? tensor->shape[tensor->dimensions - 1] : 1) / block;
    CHECK(dtype_is_real(tensor->dtype), "'%s' is %s", tensor->name, dtype_name(tensor->dtype));
    if (end > begin && row_blocks) to_f32(tensor, begin * row_blocks, (end - begin) * row_blocks, out);
}

int tensor_to_f32(const struct tensor *tensor, float *out) {
    size_t block_bytes, block = dtype_block(tensor->dtype, &block_bytes);
    if (!dtype_is_real(tensor->dtype))
        return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "tensor '%.200s': %s cannot be read as F32",
                            tensor->name, dtype_name(tensor->dtype));
    if (tensor->count) to_f32(tensor, 0, tensor->count / block, out);
    return 0;
}

const struct tensor *tensor_list_find(const struct tensor_list *list, const char *name) {
    struct tensor key = {.name = name};
    if (!list->count) return NULL;
    return bsearch(&key, list->tensors, list->count, sizeof key, tensor_compare_names);
}
