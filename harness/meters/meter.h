/* The contract of a meter: a plug-in that measures something around a timed window.
 *
 * One directory per meter, one exported symbol `const struct meter meter_<name>`; registered by a list
 * that make generates. Latency, memory and counters are taken in separate passes, so a meter never
 * perturbs another's window.
 */
#ifndef METER_H
#define METER_H

#include <stddef.h>
#include <stdint.h>

#define METER_ABI 1u

/* A reading: value, or a reason why there is none ("disabled: perf_event is not available"). */
struct meter_value {
    char name[64];
    char unit[24];
    double value;                  /* NaN when absent */
    char reason[160];              /* "" when value is present */
    double enabled_ns, running_ns; /* of multiplexed counters; 0 when not applicable */
};

struct meter {
    uint32_t abi;
    const char *name; /* "time", "rusage", "papi" */
    const char *summary;
    size_t state_bytes;                      /* allocated zeroed by the harness */
    int (*probe)(char *reason, size_t size); /* 0; or E_UNSUPPORTED with a reason */
    int (*open)(void *state);
    int (*start)(void *state);
    int (*stop)(void *state);
    /* Append readings of the last window; returns how many were written (<= capacity). */
    size_t (*read)(void *state, struct meter_value *values, size_t capacity);
    void (*close)(void *state);
};

extern const struct meter *const meters[]; /* NULL-terminated */

#endif
