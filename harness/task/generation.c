/* Generation against references: a causal language model continues prompts, and what it writes is held against texts
 * that people wrote (translation, summaries, short answers).
 *
 * A row of the data (JSON lines, CSV or TSV) has a prompt and one reference or more, in one column that holds a list or
 * in several. Decoding is greedy unless asked for beams or sampling. BLEU is sacrebleu's corpus score with 13a tokens,
 * 0 to 100; ROUGE-1, -2 and -L are means of the texts' F1. Items are prompts; each keeps the counts that BLEU sums, so
 * that the corpus score of two models can be compared over the same draws of items.
 */
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/generate.h"
#include "task/data_table.h"
#include "task/metrics.h"
#include "task/prompt_text.h"
#include "task/task_kinds.h"
#include "text/unicode.h"

struct generation_options {
    const char *data, *train, *validation, *test, *prompt, *stop, *cache;
    struct option_names references;
    int64_t max_items, max_train, new_tokens, beams, top_k, seed, agreement_items;
    double length_penalty, temperature, top_p;
    bool stem;
};
#define AT(field) offsetof(struct generation_options, field)
static const struct option generation_options[] = {
    {"data", OPTION_TEXT, NULL, 0, 0, NULL, NULL, "folder with the files", AT(data)},
    {"train", OPTION_TEXT, "", 0, 0, NULL, NULL, "file to train on: prompts with their references; empty: none",
     AT(train)},
    {"validation", OPTION_TEXT, "", 0, 0, NULL, NULL, "file to score after each stage; empty: none", AT(validation)},
    {"test", OPTION_TEXT, "test.jsonl", 0, 0, NULL, NULL, "file to score", AT(test)},
    {"prompt", OPTION_TEXT, "prompt", 0, 0, NULL, NULL, "column of the prompts, by name or number", AT(prompt)},
    {"references", OPTION_NAMES, "[reference]", 0, 0, NULL, NULL, "columns of the references, a text or a list each",
     AT(references)},
    {"max_items", OPTION_INTEGER, "0", 0, 1e9, NULL, "items", "score the first prompts only; 0: all", AT(max_items)},
    {"max_train", OPTION_INTEGER, "0", 0, 1e9, NULL, "items", "train on the first prompts only; 0: all", AT(max_train)},
    {"new_tokens", OPTION_INTEGER, "64", 1, 1048576, NULL, "tokens", "longest continuation", AT(new_tokens)},
    {"stop", OPTION_CHOICE, "end", 0, 0, "end|newline|none", NULL,
     "what ends a text early: the tokenizer's end token, or a line break as well", AT(stop)},
    {"beams", OPTION_INTEGER, "1", 1, 256, NULL, "beams", "1: no beam search", AT(beams)},
    {"length_penalty", OPTION_REAL, "1", -10, 10, NULL, NULL, "of beams: log probability over length to this power",
     AT(length_penalty)},
    {"temperature", OPTION_REAL, "0", 0, 100, NULL, NULL, "0: greedy, else sample", AT(temperature)},
    {"top_k", OPTION_INTEGER, "0", 0, 1e9, NULL, "tokens", "sample among so many; 0: all", AT(top_k)},
    {"top_p", OPTION_REAL, "1", 1e-6, 1, NULL, "frac", "sample among the most probable of this mass", AT(top_p)},
    {"seed", OPTION_INTEGER, "1", 0, 1e9, NULL, NULL, "of sampling; an item's draws do not depend on the others",
     AT(seed)},
    {"cache", OPTION_CHOICE, "f32", 0, 0, CACHE_TYPES, NULL, "keys and values of past tokens are kept so", AT(cache)},
    {"stem", OPTION_BOOLEAN, "false", 0, 0, NULL, NULL, "ROUGE over word stems (Porter)", AT(stem)},
    {"agreement_items", OPTION_INTEGER, "64", 0, 1e9, NULL, "items",
     "see on the first items how many texts are the baseline's own", AT(agreement_items)},
    OPTION_END};
#undef AT

enum { REFERENCE_COLUMNS_MAX = 16 };

struct generation {
    struct generation_options options; /* its texts are the caller's: read while opening only */
    enum cache_type cache;
    bool stops, one_line; /* texts end early; a line break ends them, too */
    struct split_data {
        struct data_table table;
        const char **prompts; /* [items] */
        size_t items;
    } split[SPLITS];
};

