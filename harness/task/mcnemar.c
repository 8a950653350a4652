/* McNemar's exact test on two lists of outcomes; the test itself is statistics_mcnemar. */
#include "measure/statistics.h"
#include "task/task.h"

double task_mcnemar(const uint8_t *a, const uint8_t *b, size_t count, size_t *only_a, size_t *only_b) {
    size_t left = 0, right = 0;
    for (size_t i = 0; i < count; i++) {
        left += a[i] && !b[i];
        right += b[i] && !a[i];
    }
    if (only_a) *only_a = left;
    if (only_b) *only_b = right;
    return statistics_mcnemar(left, right);
}
