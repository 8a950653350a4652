/* Quantization as training sees it: a linear layer computes with weights and inputs rounded to what its packed format
 * will hold and execute, while gradients move the f32 weights behind them.
 *
 * Weights lie on exactly the grid that `weight_format.pack` stores (int8: a scale per row; int4: an f16 scale per group
 * and perhaps a zero point), so packing with `grid` at the end changes no value:
 *   absmax  the grid of weight_grid_minmax, made anew from the weights in each pass (Q8BERT: Zafrir et al. 2019). The
 *           gradient passes straight through to every weight.
 *   lsq     the scale is learned (LSQ: Esser et al. 2020): codes reach -Q-1..Q in int4 and -Q..Q in int8, Q = 7, 127.
 *           The gradient passes where the code is inside that range; the scale's own is
 *           Σ dŵ·(code - w/scale inside, the bound outside) / √(count·Q), equation 3 and section 2.2.
 *           What is learned is m, of which scale = 2m/√Q; it starts at mean |w|, the paper's start. Since m is of the
 *           size of a weight, Adam, whose steps are of the size of the rate, moves it as fast relative to itself as it
 *           moves weights, which is what the paper's section 2.2 asks for.
 * Inputs:
 *   dynamic per token by its largest magnitude, as kernels.quantize_s8, which the packed formats execute
 *   ema     one scale per layer, from a moving average of the largest magnitude of each step (Q8BERT): what step k
 *           uses is the average over the steps before it, so that shards need not wait for one another
 *
 * Letters as in layers.h; G weights share a scale, `groups` of them in a row.
 */
#ifndef FAKE_QUANT_H
#define FAKE_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "formats/weight.h"

struct trainable;   /* train/trainable.h */
struct train_state; /* train/train.h */

/* A uniform grid: code in low..high, value = scale·(code - zero). */
struct fake_grid {
    float scale;
    int zero, low, high;
};
/* y[i] = the grid's value nearest to x[i] (ties to even codes, clamped); scale 0: 0. y may be x. */
void fake_round(const struct fake_grid *grid, size_t count, const float *x, float *y);
/* Straight-through gradients of fake_round: dx[i] = dy[i] where the unclamped code is inside the range, bounds
 * included, else 0, added to dx when `add`; dx may be dy, or NULL. Returns the gradient at the scale, summed in index
 * order: Σ dy·(code - zero - x/scale inside, bound - zero outside). */
double fake_round_backward(const struct fake_grid *grid, size_t count, const float *x, const float *dy, bool add,
                           float *dx);

enum fake_weights { FAKE_WEIGHTS_ABSMAX, FAKE_WEIGHTS_LSQ };
enum fake_inputs { FAKE_INPUTS_NONE, FAKE_INPUTS_DYNAMIC, FAKE_INPUTS_EMA };

struct fake_quant_plan {
    const struct weight_format *format; /* int8 or int4 */
    size_t group;                       /* as in struct weight_shape */
    bool symmetric;
    enum fake_weights weights;
    enum fake_inputs inputs;
    double decay;      /* ema: share that the average keeps in each step; Q8BERT 0.9999 */
    size_t start_step; /* ema: steps that only observe; at least the first one does */
};

struct fake_quant {
    struct fake_quant_plan plan;
    struct weight_shape shape;
    struct weight_grid grid; /* of the last fake_quant_grid or _rows */
    float *size, *dsize;     /* lsq: m (R,groups), and its gradient; else NULL */
    float *state;            /* ema: [2] the average, and the largest magnitude seen in the step at work */
    uint64_t step;           /* at work; UINT64_MAX before the first */
    const char *size_name, *state_name;
    struct arena arena; /* of all these arrays and names */
};

/* name: the layer's; w(R,N): the weights to start from. E_UNSUPPORTED: lsq on an asymmetric grid, a format without
 * codes; E_SHAPE, E_NUMERIC, E_MEMORY. */
int fake_quant_open(struct fake_quant *fake, const char *name, const struct fake_quant_plan *plan, size_t R, size_t N,
                    const float *w);
void fake_quant_close(struct fake_quant *fake); /* accepts a zeroed one */
/* Of lsq: m as what training moves, named NAME.step, without weight decay. False, with nothing written: there is none.
 */
bool fake_quant_trainable(const struct fake_quant *fake, struct trainable *item);
/* Of ema: what a checkpoint must hold, named NAME.inputs. False, with nothing written: there is nothing. */
bool fake_quant_state(const struct fake_quant *fake, struct train_state *state);

/* The whole grid of w(R,N) as it is now, in fake->grid. */
void fake_quant_grid(const struct fake_quant *fake, const float *w);

/* ---- for the pass ---- */

/* Once per pass, before forward; passes of the same step are its micro-batches. */
void fake_quant_begin(struct fake_quant *fake, uint64_t step);
/* Rows begin..end-1 of the weights as the layer sees them: w points at the whole matrix, out is (end-begin, N). Makes
 * the grid of these rows. Not finite weights give NaN. Tiles of rows may be at work on several threads. */
void fake_quant_rows(const struct fake_quant *fake, const float *w, size_t begin, size_t end, float *out);
/* True: the gradient at the rounded weights is that at the weights, and fake_quant_gradient need not be called. */
bool fake_quant_passes(const struct fake_quant *fake);
/* From dq (end-begin, N), the gradient of this pass at rows begin..end-1 of the rounded weights: those rows of dw
 * (R,N), and of dsize; added to what is there when `add`. w, dw: the whole matrices; dw's rows may be dq unless `add`.
 * Tiles of rows may be at work on several threads. */
void fake_quant_gradient(const struct fake_quant *fake, const float *w, size_t begin, size_t end, const float *dq,
                         bool add, float *dw);
/* out(T,N): x as the layer sees it; out may be x. Tokens may be at work on several threads. */
void fake_quant_input(const struct fake_quant *fake, size_t T, const float *x, float *out);
/* From the gradient at what fake_quant_input gave to that at x(T,N), in place. */
void fake_quant_input_gradient(const struct fake_quant *fake, size_t T, const float *x, float *dx);

#endif
