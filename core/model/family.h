/* What a family is: a table of its parameters, and how its config.json reads. Private to core/model, core/calibrate and
 * core/train.
 *
 * The table names every parameter as Hugging Face does and says what part it plays; create, open, save,
 * forward, backward and the optimizer all work from parts, so none of them knows a family. A further family
 * is one more table (family_<name>.c) plus whatever layer it brings that no other has.
 */
#ifndef FAMILY_H
#define FAMILY_H

#include "io/json.h"
#include "io/tensor.h"
#include "model/model.h"

#define MODEL_NAME_BYTES 160

/* What a parameter is for. A block has its own set; the rest belong to the model. */
enum part {
    PART_TOKENS,
    PART_POSITIONS,
    PART_TYPES,
    PART_EMBEDDING_NORM,
    PART_PROJECT_IN, /* from the embedding's width to the model's */
    PART_QUERY,
    PART_KEY,
    PART_VALUE,
    PART_ATTENTION_OUTPUT,
    PART_ATTENTION_NORM, /* after attention in a post-norm model, before it in a pre-norm one */
    PART_UP,
    PART_GATE,
    PART_DOWN,
    PART_FEED_FORWARD_NORM, /* likewise */
    PART_FINAL_NORM,
    PART_PROJECT_OUT, /* back to the embedding's width, before the language-model head */
    PART_POOLER,
    PART_CLASSIFIER,
    PART_SPAN,
    PART_HEAD_TRANSFORM,
    PART_HEAD_NORM,
    PART_HEAD_BIAS, /* of the masked-LM decoder, which is the token embedding itself */
    PART_HEAD,      /* the language-model head where it is not the token embedding */
    PARTS
};

enum row_kind {
    ROW_EMBEDDING,    /* NAME.weight (rows, columns) */
    ROW_NORM,         /* NAME.weight, NAME.bias [rows] */
    ROW_GAIN,         /* NAME.weight [rows] */
    ROW_LINEAR,       /* NAME.weight (rows, columns), NAME.bias [rows] */
    ROW_LINEAR_QUERY, /* with a bias where the config has query_bias */
    ROW_LINEAR_PLAIN, /* NAME.weight (rows, columns) */
    ROW_VECTOR        /* NAME [rows] */
};

enum extent {
    EXTENT_ONE,
    EXTENT_WIDTH,
    EXTENT_EMBEDDING, /* width of the token embedding */
    EXTENT_ATTENTION, /* H·D */
    EXTENT_KEY_VALUE, /* K·D */
    EXTENT_FEED_FORWARD,
    EXTENT_VOCABULARY,
    EXTENT_POSITIONS, /* with the offset's rows */
    EXTENT_TYPES,
    EXTENT_CLASSES,
    EXTENT_SPAN /* 2: start and end */
};

/* What a config must have for a row to be there. */
enum condition { ALWAYS, WHEN_UNTIED, WHEN_PROJECTED, WHEN_FINAL_NORM };

struct family_row {
    const char *name; /* a block's rows hold one %zu for its number */
    enum part part;
    enum row_kind kind;
    enum extent rows, columns;
    unsigned heads; /* present when the model has one of these heads; 0: always */
    enum condition when;
    /* How Hugging Face stores it, where that is not NAME itself: as part `slice` of `slices` equal parts, along the
     * outputs, of the tensor `stored`; (columns, rows) when transposed. Our own files hold every layer by itself. */
    const char *stored;
    unsigned slice, slices;
    bool transposed;
};
/* A row of a table; the columns may be followed by further fields by name. */
#define ROW(NAME, PART, KIND, ROWS, ...)                                                                               \
    { .name = (NAME), .part = (PART), .kind = (KIND), .rows = (ROWS), .columns = __VA_ARGS__ }
#define ROWS_END                                                                                                       \
    { .name = NULL }

