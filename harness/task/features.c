/* Words and pairs of words to sparse TF-IDF rows; see features.h.
 *
 * Two open-addressing tables: words by their characters, pairs by the numbers of their two words (a pair can
 * only be known when both words are). Features are numbered in the order in which they are first met, so the
 * numbering depends on the texts alone.
 */
#include "task/features.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#define UNKNOWN UINT32_MAX

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (c & 0x80);
}

/* The next word of two or more characters from *cursor on; NULL at the end. */
static const char *word_next(const char **cursor, uint32_t *length) {
    const char *at = *cursor;
    for (;;) {
        while (*at && !is_word(*at)) at++;
        const char *begin = at;
        while (is_word(*at)) at++;
        *cursor = at;
        if (at == begin) return NULL;
        if (at - begin >= 2) {
            *length = (uint32_t)(at - begin);
            return begin;
        }
    }
}

/* FNV-1a over the lower-cased characters. */
static uint64_t word_hash(const char *text, uint32_t length) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)lower(text[i])) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* The finishing step of MurmurHash3 (Appleby): spreads the two ids over all bits. */
static uint64_t pair_hash(uint64_t key) {
    key = (key ^ key >> 33) * 0xff51afd7ed558ccdu;
    key = (key ^ key >> 33) * 0xc4ceb9fe1a85ec53u;
    return key ^ key >> 33;
}

static bool word_same(const struct vocabulary_word *word, const char *text, uint32_t length) {
    if (word->length != length) return false;
    for (uint32_t i = 0; i < length; i++)
        if (lower(word->text[i]) != lower(text[i])) return false;
    return true;
}

static struct vocabulary_word *word_slot(const struct vocabulary *vocabulary, const char *text, uint32_t length) {
    size_t mask = vocabulary->word_slots - 1, at = word_hash(text, length) & mask;
    while (vocabulary->words[at].text && !word_same(&vocabulary->words[at], text, length)) at = (at + 1) & mask;
    return &vocabulary->words[at];
}

static struct vocabulary_pair *pair_slot(const struct vocabulary *vocabulary, uint64_t key) {
    size_t mask = vocabulary->pair_slots - 1, at = pair_hash(key) & mask;
    while (vocabulary->pairs[at].key != UINT64_MAX && vocabulary->pairs[at].key != key) at = (at + 1) & mask;
    return &vocabulary->pairs[at];
}

static int words_grow(struct vocabulary *vocabulary) {
    int status = 0;
    struct vocabulary old = *vocabulary;
    void *block = NULL;
    TRY(memory_take(&block, old.word_slots * 2, sizeof *old.words));
    vocabulary->words = block;
    vocabulary->word_slots = old.word_slots * 2;
    for (size_t i = 0; i < old.word_slots; i++)
        if (old.words[i].text) *word_slot(vocabulary, old.words[i].text, old.words[i].length) = old.words[i];
    memory_release(old.words);
out:
    return status;
}

static int pairs_take(struct vocabulary_pair **pairs, size_t slots) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, slots, sizeof **pairs));
    *pairs = block;
    for (size_t i = 0; i < slots; i++) (*pairs)[i].key = UINT64_MAX;
out:
    return status;
}

static int pairs_grow(struct vocabulary *vocabulary) {
    int status = 0;
    struct vocabulary_pair *old = vocabulary->pairs, *bigger = NULL;
    size_t old_slots = vocabulary->pair_slots;
    TRY(pairs_take(&bigger, old_slots * 2));
    vocabulary->pairs = bigger;
    vocabulary->pair_slots = old_slots * 2;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].key != UINT64_MAX) *pair_slot(vocabulary, old[i].key) = old[i];
    memory_release(old);
out:
    return status;
}

/* A number for a new feature. */
static int feature_add(struct vocabulary *vocabulary, uint32_t *id) {
    int status = 0;
    if (vocabulary->count == vocabulary->capacity) {
        size_t capacity = vocabulary->capacity ? vocabulary->capacity * 2 : 4096;
        void *block = vocabulary->frequency;
        TRY(memory_resize(&block, capacity, sizeof *vocabulary->frequency));
        vocabulary->frequency = block;
        vocabulary->capacity = capacity;
    }
    if (vocabulary->count >= UNKNOWN) FAIL(E_LIMIT, "more than 2^32 distinct words and pairs");
    vocabulary->frequency[vocabulary->count] = 0;
    *id = (uint32_t)vocabulary->count++;
out:
    return status;
}

static int word_number(struct vocabulary *vocabulary, const char *text, uint32_t length, bool add, uint32_t *id) {
    int status = 0;
    struct vocabulary_word *slot = word_slot(vocabulary, text, length);
    *id = slot->text ? slot->id : UNKNOWN;
    if (slot->text || !add) goto out;
    TRY(feature_add(vocabulary, id));
    *slot = (struct vocabulary_word){.text = text, .length = length, .id = *id};
    vocabulary->word_count++;
    if (vocabulary->word_count * 2 > vocabulary->word_slots) TRY(words_grow(vocabulary));
out:
    return status;
}

static int pair_number(struct vocabulary *vocabulary, uint32_t first, uint32_t second, bool add, uint32_t *id) {
    int status = 0;
    uint64_t key = (uint64_t)first << 32 | second;
    struct vocabulary_pair *slot = pair_slot(vocabulary, key);
    *id = slot->key == key ? slot->id : UNKNOWN;
    if (slot->key == key || !add) goto out;
    TRY(feature_add(vocabulary, id));
    *slot = (struct vocabulary_pair){.key = key, .id = *id};
    if ((vocabulary->count - vocabulary->word_count) * 2 > vocabulary->pair_slots) TRY(pairs_grow(vocabulary));
out:
    return status;
}

