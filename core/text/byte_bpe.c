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
/* The token that a whole word is, or MAP_NONE. Most words of a text are: one look-up in place of merging. */
static inline uint32_t whole_word(const struct tokenizer *tokenizer, const uint8_t *word, size_t length) {
    if (length == 1) return tokenizer->first[word[0]];
    uint32_t id = text_pool_find(&tokenizer->tokens, (const char *)word, length);
    return id != MAP_NONE && tokenizer->whole[id] ? id : MAP_NONE;
}

/* Append the tokens of one word; bytes that have no token are left out, as the reference does. `begin` is its place in
 * the whole text. */
static int append_word(const struct tokenizer *tokenizer, const uint8_t *text, size_t length, size_t begin,
                       void **block, struct encoding *encoding) {
    int status = 0;
    uint8_t lowered[SHORT_WORD];
    uint32_t short_word[SHORT_WORD], *word = short_word;
    size_t left = 1;
    if (length > SHORT_WORD) {
        TRY(memory_resize(block, length, sizeof *word));
        word = *block;
        uint32_t id =
            tokenizer->ignore_merges ? text_pool_find(&tokenizer->tokens, (const char *)text, length) : MAP_NONE;
        if (id != MAP_NONE && !tokenizer->added[id]) return encoding_add(encoding, (int32_t)id, begin, begin + length);
    } else {
        if (tokenizer->lower_case) {
            for (size_t i = 0; i < length; i++) lowered[i] = byte_lower(text[i]);
            text = lowered;
        }
        word[0] = whole_word(tokenizer, text, length);
        if (word[0] != MAP_NONE) return encoding_add(encoding, (int32_t)word[0], begin, begin + length);
    }
    size_t known = 0;
    for (size_t i = 0; i < length; i++) {
        word[known] = tokenizer->first[text[i]];
        known += word[known] != MAP_NONE;
    }
    if (known > SHORT_WORD) TRY(merge_long(tokenizer, word, known, &left));
    else left = merge_short(tokenizer, word, known);
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

static int byte_bpe_encode(const struct tokenizer *tokenizer, const struct segment *segment,
                           struct encoding *encoding) {
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

static int byte_bpe_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text) {
    int status = 0;
    void *block = NULL;
    size_t bytes = 0, used = 0;
    for (size_t i = 0; i < count; i++)
        if (!tokenizer->special[ids[i]]) bytes += text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
    TRY(memory_take(&block, bytes + 1, 1));
    *text = block;
    for (size_t i = 0; i < count; i++) {
        if (tokenizer->special[ids[i]]) continue;
        size_t length = text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
        memcpy(*text + used, text_pool_text(&tokenizer->tokens, (size_t)ids[i]), length);
        used += length;
    }
out:
    return status;
}

const struct tokenizer_traits byte_bpe_traits = {.encode = byte_bpe_encode, .decode = byte_bpe_decode};

/* whole[id]: the bytes of token id, as a word, become that token alone. */
static int find_whole_words(struct tokenizer *tokenizer) {
    int status = 0;
    void *block = NULL;
    uint32_t word[SHORT_WORD];
    TRY(memory_take(&block, tokenizer->tokens.count, 1));
    tokenizer->whole = block;
    for (size_t id = 0; id < tokenizer->tokens.count; id++) {
        size_t length = text_pool_length(&tokenizer->tokens, id);
        const uint8_t *text = (const uint8_t *)text_pool_text(&tokenizer->tokens, id);
        if (tokenizer->added[id] || length > SHORT_WORD) continue;
        bool known = true;
        for (size_t i = 0; i < length; i++) known &= (word[i] = tokenizer->first[text[i]]) != MAP_NONE;
        if (!known && !tokenizer->ignore_merges) continue;
        tokenizer->whole[id] = tokenizer->ignore_merges || merge_short(tokenizer, word, length) == 1;
    }
out:
    return status;
}

int tokenizer_finish(struct tokenizer *tokenizer) {
    int status = 0;
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
    TRY(find_whole_words(tokenizer));
    tokenizer_name_special(tokenizer);
    TRY(added_index_build(tokenizer));
out:
    return status;
}
