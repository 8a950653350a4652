/* Weight matrices in a storage format: bytes, packing, and multiplication from the packed bytes.
 *
 * A technique chooses values (a grid of scales and zero points, and what to round); the format owns the
 * bytes and the kernels. One traits row per format (`struct weight_format`), one struct per matrix.
 * The packed bytes are the same on disk (a U8 tensor of the artifact) and in memory (mapped), and do not
 * depend on the instruction set.
 *
 *   f32   row-major (R,N); executed from panels made once when the matrix is prepared
 *   f16   pairs of panels u16 [R32/32][N][32], a last panel without another [N][16]; f32 activations
 *   bf16  panels u16 [Rp/16][Np/2][16][2], Np: N to 2; activations are rounded to bf16 as they enter
 *   f16_both      as f16; activations are rounded to f16 as they enter
 *   bf16_weights  pairs as f16; f32 activations
 *   int8  panels s8 [Rp/16][Np/4][16][4], then f32 scale[Rp]; symmetric per row; Rp, Np: R to 16, N to 64
 *   int8_affine  int8, then s8 zero[Rp]: asymmetric per row
 *   int8_groups  panels of groups as KERNEL_MATMUL_S8_GROUPS describes; G = 32, 64, 128; symmetric or asymmetric
 *   int4  panels of groups as KERNEL_MATMUL_U4 describes; G = 32, 64, 128; symmetric or asymmetric
 *
 * int8 and int4 multiply in integers: activations are quantized to int8 as they enter, per token unless the layer says
 * otherwise (8 bits only; formats/activation.h).
 */
#ifndef WEIGHT_H
#define WEIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "formats/activation.h"

enum executes {
    EXECUTES_PACKED,    /* multiplied from the packed bytes */
    EXECUTES_SIMULATED, /* f32 arithmetic on values that only a denser format could exploit */
};

/* How a format is parameterised. group 0: one group per row. */
struct weight_shape {
    size_t rows, columns; /* R, N */
    size_t group;         /* G; 0 for f32 and int8 */
    bool symmetric;
};

/* Scales and zero points chosen by a technique. Value = scale * (code - zero). */
struct weight_grid {
    float *scale;  /* (R, groups); already rounded to the precision that the format stores */
    uint8_t *zero; /* (R, groups); NULL when symmetric. 8 bits: the zero point plus 128 */
    size_t groups; /* per row */
    bool as_torch; /* int8: w * (1/scale), codes down to -128, instead of w / scale down to -127 */
};

/* Private to formats/: how the packed bytes are multiplied. */
struct weight_execution;

struct weight_format {
    const char *name; /* "f32", "int8", "int8_groups", "int4" */
    const char *summary;
    enum executes executes;
    int bits;                /* nominal bits of a code: 32, 8, 4 */
    int code_low, code_high; /* range of codes; symmetric int4 uses 0..15 with zero 8 */
    bool has_groups;         /* group sizes 32, 64, 128 */
    bool paired;             /* panels lie in pairs: not so in artifacts of "shrinklab-1" */
    bool has_asymmetric;
    bool quantizes_input; /* layers choose how their input is quantized (weight_set_activation) */
    /* Bytes of a packed matrix; 0 and E_SHAPE/E_LIMIT through *bytes. */
    int (*size_bytes)(const struct weight_shape *shape, size_t *bytes);
    /* Pack w (R,N) f32 by rounding each value to the grid (nearest even, clamped). Floating formats ignore grid.
     * E_NUMERIC: a value is not a number, or beyond the range of 16 bits. */
    int (*pack)(const struct weight_shape *shape, const float *w, const struct weight_grid *grid, void *packed);
    /* Back to f32 (R,N). */
    int (*unpack)(const struct weight_shape *shape, const void *packed, float *w);
    /* Structural check of bytes from a file (finite scales, codes in range). E_FORMAT. */
    int (*check)(const struct weight_shape *shape, const void *packed, size_t bytes);
    const struct weight_execution *execution;
};

/* The registry: a NULL-terminated array; weight_format_find returns NULL when absent. */
extern const struct weight_format *const weight_formats[];
const struct weight_format *weight_format_find(const char *name);

