/* Byte-level BPE (Radford et al. 2019): merging and decoding.
 *
 * A word is merged by rank: of all neighbouring pairs the one learned first is joined, leftmost first, until
 * none is known. Short words scan an array of ranks (a word of a gloss has about 6 bytes, one cache line);
 * words above SHORT_WORD keep a heap over a linked list, so no input is quadratic. No cache of words is
 * kept: encoding is const and any number of threads may share a tokenizer.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer_parts.h"

#include <string.h>

#define SHORT_WORD 64

const char *const special_names[SPECIAL_COUNT] = {"[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"};

/* ---- merging one word ----------------------------------------------------------------------------- */
/* ids starts as one id a byte; returns how many are left. count <= SHORT_WORD. */
static size_t merge_short(const struct tokenizer *tokenizer, uint32_t *ids, size_t count) {
    uint32_t rank[SHORT_WORD]; /* of the pair (i, i+1) */
    for (size_t i = 0; i + 1 < count; i++) rank[i] = pair_map_find(&tokenizer->ranks, ids[i], ids[i + 1]);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == MAP_NONE) break;
        ids[best] = tokenizer->merges[rank[best]].result;
        count--;
        for (size_t i = best + 1; i < count; i++) {
            ids[i] = ids[i + 1];
            if (i + 1 < count) rank[i] = rank[i + 1];
        }
        if (best > 0) rank[best - 1] = pair_map_find(&tokenizer->ranks, ids[best - 1], ids[best]);
        if (best + 1 < count) rank[best] = pair_map_find(&tokenizer->ranks, ids[best], ids[best + 1]);
    }
    return count;
}

/* The pairs of a long word in the order they are to be merged: by rank, then place. An entry is stale when
 * the pair at its place has another rank by now. */
struct word_heap {
    struct word_pair {
        uint32_t rank, place;
    } * items;
    size_t count;
};

static bool pair_before(struct word_pair a, struct word_pair b) {
    return a.rank != b.rank ? a.rank < b.rank : a.place < b.place;
}

static void heap_push(struct word_heap *heap, struct word_pair item) {
    size_t i = heap->count++;
    for (; i && pair_before(item, heap->items[(i - 1) / 2]); i = (i - 1) / 2) heap->items[i] = heap->items[(i - 1) / 2];
    heap->items[i] = item;
}

static struct word_pair heap_pop(struct word_heap *heap) {
    struct word_pair top = heap->items[0], last = heap->items[--heap->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < heap->count; i = child) {
        if (child + 1 < heap->count && pair_before(heap->items[child + 1], heap->items[child])) child++;
        if (!pair_before(heap->items[child], last)) break;
        heap->items[i] = heap->items[child];
    }
    heap->items[i] = last;
    return top;
}

struct long_word {
    uint32_t *ids, *next, *previous, *rank; /* by place; next == count at the end */
    uint32_t count;
    struct word_heap heap;
};

static void rank_pair(const struct tokenizer *tokenizer, struct long_word *word, uint32_t place) {
    uint32_t right = word->next[place];
    word->rank[place] =
        right == word->count ? MAP_NONE : pair_map_find(&tokenizer->ranks, word->ids[place], word->ids[right]);
    if (word->rank[place] != MAP_NONE)
        heap_push(&word->heap, (struct word_pair){.rank = word->rank[place], .place = place});
}

/* As merge_short for any length, in n log n. At most 3n entries enter the heap: n pairs at first and two
 * with each of at most n merges. */
static int merge_long(const struct tokenizer *tokenizer, uint32_t *ids, size_t count, size_t *left) {
    int status = 0;
    void *block = NULL;
    if (count > UINT32_MAX / 4) FAIL(E_LIMIT, "a word of %zu bytes is too long", count);
    TRY(memory_take(&block, 9 * count, sizeof(uint32_t)));
    uint32_t *numbers = block;
    struct long_word word = {.ids = ids, .next = numbers, .previous = numbers + count, .rank = numbers + 2 * count};
    word.count = (uint32_t)count;
    word.heap.items = (struct word_pair *)(void *)(numbers + 3 * count);
    for (uint32_t i = 0; i < word.count; i++) {
        word.next[i] = i + 1;
        word.previous[i] = i - 1;
    }
    for (uint32_t i = 0; i < word.count; i++) rank_pair(tokenizer, &word, i);
    while (word.heap.count) {
        struct word_pair pair = heap_pop(&word.heap);
        uint32_t place = pair.place, right = word.next[place];
        if (word.rank[place] != pair.rank) continue;
        ids[place] = tokenizer->merges[pair.rank].result;
        word.next[place] = word.next[right];
        word.rank[right] = MAP_NONE;
        if (word.next[place] < word.count) word.previous[word.next[place]] = place;
        rank_pair(tokenizer, &word, place);
        if (place > 0) rank_pair(tokenizer, &word, word.previous[place]);
    }
    *left = 0;
    for (uint32_t i = 0; i < word.count; i = word.next[i]) ids[(*left)++] = ids[i];
out:
    memory_release(block);
    return status;
}

