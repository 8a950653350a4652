/* The matrix section: axes, zip, include and exclude, as a list of (setting, pipeline) points. */
#ifndef MATRIX_H
#define MATRIX_H

#include "config/sections.h"
#include "plan/pipeline.h"

struct matrix_point {
    struct axis_settings setting;   /* threads resolved */
    size_t pipeline;                /* into matrix.pipelines */
    const struct position *include; /* where include asks for it; NULL for the product */
};

struct matrix {
    struct pipelines pipelines;
    struct matrix_point *points; /* memory_release */
    size_t count, capacity;
};

/* node NULL: one point, the baseline at the default setting. */
int matrix_read(struct matrix *matrix, struct experiment *experiment, struct document *document,
                const struct node *node);
void matrix_close(struct matrix *matrix); /* accepts a zeroed matrix */

#endif
