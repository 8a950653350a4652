/* The shared transformer: configuration, parameters by name, linear layers that techniques edit,
 * forward passes, and the artifact file.
 *
 * Letters: B sequences of a batch, T tokens in all, C width, F feed-forward width, H heads, K key/value
 * heads, D head width, V vocabulary, L layers, R rows (outputs), N columns (inputs) of a matrix.
 *
 * A batch is packed: the tokens of all sequences lie end to end and no padding is computed. Parameters
 * live in one allocation per model (or are views of the mapped file) and carry the names that Hugging
 * Face gives them. A family (model/family_bert.c, …) is a table of what its architecture is, made of
 * shared layers.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "formats/weight.h"

enum model_norm { NORM_LAYER, NORM_RMS };
enum model_activation { ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH, ACTIVATION_RELU, ACTIVATION_SILU_GATED };
enum model_position { POSITION_LEARNED, POSITION_ROTARY };
enum model_pooling { POOLING_MEAN, POOLING_FIRST, POOLING_LAST }; /* mean, cls, lasttoken of sentence-transformers */
enum model_head {
    HEAD_NONE = 0,
    HEAD_CLASSIFICATION = 1, /* BERT: pooler and classifier */
    HEAD_MASKED_LM = 2,
    HEAD_POOLER = 4,    /* the pooler alone, as BertModel has it; HEAD_CLASSIFICATION brings it anyway */
    HEAD_CAUSAL_LM = 8, /* next-token logits: the token embedding again when tied, else a matrix of its own */
    HEAD_SPAN = 16      /* question answering: a start and an end logit per token */
};                      /* bits: a model may carry several while it trains */

/* Frequencies of rotary positions for texts longer than those of pretraining: all divided by `factor`, or as Llama 3.1
 * has it, the long waves alone, those that turn less than `low` times in `original` tokens; those that turn more than
 * `high` times stay, and between them it goes over by degrees. */
struct rotary_scaling {
    float factor;              /* 0: as they are */
    float low, high, original; /* original 0: all alike */
};

struct model_config {
    char family[16]; /* "bert" */
    size_t layers, width, heads, key_value_heads, head_width, feed_forward;
    size_t vocabulary, positions, token_types, classes;
    enum model_norm norm;
    bool norm_first; /* pre-norm (GPT-2, Llama) or post-norm (BERT) */
    bool causal;
    enum model_activation activation;
    enum model_position position;
    float norm_epsilon;
    size_t embedding_width; /* of the token embedding where it differs from width (OPT-350M); 0: it does not */
    size_t position_offset; /* added to a position before its row is read: 2 in OPT, else 0 */
    size_t window;          /* sliding window: a token sees itself and window-1 before it; 0: all before it */
    float rotary_base;      /* rope_theta; 0 when positions are learned */
    struct rotary_scaling rotary_scaling;
    bool tied;                  /* the language-model head is the token embedding */
    bool query_bias;            /* biases on query, key, value (Qwen2 yes, Llama no) */
    bool final_norm;            /* a norm after the last block */
    int32_t pad_id;             /* its embedding row gets no gradient from look-ups; -1: none */
    unsigned model_heads;       /* enum model_head bits present */
    enum model_pooling pooling; /* the tokens whose mean is a sequence's embedding: all, the first, the last */
};

/* Fill defaults of a family (norm, activation, epsilon, …) leaving sizes zero. E_NOT_FOUND names the families known. */
int model_config_family(struct model_config *config, const char *family);
int model_config_check(
    const struct model_config *config); /* E_ARGUMENT, E_SHAPE: "width 130 is not a multiple of heads 4" */
/* From and to Hugging Face's config.json text. Unsupported fields are refused by name. print: release with
 * memory_release. */
int model_config_parse(struct model_config *config, const char *json, size_t bytes);
int model_config_print(const struct model_config *config, char **json);

struct value_place; /* model/family.h */
enum parameter_kind { PARAMETER_MATRIX, PARAMETER_VECTOR, PARAMETER_EMBEDDING };

/* One named parameter that is not packed. */
struct parameter {
    const char *name;
    enum parameter_kind kind;
    size_t rows, columns;            /* a vector has rows 1 */
    float *value;                    /* (rows, columns); in the model's arena, or read-only in the mapped file */
    float *gradient;                 /* NULL unless training */
    const struct value_place *place; /* where rows are decoded from when value is NULL: in a model that is not editable,
                                      * matrices of a file in 16 bits or blocks; see parameter_rows */
    bool aside;                      /* of a head that model_set_aside left out */
};

