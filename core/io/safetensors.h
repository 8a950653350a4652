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

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_BOOL
};
size_t dtype_bytes(enum dtype dtype);
const char *dtype_name(enum dtype dtype); /* "F32" */

#define TENSOR_DIMENSIONS 8

struct tensor {
    const char *name;
    enum dtype dtype;
    size_t dimensions;
    size_t shape[TENSOR_DIMENSIONS];
    size_t count; /* elements */
    size_t bytes;
    const void *data;
};

struct safetensors {
    char *path;
    const uint8_t *map;
    size_t map_bytes;
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

/* dtype conversions of whole tensors to f32 (F32, F16, BF16). E_UNSUPPORTED. */
int tensor_to_f32(const struct tensor *tensor, float *out);

#endif
