/* Sum of token, type and position embeddings, and the scatter of its gradient.
 *
 * The gradient is cut by table rows, and every tile looks through all tokens in order: no two threads add to
 * one row, and the order of a row's sum is the tokens'.
 */
#include "model/layers.h"

#include "kernels/kernels.h"

void embedding_forward(size_t T, size_t C, const int32_t *ids, const int32_t *type, const int32_t *position,
                       const float *tokens, const float *types, const float *positions, float *y) {
    for (size_t t = 0; t < T; t++) {
        const float *a = tokens + (size_t)ids[t] * C, *b = types + (type ? (size_t)type[t] * C : 0),
                    *p = positions + (size_t)position[t] * C;
        float *out = y + t * C;
        for (size_t c = 0; c < C; c++) out[c] = (a[c] + b[c]) + p[c];
    }
}

void embedding_backward(size_t T, size_t C, const int32_t *index, const float *dy, size_t begin, size_t end,
                        int64_t skip, float *dtable) {
    for (size_t t = 0; t < T; t++) {
        size_t row = index ? (size_t)index[t] : 0;
        if (row < begin || row >= end || (int64_t)row == skip) continue;
        kernels.add(C, dy + t * C, dtable + row * C);
    }
}
