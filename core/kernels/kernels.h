/* The dispatch table of compute kernels.
 *
 * Each kernel's signature is declared once by a contract macro KERNEL_<NAME>(identifier); the C oracle
 * (`_c`), every variant (`_avx2`, `_avx512vnni`) and the checker in tests/kernels use the same macro. The
 * table starts with the C versions and is overwritten upward as the cpu flags and the mask allow.
 * Letters: T tokens (rows of activations), R rows (outputs), N columns (inputs), G group size.
 * Kernels work on one tile in one thread, cannot fail, and read and write nothing outside what their
 * contract names. Every output element is summed in an order that depends on N alone, never on T, R or
 * the tile: a batch's result does not depend on its neighbours.
 * docs/KERNELS.md holds the operation as math and the packed layouts as diagrams.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define PANEL_ROWS 16   /* rows of a packed panel, in every format and on every instruction set */
#define ATTEND_KEYS 256 /* most keys of one call of attend: their scores stay in the first-level cache */

/* Panels in pairs, as matmul_f16 takes them: rows that lie side by side where row r of `rows` is, those of two panels
 * or of a last one without another; and where element (r, n) of (rows, N) is. */
static inline size_t paired_side(size_t rows, size_t r) {
    return r / (2 * PANEL_ROWS) * (2 * PANEL_ROWS) + PANEL_ROWS < rows ? 2 * PANEL_ROWS : PANEL_ROWS;
}
static inline size_t paired_place(size_t rows, size_t N, size_t r, size_t n) {
    return r / (2 * PANEL_ROWS) * (2 * PANEL_ROWS) * N + n * paired_side(rows, r) + r % (2 * PANEL_ROWS);
}

/* y(T,rows) = x(T,N) · weights(rows,N)ᵀ + bias, for `rows` output rows in ceil(rows/16) panels that lie one behind the
 * other; several panels per call let a variant hold more sums in registers.
 *   x       f32, row stride x_stride elements
 *   weights f32 panels [N][16]: column by column, 16 rows side by side; the last panel is whole, its rows past the
 *           end are ignored
 *   bias    f32 [rows], or NULL
 *   y       f32, row stride y_stride elements; columns 0..rows-1 are written                                    */
#define KERNEL_MATMUL_F32(id)                                                                                          \
    void id(size_t T, size_t N, const float *x, size_t x_stride, const float *weights, const float *bias, float *y,    \
            size_t y_stride, size_t rows)

/* As matmul_f32 with weights in IEEE half precision (u16 bits), widened exactly; products and sums in f32.
 *   weights panels in pairs [N][32]: column by column, the rows of both side by side, so that a column is a line of the
 *           cache; a last panel without another is [N][16]. `weights` begins a pair, and `rows` end one or the matrix
 */
#define KERNEL_MATMUL_F16(id)                                                                                          \
    void id(size_t T, size_t N, const float *x, size_t x_stride, const uint16_t *weights, const float *bias, float *y, \
            size_t y_stride, size_t rows)

/* As matmul_f16 with weights in bf16: f32 activations times widened weights. */
#define KERNEL_MATMUL_BF16_F32(id)                                                                                     \
    void id(size_t T, size_t N, const float *x, size_t x_stride, const uint16_t *weights, const float *bias, float *y, \
            size_t y_stride, size_t rows)

/* As matmul_f32 with bf16 times bf16, sums in f32.
 *   x       bf16 bits, row stride x_stride; n_padded even, columns N..n_padded-1 zero
 *   weights bf16 panels [n_padded/2][16][2]: two columns of each row side by side, as vdpbf16ps takes them
 * Within a pair the order of the two products and their rounding are the instruction's: |error| is bounded as in
 * docs/KERNELS.md rather than bit-exact between variants. */
#define KERNEL_MATMUL_BF16(id)                                                                                         \
    void id(size_t T, size_t n_padded, const uint16_t *x, size_t x_stride, const uint16_t *weights, const float *bias, \
            float *y, size_t y_stride, size_t rows)

/* y(M,N) = Σ_k a[m·a_row + k·a_step] · b[k·b_stride + n] over k = 0..K-1, added to y when `add`: a product of row-major
 * matrices, the first one transposed where a_row is 1. Every output is one chain over k, which starts from y when
 * `add`.
 *   b       f32 (K,N), row stride b_stride
 *   y       f32 (M,N), row stride y_stride; overlaps neither a nor b                                  */
