/* A split's texts as token ids, in parallel.
 *
 * With a tokenizer trained here: [CLS] text [SEP], and a text is encoded with a space in front (Hugging Face's
 * add_prefix_space), so that a word is the same token at the start of a text as elsewhere. With one that was loaded: as
 * its template says. Every text has a slot of max_tokens ids, so the result does not depend on which thread wrote it;
 * the slots are then pushed together. What training reads is in training_examples.c.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "task/example_arrays.h"

#define TEXT_GRAIN 256
enum { PLACE_BYTES = 512 };

struct encoding_job {
    const struct task_text *texts;
    const struct tokenizer *tokenizer;
    struct tokenizer_special special;
    size_t max_tokens;
    int32_t *ids;     /* [count][max_tokens] */
    uint32_t *length; /* [count]; 0: the tokenizer failed */
};

void task_text_place(const struct task_text *texts, size_t item, char *place, size_t size) {
    size_t line = texts->texts_per_line ? item / texts->texts_per_line : item;
    if (texts->path && texts->line) snprintf(place, size, "%s:%u", texts->path, texts->line[line]);
    else if (texts->path) snprintf(place, size, "%s", texts->path);
    else snprintf(place, size, "text %zu of the data", item + 1);
}

int task_encode(const struct tokenizer *tokenizer, const char *text, size_t max_tokens, struct encoding *encoding) {
    int status = 0;
    encoding->count = 0;
    TRY(tokenizer_append(tokenizer, text, strlen(text), true, false, encoding));
    if (encoding->count > max_tokens) {
        int32_t last = encoding->ids[encoding->count - 1];
        encoding->count = max_tokens;
        if (last == tokenizer_special(tokenizer).sep) encoding->ids[max_tokens - 1] = last;
    }
out:
    return status;
}

/* A tokenizer that was trained here spells words with the blank before them and is wrapped by hand. */
static bool trained_here(const struct tokenizer *tokenizer) {
    return tokenizer_kind(tokenizer) == TOKENIZER_BYTE_BPE && tokenizer_special(tokenizer).cls >= 0;
}

static int text_encode_loaded(const struct encoding_job *job, size_t item) {
    int status = 0;
    struct encoding encoding = {0};
    TRY(task_encode(job->tokenizer, job->texts->text[item], job->max_tokens, &encoding));
    memcpy(job->ids + item * job->max_tokens, encoding.ids, encoding.count * sizeof *job->ids);
    if (encoding.count == 0) {
        char place[PLACE_BYTES];
        task_text_place(job->texts, item, place, sizeof place);
        FAIL(E_FORMAT, "%s: the text has no tokens", place);
    }
    job->length[item] = (uint32_t)encoding.count;
out:
    encoding_close(&encoding);
    return status;
}

static int text_encode(const struct encoding_job *encoding, size_t item) {
    int status = 0;
    if (!trained_here(encoding->tokenizer)) return text_encode_loaded(encoding, item);
    size_t used = 0, tokens = 0, closing = encoding->special.sep >= 0;
    int32_t *ids = encoding->ids + item * encoding->max_tokens;
    const char *text = encoding->texts->text[item];
    size_t bytes = strlen(text) + 1;
    char short_text[1024];
    void *block = NULL;
    if (bytes > sizeof short_text) TRY(memory_take(&block, bytes, 1));
    char *spaced = block ? block : short_text;
    spaced[0] = ' ';
    memcpy(spaced + 1, text, bytes - 1);
    if (encoding->special.cls >= 0) ids[used++] = encoding->special.cls;
    size_t room = encoding->max_tokens - used - closing;
    TRY(tokenizer_encode(encoding->tokenizer, spaced, bytes, ids + used, room, &tokens));
    used += tokens < room ? tokens : room;
    if (closing) ids[used++] = encoding->special.sep;
    encoding->length[item] = (uint32_t)used;
out:
    memory_release(block);
    return status;
}

static void texts_encode(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    for (size_t i = begin; i < end; i++)
        if (text_encode(context, i) < 0) ((struct encoding_job *)context)->length[i] = 0;
}

int task_examples_open(struct task_examples *out, const struct task *task, enum task_split split,
                       const struct tokenizer *tokenizer, size_t max_tokens) {
    int status = 0;
    void *block = NULL;
    struct example_arrays *owned;
    memset(out, 0, sizeof *out);
    struct encoding_job encoding = {.texts = &task->split[split],
                                    .tokenizer = tokenizer,
                                    .special = tokenizer_special(tokenizer),
                                    .max_tokens = max_tokens};
    size_t count = encoding.texts->count, slots = 0;
    if (max_tokens < 3) FAIL(E_ARGUMENT, "max_tokens must be at least 3 (got %zu)", max_tokens);
    TRY(size_multiply(count, max_tokens, &slots));
    TRY(example_arrays_open(out, count, slots, &owned));
    encoding.ids = owned->ids;
    encoding.length = owned->offset + 1; /* turned into offsets below */
    parallel_for(count, TEXT_GRAIN, texts_encode, &encoding);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        /* Errors are recorded per thread: meet this one again in ours. */
        if (encoding.length[i] == 0) TRY(text_encode(&encoding, i));
        size_t length = encoding.length[i];
        memmove(encoding.ids + used, encoding.ids + i * max_tokens, length * sizeof(int32_t));
        used += length;
        owned->offset[i + 1] = (uint32_t)used;
    }
    block = owned->ids;
    TRY(memory_resize(&block, used, sizeof(int32_t)));
    owned->ids = block;
    if (encoding.texts->label) {
        TRY(memory_take(&block, count, sizeof(int32_t)));
        owned->label = block;
        memcpy(owned->label, encoding.texts->label, count * sizeof(int32_t));
    }
    example_arrays_view(out, count, owned->label ? task->classes : 0, false);
out:
    if (status < 0) task_examples_close(out);
    return status;
}