/* A growing list of feature numbers. */
struct numbers {
    uint32_t *id;
    size_t count, capacity;
};

static int numbers_push(struct numbers *numbers, uint32_t id) {
    int status = 0;
    if (numbers->count == numbers->capacity) {
        size_t capacity = numbers->capacity ? numbers->capacity * 2 : 256;
        void *block = numbers->id;
        TRY(memory_resize(&block, capacity, sizeof *numbers->id));
        numbers->id = block;
        numbers->capacity = capacity;
    }
    numbers->id[numbers->count++] = id;
out:
    return status;
}

static int number_compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The known features of a text, sorted, with repetitions. */
static int text_numbers(struct vocabulary *vocabulary, const char *text, bool add, struct numbers *numbers) {
    int status = 0;
    uint32_t length = 0, last = UNKNOWN, id = 0, pair = 0;
    numbers->count = 0;
    for (const char *cursor = text, *word; (word = word_next(&cursor, &length)); last = id) {
        TRY(word_number(vocabulary, word, length, add, &id));
        if (id != UNKNOWN) TRY(numbers_push(numbers, id));
        if (!vocabulary->with_pairs || id == UNKNOWN || last == UNKNOWN) continue;
        TRY(pair_number(vocabulary, last, id, add, &pair));
        if (pair != UNKNOWN) TRY(numbers_push(numbers, pair));
    }
    if (numbers->count) qsort(numbers->id, numbers->count, sizeof *numbers->id, number_compare);
out:
    return status;
}

int vocabulary_open(struct vocabulary *vocabulary, const struct task_text *texts, bool with_pairs) {
    int status = 0;
    struct numbers numbers = {0};
    void *block = NULL;
    *vocabulary = (struct vocabulary){.with_pairs = with_pairs, .word_slots = 1024, .pair_slots = 1024};
    TRY(memory_take(&block, vocabulary->word_slots, sizeof *vocabulary->words));
    vocabulary->words = block;
    TRY(pairs_take(&vocabulary->pairs, vocabulary->pair_slots));
    for (size_t i = 0; i < texts->count; i++) {
        TRY(text_numbers(vocabulary, texts->text[i], true, &numbers));
        for (size_t k = 0; k < numbers.count; k++)
            if (k == 0 || numbers.id[k] != numbers.id[k - 1]) vocabulary->frequency[numbers.id[k]]++;
    }
    TRY(memory_take(&block, vocabulary->count, sizeof *vocabulary->idf));
    vocabulary->idf = block;
    for (size_t k = 0; k < vocabulary->count; k++)
        vocabulary->idf[k] = (float)(log((1 + (double)texts->count) / (1 + (double)vocabulary->frequency[k])) + 1);
out:
    memory_release(numbers.id);
    if (status < 0) vocabulary_close(vocabulary);
    return status;
}

void vocabulary_close(struct vocabulary *vocabulary) {
    memory_release(vocabulary->words);
    memory_release(vocabulary->pairs);
    memory_release(vocabulary->idf);
    memory_release(vocabulary->frequency);
    memset(vocabulary, 0, sizeof *vocabulary);
}

/* One row from sorted numbers: distinct indices, weights of unit length. Returns its entries. */
static size_t row_fill(const struct vocabulary *vocabulary, const struct numbers *numbers, uint32_t *index,
                       float *value) {
    size_t entries = 0;
    double squares = 0;
    for (size_t k = 0, next; k < numbers->count; k = next) {
        for (next = k; next < numbers->count && numbers->id[next] == numbers->id[k];) next++;
        double weight = (1 + log((double)(next - k))) * (double)vocabulary->idf[numbers->id[k]];
        index[entries] = numbers->id[k];
        value[entries++] = (float)weight;
        squares += weight * weight;
    }
    for (size_t k = 0; k < entries; k++) value[k] = (float)((double)value[k] / sqrt(squares));
    return entries;
}

int sparse_open(struct sparse *sparse, const struct vocabulary *vocabulary, const struct task_text *texts) {
    int status = 0;
    struct numbers numbers = {0};
    struct vocabulary known = *vocabulary; /* looking up adds nothing */
    size_t capacity = 0, used = 0;
    void *block = NULL;
    *sparse = (struct sparse){.rows = texts->count, .columns = vocabulary->count};
    TRY(memory_take(&block, texts->count + 1, sizeof *sparse->begin));
    sparse->begin = block;
    for (size_t i = 0; i < texts->count; i++) {
        TRY(text_numbers(&known, texts->text[i], false, &numbers));
        if (capacity - used < numbers.count) {
            capacity = (capacity + numbers.count) * 2;
            block = sparse->index;
            TRY(memory_resize(&block, capacity, sizeof *sparse->index));
            sparse->index = block;
            block = sparse->value;
            TRY(memory_resize(&block, capacity, sizeof *sparse->value));
            sparse->value = block;
        }
        if (numbers.count) used += row_fill(vocabulary, &numbers, sparse->index + used, sparse->value + used);
        sparse->begin[i + 1] = used;
    }
out:
    memory_release(numbers.id);
    if (status < 0) sparse_close(sparse);
    return status;
}

void sparse_close(struct sparse *sparse) {
    memory_release(sparse->begin);
    memory_release(sparse->index);
    memory_release(sparse->value);
    memset(sparse, 0, sizeof *sparse);
}
