/* The golden reference files: found through GOLDENS or beside the checkout, absent on most machines. */
#ifndef GOLDEN_FILES_H
#define GOLDEN_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/json.h"
#include "io/safetensors.h"

/* DIR/name in `path`; false, after printing "skipped: …", when that file or folder does not exist. */
bool golden_path(char *path, size_t size, const char *name);

/* Opened or the test fails with the error's text. */
void golden_open(struct safetensors *file, const char *name);
/* A whole JSON file; the text belongs to the caller (memory_release). */
void golden_json(struct json_document *document, char **text, const char *name);
const struct tensor *golden_tensor(const struct safetensors *file, const char *name); /* must exist */
double golden_number(const struct json *object, const char *key);                     /* must exist */

/* Largest |a - b| and largest |b| over count values; with `mask` only rows of `row` values whose mask is 1. */
struct difference {
    double largest, scale;
};
struct difference golden_difference(const float *a, const float *b, size_t count, const int32_t *mask, size_t row);

/* Fails, naming `what`, unless the largest difference is within tolerance * scale. */
void golden_close(const char *what, struct difference difference, double tolerance);

#endif