/* ---- the kind ------------------------------------------------------------------------------------- */
/* What is known of a token whose bytes are met as a word: they become that token alone, or they do not. Found out when
 * it is first met, by merging; threads that find it out at the same time agree. Most words of a text are tokens: one
 * look-up in place of merging from then on. */
enum whole { WHOLE_NOT_KNOWN, WHOLE_YES, WHOLE_NO };

/* Merge a word and append what it becomes. Bytes that have no token are left out, as the reference does; *alone: one
 * token, of all bytes. `word` has room for its ids. */
static int append_merged(const struct tokenizer *tokenizer, const uint8_t *text, size_t length, size_t begin,
                         uint32_t *word, struct encoding *encoding, bool *alone) {
    int status = 0;
    size_t known = 0, left = 1;
    for (size_t i = 0; i < length; i++) {
        word[known] = tokenizer->first[text[i]];
        known += word[known] != MAP_NONE;
    }
    if (known > SHORT_WORD) TRY(merge_long(tokenizer, word, known, &left));
    else left = merge_short(tokenizer, word, known);
    *alone = left == 1 && known == length;
    for (size_t i = 0, from = 0, to; i < left; i++, from = to) {
        size_t bytes = text_pool_length(&tokenizer->tokens, word[i]);
        to = from + bytes;
        if (known < length) {
            while (tokenizer->first[text[from]] == MAP_NONE) from++;
            for (to = from; bytes; to++) bytes -= tokenizer->first[text[to]] != MAP_NONE;
        }
        TRY(encoding_add(encoding, (int32_t)word[i], begin + from, begin + to));
    }
out:
    return status;
}

/* Append the tokens of one word; `begin` is its place in the whole text, *block is room for long ones. */
static int append_word(const struct tokenizer *tokenizer, const uint8_t *text, size_t length, size_t begin,
                       void **block, struct encoding *encoding) {
    int status = 0;
    uint8_t lowered[SHORT_WORD], *whole, known;
    uint32_t short_word[SHORT_WORD], id;
    bool alone;
    if (length > SHORT_WORD) {
        TRY(memory_resize(block, length, sizeof(uint32_t)));
        id = tokenizer->ignore_merges ? text_pool_find(&tokenizer->tokens, (const char *)text, length) : MAP_NONE;
        if (id != MAP_NONE && !tokenizer->added[id]) return encoding_add(encoding, (int32_t)id, begin, begin + length);
        return append_merged(tokenizer, text, length, begin, *block, encoding, &alone);
    }
    if (tokenizer->lower_case) {
        for (size_t i = 0; i < length; i++) lowered[i] = byte_lower(text[i]);
        text = lowered;
    }
    if (length == 1) {
        id = tokenizer->first[*text];
        return id == MAP_NONE ? 0 : encoding_add(encoding, (int32_t)id, begin, begin + 1);
    }
    id = text_pool_find(&tokenizer->tokens, (const char *)text, length);
    whole = id == MAP_NONE ? NULL : &tokenizer->whole[id];
    known = whole ? __atomic_load_n(whole, __ATOMIC_RELAXED) : (uint8_t)WHOLE_NO;
    if (known == WHOLE_YES) return encoding_add(encoding, (int32_t)id, begin, begin + length);
    TRY(append_merged(tokenizer, text, length, begin, short_word, encoding, &alone));
    if (known == WHOLE_NOT_KNOWN) __atomic_store_n(whole, alone ? WHOLE_YES : WHOLE_NO, __ATOMIC_RELAXED);
out:
    return status;
}

static int encode_words(const struct tokenizer *tokenizer, const struct segment *segment, struct encoding *encoding) {
    int status = 0;
    const uint8_t *text = (const uint8_t *)segment->text;
    void *block = NULL;
    for (size_t at = 0; at < segment->bytes;) {
        size_t number = 0, end = segment->bytes;
        if (tokenizer->digits_alone) end = at + number_find(text + at, segment->bytes - at, &number);
        for (size_t length; at < end; at += length) {
            length = word_length(text + at, end - at, tokenizer->pattern, tokenizer->lower_case);
            TRY(append_word(tokenizer, text + at, length, segment->origin + at, &block, encoding));
        }
        if (number) TRY(append_word(tokenizer, text + at, number, segment->origin + at, &block, encoding));
        at += number;
    }
out:
    memory_release(block);
    return status;
}

