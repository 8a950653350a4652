/* Dequantization: every variant gives the C version's bits and stays inside its buffers; the C version against
 * blocks worked out by hand. (tests/golden/test_gguf_blocks.c compares with ggml itself.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/random.h"
#include "cpu_mask.h"
#include "kernels/dequantize.h"

#define TYPE(name, values, bytes) {#name, values, bytes},
static const struct {
    const char *name;
    size_t values, bytes;
} types[] = {DEQUANTIZE_TYPES(TYPE)};

static bool same(const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

/* Exact-size heap blocks, so that AddressSanitizer sees one byte too many; an odd address for the input. */
static void variants_give_the_same_bits(void **state) {
    (void)state;
    static const uint32_t masks[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};
    uint32_t flags = cpu_detect() & test_cpu_mask();
    struct random random;
    random_open(&random, 7, 0);
    for (int type = 0; type < DEQUANTIZE_COUNT; type++)
        for (size_t blocks = 0; blocks < 40; blocks++) {
            size_t count = blocks * types[type].values, bytes = blocks * types[type].bytes;
            uint8_t *in = malloc(bytes + 1);
            float *expected = malloc(count * sizeof(float) + 4), *got = malloc(count * sizeof(float) + 4);
            assert_true(in && expected && got);
            for (size_t i = 0; i <= bytes; i++) in[i] = (uint8_t)random_below(&random, 256);
            dequantize_c[type](blocks, in + 1, expected);
            for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++) {
                memset(got, 0xaa, count * sizeof(float) + 4);
                dequantize_find((enum dequantize_type)type, flags & masks[m])(blocks, in + 1, got);
                if (!same(expected, got, count))
                    fail_msg("%s, mask %x, %zu blocks", types[type].name, masks[m], blocks);
                uint32_t behind;
                memcpy(&behind, got + count, 4);
                if (behind != 0xaaaaaaaau) fail_msg("%s, mask %x: writes behind its end", types[type].name, masks[m]);
            }
            free(in), free(expected), free(got);
        }
}

static void blocks_by_hand(void **state) {
    (void)state;
    float out[256];
    uint8_t q8[34] = {0x00, 0x38, 0x80, 0x7f}; /* d = 0.5; q = -128, 127, 0 … */
    dequantize_c[DEQUANTIZE_q8_0](1, q8, out);
    assert_true(out[0] == -64 && out[1] == 63.5f && out[2] == 0);
    uint8_t q41[20] = {0x00, 0x3c, 0x00, 0xc0, 0xf1}; /* d = 1, m = -2 */
    dequantize_c[DEQUANTIZE_q4_1](1, q41, out);
    assert_true(out[0] == -1 && out[16] == 13 && out[1] == -2);
    uint8_t q50[22] = {0x00, 0x3c, 0x01, 0, 0, 0x80, 0x23}; /* d = 1; bits 0 and 31 */
    dequantize_c[DEQUANTIZE_q5_0](1, q50, out);
    assert_true(out[0] == 3 && out[16] == 2 - 16 && out[1] == -16 && out[31] == 0);
    uint8_t q6[210] = {0};
    q6[0] = 0x21;   /* low nibble of value 0, of value 64 above */
    q6[128] = 0x03; /* two high bits of value 0 */
    q6[192] = 2;    /* scale of values 0..15 */
    q6[196] = 0xff; /* scale -1 of values 64..79 */
    q6[209] = 0x3c; /* d = 1 */
    dequantize_c[DEQUANTIZE_q6_k](1, q6, out);
    assert_true(out[0] == 2 * (0x31 - 32) && out[1] == -64 && out[64] == -(2 - 32) && out[16] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variants_give_the_same_bits),
        cmocka_unit_test(blocks_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
