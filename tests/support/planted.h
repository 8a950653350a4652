/* A kernel with a planted bug must fail the checker (tests of the checker itself). Include after cmocka.h. */
#ifndef PLANTED_H
#define PLANTED_H

#include <stdio.h>

#include "checker.h"
#include "kernels/kernels.h"

static inline void catches(const struct kernels *table, const char *kernel, const char *bug) {
    struct checker_report report;
    checker_run(table, kernel, 60, checker_seed(), &report);
    if (report.failures == 0) fail_msg("%s: the planted bug \"%s\" passed %zu cases", kernel, bug, report.cases);
    printf("%s: %s\n", bug, report.first);
}

#define PLANT(field, bug)                                                                                              \
    do {                                                                                                               \
        struct kernels table;                                                                                          \
        kernels_fill(&table, 0);                                                                                       \
        table.field = bug;                                                                                             \
        catches(&table, #field, #bug);                                                                                 \
    } while (0)

#endif
