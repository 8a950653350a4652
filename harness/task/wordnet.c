/* WordNet's glosses as a classification task: definition -> lexicographer class.
 *
 * Reads the four data files of Debian's wordnet-base (format: wndb(5WN)). Items are the noun synsets of
 * the eight large classes; the text is the gloss without its quoted examples. An item's split follows from
 * the SHA-256 of its synset id alone ("n00001740"; first 8 bytes, big endian, mod 10: 8 validation, 9 test,
 * else train), so it never moves. The unlabelled split holds the definitions of every synset of all four
 * files except those of validation and test items. Different synsets may share their definition, word for
 * word ("a variety of aster"; 83 of 5,708 test items of WordNet 3.0 repeat a training item): validation and
 * test items whose text is a training item's are dropped, and the unlabelled split leaves out whatever text a
 * remaining one has, so neither fine-tuning nor masked-LM training ever sees a text that is scored.
 * max_train keeps the training items with the smallest second 8 bytes of the same hash.
 * data_hash covers the bytes of the files and max_train, so that results of a subset are never mixed up.
 */
#include "task/wordnet.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"

#define FILE_LIMIT_BYTES ((size_t)1 << 30) /* a WordNet data file has 15 MB */
#define CLASSES 8

static const char *const class_names[CLASSES] = {"act",      "animal", "artifact", "communication",
                                                 "location", "person", "plant",    "state"};
/* wnlexnames.h: the lexicographer file of each class. */
static const int class_file[CLASSES] = {4, 5, 6, 10, 15, 18, 20, 26};

struct wordnet_options {
    const char *data;
    int64_t max_train;
};
static const struct option wordnet_options[] = {
    {"data", OPTION_TEXT, "/usr/share/wordnet", 0, 0, NULL, NULL,
     "folder with data.noun, data.verb, data.adj, data.adv", offsetof(struct wordnet_options, data)},
    {"max_train", OPTION_INTEGER, "0", 0, 1e9, NULL, "items", "train on this many items only, chosen by hash; 0: all",
     offsetof(struct wordnet_options, max_train)},
    OPTION_END};

struct gloss {
    size_t text;   /* byte position in the text block */
    uint64_t rank; /* second 8 bytes of the id's hash */
    int8_t label;  /* class, or -1 */
    int8_t split;  /* enum task_split of a labelled gloss */
    bool dropped;  /* held-out text that training knows, or unlabelled text that is held out */
};

/* What a task owns, and what reading grows. */
struct wordnet {
    char *text;
    size_t text_bytes, text_capacity;
    struct gloss *glosses;
    size_t count, capacity;
    const char **texts[SPLITS];
    int32_t *labels[SPLITS];
};

/* The definition: the parts of a gloss between semicolons that do not open with a quotation mark. Writes at
 * most 2*bytes and a zero ("a;b" becomes "a; b"); returns the length. */
static size_t definition_copy(const char *gloss, size_t bytes, char *out) {
    size_t length = 0, begin = 0;
    while (begin < bytes) {
        while (begin < bytes && gloss[begin] == ' ') begin++;
        size_t end = begin;
        for (bool quoted = false; end < bytes && (quoted || gloss[end] != ';'); end++)
            if (gloss[end] == '"') quoted = !quoted;
        size_t stop = end;
        while (stop > begin && gloss[stop - 1] == ' ') stop--;
        if (stop > begin && gloss[begin] != '"') {
            if (length) {
                out[length++] = ';';
                out[length++] = ' ';
            }
            memcpy(out + length, gloss + begin, stop - begin);
            length += stop - begin;
        }
        begin = end + 1;
    }
    out[length] = 0;
    return length;
}

static int hex_value(char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; }

/* Split and rank of a noun synset from the hash of its id. */
static void gloss_place(struct gloss *gloss, unsigned offset) {
    char id[16], hex[HASH_HEX];
    int length = snprintf(id, sizeof id, "n%08u", offset);
    hash_bytes(id, (size_t)length, hex);
    uint64_t first = 0, second = 0;
    for (int i = 0; i < 16; i++) first = first << 4 | (uint64_t)hex_value(hex[i]);
    for (int i = 16; i < 32; i++) second = second << 4 | (uint64_t)hex_value(hex[i]);
    gloss->rank = second;
    gloss->split = first % 10 == 8 ? SPLIT_VALIDATION : first % 10 == 9 ? SPLIT_TEST : SPLIT_TRAIN;
}