#define KERNEL_MULTIPLY_F32(id)                                                                                        \
    void id(size_t M, size_t N, size_t K, const float *a, size_t a_row, size_t a_step, const float *b,                 \
            size_t b_stride, int add, float *y, size_t y_stride)

/* Per-token symmetric quantization: scale[t] = max|x[t]| / 127, q = nearest-even(x / scale) in -127..127;
 * an all-zero token gets scale 0 and q 0. Columns N..n_padded-1 of q are zeroed.
 *   q       s8 (T, n_padded)
 *   scale   f32 [T]
 *   sums    s32 (T, n_padded / G): sum of q over each group of G columns; G divides n_padded          */
#define KERNEL_QUANTIZE_S8(id)                                                                                         \
    void id(size_t T, size_t N, const float *x, size_t x_stride, size_t n_padded, size_t G, int8_t *q, float *scale,   \
            int32_t *sums)

/* The range of each token, zero included: low[t] = min(0, min x[t]), high[t] = max(0, max x[t]); both NaN where the
 * token holds one. The sign of a zero may be either. x f32 (T,N), row stride x_stride; low, high f32 [T]. */
#define KERNEL_RANGE_F32(id) void id(size_t T, size_t N, const float *x, size_t x_stride, float *low, float *high)

/* Quantization to a given grid: q = clamp(nearest-even(x / scale[t]) + zero[t], least, most), as ONNX's QuantizeLinear.
 * Columns N..n_padded-1 of q are 0, not zero[t]: products leave them out. A token that holds a NaN gets scale NaN, and
 * its NaNs get code `least`.
 *   scale   f32 [T] in/out, not 0
 *   zero    s32 [T], least..most
 *   least, most  -128..127, least <= most
 *   q, sums as quantize_s8                                                                                 */
#define KERNEL_QUANTIZE_AFFINE(id)                                                                                     \
    void id(size_t T, size_t N, const float *x, size_t x_stride, size_t n_padded, size_t G, float *scale,              \
            const int32_t *zero, int least, int most, int8_t *q, int32_t *sums)

/* Zero points of an integer product: a code stands for code - zero. NULL where a side has none. */
struct zero_points {
    const int32_t *x;       /* [T], of the tokens, -128..127 */
    const int32_t *row_sum; /* with x; one per row of the panels: Σ (w[r,n] - w's zero point) over the real columns */
    const int32_t *w;       /* one per row of the panels, -128..127 */
    const int32_t *x_sum;   /* with w; [T]: Σ q[t,n] */
};

/* y(T,rows) = scale_x[t] * scale_w[r] * Σ (q[t,n] - zero_x[t]) (w[r,n] - zero_w[r]) + bias, for `rows` output rows in
 * panels as matmul_f32 takes them; exact in 32-bit integers up to the scaling, where the sum is
 * Σ q w - zero_x row_sum - zero_w x_sum. It must fit: at most 65536 columns, 32768 when both sides have zero points.
 *   q       s8 (T, n_padded), values -128..127; n_padded a multiple of 4
 *   panels  s8 [n_padded/4][16][4] each, values -128..127; the last one is whole, its rows past the end are ignored
 *   scale_w f32, one per row of the panels, the ignored ones included
 *   row_negative s32, as many: Σ over n of max(-w[r,n], 0), for variants that complement x where w is
 *           negative; may be ignored
 *   row_total s32, as many: Σ over n of w[r,n], for variants that add a constant to x; may be ignored
 *   zeros   NULL: none
 *   bias    f32 [rows], or NULL
 *   y       f32, row stride y_stride elements; columns 0..rows-1 are written                          */
#define KERNEL_MATMUL_S8(id)                                                                                           \
    void id(size_t T, size_t n_padded, const int8_t *q, const float *scale_x, const int8_t *panels,                    \
            const float *scale_w, const int32_t *row_negative, const int32_t *row_total,                               \
            const struct zero_points *zeros, const float *bias, float *y, size_t y_stride, size_t rows)

