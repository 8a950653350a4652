/* Matrices made ready from rows: panels of f16 that are made of f16 rows as they lie are those made through f32. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "cpu_mask.h"
#include "formats/weight.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

struct halves {
    size_t columns;
    uint16_t *value; /* (R,N) */
};

static void read_rows(const void *context, size_t begin, size_t end, float *out) {
    const struct halves *halves = context;
    size_t N = halves->columns;
    for (size_t i = begin * N; i < end * N; i++) out[i - begin * N] = half_to_float(halves->value[i]);
}

/* Any finite halves: denormals and negative zeros among them. */
static void fill(struct halves *halves, size_t rows, size_t columns) {
    halves->columns = columns;
    halves->value = malloc(rows * columns * sizeof *halves->value);
    assert_non_null(halves->value);
    for (size_t i = 0; i < rows * columns; i++) {
        uint16_t bits = (uint16_t)(random_uniform_at(7, 1, i) * 65536);
        if ((bits & 0x7c00) == 0x7c00) bits &= 0x83ff;
        halves->value[i] = i % 5 == 0 ? 0x8000 : bits;
    }
}

static int load(struct weight *weight, const struct halves *halves, size_t rows, bool as_they_lie) {
    struct weight_shape shape = {.rows = rows, .columns = halves->columns, .symmetric = true};
    struct weight_rows source = {read_rows, halves, as_they_lie ? halves->value : NULL};
    memset(weight, 0, sizeof *weight);
    return weight_load(weight, weight_format_find("f16"), &shape, &source, GEMM_BUILTIN);
}

static void halves_make_the_same_panels(void **state) {
    (void)state;
    static const size_t shapes[][2] = {{1, 2}, {16, 64}, {17, 130}, {47, 258}, {70, 128}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            struct halves halves;
            struct weight through, direct;
            threads_set(threads);
            fill(&halves, shapes[i][0], shapes[i][1]);
            assert_int_equal(load(&through, &halves, shapes[i][0], false), 0);
            assert_int_equal(load(&direct, &halves, shapes[i][0], true), 0);
            assert_int_equal(direct.packed_bytes, through.packed_bytes);
            assert_memory_equal(direct.packed, through.packed, through.packed_bytes);
            weight_close(&through);
            weight_close(&direct);
            free(halves.value);
        }
}

/* Infinities and NaN of either sign, in even and odd columns, are seen wherever they are; the largest halves pass. */
static void values_that_are_not_finite_are_refused(void **state) {
    (void)state;
    static const uint16_t wrong[] = {0x7c00, 0xfc00, 0x7e01, 0xffff}, largest[] = {0x7bff, 0xfbff};
    static const size_t places[][2] = {{0, 0}, {0, 1}, {15, 128}, {16, 129}, {32, 0}, {32, 129}};
    struct halves halves;
    struct weight weight;
    fill(&halves, 33, 130);
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        uint16_t *place = halves.value + places[p][0] * 130 + places[p][1], before = *place;
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            *place = wrong[i];
            assert_int_equal(load(&weight, &halves, 33, true), E_NUMERIC);
        }
        for (size_t i = 0; i < sizeof largest / sizeof *largest; i++) {
            *place = largest[i];
            assert_int_equal(load(&weight, &halves, 33, true), 0);
            weight_close(&weight);
        }
        *place = before;
    }
    free(halves.value);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_make_the_same_panels),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
