/* Every kernel of every variant that this CPU can run, against its contract, and the dispatch itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "checker.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/variants.h"

#define CASES 120

/* From nothing upward: each set adds what the next generation of CPUs has. */
static const uint32_t levels[] = {
    0,        NEEDS_AVX2,       NEEDS_AVX512, NEEDS_AVX512VNNI, NEEDS_AVX512BF16, NEEDS_AMX_BF16 | NEEDS_AMX_INT8,
    CPU_NEON, NEEDS_NEONDOTPROD};

static void check_level(size_t level) {
    struct kernels table;
    struct checker_report report;
    char text[128];
    uint32_t flags = levels[level] & cpu_detect();
    for (size_t below = 0; below < level; below++)
        if ((levels[below] & cpu_detect()) == flags) {
            cpu_flags_text(levels[level], text, sizeof text);
            printf("skipped: this CPU adds nothing at the level %s\n", text);
            skip();
        }
    cpu_flags_text(flags, text, sizeof text);
    kernels_fill(&table, flags);
    assert_int_equal(table.flags, flags);
    checker_run(&table, NULL, CASES, checker_seed(), &report);
    printf("%s: %zu cases, seed %llu\n", text, report.cases, (unsigned long long)report.seed);
    if (report.failures) fail_msg("%zu of %zu cases failed; first: %s", report.failures, report.cases, report.first);
    assert_true(report.cases > 0);
}

static void c_versions_keep_the_contract(void **state) { (void)state, check_level(0); }
static void avx2_versions_keep_the_contract(void **state) { (void)state, check_level(1); }
static void avx512_versions_keep_the_contract(void **state) { (void)state, check_level(2); }
static void vnni_versions_keep_the_contract(void **state) { (void)state, check_level(3); }
static void bf16_versions_keep_the_contract(void **state) { (void)state, check_level(4); }
static void amx_versions_keep_the_contract(void **state) { (void)state, check_level(5); }
static void neon_versions_keep_the_contract(void **state) { (void)state, check_level(6); }
static void dotprod_versions_keep_the_contract(void **state) { (void)state, check_level(7); }

static void table_starts_with_c(void **state) {
    (void)state;
    assert_ptr_equal(kernels.matmul_f32, matmul_f32_c);
    assert_ptr_equal(kernels.adamw, adamw_c);
    kernels_open(0);
    assert_ptr_equal(kernels.matmul_s8, matmul_s8_c);
    assert_int_equal(kernels.flags, 0);
}

static void variant_names_follow_the_flags(void **state) {
    (void)state;
    assert_string_equal(kernels_variant("matmul_s8", 0), "matmul_s8_c");
    assert_null(kernels_variant("matmul_s9", 0));
#if defined(__x86_64__)
    assert_string_equal(kernels_variant("matmul_s8", CPU_AVX2), "matmul_s8_avx2");
    assert_string_equal(kernels_variant("matmul_s8", NEEDS_AVX512), "matmul_s8_avx2");
    assert_string_equal(kernels_variant("matmul_s8", NEEDS_AVX512VNNI), "matmul_s8_avx512vnni");
    assert_string_equal(kernels_variant("matmul_s8", CPU_AVX512VNNI), "matmul_s8_c");
    assert_string_equal(kernels_variant("matmul_s8", NEEDS_AVX512VNNI | NEEDS_AMX_INT8), "matmul_s8_amx");
    assert_string_equal(kernels_variant("matmul_s8", NEEDS_AVX512VNNI | NEEDS_AMX_BF16), "matmul_s8_avx512vnni");
    assert_string_equal(kernels_variant("matmul_bf16", NEEDS_AVX512BF16 | NEEDS_AMX_BF16), "matmul_bf16_amx");
    assert_string_equal(kernels_variant("matmul_bf16", CPU_AMX_BF16), "matmul_bf16_c");
    assert_string_equal(kernels_variant("softmax", NEEDS_AVX512), "softmax_avx512");
#elif defined(__aarch64__)
    assert_string_equal(kernels_variant("matmul_s8", CPU_NEON), "matmul_s8_neon");
    assert_string_equal(kernels_variant("matmul_s8", NEEDS_NEONDOTPROD), "matmul_s8_neondotprod");
    assert_string_equal(kernels_variant("matmul_s8", CPU_DOTPROD), "matmul_s8_c");
    assert_string_equal(kernels_variant("softmax", NEEDS_NEONDOTPROD), "softmax_neon");
#endif
}

/* All 65536 halves there and back; every midpoint between neighbours goes to the even one. */
static void halves_round_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float value = half_to_float((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(value != value);
            continue;
        }
        assert_int_equal(half_from_float(value), h);
        if ((h & 0x7fff) >= 0x7bff) continue;
        float next = half_to_float((uint16_t)(h + 1)), middle = (value + next) / 2;
        assert_int_equal(half_from_float(middle), h & 1 ? h + 1 : h);
        assert_int_equal(half_from_float(middle + (next - middle) / 4), h + 1);
        assert_int_equal(half_from_float(middle - (middle - value) / 4), h);
    }
    assert_int_equal(half_from_float(65519.99f), 0x7bff);
    assert_int_equal(half_from_float(65520.0f), 0x7c00);
    assert_int_equal(half_from_float(-1e30f), 0xfc00);
    assert_int_equal(half_from_float(1.0f), 0x3c00);
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t b = 0; b < 65536; b++) {
        float value = bf16_to_float((uint16_t)b);
        if ((b & 0x7fff) > 0x7f80) {
            assert_true(value != value);
            continue;
        }
        assert_int_equal(bf16_from_float(value), b);
        if ((b & 0x7fff) >= 0x7f7f) continue;
        float next = bf16_to_float((uint16_t)(b + 1)), middle = value / 2 + next / 2;
        if ((b & 0x7fff) < 0x100) middle = (value + next) / 2; /* where halving would lose a bit */
        assert_int_equal(bf16_from_float(middle), b & 1 ? b + 1 : b);
        assert_int_equal(bf16_from_float(middle + (next - middle) / 4), b + 1);
        assert_int_equal(bf16_from_float(middle - (middle - value) / 4), b);
    }
    assert_int_equal(bf16_from_float(1.0f), 0x3f80);
    assert_int_equal(bf16_from_float(3.3961775e38f), 0x7f80);
    float nan = bf16_to_float(bf16_from_float(__builtin_nanf("")));
    assert_true(nan != nan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_starts_with_c),
        cmocka_unit_test(variant_names_follow_the_flags),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(c_versions_keep_the_contract),
        cmocka_unit_test(avx2_versions_keep_the_contract),
        cmocka_unit_test(avx512_versions_keep_the_contract),
        cmocka_unit_test(vnni_versions_keep_the_contract),
        cmocka_unit_test(bf16_versions_keep_the_contract),
        cmocka_unit_test(amx_versions_keep_the_contract),
        cmocka_unit_test(neon_versions_keep_the_contract),
        cmocka_unit_test(dotprod_versions_keep_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
