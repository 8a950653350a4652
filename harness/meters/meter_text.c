/* Helpers for meters; see meter_text.h. */
#include "meters/meter_text.h"

#include <math.h>
#include <stdio.h>

void meter_present(struct meter_value *values, size_t capacity, size_t *count, const char *name, const char *unit,
                   double value) {
    if (*count >= capacity) return;
    struct meter_value *reading = &values[(*count)++];
    *reading = (struct meter_value){.value = value};
    snprintf(reading->name, sizeof reading->name, "%s", name);
    snprintf(reading->unit, sizeof reading->unit, "%s", unit);
}

void meter_absent(struct meter_value *values, size_t capacity, size_t *count, const char *name, const char *unit,
                  const char *reason) {
    size_t before = *count;
    meter_present(values, capacity, count, name, unit, NAN);
    if (*count > before) snprintf(values[before].reason, sizeof values[before].reason, "%s", reason);
}
