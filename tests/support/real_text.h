/* A real language model, opened from its own file, and what the goldens (real/NAME) say of the text it writes. */
#ifndef REAL_TEXT_H
#define REAL_TEXT_H

#include "golden_files.h"
#include "model/generate.h"

struct real_text {
    struct model model;
    struct workspace workspace;
    struct json_document document;
    struct safetensors tensors;
    char *text;
};

/* False, after printing "skipped: …", when the goldens or the model are absent; or the test fails. */
bool real_text_open(struct real_text *real, const char *name, const char *model, enum weight_storage storage);
void real_text_close(struct real_text *real);

/* Greedy text of every prompt, equal up to the first step whose two best logits are closer than `gap` (where the golden
 * says which step has the closest). */
void real_text_check_greedy(struct real_text *real, enum cache_type cache, double gap);

/* Negative log-likelihoods of windows of `length` tokens, each computed by itself: inputs, targets (-1: none; its nll
 * is 0) and nll (windows,length). */
void real_text_nll(struct real_text *real, size_t windows, size_t length, const int32_t *inputs, const int32_t *targets,
                   float *nll);
double real_text_sum(const float *nll, size_t count);

#endif