/* y(T,rows) = scale_x[t] * (Σ_g scale[g,r] * (Σ_{n in g} q[t,n] c[r,n] - zero[g,r] * sums[t,g])
 *                          - zero_x[t] * row_value[r]) + bias; q, bias, y and rows as for matmul_s8.
 *   zero_x     s32 [T], NULL: 0
 *   row_value  f32, one per row of the panels: Σ_g scale[g,r] Σ_{n in g} (c[r,n] - zero[g,r]) over the real columns;
 *              read when zero_x is there
 *   panels     each per group of G columns, contiguous: f16 scale[16]; s8 zero[16] when asymmetric (0 when
 *              symmetric); s8 codes [G/4][16][4], values -128..127
 *   G          32, 64 or 128; n_padded a multiple of G                                                  */
#define KERNEL_MATMUL_S8_GROUPS(id)                                                                                    \
    void id(size_t T, size_t n_padded, size_t G, int symmetric, const int8_t *q, const float *scale_x,                 \
            const int32_t *zero_x, const int32_t *sums, const uint8_t *panels, const float *row_value,                 \
            const float *bias, float *y, size_t y_stride, size_t rows)

/* Bytes of one panel of matmul_s8_groups. */
static inline size_t panel_s8_groups_bytes(size_t n_padded, size_t G, int symmetric) {
    return n_padded / G * ((symmetric ? 2u : 3u) * PANEL_ROWS + G * PANEL_ROWS);
}

/* y(T,rows) = scale_x[t] * Σ_g scale[g,r] * (Σ_{n in g} q[t,n] c[r,n] - zero[g,r] * sums[t,g]) + bias; bias, y and rows
 * as for matmul_s8.
 *   panels  each per group of G columns, contiguous: f16 scale[16]; u8 zero[16] when asymmetric (a symmetric
 *           panel has none and zero is 8); u8 codes [G/8][16][4]: byte b holds column 8i+b in its low and
 *           column 8i+4+b in its high nibble
 *   G       32, 64 or 128; n_padded a multiple of G                                                     */
#define KERNEL_MATMUL_U4(id)                                                                                           \
    void id(size_t T, size_t n_padded, size_t G, int symmetric, const int8_t *q, const float *scale_x,                 \
            const int32_t *sums, const uint8_t *panels, const float *bias, float *y, size_t y_stride, size_t rows)

/* Bytes of one panel of matmul_u4. */
static inline size_t panel_u4_bytes(size_t n_padded, size_t G, int symmetric) {
    return n_padded / G * ((symmetric ? 2u : 3u) * PANEL_ROWS + G * PANEL_ROWS / 2);
}

/* Transpose rows into a panel: panel[n][r] = x[r][n] for r < valid (<= 16), 0 for the other rows.
 *   x       f32, row stride x_stride
 *   panel   f32 [N][16]                                                                              */
#define KERNEL_PACK_F32(id) void id(size_t N, const float *x, size_t x_stride, size_t valid, float *panel)

/* Attention of T queries to one stretch of n <= ATTEND_KEYS keys, by a running softmax. For row t and the keys
 * j = low[t]..high[t]-1 that it sees, with s[j] = Σ_d q[t,d] k[j,d]:
 *     new = max(top[t], max s[j]);  f = 2^(top[t]-new);  w[j] = 2^(s[j]-new)
 *     sum[t] = sum[t] f + Σ w[j];  y[t] = y[t] f + Σ w[j] v[j];  top[t] = new
 * Start with top -inf, sum 0, y 0 and call it for stretch after stretch; the context is y / sum. A row with
 * low >= high is left alone.
 *   q       f32 (T,D) dense, already multiplied by log2(e)/√D
 *   k       panels of 16 keys, [(n+15)/16][D][16]; lanes of keys beyond n may hold anything
 *   v       (n,W), row stride v_stride; W a multiple of 16
 *   low, high  u32 [T], at most n
 *   top, sum  f32 [T];  y  f32 (T,W) dense
 * Σ over v goes in the order of the keys. What a row gets does not depend on the other rows, as long as v is finite. */
#define KERNEL_ATTEND_F32(id)                                                                                          \
    void id(size_t T, size_t D, size_t W, size_t n, const float *q, const float *k, const float *v, size_t v_stride,   \
            const uint32_t *low, const uint32_t *high, float *top, float *sum, float *y)

/* As attend_f32 with k and v in IEEE half precision (u16 bits), widened exactly. */
#define KERNEL_ATTEND_F16(id)                                                                                          \
    void id(size_t T, size_t D, size_t W, size_t n, const float *q, const uint16_t *k, const uint16_t *v,              \
            size_t v_stride, const uint32_t *low, const uint32_t *high, float *top, float *sum, float *y)

