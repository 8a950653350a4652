/* Linear support vector machines on sparse rows, one against the rest. */
#ifndef LINEAR_SVM_H
#define LINEAR_SVM_H

#include "task/features.h"

#define SVM_COSTS 4
extern const double svm_costs[SVM_COSTS]; /* the C that are tried, ascending */

/* Train one machine per class and cost, and apply it: decision[cost][class][row] of `valid` and of `test`
 * (callers' arrays). Classes run in parallel; the result depends on the arguments alone. E_MEMORY. */
int svm_decide(const struct sparse *train, const int32_t *label, size_t classes, const struct sparse *valid,
               const struct sparse *test, double *valid_decision, double *test_decision);

#endif
