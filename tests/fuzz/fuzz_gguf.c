/* Any bytes through gguf_open: what is accepted has every value, string and tensor inside the map, found by its name,
 * and rows that decode; and through gguf_config's way in, model_open. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "io/gguf.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_gguf_inside(const struct gguf *file, const void *begin, size_t bytes) {
    size_t at = (size_t)((const uint8_t *)begin - file->map.bytes);
    CHECK(at <= file->map.count && bytes <= file->map.count - at, "%zu bytes at %zu lie outside", bytes, at);
}

static void check_gguf_entries(const struct gguf *file) {
    volatile double sum = 0;
    for (size_t i = 0; i < file->entry_count; i++) {
        const struct gguf_entry *entry = &file->entries[i];
        const char *text;
        size_t bytes, place = 0;
        check_gguf_inside(file, entry->data, entry->bytes);
        CHECK(gguf_find(file, entry->key) == entry, "'%s' is not found", entry->key);
        while (gguf_next_string(entry, &place, &text, &bytes)) check_gguf_inside(file, text, bytes);
        for (uint64_t k = 0; entry->type != GGUF_STRING && k < entry->count; k++) sum += gguf_element(entry, k);
    }
}

static void check_gguf_tensors(const struct gguf *file) {
    static float row[4096];
    for (size_t i = 0; i < file->tensor_count; i++) {
        const struct tensor *tensor = &file->tensors[i];
        size_t columns = tensor->shape[tensor->dimensions - 1];
        check_gguf_inside(file, tensor->data, tensor->bytes);
        CHECK(gguf_tensor(file, tensor->name) == tensor, "'%s' is not found", tensor->name);
        for (size_t r = 0; columns <= 4096 && dtype_is_real(tensor->dtype) && r < tensor->count / columns; r++)
            tensor_rows_to_f32(tensor, r, r + 1, row);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct gguf file;
    struct model model;
    char path[64];
    int memory = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(memory >= 0 && write(memory, data, size) == (ssize_t)size, "memfd of %zu bytes", size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
    if (gguf_open(&file, path) == 0) {
        check_gguf_entries(&file);
        check_gguf_tensors(&file);
        gguf_close(&file);
    } else {
        CHECK(!file.map.bytes && strstr(error_text(), path), "a failure names the file and leaves nothing");
    }
    if (model_open(&model, path, true) == 0) model_close(&model);
    close(memory);
    return 0;
}