/* Rows of attention's scores become 8-bit weights of values that are in codes. score[j] = s[j] + log2(value_scale[j]),
 * so that p[j] = 2^(score[j] - max score) is what key j's codes count for, and p[j] / value_scale[j] is its softmax:
 *     code[j] = nearest-even(255 p[j]) - 128;  scale[row] = 1 / Σ 255 p[j] inverse[j]
 * Σ (code[j] + 128) v[j] · scale is then the context of values v. p is within 2^-16 of itself, or of 0 below 2^-126. A
 * NaN among the scores reaches the scale.
 *   score   f32 (rows,n), row stride `stride`, a multiple of 16; columns from n on may be overwritten
 *   inverse f32 [stride], 1 / value_scale; 0 from n on
 *   code    s8 (rows,stride); -128, which stands for 0, from n on
 *   scale   f32 [rows] */
#define KERNEL_SOFTMAX_S8(id)                                                                                          \
    void id(size_t rows, size_t n, size_t stride, float *score, const float *inverse, int8_t *code, float *scale)

/* Rows of attention's scores become bf16 weights: p[j] = 2^(score[j] - max score), rounded as narrow_bf16 has it, and
 * scale[row] = 1 / Σ p. p is within 2^-16 of itself, or of 0 up to 2^-126. A NaN among the scores reaches the scale.
 *   score   as softmax_s8
 *   weight  bf16 (rows,stride); at most 2^-126 from n on
 *   scale   f32 [rows] */
#define KERNEL_SOFTMAX_BF16(id)                                                                                        \
    void id(size_t rows, size_t n, size_t stride, float *score, uint16_t *weight, float *scale)

/* Of each row of `count` panels of matmul_s8: total[r] = Σ_n w[r,n], negative[r] = Σ_n max(-w[r,n], 0).
 *   panels  s8 [n_padded/4][16][4] each, values -127..127; n_padded a multiple of 4
 *   total, negative  s32 [16 count] */
#define KERNEL_PANEL_SUMS_S8(id)                                                                                       \
    void id(size_t n_padded, size_t count, const int8_t *panels, int32_t *total, int32_t *negative)

/* y[i] = x[i] * Φ(x[i]) (GELU with erf); in place allowed. Absolute error <= 1e-6 * max(1,|x|). */
#define KERNEL_GELU(id) void id(size_t count, const float *x, float *y)

/* y[i] = 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))): GPT-2's GELU; in place allowed. Error as gelu. */
#define KERNEL_GELU_TANH(id) void id(size_t count, const float *x, float *y)

/* y[i] = gate[i] / (1 + e^-gate[i]) * up[i]: SwiGLU (Shazeer 2020); y may be gate or up.
 * Relative error <= 2^-20, but for results below |gate up| 2^-126. */
#define KERNEL_SILU_GATE(id) void id(size_t count, const float *gate, const float *up, float *y)

/* y[i] = x[i] as IEEE half precision, nearest even: bit for bit half_from_float. */
#define KERNEL_NARROW_F16(id) void id(size_t count, const float *x, uint16_t *y)

/* y[i] = the half x[i], exactly. */
#define KERNEL_WIDEN_F16(id) void id(size_t count, const uint16_t *x, float *y)

/* y[i] = x[i] * scale[i % 16]: codes of 16 keys side by side, or with equal scales of one value. count a multiple of
 * 16, scale f32 [16]. Same bits in all variants. */
#define KERNEL_WIDEN_S8(id) void id(size_t count, const int8_t *x, const float *scale, float *y)

/* y[i] = x[i] as bf16, nearest even: bit for bit bf16_from_float. */
#define KERNEL_NARROW_BF16(id) void id(size_t count, const float *x, uint16_t *y)

/* Two rows side by side, as matmul_bf16 takes its weights: panel[k/2][c][k%2] = x[k][c] as narrow_bf16 has it, for rows
 * 0..K-1 and columns c < valid (<= 16), 0 for the other columns and where K is odd.
 *   x       f32, row stride x_stride
 *   panel   bf16 [(K+1)/2][16][2]                                                                      */
#define KERNEL_PAIR_BF16(id) void id(size_t K, size_t valid, const float *x, size_t x_stride, uint16_t *panel)

