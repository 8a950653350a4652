/* Helpers for meters: appending readings. */
#ifndef METER_TEXT_H
#define METER_TEXT_H

#include "meters/meter.h"

/* Append a reading when there is room; *count grows only then. Long texts are cut. */
void meter_present(struct meter_value *values, size_t capacity, size_t *count, const char *name, const char *unit,
                   double value);
/* Append a reading that has no value, with the reason. */
void meter_absent(struct meter_value *values, size_t capacity, size_t *count, const char *name, const char *unit,
                  const char *reason);

#endif
