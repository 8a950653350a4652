/* Dual coordinate descent for the L2-regularised squared-hinge SVM, as in LIBLINEAR (Hsieh, Chang, Lin, Keerthi
 * and Sundararajan 2008, Algorithm 2 and 3: random order, shrinking).
 *
 * min over alpha >= 0 of 1/2 alpha' Q alpha - sum alpha, with Q_ij = y_i y_j x_i.x_j + [i=j]/(2C) and
 * w = sum alpha_i y_i x_i. A constant feature 1 carries the bias. The costs of one class run in ascending
 * order and each starts from the solution of the one before, which is feasible for every C.
 */
#include "task/linear_svm.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"

#define ROUNDS 1000   /* LIBLINEAR's default limit of passes */
#define TOLERANCE 0.1 /* spread of the projected gradients and 0 that ends it: LIBLINEAR's default */

const double svm_costs[SVM_COSTS] = {0.125, 0.25, 0.5, 1.0};

struct svm {
    const struct sparse *train, *valid, *test;
    const int32_t *label;
    size_t classes;
    double *valid_decision, *test_decision;
    int *status; /* [classes] */
};

static double row_dot(const struct sparse *rows, size_t row, const double *w) {
    double sum = w[rows->columns];
    for (size_t k = rows->begin[row]; k < rows->begin[row + 1]; k++) sum += (double)rows->value[k] * w[rows->index[k]];
    return sum;
}

static void row_add(const struct sparse *rows, size_t row, double step, double *w) {
    for (size_t k = rows->begin[row]; k < rows->begin[row + 1]; k++) w[rows->index[k]] += step * (double)rows->value[k];
    w[rows->columns] += step;
}

/* Descend until the projected gradients of all rows lie within TOLERANCE. order: (rows) scratch. */
static void svm_descend(const struct svm *svm, int32_t class, double cost, struct random *random, double *w,
                        double *alpha, uint32_t *order) {
    const struct sparse *train = svm->train;
    double diagonal = 0.5 / cost, highest_before = INFINITY;
    size_t active = train->rows;
    for (size_t i = 0; i < active; i++) order[i] = (uint32_t)i;
    for (int round = 0; round < ROUNDS; round++) {
        double highest = 0, lowest = 0; /* of the projected gradients */
        for (size_t i = 0; i + 1 < active; i++) {
            size_t j = i + random_below(random, active - i);
            uint32_t swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        for (size_t s = 0; s < active; s++) {
            uint32_t row = order[s];
            double sign = svm->label[row] == class ? 1 : -1;
            double gradient = sign * row_dot(train, row, w) - 1 + diagonal * alpha[row];
            double projected = gradient;
            if (alpha[row] <= 0 && gradient > 0) {
                if (gradient > highest_before) { /* shrink: this row will stay at 0 */
                    order[s--] = order[--active];
                    order[active] = row;
                    continue;
                }
                projected = 0;
            }
            if (projected > highest) highest = projected;
            if (projected < lowest) lowest = projected;
            if (fabs(projected) < 1e-12) continue;
            /* Rows have unit length (or are empty), and the constant feature adds 1. */
            double length = train->begin[row + 1] > train->begin[row] ? 2 : 1;
            double next = alpha[row] - gradient / (length + diagonal);
            if (next < 0) next = 0;
            row_add(train, row, (next - alpha[row]) * sign, w);
            alpha[row] = next;
        }
        if (active == 0 || highest - lowest <= TOLERANCE) {
            if (active == train->rows) break;
            active = train->rows; /* converged on the shrunken set: look at all rows again */
            highest_before = INFINITY;
            continue;
        }
        highest_before = highest > 0 ? highest : INFINITY;
    }
}

static int class_decide(const struct svm *svm, size_t class) {
    int status = 0;
    void *w = NULL, *alpha = NULL, *order = NULL;
    TRY(memory_take(&w, svm->train->columns + 1, sizeof(double)));
    TRY(memory_take(&alpha, svm->train->rows, sizeof(double)));
    TRY(memory_take(&order, svm->train->rows, sizeof(uint32_t)));
    struct random random;
    random_open(&random, 0, random_stream("svm", class, 0));
    for (size_t c = 0; c < SVM_COSTS; c++) {
        svm_descend(svm, (int32_t) class, svm_costs[c], &random, w, alpha, order);
        double *valid = svm->valid_decision + (c * svm->classes + class) * svm->valid->rows;
        double *test = svm->test_decision + (c * svm->classes + class) * svm->test->rows;
        for (size_t i = 0; i < svm->valid->rows; i++) valid[i] = row_dot(svm->valid, i, w);
        for (size_t i = 0; i < svm->test->rows; i++) test[i] = row_dot(svm->test, i, w);
    }
out:
    memory_release(order);
    memory_release(alpha);
    memory_release(w);
    return status;
}

static void classes_decide(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct svm *svm = context;
    for (size_t class = begin; class < end; class ++) svm->status[class] = class_decide(svm, class);
}

int svm_decide(const struct sparse *train, const int32_t *label, size_t classes, const struct sparse *valid,
               const struct sparse *test, double *valid_decision, double *test_decision) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, classes, sizeof(int)));
    struct svm svm = {train, valid, test, label, classes, valid_decision, test_decision, block};
    parallel_for(classes, 1, classes_decide, &svm);
    for (size_t k = 0; k < classes; k++)
        if (svm.status[k] < 0) FAIL(svm.status[k], "no memory for a linear classifier of %zu features", train->columns);
out:
    memory_release(block);
    return status;
}