/* dx[i] = dy[i] * (Φ(x[i]) + x[i] φ(x[i])); dx may be dy. */
#define KERNEL_GELU_BACKWARD(id) void id(size_t count, const float *x, const float *dy, float *dx)

/* Rows of length n: x = softmax(scale * x) in place; row stride in elements. */
#define KERNEL_SOFTMAX(id) void id(size_t rows, size_t n, size_t stride, float scale, float *x)

/* y = gain * (x - mean) / sqrt(variance + eps) + bias, row by row (T,C); in place allowed. mean and
 * rstd ([T] each) are written when not NULL (the backward pass needs them). */
#define KERNEL_LAYER_NORM(id)                                                                                          \
    void id(size_t T, size_t C, const float *x, const float *gain, const float *bias, float eps, float *y,             \
            float *mean, float *rstd)

/* y = gain * x / sqrt(mean(x²) + eps), row by row (T,C) (Zhang and Sennrich 2019); in place allowed. rstd [T] is
 * written when not NULL. */
#define KERNEL_RMS_NORM(id)                                                                                            \
    void id(size_t T, size_t C, const float *x, const float *gain, float eps, float *y, float *rstd)

/* y[i] += x[i]. */
#define KERNEL_ADD(id) void id(size_t count, const float *x, float *y)

/* AdamW on `count` parameters (Loshchilov and Hutter 2019, Algorithm 2, as torch applies it):
 * p *= 1 - rate*decay; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g²; p -= rate/correction1 * m /
 * (sqrt(v)/sqrt(correction2) + eps), where g is grad * grad_scale. b1 and b2 are
 * double because 1-b2 is taken before rounding: in float, 1-0.999 is wrong in the fifth digit. */
#define KERNEL_ADAMW(id)                                                                                               \
    void id(size_t count, float *p, const float *grad, float grad_scale, float *m, float *v, float rate, double b1,    \
            double b2, float eps, float decay, float correction1, float correction2)

/* dx[i] = dy[i] * d gelu_tanh(x[i]); dx may be dy. Absolute error <= 2e-6 |dy|. */
#define KERNEL_GELU_TANH_BACKWARD(id) void id(size_t count, const float *x, const float *dy, float *dx)

/* With s = 1/(1+e^-gate): dgate = dy up s (1 + gate (1-s)), dup = dy gate s; dgate or dup may be dy. */
#define KERNEL_SILU_GATE_BACKWARD(id)                                                                                  \
    void id(size_t count, const float *gate, const float *up, const float *dy, float *dgate, float *dup)

/* Row by row (T,C), with xhat = (x - mean) rstd and g = gain dy: dx = rstd (g - mean(g) - xhat mean(g xhat));
 * dgain[C] += Σ_t dy xhat and dbias[C] += Σ_t dy, in the order of t. dx may be dy. */
#define KERNEL_LAYER_NORM_BACKWARD(id)                                                                                 \
    void id(size_t T, size_t C, const float *x, const float *mean, const float *rstd, const float *gain,               \
            const float *dy, float *dx, float *dgain, float *dbias)

/* The same without mean and bias: xhat = x rstd, dx = rstd (g - xhat mean(g xhat)). */
#define KERNEL_RMS_NORM_BACKWARD(id)                                                                                   \
    void id(size_t T, size_t C, const float *x, const float *rstd, const float *gain, const float *dy, float *dx,      \
            float *dgain)

/* Rows of length n of p and x, row stride in elements: x = (p * scale) * (x - sum[row]) in place, the gradient at the
 * unscaled input of a softmax from that at its output p, where sum is Σ p·x of the row. Same bits in all variants. */
#define KERNEL_SOFTMAX_BACKWARD(id)                                                                                    \
    void id(size_t rows, size_t n, size_t stride, float scale, const float *p, const float *sum, float *x)

/* x[i] is kept, times scale, or zeroed (times 0); keep[i] is 1 or 0. Element i has the 16 bits of random number first+i
 * of stream (seed, stream) (base/random.h), eight to a block, lower halves of its words first; it is kept where they
 * are at least `dropped` (0..65536). first is a multiple of 8. Same bits in all variants. */
#define KERNEL_DROPOUT(id)                                                                                             \
    void id(uint64_t seed, uint64_t stream, uint64_t first, size_t count, uint32_t dropped, float scale, float *x,     \
            uint8_t *keep)

