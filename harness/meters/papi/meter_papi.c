/* Counters through PAPI: hardware presets where the machine has them, and our own software-defined events.
 *
 * The hardware events form one event set that PAPI pins to the processor's counters: nothing is multiplexed
 * or scaled, so running time equals enabled time, and an event that does not fit beside the others has no
 * value but a reason. The set is inherited by threads made after open, therefore open discards the pool of
 * OpenMP threads and makes it anew. Where PAPI cannot be initialised, or an event cannot be counted, the
 * reading carries PAPI's own words.
 * The software-defined events (PAPI's SDE component) watch kernel_counters in kernels/kernels.h: work that
 * was done, not what a processor needed for it. Written for PAPI 7.0 to 7.2; their C interfaces agree in all
 * that is used here.
 */
#include <math.h>
#include <papi.h>
#include <sde_lib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "meters/meter_text.h"
#include "meters/papi_probe.h"

#ifdef _OPENMP
/* Declared here because clang without its own OpenMP runtime has no omp.h; name and value are the standard's. */
extern int omp_pause_resource_all(int kind);
#define PAUSE_SOFT 1
#endif

/* In order of worth: the first that fit are counted. */
static const struct {
    const char *preset, *name;
} hardware[] = {
    {"PAPI_TOT_INS", "instructions"},         {"PAPI_TOT_CYC", "cycles"},         {"PAPI_L3_TCM", "l3_misses"},
    {"PAPI_BR_MSP", "branch_mispredictions"}, {"PAPI_L2_TCM", "l2_misses"},       {"PAPI_L1_DCM", "l1_data_misses"},
    {"PAPI_TLB_DM", "data_tlb_misses"},       {"PAPI_RES_STL", "stalled_cycles"},
};
#define HARDWARE (sizeof hardware / sizeof *hardware)

static const struct {
    const char *event, *name, *unit;
} software[] = {
    {"sde:::shrinklab::multiply_adds", "multiply_adds", "count"},
    {"sde:::shrinklab::weight_bytes", "weight_bytes", "bytes"},
    {"sde:::shrinklab::tokens", "tokens", "tok"},
};
#define SOFTWARE (sizeof software / sizeof *software)
#define REASON 160

struct window {
    int hardware_set, software_set; /* PAPI_NULL: none */
    int hardware_slot[HARDWARE];    /* place in its event set, or -1 */
    int software_slot[SOFTWARE];
    char hardware_reason[HARDWARE][REASON];
    char software_reason[SOFTWARE][REASON];
    long long hardware_value[HARDWARE], software_value[SOFTWARE];
    int hardware_count, software_count;
    double begin_ns, length_ns;
};

/* Our counters, announced to PAPI once per process. */
static int software_register(char *reason, size_t size) {
    static bool known;
    if (known) return 0;
    void *values[SOFTWARE] = {&kernel_counters.multiply_adds, &kernel_counters.weight_bytes, &kernel_counters.tokens};
    papi_handle_t library = papi_sde_init("shrinklab");
    if (!library) {
        snprintf(reason, size, "papi_sde_init failed");
        return -1;
    }
    for (size_t i = 0; i < SOFTWARE; i++) {
        int result = papi_sde_register_counter(library, software[i].name, PAPI_SDE_RO | PAPI_SDE_DELTA,
                                               PAPI_SDE_long_long, values[i]);
        if (result != SDE_OK) {
            snprintf(reason, size, "papi_sde_register_counter failed (%d)", result);
            return -1;
        }
    }
    known = true;
    return 0;
}

static int papi_probe(char *reason, size_t size) {
    int status = 0;
    if (papi_ready(reason, size) != 0) FAIL(E_UNSUPPORTED, "%s", reason);
out:
    return status;
}

static void reasons_fill(char (*reasons)[REASON], int *slots, size_t count, const char *reason) {
    for (size_t i = 0; i < count; i++) {
        snprintf(reasons[i], REASON, "%s", reason);
        slots[i] = -1;
    }
}

/* Why an event could not be added: the component's own reason where it is disabled, else PAPI's error. */
static void hardware_explain(int result, int counted, char *reason) {
    char disabled[REASON] = "";
    if (papi_component_reason("perf_event", disabled, sizeof disabled) != 0) snprintf(reason, REASON, "%s", disabled);
    else if (result == PAPI_ECNFLCT && counted > 0)
        snprintf(reason, REASON, "does not fit beside the %d events before it", counted);
    else
        snprintf(reason, REASON, "%s%s", PAPI_strerror(result),
                 papi_has_processor_events()
                     ? ""
                     : " (the kernel offers no hardware counters: no PMU, as in most virtual machines)");
}

/* Count in the threads that are made from now on too; without that, several threads cannot be counted. */
static int set_inherit(int set) {
    PAPI_option_t option;
    memset(&option, 0, sizeof option);
    option.inherit.eventset = set;
    option.inherit.inherit = PAPI_INHERIT_ALL;
    return PAPI_set_opt(PAPI_INHERIT, &option);
}

static void nothing_do(void *context, size_t begin, size_t end, int worker) {
    (void)context, (void)begin, (void)end, (void)worker;
}