enum linear_role {
    ROLE_QUERY,
    ROLE_KEY,
    ROLE_VALUE,
    ROLE_ATTENTION_OUTPUT,
    ROLE_UP,
    ROLE_GATE,
    ROLE_DOWN,
    ROLE_POOLER,
    ROLE_CLASSIFIER,
    ROLE_HEAD_TRANSFORM,
    ROLE_SPAN,       /* start and end logits */
    ROLE_HEAD,       /* a language-model head that is not the token embedding */
    ROLE_PROJECT_IN, /* between the embedding's width and the model's */
    ROLE_PROJECT_OUT,
};
const char *linear_role_name(enum linear_role role); /* "query", "attention_output", … */

/* One linear layer, as techniques see it: y = x·Wᵀ + b. */
struct linear {
    const char *name; /* of the weight without ".weight": "bert.encoder.layer.0.attention.self.query" */
    int block;        /* 0..L-1, or -1 for heads, pooler and projections of the embedding */
    unsigned heads;   /* enum model_head bits of which one must be present; 0: part of the body */
    enum linear_role role;
    size_t rows, columns;
    float *value; /* f32 (R,N), editable; NULL once packed, or when parameter->place stands for it */
    float *bias;  /* f32 [R] or NULL */
    struct parameter *parameter, *bias_parameter; /* NULL when packed from a file */
    struct weight weight; /* what the forward pass multiplies; format f32 views `value` until packed */
    bool simulated;       /* its values promise a saving that its format does not execute (pruned f32) */
    bool aside;           /* of a head that model_set_aside left out: no pattern means it (model/linear_select.h) */
};

/* How f32 matrices that no technique packed are held and multiplied: as they are; as f16, widened to f32 as they are
 * multiplied; or as bf16, with activations (and what an encoder's attention multiplies) rounded to bf16 and sums in
 * f32. Every CPU can; only one with instructions for it gains time by bf16. */
enum weight_storage { STORAGE_F32, STORAGE_F16, STORAGE_BF16 };
const char *weight_storage_name(enum weight_storage storage); /* "f32", … */

struct model {
    struct model_config config;
    struct parameter *parameters;
    size_t parameter_count;
    struct linear *linears; /* blocks in order, roles in order of execution inside a block, heads last (first of all:
                             * a projection of the embedding) */
    size_t linear_count;
    struct arena arena;          /* every f32 parameter; absent for a mapped model */
    struct model_source *source; /* the mapped files it was opened from, or NULL (model/model_source.h) */
    struct value_place *places;  /* of its parameters, in those files */
    struct arena panels;         /* what model_prepare makes, in one block that asks for huge pages */
    struct arena names;
    struct arena gradients; /* while parameter->gradient is set */
    bool editable;
    bool int8_attention; /* model_set_int8_attention; part of the artifact */
    enum gemm_backend backend;
    enum weight_storage storage;
    bool prepared;
    void *family_state; /* struct parts: what each parameter is for (model/family.h) */
    struct model_metadata {
        char *key, *value;
    } * metadata; /* carried into the artifact: tokenizer, labels */
    size_t metadata_count;
};

/* A new model with random weights: normal with `deviation` (0.02) for matrices and embeddings, ones for
 * gains, zeros for biases; a function of (config, seed) alone. */
int model_create(struct model *model, const struct model_config *config, uint64_t seed, double deviation);

/* A model of this configuration whose values are all zero and take memory only when written: for questions about sizes
 * and formats before anything runs. E_MEMORY; those of model_config_check. */
int model_shape(struct model *model, const struct model_config *config);
/* In such a model: the layer will be packed in this format. There are no bytes to multiply. */
void linear_shape_packed(struct linear *linear, const struct weight_format *format);

/* Open, by content: a file that model_save wrote (artifact or checkpoint), a Hugging Face directory (config.json +
 * model.safetensors, whole or in shards), a GGUF file (llama, qwen2, gpt2, bert) or a llama2.c file. editable:
 * parameters are copied into the model's arena and may change (packed layers stay packed); otherwise they are views of
 * the mapped file. E_IO, E_FORMAT, E_SHAPE, E_UNSUPPORTED. */
