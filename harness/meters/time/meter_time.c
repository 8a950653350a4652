/* Wall clock of the window: CLOCK_MONOTONIC, read once before and once after, nothing in between. */
#include <time.h>

#include "base/error.h"
#include "meters/meter_text.h"

struct window {
    double begin_ns, end_ns;
};

static double clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int time_start(void *state) {
    ((struct window *)state)->begin_ns = clock_ns();
    return 0;
}

static int time_stop(void *state) {
    ((struct window *)state)->end_ns = clock_ns();
    return 0;
}

static size_t time_read(void *state, struct meter_value *values, size_t capacity) {
    const struct window *window = state;
    size_t count = 0;
    meter_present(values, capacity, &count, "window_ns", "ns", window->end_ns - window->begin_ns);
    return count;
}

const struct meter meter_time = {
    .abi = METER_ABI,
    .name = "time",
    .summary = "wall-clock length of the window (CLOCK_MONOTONIC)",
    .state_bytes = sizeof(struct window),
    .start = time_start,
    .stop = time_stop,
    .read = time_read,
};