/* One field of config.json. */
enum field_kind {
    FIELD_SIZE,          /* size_t, required */
    FIELD_SIZE_OPTIONAL, /* size_t; absent or null: 0 */
    FIELD_FLOAT,         /* float */
    FIELD_TRUTH,         /* bool */
    FIELD_UNTRUTH,       /* bool, stored negated */
    FIELD_ID,            /* int32_t; null: -1 */
    FIELD_FIXED,         /* must hold `value`, or one of several between bars: the others are not built */
    FIELD_STATED         /* likewise, and printed */
};
struct config_field {
    const char *name;
    enum field_kind kind;
    size_t offset; /* in struct model_config */
    const char *value;
};
#define FIELD(NAME, KIND, MEMBER)                                                                                      \
    { .name = (NAME), .kind = (KIND), .offset = offsetof(struct model_config, MEMBER) }
#define FIELD_MUST(NAME, KIND, VALUE)                                                                                  \
    { .name = (NAME), .kind = (KIND), .value = (VALUE) }
#define FIELDS_END                                                                                                     \
    { .name = NULL }

/* A class of transformers and the heads it has; the first one with a model's heads is printed. */
struct architecture {
    const char *name;
    unsigned heads;
};

/* Two names of one tensor in a model whose head is tied; a file may have it by either, or twice. */
struct tied_tensor {
    const char *copy, *original;
};

struct family {
    const char *name;
    const struct family_row *before, *block, *after; /* each ends with ROWS_END */
    const char *prefix;                              /* that files of the body alone leave out: "bert." */
    const char *const *ignored;                      /* endings of tensor names that a file may have for nothing */
    const struct tied_tensor *tied;                  /* ends with a NULL copy */
    const struct config_field *fields;               /* ends with FIELDS_END */
    const char *const *ignored_fields;               /* that say nothing about inference here; ends with NULL */
    const struct architecture *architectures;        /* ends with a NULL name */
    unsigned heads;                                  /* that its models may have */
    bool free_head_width;                            /* head_width need not be width / heads; grouped queries */
    bool any_norm_place;                             /* pre- or post-norm as the config says */
    bool pooler_relu;                                /* the pooler ends in ReLU, not tanh */
    void (*defaults)(struct model_config *config);
    /* What follows from the fields once all are read, and what does not fit together. NULL: nothing. */
    int (*finish)(struct model_config *config);
};

extern const struct family family_bert, family_distilbert, family_gpt2, family_opt, family_llama, family_qwen2,
    family_mistral;
extern const struct family_row llama_before[], llama_block[], llama_after[]; /* Qwen2's and Mistral's as well */
extern const char *const llama_ignored[];
extern const struct tied_tensor llama_tied[];
void llama_defaults(struct model_config *config);

const struct family *family_find(const char *name); /* NULL when unknown */

/* config.json by a family's tables (family_fields.c). */
int family_parse(const struct family *family, struct model_config *config, const struct json *root);
/* For families whose masked-LM head is the token embedding: without that head, whether it is tied says nothing. */
int family_finish_tied(struct model_config *config);
int family_print(const struct family *family, const struct model_config *config, struct json_writer *writer);

static inline size_t config_embedding_width(const struct model_config *config) {
    return config->embedding_width ? config->embedding_width : config->width;
}

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

/* The tensor of a Hugging Face directory that holds an entry: outputs first..first+rows-1 of `total`, the outputs
 * along its last dimension when transposed. A vector counts its elements as outputs. */
struct stored_tensor {
    char name[MODEL_NAME_BYTES];
    size_t first, total;
    bool transposed;
};
void layout_stored(const struct layout_entry *entry, struct stored_tensor *stored);