int model_open(struct model *model, const char *path, bool editable);
void model_close(struct model *model); /* accepts a zeroed model */

/* An editable model of its own with the same values and metadata. Packed layers stay packed; those of which
 * unpack[linear] is true (NULL: none) become f32 values. The struct may be moved. E_MEMORY. */
int model_copy(struct model *copy, const struct model *model, const bool *unpack);

/* The same with other heads (and `classes`, where it gets a classification head that the other has not): what both have
 * is copied, what is new is as model_create has it. E_MEMORY; those of model_config_check. */
int model_copy_heads(struct model *copy, const struct model *model, unsigned heads, size_t classes, uint64_t seed,
                     double deviation);

/* A model that borrows every value of another one, which must outlive it, with those of its heads that are in `heads`:
 * to prepare and run it without touching the other, which may be in the middle of training. It sees values as they are
 * when it is prepared. E_MEMORY. */
int model_view(struct model *view, const struct model *model, unsigned heads);

/* Write one safetensors file: metadata "config" (config.json text), "weights" (format of each packed
 * layer), "attention" where it is in 8 bits, and the model's own metadata; f32 parameters as F32, packed layers as U8
 * "NAME.packed". Heads not in `heads` are left out. Same model, same bytes. */
int model_save(const struct model *model, const char *path, unsigned heads);

/* Write FOLDER/config.json and FOLDER/model.safetensors (f32) as Hugging Face has them, so that transformers loads
 * them, and where embeddings are no means what sentence-transformers asks for; the folder is made where absent. Layers
 * that a technique packed: E_UNSUPPORTED, or their values when `unpack`, and f32 attention where it was in 8 bits.
 * Works for models that are not editable, too. E_IO, E_MEMORY. */
int model_save_huggingface(const struct model *model, const char *folder, bool unpack);

int model_set_metadata(struct model *model, const char *key, const char *value);
const char *model_metadata(const struct model *model, const char *key); /* NULL when absent */

/* Mark what belongs to heads that are in `heads` none: they are carried along for stages to train and are no part of
 * the model that comes of it, so techniques that count or edit layers leave them out. Copies do not keep the mark. */
void model_set_aside(struct model *model, unsigned heads);

/* Rows begin..end-1 of a parameter as f32, wherever they are: out (end-begin, columns). */
void parameter_rows(const struct parameter *parameter, size_t begin, size_t end, float *out);
const struct parameter *model_parameter(const struct model *model, const char *name); /* NULL when absent */
struct linear *model_linear_find(struct model *model, const char *name);

/* Put a layer into a packed format by rounding its current values to `grid`. From then on the layer is
 * multiplied from its packed bytes and `value` is NULL. E_UNSUPPORTED when the format cannot hold the shape. */
int linear_pack(struct model *model, struct linear *linear, const struct weight_format *format, size_t group,
                bool symmetric, const struct weight_grid *grid);

/* How the input of a layer packed in 8 bits is quantized (formats/activation.h); stored with the layer. E_STATE: the
 * layer is not packed; E_UNSUPPORTED: it is packed in another format; E_ARGUMENT. */
int linear_set_activation(struct model *model, struct linear *linear, const struct activation_quantizer *activation);

/* Let inference compute attention in 8-bit products (layer_attention_int8.c); weights, and training, stay as they are.
 * E_UNSUPPORTED: causal models, whose keys come from a cache (which may hold them in 8 bits), and more than
 * INT8_ATTENTION_KEYS positions. */
int model_set_int8_attention(struct model *model);
int model_check_int8_attention(const struct model *model); /* could it be set? */

struct kv_cache; /* model/kv_cache.h */

/* The tokens whose last hidden states somebody reads: all of them, or one of each sequence. What else the last block
 * would compute is then left out; what is read is the same, bit for bit. */
enum batch_read { READ_ALL, READ_FIRST, READ_LAST };

/* What a batch is. */
struct batch {
    size_t sequences, tokens;
    const int32_t *ids;         /* [T] */
    const uint32_t *offset;     /* [B+1] into ids */
    const int32_t *token_types; /* [T], NULL: all 0 */
    /* With a cache (causal models): the tokens of sequence i follow what slot[i] (NULL: slot i) holds; their keys
     * and values are appended and the slot's length grows. E_LIMIT when it is full. */
    struct kv_cache *cache;
    const uint32_t *slot; /* [B] */
    enum batch_read read; /* whose hidden states are read */
};

