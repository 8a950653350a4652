/* The public functions of tokenizers: what all kinds share.
 *
 * tokenizer_append does a text's whole way, see tokenizer_parts.h. Two texts are encoded one after the other into a
 * scratch encoding, cut to the lengths that fit, and laid out by the pair template.
 */
#include "text/tokenizer.h"

#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer_parts.h"

#include <string.h>

enum tokenizer_kind tokenizer_kind(const struct tokenizer *tokenizer) { return tokenizer->kind; }

int tokenizer_new(struct tokenizer **tokenizer, enum tokenizer_kind kind, const struct tokenizer_traits *traits) {
    int status = 0;
    void *block = NULL;
    *tokenizer = NULL;
    TRY(memory_take(&block, 1, sizeof **tokenizer));
    *tokenizer = block;
    (*tokenizer)->kind = kind;
    (*tokenizer)->traits = traits;
    (*tokenizer)->names = (struct tokenizer_special){-1, -1, -1, -1, -1, -1, -1};
out:
    return status;
}

void tokenizer_free(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    if (tokenizer->traits->close) tokenizer->traits->close(tokenizer);
    text_pool_close(&tokenizer->tokens);
    pair_map_close(&tokenizer->ranks);
    memory_release(tokenizer->special);
    memory_release(tokenizer->added);
    memory_release(tokenizer->merges);
    memory_release(tokenizer->whole);
    memory_release(tokenizer->added_index.lengths);
    memory_release(tokenizer);
}

size_t tokenizer_vocabulary(const struct tokenizer *tokenizer) { return tokenizer->tokens.count; }

struct tokenizer_special tokenizer_special(const struct tokenizer *tokenizer) {
    return tokenizer->names;
}

size_t tokenizer_ends(const struct tokenizer *tokenizer, const int32_t **ids) {
    *ids = tokenizer->end_count ? tokenizer->ends : &tokenizer->names.end;
    return tokenizer->end_count ? tokenizer->end_count : tokenizer->names.end >= 0;
}

void tokenizer_end_add(struct tokenizer *tokenizer, uint64_t id) {
    if (id >= tokenizer->tokens.count || tokenizer->end_count == ENDS_MOST) return;
    for (size_t i = 0; i < tokenizer->end_count; i++)
        if (tokenizer->ends[i] == (int32_t)id) return;
    tokenizer->ends[tokenizer->end_count++] = (int32_t)id;
}

int32_t tokenizer_special_id(const struct tokenizer *tokenizer, const char *name) {
    uint32_t id = text_pool_find(&tokenizer->tokens, name, strlen(name));
    return id != MAP_NONE && tokenizer->special[id] ? (int32_t)id : -1;
}

bool template_add(struct token_template *template, enum template_part part, int32_t id, int32_t type) {
    if (template->count == TEMPLATE_MAX) return false;
    template->items[template->count].part = part;
    template->items[template->count].id = id;
    template->items[template->count++].type = type;
    return true;
}

void tokenizer_frame(struct tokenizer *tokenizer, int32_t cls, int32_t sep, int32_t between, int32_t type) {
    struct token_template *single = &tokenizer->single, *pair = &tokenizer->pair;
    single->count = pair->count = 0;
    template_add(single, TEMPLATE_ID, cls, 0);
    template_add(single, TEMPLATE_FIRST, -1, 0);
    template_add(single, TEMPLATE_ID, sep, 0);
    *pair = *single;
    if (between >= 0) template_add(pair, TEMPLATE_ID, between, 0);
    template_add(pair, TEMPLATE_SECOND, -1, type);
    template_add(pair, TEMPLATE_ID, sep, type);
}

static int32_t first_special(const struct tokenizer *tokenizer, const char *const *names) {
    for (; *names; names++) {
        int32_t id = tokenizer_special_id(tokenizer, *names);
        if (id >= 0) return id;
    }
    return -1;
}

