/* One training pass: gradients of a packed batch, for every family of core/model. Private to core/train and those who
 * build objectives upon it.
 *
 * A pass is pass_forward, one or more heads (train/head.h), pass_backward. The batch is cut into shards of whole
 * sequences, about 112 tokens each whatever the machine; where sequences are long, into tiles of tokens, and attention
 * into sequences and groups of heads. Blocks are walked one after the other: the block's matrices become panels, shards
 * go through the block, and on the way back every weight gradient is one sum over all tokens in tiles of its rows. No
 * bound and no order of a sum depends on the number of threads, so neither does any bit of a gradient.
 *
 * What backward needs of a block is kept, or, checkpointing, made again from the block's input (Chen et al. 2016).
 * Nothing of size t·t is kept, gradients at the outputs of linear layers exist for one block at a time, and inputs of
 * linear layers that a norm or an activation gives at once are made again.
 */
#ifndef PASS_H
#define PASS_H

#include "model/family.h"

struct adapter;
struct fake_quant;

/* What training adds to one linear layer; a zeroed one adds nothing. Indexed like model->linears. */
struct linear_edit {
    struct adapter *adapter; /* low-rank update, or NULL */
    struct fake_quant *fake; /* quantizer that the forward pass sees, or NULL */
    bool frozen;             /* no gradient for matrix and bias; a packed layer is frozen whatever this says */
};

struct pass_options {
    double dropout; /* on embeddings, each block's two outputs and the pooled vector; 0: none */
    uint64_t seed, step;
    size_t first_token, first_sequence; /* of the batch within its step, so that parts of one draw its dropout */
    double scale;    /* of every gradient: this batch's share of the step's loss; 1 for a step of one batch */
    bool add;        /* to the gradients that are there, instead of overwriting them */
    bool bf16;       /* products of linear layers round their inputs to bf16 and sum in f32; weights stay f32 */
    bool first;      /* only first tokens of sequences are read: of the last block, nothing else need be computed */
    bool checkpoint; /* keep block inputs alone: less memory, a third more work; the same bits */
};

/* What is kept of one block, (T,·) each. Checkpointing, blocks share all but x. */
struct pass_block {
    float *x;                   /* (T,C) input; of block L: the last block's output */
    float *query, *key, *value; /* (T,H·D), (T,K·D), (T,K·D); query and key turned by rotary positions */
    float *context;             /* (T,H·D) */
    float *sum1;                /* (T,C) residual sum after attention */
    float *up, *gate;           /* (T,F) before the activation; gate NULL where there is none */
    float *sum2;                /* (T,C) residual sum after the feed-forward layers; NULL in a pre-norm model */
    float *mean1, *rstd1, *mean2, *rstd2; /* [T] of the norms; no mean with RMS */
    uint8_t *keep1, *keep2;               /* (T,C) dropout */
};

/* One linear layer in training. */
struct pass_linear {
    struct linear *linear;
    struct linear_edit edit;
    const float *value; /* (R,N) effective values: the layer's own, or what was made last */
    float *made;        /* where they were made, of layers that do not hold them */
    float *panels;      /* of the last direction prepared */
};

/* A matrix, its input (T,N) and the gradient at its output (T,R). */
struct linear_use {
    const struct linear *linear;
    const float *x, *dy;
};

/* Tokens at..at+T-1; whole sequences sequence_begin..sequence_end-1 unless the pass works in tiles. */
struct shard {
    size_t at, T, sequence_begin, sequence_end;
    int worker;            /* the thread that works on it */
    const uint32_t *token; /* NULL: rows are tokens; else row r is the first token of sequence r, token[r] */
};

struct pass {
    struct model *model;
    struct arena arena, head_room;
    struct pass_block *block;   /* [L+1] */
    struct pass_linear *linear; /* [linear_count], like model->linears */
    float **want;        /* [4L+1] gradients asked for: block outputs from -1 on, then query, key, value of blocks */
    bool *wanted;        /* [4L+1] in this pass */
    size_t *want_floats; /* [4L+1] that each has room for */

    /* What the arena is cut for. */
    size_t tokens_max, sequences_max, shards_max, longest_max, worker_count;
    bool checkpoint_cut, bf16_cut;

    int32_t *position;           /* [T] of each token in its sequence */
    float *rotary;               /* (T,D) or NULL */
    uint32_t *bound;             /* [shards+1] first sequence of each shard */
    uint64_t *stream;            /* [2L+2] dropout: embeddings, each block's two outputs, the pooled vector */
    float *embedded;             /* (T,E) token rows, where they are projected; their gradient on the way back */
    float *dembedded;            /* (T,E) */
    float *sum0, *mean0, *rstd0; /* (T,C), [T]: embeddings before their norm, where there is one */
    uint8_t *keep0;              /* (T,C) */
    float *hidden, *mean_final, *rstd_final; /* (T,C) after the final norm, where there is one */

