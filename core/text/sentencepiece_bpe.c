/* SentencePiece BPE: characters are merged into the piece of highest score, leftmost first.
 *
 * A merge is any two neighbours whose texts together spell a piece, so the table holds every way to cut a piece into
 * two symbols, ranked by the piece's score. Where no piece has a space symbol behind another character, words do not
 * touch each other and are merged one by one; otherwise the whole text is one row. Unused pieces take part in merging
 * and are cut again at the end, where the pair last seen to spell them touches.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/sentencepiece.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define FROZEN 0x80000000u  /* set in the symbol of a user-defined piece: it merges with nothing */
#define RESEGMENT_DEPTH 100 /* SentencePiece's limit */

/* ---- building ------------------------------------------------------------------------------------- */
struct scored {
    double score;
    uint32_t id;
};

static int compare_scores(const void *a, const void *b) {
    const struct scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* Ranks by id: 0 for the highest score, equal for equal scores. */
static int rank_pieces(const struct tokenizer *tokenizer, uint32_t *ranks) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    size_t count = tokenizer->tokens.count;
    void *block = NULL;
    TRY(memory_take(&block, count, sizeof(struct scored)));
    struct scored *order = block;
    for (uint32_t i = 0; i < count; i++) order[i] = (struct scored){model->pieces[i].score, i};
    qsort(order, count, sizeof *order, compare_scores);
    for (size_t i = 0, rank = 0; i < count; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        ranks[order[i].id] = (uint32_t)rank;
    }
out:
    memory_release(block);
    return status;
}

static bool is_one_character(const char *text, size_t bytes) { return utf8_step(text, bytes) == bytes; }

/* The symbol a text is while merging: a piece that may be spelled, or any character that occurs in one. */
static uint32_t find_symbol(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    uint32_t id = text_pool_find(&tokenizer->tokens, text, bytes);
    bool character = is_one_character(text, bytes);
    if (id != MAP_NONE) return character || piece_type_spelled(model->pieces[id].type) ? id : MAP_NONE;
    if (!character) return MAP_NONE;
    uint32_t index = text_pool_find(&model->characters, text, bytes);
    return index == MAP_NONE ? MAP_NONE : (uint32_t)tokenizer->tokens.count + index;
}

static int add_characters(struct tokenizer *tokenizer, const char *text, size_t bytes) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    for (size_t at = 0, step; at < bytes; at += step) {
        uint32_t index;
        step = utf8_step(text + at, bytes - at);
        if (text_pool_find(&tokenizer->tokens, text + at, step) == MAP_NONE)
            TRY(text_pool_add(&model->characters, text + at, step, &index));
    }
out:
    return status;
}

/* Every cut of a piece into two symbols is a merge. */
static int add_merges(struct tokenizer *tokenizer, uint32_t id, uint32_t rank) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const char *text = text_pool_text(&tokenizer->tokens, id);
    size_t bytes = text_pool_length(&tokenizer->tokens, id);
    for (size_t cut = utf8_step(text, bytes); cut < bytes; cut += utf8_step(text + cut, bytes - cut)) {
        uint32_t left = find_symbol(tokenizer, text, cut), right = find_symbol(tokenizer, text + cut, bytes - cut);
        if (left == MAP_NONE || right == MAP_NONE) continue;
        TRY(merge_table_add(&model->merges, left, right, (struct merge_rule){rank, id}));
    }
out:
    return status;
}

/* Does a space symbol stand behind another character? */
static bool has_inner_space(const char *text, size_t bytes) {
    size_t at = 0;
    while (bytes - at >= SPACE_BYTES && memcmp(text + at, SPACE_SYMBOL, SPACE_BYTES) == 0) at += SPACE_BYTES;
    for (; at + SPACE_BYTES <= bytes; at++)
        if (memcmp(text + at, SPACE_SYMBOL, SPACE_BYTES) == 0) return true;
    return false;
}

int sentencepiece_build_bpe(struct tokenizer *tokenizer) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const struct text_pool *tokens = &tokenizer->tokens;
    void *block = NULL;
    bool listed = model->pipeline != NULL; /* tokenizer.json lists its merges, and their ranks are their places */
    TRY(memory_take(&block, tokens->count, sizeof(uint32_t)));
    uint32_t *ranks = block;
    TRY(rank_pieces(tokenizer, ranks));
    model->split = model->has_unused ? SPLIT_NEVER : SPLIT_BEFORE_RUN;
    for (size_t i = 0; i < tokens->count; i++) {
        if (!piece_type_spelled(model->pieces[i].type)) continue;
        TRY(add_characters(tokenizer, text_pool_text(tokens, i), text_pool_length(tokens, i)));
        if (has_inner_space(text_pool_text(tokens, i), text_pool_length(tokens, i))) model->split = SPLIT_NEVER;
    }
    for (uint32_t i = 0; i < tokens->count && !listed; i++)
        if (piece_type_spelled(model->pieces[i].type)) TRY(add_merges(tokenizer, i, ranks[i]));
    for (int byte = 0; byte < 128; byte++) {
        char character = (char)byte;
        model->ascii[byte] = find_symbol(tokenizer, &character, 1);
    }
out:
    memory_release(block);
    return status;
}

