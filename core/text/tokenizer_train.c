/* Training byte-level BPE (Sennrich et al. 2016) with exact incremental counts.
 *
 * Each distinct word is laid out once, as a linked list of symbols. Every symbol that has a right
 * neighbour is a member of the list of its pair, so a merge touches exactly the places where its pair
 * stands and updates the counts of the neighbouring pairs there. The next pair comes from a heap whose
 * entries may be too high (counts fell since): such an entry goes back with the right count. Total work
 * is O(symbols * log pairs). The pairs made by a merge are new, because its token is.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer_parts.h"

#include <string.h>

#define END UINT32_MAX
#define COUNT_MIN 2 /* a pair seen once teaches nothing */

struct pair {
    int64_t count; /* how often it occurs, words weighted by their frequency */
    uint32_t left, right;
    uint32_t head, tail; /* its places, ascending */
};

struct candidate {
    int64_t count;
    uint32_t pair;
};

struct trainer {
    struct text_pool words;
    int64_t *frequency; /* [words] */
    size_t frequency_capacity;
    char *lowered; /* a lower-cased word */
    size_t lowered_capacity;

    /* by place: symbols of all words end to end */
    uint32_t *id, *next, *previous; /* neighbours in the word, or END */
    uint32_t *after, *before;       /* neighbours in the list of the pair that starts here, or END */
    uint32_t *word;
    size_t places;

    struct pair *pairs;
    size_t pair_count, pair_capacity;
    struct pair_map index;
    struct candidate *heap;
    size_t heap_count, heap_capacity;
};

static void trainer_close(struct trainer *t) {
    text_pool_close(&t->words);
    pair_map_close(&t->index);
    memory_release(t->frequency);
    memory_release(t->lowered);
    memory_release(t->id);
    memory_release(t->pairs);
    memory_release(t->heap);
}

/* *block grown to hold at least `needed` items. */
static int reserve(void **block, size_t *capacity, size_t needed, size_t size) {
    int status = 0;
    if (needed > *capacity) {
        size_t grown = 2 * needed + 1024;
        TRY(memory_resize(block, grown, size));
        *capacity = grown;
    }
out:
    return status;
}

/* ---- counting words ------------------------------------------------------------------------------- */
static int count_word(struct trainer *t, const char *word, size_t bytes, bool lower_case) {
    int status = 0;
    uint32_t index;
    size_t known = t->words.count;
    void *block = t->lowered;
    if (lower_case) {
        TRY(reserve(&block, &t->lowered_capacity, bytes, 1));
        t->lowered = block;
        for (size_t i = 0; i < bytes; i++) t->lowered[i] = (char)byte_lower((uint8_t)word[i]);
        word = t->lowered;
    }
    TRY(text_pool_add(&t->words, word, bytes, &index));
    if (index == known) {
        block = t->frequency;
        TRY(reserve(&block, &t->frequency_capacity, known + 1, sizeof *t->frequency));
        t->frequency = block;
        t->frequency[index] = 0;
    }
    t->frequency[index]++;
out:
    return status;
}

static int count_words(struct trainer *t, const char *text, size_t bytes, bool lower_case) {
    int status = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        length = word_length((const uint8_t *)text + at, bytes - at, WORD_GPT2, lower_case);
        TRY(count_word(t, text + at, length, lower_case));
    }
out:
    return status;
}

/* The words of a text as encoding will see them. */
static int count_text(struct trainer *t, const char *text, const struct tokenizer *tokenizer) {
    int status = 0;
    size_t bytes = strlen(text);
    struct normal_text normal;
    if (!tokenizer_normalizes(tokenizer, text, bytes)) return count_words(t, text, bytes, tokenizer->lower_case);
    TRY(normal_text_open(&normal, text, bytes, &tokenizer->steps));
    status = count_words(t, (const char *)normal.text, normal.bytes, tokenizer->lower_case);
    normal_text_close(&normal);
out:
    return status;
}

