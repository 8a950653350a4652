/* Matrices made ready from rows: panels of f16 that are made of f16 rows as they lie are those made through f32. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
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

static struct weight_source source_of(struct weight *weight, const struct halves *halves, size_t rows, bool as_they_lie,
                                      const char *format) {
    memset(weight, 0, sizeof *weight);
    return (struct weight_source){
        .weight = weight,
        .format = weight_format_find(format),
        .shape = {.rows = rows, .columns = halves->columns, .symmetric = true},
        .rows = {read_rows, halves, as_they_lie ? halves->value : NULL},
    };
}

static int load(struct weight *weight, const struct halves *halves, size_t rows, bool as_they_lie) {
    struct weight_source source = source_of(weight, halves, rows, as_they_lie, "f16");
    size_t concerned;
    return weight_load(&source, 1, GEMM_BUILTIN, &concerned);
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

#define MANY 7

/* Matrices of several shapes and formats made together are those made one by one, at any number of threads; where one
 * is bad none is replaced, and it is named. */
static void many_at_once(void **state) {
    (void)state;
    static const size_t shapes[MANY][2] = {{17, 130}, {1, 2}, {96, 64}, {15, 258}, {16, 4}, {33, 66}, {70, 128}};
    static const char *const formats[MANY] = {"f16", "f16", "f32", "f16", "f32", "bf16_weights", "f16"};
    struct halves halves[MANY];
    struct weight alone[MANY], together[MANY];
    struct weight_source sources[MANY];
    size_t concerned;
    for (size_t i = 0; i < MANY; i++) {
        fill(&halves[i], shapes[i][0], shapes[i][1]);
        struct weight_source source = source_of(&alone[i], &halves[i], shapes[i][0], i % 2, formats[i]);
        assert_int_equal(weight_load(&source, 1, GEMM_BUILTIN, &concerned), 0);
    }
    for (int threads = 1; threads <= 3; threads++) {
        threads_set(threads);
        for (size_t i = 0; i < MANY; i++)
            sources[i] = source_of(&together[i], &halves[i], shapes[i][0], i % 2, formats[i]);
        assert_int_equal(weight_load(sources, MANY, GEMM_BUILTIN, &concerned), 0);
        for (size_t i = 0; i < MANY; i++) {
            float x[258], y[2][96];
            for (size_t n = 0; n < shapes[i][1]; n++) x[n] = 1e-3f * (float)(n + 1);
            struct weight_scratch scratch = {0};
            assert_int_equal(weight_matmul(&alone[i], 1, x, NULL, y[0], &scratch), 0);
            assert_int_equal(weight_matmul(&together[i], 1, x, NULL, y[1], &scratch), 0);
            assert_memory_equal(y[0], y[1], shapes[i][0] * sizeof(float));
            weight_scratch_close(&scratch);
            weight_close(&together[i]);
        }
    }
    for (size_t i = 0; i < MANY; i++) sources[i] = source_of(&together[i], &halves[i], shapes[i][0], i % 2, formats[i]);
    halves[3].value[14 * 258] = 0x7c00;
    assert_int_equal(weight_load(sources, MANY, GEMM_BUILTIN, &concerned), E_NUMERIC);
    assert_int_equal(concerned, 3);
    for (size_t i = 0; i < MANY; i++) {
        assert_null(together[i].format);
        weight_close(&alone[i]);
        free(halves[i].value);
    }
    assert_int_equal(weight_load(sources, 0, GEMM_BUILTIN, &concerned), 0);
}

static void read_floats(const void *context, size_t begin, size_t end, float *out) {
    memcpy(out, (const float *)context + begin * 130, (end - begin) * 130 * sizeof *out);
}

/* What 16 bits round to infinity is refused, packed or loaded; the last value that they round to their largest is not.
 */
static void values_beyond_16_bits_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *format;
        float last, beyond;
    } cases[] = {{"f16", 65519.996f, 65520.0f},
                 {"f16_both", 65519.996f, 1e6f},
                 {"bf16", 0x1.fefffep127f, 0x1.ffp127f},
                 {"bf16_weights", 0x1.fefffep127f, FLT_MAX}};
    static const size_t places[] = {0, 129, 16 * 130, 33 * 130 - 1};
    static float w[33 * 130];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t p = 0; p < sizeof places / sizeof *places; p++)
            for (int beyond = 0; beyond < 2; beyond++)
                for (int sign = -1; sign <= 1; sign += 2) {
                    const struct weight_format *format = weight_format_find(cases[i].format);
                    struct weight_shape shape = {.rows = 33, .columns = 130, .symmetric = true};
                    struct weight loaded = {0}, packed = {0};
                    struct weight_source source = {&loaded, format, shape, {read_floats, w, NULL}};
                    size_t concerned;
                    w[places[p]] = (float)sign * (beyond ? cases[i].beyond : cases[i].last);
                    assert_int_equal(weight_load(&source, 1, GEMM_BUILTIN, &concerned), beyond ? E_NUMERIC : 0);
                    if (beyond) assert_non_null(strstr(error_text(), "beyond the range of"));
                    assert_int_equal(weight_pack(&packed, format, &shape, w, NULL), beyond ? E_NUMERIC : 0);
                    if (!beyond) {
                        assert_memory_equal(loaded.packed, packed.packed, packed.packed_bytes);
                        assert_int_equal(format->check(&shape, packed.packed, packed.packed_bytes), 0);
                    }
                    weight_close(&loaded);
                    weight_close(&packed);
                    w[places[p]] = 0;
                }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_make_the_same_panels),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
        cmocka_unit_test(values_beyond_16_bits_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
