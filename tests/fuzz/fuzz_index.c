/* Any bytes as model.safetensors.index.json of a folder with one file: no name of it leads out of the folder. */
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "io/shards.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct shards shards;
    if (shards_open_index(&shards, "tests/fuzz/index_files", (const char *)data, size) == 0) {
        for (size_t i = 0; i < shards.file_count; i++)
            CHECK(!strchr(shards.files[i].map.path + strlen("tests/fuzz/index_files/"), '/'), "%s",
                  shards.files[i].map.path);
        shards_close(&shards);
    } else {
        CHECK(!shards.files && !shards.tensors, "a failure leaves nothing");
    }
    return 0;
}
