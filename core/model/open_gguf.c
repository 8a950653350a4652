/* GGUF metadata as a configuration, and GGUF's tensor names for a model's parameters (ggml's docs/gguf.md; llama.cpp's
 * gguf-py constants and convert_hf_to_gguf.py).
 *
 * Every key that starts with the architecture's name is read, known to change nothing here, or refused by name. Rows
 * of the llama architecture's queries and keys are stored for interleaved rotary pairs: within a head of width D, row
 * 2i+h of the file is row h·D/2+i of Hugging Face's half-rotated layout.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/layers.h"
#include "model/model_source.h"

static const struct architecture_row {
    const char *name, *family;
    bool interleaved; /* rows of queries and keys */
    unsigned heads;
} architectures[] = {
    {"llama", "llama", true, HEAD_CAUSAL_LM},
    {"qwen2", "qwen2", false, HEAD_CAUSAL_LM},
    {"gpt2", "gpt2", false, HEAD_CAUSAL_LM},
    {"bert", "bert", false, HEAD_NONE},
};

/* Keys behind the architecture's name. */
enum key_kind { KEY_SIZE, KEY_SIZE_OPTIONAL, KEY_REAL, KEY_ZERO, KEY_TEXT, KEY_POOLING, KEY_IGNORED };
static const struct {
    const char *name;
    enum key_kind kind;
    size_t offset;    /* in struct model_config */
    const char *text; /* KEY_TEXT: the one value that is built */
} keys[] = {
    {"block_count", KEY_SIZE, offsetof(struct model_config, layers), NULL},
    {"context_length", KEY_SIZE, offsetof(struct model_config, positions), NULL},
    {"embedding_length", KEY_SIZE, offsetof(struct model_config, width), NULL},
    {"feed_forward_length", KEY_SIZE, offsetof(struct model_config, feed_forward), NULL},
    {"attention.head_count", KEY_SIZE, offsetof(struct model_config, heads), NULL},
    {"attention.head_count_kv", KEY_SIZE_OPTIONAL, offsetof(struct model_config, key_value_heads), NULL},
    {"attention.key_length", KEY_SIZE_OPTIONAL, offsetof(struct model_config, head_width), NULL},
    {"attention.value_length", KEY_IGNORED, 0, NULL},           /* checked by the shapes of its tensors */
    {"rope.dimension_count", KEY_IGNORED, 0, NULL},             /* checked below */
    {"attention.layer_norm_rms_epsilon", KEY_IGNORED, 0, NULL}, /* that of the architecture's norm is read below */
    {"attention.layer_norm_epsilon", KEY_IGNORED, 0, NULL},
    {"rope.freq_base", KEY_REAL, offsetof(struct model_config, rotary_base), NULL},
    {"rope.scaling.type", KEY_TEXT, 0, "none"},
    {"expert_count", KEY_ZERO, 0, NULL},
    {"expert_used_count", KEY_ZERO, 0, NULL},
    {"attention.causal", KEY_IGNORED, 0, NULL}, /* checked below */
    {"pooling_type", KEY_POOLING, offsetof(struct model_config, pooling), NULL},
    {"tensor_data_layout", KEY_IGNORED, 0, NULL},
    {"vocab_size", KEY_IGNORED, 0, NULL}, /* the token embedding has as many rows */
};
#define KEYS (sizeof keys / sizeof keys[0])

static int find_architecture(const struct gguf *file, const struct architecture_row **found) {
    int status = 0;
    const char *text;
    size_t bytes;
    *found = NULL;
    TRY(gguf_text(file, "general.architecture", &text, &bytes));
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++)
        if (strlen(architectures[i].name) == bytes && memcmp(architectures[i].name, text, bytes) == 0)
            *found = &architectures[i];
    if (!*found)
        FAIL(E_UNSUPPORTED, "general.architecture '%.*s' is not supported (llama, qwen2, gpt2 and bert are)",
             (int)(bytes < 40 ? bytes : 40), text);
out:
    return status;
}

static int read_key(const struct gguf *file, const struct gguf_entry *entry, size_t i, struct model_config *config) {
    int status = 0;
    void *field = (char *)config + keys[i].offset;
    uint64_t whole;
    double number;
    const char *text;
    size_t bytes;
    switch (keys[i].kind) {
    case KEY_SIZE:
    case KEY_SIZE_OPTIONAL:
        TRY(gguf_u64(file, entry->key, &whole));
        if (whole > UINT32_MAX) FAIL(E_FORMAT, "key '%s': %llu is too large", entry->key, (unsigned long long)whole);
        *(size_t *)field = (size_t)whole;
        break;
    case KEY_REAL:
        TRY(gguf_number(file, entry->key, &number));
        if (!isfinite(number) || number <= 0) FAIL(E_FORMAT, "key '%s' must be positive", entry->key);
        *(float *)field = (float)number;
        break;
    case KEY_ZERO:
        TRY(gguf_u64(file, entry->key, &whole));
        if (whole)
            FAIL(E_UNSUPPORTED, "key '%s': %llu is not supported (only 0)", entry->key, (unsigned long long)whole);
        break;
    case KEY_TEXT:
        TRY(gguf_text(file, entry->key, &text, &bytes));
        if (bytes != strlen(keys[i].text) || memcmp(text, keys[i].text, bytes) != 0)
            FAIL(E_UNSUPPORTED, "key '%s': '%.*s' is not supported (only %s)", entry->key,
                 (int)(bytes < 40 ? bytes : 40), text, keys[i].text);
        break;
    case KEY_POOLING: {
        static const enum model_pooling poolings[] = {POOLING_MEAN, POOLING_MEAN, POOLING_FIRST, POOLING_LAST};
        TRY(gguf_u64(file, entry->key, &whole)); /* 0: nothing said */
        if (whole >= sizeof poolings / sizeof *poolings)
            FAIL(E_UNSUPPORTED, "key '%s': %llu is not supported (1 mean, 2 cls and 3 last are)", entry->key,
                 (unsigned long long)whole);
        *(enum model_pooling *)field = poolings[whole];
        break;
    }
    case KEY_IGNORED: break;
    }
out:
    return status;
}

