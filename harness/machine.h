/* The machine a session runs on: what is stored with every result, and what spoils a measurement.
 *
 * Everything is read from the kernel (/proc, /sys), the CPU and the environment, in a few milliseconds, and
 * nothing here fails because a machine does not show something: it is then absent, with the reason.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>

#include "store/store.h"

enum finding_state {
    FINDING_OK,
    FINDING_WARN,    /* spoils measurements; the remedy says what to do */
    FINDING_MISSING, /* cannot be measured here */
};
const char *finding_state_name(enum finding_state state); /* "ok", "warn", "missing" */

struct finding {
    enum finding_state state;
    char name[32];    /* "governor" */
    char value[1536]; /* "powersave"; room for the name of every kernel */
    char remedy[256]; /* "" when there is nothing to do */
};
struct findings {
    struct finding items[64];
    size_t count;
};
/* Append; what has no room is dropped, long texts are cut. remedy: NULL for none. */
void finding_add(struct findings *findings, enum finding_state state, const char *name, const char *remedy,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Governor, turbo, SMT, load, CPU quota, hypervisor, steal, clock, and settings in the environment. */
void machine_check(struct findings *findings);

/* The records' texts are views of this struct: keep it where it is until the records are stored. */
struct machine {
    struct host_record host;
    struct build_record build;
    double load_average; /* of one minute */
    char warnings[2048]; /* of machine_check, "name: value; …"; "" for none */
    char cpu_flags[256], caches[256], kernel[192], governor[64], virtual[64];
};
int machine_open(struct machine *machine);
void machine_close(struct machine *machine); /* accepts a zeroed struct */

#endif
