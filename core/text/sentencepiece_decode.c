/* SentencePiece's decoding: pieces end to end, space symbols to blanks, byte pieces to characters (U+FFFD for bytes
 * that are none), and the space in front dropped that encoding put there.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/sentencepiece.h"
#include "text/utf8.h"

#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"
#define REPLACEMENT_BYTES 3

struct output {
    char *text;
    size_t count, capacity;
};

static int put(struct output *output, const char *text, size_t bytes) {
    int status = 0;
    if (output->capacity - output->count <= bytes) { /* a zero fits behind */
        void *block = output->text;
        size_t capacity = 2 * output->capacity + bytes + 64;
        TRY(memory_resize(&block, capacity, 1));
        output->text = block;
        output->capacity = capacity;
    }
    memcpy(output->text + output->count, text, bytes);
    output->count += bytes;
out:
    return status;
}

/* The text with `blank` in the place of space symbols. */
static int put_piece(struct output *output, const char *text, size_t bytes, const char *blank) {
    int status = 0;
    for (size_t at = 0, step; at < bytes; at += step) {
        step = 1;
        if (bytes - at >= SPACE_BYTES && memcmp(text + at, SPACE_SYMBOL, SPACE_BYTES) == 0) {
            step = SPACE_BYTES;
            TRY(put(output, blank, strlen(blank)));
            continue;
        }
        TRY(put(output, text + at, 1));
    }
out:
    return status;
}

/* A run of byte pieces that ends before ids[end]; it starts at ids[begin]. */
static int put_bytes(const struct tokenizer *tokenizer, const int32_t *ids, size_t begin, size_t end,
                     struct output *output) {
    int status = 0;
    while (begin < end) {
        char bytes[4] = {0};
        size_t count = end - begin < sizeof bytes ? end - begin : sizeof bytes;
        for (size_t i = 0; i < count; i++) {
            const char *digits = text_pool_text(&tokenizer->tokens, (size_t)ids[begin + i]) + 3; /* <0x1F> */
            unsigned high = (unsigned)(digits[0] <= '9' ? digits[0] - '0' : digits[0] - 'A' + 10);
            unsigned low = (unsigned)(digits[1] <= '9' ? digits[1] - '0' : digits[1] - 'A' + 10);
            bytes[i] = (char)(high << 4 | low);
        }
        size_t length = utf8_valid_length(bytes, count);
        TRY(length ? put(output, bytes, length) : put(output, REPLACEMENT, REPLACEMENT_BYTES));
        begin += length ? length : 1;
    }
out:
    return status;
}

/* As Hugging Face's ByteFallback: a run of byte tokens is text only when all of it is. */
static int put_bytes_whole(const struct tokenizer *tokenizer, const int32_t *ids, size_t begin, size_t end,
                           struct output *output) {
    int status = 0;
    size_t from = output->count, at;
    TRY(put_bytes(tokenizer, ids, begin, end, output));
    if (output->count - from == end - begin) goto out; /* no U+FFFD has taken one byte's place */
    for (at = begin, output->count = from; at < end; at++) TRY(put(output, REPLACEMENT, REPLACEMENT_BYTES));
out:
    return status;
}

/* Special tokens dropped, space symbols to blanks, and what the decoder drops in front. */
static int decode_pipeline(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, struct output *output) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    bool first = true;
    for (size_t i = 0, next; i < count; i = next) {
        const char *piece = text_pool_text(&tokenizer->tokens, (size_t)ids[i]);
        size_t bytes = text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
        next = i + 1;
        if (tokenizer->special[ids[i]]) continue;
        if (model->pieces[ids[i]].type == PIECE_BYTE && model->pipeline->decode_bytes) {
            while (next < count && model->pieces[ids[next]].type == PIECE_BYTE) next++;
            TRY(put_bytes_whole(tokenizer, ids, i, next, output));
        } else {
            bool drop = first && model->pipeline->strip == STRIP_FIRST_TOKEN;
            TRY(put_piece(output, piece, bytes, drop ? "" : " "));
        }
        first = false;
    }
    if (model->pipeline->strip == STRIP_ONE_BLANK && output->count && *output->text == ' ')
        memmove(output->text, output->text + 1, --output->count);
out:
    return status;
}

/* SentencePiece's own way. */
static int decode_plain(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, struct output *output) {
    int status = 0;
    const struct sentencepiece *model = sentencepiece_of(tokenizer);
    bool at_start = model->add_dummy_prefix || model->remove_extra_spaces; /* a space would be the one in front */
    size_t bytes_from = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t type = model->pieces[ids[i]].type;
        const char *piece = text_pool_text(&tokenizer->tokens, (size_t)ids[i]);
        size_t bytes = text_pool_length(&tokenizer->tokens, (size_t)ids[i]);
        if (type == PIECE_BYTE) continue;
        TRY(put_bytes(tokenizer, ids, bytes_from, i, output));
        bytes_from = i + 1;
        if (output->count) at_start = false;
        if (type == PIECE_CONTROL) continue;
        if (type == PIECE_UNKNOWN) {
            TRY(put(output, model->unknown_surface, strlen(model->unknown_surface)));
            continue;
        }
        if (at_start && bytes >= SPACE_BYTES && memcmp(piece, SPACE_SYMBOL, SPACE_BYTES) == 0) {
            piece += SPACE_BYTES;
            bytes -= SPACE_BYTES;
            at_start = model->remove_extra_spaces; /* then all spaces in front go */
        }
        TRY(put_piece(output, piece, bytes, " "));
    }
    TRY(put_bytes(tokenizer, ids, bytes_from, count, output));
out:
    return status;
}

int sentencepiece_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                         size_t *bytes) {
    int status = 0;
    struct output output = {0};
    if (sentencepiece_of(tokenizer)->pipeline) TRY(decode_pipeline(tokenizer, ids, count, &output));
    else TRY(decode_plain(tokenizer, ids, count, &output));
    TRY(put(&output, "", 1));
    *text = output.text;
    *bytes = output.count - 1;
    output.text = NULL;
out:
    memory_release(output.text);
    return status;
}
