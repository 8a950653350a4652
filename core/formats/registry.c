/* The list of weight formats and the names of the backends. */
#include "base/error.h"
#include "formats/execution.h"

#include <string.h>

const struct weight_format *const weight_formats[] = {
    &format_f32,  &format_f16,         &format_f16_both,    &format_bf16, &format_bf16_weights,
    &format_int8, &format_int8_affine, &format_int8_groups, &format_int4, NULL};

const struct weight_format *weight_format_find(const char *name) {
    for (size_t i = 0; weight_formats[i]; i++)
        if (strcmp(weight_formats[i]->name, name) == 0) return weight_formats[i];
    return NULL;
}

static const char *const backend_names[] = {
    [GEMM_BUILTIN] = "builtin", [GEMM_OPENBLAS] = "openblas", [GEMM_ONEDNN] = "onednn"};

const char *gemm_backend_name(enum gemm_backend backend) { return backend_names[backend]; }

int gemm_backend_find(const char *name, enum gemm_backend *backend) {
    int status = 0;
    for (size_t i = 0; i < sizeof backend_names / sizeof *backend_names; i++) {
        if (strcmp(name, backend_names[i]) != 0) continue;
#if defined(BACKENDS_NONE)
        if (i != GEMM_BUILTIN)
            FAIL(E_UNSUPPORTED, "gemm %s is not in this build (it was built without libraries)", name);
#endif
        *backend = (enum gemm_backend)i;
        goto out;
    }
    FAIL(E_NOT_FOUND, "gemm must be one of builtin, openblas, onednn (got %s)", name);
out:
    return status;
}
