/* Losses with their gradients. */
#ifndef LOSS_H
#define LOSS_H

#include <stddef.h>
#include <stdint.h>

/* Mean cross-entropy over rows of logits (rows, V) whose label is not -100, with label smoothing spread
 * over all V classes; gradient (rows, V) may be NULL or may be `logits` itself. Returns the mean loss in
 * nats; 0 when no row counts. Deterministic at any thread count. */
double loss_cross_entropy(const float *logits, const int32_t *labels, size_t rows, size_t V, double smoothing,
                          float *gradient);

#endif
