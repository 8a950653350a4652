/* llama2.c's model files, the legacy version without a magic number (karpathy/llama2.c, export.py).
 *
 * Seven i32 (width, feed-forward width, layers, heads, key/value heads, vocabulary, positions; a negative vocabulary
 * means that the classifier is a matrix of its own), then f32 matrices in a fixed order, then two rotary tables that
 * nobody needs, then that classifier. The file must have exactly the size that follows from its header, which is all
 * there is to recognise one by. Tensors get Hugging Face's Llama names; rows of q and k are as in the file, for
 * interleaved rotary pairs.
 */
#ifndef LLAMA2C_H
#define LLAMA2C_H

#include <stdbool.h>
#include <stddef.h>

#include "io/file_map.h"
#include "io/tensor.h"

struct llama2c {
    struct file_map map;
    size_t width, feed_forward, layers, heads, key_value_heads, vocabulary, positions;
    bool tied;              /* the classifier is the token embedding */
    struct tensor *tensors; /* sorted by name */
    size_t count;
    char *names;
};

int llama2c_open(struct llama2c *file, const char *path); /* E_IO, E_FORMAT, E_MEMORY */
void llama2c_close(struct llama2c *file);                 /* accepts a zeroed struct */

#endif