/* Write rows first..first+count-1, given as w (count,N) f32, into packed bytes of f32 or a 16-bit format that were
 * zeroed and are size_bytes long. For loaders that decode a matrix piece by piece: calls for different rows may run on
 * several threads, and no f32 copy of the whole is needed. The bytes then belong to weight_view, or to a weight as its
 * owned `packed`. E_ARGUMENT; E_UNSUPPORTED for formats with a grid; E_NUMERIC: as `pack` has it, of 16 bits. */
int weight_fill_rows(const struct weight_format *format, const struct weight_shape *shape, size_t first, size_t count,
                     const float *w, void *packed);

/* Bits per weight including scales and zeros. */
double weight_bits(const struct weight_format *format, const struct weight_shape *shape);

/* Round-to-nearest grid over w (R,N), for a format and shape: absmax (symmetric) or min-max including 0
 * (asymmetric), scales rounded to storage precision. grid->scale ((R,groups)) and grid->zero are the
 * caller's, sized by weight_grid_groups. An all-zero group gets scale 0 (symmetric codes then mean 0).
 *   int8, int8_groups symmetric: scale = absmax/127; codes -127..127
 *   int8_affine, int8_groups asymmetric: scale = (max-min)/255, zero = -128 + round(-min/scale), codes -128..127
 *   int4 symmetric: scale = absmax/7, codes 1..15 around zero 8
 *   int4 asymmetric: scale = (max-min)/15, zero = round(-min/scale), codes 0..15 (GPTQ's Quantizer)   */
size_t weight_grid_groups(const struct weight_format *format, const struct weight_shape *shape);
int weight_grid_minmax(const struct weight_format *format, const struct weight_shape *shape, const float *w,
                       struct weight_grid *grid);
/* Scale and zero point (as in grid->zero) for values from low <= 0 to high >= 0. E_NUMERIC: the scale is not finite. */
int weight_grid_range(const struct weight_format *format, bool symmetric, float low, float high, float *scale,
                      uint8_t *zero);
/* A scale rounded to the precision that the format stores: f16 in formats with groups, else unchanged. */
float weight_stored_scale(const struct weight_format *format, float scale);

/* Which implementation multiplies f32 weights. */
enum gemm_backend { GEMM_BUILTIN, GEMM_OPENBLAS, GEMM_ONEDNN };
const char *gemm_backend_name(enum gemm_backend backend);            /* "builtin", … */
int gemm_backend_find(const char *name, enum gemm_backend *backend); /* E_NOT_FOUND; E_UNSUPPORTED when not built in */

/* One matrix. `packed` is borrowed (a mapped file, the model's arena) unless owns_packed. */
struct weight {
    const struct weight_format *format;
    struct weight_shape shape;
    const void *packed;
    size_t packed_bytes;
    bool owns_packed;
    bool simulated; /* the technique's saving is not exploited by this format (e.g. pruned f32) */
    struct activation_quantizer activation; /* 8 bits: how the input is quantized */
    enum gemm_backend backend;
    void *prepared; /* panels, row sums, library objects: made by weight_prepare */
    size_t prepared_bytes;
    struct arena *room; /* where preparing takes a large block first; NULL, or full: a block of its own */
};

/* Bytes that weight_prepare or weight_load takes for a matrix of this format and shape: panels or packed values; 0
 * where the backend keeps its own. For sizing a room. */
size_t weight_room_bytes(const struct weight_format *format, const struct weight_shape *shape,
                         enum gemm_backend backend);

/* Point at packed bytes; checks sizes (E_SHAPE, E_FORMAT). */
int weight_view(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const void *packed, size_t bytes);
/* Pack new bytes that the weight owns. */
int weight_pack(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const float *w, const struct weight_grid *grid);
/* The same with the bytes in `room` while it lasts. */
int weight_pack_room(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                     const float *w, const struct weight_grid *grid, struct arena *room);
/* Make what multiplication needs; idempotent. The backend matters for f32 only. */
int weight_prepare(struct weight *weight, enum gemm_backend backend);
void weight_close(struct weight *weight);
/* Does its product round the input to bf16? */
bool weight_rounds_to_bf16(const struct weight *weight);
/* How an 8-bit matrix's input is quantized from now on; prepared or not. E_UNSUPPORTED: another format; E_ARGUMENT. */
int weight_set_activation(struct weight *weight, const struct activation_quantizer *activation);