static int byte_bpe_encode(const struct tokenizer *tokenizer, const struct segment *segment,
                           struct encoding *encoding) {
    int status = 0;
    struct normal_text normal;
    if (!tokenizer_normalizes(tokenizer, segment->text, segment->bytes))
        return encode_words(tokenizer, segment, encoding);
    TRY(normal_text_open(&normal, segment->text, segment->bytes, &tokenizer->steps));
    size_t first = encoding->count;
    status = encode_words(tokenizer, &(struct segment){(const char *)normal.text, normal.bytes, 0}, encoding);
    for (size_t i = first; encoding->with_offsets && i < encoding->count; i++) {
        normal_text_place(&normal, &encoding->begin[i], &encoding->end[i]);
        encoding->begin[i] += (uint32_t)segment->origin;
        encoding->end[i] += (uint32_t)segment->origin;
    }
    normal_text_close(&normal);
out:
    return status;
}

static int byte_bpe_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                           size_t *bytes) {
    int status = 0;
    void *block = NULL;
    size_t room = 1, used = 0;
    for (size_t i = 0; i < count; i++)
        if (!tokenizer->special[ids[i]]) room += text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
    TRY(memory_take(&block, room, 1));
    *text = block;
    for (size_t i = 0; i < count; i++) {
        if (tokenizer->special[ids[i]]) continue;
        size_t length = text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
        memcpy(*text + used, text_pool_text(&tokenizer->tokens, (size_t)ids[i]), length);
        used += length;
    }
    *bytes = used;
out:
    return status;
}

const struct tokenizer_traits byte_bpe_traits = {.encode = byte_bpe_encode, .decode = byte_bpe_decode};

int tokenizer_add_step(struct tokenizer *tokenizer, enum normal_step step) {
    int status = 0;
    struct normal_steps *steps = &tokenizer->steps;
    if (steps->count == NORMAL_STEPS_MAX) FAIL(E_LIMIT, "normalizer: more than %d steps", NORMAL_STEPS_MAX);
    steps->step[steps->count++] = step;
    if (step == NORMAL_LOWER) tokenizer->lower_case = true;
out:
    return status;
}

bool tokenizer_normalizes(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    for (size_t i = 0; tokenizer->steps.count && i < bytes; i++)
        if ((uint8_t)text[i] >= 0x80) return true;
    return false;
}

/* What is known without merging: added tokens are no words, and with ignore_merges all others are. */
static int open_whole_words(struct tokenizer *tokenizer) {
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, tokenizer->tokens.count, 1));
    tokenizer->whole = block;
    for (size_t id = 0; id < tokenizer->tokens.count; id++)
        tokenizer->whole[id] = tokenizer->added[id] ? WHOLE_NO : tokenizer->ignore_merges ? WHOLE_YES : WHOLE_NOT_KNOWN;
out:
    return status;
}

int tokenizer_finish(struct tokenizer *tokenizer) {
    int status = 0;
    TRY(pair_map_reserve(&tokenizer->ranks, tokenizer->merge_count));
    for (size_t i = 0; i < tokenizer->merge_count; i++) {
        const struct merge *merge = &tokenizer->merges[i];
        uint32_t found;
        TRY(pair_map_add(&tokenizer->ranks, merge->left, merge->right, (uint32_t)i, &found));
        if (found != i) FAIL(E_FORMAT, "merge %zu repeats merge %u", i, found);
    }
    unsigned known = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text = (char)(tokenizer->lower_case ? byte_lower((uint8_t)byte) : byte);
        tokenizer->first[byte] = text_pool_find(&tokenizer->tokens, &text, 1);
        if (tokenizer->first[byte] != MAP_NONE && tokenizer->special[tokenizer->first[byte]])
            tokenizer->first[byte] = MAP_NONE;
        known += tokenizer->first[byte] != MAP_NONE;
    }
    if (!known) FAIL(E_FORMAT, "the vocabulary has a token for no byte at all");
    TRY(open_whole_words(tokenizer));
    tokenizer_name_special(tokenizer);
    TRY(added_index_build(tokenizer));
out:
    return status;
}
