#include "io/llama2c.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#define HEADER_WORDS 7
#define NAME_BYTES 64
#define WORD_MOST (1 << 24)
#define LAYERS_MOST 1024

/* Matrices in the file's order; those of a block are stored for all blocks together. */
enum extent { ONE, WIDTH, FEED_FORWARD, KEY_VALUE, VOCABULARY };
static const struct {
    const char *name;
    enum extent rows, columns; /* rows ONE: a vector */
    bool block;
} layout[] = {
    {"embed_tokens.weight", VOCABULARY, WIDTH, false},
    {"input_layernorm.weight", ONE, WIDTH, true},
    {"self_attn.q_proj.weight", WIDTH, WIDTH, true},
    {"self_attn.k_proj.weight", KEY_VALUE, WIDTH, true},
    {"self_attn.v_proj.weight", KEY_VALUE, WIDTH, true},
    {"self_attn.o_proj.weight", WIDTH, WIDTH, true},
    {"post_attention_layernorm.weight", ONE, WIDTH, true},
    {"mlp.gate_proj.weight", FEED_FORWARD, WIDTH, true},
    {"mlp.down_proj.weight", WIDTH, FEED_FORWARD, true},
    {"mlp.up_proj.weight", FEED_FORWARD, WIDTH, true},
    {"norm.weight", ONE, WIDTH, false},
};
#define LAYOUT (sizeof layout / sizeof layout[0])

static size_t extent_of(const struct llama2c *file, enum extent extent) {
    switch (extent) {
    case WIDTH: return file->width;
    case FEED_FORWARD: return file->feed_forward;
    case KEY_VALUE: return file->width / file->heads * file->key_value_heads;
    case VOCABULARY: return file->vocabulary;
    default: return 1;
    }
}

static int read_header(struct llama2c *file) {
    int status = 0;
    int32_t words[HEADER_WORDS];
    static const char *const names[HEADER_WORDS] = {"width",           "feed-forward width", "layers",   "heads",
                                                    "key/value heads", "vocabulary",         "positions"};
    if (file->map.count < sizeof words) FAIL(E_FORMAT, "has %zu bytes; a header takes 28", file->map.count);
    for (size_t i = 0; i < HEADER_WORDS; i++) {
        const uint8_t *b = file->map.bytes + 4 * i;
        words[i] = (int32_t)((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
        bool negative = i == 5 && words[i] < 0 && words[i] >= -WORD_MOST;
        if ((words[i] < 1 || words[i] > WORD_MOST) && !negative)
            FAIL(E_FORMAT, "not a llama2.c file: %s %ld in its header", names[i], (long)words[i]);
    }
    file->width = (size_t)words[0];
    file->feed_forward = (size_t)words[1];
    file->layers = (size_t)words[2];
    file->heads = (size_t)words[3];
    file->key_value_heads = (size_t)words[4];
    file->vocabulary = (size_t)(words[5] < 0 ? -words[5] : words[5]);
    file->positions = (size_t)words[6];
    file->tied = words[5] > 0;
    if (file->layers > LAYERS_MOST) FAIL(E_FORMAT, "not a llama2.c file: %zu layers in its header", file->layers);
    if (file->width % file->heads || file->width / file->heads % 2 || file->heads % file->key_value_heads)
        FAIL(E_FORMAT, "not a llama2.c file: width %zu, %zu heads and %zu key/value heads do not fit together",
             file->width, file->heads, file->key_value_heads);
out:
    return status;
}

/* One more tensor at *at bytes into the file, which moves on. */
static int place(struct llama2c *file, const char *name, size_t rows, size_t columns, size_t *at) {
    int status = 0;
    struct tensor *tensor = &file->tensors[file->count];
    tensor->name = memcpy(file->names + file->count * NAME_BYTES, name, NAME_BYTES);
    tensor->dtype = DTYPE_F32;
    tensor->dimensions = rows == 1 ? 1 : 2;
    tensor->shape[0] = rows == 1 ? columns : rows;
    tensor->shape[1] = rows == 1 ? 0 : columns;
    TRY(tensor_measure(tensor));
    if (*at > file->map.count || tensor->bytes > file->map.count - *at)
        FAIL(E_FORMAT, "not a llama2.c file, or cut short: '%s' would end behind its %zu bytes", name, file->map.count);
    tensor->data = file->map.bytes + *at;
    *at += tensor->bytes;
    file->count++;
out:
    return status;
}

static int place_all(struct llama2c *file) {
    int status = 0;
    size_t at = HEADER_WORDS * 4, rotary;
    static const char classifier[NAME_BYTES] = "lm_head.weight";
    for (size_t i = 0; i < LAYOUT; i++)
        for (size_t block = 0; block < (layout[i].block ? file->layers : 1); block++) {
            char name[NAME_BYTES] = "";
            if (layout[i].block) snprintf(name, sizeof name, "model.layers.%zu.%s", block, layout[i].name);
            else snprintf(name, sizeof name, "model.%s", layout[i].name);
            TRY(place(file, name, extent_of(file, layout[i].rows), extent_of(file, layout[i].columns), &at));
        }
    rotary = file->positions * (file->width / file->heads) * sizeof(float); /* cosines and sines of D/2 angles */
    if (rotary > file->map.count - at)
        FAIL(E_FORMAT, "not a llama2.c file, or cut short: its rotary tables would end behind its %zu bytes",
             file->map.count);
    at += rotary;
    if (!file->tied) TRY(place(file, classifier, file->vocabulary, file->width, &at));
    if (at != file->map.count)
        FAIL(E_FORMAT, "not a llama2.c file: its header asks for %zu bytes but it has %zu", at, file->map.count);
    qsort(file->tensors, file->count, sizeof *file->tensors, tensor_compare_names);
out:
    return status;
}

int llama2c_open(struct llama2c *file, const char *path) {
    int status = 0;
    void *block;
    *file = (struct llama2c){0};
    TRY(file_map_open(&file->map, path));
    status = read_header(file);
    if (status < 0) {
        error_prefix(status, "%s", path);
        goto out;
    }
    TRY(memory_take(&block, LAYOUT * file->layers + 1, sizeof *file->tensors));
    file->tensors = block;
    TRY(memory_take(&block, LAYOUT * file->layers + 1, NAME_BYTES));
    file->names = block;
    status = place_all(file);
    if (status < 0) error_prefix(status, "%s", path);
out:
    if (status < 0) llama2c_close(file);
    return status;
}

void llama2c_close(struct llama2c *file) {
    memory_release(file->tensors);
    memory_release(file->names);
    file_map_close(&file->map);
    *file = (struct llama2c){0};
}