/* ---- pairs and their places ----------------------------------------------------------------------- */
static int pair_at(struct trainer *t, uint32_t place, struct pair **pair) {
    int status = 0;
    uint32_t left = t->id[place], right = t->id[t->next[place]], index;
    TRY(pair_map_add(&t->index, left, right, (uint32_t)t->pair_count, &index));
    if (index == t->pair_count) {
        void *block = t->pairs;
        TRY(reserve(&block, &t->pair_capacity, t->pair_count + 1, sizeof *t->pairs));
        t->pairs = block;
        t->pairs[t->pair_count++] = (struct pair){.left = left, .right = right, .head = END, .tail = END};
    }
    *pair = &t->pairs[index];
out:
    return status;
}

/* The pair that starts at `place` joins its list, which stays in ascending order of places because
 * callers go from left to right. */
static int place_enter(struct trainer *t, uint32_t place) {
    int status = 0;
    struct pair *pair;
    TRY(pair_at(t, place, &pair));
    pair->count += t->frequency[t->word[place]];
    t->after[place] = END;
    t->before[place] = pair->tail;
    *(pair->tail == END ? &pair->head : &t->after[pair->tail]) = place;
    pair->tail = place;
out:
    return status;
}

static void place_leave(struct trainer *t, uint32_t place) {
    struct pair *pair = &t->pairs[pair_map_find(&t->index, t->id[place], t->id[t->next[place]])];
    uint32_t before = t->before[place], after = t->after[place];
    pair->count -= t->frequency[t->word[place]];
    *(before == END ? &pair->head : &t->after[before]) = after;
    *(after == END ? &pair->tail : &t->before[after]) = before;
}

static int lay_out_words(struct trainer *t) {
    int status = 0;
    void *block = NULL;
    t->places = t->words.count ? t->words.offset[t->words.count] : 0;
    TRY(memory_take(&block, t->places, 6 * sizeof(uint32_t)));
    t->id = block;
    t->next = t->id + t->places;
    t->previous = t->next + t->places;
    t->after = t->previous + t->places;
    t->before = t->after + t->places;
    t->word = t->before + t->places;
    for (uint32_t w = 0; w < t->words.count; w++) {
        uint32_t begin = t->words.offset[w], end = t->words.offset[w + 1];
        for (uint32_t i = begin; i < end; i++) {
            t->id[i] = SPECIAL_COUNT + (uint8_t)t->words.bytes[i];
            t->next[i] = i + 1 < end ? i + 1 : END;
            t->previous[i] = i > begin ? i - 1 : END;
            t->word[i] = w;
        }
    }
    for (uint32_t i = 0; i < t->places; i++)
        if (t->next[i] != END) TRY(place_enter(t, i));
out:
    return status;
}

