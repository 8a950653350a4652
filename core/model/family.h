/* What a family is: a table of its parameters, and how its config.json reads. Private to core/model and
 * core/train.
 *
 * The table names every parameter as Hugging Face does and says what part it plays; create, open, save,
 * forward, backward and the optimizer all work from parts, so none of them knows a family. A further family
 * is one more table (family_<name>.c) plus whatever layer it brings that no other has.
 */
#ifndef FAMILY_H
#define FAMILY_H

#include "io/json.h"
#include "model/model.h"

#define MODEL_NAME_BYTES 160

/* What a parameter is for. A block has its own set; the rest belong to the model. */
enum part {
    PART_TOKENS,
    PART_POSITIONS,
    PART_TYPES,
    PART_EMBEDDING_NORM,
    PART_QUERY,
    PART_KEY,
    PART_VALUE,
    PART_ATTENTION_OUTPUT,
    PART_ATTENTION_NORM,
    PART_UP,
    PART_GATE,
    PART_DOWN,
    PART_FEED_FORWARD_NORM,
    PART_FINAL_NORM,
    PART_POOLER,
    PART_CLASSIFIER,
    PART_HEAD_TRANSFORM,
    PART_HEAD_NORM,
    PART_HEAD_BIAS, /* of the decoder, which is the token embedding itself */
    PARTS
};

enum row_kind {
    ROW_EMBEDDING, /* NAME.weight (rows, columns) */
    ROW_NORM,      /* NAME.weight, NAME.bias [rows] */
    ROW_LINEAR,    /* NAME.weight (rows, columns), NAME.bias [rows] */
    ROW_VECTOR     /* NAME [rows] */
};

enum extent {
    EXTENT_ONE,
    EXTENT_WIDTH,
    EXTENT_ATTENTION, /* H·D */
    EXTENT_KEY_VALUE, /* K·D */
    EXTENT_FEED_FORWARD,
    EXTENT_VOCABULARY,
    EXTENT_POSITIONS,
    EXTENT_TYPES,
    EXTENT_CLASSES
};

struct family_row {
    const char *name; /* a block's rows hold one %zu for its number */
    enum part part;
    enum row_kind kind;
    enum extent rows, columns;
    unsigned heads; /* present when the model has one of these heads; 0: always */
};

struct family {
    const char *name;
    const struct family_row *before, *block, *after; /* each ends with a row whose name is NULL */
    const char *prefix;                              /* that files of the body alone leave out: "bert." */
    const char *const *ignored;                      /* endings of tensor names that a file may have for nothing */
    void (*defaults)(struct model_config *config);
    int (*parse)(struct model_config *config, const struct json *root);
    int (*print)(const struct model_config *config, struct json_writer *writer);
};

extern const struct family family_bert;
const struct family *family_find(const char *name); /* NULL when unknown */

/* One parameter of a layout. */
struct layout_entry {
    const struct family_row *row;
    int block; /* -1: not of a block */
    bool bias;
    enum parameter_kind kind;
    size_t rows, columns;
    char name[MODEL_NAME_BYTES];
};
/* Call `visit` for each parameter of a checked config in file order; stops at the first negative result. */
int layout_walk(const struct model_config *config, int (*visit)(void *context, const struct layout_entry *entry),
                void *context);

/* Where a model's parameters are, by part. Of a linear layer `weight` is NULL once it is packed. */
struct part_view {
    struct parameter *weight, *bias;
    struct linear *linear;
};
struct parts {
    const struct family *family;
    struct part_view own[PARTS];
    struct part_view block[][PARTS]; /* [L] */
};
static inline const struct part_view *model_part(const struct model *model, enum part part) {
    return &((const struct parts *)model->family_state)->own[part];
}
static inline const struct part_view *block_part(const struct model *model, size_t block, enum part part) {
    return &((const struct parts *)model->family_state)->block[block][part];
}

/* Packed layers that a file announces, by layer name. */
struct packed_entry {
    const char *name;
    const struct weight_format *format;
    struct weight_shape shape;
    bool simulated, used;
};

/* Names, parameters, linears and parts of a checked config, without values; layers in `packed` whose format is
 * not f32 get no parameter for their matrix. On error the model is closed by the caller. */
int model_layout(struct model *model, struct packed_entry *packed, size_t packed_count);

/* Point every f32 linear layer and its weight at its parameter's value. */
int model_bind(struct model *model);

#endif
