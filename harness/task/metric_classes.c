/* See metrics.h: numbers from a table of labels against predictions. */
#include <math.h>

#include "task/metrics.h"

static double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

void metric_classes(const uint64_t *table, size_t classes, struct class_scores *scores) {
    double total = 0, right = 0, products = 0, rows_squared = 0, columns_squared = 0, f1_sum = 0, weighted = 0;
    size_t present = 0;
    *scores = (struct class_scores){0};
    for (size_t k = 0; k < classes; k++) {
        double row = 0, column = 0, hit = (double)table[k * classes + k];
        for (size_t j = 0; j < classes; j++) {
            row += (double)table[k * classes + j];
            column += (double)table[j * classes + k];
        }
        double f1 = ratio(2 * hit, row + column);
        total += row;
        right += hit;
        products += row * column;
        rows_squared += row * row;
        columns_squared += column * column;
        f1_sum += f1;
        weighted += f1 * row;
        present += row + column > 0;
        if (k != 1) continue;
        scores->f1_positive = f1;
        scores->precision_positive = ratio(hit, column);
        scores->recall_positive = ratio(hit, row);
    }
    double spread = sqrt((total * total - columns_squared) * (total * total - rows_squared));
    scores->accuracy_frac = ratio(right, total);
    scores->f1_macro = ratio(f1_sum, (double)present);
    scores->f1_micro = scores->accuracy_frac; /* one label an item: the same number */
    scores->f1_weighted = ratio(weighted, total);
    scores->matthews = ratio(right * total - products, spread);
}