/* One row per kernel: field, contract macro. The table, the checker and the bench all expand this. */
#define KERNELS(X)                                                                                                     \
    X(matmul_f32, KERNEL_MATMUL_F32)                                                                                   \
    X(matmul_f16, KERNEL_MATMUL_F16)                                                                                   \
    X(matmul_bf16, KERNEL_MATMUL_BF16)                                                                                 \
    X(matmul_bf16_f32, KERNEL_MATMUL_BF16_F32)                                                                         \
    X(narrow_f16, KERNEL_NARROW_F16)                                                                                   \
    X(widen_f16, KERNEL_WIDEN_F16)                                                                                     \
    X(widen_s8, KERNEL_WIDEN_S8)                                                                                       \
    X(narrow_bf16, KERNEL_NARROW_BF16)                                                                                 \
    X(pair_bf16, KERNEL_PAIR_BF16)                                                                                     \
    X(quantize_s8, KERNEL_QUANTIZE_S8)                                                                                 \
    X(range_f32, KERNEL_RANGE_F32)                                                                                     \
    X(quantize_affine, KERNEL_QUANTIZE_AFFINE)                                                                         \
    X(matmul_s8, KERNEL_MATMUL_S8)                                                                                     \
    X(matmul_s8_groups, KERNEL_MATMUL_S8_GROUPS)                                                                       \
    X(matmul_u4, KERNEL_MATMUL_U4)                                                                                     \
    X(gelu, KERNEL_GELU)                                                                                               \
    X(gelu_tanh, KERNEL_GELU_TANH)                                                                                     \
    X(silu_gate, KERNEL_SILU_GATE)                                                                                     \
    X(gelu_backward, KERNEL_GELU_BACKWARD)                                                                             \
    X(pack_f32, KERNEL_PACK_F32)                                                                                       \
    X(attend_f32, KERNEL_ATTEND_F32)                                                                                   \
    X(attend_f16, KERNEL_ATTEND_F16)                                                                                   \
    X(softmax_s8, KERNEL_SOFTMAX_S8)                                                                                   \
    X(softmax_bf16, KERNEL_SOFTMAX_BF16)                                                                               \
    X(panel_sums_s8, KERNEL_PANEL_SUMS_S8)                                                                             \
    X(softmax, KERNEL_SOFTMAX)                                                                                         \
    X(layer_norm, KERNEL_LAYER_NORM)                                                                                   \
    X(rms_norm, KERNEL_RMS_NORM)                                                                                       \
    X(add, KERNEL_ADD)                                                                                                 \
    X(adamw, KERNEL_ADAMW)                                                                                             \
    X(multiply_f32, KERNEL_MULTIPLY_F32)                                                                               \
    X(gelu_tanh_backward, KERNEL_GELU_TANH_BACKWARD)                                                                   \
    X(silu_gate_backward, KERNEL_SILU_GATE_BACKWARD)                                                                   \
    X(layer_norm_backward, KERNEL_LAYER_NORM_BACKWARD)                                                                 \
    X(rms_norm_backward, KERNEL_RMS_NORM_BACKWARD)                                                                     \
    X(softmax_backward, KERNEL_SOFTMAX_BACKWARD)                                                                       \
    X(dropout, KERNEL_DROPOUT)

struct kernels {
#define KERNEL_FIELD(name, contract) contract((*name));
    KERNELS(KERNEL_FIELD)
#undef KERNEL_FIELD
    uint32_t flags; /* the cpu flags in use: detected & mask */
};

/* The table in use. Filled by kernels_open; before that, all C versions. */
extern struct kernels kernels;

/* Fill `table` with what `flags` (see cpu.h) allow. kernels_open does it for the table in use with
 * cpu_detect() & mask; call it once, before threads start. */
void kernels_fill(struct kernels *table, uint32_t flags);
void kernels_open(uint32_t mask);

/* The name of the variant that `flags` select for a kernel: "matmul_s8_avx2". NULL for an unknown kernel. */
const char *kernels_variant(const char *kernel, uint32_t flags);

/* Work counters, for software-defined events: multiply-adds done and packed weight bytes streamed since
 * start. Updated by formats/weight.c, once per matrix multiplication. */
struct kernel_counters {
    uint64_t multiply_adds, weight_bytes, tokens;
};
extern struct kernel_counters kernel_counters;

#endif