static size_t reference_count(const struct data_table *table, size_t item) {
    size_t count = 0;
    for (size_t c = 1; c < table->columns; c++) count += data_count(table, item, c);
    return count;
}

static int split_open(struct task *task, enum task_split which, const char *file, struct hash *hash) {
    int status = 0;
    struct generation *owned = task->owned;
    const struct generation_options *o = &owned->options;
    struct split_data *split = &owned->split[which];
    const char *columns[1 + REFERENCE_COLUMNS_MAX] = {o->prompt};
    char path[PATH_MAX];
    if (!*file) return 0;
    TRY(data_file_find(path, sizeof path, o->data, task_split_option(which), file));
    for (size_t i = 0; i < o->references.count; i++) columns[i + 1] = o->references.items[i];
    struct data_request request = {.path = path, .columns = columns, .column_count = 1 + o->references.count};
    TRY(data_table_read(&split->table, &request, hash));
    split->items = split->table.rows;
    size_t limit = (size_t)(which == SPLIT_TRAIN ? o->max_train : o->max_items);
    if (limit && limit < split->items) split->items = limit;
    TRY(memory_take((void **)&split->prompts, split->items, sizeof(char *)));
    for (size_t i = 0; i < split->items; i++) {
        split->prompts[i] = data_text(&split->table, i, 0);
        if (data_count(&split->table, i, 0) != 1)
            FAIL(E_FORMAT, "%s:%u: the prompt must be one text", path, split->table.line[i]);
        if (!reference_count(&split->table, i))
            FAIL(E_FORMAT, "%s:%u: there is no reference", path, split->table.line[i]);
    }
    task->split[which] = (struct task_text){
        .count = split->items, .text = split->prompts, .path = split->table.path, .line = split->table.line};
out:
    return status;
}

static void generation_close(struct task *task) {
    struct generation *owned = task->owned;
    for (int i = 0; owned && i < SPLITS; i++) {
        data_table_close(&owned->split[i].table);
        memory_release(owned->split[i].prompts);
    }
    memory_release(owned);
    memset(task, 0, sizeof *task);
}

static int generation_open(struct task *task, const void *context) {
    int status = 0;
    const struct generation_options *options = context;
    struct hash hash;
    *task = (struct task){.kind = &task_generation};
    hash_open(&hash);
    TRY(memory_take(&task->owned, 1, sizeof(struct generation)));
    struct generation *owned = task->owned;
    owned->options = *options;
    owned->stops = strcmp(options->stop, "none") != 0;
    owned->cache = cache_type_find(options->cache);
    owned->one_line = strcmp(options->stop, "newline") == 0;
    if (!options->references.count || options->references.count > REFERENCE_COLUMNS_MAX)
        FAIL(E_ARGUMENT, "references: 1 to %d columns (got %zu)", REFERENCE_COLUMNS_MAX, options->references.count);
    if (options->beams > 1 && options->temperature > 0)
        FAIL(E_ARGUMENT, "beams: beam search does not sample, temperature must be 0 (got %g)", options->temperature);
    TRY(split_open(task, SPLIT_TRAIN, options->train, &hash));
    TRY(split_open(task, SPLIT_VALIDATION, options->validation, &hash));
    TRY(split_open(task, SPLIT_TEST, options->test, &hash));
    if (!task->split[SPLIT_TEST].count) FAIL(E_ARGUMENT, "test: a file is needed");
    hash_number(&hash, (uint64_t)options->max_items);
out:
    hash_close(&hash, task->data_hash);
    if (status < 0) generation_close(task);
    return status;
}

/* Each prompt of the training split with each of its references. */
static int generation_training(const struct task *task, const struct tokenizer *tokenizer,
                               const struct task_lengths *lengths, struct task_examples *out) {
    int status = 0;
    const struct generation *owned = task->owned;
    const struct split_data *split = &owned->split[SPLIT_TRAIN];
    void *block = NULL;
    size_t count = 0, used = 0;
    for (size_t i = 0; i < split->items; i++) count += reference_count(&split->table, i);
    TRY(memory_take(&block, count, sizeof(struct prompt_pair)));
    struct prompt_pair *pairs = block;
    for (size_t i = 0; i < split->items; i++)
        for (size_t c = 1; c < split->table.columns; c++) {
            const char *text = data_text(&split->table, i, c);
            for (size_t k = data_count(&split->table, i, c); k > 0; k--, text = data_next(text))
                pairs[used++] = (struct prompt_pair){split->prompts[i], text};
        }
    status = prompt_examples_open(out, tokenizer, pairs, count, task_longest(lengths), owned->stops, owned->one_line);
    if (status == E_FORMAT || status == E_LIMIT) error_prefix(status, "%s", split->table.path);
out:
    memory_release(block);
    return status;
}

