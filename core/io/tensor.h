/* A tensor of a file: a name, a type, a shape, and a view of its bytes, whatever the file's format.
 *
 * Types are safetensors' plain ones and ggml's block types, where a row is a run of blocks. Shapes are
 * row-major, outermost first, as Hugging Face writes them (GGUF lists them the other way round). Views need no
 * alignment.
 */
#ifndef TENSOR_H
#define TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_BOOL,
    DTYPE_Q8_0, /* from here on blocks: GGUF alone has them */
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_IQ4_NL,
    DTYPE_Q2_K,
    DTYPE_Q3_K,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPES
};
const char *dtype_name(enum dtype dtype);                  /* "F32"; "?" */
size_t dtype_bytes(enum dtype dtype);                      /* of one element; 0 for block types */
size_t dtype_block(enum dtype dtype, size_t *block_bytes); /* elements per block (1 for plain types) and its bytes */
bool dtype_is_real(enum dtype dtype);                      /* tensor_rows_to_f32 reads it */

#define TENSOR_DIMENSIONS 8

struct tensor {
    const char *name;
    enum dtype dtype;
    size_t dimensions;
    size_t shape[TENSOR_DIMENSIONS];
    size_t count; /* elements */
    size_t bytes;
    const void *data;
};

/* "[4,4]" */
const char *tensor_shape_text(size_t dimensions, const size_t *shape, char text[256]);
/* count and bytes from dtype and shape: E_LIMIT when they do not fit, E_SHAPE when a row is not whole blocks. */
int tensor_measure(struct tensor *tensor);
int tensor_compare_names(const void *a, const void *b); /* two struct tensor, for qsort and bsearch */

/* Rows begin..end-1 of a matrix as f32, out (end-begin, columns), where columns is the last dimension and all others
 * together are the rows. Real types only: the caller has checked dtype_is_real. */
void tensor_rows_to_f32(const struct tensor *tensor, size_t begin, size_t end, float *out);
/* A whole tensor. E_UNSUPPORTED for integers. */
int tensor_to_f32(const struct tensor *tensor, float *out);

/* Tensors of one model, wherever they lie, sorted by name; a view. */
struct tensor_list {
    const struct tensor *tensors;
    size_t count;
};
const struct tensor *tensor_list_find(const struct tensor_list *list, const char *name); /* NULL when absent */

#endif
