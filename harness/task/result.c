/* Results of scoring while they are collected; see task.h. */
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/task.h"

int task_result_items(struct task_result *result, const char *name, enum item_type type, void **values) {
    int status = 0;
    CHECK(result->item_count < TASK_ITEMS_MAX, "%s is one array too many", name);
    struct task_items *items = &result->items[result->item_count];
    *items = (struct task_items){.name = name, .type = type};
    TRY(memory_take(&items->values, result->count, type == ITEM_U8 ? 1 : 4));
    result->item_count++;
    *values = items->values;
out:
    return status;
}

void task_result_metric(struct task_result *result, const char *name, const char *unit, double value) {
    CHECK(result->metric_count < TASK_METRICS_MAX, "%s is one metric too many", name);
    result->metrics[result->metric_count++] = (struct task_metric){name, unit, value};
}

void task_result_close(struct task_result *result) {
    for (size_t i = 0; i < result->item_count; i++) memory_release(result->items[i].values);
    memset(result, 0, sizeof *result);
}