/* ---- the heap: highest count first, then lowest ids ----------------------------------------------- */
static bool candidate_before(const struct trainer *t, struct candidate a, struct candidate b) {
    const struct pair *x = &t->pairs[a.pair], *y = &t->pairs[b.pair];
    if (a.count != b.count) return a.count > b.count;
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static int candidate_push(struct trainer *t, uint32_t pair) {
    int status = 0;
    struct candidate item = {t->pairs[pair].count, pair};
    void *block = t->heap;
    if (item.count < COUNT_MIN) return 0;
    TRY(reserve(&block, &t->heap_capacity, t->heap_count + 1, sizeof item));
    t->heap = block;
    size_t i = t->heap_count++;
    for (; i && candidate_before(t, item, t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = item;
out:
    return status;
}

static struct candidate candidate_pop(struct trainer *t) {
    struct candidate top = t->heap[0], last = t->heap[--t->heap_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < t->heap_count; i = child) {
        if (child + 1 < t->heap_count && candidate_before(t, t->heap[child + 1], t->heap[child])) child++;
        if (!candidate_before(t, t->heap[child], last)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = last;
    return top;
}

/* ---- merging -------------------------------------------------------------------------------------- */
/* Every place of the pair becomes `result`, from left to right. */
static int merge_pair(struct trainer *t, uint32_t pair, uint32_t result) {
    int status = 0;
    size_t known = t->pair_count;
    while (t->pairs[pair].head != END) {
        uint32_t place = t->pairs[pair].head, right = t->next[place];
        uint32_t previous = t->previous[place], following = t->next[right];
        if (previous != END) place_leave(t, previous);
        place_leave(t, place);
        if (following != END) place_leave(t, right);
        t->id[place] = result;
        t->next[place] = following;
        if (following != END) t->previous[following] = place;
        if (previous != END) TRY(place_enter(t, previous));
        if (following != END) TRY(place_enter(t, place));
    }
    for (size_t i = known; i < t->pair_count; i++) TRY(candidate_push(t, (uint32_t)i));
out:
    return status;
}

/* The next pair that still has the count it is listed with, or END. */
static int best_pair(struct trainer *t, uint32_t *best) {
    int status = 0;
    *best = END;
    while (t->heap_count) {
        struct candidate top = candidate_pop(t);
        if (top.count == t->pairs[top.pair].count) {
            *best = top.pair;
            break;
        }
        TRY(candidate_push(t, top.pair));
    }
out:
    return status;
}

static int learn_merges(struct trainer *t, struct tokenizer *tokenizer, size_t vocabulary) {
    int status = 0;
    struct text_pool *tokens = &tokenizer->tokens;
    void *text = NULL;
    size_t text_capacity = 0;
    for (size_t i = 0; i < t->pair_count; i++) TRY(candidate_push(t, (uint32_t)i));
    while (tokens->count < vocabulary) {
        uint32_t best, result, expected = (uint32_t)tokens->count;
        TRY(best_pair(t, &best));
        if (best == END) break;
        struct merge *merge = &tokenizer->merges[tokenizer->merge_count];
        *merge = (struct merge){t->pairs[best].left, t->pairs[best].right, expected};
        size_t left = text_pool_length(tokens, merge->left), right = text_pool_length(tokens, merge->right);
        TRY(reserve(&text, &text_capacity, left + right, 1));
        memcpy(text, text_pool_text(tokens, merge->left), left);
        memcpy((char *)text + left, text_pool_text(tokens, merge->right), right);
        TRY(text_pool_add(tokens, text, left + right, &result));
        if (result != expected) continue; /* another pair spells this token: passed over */
        TRY(merge_pair(t, best, result));
        tokenizer->merge_count++;
    }
out:
    memory_release(text);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------------ */
static int add_base_tokens(struct tokenizer *tokenizer, size_t vocabulary) {
    int status = 0;
    void *block = NULL;
    uint32_t index;
    TRY(memory_take(&block, vocabulary, 1));
    tokenizer->special = block;
    TRY(memory_take(&block, vocabulary, 1));
    tokenizer->added = block;
    TRY(memory_take(&block, vocabulary, sizeof *tokenizer->merges));
    tokenizer->merges = block;
    for (size_t i = 0; i < SPECIAL_COUNT; i++) {
        TRY(text_pool_add(&tokenizer->tokens, special_names[i], strlen(special_names[i]), &index));
        tokenizer->special[i] = tokenizer->added[i] = 1;
    }
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        TRY(text_pool_add(&tokenizer->tokens, &text, 1, &index));
    }
out:
    return status;
}

int tokenizer_train_bpe(struct tokenizer **tokenizer, const char *const *texts, size_t count, size_t vocabulary,
                        bool lower_case) {
    int status = 0;
    struct trainer trainer = {0};
    struct tokenizer *fresh = NULL;
    *tokenizer = NULL;
    if (vocabulary < SPECIAL_COUNT + 256 || vocabulary > VOCABULARY_MAX)
        FAIL(E_ARGUMENT, "vocabulary must be a whole number in %d..%u (got %zu)", SPECIAL_COUNT + 256, VOCABULARY_MAX,
             vocabulary);
    TRY(tokenizer_new(&fresh, TOKENIZER_BYTE_BPE, &byte_bpe_traits));
    if (lower_case) TRY(tokenizer_add_step(fresh, NORMAL_LOWER));
    TRY(add_base_tokens(fresh, vocabulary));
    for (size_t i = 0; i < count; i++) TRY(count_text(&trainer, texts[i], fresh));
    TRY(lay_out_words(&trainer));
    TRY(learn_merges(&trainer, fresh, vocabulary));
    TRY(tokenizer_finish(fresh));
    *tokenizer = fresh;
    fresh = NULL;
out:
    trainer_close(&trainer);
    tokenizer_free(fresh);
    return status;
}