/* Rows of a matrix on demand: out (end-begin, N) f32. Called from several threads at once. */
struct weight_rows {
    void (*read)(const void *context, size_t begin, size_t end, float *out);
    const void *context;
    /* NULL, or all the rows as dense f16, N even, at an address that is a multiple of 4: f16 panels are made of these
     * without a detour through f32. */
    const uint16_t *halves;
};
/* A matrix to be made: `weight` is replaced, and keeps its room. */
struct weight_source {
    struct weight *weight;
    const struct weight_format *format; /* f32, f16 or bf16 */
    struct weight_shape shape;
    struct weight_rows rows;
};
/* Make prepared matrices of such rows, all at once on all threads. f32 for the builtin backend has panels alone: its
 * `packed` is NULL. *concerned: the source that an error is about. E_NUMERIC: a value is not finite, or beyond the
 * range of 16 bits; E_UNSUPPORTED; E_MEMORY. After an error no weight is replaced. */
int weight_load(const struct weight_source *sources, size_t count, enum gemm_backend backend, size_t *concerned);

/* Scratch for activations quantized on the way in; grown on demand, reused; close with _close. */
struct weight_scratch {
    void *block;
    size_t bytes;
    /* Whose the rows of the products to come are: sequence i has rows offset[i]..offset[i+1]-1, which together are all
     * T. NULL: every row is a sequence of its own. Asked where activation_joins. The caller's. */
    const uint32_t *offset;
    size_t sequences;
    /* The input of a product to come, converted ahead of it (struct weight_epilogue); two that take turns. Private. */
    struct {
        void *block;
        size_t bytes;
    } ahead[2];
    size_t turn, ahead_T; /* whose turn it is to be written; rows of the other one */
    const float *ahead_x; /* what the other one holds; NULL: nothing */
};
void weight_scratch_close(struct weight_scratch *scratch);

/* y(T,R) = x(T,N) · wᵀ + bias, dense rows, bias [R] or NULL. Runs on threads_get() threads, bit-identical
 * at any number of them for the builtin backend and the integer formats. The weight must be prepared. E_MEMORY. */
int weight_matmul(const struct weight *weight, size_t T, const float *x, const float *bias, float *y,
                  struct weight_scratch *scratch);

/* What is done to a product while its tiles are still in a cache. */
enum weight_activation {
    WEIGHT_PLAIN,
    WEIGHT_GELU,
    WEIGHT_GELU_TANH,
    WEIGHT_RELU,
    WEIGHT_SILU_GATE, /* of exactly two matrices of one shape, gate and up: y[1] = silu(y[0]) * y[1]; y[0] stays */
};
struct weight_epilogue {
    enum weight_activation activation; /* on every output (after the bias) */
    /* NULL, or called for a few tokens at a time, each once, when all outputs of tokens begin..end-1 are complete and
     * activated: residual sums, norms, whatever needs whole rows. Several threads may be in it, at different tokens; it
     * must not depend on where they are cut. */
    void (*rows)(void *context, size_t begin, size_t end);
    void *context;
    /* NULL, or the matrix that is multiplied next with this scratch, and its input, T rows which are complete, block by
     * block, when `rows` has returned and stay as they are until then. Where that converts each row by itself (to
     * codes, to bf16), a block's rows are converted while they are in a cache. */
    const struct weight *next;
    const float *next_x;
};

/* weight_matmul and weight_matmul_shared with an epilogue (NULL: none). Same results as the epilogue applied
 * afterwards, bit for bit. */
int weight_matmul_then(const struct weight *const *weights, const float *const *biases, float *const *y, size_t count,
                       size_t T, const float *x, const struct weight_epilogue *epilogue,
                       struct weight_scratch *scratch);

/* Several matrices with the same input (query, key, value): the input is quantized once and one parallel
 * region runs over all of them. y[i] is (T, R_i). All weights have the same columns. */
int weight_matmul_shared(const struct weight *const *weights, const float *const *biases, float *const *y, size_t count,
                         size_t T, const float *x, struct weight_scratch *scratch);

#endif
