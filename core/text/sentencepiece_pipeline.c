/* The pipeline of a tokenizer.json around a SentencePiece model: normalizers, pre-tokenizers, and words one by one.
 *
 * It differs from SentencePiece's own normalization in small ways that change ids. Precompiled rules are asked for
 * whole grapheme clusters of up to five bytes first (here: a character with the combining ones behind it, and CR LF),
 * take the shortest rule, and replace the cluster by it; only then for single characters. Words are segmented apart.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/sentencepiece.h"
#include "text/unicode.h"
#include "text/utf8.h"

#include <string.h>

#define CLUSTER_BYTES_MAX 5

struct stage {
    struct normalized from, to;
};

static int put_text(struct normalized *to, const char *text, size_t bytes, size_t origin) {
    int status = 0;
    TRY(normalized_reserve(to, bytes));
    for (size_t i = 0; i < bytes; i++) normalized_put(to, text[i], origin);
out:
    return status;
}

/* The same bytes with their origins. */
static int put_same(struct normalized *to, const struct normalized *from, size_t begin, size_t end) {
    int status = 0;
    TRY(normalized_reserve(to, end - begin));
    for (size_t i = begin; i < end; i++) normalized_put(to, from->text[i], from->with_origin ? from->origin[i] : 0);
out:
    return status;
}

static size_t origin_at(const struct normalized *text, size_t at) { return text->with_origin ? text->origin[at] : 0; }

/* The result becomes the input of the next step. */
static void finish_step(struct stage *stage, size_t end) {
    struct normalized swap = stage->from;
    if (stage->to.with_origin) stage->to.origin[stage->to.count] = (uint32_t)end;
    stage->from = stage->to;
    stage->to = swap;
    stage->to.count = 0;
}

static int take_valid(struct stage *stage, const struct segment *segment) {
    int status = 0;
    for (size_t at = 0, step; at < segment->bytes; at += step) {
        step = utf8_valid_length(segment->text + at, segment->bytes - at);
        if (step) TRY(put_text(&stage->to, segment->text + at, step, at));
        else TRY(put_text(&stage->to, "\xEF\xBF\xBD", 3, at));
        step += !step;
    }
    TRY(normalized_reserve(&stage->to, 0));
    finish_step(stage, segment->bytes);
out:
    return status;
}

/* ---- normalizers ---------------------------------------------------------------------------------- */
static bool extends_cluster(const char *text, size_t bytes, size_t *step) {
    uint32_t code;
    *step = utf8_decode((const uint8_t *)text, bytes, &code);
    enum unicode_category category = unicode_category(code);
    return category == UNICODE_MN || category == UNICODE_MC || category == UNICODE_ME || code == 0x200C ||
           code == 0x200D;
}

static size_t cluster_length(const char *text, size_t bytes) {
    size_t length = utf8_step(text, bytes), step;
    if (bytes > 1 && text[0] == '\r' && text[1] == '\n') return 2;
    if ((uint8_t)text[0] < ' ') return length; /* nothing extends a control character */
    while (length < bytes && (uint8_t)text[length] >= 0x80 && extends_cluster(text + length, bytes - length, &step))
        length += step;
    return length;
}

static int apply_rules(const struct charsmap *rules, struct stage *stage) {
    int status = 0;
    const struct normalized *from = &stage->from;
    for (size_t at = 0, cluster; at < from->count; at += cluster) {
        const char *text = from->text + at;
        size_t used, inside;
        bool alone = at + 1 == from->count || (uint8_t)text[1] < 0x80;
        if ((uint8_t)*text < 0x80 && rules->plain[(uint8_t)*text] && alone) { /* most of English */
            cluster = 1;
            TRY(put_same(&stage->to, from, at, at + 1));
            continue;
        }
        cluster = cluster_length(text, from->count - at);
        const char *rule = cluster <= CLUSTER_BYTES_MAX ? charsmap_find(rules, text, cluster, true, &used) : NULL;
        if (rule) {
            TRY(put_text(&stage->to, rule, strlen(rule), origin_at(from, at)));
            continue;
        }
        for (size_t k = 0; k < cluster; k += inside) {
            inside = utf8_step(text + k, cluster - k);
            rule = charsmap_find(rules, text + k, inside, true, &used);
            if (rule) TRY(put_text(&stage->to, rule, strlen(rule), origin_at(from, at + k)));
            else TRY(put_same(&stage->to, from, at + k, at + k + inside));
        }
    }
    TRY(normalized_reserve(&stage->to, 0));
    finish_step(stage, origin_at(from, from->count));
out:
    return status;
}

/* Runs of `least` blanks or more become `by`. */
static int replace_blanks(struct stage *stage, size_t least, const char *by) {
    int status = 0;
    const struct normalized *from = &stage->from;
    for (size_t at = 0, run; at < from->count; at += run) {
        for (run = 0; at + run < from->count && from->text[at + run] == ' ' && (least > 1 || run == 0);) run++;
        if (run && run >= least) {
            TRY(put_text(&stage->to, by, strlen(by), origin_at(from, at)));
        } else {
            run = 1;
            TRY(put_same(&stage->to, from, at, at + 1));
        }
    }
    TRY(normalized_reserve(&stage->to, 0));
    finish_step(stage, origin_at(from, from->count));
out:
    return status;
}

static size_t space_at(const struct normalized *text, size_t at, size_t end) {
    uint32_t code;
    size_t step = utf8_decode((const uint8_t *)text->text + at, end - at, &code);
    return unicode_is_space(code) ? step : 0;
}

