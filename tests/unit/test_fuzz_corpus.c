/* The fuzz targets over their seed corpora, and over each seed with every byte changed once: what libFuzzer
 * found stays found, on machines without it. Runs from the repository's root, as `make test` does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#define LLVMFuzzerTestOneInput fuzz_json
#include "../fuzz/fuzz_json.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "../fuzz/fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_sentencepiece
#include "../fuzz/fuzz_sentencepiece.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_tokenizer
#include "../fuzz/fuzz_tokenizer.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_words
#include "../fuzz/fuzz_words.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_gguf
#include "../fuzz/fuzz_gguf.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_llama2c
#include "../fuzz/fuzz_llama2c.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_index
#include "../fuzz/fuzz_index.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_config
#include "../fuzz/fuzz_config.c"
#undef LLVMFuzzerTestOneInput

typedef int fuzz_target(const uint8_t *data, size_t size);

#define MUTATED_MAX 1024 /* larger seeds are only replayed */

static void replay_file(const char *name, fuzz_target *target) {
    static uint8_t bytes[1 << 16];
    FILE *file = fopen(name, "rb");
    assert_non_null(file);
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_true(count < sizeof bytes);
    target(bytes, count);
    for (size_t i = 0; i < count && count <= MUTATED_MAX; i++) {
        static const uint8_t change[] = {0x01, 0x20, 0x80, 0xff};
        for (size_t k = 0; k < sizeof change; k++) {
            bytes[i] ^= change[k];
            target(bytes, count);
            bytes[i] ^= change[k];
        }
        target(bytes, i);
    }
}

static void replay_folder(const char *folder, fuzz_target *target) {
    DIR *entries = opendir(folder);
    int count = 0;
    if (!entries) fail_msg("%s is missing: run from the repository's root", folder);
    for (const struct dirent *entry; (entry = readdir(entries));) {
        char name[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        replay_file(name, target);
        count++;
    }
    closedir(entries);
    assert_true(count > 0);
}

static void json_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_json", fuzz_json);
}

static void safetensors_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_safetensors", fuzz_safetensors);
}

static void sentencepiece_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_sentencepiece", fuzz_sentencepiece);
}

static void tokenizer_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_tokenizer", fuzz_tokenizer);
}

static void gguf_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_gguf", fuzz_gguf);
}

static void llama2c_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_llama2c", fuzz_llama2c);
}

static void index_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_index", fuzz_index);
}

static void config_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_config", fuzz_config);
}

static void words_corpus(void **state) {
    (void)state;
    replay_folder("tests/fuzz/corpus_words", fuzz_words);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_corpus),          cmocka_unit_test(gguf_corpus),
        cmocka_unit_test(llama2c_corpus),       cmocka_unit_test(index_corpus),
        cmocka_unit_test(config_corpus),        cmocka_unit_test(safetensors_corpus),
        cmocka_unit_test(sentencepiece_corpus), cmocka_unit_test(tokenizer_corpus),
        cmocka_unit_test(words_corpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
