/* What the kernel accounts to this process during the window: getrusage(RUSAGE_SELF), all threads.
 *
 * Times come in steps of the kernel's accounting (1 us to 4 ms). ru_maxrss is left out: across exec it keeps the
 * peak of the process that started this one; the run's peak_rss_bytes is read from /proc instead.
 */
#include <sys/resource.h>

#include "base/error.h"
#include "meters/meter_text.h"

struct window {
    struct rusage begin, end;
};

static int rusage_start(void *state) {
    int status = 0;
    if (getrusage(RUSAGE_SELF, &((struct window *)state)->begin)) FAIL(E_UNSUPPORTED, "getrusage failed");
out:
    return status;
}

static int rusage_stop(void *state) {
    int status = 0;
    if (getrusage(RUSAGE_SELF, &((struct window *)state)->end)) FAIL(E_UNSUPPORTED, "getrusage failed");
out:
    return status;
}

static double time_ns(struct timeval time) { return (double)time.tv_sec * 1e9 + (double)time.tv_usec * 1e3; }

static size_t rusage_read(void *state, struct meter_value *values, size_t capacity) {
    const struct rusage *a = &((struct window *)state)->begin, *b = &((struct window *)state)->end;
    const struct {
        const char *name, *unit;
        double value;
    } rows[] = {
        {"user_ns", "ns", time_ns(b->ru_utime) - time_ns(a->ru_utime)},
        {"system_ns", "ns", time_ns(b->ru_stime) - time_ns(a->ru_stime)},
        {"minor_faults", "count", (double)(b->ru_minflt - a->ru_minflt)},
        {"major_faults", "count", (double)(b->ru_majflt - a->ru_majflt)},
        {"voluntary_switches", "count", (double)(b->ru_nvcsw - a->ru_nvcsw)},
        {"involuntary_switches", "count", (double)(b->ru_nivcsw - a->ru_nivcsw)},
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        meter_present(values, capacity, &count, rows[i].name, rows[i].unit, rows[i].value);
    return count;
}

const struct meter meter_rusage = {
    .abi = METER_ABI,
    .name = "rusage",
    .summary = "processor time, page faults and context switches of the process (getrusage)",
    .state_bytes = sizeof(struct window),
    .start = rusage_start,
    .stop = rusage_stop,
    .read = rusage_read,
};