    /* Of the block at work. */
    float *attention_input, *feed_input; /* (T,C) inputs of query, key, value, and of up and gate */
    float *active;                       /* (T,F) */
    float *dquery, *dkey, *dvalue, *dcontext, *doutput, *dup, *dgate, *ddown, *dnorm;
    float *panels, *values; /* of its linear layers; values of those that do not hold them */
    float *rounded;         /* (T,N) an input as a quantizer rounds it; NULL: none does */
    float *own_panels;      /* of one layer outside the blocks */
    float *input_panels;    /* bf16: an input as weight gradients take it, for all its layers */
    float *first_input, *first_output,
        *first_gradient; /* (B,C) of the last block's first tokens, where it is read so */
    float *partial;      /* [shards][4][C] gradients of norm gains and biases */
    float *scratch;      /* [workers][scratch_floats] */
    size_t scratch_floats;

    float *dhidden; /* (T,C) gradient at pass_hidden, written by heads; then the stream that runs back */

    /* Token table: which rows may have a gradient. */
    uint64_t *touched;    /* a bit per row */
    int32_t *touched_ids; /* [V at most] in rising order, of the last pass */
    size_t touched_count;
    uint64_t *token_order; /* [T] id and token, sorted */
    bool touched_all, tokens_stale, head_stale;

    /* Of the batch at work. */
    const struct batch *batch;
    struct pass_options options;
    size_t shard_count;
    bool tiles; /* shards are tiles of tokens, attention is cut by itself */
    bool first; /* the last block is computed for first tokens: pass_first.c */
    size_t at_block;
};

/* The model must have its gradients open (those that are NULL are not computed), that of the token table zeroed as it
 * was opened, so that rows which never occur are never written, and may not change its layout until pass_close. edits:
 * [linear_count], copied; NULL: none. E_MEMORY. */
int pass_open(struct pass *pass, struct model *model, const struct linear_edit *edits);
void pass_close(struct pass *pass); /* accepts a zeroed pass */

/* Through embeddings and blocks. The batch must live until pass_backward. E_SHAPE: as model_forward; E_MEMORY. */
int pass_forward(struct pass *pass, const struct batch *batch, const struct pass_options *options);
/* (T,C): what heads read; 0 but in first tokens, where the pass computes no others. */
const float *pass_hidden(const struct pass *pass);
/* (T,C): raw output of a block, of the last one as pass_hidden; -1: embeddings, complete. */
const float *pass_block_output(const struct pass *pass, int block);
/* Query (T,H·D), key or value (T,K·D) of a block, turned by rotary positions; NULL when checkpointing, and the query
 * of a last block that is computed for first tokens. */
const float *pass_part(const struct pass *pass, size_t block, enum part part);

/* Gradients of all parameters from dhidden and what was asked for. E_MEMORY. */
int pass_backward(struct pass *pass);
/* A zeroed buffer, to be filled before pass_backward, that is added to the gradient at a raw block output (T,C), or at
 * query, key or value as pass_part gives them; the same one when asked again within a pass. NULL: E_MEMORY. Such
 * gradients are not scaled: the caller's losses know their share. Of a last block that is computed for first tokens,
 * no gradient may be asked for at the query or at other tokens' outputs. */
float *pass_want_block_gradient(struct pass *pass, int block);
float *pass_want_part_gradient(struct pass *pass, size_t block, enum part part);

/* The rows of the token table that may have a gradient since it was last overwritten: true and ids [count], rising;
 * false: any row. Valid until the next pass. */
bool pass_token_rows(const struct pass *pass, const int32_t **ids, size_t *count);

/* ---- between the files of the pass ---------------------------------------------------------------------- */

/* pass_linear.c: all that a linear layer does in training. */
enum panel_direction { PANELS_FORWARD, PANELS_BACKWARD };
int pass_linears_open(struct pass *pass, const struct linear_edit *edits); /* E_UNSUPPORTED */
size_t pass_panel_floats(const struct linear *linear);
/* Floats of a worker's scratch that products of up to `shard` rows, and a tile of a weight gradient over T tokens,
 * take. */
size_t pass_linear_scratch(const struct pass *pass, const struct linear *linear, size_t shard, size_t T);
/* Whether a layer's effective values need room: it is packed, or seen through a quantizer. */
bool pass_makes_values(const struct pass *pass, const struct linear *linear);
/* The batch and options are set: adapters and quantizers get ready for them. E_MEMORY. */
int pass_edits_begin(struct pass *pass);
/* Panels of the layers of a block, on all threads. */
void pass_prepare_block(struct pass *pass, size_t block, enum panel_direction direction);
/* The shard's rows of y(·,R) = x(·,N)·Wᵀ + b, and of dx(·,N) = dy(·,R)·W, over panels prepared. x of the latter: the
 * layer's input, which only layers in the blocks need give. */
