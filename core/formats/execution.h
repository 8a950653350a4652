/* How a format is multiplied: what weight.c needs beyond the traits that techniques see (private to
 * formats/). A new format is a file with two rows, `struct weight_format` and `struct weight_execution`,
 * and one line in registry.c. */
#ifndef EXECUTION_H
#define EXECUTION_H

#include "formats/weight.h"

/* What multiplication needs beyond the packed bytes. */
struct weight_prepared {
    enum gemm_backend backend;
    float *panels;                     /* f32 builtin: [Rp/16][N][16] */
    bool owns_panels;                  /* false: they lie in the weight's room */
    float *scale;                      /* int8: [Rp] */
    int32_t *row_negative, *row_total; /* int8: [Rp], as matmul_s8 takes them */
    int32_t *row_sum;                  /* int8: [Rp] Σ over the columns of code - zero point */
    int32_t *row_zero;                 /* int8_affine: [Rp] zero points */
    float *row_value;                  /* int8_groups: [Rp], as matmul_s8_groups takes it */
    struct onednn *onednn;             /* f32 and int8 with GEMM_ONEDNN */
};

/* Columns of x that are not in its codes, sequence by sequence. */
struct outliers {
    uint16_t *columns;  /* (sequences,N), rising, count[i] of them */
    uint32_t *count;    /* [sequences] */
    uint32_t *sequence; /* [T] of each token */
    size_t N;
};

/* A block of activations as the kernels take it; the integer side is NULL for formats that do not ask. */
struct weight_input {
    const float *x;                  /* (T,N), rounded where the format asks */
    const int8_t *q;                 /* (T,n_padded) */
    const float *scale;              /* [T] */
    const int32_t *zero;             /* [T] zero points; NULL: none */
    const int32_t *sums;             /* (T,n_padded/G) */
    const struct outliers *outliers; /* NULL: none are left out */
    const uint16_t *bf16;            /* (T,n_padded), for formats that ask for n_padded without groups */
};

struct weight_execution {
    /* n_padded and G of the quantized input; G 0: the input as bf16, padded with zeros. NULL when the format takes f32.
     */
    void (*input)(const struct weight_shape *shape, size_t *n_padded, size_t *group);
    bool rounds_to_f16;  /* the input is f32, each value rounded to f16 */
    uint32_t tiles_flag; /* the CPU's flag with which multiply goes by 32 tokens and is many times faster; 0: none */
    /* Fill the fields of `prepared` that multiply reads; *bytes: what they take. NULL when there is nothing. */
    int (*prepare)(const struct weight *weight, struct weight_prepared *prepared, size_t *bytes);
    /* Tokens t_begin..t_end-1 by panels p_begin..p_end-1 of y (T,R). */
    void (*multiply)(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                     size_t p_begin, size_t p_end, const float *bias, float *y);
    /* Tokens t_begin..t_end-1 of y (T,R), which holds the bits of integer sums that a library made: what multiply makes
     * of them. NULL where no library does. */
    void (*finish)(const struct weight *weight, const struct weight_input *input, size_t t_begin, size_t t_end,
                   const float *bias, float *y);
};

extern const struct weight_format format_f32, format_f16, format_f16_both, format_bf16, format_bf16_weights,
    format_int8, format_int8_affine, format_int8_groups, format_int4;

/* A panel of f16 from `valid` dense f16 rows as weight_rows has them: the same bytes as from their f32 values. False: a
 * value is not finite. */
bool float16_fill_halves(const struct weight_shape *shape, size_t panel, size_t valid, const uint16_t *rows,
                         uint16_t *packed);

/* weight_fill_rows of a 16-bit format: false where a value is NaN, or infinite once it is rounded. */
bool float16_fill(const struct weight_format *format, const struct weight_shape *shape, size_t first, size_t count,
                  const float *w, uint16_t *packed);

/* `bytes` of undefined contents: from the room while it lasts, else a block of its own (*owned: to be released). */
int weight_room_take(struct arena *room, size_t bytes, void **block, bool *owned);

/* Rows and columns must be positive and their product small enough that sizes in bytes cannot overflow. */
int weight_shape_check(const struct weight_format *format, const struct weight_shape *shape);

/* y += x · wᵀ over the columns left out of tokens t_begin..t_end-1, for rows of panels p_begin..p_end-1 (int8.c's
 * layout): per output one chain over the columns, then one multiplication by the row's scale. */
void outliers_multiply(const struct outliers *outliers, const float *x, const struct weight_shape *shape,
                       const int8_t *codes, const float *scale, size_t t_begin, size_t t_end, size_t p_begin,
                       size_t p_end, float *y);

static inline size_t panels_of(size_t rows) { return (rows + 15) / 16; }

#endif
