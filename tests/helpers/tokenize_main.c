/* Tokenize texts for comparison with other libraries: tokenize FILE reads texts from standard input, each a decimal
 * byte count, a newline and that many bytes, and prints a line for each: ids, then "|" and begin-end of each in bytes,
 * then "|" and the decoded text in hexadecimal. --special adds special tokens, --literal looks for none in the text,
 * --time FILE TEXT prints only the MB/s of encoding TEXT's lines (fastest of ten passes). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "text/tokenizer.h"

static int print_text(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool special, bool literal) {
    int status = 0;
    struct encoding encoding = {.with_offsets = true};
    char *decoded = NULL;
    TRY(tokenizer_append(tokenizer, text, bytes, special, literal, &encoding));
    for (size_t i = 0; i < encoding.count; i++) printf(" %d", (int)encoding.ids[i]);
    printf(" |");
    for (size_t i = 0; i < encoding.count; i++) printf(" %u-%u", encoding.begin[i], encoding.end[i]);
    printf(" | ");
    TRY(tokenizer_decode(tokenizer, encoding.ids, encoding.count, &decoded));
    for (const char *at = decoded; *at; at++) printf("%02x", (unsigned)(unsigned char)*at);
    printf("\n");
out:
    memory_release(decoded);
    encoding_close(&encoding);
    return status;
}

static int print_texts(const struct tokenizer *tokenizer, bool special, bool literal) {
    int status = 0;
    char *text = NULL;
    size_t bytes;
    while (scanf("%zu", &bytes) == 1) {
        text = malloc(bytes + 1);
        if (!text || getchar() != '\n' || fread(text, 1, bytes, stdin) != bytes)
            FAIL(E_FORMAT, "a text of %zu bytes is cut short", bytes);
        TRY(print_text(tokenizer, text, bytes, special, literal));
        free(text);
        text = NULL;
    }
out:
    free(text);
    return status;
}

static int encode_lines(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct encoding *encoding) {
    int status = 0;
    encoding->count = 0;
    for (const char *line = text, *end = text + bytes; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        TRY(tokenizer_append(tokenizer, line, (size_t)(stop - line), false, true, encoding));
        line = stop + 1;
    }
out:
    return status;
}

static int print_speed(const struct tokenizer *tokenizer, const char *path) {
    int status = 0;
    struct encoding encoding = {0};
    char *text = NULL;
    size_t bytes;
    double fastest = 0;
    TRY(file_read(path, 1u << 30, &text, &bytes));
    for (int pass = 0; pass < 10; pass++) {
        struct timespec from, to;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        TRY(encode_lines(tokenizer, text, bytes, &encoding));
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
        if (seconds > 0 && (double)bytes / seconds > fastest) fastest = (double)bytes / seconds;
    }
    printf("%.1f MB/s, %zu ids of %zu bytes\n", fastest / 1e6, encoding.count, bytes);
out:
    encoding_close(&encoding);
    memory_release(text);
    return status;
}

int main(int argc, char **argv) {
    struct tokenizer *tokenizer = NULL;
    bool special = false, literal = false, timed = false;
    const char *names[2] = {NULL, NULL};
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--special") == 0) special = true;
        else if (strcmp(argv[i], "--literal") == 0) literal = true;
        else if (strcmp(argv[i], "--time") == 0) timed = true;
        else if (count < 2) names[count++] = argv[i];
    }
    if (count != 1 + timed) {
        fprintf(stderr, "tokenize_main [--special] [--literal] FILE, or --time FILE TEXT\n");
        return 2;
    }
    int status = tokenizer_open(&tokenizer, names[0]);
    if (status == 0) status = timed ? print_speed(tokenizer, names[1]) : print_texts(tokenizer, special, literal);
    if (status < 0) fprintf(stderr, "%s: %s\n", names[0], error_text());
    tokenizer_free(tokenizer);
    return status < 0;
}
