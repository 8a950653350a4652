/* One golden family: its model, and one of its batches packed. */
#ifndef GOLDEN_FAMILY_H
#define GOLDEN_FAMILY_H

#include "golden_files.h"
#include "model/model.h"

struct golden_family {
    char name[64], folder[512];
    struct safetensors io;
    struct json_document meta;
    char *meta_text;
    struct model model;
    struct workspace workspace;
};

/* The batch "padded" or "unpadded" without its padding. */
struct golden_batch {
    const char *prefix;
    size_t B, T_padded;
    const int32_t *mask; /* (B,T_padded) */
    int32_t *ids, *types;
    int32_t *labels; /* per token or per sequence; NULL: none */
    bool per_token;
    uint32_t *offset;
    struct batch batch;
};

/* Call `test` for every folder of families/ that has a model; false: there are none (it said "skipped"). */
bool golden_families(void (*test)(struct golden_family *family));
/* Open one by name; false when it is not there. The test fails on any other error. */
bool golden_family_open(struct golden_family *family, const char *name, bool editable);
void golden_family_close(struct golden_family *family);

/* Whether the files have this batch; it borrows from `family`. */
bool golden_batch_open(struct golden_batch *batch, const struct golden_family *family, const char *prefix);
void golden_batch_close(struct golden_batch *batch);

/* A tensor "PREFIX.NAME" of the batch with `n` floats per token (or `count` in all when n is 0). */
const float *golden_batch_floats(const struct golden_family *family, const struct golden_batch *batch,
                                 const char *name);
/* Compare packed rows (tokens, n) with the padded tensor "PREFIX.NAME", where the mask is 1. */
void golden_batch_close_to(const struct golden_family *family, const struct golden_batch *batch, const char *name,
                           const float *packed, size_t n, double tolerance);

#endif