void tokenizer_name_special(struct tokenizer *tokenizer) {
#define NAMES(...) first_special(tokenizer, (const char *const[]){__VA_ARGS__, NULL})
    tokenizer->names = (struct tokenizer_special){
        .pad = NAMES("[PAD]", "<pad>", "<|pad|>"),
        .cls = NAMES("[CLS]"),
        .sep = NAMES("[SEP]"),
        .mask = NAMES("[MASK]", "<mask>"),
        .unknown = NAMES("[UNK]", "<unk>"),
        .begin = NAMES("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
        .end = NAMES("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    };
#undef NAMES
}

/* ---- growing encodings ---------------------------------------------------------------------------- */
int encoding_grow(struct encoding *encoding, size_t more) {
    int status = 0;
    size_t capacity = 2 * encoding->capacity + more + 32;
    void *block = encoding->ids;
    if (more > UINT32_MAX || capacity > UINT32_MAX) FAIL(E_LIMIT, "more than 2^32 tokens");
    TRY(memory_resize(&block, capacity, sizeof *encoding->ids));
    encoding->ids = block;
    if (encoding->with_offsets) {
        block = encoding->begin;
        TRY(memory_resize(&block, capacity, sizeof *encoding->begin));
        encoding->begin = block;
        block = encoding->end;
        TRY(memory_resize(&block, capacity, sizeof *encoding->end));
        encoding->end = block;
    }
    encoding->capacity = capacity;
out:
    return status;
}

void encoding_close(struct encoding *encoding) {
    memory_release(encoding->ids);
    memory_release(encoding->begin);
    memory_release(encoding->end);
    *encoding = (struct encoding){0};
}

/* ---- encoding ------------------------------------------------------------------------------------- */
static int append_text(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool literal,
                       struct encoding *encoding) {
    int status = 0;
    size_t from = 0, end;
    while (from < bytes) {
        struct segment segment = {.text = text + from, .origin = from};
        int32_t id = -1;
        size_t begin = end = bytes;
        if (!literal) added_index_find(tokenizer, text, bytes, from, &id, &begin, &end);
        segment.bytes = begin - from;
        if (segment.bytes) TRY(tokenizer->traits->encode(tokenizer, &segment, encoding));
        if (id >= 0) TRY(encoding_add(encoding, id, begin, end));
        from = end;
    }
out:
    return status;
}

int tokenizer_append(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool special, bool literal,
                     struct encoding *encoding) {
    int status = 0;
    const struct token_template *template = &tokenizer->single;
    if (bytes > UINT32_MAX) FAIL(E_LIMIT, "a text of %zu bytes is too long", bytes);
    if (!special || !template->count) TRY(append_text(tokenizer, text, bytes, literal, encoding));
    for (size_t i = 0; special && i < template->count; i++) {
        if (template->items[i].part == TEMPLATE_ID) TRY(encoding_add(encoding, template->items[i].id, 0, 0));
        else TRY(append_text(tokenizer, text, bytes, literal, encoding));
    }
out:
    return status;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids, size_t capacity,
                     size_t *count) {
    int status = 0;
    struct encoding encoding = {0};
    *count = 0;
    TRY(tokenizer_append(tokenizer, text, bytes, false, true, &encoding));
    *count = encoding.count;
    size_t kept = encoding.count < capacity ? encoding.count : capacity;
    if (kept) memcpy(ids, encoding.ids, kept * sizeof *ids);
out:
    encoding_close(&encoding);
    return status;
}

/* ---- two texts ------------------------------------------------------------------------------------ */
/* What is left of two texts of these lengths in `room` tokens, as Hugging Face's longest_first: the longer one is cut
 * to what the shorter one leaves; where both are longer than half, each gets half, the longer one the odd token. */
static void cut_longest(size_t room, size_t *first, size_t *second) {
    size_t *shorter = *first > *second ? second : first, *longer = shorter == first ? second : first;
    if (*shorter + *longer <= room) return;
    if (*shorter <= room / 2) {
        *longer = room - *shorter;
    } else {
        *shorter = room / 2;
        *longer = room - room / 2;
    }
}

static int lay_out_pair(const struct token_template *template, const struct encoding *texts, size_t split,
                        const size_t kept[2], struct encoding *encoding, int32_t *types) {
    int status = 0;
    for (size_t i = 0; i < template->count; i++) {
        int32_t type = template->items[i].type;
        if (template->items[i].part == TEMPLATE_ID) {
            TRY(encoding_add(encoding, template->items[i].id, 0, 0));
            if (types) *types++ = type;
            continue;
        }
        bool second = template->items[i].part == TEMPLATE_SECOND;
        size_t from = second ? split : 0, to = from + kept[second];
        for (size_t k = from; k < to; k++) {
            bool offsets = texts->with_offsets;
            TRY(encoding_add(encoding, texts->ids[k], offsets ? texts->begin[k] : 0, offsets ? texts->end[k] : 0));
            if (types) *types++ = type;
        }
    }
out:
    return status;
}

int tokenizer_append_pair(const struct tokenizer *tokenizer, const char *first, const char *second, size_t max_tokens,
                          bool only_second, struct encoding *encoding, int32_t **types) {
    int status = 0;
    const struct token_template *template = &tokenizer->pair;
    struct encoding texts = {.with_offsets = encoding->with_offsets};
    size_t around = 0, begin = encoding->count;
    void *block = NULL;
    if (types) *types = NULL;
    if (!template->count)
        FAIL(E_UNSUPPORTED, "this tokenizer has no template for two texts: leave second texts out, or choose another");
    for (size_t i = 0; i < template->count; i++) around += template->items[i].part == TEMPLATE_ID;
    TRY(tokenizer_append(tokenizer, first, strlen(first), false, false, &texts));
    size_t split = texts.count;
    TRY(tokenizer_append(tokenizer, second, strlen(second), false, false, &texts));
    size_t kept[2] = {split, texts.count - split};
    if (max_tokens && max_tokens < around)
        FAIL(E_ARGUMENT, "%zu tokens have no room for the %zu special ones of two texts", max_tokens, around);
    if (max_tokens && only_second) {
        if (kept[0] > max_tokens - around)
            FAIL(E_ARGUMENT, "the first text alone has %zu tokens of at most %zu", kept[0], max_tokens - around);
        size_t room = max_tokens - around - kept[0];
        if (kept[1] > room) kept[1] = room;
    } else if (max_tokens) {
        cut_longest(max_tokens - around, &kept[0], &kept[1]);
    }
    if (types) TRY(memory_take(&block, around + kept[0] + kept[1], sizeof **types));
    TRY(lay_out_pair(template, &texts, split, kept, encoding, block));
    if (types) *types = block;
    block = NULL;
out:
    if (status < 0) encoding->count = begin;
    memory_release(block);
    encoding_close(&texts);
    return status;
}

/* ---- decoding ------------------------------------------------------------------------------------- */
int tokenizer_decode_bytes(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                           size_t *bytes) {
    int status = 0;
    *text = NULL;
    *bytes = 0;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= tokenizer->tokens.count)
            FAIL(E_ARGUMENT, "id %d is outside the vocabulary of %zu", ids[i], tokenizer->tokens.count);
    status = tokenizer->traits->decode(tokenizer, ids, count, text, bytes);
out:
    return status;
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text) {
    size_t bytes;
    return tokenizer_decode_bytes(tokenizer, ids, count, text, &bytes);
}
