/* From a read experiment to cells: expansion of the matrix, keys, and the printed plan. */
#ifndef PLAN_H
#define PLAN_H

#include <stdio.h>

#include "config/experiment.h"
#include "config/yaml_tree.h"

/* Expand prepare and matrix of the file into experiment->cells: every setting (threads, seed, gemm) begins with
 * its baseline; keys have an empty data hash. At most CELLS_MAX cells. E_ARGUMENT with a position. */
#define CELLS_MAX 100000
int plan_expand(struct experiment *experiment, struct document *document, const struct position *at);

/* Identity of all that can change a cell's result except code versions: model, tokenizer, task and its options,
 * data, seed, threads, gemm, and each stage's technique, version and options. data_hash: of the task's bytes,
 * "" where unknown. */
int plan_cell_key(const struct experiment *experiment, const struct cell *cell, const char *data_hash,
                  char key[HASH_HEX]);

/* Identity of the model after the first `stages` stages (0: before any): as the cell's key, without threads and
 * gemm, which do not change a built model. Cells that share a prefix share its key. */
int plan_prefix_key(const struct experiment *experiment, const struct cell *cell, size_t stages, const char *data_hash,
                    char key[HASH_HEX]);

/* What a printed plan asks about a cell. Either function may be NULL. */
struct plan_view {
    bool (*cached)(void *host, const struct experiment *experiment, const struct cell *cell);
    double (*seconds)(void *host, const struct experiment *experiment, const struct cell *cell); /* NaN: unknown */
    void *host;
};

/* The plan of one experiment as format table, csv, jsonl or md. Skips come with their reason. E_ARGUMENT for
 * another format, E_IO when the stream fails. */
int plan_print(FILE *out, const struct experiment *experiment, const struct plan_view *view, const char *format);

#endif
