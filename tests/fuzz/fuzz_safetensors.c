/* Any bytes through safetensors_open: what is accepted has every tensor inside the map, found by its name,
 * of the size its shape says. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensors(const struct safetensors *file) {
    volatile uint8_t sum = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < file->count; i++) {
        const struct tensor *tensor = &file->tensors[i];
        const uint8_t *begin = tensor->data;
        CHECK(begin >= file->map.bytes && tensor->bytes <= file->map.count - (size_t)(begin - file->map.bytes),
              "'%s' lies outside", tensor->name);
        CHECK(tensor->bytes == tensor->count * dtype_bytes(tensor->dtype), "'%s': %zu bytes", tensor->name,
              tensor->bytes);
        CHECK(safetensors_find(file, tensor->name) == tensor, "'%s' is not found", tensor->name);
        for (size_t k = 0; k < tensor->bytes; k++) sum = (uint8_t)(sum + begin[k]);
        bytes += tensor->bytes;
    }
    CHECK(bytes < file->map.count, "%zu bytes of tensors in a file of %zu", bytes, file->map.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct safetensors file;
    char path[64];
    int memory = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(memory >= 0 && write(memory, data, size) == (ssize_t)size, "memfd of %zu bytes", size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
    if (safetensors_open(&file, path) == 0) {
        check_tensors(&file);
        safetensors_close(&file);
    } else {
        CHECK(!file.map.bytes && strstr(error_text(), path), "a failure names the file and leaves nothing");
    }
    close(memory);
    return 0;
}