static int gloss_append(struct wordnet *wordnet, const char *gloss, size_t bytes, struct gloss **added) {
    int status = 0;
    *added = NULL;
    if (wordnet->count >= UINT32_MAX - 1) FAIL(E_LIMIT, "more than 2^32 synsets");
    if (wordnet->count == wordnet->capacity) {
        size_t capacity = wordnet->capacity ? wordnet->capacity * 2 : 1024;
        void *block = wordnet->glosses;
        TRY(memory_resize(&block, capacity, sizeof *wordnet->glosses));
        wordnet->glosses = block;
        wordnet->capacity = capacity;
    }
    size_t room = 2 * bytes + 1; /* what definition_copy may write */
    if (wordnet->text_capacity - wordnet->text_bytes < room) {
        size_t capacity = (wordnet->text_capacity + room) * 2;
        void *block = wordnet->text;
        TRY(memory_resize(&block, capacity, 1));
        wordnet->text = block;
        wordnet->text_capacity = capacity;
    }
    size_t length = definition_copy(gloss, bytes, wordnet->text + wordnet->text_bytes);
    if (length == 0) goto out; /* a gloss of examples alone defines nothing */
    *added = &wordnet->glosses[wordnet->count++];
    **added = (struct gloss){.text = wordnet->text_bytes, .label = -1, .split = SPLIT_TRAIN};
    wordnet->text_bytes += length + 1;
out:
    return status;
}

/* Exactly `digits` decimal digits and a space at *cursor; advances past both. */
static bool digits_read(const char **cursor, const char *end, int digits, unsigned *value) {
    const char *at = *cursor;
    unsigned result = 0;
    if (end - at < digits + 1) return false;
    for (int i = 0; i < digits; i++, at++) {
        if (*at < '0' || *at > '9') return false;
        result = result * 10 + (unsigned)(*at - '0');
    }
    if (*at != ' ') return false;
    *cursor = at + 1;
    *value = result;
    return true;
}

/* One line: "OFFSET FILE TYPE … | GLOSS". types: the synset types that this file may hold. */
static int line_read(struct wordnet *wordnet, const char *path, size_t number, const char *line, const char *end,
                     const char *types) {
    int status = 0;
    const char *cursor = line;
    unsigned offset = 0, file = 0;
    if (!digits_read(&cursor, end, 8, &offset))
        FAIL(E_FORMAT, "%s:%zu: expected a synset offset of 8 digits and a space", path, number);
    if (!digits_read(&cursor, end, 2, &file))
        FAIL(E_FORMAT, "%s:%zu: expected a lexicographer file number of 2 digits and a space", path, number);
    if (cursor == end || !strchr(types, *cursor) || !*cursor)
        FAIL(E_FORMAT, "%s:%zu: expected a synset type, one of \"%s\"", path, number, types);
    const char *bar = memchr(cursor, '|', (size_t)(end - cursor));
    if (!bar) FAIL(E_FORMAT, "%s:%zu: no '|' before a gloss: the line is cut or damaged", path, number);
    for (const char *at = bar; at < end; at++)
        if ((unsigned char)*at < 0x20)
            FAIL(E_FORMAT, "%s:%zu: control character 0x%02x in the gloss", path, number, (unsigned char)*at);
    struct gloss *added = NULL;
    TRY(gloss_append(wordnet, bar + 1, (size_t)(end - bar - 1), &added));
    if (!added || types[0] != 'n') goto out;
    for (int k = 0; k < CLASSES; k++)
        if (class_file[k] == (int)file) {
            added->label = (int8_t)k;
            gloss_place(added, offset);
        }
out:
    return status;
}

