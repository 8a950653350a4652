/* SentencePiece Unigram (Kudo 2018): the segmentation of highest total score, found by one pass over the text.
 *
 * best[p] is the best path that ends at byte p. From each character's start the trie yields the pieces that begin
 * there, and each offers its end a path; a character that is no piece offers the unknown token, ten below the lowest
 * score. All paths meet where no piece reaches beyond the current place, in English at nearly every space: what lies
 * before is emitted there and forgotten, so that the memory is that of a word. Sums are rounded to float as
 * SentencePiece rounds them: two segmentations of nearly equal score must tie the same way.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/sentencepiece.h"
#include "text/utf8.h"

#include <float.h>
#include <math.h>

#define UNKNOWN_PENALTY 10.0
#define SCORE_RESET                                                                                                    \
    100000.0f /* beyond this the sums start anew, as SentencePiece 0.2.3 does, to keep their precision */

/* A sum of two floats in double, rounded to float, is their sum in float. */
static double total(const struct sentencepiece *model, double score, double before) {
    return model->double_scores ? score + before : (double)(float)(score + before);
}

int sentencepiece_build_unigram(struct tokenizer *tokenizer) {
    int status = 0;
    struct sentencepiece *model = sentencepiece_of(tokenizer);
    const struct text_pool *tokens = &tokenizer->tokens;
    void *block = NULL;
    size_t count = 0;
    double lowest = (double)FLT_MAX;
    TRY(memory_take(&block, tokens->count, sizeof(struct trie_string)));
    struct trie_string *strings = block;
    for (uint32_t i = 0; i < tokens->count; i++) {
        uint8_t type = model->pieces[i].type;
        bool any = model->double_scores && type != PIECE_UNUSED; /* Hugging Face looks up all, the unknown one, too */
        if ((any || type == PIECE_NORMAL) && model->pieces[i].score < lowest) lowest = model->pieces[i].score;
        if (!any && type != PIECE_NORMAL && type != PIECE_USER) continue;
        strings[count++] = (struct trie_string){text_pool_text(tokens, i), (uint32_t)text_pool_length(tokens, i), i};
    }
    TRY(piece_trie_build(&model->trie, strings, count));
    model->unknown_score = total(model, lowest, -UNKNOWN_PENALTY);
out:
    memory_release(block);
    return status;
}

struct path {
    double score;
    uint32_t length; /* of the last token; 0: no path ends here */
    int32_t id;      /* of the last token; -1: unknown */
    uint32_t next;   /* while emitting: length of the token that follows */
};
struct viterbi {
    struct emitter *emitter;
    struct path *best; /* of the places begin .. begin+capacity-1 */
    size_t capacity;
    size_t end;             /* of the text */
    size_t begin, frontier; /* all paths pass through begin; none reaches beyond frontier */
};

static int offer(struct viterbi *viterbi, size_t from, size_t to, double score, int32_t id) {
    int status = 0;
    size_t place = to - viterbi->begin;
    if (place >= viterbi->capacity) {
        void *block = viterbi->best;
        size_t capacity = 2 * viterbi->capacity + place + 64;
        TRY(memory_resize(&block, capacity, sizeof *viterbi->best));
        viterbi->best = block;
        viterbi->capacity = capacity;
    }
    for (; viterbi->frontier < to; viterbi->frontier++)
        viterbi->best[viterbi->frontier + 1 - viterbi->begin].length = 0;
    struct path *path = &viterbi->best[place];
    if (!path->length || score > path->score)
        *path = (struct path){.score = score, .length = (uint32_t)(to - from), .id = id};
out:
    return status;
}

/* All pieces that start here, and the unknown token where none is a single character. */
static int offer_pieces(struct viterbi *viterbi, const struct sentencepiece *model, size_t at, size_t step) {
    int status = 0;
    const struct normalized *text = viterbi->emitter->normalized;
    double before = viterbi->best[at - viterbi->begin].score;
    bool single = false;
    uint32_t node = 0;
    for (size_t to = at; to < viterbi->end && model->trie.count;) {
        node = piece_trie_step(&model->trie, node, (uint8_t)text->text[to++]);
        if (node == TRIE_NONE) break;
        uint32_t id = model->trie.units[node].value;
        if (id == TRIE_NONE) continue;
        bool user = model->pieces[id].type == PIECE_USER;
        double score = user ? (double)(float)(0.1 * (double)(to - at - 1)) : model->pieces[id].score;
        TRY(offer(viterbi, at, to, total(model, score, before), (int32_t)id));
        single |= to - at == step;
    }
    if (!single) TRY(offer(viterbi, at, at + step, total(model, model->unknown_score, before), -1));
out:
    return status;
}

static void reset_scores(struct viterbi *viterbi, size_t at) {
    double score = viterbi->best[at - viterbi->begin].score;
    if (score >= -SCORE_RESET && score <= SCORE_RESET) return;
    for (size_t i = at; i <= viterbi->frontier; i++)
        viterbi->best[i - viterbi->begin].score = (double)(float)(viterbi->best[i - viterbi->begin].score - score);
}

/* Emit the path from begin to frontier, and begin anew there. */
static int emit_path(struct viterbi *viterbi) {
    int status = 0;
    struct path *best = viterbi->best;
    size_t place = viterbi->frontier - viterbi->begin, end = place;
    double score = best[place].score;
    while (place) {
        size_t before = place - best[place].length;
        best[before].next = best[place].length;
        place = before;
    }
    while (place < end) {
        size_t after = place + best[place].next;
        TRY(emit_piece(viterbi->emitter, viterbi->begin + place, viterbi->begin + after, best[after].id));
        place = after;
    }
    viterbi->begin = viterbi->frontier;
    best[0].score = score;
out:
    return status;
}

int sentencepiece_segment_unigram(struct emitter *emitter, size_t begin, size_t end) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(emitter->tokenizer);
    const struct normalized *text = emitter->normalized;
    struct viterbi viterbi = {.emitter = emitter, .capacity = 256, .end = end, .begin = begin, .frontier = begin};
    void *block = NULL;
    TRY(memory_take(&block, viterbi.capacity, sizeof *viterbi.best));
    viterbi.best = block;
    for (size_t at = begin; at < end;) {
        size_t step = utf8_step(text->text + at, end - at);
        if (!model->double_scores) reset_scores(&viterbi, at);
        TRY(offer_pieces(&viterbi, model, at, step));
        at += step;
        if (viterbi.frontier == at) TRY(emit_path(&viterbi));
    }
out:
    memory_release(viterbi.best);
    return status;
}
