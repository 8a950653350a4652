/* Tiny SentencePiece models made by tests: a writer of the ModelProto message, and of precompiled rules. */
#ifndef SENTENCEPIECE_WRITER_H
#define SENTENCEPIECE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIECES_MAX 512

enum { WRITER_UNIGRAM = 1, WRITER_BPE = 2, WRITER_WORD = 3, WRITER_CHAR = 4 };

struct sentencepiece_writer {
    struct {
        const char *text;
        float score;
        int type; /* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte */
    } pieces[PIECES_MAX];
    size_t count;
    int model_type;
    bool byte_fallback, no_dummy_prefix, keep_spaces, space_as_suffix;
    const void *charsmap;
    size_t charsmap_bytes;
};

/* <unk>, <s>, </s>, and <0x00> to <0xFF> when the writer has byte_fallback. */
void writer_add_usual(struct sentencepiece_writer *writer);
void writer_add(struct sentencepiece_writer *writer, const char *text, float score, int type);
/* The file's bytes; free() them. */
uint8_t *writer_print(const struct sentencepiece_writer *writer, size_t *bytes);

/* Precompiled rules from -> to, `count` pairs of strings; free() the blob. */
uint8_t *writer_charsmap(const char *const (*rules)[2], size_t count, size_t *bytes);

#endif