static int strip_ends(struct stage *stage, bool left) {
    int status = 0;
    const struct normalized *from = &stage->from;
    size_t begin = 0, end = from->count, step;
    while (left && begin < end && (step = space_at(from, begin, end))) begin += step;
    while (!left && end > begin) {
        size_t last = end - 1;
        while (last > begin && ((uint8_t)from->text[last] & 0xC0) == 0x80) last--;
        if (!space_at(from, last, end)) break;
        end = last;
    }
    TRY(put_same(&stage->to, from, begin, end));
    finish_step(stage, origin_at(from, end));
out:
    return status;
}

static int prepend_symbol(struct stage *stage) {
    int status = 0;
    const struct normalized *from = &stage->from;
    if (!from->count) return 0;
    TRY(put_text(&stage->to, SPACE_SYMBOL, SPACE_BYTES, origin_at(from, 0)));
    TRY(put_same(&stage->to, from, 0, from->count));
    finish_step(stage, origin_at(from, from->count));
out:
    return status;
}

static int apply_step(const struct sentencepiece *model, enum text_step step, struct stage *stage) {
    switch (step) {
    case STEP_RULES: return apply_rules(&model->charsmap, stage);
    case STEP_PREPEND: return prepend_symbol(stage);
    case STEP_SPACES: return replace_blanks(stage, 1, SPACE_SYMBOL);
    case STEP_COLLAPSE_BLANK: return replace_blanks(stage, 2, " ");
    case STEP_COLLAPSE_SYMBOL: return replace_blanks(stage, 2, SPACE_SYMBOL);
    case STEP_STRIP_LEFT: return strip_ends(stage, true);
    case STEP_STRIP_RIGHT: return strip_ends(stage, false);
    }
    return 0;
}

/* ---- words ---------------------------------------------------------------------------------------- */
static bool symbol_at(const struct normalized *text, size_t at, size_t end) {
    return end - at >= SPACE_BYTES && memcmp(text->text + at, SPACE_SYMBOL, SPACE_BYTES) == 0;
}

static int segment_range(struct emitter *emitter, size_t begin, size_t end) {
    if (begin == end) return 0;
    emitter->after_unknown = false;
    if (emitter->tokenizer->kind == TOKENIZER_SENTENCE_BPE) return sentencepiece_segment_bpe(emitter, begin, end);
    return sentencepiece_segment_unigram(emitter, begin, end);
}

/* Metaspace on bytes begin .. end-1 of stage->from: blanks are space symbols, one in front unless there is one. */
static int segment_metaspace(struct emitter *emitter, struct stage *stage, size_t begin, size_t end) {
    int status = 0;
    const struct text_pipeline *pipeline = sentencepiece_of(emitter->tokenizer)->pipeline;
    const struct normalized *from = &stage->from;
    struct normalized *word = &stage->to;
    bool wants =
        pipeline->prefix == PREFIX_ALWAYS || (pipeline->prefix == PREFIX_FIRST && begin == 0 && emitter->origin == 0);
    bool has = begin < end && (from->text[begin] == ' ' || symbol_at(from, begin, end));
    word->count = 0;
    if (wants && !has) TRY(put_text(word, SPACE_SYMBOL, SPACE_BYTES, origin_at(from, begin)));
    for (size_t at = begin; at < end; at++) {
        if (from->text[at] == ' ') TRY(put_text(word, SPACE_SYMBOL, SPACE_BYTES, origin_at(from, at)));
        else TRY(put_same(word, from, at, at + 1));
    }
    TRY(normalized_reserve(word, 0));
    if (word->with_origin) word->origin[word->count] = (uint32_t)origin_at(from, end);
    emitter->normalized = word;
    size_t start = 0;
    for (size_t at = 1; at < word->count && pipeline->metaspace_split; at++) {
        if (!symbol_at(word, at, word->count)) continue;
        TRY(segment_range(emitter, start, at));
        start = at;
    }
    TRY(segment_range(emitter, start, word->count));
out:
    return status;
}

static int segment_text(struct emitter *emitter, struct stage *stage) {
    int status = 0;
    const struct text_pipeline *pipeline = sentencepiece_of(emitter->tokenizer)->pipeline;
    const struct normalized *text = &stage->from;
    if (!pipeline->metaspace) {
        emitter->normalized = text;
        return segment_range(emitter, 0, text->count);
    }
    if (!pipeline->whitespace_split) return text->count ? segment_metaspace(emitter, stage, 0, text->count) : 0;
    for (size_t at = 0, step; at < text->count;) {
        size_t begin = at;
        if ((step = space_at(text, at, text->count))) {
            at += step;
            continue;
        }
        while (at < text->count && !space_at(text, at, text->count)) at += utf8_step(text->text + at, text->count - at);
        TRY(segment_metaspace(emitter, stage, begin, at));
    }
out:
    return status;
}

int pipeline_encode(struct emitter *emitter, const struct segment *segment) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(emitter->tokenizer);
    bool offsets = emitter->encoding->with_offsets;
    struct stage stage = {.from.with_origin = offsets, .to.with_origin = offsets};
    TRY(take_valid(&stage, segment));
    for (size_t i = 0; i < model->pipeline->step_count; i++) TRY(apply_step(model, model->pipeline->steps[i], &stage));
    TRY(segment_text(emitter, &stage));
out:
    normalized_close(&stage.from);
    normalized_close(&stage.to);
    return status;
}
