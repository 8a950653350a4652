/* The sections of an experiment file, each read by its own table into the experiment.
 *
 * node may be NULL where the section is absent; `at` is the place of the whole file, for what is missing.
 */
#ifndef SECTIONS_H
#define SECTIONS_H

#include "config/experiment.h"
#include "config/yaml_tree.h"

/* One point of the axes beside the pipeline (axis_options). */
struct axis_settings {
    int64_t threads, seed; /* threads 0: the CPUs this process may use */
    const char *gemm, *storage;
};

int section_model(struct experiment *experiment, const struct node *node, const struct position *at);
int section_tokenizer(struct experiment *experiment, const struct node *node, const struct position *at);
int section_task(struct experiment *experiment, const struct node *node, const struct position *at);
int section_measure(struct experiment *experiment, const struct node *node, const struct position *at);
int section_limits(struct experiment *experiment, const struct node *node, const struct position *at);

/* {NAME: {options}} or NAME: the shape of a task and of a stage. *options is NULL for a bare name. */
int named_options(const struct node *node, const char *what, const struct node **name, const struct node **options);

#endif
