#include "golden_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

bool golden_path(char *path, size_t size, const char *name) {
    const char *folder = getenv("GOLDENS");
    if (!folder || !*folder) folder = "../shared/goldens";
    snprintf(path, size, "%s/%s", folder, name);
    if (access(path, R_OK) == 0) return true;
    printf("skipped: %s is not there (set GOLDENS to the folder of golden files)\n", path);
    return false;
}

void golden_open(struct safetensors *file, const char *name) {
    char path[512];
    assert_true(golden_path(path, sizeof path, name));
    if (safetensors_open(file, path) < 0) fail_msg("%s", error_text());
}

void golden_json(struct json_document *document, char **text, const char *name) {
    char path[512];
    size_t bytes;
    assert_true(golden_path(path, sizeof path, name));
    if (file_read(path, 1u << 26, text, &bytes) < 0 || json_open(document, *text, bytes) < 0)
        fail_msg("%s: %s", path, error_text());
}

const struct tensor *golden_tensor(const struct safetensors *file, const char *name) {
    const struct tensor *tensor = safetensors_find(file, name);
    if (!tensor) fail_msg("%s has no tensor '%s'", file->map.path, name);
    return tensor;
}

double golden_number(const struct json *object, const char *key) {
    double value = 0;
    const struct json *node = json_member(object, key);
    if (!node || json_number(node, key, &value) < 0) fail_msg("no number '%s'", key);
    return value;
}

struct difference golden_difference(const float *a, const float *b, size_t count, const int32_t *mask, size_t row) {
    struct difference difference = {0, 0};
    for (size_t i = 0; i < count; i++) {
        if (mask && !mask[i / row]) continue;
        double d = fabs((double)a[i] - (double)b[i]), s = fabs((double)b[i]);
        if (!(d <= difference.largest)) difference.largest = d; /* a NaN stays */
        if (s > difference.scale) difference.scale = s;
    }
    return difference;
}

void golden_close(const char *what, struct difference difference, double tolerance) {
    if (!(difference.largest <= tolerance * difference.scale))
        fail_msg("%s: largest difference %g is above %g of %g", what, difference.largest, tolerance, difference.scale);
}