/* One data file; its first lines, a licence, begin with two spaces. */
static int file_parse(struct wordnet *wordnet, const char *folder, const char *name, const char *types,
                      struct hash *hash) {
    int status = 0;
    char path[PATH_MAX], *bytes = NULL;
    size_t count = 0, before = wordnet->count;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        FAIL(E_ARGUMENT, "task.wordnet.data: the path is too long");
    if (access(path, R_OK) != 0)
        FAIL(E_IO, "%s: %s: install wordnet-base (apt-get install wordnet-base) or set task.wordnet.data", path,
             strerror(errno));
    TRY(file_read(path, FILE_LIMIT_BYTES, &bytes, &count));
    hash_number(hash, count);
    hash_update(hash, bytes, count);
    const char *at = bytes, *end = bytes + count;
    for (size_t number = 1; at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) FAIL(E_FORMAT, "%s:%zu: the last line has no end: the file is cut", path, number);
        const char *next = stop + 1;
        if (stop > at && stop[-1] == '\r') stop--;
        if (stop - at < 2 || at[0] != ' ' || at[1] != ' ') TRY(line_read(wordnet, path, number, at, stop, types));
        at = next;
    }
    if (wordnet->count == before) FAIL(E_FORMAT, "%s: no synset in it: expected a WordNet data file", path);
out:
    memory_release(bytes);
    return status;
}

static int rank_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The largest rank that still belongs to a training set of `max_train` items. */
static int rank_limit(const struct wordnet *wordnet, size_t max_train, uint64_t *limit) {
    int status = 0;
    void *block = NULL;
    size_t count = 0;
    *limit = UINT64_MAX;
    if (max_train == 0) goto out;
    TRY(memory_take(&block, wordnet->count, sizeof(uint64_t)));
    uint64_t *ranks = block;
    for (size_t i = 0; i < wordnet->count; i++)
        if (wordnet->glosses[i].label >= 0 && wordnet->glosses[i].split == SPLIT_TRAIN)
            ranks[count++] = wordnet->glosses[i].rank;
    if (count > max_train) {
        qsort(ranks, count, sizeof *ranks, rank_compare);
        *limit = ranks[max_train - 1];
    }
out:
    memory_release(block);
    return status;
}

static bool gloss_held_out(const struct gloss *gloss) { return gloss->label >= 0 && gloss->split != SPLIT_TRAIN; }

/* Mark what must be dropped so that no text is both seen in training and scored. A table of open addressing
 * holds one gloss per distinct text; a text's uses are gathered there. */
static int glosses_separate(struct wordnet *wordnet) {
    enum { USED_TRAIN = 1, USED_HELD_OUT = 2 };
    int status = 0;
    void *slots_block = NULL, *uses_block = NULL, *first_block = NULL;
    size_t slots = 2;
    while (slots < 2 * wordnet->count) slots *= 2;
    TRY(memory_take(&slots_block, slots, sizeof(uint32_t)));
    TRY(memory_take(&uses_block, wordnet->count, 1));
    TRY(memory_take(&first_block, wordnet->count, sizeof(uint32_t)));
    uint32_t *table = slots_block, *first = first_block; /* table: 1 + gloss, 0: free */
    uint8_t *uses = uses_block;
    for (size_t i = 0; i < wordnet->count; i++) {
        const struct gloss *gloss = &wordnet->glosses[i];
        const char *text = wordnet->text + gloss->text;
        uint64_t key = 0xcbf29ce484222325u; /* FNV-1a */
        for (const char *at = text; *at; at++) key = (key ^ (uint8_t)*at) * 0x100000001b3u;
        size_t slot = (size_t)(key ^ key >> 32) & (slots - 1);
        while (table[slot] && strcmp(wordnet->text + wordnet->glosses[table[slot] - 1].text, text) != 0)
            slot = (slot + 1) & (slots - 1);
        if (!table[slot]) table[slot] = (uint32_t)i + 1;
        first[i] = table[slot] - 1;
        if (gloss->label >= 0) uses[first[i]] |= gloss_held_out(gloss) ? USED_HELD_OUT : USED_TRAIN;
    }
    for (size_t i = 0; i < wordnet->count; i++) {
        struct gloss *gloss = &wordnet->glosses[i];
        uint8_t use = uses[first[i]];
        gloss->dropped = gloss_held_out(gloss) ? use & USED_TRAIN : gloss->label < 0 && use == USED_HELD_OUT;
    }
out:
    memory_release(first_block);
    memory_release(uses_block);
    memory_release(slots_block);
    return status;
}