/* Where a model's parameters are, by part. Of a linear layer `weight` is NULL once it is packed. */
struct part_view {
    struct parameter *weight, *bias;
    struct linear *linear;
};
struct parts {
    const struct family *family;
    struct weight tied_head; /* the token embedding as the language-model head multiplies it; made by model_prepare */
    struct part_view own[PARTS];
    struct part_view block[][PARTS]; /* [L] */
};
static inline const struct part_view *model_part(const struct model *model, enum part part) {
    return &((const struct parts *)model->family_state)->own[part];
}
static inline const struct part_view *block_part(const struct model *model, size_t block, enum part part) {
    return &((const struct parts *)model->family_state)->block[block][part];
}

/* The language-model head as it is multiplied; NULL when the model has none. */
const struct weight *model_head_weight(const struct model *model);
const char *model_head_name(enum model_head head); /* "causal-LM", … */

/* E_SHAPE: no tokens, an empty or too long sequence, an id or type that the model does not have, a cache of another
 * model. E_LIMIT: a slot is full. */
int model_check_batch(const struct model *model, const struct batch *batch);

/* Pairs of a query and a key that it sees, over all sequences of a batch; one_each: of the tokens it reads alone. */
uint64_t model_attention_pairs(const struct model_config *config, const struct batch *batch, bool one_each);
/* Multiply-adds of attention in one pass; some: the last block asks for the tokens that are read alone. */
uint64_t model_attention_work(const struct model_config *config, const struct batch *batch, bool some);

/* Packed layers that a file announces, by layer name. */
struct packed_entry {
    const char *name;
    const struct weight_format *format;
    struct weight_shape shape;
    struct activation_quantizer activation;
    bool simulated, used;
};

/* Names, parameters, linears and parts of a checked config, without values; layers in `packed` whose format is
 * not f32 get no parameter for their matrix. On error the model is closed by the caller. */
int model_layout(struct model *model, struct packed_entry *packed, size_t packed_count);

/* A parameter of a laid-out model as model_create has it. */
void parameter_fill(const struct model *model, const struct parameter *parameter, uint64_t seed, double deviation);
/* Point every f32 linear layer and its weight at its parameter's value, which is finite. */
void model_bind(struct model *model);
/* Make a layer's weight a view of its f32 values. */
void linear_view_values(struct linear *linear);

/* Where a parameter's values are: outputs first..first+rows-1 of `total` of a tensor, as in struct stored_tensor. */
struct value_place {
    const struct tensor *tensor;
    size_t first, total;
    bool transposed;
    size_t interleaved; /* D: rows of every head of width D are in interleaved pairs (row 2i+h for h·D/2+i); 0: none */
};
/* Finds the place of an entry; E_NOT_FOUND names what is missing. */
struct value_source {
    int (*find)(void *context, const struct layout_entry *entry, struct value_place *place);
    void *context;
};
/* Fill every parameter of a laid-out model from `source` (model_values.c): views where a tensor holds just these f32
 * values and nobody will write them; places alone (parameter->place) where rows can be decoded when they are needed;
 * copies elsewhere. Shapes, types and finiteness are checked, of places when they are read. */
int model_read_values(struct model *model, const struct value_source *source, bool editable);
/* Rows begin..end-1 of a matrix from its place, not transposed: out (end-begin, columns). */
void place_rows(const struct value_place *place, size_t begin, size_t end, float *out);
bool values_finite(const float *value, size_t count);

/* A model whose values are room in an arena that `open` makes, not filled yet. As model_create. */
int model_blank(struct model *model, const struct model_config *config, int (*open)(struct arena *, size_t));

/* How sequences are pooled to embeddings (model_pooling.c). A config's "pooling_mode": E_FORMAT, E_UNSUPPORTED. */
int pooling_parse(const struct json *node, enum model_pooling *pooling);
const char *pooling_name(enum model_pooling pooling); /* as it says */
/* What FOLDER/modules.json and its module of pooling say; without that file *pooling stays. E_FORMAT, E_UNSUPPORTED and
 * E_IO with the file in front. Writing: both files, where embeddings are no means or the folder has them; E_IO. */
int pooling_read(const char *folder, enum model_pooling *pooling);
int pooling_write(const char *folder, const struct model_config *config);

#endif
