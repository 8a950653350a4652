/* safetensors files: 8 bytes of header length (little endian), a JSON header, then the data.
 *
 * Reading maps the file; tensors are views. Everything in the header is checked before use: its length
 * against the file (and 100 MB), dtype names, shapes whose product overflows, offsets that lie outside,
 * overlap or leave holes, sizes that contradict the shape. Messages: "model.safetensors: tensor
 * 'a.weight': data_offsets [0, 80] are 80 bytes but f32 [4,4] takes 64".
 * Writing goes to a temporary file in the same folder, synced and renamed, so a reader never sees half
 * a file; tensors are written in the order given, data aligned to 64 bytes by padding the header.
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "io/file_map.h"
#include "io/tensor.h"

struct safetensors {
    struct file_map map;
    struct tensor *tensors; /* sorted by name */
    size_t count;
    struct safetensors_meta {
        const char *key, *value;
    } * metadata;
    size_t metadata_count;
    void *document; /* owned header */
};

int safetensors_open(struct safetensors *file, const char *path);                        /* E_IO, E_FORMAT, E_LIMIT */
void safetensors_close(struct safetensors *file);                                        /* accepts a zeroed struct */
const struct tensor *safetensors_find(const struct safetensors *file, const char *name); /* NULL when absent */
/* As find, but required to have this dtype and shape: E_NOT_FOUND, E_SHAPE with a full message. */
int safetensors_require(const struct safetensors *file, const char *name, enum dtype dtype, size_t dimensions,
                        const size_t *shape, const struct tensor **tensor);
const char *safetensors_metadata(const struct safetensors *file, const char *key); /* NULL when absent */

/* Write tensors (name, dtype, shape, data set; bytes and count computed) and metadata pairs. The bytes
 * written depend on the arguments alone. E_IO (full disk: nothing is left behind). */
int safetensors_write(const char *path, const struct tensor *tensors, size_t count,
                      const struct safetensors_meta *metadata, size_t metadata_count);

#endif