static bool gloss_in(const struct gloss *gloss, int split, uint64_t limit) {
    if (gloss->dropped) return false;
    if (split == SPLIT_UNLABELLED) return !gloss_held_out(gloss);
    return gloss->label >= 0 && gloss->split == split && (split != SPLIT_TRAIN || gloss->rank <= limit);
}

/* Fill the views of each split. */
static int splits_fill(struct task *task, struct wordnet *wordnet, const char *folder, size_t max_train) {
    static const char *const names[SPLITS] = {"training", "validation", "test", "unlabelled"};
    int status = 0;
    uint64_t limit = 0;
    TRY(rank_limit(wordnet, max_train, &limit));
    for (int split = 0; split < SPLITS; split++) {
        size_t count = 0;
        for (size_t i = 0; i < wordnet->count; i++) count += gloss_in(&wordnet->glosses[i], split, limit);
        if (count == 0)
            FAIL(E_FORMAT, "%s: no %s item among its %zu synsets: expected WordNet 3.0", folder, names[split],
                 wordnet->count);
        void *texts = NULL, *labels = NULL;
        TRY(memory_take(&texts, count, sizeof(char *)));
        wordnet->texts[split] = texts;
        if (split != SPLIT_UNLABELLED) {
            TRY(memory_take(&labels, count, sizeof(int32_t)));
            wordnet->labels[split] = labels;
        }
        size_t at = 0;
        for (size_t i = 0; i < wordnet->count; i++) {
            const struct gloss *gloss = &wordnet->glosses[i];
            if (!gloss_in(gloss, split, limit)) continue;
            wordnet->texts[split][at] = wordnet->text + gloss->text;
            if (wordnet->labels[split]) wordnet->labels[split][at] = gloss->label;
            at++;
        }
        task->split[split] =
            (struct task_text){.count = count, .text = wordnet->texts[split], .label = wordnet->labels[split]};
    }
out:
    return status;
}

static void wordnet_close(struct task *task) {
    struct wordnet *wordnet = task->owned;
    if (wordnet) {
        for (int split = 0; split < SPLITS; split++) {
            memory_release(wordnet->texts[split]);
            memory_release(wordnet->labels[split]);
        }
        memory_release(wordnet->glosses);
        memory_release(wordnet->text);
        memory_release(wordnet);
    }
    memset(task, 0, sizeof *task);
}

static int wordnet_open(struct task *task, const void *options_) {
    static const struct {
        const char *name, *types;
    } files[] = {{"data.noun", "n"}, {"data.verb", "v"}, {"data.adj", "as"}, {"data.adv", "r"}};
    int status = 0;
    const struct wordnet_options *options = options_;
    struct hash hash;
    void *block = NULL;
    memset(task, 0, sizeof *task);
    TRY(memory_take(&block, 1, sizeof(struct wordnet)));
    struct wordnet *wordnet = task->owned = block;
    task->kind = &task_wordnet;
    task->class_names = class_names;
    task->classes = CLASSES;
    hash_open(&hash);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        TRY(file_parse(wordnet, options->data, files[i].name, files[i].types, &hash));
    hash_number(&hash, (uint64_t)options->max_train);
    hash_close(&hash, task->data_hash);
    block = wordnet->text;
    TRY(memory_resize(&block, wordnet->text_bytes, 1)); /* before any view is taken */
    wordnet->text = block;
    TRY(glosses_separate(wordnet));
    TRY(splits_fill(task, wordnet, options->data, (size_t)options->max_train));
    memory_release(wordnet->glosses);
    wordnet->glosses = NULL;
out:
    if (status < 0) wordnet_close(task);
    return status;
}

const struct task_kind task_wordnet = {
    .name = "wordnet",
    .summary = "WordNet glosses to one of eight lexicographer classes",
    .primary_metric = "accuracy",
    .primary_unit = "frac",
    .higher_is_better = true,
    .estimator = "accuracy",
    .heads = HEAD_CLASSIFICATION,
    .score = task_classification_score,
    .objective = TRAIN_CLASSIFICATION,
    .options = wordnet_options,
    .options_bytes = sizeof(struct wordnet_options),
    .open = wordnet_open,
    .close = wordnet_close,
};