/* ---- writing texts ------------------------------------------------------------------------------------ */

/* One model that continues the prompts of a split. */
struct author {
    const struct task_scoring *scoring;
    const struct generation *task;
    const struct model *model;
    int32_t *stops;
    size_t stop_count;
    struct generated *texts; /* [beams] */
    struct workspace workspace;
};

static void author_close(struct author *author) {
    memory_release(author->stops);
    memory_release(author->texts);
    workspace_close(&author->workspace);
}

/* Does the spelling of this token hold a line break? */
static int has_newline(const struct tokenizer *tokenizer, int32_t id, bool *has) {
    int status = 0;
    char *text = NULL;
    TRY(tokenizer_decode(tokenizer, &id, 1, &text));
    *has = strchr(text, '\n') != NULL;
out:
    memory_release(text);
    return status;
}

/* Ids after which a text is over. */
static int stops_find(struct author *author) {
    int status = 0;
    const struct tokenizer *tokenizer = author->scoring->tokenizer;
    size_t vocabulary = tokenizer_vocabulary(tokenizer), known = author->model->config.vocabulary;
    const int32_t *ends;
    size_t end_count = tokenizer_ends(tokenizer, &ends);
    if (known < vocabulary) vocabulary = known;
    if (!author->task->stops) return 0;
    TRY(memory_take((void **)&author->stops, vocabulary + end_count + 1, sizeof *author->stops));
    for (size_t i = 0; i < end_count; i++) author->stops[author->stop_count++] = ends[i];
    for (size_t id = 0; author->task->one_line && id < vocabulary; id++) {
        bool has;
        TRY(has_newline(tokenizer, (int32_t)id, &has));
        if (has) author->stops[author->stop_count++] = (int32_t)id;
    }
out:
    return status;
}

static int author_open(struct author *author, const struct task_scoring *scoring, const struct model *model) {
    int status = 0;
    const struct generation *task = scoring->task->owned;
    *author = (struct author){.scoring = scoring, .task = task, .model = model};
    TRY(stops_find(author));
    TRY(memory_take((void **)&author->texts, (size_t)task->options.beams, sizeof *author->texts));
out:
    return status;
}

static struct generate_options decoding(const struct author *author, size_t item) {
    const struct generation_options *o = &author->task->options;
    struct generate_options options;
    generate_defaults(&options);
    options.new_tokens = (size_t)o->new_tokens;
    options.end = author->stop_count ? author->stops : NULL;
    options.end_count = author->stop_count;
    options.temperature = o->temperature;
    options.top_k = (size_t)o->top_k;
    options.top_p = o->top_p;
    options.seed = random_stream("generation", (uint64_t)o->seed, item);
    options.beams = (size_t)o->beams;
    options.length_penalty = o->length_penalty;
    options.cache = author->task->cache;
    return options;
}

/* Bytes of something that is no character: the longest start of one (Unicode 15, section 3.9), so that a character cut
 * off is one mistake. */
static size_t broken_bytes(const uint8_t *text, size_t bytes) {
    uint8_t lead = text[0],
            low = lead == 0xE0   ? 0xA0
                  : lead == 0xF0 ? 0x90
                                 : 0x80,
            high = lead == 0xED   ? 0x9F
                   : lead == 0xF4 ? 0x8F
                                  : 0xBF;
    if (lead < 0xC2 || lead > 0xF4 || bytes < 2 || text[1] < low || text[1] > high) return 1;
    return lead >= 0xF0 && bytes > 2 && (text[2] & 0xC0) == 0x80 ? 3 : 2;
}

/* Tokens may be parts of characters. What does not make up UTF-8 becomes U+FFFD, as in Hugging Face's decoders; so does
 * a zero, which would end the text and which metrics take as they take that. */