void pass_multiply(const struct pass *pass, const struct linear *linear, const struct shard *shard, const float *x,
                   float *y);
void pass_multiply_back(const struct pass *pass, const struct linear *linear, const struct shard *shard,
                        const float *dy, const float *x, bool add, float *dx);
/* Gradients of matrices and biases (of layers that have any), on all threads; added when `add`. */
void pass_weight_gradients(struct pass *pass, size_t T, const struct linear_use *uses, size_t count, bool add);
/* A layer outside the blocks, over any rows, on all threads: panels and product in one. dx NULL: not wanted. */
void pass_own_forward(struct pass *pass, const struct linear *linear, size_t T, const float *x, float *y);
void pass_own_backward(struct pass *pass, const struct linear *linear, size_t T, const float *x, const float *dy,
                       bool add_gradient, bool add_input, float *dx);
bool pass_linear_trained(const struct pass *pass, const struct linear *linear);
/* Effective values (R,N) of a layer outside the blocks; unpacked ones are valid until the next call. */
const float *pass_own_values(struct pass *pass, const struct linear *linear);

/* pass_store.c */
/* Cut count·size bytes from an arena, contents as they are. Of a zeroed arena: measures what a real one must hold. */
void *pass_cut(struct arena *arena, size_t count, size_t size);
float *pass_cut_floats(struct arena *arena, size_t count);
int pass_reserve(struct pass *pass, const struct batch *batch, size_t longest, const struct pass_options *options);
void pass_cut_shards(struct pass *pass, size_t longest);
struct shard pass_shard(const struct pass *pass, size_t index, int worker);
float *pass_scratch(const struct pass *pass, int worker);

/* pass_block.c: block `at_block` over all shards; forward from block[b].x to block[b+1].x, backward in dhidden. */
void pass_block_forward(struct pass *pass, size_t block);
void pass_block_backward(struct pass *pass, size_t block);
void pass_drop(const struct pass *pass, size_t site, const struct shard *shard, float *x, uint8_t *keep);
void pass_drop_back(const struct pass *pass, const struct shard *shard, const uint8_t *keep, const float *dy,
                    float *dx);
/* Norm of rows at..at+T-1 in the model's kind; mean and rstd are written (mean NULL with RMS). */
void pass_norm(const struct pass *pass, const struct part_view *norm, const struct shard *shard, const float *x,
               float *y, float *mean, float *rstd);
/* dx at the norm's input x; its sums for gain and bias go to slot 0 or 1 of the shard's partials. dx may be dy. */
void pass_norm_back(const struct pass *pass, const struct part_view *norm, size_t index, size_t slot,
                    const struct shard *shard, const float *x, const float *mean, const float *rstd, const float *dy,
                    float *dx);
/* Gradients of a norm's gain and bias from the partials of so many shards. */
void pass_norm_gradients(struct pass *pass, const struct part_view *norm, size_t slot, size_t shards);
/* The steps of a block behind attention, either way, over a shard of tokens or of first tokens. x: the block's input at
 * those rows; next: its output; dx: the gradient at it, then that at the residual sum after attention. */
void pass_block_after(const struct pass *pass, size_t block, const struct shard *shard, const float *x, float *next);
void pass_block_after_back(const struct pass *pass, size_t index, size_t block, const struct shard *shard, float *dx);
/* Attention of one sequence and group of heads. */
void pass_attend(const struct pass *pass, size_t block, size_t sequence, size_t head, bool backward, int worker);
/* What is asked for at index of want, for the shard's tokens, added to dx. */
void pass_add_wanted(const struct pass *pass, size_t index, const struct shard *shard, size_t width, float *dx);
const struct linear *pass_layer(const struct pass *pass, size_t block, enum part part);

/* pass_first.c: the last block of an encoder of which only first tokens are read. Queries and all behind them are of
 * those alone, a row per sequence; keys and values are of every token. Its results at first tokens have the bits of the
 * whole block; gradients are sums over fewer zeros, in another order. */
bool pass_first_possible(const struct pass *pass); /* for the options and edits */
size_t pass_first_tiles(size_t sequences);
void pass_first_forward(struct pass *pass);
void pass_first_backward(struct pass *pass);

/* pass_embed.c */
void pass_embed_forward(struct pass *pass);
void pass_embed_backward(struct pass *pass);
void pass_tokens_clear(struct pass *pass); /* what earlier steps left in the token table's gradient */

#endif