static int read_keys(const struct gguf *file, const char *architecture, struct model_config *config) {
    int status = 0;
    size_t length = strlen(architecture);
    for (size_t e = 0; e < file->entry_count; e++) {
        const struct gguf_entry *entry = &file->entries[e];
        size_t i = 0;
        if (strncmp(entry->key, architecture, length) != 0 || entry->key[length] != '.') continue;
        while (i < KEYS && strcmp(entry->key + length + 1, keys[i].name) != 0) i++;
        if (i == KEYS) FAIL(E_UNSUPPORTED, "key '%.100s' is not supported", entry->key);
        TRY(read_key(file, entry, i, config));
    }
out:
    return status;
}

/* Sizes that have no default must have been said. */
static int check_sizes(const char *architecture, const struct model_config *config) {
    int status = 0;
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].kind == KEY_SIZE && *(const size_t *)((const char *)config + keys[i].offset) == 0)
            FAIL(E_NOT_FOUND, "key '%s.%s' is missing or 0", architecture, keys[i].name);
out:
    return status;
}

/* The epsilon of the architecture's norm, which every file must say: a guess would change all results a little. A file
 * may hold the other norm's, too. */
static int read_epsilon(const struct gguf *file, const char *architecture, struct model_config *config) {
    int status = 0;
    char key[64];
    double number;
    snprintf(key, sizeof key, "%s.attention.layer_norm_%sepsilon", architecture,
             config->norm == NORM_RMS ? "rms_" : "");
    TRY(gguf_number(file, key, &number));
    if (!isfinite(number) || number <= 0) FAIL(E_FORMAT, "key '%s' must be positive", key);
    config->norm_epsilon = (float)number;
out:
    return status;
}

/* Decoders turned into encoders, and the reverse, say so in this key alone. */
static int check_causal(const struct gguf *file, const char *architecture, const struct model_config *config) {
    int status = 0;
    char key[64];
    bool causal;
    snprintf(key, sizeof key, "%s.attention.causal", architecture);
    if (!gguf_find(file, key)) goto out;
    TRY(gguf_bool(file, key, &causal));
    if (causal != config->causal)
        FAIL(E_UNSUPPORTED, "key '%s': %s is not supported (only %s)", key, causal ? "true" : "false",
             config->causal ? "true" : "false");
out:
    return status;
}

/* One file of several lacks what is in the others, of which the head may be absent without a trace. */
static int check_whole(const struct gguf *file) {
    int status = 0;
    uint64_t count;
    if (!gguf_find(file, "split.count")) goto out;
    TRY(gguf_u64(file, "split.count", &count));
    if (count > 1)
        FAIL(E_UNSUPPORTED, "key 'split.count': one of %llu files; join them first (llama-gguf-split --merge)",
             (unsigned long long)count);
out:
    return status;
}

/* Rows of a matrix, of which a vector is one; 0 when it is absent or neither. */
static size_t tensor_row_count(const struct gguf *file, const char *name) {
    const struct tensor *tensor = gguf_tensor(file, name);
    if (!tensor || tensor->dimensions > 2) return 0;
    return tensor->dimensions == 2 ? tensor->shape[0] : 1;
}

static int check_rotary(const struct gguf *file, const char *architecture, const struct model_config *config) {
    int status = 0;
    char key[64];
    uint64_t dimensions;
    snprintf(key, sizeof key, "%s.rope.dimension_count", architecture);
    if (!gguf_find(file, key)) goto out;
    TRY(gguf_u64(file, key, &dimensions));
    if (dimensions != config->head_width)
        FAIL(E_UNSUPPORTED, "key '%s': turning %llu of %zu values per head is not supported", key,
             (unsigned long long)dimensions, config->head_width);
out:
    return status;
}

/* What Llama 3.1's and 3.2's frequencies are divided by lies in a tensor; that of which numbers it was made does not.
 */
