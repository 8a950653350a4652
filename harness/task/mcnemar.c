/* Exact McNemar test (1947) of two classifiers on the same items.
 *
 * Under the null hypothesis the discordant items fall to either side like fair coins, so the two-sided p is
 * twice the lower tail of Binomial(n, 1/2) at the smaller count. The tail is summed from its largest term,
 * which comes from log-gamma, downwards by the ratio of neighbours: stable for any count.
 */
#include <math.h>

#include "task/task.h"

double task_mcnemar(const uint8_t *a, const uint8_t *b, size_t count, size_t *only_a, size_t *only_b) {
    size_t left = 0, right = 0;
    for (size_t i = 0; i < count; i++) {
        left += a[i] && !b[i];
        right += b[i] && !a[i];
    }
    if (only_a) *only_a = left;
    if (only_b) *only_b = right;
    size_t n = left + right, least = left < right ? left : right;
    if (n == 0 || left == right) return 1.0;
    int sign = 0;
    double size = (double)n, k = (double)least;
    double largest = lgamma_r(size + 1, &sign) - lgamma_r(k + 1, &sign) - lgamma_r(size - k + 1, &sign) - size * M_LN2;
    double sum = 1, term = 1;
    for (; k > 0 && term > 1e-18 * sum; k--) {
        term *= k / (size - k + 1);
        sum += term;
    }
    double p = 2 * exp(largest + log(sum));
    return p < 1 ? p : 1;
}