static void hardware_open(struct window *window) {
    int result = PAPI_create_eventset(&window->hardware_set), inherited = PAPI_OK;
    if (result == PAPI_OK) result = PAPI_assign_eventset_component(window->hardware_set, 0);
    if (result == PAPI_OK) inherited = set_inherit(window->hardware_set);
    if (result != PAPI_OK) {
        reasons_fill(window->hardware_reason, window->hardware_slot, HARDWARE, PAPI_strerror(result));
        return;
    }
    for (size_t i = 0; i < HARDWARE; i++) {
        window->hardware_slot[i] = -1;
        result = PAPI_add_named_event(window->hardware_set, hardware[i].preset);
        if (result == PAPI_OK) window->hardware_slot[i] = window->hardware_count++;
        else hardware_explain(result, window->hardware_count, window->hardware_reason[i]);
    }
    if (window->hardware_count > 0 && inherited != PAPI_OK && threads_get() > 1) {
        char reason[REASON];
        snprintf(reason, sizeof reason, "cannot count in all threads: PAPI_INHERIT: %s", PAPI_strerror(inherited));
        reasons_fill(window->hardware_reason, window->hardware_slot, HARDWARE, reason);
        window->hardware_count = 0;
        return;
    }
    if (window->hardware_count == 0) return;
#ifdef _OPENMP
    omp_pause_resource_all(PAUSE_SOFT);
#endif
    parallel_for((size_t)threads_get(), 1, nothing_do, NULL);
}

static void software_open(struct window *window) {
    char reason[REASON] = "";
    int result = software_register(reason, sizeof reason) == 0 ? PAPI_create_eventset(&window->software_set) : PAPI_OK;
    if (reason[0] || result != PAPI_OK) {
        reasons_fill(window->software_reason, window->software_slot, SOFTWARE,
                     reason[0] ? reason : PAPI_strerror(result));
        return;
    }
    for (size_t i = 0; i < SOFTWARE; i++) {
        window->software_slot[i] = -1;
        result = PAPI_add_named_event(window->software_set, software[i].event);
        if (result == PAPI_OK) window->software_slot[i] = window->software_count++;
        else if (papi_component_reason("sde", window->software_reason[i], REASON) == 0)
            snprintf(window->software_reason[i], REASON, "%s", PAPI_strerror(result));
    }
}

static int papi_open(void *state) {
    struct window *window = state;
    char reason[REASON] = "";
    window->hardware_set = window->software_set = PAPI_NULL;
    if (papi_ready(reason, sizeof reason) != 0) {
        reasons_fill(window->hardware_reason, window->hardware_slot, HARDWARE, reason);
        reasons_fill(window->software_reason, window->software_slot, SOFTWARE, reason);
        return 0;
    }
    hardware_open(window);
    software_open(window);
    return 0;
}

static int papi_start(void *state) {
    struct window *window = state;
    int result = window->software_count ? PAPI_start(window->software_set) : PAPI_OK;
    if (result != PAPI_OK) {
        reasons_fill(window->software_reason, window->software_slot, SOFTWARE, PAPI_strerror(result));
        window->software_count = 0;
    }
    window->begin_ns = (double)PAPI_get_real_nsec();
    result = window->hardware_count ? PAPI_start(window->hardware_set) : PAPI_OK;
    if (result != PAPI_OK) {
        reasons_fill(window->hardware_reason, window->hardware_slot, HARDWARE, PAPI_strerror(result));
        window->hardware_count = 0;
    }
    return 0;
}

static int papi_stop(void *state) {
    struct window *window = state;
    int result = window->hardware_count ? PAPI_stop(window->hardware_set, window->hardware_value) : PAPI_OK;
    window->length_ns = (double)PAPI_get_real_nsec() - window->begin_ns;
    if (result != PAPI_OK) {
        reasons_fill(window->hardware_reason, window->hardware_slot, HARDWARE, PAPI_strerror(result));
        window->hardware_count = 0;
    }
    result = window->software_count ? PAPI_stop(window->software_set, window->software_value) : PAPI_OK;
    if (result != PAPI_OK) {
        reasons_fill(window->software_reason, window->software_slot, SOFTWARE, PAPI_strerror(result));
        window->software_count = 0;
    }
    return 0;
}

static size_t papi_read(void *state, struct meter_value *values, size_t capacity) {
    const struct window *window = state;
    size_t count = 0;
    /* A window always has instructions and cycles: zeros mean that the set never was on the counters. */
    bool stalled = window->hardware_count > 0;
    for (int i = 0; i < window->hardware_count; i++) stalled = stalled && window->hardware_value[i] == 0;
    for (size_t i = 0; i < HARDWARE; i++) {
        int slot = window->hardware_slot[i];
        if (slot >= 0 && !stalled) {
            meter_present(values, capacity, &count, hardware[i].name, "count", (double)window->hardware_value[slot]);
            values[count - 1].enabled_ns = values[count - 1].running_ns = window->length_ns;
        } else {
            meter_absent(values, capacity, &count, hardware[i].name, "count",
                         slot >= 0 ? "the counters never ran: another user holds them" : window->hardware_reason[i]);
        }
    }
    for (size_t i = 0; i < SOFTWARE; i++) {
        int slot = window->software_slot[i];
        if (slot >= 0)
            meter_present(values, capacity, &count, software[i].name, software[i].unit,
                          (double)window->software_value[slot]);
        else meter_absent(values, capacity, &count, software[i].name, software[i].unit, window->software_reason[i]);
    }
    return count;
}

static void papi_close(void *state) {
    struct window *window = state;
    int *sets[] = {&window->hardware_set, &window->software_set};
    for (size_t i = 0; i < 2; i++)
        if (*sets[i] != PAPI_NULL) {
            PAPI_cleanup_eventset(*sets[i]);
            PAPI_destroy_eventset(sets[i]);
        }
}

const struct meter meter_papi = {
    .abi = METER_ABI,
    .name = "papi",
    .summary = "hardware counters and our own software-defined events, through PAPI",
    .state_bytes = sizeof(struct window),
    .probe = papi_probe,
    .open = papi_open,
    .start = papi_start,
    .stop = papi_stop,
    .read = papi_read,
    .close = papi_close,
};
