/* Low-rank updates of linear layers (LoRA: Hu et al. 2021, section 4.1): beside a frozen matrix W (R,N),
 *
 *     y = x·Wᵀ + b + s · dropout(x)·Aᵀ·Bᵀ,    A (r,N), B (R,r), s = alpha/r, or alpha/√r when rank-stabilised
 *     (Kalajdzievski 2023)
 *
 * and only A and B learn. B starts at zero, so the first step sees the model as it was, bit for bit. The training pass
 * (train/pass.h) calls the functions below for every layer that has an update; merging turns W into W + s·B·A.
 *
 * Letters as in layers.h. Work on tokens is per row, gradients are sums over all tokens in token order: results depend
 * neither on how the batch is cut nor on threads.
 */
#ifndef ADAPTER_H
#define ADAPTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

struct trainable; /* train/trainable.h */

struct adapter_plan {
    size_t rank;
    double alpha;
    bool rank_stabilized;
    double dropout; /* share of the update's input that is zeroed while training */
    uint64_t seed;
};

struct adapter {
    size_t rows, columns, rank; /* R, N, r */
    float scale;                /* s */
    double dropout;
    uint64_t seed, site; /* site: tells the dropout of one layer's update from another's */
    float *a, *b;        /* (r,N), (R,r) */
    float *da, *db;      /* their gradients */
    const char *a_name, *b_name;
    struct arena arena; /* of all the above, and of panels */

    /* Private to the pass at work. */
    float *down, *up, *up_back, *down_back; /* panels of s·A, B, s·B and A */
    float *hidden, *dhidden;                /* (T,r): s·dropout(x)·Aᵀ, and the gradient at x·Aᵀ */
    size_t tokens;                          /* that they have room for */
    uint64_t stream;
    size_t first_token; /* of the batch in its step */
    bool bf16;
};

/* A as PyTorch starts a linear layer: uniform within ±1/√N (Kaiming with a = √5), a function of (plan->seed, name)
 * alone; B zero. E_ARGUMENT: rank 0 or above min(R, N). E_MEMORY. */
int adapter_open(struct adapter *adapter, const char *name, size_t R, size_t N, const struct adapter_plan *plan);
void adapter_close(struct adapter *adapter); /* accepts a zeroed one */
/* A and B as what training moves: items[0], items[1], named NAME.lora_A and NAME.lora_B; with weight decay. */
void adapter_trainables(const struct adapter *adapter, struct trainable *items);

/* w(R,N) += s·B·A: each element one sum over r in f32, in rank order, then added. */
void adapter_merge(const struct adapter *adapter, float *w);

/* ---- for the pass ---- */

/* Room for batches of up to `tokens` tokens. E_MEMORY. */
int adapter_reserve(struct adapter *adapter, size_t tokens);
/* Once per pass, before forward: A and B as they are now go into panels; step, and the batch's place in it, choose the
 * dropout. One thread. */
void adapter_prepare(struct adapter *adapter, uint64_t step, size_t first_token, bool bf16);
/* Floats of scratch that the three functions below take for up to T tokens at once. */
size_t adapter_scratch(const struct adapter *adapter, size_t T);
/* y(T,R) += the update of x(T,N), for tokens first..first+T-1 of the batch; keeps what backward needs. x and y point at
 * the first of them. Different tokens may be at work on several threads. */
void adapter_forward(const struct adapter *adapter, size_t first, size_t T, const float *x, float *y, float *scratch);
/* dx(T,N) += what reaches x through the update, from dy(T,R), for the same tokens. */
void adapter_backward(const struct adapter *adapter, size_t first, size_t T, const float *dy, float *dx,
                      float *scratch);
/* Gradients, when backward is done for all T tokens of the batch: job 0 is da, from x(T,N), job 1 is db, from dy(T,R);
 * added to what is there when `add`. The jobs may run on different threads. */
#define ADAPTER_JOBS 2
void adapter_gradient(const struct adapter *adapter, size_t job, size_t T, const float *x, const float *dy, bool add,
                      float *scratch);

#endif
