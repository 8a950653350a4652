/* ggml's blocks against ggml's own values (goldens: quant/gguf.safetensors): one type after another, as many as the
 * file holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "cpu_mask.h"
#include "golden_files.h"
#include "io/tensor.h"
#include "kernels/kernels.h"

static void compare(const struct safetensors *file, const struct tensor *bytes, enum dtype dtype) {
    char name[64];
    snprintf(name, sizeof name, "%s.dequantized", dtype_name(dtype));
    const struct tensor *expected = golden_tensor(file, name);
    struct tensor blocks = *expected;
    void *out;
    blocks.dtype = dtype;
    blocks.data = bytes->data;
    if (tensor_measure(&blocks) < 0) fail_msg("%s", error_text());
    assert_int_equal(blocks.bytes, bytes->bytes);
    assert_int_equal(memory_take(&out, blocks.count, sizeof(float)), 0);
    for (size_t row = 0; row < blocks.shape[0]; row += 3) /* by threes: rows are found, not only the first */
        tensor_rows_to_f32(&blocks, row, row + 3 < blocks.shape[0] ? row + 3 : blocks.shape[0],
                           (float *)out + row * blocks.shape[1]);
    if (memcmp(out, expected->data, expected->bytes) != 0)
        golden_close(name, golden_difference(out, expected->data, expected->count, NULL, 0), 1e-6);
    else printf("%s: equal to the last bit\n", name);
    memory_release(out);
}

static void blocks_dequantize_as_in_ggml(void **state) {
    (void)state;
    char path[512];
    struct safetensors file;
    size_t compared = 0;
    if (!golden_path(path, sizeof path, "quant/gguf.safetensors")) skip();
    golden_open(&file, "quant/gguf.safetensors");
    for (int dtype = 0; dtype < DTYPES; dtype++) {
        char name[64];
        snprintf(name, sizeof name, "%s.bytes", dtype_name((enum dtype)dtype));
        const struct tensor *bytes = safetensors_find(&file, name);
        if (!bytes) continue;
        compare(&file, bytes, (enum dtype)dtype);
        compared++;
    }
    assert_int_equal(compared * 2, file.count); /* no type of the file was left out */
    safetensors_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_dequantize_as_in_ggml)};
    kernels_open(test_cpu_mask());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
