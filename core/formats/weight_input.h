/* The input of a product as kernels take it: quantized, or rounded to bf16 (private to formats/). */
#ifndef WEIGHT_INPUT_H
#define WEIGHT_INPUT_H

#include "formats/execution.h"

/* What a matrix asks of its input. Matrices that ask the same share one conversion. */
struct input_plan {
    size_t n_padded, group; /* n_padded 0: f32 as it is; group 0: bf16, or f32 values of f16 */
    bool f16;
    struct activation_quantizer activation;
};

/* What a matrix asks. */
struct input_plan input_plan_of(const struct weight *weight);

bool input_plan_same(const struct input_plan *a, const struct input_plan *b);

/* Bytes that converting T tokens of N values takes, a multiple of 64. */
size_t input_bytes(const struct input_plan *plan, size_t T, size_t N);

/* Convert x (T,N) into `place`, input_bytes large, and point `input` at the results. offset [sequences+1]: whose rows
 * they are; NULL: each is a sequence of its own. serial: in the calling thread. */
void input_convert(const struct input_plan *plan, size_t T, size_t N, const float *x, const uint32_t *offset,
                   size_t sequences, bool serial, void *place, struct weight_input *input);

/* The same in pieces, for plans that convert each row by itself: point `input` at what will be there, then convert rows
 * begin..end-1 of x (T,N). */
bool input_by_rows(const struct input_plan *plan);
void input_place(const struct input_plan *plan, size_t T, void *place, struct weight_input *input);
void input_convert_rows(const struct input_plan *plan, size_t N, const float *x, size_t begin, size_t end,
                        const struct weight_input *input);

#endif
