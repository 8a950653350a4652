/* The checker's machinery: guarded buffers, faults turned into failures, values to fill with, and the run over all
 * checks (checker_matmul.c, checker_rows.c). */
#include "checker_case.h"

#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_BYTES (1024u << 10)
#define PAGE 4096u
#define CANARY 0xff /* as f32 a NaN, as s8 and s32 -1 */

static sigjmp_buf fault_place;

static void on_fault(int signal) {
    (void)signal;
    siglongjmp(fault_place, 1);
}

void check_fail(struct check *check, const char *format, ...) {
    struct checker_report *report = check->report;
    if (report->failures++) return;
    int used = snprintf(report->first, sizeof report->first, "%s, %s: ", check->kernel, check->shape);
    va_list arguments;
    va_start(arguments, format);
    if (used > 0 && (size_t)used < sizeof report->first)
        vsnprintf(report->first + used, sizeof report->first - (size_t)used, format, arguments);
    va_end(arguments);
}

static void slots_open(struct check *check) {
    for (size_t i = 0; i < SLOTS; i++) {
        uint8_t *base = mmap(NULL, SLOT_BYTES + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) abort();
        if (mprotect(base, PAGE, PROT_NONE) || mprotect(base + PAGE + SLOT_BYTES, PAGE, PROT_NONE)) abort();
        check->slots[i].base = base + PAGE;
    }
}

static void slots_close(struct check *check) {
    for (size_t i = 0; i < SLOTS; i++) munmap(check->slots[i].base - PAGE, SLOT_BYTES + 2 * PAGE);
}

size_t check_below(struct check *check, size_t bound) { return (size_t)random_below(&check->random, bound); }

/* `count` elements of `size` bytes, aligned to no more than `size`, all canary. */
void *check_take(struct check *check, size_t count, size_t size) {
    struct slot *slot = &check->slots[check->used++];
    slot->bytes = count * size;
    if (check->used > SLOTS || slot->bytes + 256 > SLOT_BYTES) abort();
    /* Flush against the page behind (three times of four), or the page before. */
    slot->data = check_below(check, 4) ? slot->base + SLOT_BYTES - slot->bytes : slot->base;
    uint8_t *begin = slot->data - slot->base < 256 ? slot->base : slot->data - 256;
    uint8_t *limit = slot->base + SLOT_BYTES, *end = slot->data + slot->bytes;
    end = limit - end < 256 ? limit : end + 256;
    memset(begin, CANARY, (size_t)(end - begin));
    return slot->data;
}

static void check_canaries(struct check *check) {
    for (size_t i = 0; i < check->used; i++) {
        const struct slot *slot = &check->slots[i];
        const uint8_t *begin = slot->data - slot->base < 256 ? slot->base : slot->data - 256;
        const uint8_t *limit = slot->base + SLOT_BYTES, *end = slot->data + slot->bytes;
        end = limit - end < 256 ? limit : end + 256;
        for (const uint8_t *byte = begin; byte < end; byte++)
            if (*byte != CANARY && (byte < slot->data || byte >= slot->data + slot->bytes)) {
                check_fail(check, "operand %zu: byte %td outside was written", i + 1, byte - slot->data);
                return;
            }
    }
}

/* ---- values ---- */

static float value_of(struct check *check, enum fill fill) {
    double normal = random_normal(&check->random);
    switch (fill) {
    case FILL_SMALL: return (float)(normal * 1e-6);
    case FILL_HUGE: return (float)(normal * 1e15);
    case FILL_DENORMAL: return (float)(normal * 1e-41);
    case FILL_ZERO: return check_below(check, 2) ? 0.0f : -0.0f;
    case FILL_MIXED: return (float)(normal * pow(10, (double)check_below(check, 12) - 6));
    default: return (float)normal;
    }
}

enum fill check_any_fill(struct check *check) {
    return (enum fill)(check_below(check, 2) ? 0 : check_below(check, FILLS));
}

void check_fill_f32(struct check *check, float *x, size_t count, enum fill fill) {
    for (size_t i = 0; i < count; i++) x[i] = value_of(check, fill);
}

/* Rows with NaN between their ends and the stride. */
float *check_take_rows(struct check *check, size_t rows, size_t columns, size_t stride, enum fill fill) {
    float *x = check_take(check, (rows - 1) * stride + columns, sizeof *x);
    for (size_t t = 0; t < rows; t++) check_fill_f32(check, x + t * stride, columns, fill);
    return x;
}

size_t check_tokens(struct check *check) {
    static const size_t tokens[] = {1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 25, 33, 65};
    return tokens[check_below(check, sizeof tokens / sizeof *tokens)];
}

size_t check_length(struct check *check) {
    return check_below(check, 3) ? 1 + check_below(check, 70) : 1 + check_below(check, 400);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The same bits, or both NaN. */
bool check_same(float a, float b) { return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b)); }

double check_gamma(size_t n) { return (double)n * UNIT / (1 - (double)n * UNIT); }

/* What lies in y between its rows must still be canary. */
void check_gaps(struct check *check, const float *y, size_t T, size_t stride, size_t valid) {
    for (size_t t = 0; t + 1 < T; t++)
        for (size_t r = valid; r < stride; r++)
            if (bits_of(y[t * stride + r]) != 0xffffffffu) {
                check_fail(check, "y[%zu][%zu] was written, valid is %zu", t, r, valid);
                return;
            }
}

static const struct {
    const char *name;
    void (*run)(struct check *check);
} checks[] = {
#define CHECK_ROW(name, contract) {#name, check_##name},
    KERNELS(CHECK_ROW)};

/* One case; in its own function because siglongjmp comes back to it. */
static void run_case(struct check *check, void (*run)(struct check *check)) {
    if (sigsetjmp(fault_place, 1)) {
        check_fail(check, "touched memory outside its operands (page fault)");
        return;
    }
    check->used = 0;
    run(check);
    check_canaries(check);
}

void checker_run(const struct kernels *table, const char *kernel, size_t cases, uint64_t seed,
                 struct checker_report *report) {
    struct check check = {.table = table, .report = report};
    struct sigaction action = {.sa_handler = on_fault}, segv, bus;
    *report = (struct checker_report){.seed = seed};
    slots_open(&check);
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (kernel && strcmp(kernel, checks[i].name) != 0) continue;
        check.kernel = checks[i].name;
        random_open(&check.random, seed, random_stream(checks[i].name, 0, 0));
        for (size_t c = 0; c < cases; c++, report->cases++) run_case(&check, checks[i].run);
    }
    sigaction(SIGSEGV, &segv, NULL);
    sigaction(SIGBUS, &bus, NULL);
    slots_close(&check);
}

uint64_t checker_seed(void) {
    const char *text = getenv("CHECKER_SEED");
    return text ? strtoull(text, NULL, 10) : 20240607;
}