/* ---- segmenting ----------------------------------------------------------------------------------- */
struct bpe_run {
    struct emitter *emitter;
    struct merge_origin *origins; /* by symbol; only for models with unused pieces */
    uint32_t *symbols;
    size_t capacity;
    size_t at; /* in the normalized text: what is before has been emitted */
};

/* The symbol at the start of a text, and its length. */
static uint32_t first_symbol(const struct tokenizer *tokenizer, const char *text, size_t bytes, size_t *step) {
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    uint8_t byte = (uint8_t)*text;
    uint32_t user;
    if (model->user_start[byte] && (*step = piece_trie_longest(&model->user, text, bytes, &user))) return FROZEN | user;
    *step = byte < 0x80 ? 1 : utf8_step(text, bytes);
    return byte < 0x80 ? model->ascii[byte] : find_symbol(tokenizer, text, *step);
}

static size_t symbol_length(const struct bpe_run *run, uint32_t symbol) {
    const struct tokenizer *tokenizer = run->emitter->tokenizer;
    const struct normalized *text = run->emitter->normalized;
    if (symbol == MAP_NONE) return utf8_step(text->text + run->at, text->count - run->at);
    symbol &= ~FROZEN;
    if (symbol < tokenizer->tokens.count) return text_pool_length(&tokenizer->tokens, symbol);
    return text_pool_length(&sentencepiece_of(tokenizer)->characters, symbol - tokenizer->tokens.count);
}

static int emit_symbol(struct bpe_run *run, uint32_t symbol, int depth) {
    int status = 0;
    const struct tokenizer *tokenizer = run->emitter->tokenizer;
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    size_t length = symbol_length(run, symbol);
    uint32_t id = symbol & ~FROZEN;
    bool known = symbol != MAP_NONE && id < tokenizer->tokens.count && piece_type_spelled(model->pieces[id].type);
    if (known && model->pieces[id].type == PIECE_UNUSED && depth <= RESEGMENT_DEPTH) {
        if (run->origins[id].left != MAP_NONE) {
            TRY(emit_symbol(run, run->origins[id].left, depth + 1));
            TRY(emit_symbol(run, run->origins[id].right, depth + 1));
            return 0;
        }
        known = false;
    }
    TRY(emit_piece(run->emitter, run->at, run->at + length, known ? (int32_t)id : -1));
    run->at += length;
out:
    return status;
}

/* Where the word ends that starts at `at`: before the next run of space symbols. */
static size_t word_end(const struct normalized *text, size_t at, size_t end) {
    bool inside = false;
    for (; at < end; at++) {
        bool space = (uint8_t)text->text[at] == 0xE2 && end - at >= SPACE_BYTES &&
                     memcmp(text->text + at, SPACE_SYMBOL, SPACE_BYTES) == 0;
        if (space && inside) break;
        if (space) at += SPACE_BYTES - 1;
        else inside = true;
    }
    return at;
}

static int segment_word(struct bpe_run *run, size_t end) {
    int status = 0;
    const struct tokenizer *tokenizer = run->emitter->tokenizer;
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    const char *text = run->emitter->normalized->text;
    size_t count = 0, left;
    if (end - run->at > run->capacity) {
        void *block = run->symbols;
        TRY(memory_resize(&block, end - run->at, sizeof *run->symbols));
        run->symbols = block;
        run->capacity = end - run->at;
    }
    for (size_t at = run->at, step; at < end; at += step)
        run->symbols[count++] = first_symbol(tokenizer, text + at, end - at, &step);
    if (count > MERGE_SHORT || run->origins) TRY(merge_long(&model->merges, run->symbols, count, run->origins, &left));
    else left = merge_short(&model->merges, run->symbols, count);
    for (size_t i = 0; i < left; i++) TRY(emit_symbol(run, run->symbols[i], 0));
out:
    return status;
}

/* With ignore_merges a stretch that is a token as a whole is that token, also one that stands for a byte (<0x0A>), as
 * in Hugging Face's tokenizers; MAP_NONE: it is none. */
static uint32_t find_whole(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    uint32_t id = model->ignore_merges ? text_pool_find(&tokenizer->tokens, text, bytes) : MAP_NONE;
    if (id == MAP_NONE) return id;
    return piece_type_spelled(model->pieces[id].type) || model->pieces[id].type == PIECE_BYTE ? id : MAP_NONE;
}

int sentencepiece_segment_bpe(struct emitter *emitter, size_t begin, size_t end) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(emitter->tokenizer);
    const struct normalized *text = emitter->normalized;
    struct bpe_run run = {.emitter = emitter, .at = begin};
    void *block = NULL;
    uint32_t whole = find_whole(emitter->tokenizer, text->text + begin, end - begin);
    if (whole != MAP_NONE) {
        TRY(emit_piece(emitter, begin, end, (int32_t)whole));
        goto out;
    }
    if (model->has_unused) {
        size_t count = emitter->tokenizer->tokens.count;
        TRY(memory_take(&block, count, sizeof *run.origins));
        run.origins = block;
        for (size_t i = 0; i < count; i++) run.origins[i].left = MAP_NONE;
    }
    while (run.at < end) TRY(segment_word(&run, model->split == SPLIT_NEVER ? end : word_end(text, run.at, end)));
out:
    memory_release(run.symbols);
    memory_release(run.origins);
    return status;
}