/* Called with the input of every linear layer just before it is multiplied; x is (T,N) dense. */
struct model_tap {
    void (*input)(void *context, const struct linear *linear, const float *x, size_t T);
    void *context;
};

/* Buffers of a forward pass, grown on demand and reused. */
struct workspace {
    struct arena arena;
    struct weight_scratch scratch;
    void *head; /* rows and logits of a language-model head */
    size_t head_bytes;
    size_t tokens, sequences;
};
void workspace_close(struct workspace *workspace);

/* Make the weights ready to multiply (panels for f32, row sums). Idempotent; call after the last edit. */
int model_prepare(struct model *model, enum gemm_backend backend);

/* model_prepare with a storage. The tied language-model head follows it; look-ups in the embedding table round alike.
 */
int model_prepare_as(struct model *model, enum gemm_backend backend, enum weight_storage storage);

/* Values changed after model_prepare: drop what it made, so that nothing old is multiplied. */
void model_unprepare(struct model *model);

/* Gradients for the parameters that an objective over `heads` trains (the body and those heads), zeroed:
 * sets parameter->gradient, NULL for the others. Idempotent for the same heads. E_STATE when the model is
 * not editable or a layer is packed, E_UNSUPPORTED when it lacks the head, E_MEMORY. */
int model_gradients_open(struct model *model, unsigned heads);
/* The same for all but the frozen parameters ([parameter_count], NULL: none is) and packed layers. Memory comes into
 * being as gradients are written: rows of an embedding that never occur take none. */
int model_gradients_open_some(struct model *model, unsigned heads, const bool *frozen);
void model_gradients_close(struct model *model);

/* Where a forward pass leaves its results; pointers stay valid until the next use of the workspace. NULL
 * where the model has no such output. */
struct model_output {
    const float *hidden; /* (T,C) of the last block, after the final norm where there is one: what heads read; (B,C)
                          * where the batch reads one token of each sequence */
    const float *pooled; /* (B,C), and so on: not with READ_LAST */
    const float *logits; /* (B,classes) */
    const float *span;   /* (T,2): start and end logits; with READ_ALL only */
};

/* Inference. E_SHAPE: a sequence longer than the positions, an id outside the vocabulary; E_MEMORY. */
int model_forward(const struct model *model, const struct batch *batch, const struct model_tap *tap,
                  struct workspace *workspace, struct model_output *output);

/* Every hidden state of every token: out (L+1, T, C): embeddings, then the raw output of each block. */
int model_hidden_states(const struct model *model, const struct batch *batch, struct workspace *workspace, float *out);

/* Vocabulary logits (masked or causal language model) of chosen tokens after a model_forward on the same workspace
 * gave `hidden`: rows are token indices (NULL: 0..count-1), out (count,V). On all threads. E_UNSUPPORTED when the model
 * has no such head. */
int model_logits(const struct model *model, const float *hidden, const uint32_t *rows, size_t count,
                 struct workspace *workspace, float *out);

/* Negative log-likelihood in nats of target[i] (-1: left out, nll 0) given row rows[i] of `hidden`, without ever
 * holding more than a tile of logits: nll [count]; best [count] or NULL: the most probable id. */
int model_token_nll(const struct model *model, const float *hidden, const uint32_t *rows, const int32_t *target,
                    size_t count, struct workspace *workspace, float *nll, int32_t *best);

/* Sentence embeddings (Reimers and Gurevych 2019): the mean of those of each sequence's rows of `hidden` that the
 * config's pooling takes, scaled to unit length when asked: out (B,C). Those rows: begin..end-1. */
void model_pool(const struct model *model, const struct batch *batch, const float *hidden, bool unit, float *out);
void model_pooled_tokens(const struct model *model, const struct batch *batch, size_t sequence, size_t *begin,
                         size_t *end);

/* Work of one forward pass: multiply-adds in linear layers and attention, for a batch. */
uint64_t model_multiply_adds(const struct model *model, const struct batch *batch);

/* Bytes: of the packed (or f32) linear layers of the blocks, of everything in the file, and what those
 * layers would take in f32. bits_per_weight is over the blocks' linear layers. */
struct model_size {
    uint64_t linear_bytes, linear_f32_bytes, total_bytes;
    double bits_per_weight;
};
void model_size(const struct model *model, struct model_size *size);

#endif
