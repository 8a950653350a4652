/* Byte-level BPE (Radford et al. 2019): splitting, merging, decoding.
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

/* ---- splitting ------------------------------------------------------------------------------------ */
enum byte_class { CLASS_SPACE, CLASS_LETTER, CLASS_DIGIT, CLASS_OTHER };

static enum byte_class byte_class(uint8_t byte) {
    uint8_t lower = byte_lower(byte);
    if (byte == ' ' || (byte >= '\t' && byte <= '\r')) return CLASS_SPACE;
    if (byte >= 0x80 || (lower >= 'a' && lower <= 'z')) return CLASS_LETTER;
    return byte >= '0' && byte <= '9' ? CLASS_DIGIT : CLASS_OTHER;
}

/* Length of 's 't 'm 'd 're 've 'll at the start of text, or 0. */
static size_t contraction_length(const uint8_t *text, size_t bytes, bool lower_case) {
    if (bytes < 2 || text[0] != '\'') return 0;
    char a = (char)(lower_case ? byte_lower(text[1]) : text[1]);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (bytes < 3) return 0;
    char b = (char)(lower_case ? byte_lower(text[2]) : text[2]);
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

size_t word_length(const uint8_t *text, size_t bytes, bool lower_case) {
    size_t length = contraction_length(text, bytes, lower_case);
    if (length) return length;
    size_t start = text[0] == ' ' && bytes > 1;
    enum byte_class class = byte_class(text[start]);
    if (class != CLASS_SPACE) {
        for (length = start + 1; length < bytes && byte_class(text[length]) == class;) length++;
        return length;
    }
    /* Blanks: the last one before a word belongs to that word or stands alone. */
    for (length = 0; length < bytes && byte_class(text[length]) == CLASS_SPACE;) length++;
    return length < bytes && length > 1 ? length - 1 : length;
}

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
static int byte_bpe_encode(const struct tokenizer *tokenizer, const struct segment *segment,
                           struct encoding *encoding) {
    int status = 0;
    const uint8_t *text = (const uint8_t *)segment->text;
    uint32_t short_word[SHORT_WORD];
    void *block = NULL;
    for (size_t at = 0, length; at < segment->bytes; at += length) {
        uint32_t *word = short_word;
        size_t left = 0, begin = segment->origin + at;
        length = word_length(text + at, segment->bytes - at, tokenizer->lower_case);
        if (length > SHORT_WORD) {
            TRY(memory_resize(&block, length, sizeof *word));
            word = block;
        }
        for (size_t i = 0; i < length; i++) word[i] = tokenizer->first[text[at + i]];
        if (length > SHORT_WORD) TRY(merge_long(tokenizer, word, length, &left));
        else left = merge_short(tokenizer, word, length);
        for (size_t i = 0; i < left; i++) {
            size_t end = begin + text_pool_length(&tokenizer->tokens, word[i]);
            TRY(encoding_add(encoding, (int32_t)word[i], begin, end));
            begin = end;
        }
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

int tokenizer_finish(struct tokenizer *tokenizer) {
    int status = 0;
    for (size_t i = 0; i < tokenizer->merge_count; i++) {
        const struct merge *merge = &tokenizer->merges[i];
        uint32_t found;
        TRY(pair_map_add(&tokenizer->ranks, merge->left, merge->right, (uint32_t)i, &found));
        if (found != i) FAIL(E_FORMAT, "merge %zu repeats merge %u", i, found);
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char text = (char)(tokenizer->lower_case ? byte_lower((uint8_t)byte) : byte);
        tokenizer->first[byte] = text_pool_find(&tokenizer->tokens, &text, 1);
        if (tokenizer->first[byte] == MAP_NONE || tokenizer->special[tokenizer->first[byte]])
            FAIL(E_UNSUPPORTED, "the vocabulary has no token for byte 0x%02x", byte);
    }
    tokenizer->names = (struct tokenizer_special){
        .pad = tokenizer_special_id(tokenizer, special_names[0]),
        .cls = tokenizer_special_id(tokenizer, special_names[1]),
        .sep = tokenizer_special_id(tokenizer, special_names[2]),
        .mask = tokenizer_special_id(tokenizer, special_names[3]),
        .unknown = tokenizer_special_id(tokenizer, special_names[4]),
        .begin = -1,
        .end = -1,
    };
out:
    return status;
}