static int text_repair(char **text, size_t bytes) {
    int status = 0;
    void *block;
    size_t room, used = 0;
    const uint8_t *from = (const uint8_t *)*text;
    TRY(size_multiply(bytes + 1, 3, &room));
    TRY(memory_take(&block, room, 1));
    uint8_t *to = block;
    for (size_t at = 0; at < bytes;) {
        uint32_t code;
        size_t length = utf8_decode(from + at, bytes - at, &code);
        if (code == 0) code = UNICODE_REPLACEMENT;
        else if (code == UNICODE_REPLACEMENT && length == 1) length = broken_bytes(from + at, bytes - at);
        used += utf8_encode(code, to + used);
        at += length;
    }
    memory_release(*text);
    *text = block;
out:
    return status;
}

/* What the model writes after one prompt: release *text with memory_release. */
static int text_write(struct author *author, size_t item, char **text, size_t *tokens, bool *ended) {
    int status = 0;
    const struct tokenizer *tokenizer = author->scoring->tokenizer;
    const struct split_data *split = &author->task->split[author->scoring->split];
    size_t positions = author->model->config.positions, count = 0, bytes;
    struct generate_options options = decoding(author, item);
    struct encoding prompt = {0};
    *text = NULL;
    TRY(prompt_encode(tokenizer, split->prompts[item], &prompt));
    if (!prompt.count) FAIL(E_FORMAT, "%s:%u: the prompt has no tokens", split->table.path, split->table.line[item]);
    if (prompt.count > positions || options.new_tokens > positions - prompt.count)
        FAIL(E_SHAPE, "%s:%u: the prompt's %zu tokens and new_tokens %zu exceed the model's %zu positions",
             split->table.path, split->table.line[item], prompt.count, options.new_tokens, positions);
    TRY(generate(author->model, prompt.ids, prompt.count, &options, &author->workspace, author->texts, &count));
    *tokens = author->texts[0].count;
    *ended = author->texts[0].ended;
    TRY(tokenizer_decode_bytes(tokenizer, author->texts[0].ids, *tokens, text, &bytes));
    TRY(text_repair(text, bytes));
    if (author->task->one_line) (*text)[strcspn(*text, "\n")] = 0;
out:
    generated_close(author->texts, count);
    encoding_close(&prompt);
    return status;
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

enum { ROUGES = 3 };
static const char *const matched_names[BLEU_ORDER] = {"matched1", "matched2", "matched3", "matched4"};
static const char *const total_names[BLEU_ORDER] = {"total1", "total2", "total3", "total4"};
static const char *const rouge_names[ROUGES] = {"rouge1", "rouge2", "rougeL"};

/* What is kept of each item, and sums over all. */
struct tally {
    int32_t *matched[BLEU_ORDER], *total[BLEU_ORDER], *hypothesis_tokens, *reference_tokens, *tokens;
    float *sentence_bleu, *rouge[ROUGES], *same;
    struct bleu_counts sum;
    double rouge_sum[ROUGES], tokens_sum, ended, same_sum;
};

static int tally_open(struct tally *tally, struct task_result *result, bool agreement) {
    int status = 0;
    *tally = (struct tally){0};
    for (size_t n = 0; n < BLEU_ORDER; n++)
        TRY(task_result_items(result, matched_names[n], ITEM_I32, (void **)&tally->matched[n]));
    for (size_t n = 0; n < BLEU_ORDER; n++)
        TRY(task_result_items(result, total_names[n], ITEM_I32, (void **)&tally->total[n]));
    TRY(task_result_items(result, "hypothesis_tokens", ITEM_I32, (void **)&tally->hypothesis_tokens));
    TRY(task_result_items(result, "reference_tokens", ITEM_I32, (void **)&tally->reference_tokens));
    TRY(task_result_items(result, "sentence_bleu", ITEM_F32, (void **)&tally->sentence_bleu));
    for (size_t k = 0; k < ROUGES; k++)
        TRY(task_result_items(result, rouge_names[k], ITEM_F32, (void **)&tally->rouge[k]));
    TRY(task_result_items(result, "tokens", ITEM_I32, (void **)&tally->tokens));
    if (agreement) TRY(task_result_items(result, "same_text", ITEM_F32, (void **)&tally->same));
out:
    return status;
}

/* Hold one text against its references. */
static int item_judge(struct tally *tally, const struct generation *task, const struct data_table *table, size_t item,
                      const char *text) {
    int status = 0;
    const char **references = NULL;
    size_t used = 0;
    struct bleu_counts counts;
    struct rouge_score rouge[ROUGE_KINDS];
    TRY(memory_take((void **)&references, reference_count(table, item), sizeof *references));
    for (size_t c = 1; c < table->columns; c++) {
        const char *reference = data_text(table, item, c);
        for (size_t i = data_count(table, item, c); i > 0; i--, reference = data_next(reference))
            references[used++] = reference;
    }
    TRY(metric_bleu_count(text, references, used, false, &counts));
    TRY(metric_rouge(text, references, used, task->options.stem, rouge));
    for (size_t n = 0; n < BLEU_ORDER; n++) {
        tally->matched[n][item] = (int32_t)counts.matched[n];
        tally->total[n][item] = (int32_t)counts.total[n];
    }
    tally->hypothesis_tokens[item] = (int32_t)counts.hypothesis_tokens;
    tally->reference_tokens[item] = (int32_t)counts.reference_tokens;
    tally->sentence_bleu[item] = (float)metric_bleu(&counts, true, NULL, NULL);
    metric_bleu_add(&tally->sum, &counts);
    for (size_t k = 0; k < ROUGES; k++) { /* ROUGE_1, ROUGE_2, ROUGE_L are the first kinds */
        tally->rouge[k][item] = (float)rouge[k].f1;
        tally->rouge_sum[k] += rouge[k].f1;
    }
out:
    memory_release(references);
    return status;
}

/* Is the text the baseline's own? */
static int item_compare(struct tally *tally, struct author *baseline, size_t item, const char *text) {
    int status = 0;
    char *theirs;
    size_t tokens;
    bool ended;
    TRY(text_write(baseline, item, &theirs, &tokens, &ended));
    tally->same[item] = strcmp(text, theirs) == 0;
    tally->same_sum += (double)tally->same[item];
out:
    memory_release(theirs);
    return status;
}

static void tally_report(const struct tally *tally, size_t compared, struct task_result *result) {
    double count = (double)result->count;
    task_result_metric(result, "bleu", "", metric_bleu(&tally->sum, false, NULL, NULL));
    for (size_t k = 0; k < ROUGES; k++) task_result_metric(result, rouge_names[k], "frac", tally->rouge_sum[k] / count);
    task_result_metric(result, "mean_tokens", "tokens", tally->tokens_sum / count);
    task_result_metric(result, "ended", "frac", tally->ended / count);
    if (compared) task_result_metric(result, "same_text_as_baseline", "frac", tally->same_sum / (double)compared);
}

static int generation_score(const struct task_scoring *scoring, struct task_result *result) {
    int status = 0;
    const struct generation *task = scoring->task->owned;
    const struct split_data *split = &task->split[scoring->split];
    struct author author = {0}, baseline = {0};
    struct tally tally;
    char *text = NULL;
    size_t compared = scoring->baseline ? (size_t)task->options.agreement_items : 0;
    if (compared > split->items) compared = split->items;
    result->count = split->items;
    TRY(author_open(&author, scoring, scoring->model));
    if (compared) TRY(author_open(&baseline, scoring, scoring->baseline));
    TRY(tally_open(&tally, result, compared > 0));
    for (size_t i = 0; i < split->items; i++) {
        size_t tokens;
        bool ended;
        TRY(text_write(&author, i, &text, &tokens, &ended));
        TRY(item_judge(&tally, task, &split->table, i, text));
        tally.tokens[i] = (int32_t)tokens;
        tally.tokens_sum += (double)tokens;
        tally.ended += ended;
        if (i < compared) TRY(item_compare(&tally, &baseline, i, text));
        else if (compared) tally.same[i] = NAN;
        memory_release(text);
        text = NULL;
    }
    tally_report(&tally, compared, result);
out:
    memory_release(text);
    author_close(&author);
    author_close(&baseline);
    return status;
}

const struct task_kind task_generation = {
    .name = "generation",
    .summary = "prompts continued by a causal language model, against references (BLEU, ROUGE)",
    .primary_metric = "bleu",
    .primary_unit = "",
    .higher_is_better = true,
    .estimator = "bleu",
    .options = generation_options,
    .options_bytes = sizeof(struct generation_options),
    .open = generation_open,
    .close = generation_close,
    .heads = HEAD_CAUSAL_LM,
    .score = generation_score,
    .objective = TRAIN_CAUSAL_LM,
    .training = generation_training,
};