static int read_factors(const struct gguf *file, struct model_config *config) {
    int status = 0;
    struct rotary_scaling scaling = {.low = 1, .high = 4, .original = 8192};
    const struct tensor *tensor = gguf_tensor(file, GGUF_ROTARY_FACTORS);
    const float *factors;
    size_t half = config->head_width / 2;
    if (!tensor || config->position != POSITION_ROTARY) goto out;
    if (tensor->dtype != DTYPE_F32 || tensor->count != half || (uintptr_t)tensor->data % sizeof *factors)
        FAIL(E_SHAPE, "tensor '" GGUF_ROTARY_FACTORS "' is not f32 with %zu values", half);
    factors = tensor->data;
    for (size_t i = 0; i < half; i++) scaling.factor = factors[i] > scaling.factor ? factors[i] : scaling.factor;
    if (scaling.factor == 1) scaling = (struct rotary_scaling){0};
    for (size_t i = 0; i < half; i++) {
        float expected = rotary_frequency(config->head_width, i, config->rotary_base, NULL) /
                         rotary_frequency(config->head_width, i, config->rotary_base, &scaling);
        if (!(fabsf(factors[i] - expected) <= 1e-4f * expected))
            FAIL(E_UNSUPPORTED,
                 "tensor '" GGUF_ROTARY_FACTORS "': value %zu is %g, Llama 3's would be %g; others are not "
                 "supported",
                 i, (double)factors[i], (double)expected);
    }
    config->rotary_scaling = scaling;
out:
    return status;
}

int gguf_config(const struct gguf *file, struct model_config *config, size_t *interleaved) {
    int status = 0;
    const struct architecture_row *architecture;
    uint64_t pad;
    TRY(find_architecture(file, &architecture));
    TRY(check_whole(file));
    TRY(model_config_family(config, architecture->family));
    TRY(read_keys(file, architecture->name, config));
    TRY(check_sizes(architecture->name, config));
    TRY(read_epsilon(file, architecture->name, config));
    TRY(check_causal(file, architecture->name, config));
    config->model_heads = architecture->heads;
    config->vocabulary = tensor_row_count(file, "token_embd.weight");
    if (config->token_types) config->token_types = tensor_row_count(file, "token_types.weight");
    if (!config->vocabulary) FAIL(E_NOT_FOUND, "tensor 'token_embd.weight' is missing or no matrix");
    if (!config->heads || config->heads > config->width || config->width % config->heads)
        FAIL(E_SHAPE, "%s.embedding_length %zu is not a multiple of attention.head_count %zu", architecture->name,
             config->width, config->heads);
    if (!config->head_width) config->head_width = config->width / config->heads;
    if (!config->key_value_heads) config->key_value_heads = config->heads;
    if (architecture->heads) config->tied = !gguf_tensor(file, "output.weight");
    if (gguf_find(file, "tokenizer.ggml.padding_token_id")) {
        TRY(gguf_u64(file, "tokenizer.ggml.padding_token_id", &pad));
        if (pad < config->vocabulary) config->pad_id = (int32_t)pad;
    }
    TRY(check_rotary(file, architecture->name, config));
    TRY(read_factors(file, config));
    TRY(model_config_check(config));
    *interleaved = architecture->interleaved ? config->head_width : 0;
out:
    return status;
}

/* GGUF's names by part; those of a block follow "blk.N.". A norm's place decides its name. */
static const char *part_name(enum part part, bool norm_first) {
    switch (part) {
    case PART_TOKENS: return "token_embd";
    case PART_POSITIONS: return "position_embd";
    case PART_TYPES: return "token_types";
    case PART_EMBEDDING_NORM: return "token_embd_norm";
    case PART_QUERY: return "attn_q";
    case PART_KEY: return "attn_k";
    case PART_VALUE: return "attn_v";
    case PART_ATTENTION_OUTPUT: return "attn_output";
    case PART_ATTENTION_NORM: return norm_first ? "attn_norm" : "attn_output_norm";
    case PART_UP: return "ffn_up";
    case PART_GATE: return "ffn_gate";
    case PART_DOWN: return "ffn_down";
    case PART_FEED_FORWARD_NORM: return norm_first ? "ffn_norm" : "layer_output_norm";
    case PART_FINAL_NORM: return "output_norm";
    case PART_HEAD: return "output";
    default: return NULL;
    }
}

int gguf_place(const struct layout_entry *entry, const struct model_config *config, char name[MODEL_NAME_BYTES],
               struct value_place *place) {
    int status = 0;
    enum part part = entry->row->part;
    const char *ending = entry->bias ? "bias" : "weight", *stem = part_name(part, config->norm_first);

    if (!stem) FAIL(E_UNSUPPORTED, "GGUF has no name for '%s'", entry->name);
    if (part >= PART_QUERY && part <= PART_VALUE && strcmp(config->family, "gpt2") == 0) {
        stem = "attn_qkv";
        place->first = (size_t)(part - PART_QUERY) * place->total;
        place->total *= 3;
    }
    if (entry->block >= 0) snprintf(name, MODEL_NAME_BYTES, "blk.%d.%s.%s", entry->block, stem, ending);
    else snprintf(name, MODEL_NAME_BYTES, "%s.%s", stem, ending);
out:
    return status;
}
