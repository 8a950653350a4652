/* Any bytes through llama2c_open: what is accepted has every tensor inside the map. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "io/llama2c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct llama2c file;
    char path[64];
    volatile uint8_t sum = 0;
    int memory = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(memory >= 0 && write(memory, data, size) == (ssize_t)size, "memfd of %zu bytes", size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
    if (llama2c_open(&file, path) == 0) {
        for (size_t i = 0; i < file.count; i++) {
            const uint8_t *begin = file.tensors[i].data;
            CHECK(file.tensors[i].bytes <= file.map.count - (size_t)(begin - file.map.bytes), "'%s' lies outside",
                  file.tensors[i].name);
            for (size_t k = 0; k < file.tensors[i].bytes; k++) sum = (uint8_t)(sum + begin[k]);
        }
        llama2c_close(&file);
    } else {
        CHECK(!file.map.bytes && strstr(error_text(), path), "a failure names the file and leaves nothing");
    }
    close(memory);
    return 0;
}
