/* One inference pass at work. Private to the forward files of core/model.
 *
 * What a token gets never depends on its neighbours in the batch: linear layers sum in an order that depends
 * on N alone, attention works per sequence, head and tile of queries, everything else per row. Work is cut per item,
 * so results are bit-identical at any number of threads; pieces too small to be worth waking a thread run in the
 * calling one.
 */
#ifndef FORWARD_H
#define FORWARD_H

#include "base/threads.h"
#include "model/attention.h"
#include "model/family.h"

struct forward {
    const struct model *model;
    const struct batch *batch;
    const struct model_tap *tap;
    struct workspace *workspace;
    size_t T;                             /* rows at work: the batch's tokens, or its sequences at the end */
    uint32_t *read;                       /* [B] the token of each sequence that is read; NULL: all are */
    bool read_late;                       /* drop the others only after the last block */
    int32_t *position;                    /* [T] in the whole sequence */
    float *rotary;                        /* (T,D) of rotary_table; NULL: learned positions */
    float *x, *y;                         /* (T,C) the residual stream; input or output of a layer */
    float *query, *key, *value, *context; /* (T,H·D), (T,K·D), (T,K·D), (T,H·D); the next three lie over them */
    float *up, *gate;                     /* (T,F) */
    float *embedded;                      /* (T,E) */
    float *first, *pooled, *logits;       /* (B,C), (B,C), (B,classes) */
    float *span;                          /* (T,2) */
    float *attention;                     /* scratch of attention_run */
    size_t attention_floats;
    size_t block;                 /* at work */
    const struct part_view *norm; /* of the residual sum at work; NULL: none */
    float *hidden;                /* NULL or (L+1,T,C) to be written */
};

/* A grid in the last block serves whole sequences, and unread tokens take part in choosing it. */
bool forward_reads_late(const struct model *model);
/* What a block's attention multiplies: what the layers in front of it do, or codes where the model asks for them. */
enum attention_arithmetic forward_arithmetic(const struct model *model, size_t block);
/* Run the body here when the whole is small, else on all threads; either way the items are independent. */
void forward_run_items(struct forward *forward, size_t count, size_t elements_each, parallel_body *body);
/* y = x·Wᵀ + b, after the tap saw x. */
int forward_multiply(struct forward *forward, const struct linear *linear, size_t T, const float *x, float *y);

int forward_embed(struct forward *forward);                              /* forward_embed.c: x, complete */
int forward_block(struct forward *forward);                              /* forward_block.c: x through `block` */
int forward_heads(struct forward *forward, struct model_output *output); /* forward_heads.c */
/* Norm of T rows in the model's kind; y may be x. */
void forward_norm(const struct model_config *config, const struct part_view *norm, size_t T, const float *x, float *y);
/* y = linear(input), x += y, then `norm` (NULL: none): into y in a pre-norm model, into x in a post-norm one. next: the
 * layer that reads that, or NULL. */
int forward_residual(struct forward *forward, const struct linear *linear, const float *input,
                     const struct part_view *norm, const struct linear *next);

#endif
