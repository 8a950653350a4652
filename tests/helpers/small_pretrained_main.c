/* small_pretrained DIR: write into DIR what experiments with pretrained models read: `encoder` (BERT) and `decoder`
 * (Llama), tiny and random but whole Hugging Face folders with a tokenizer, and data: sentiment.tsv and reviews.tsv
 * (labelled, the label can be read off the words), pairs.tsv (scored pairs), story.txt. Same program, same bytes. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/random.h"
#include "model/model.h"
#include "text/tokenizer.h"

enum { SENTENCES = 240, SENTENCE_BYTES = 128, VOCABULARY = 300, POSITIONS = 64 };

static char sentences[SENTENCES][SENTENCE_BYTES];
static int label[SENTENCES];

static void sentences_make(void) {
    static const char *const good[] = {"fine", "warm", "bright"}, *const bad[] = {"dull", "cold", "grey"};
    static const char *const words[] = {"the", "film", "was", "a", "story", "of", "rain", "and", "tea"};
    struct random random;
    random_open(&random, 5, 0);
    for (int i = 0; i < SENTENCES; i++) {
        size_t used = 0, count = 2 + random_below(&random, 5), place = random_below(&random, (uint32_t)count);
        label[i] = (int)random_below(&random, 2);
        for (size_t w = 0; w < count; w++) {
            const char *word =
                w == place ? (label[i] ? good : bad)[random_below(&random, 3)] : words[random_below(&random, 9)];
            used += (size_t)snprintf(sentences[i] + used, SENTENCE_BYTES - used, "%s%s", w ? " " : "", word);
        }
    }
}

static int file_begin(FILE **file, const char *folder, const char *name) {
    int status = 0;
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    *file = fopen(path, "w");
    if (!*file) FAIL(E_IO, "%s: cannot be written", path);
out:
    return status;
}

static int data_write(const char *folder) {
    int status = 0;
    FILE *file = NULL;
    /* As in GLUE's SST-2, the columns of the two files have other names. */
    for (int test = 0; test < 2; test++) {
        TRY(file_begin(&file, folder, test ? "reviews.tsv" : "sentiment.tsv"));
        fputs(test ? "label\tcontent\n" : "label\tsentence\n", file);
        for (int i = test ? 2 * SENTENCES / 3 : 0; i < (test ? SENTENCES : 2 * SENTENCES / 3); i++)
            fprintf(file, "%d\t%s\n", label[i], sentences[i]);
        fclose(file);
    }
    TRY(file_begin(&file, folder, "pairs.tsv"));
    fputs("first\tsecond\tscore\n", file);
    for (int i = 0; i + 1 < SENTENCES; i += 2)
        fprintf(file, "%s\t%s\t%d.%d\n", sentences[i], sentences[i + 1], label[i] == label[i + 1] ? 4 : 1, i % 10);
    fclose(file);
    TRY(file_begin(&file, folder, "story.txt"));
    for (int i = 0; i < SENTENCES; i++) fprintf(file, "%s.\n", sentences[i]);
    fclose(file);
out:
    return status;
}

static int model_write(const char *folder, const char *name, const char *family, const struct tokenizer *tokenizer) {
    int status = 0;
    char path[4200], file[4300];
    struct model model = {0};
    struct model_config config;
    TRY(model_config_family(&config, family));
    config.layers = 2, config.width = 64, config.heads = config.key_value_heads = 4, config.head_width = 16;
    config.feed_forward = 128, config.vocabulary = tokenizer_vocabulary(tokenizer), config.positions = POSITIONS;
    config.model_heads = config.causal ? HEAD_CAUSAL_LM : 0;
    TRY(model_create(&model, &config, 3, 0.2));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    TRY(model_save_huggingface(&model, path, false));
    snprintf(file, sizeof file, "%s/tokenizer.json", path);
    TRY(tokenizer_save(tokenizer, file));
out:
    model_close(&model);
    return status;
}

int main(int argc, char **argv) {
    int status = 0;
    const char *views[SENTENCES];
    struct tokenizer *tokenizer = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: small_pretrained DIR\n");
        return 2;
    }
    mkdir(argv[1], 0777);
    sentences_make();
    for (int i = 0; i < SENTENCES; i++) views[i] = sentences[i];
    TRY(tokenizer_train_bpe(&tokenizer, views, SENTENCES, VOCABULARY, true));
    TRY(data_write(argv[1]));
    TRY(model_write(argv[1], "encoder", "bert", tokenizer));
    TRY(model_write(argv[1], "decoder", "llama", tokenizer));
out:
    tokenizer_free(tokenizer);
    if (status < 0) fprintf(stderr, "small_pretrained: %s\n", error_text());
    return status < 0;
}
