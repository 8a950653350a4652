/* The model that a build starts from: heads that the task needs and a pretrained model lacks are new, all else is its
 * own; what a family cannot have is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "run/progress.h"
#include "run/stage_clock.h"
#include "run/worker.h"
#include "scratch_file.h"
#include "small_model.h"

/* What build_model_open reads of a job, for a task of a kind with some number of outputs. */
struct start {
    struct experiment experiment;
    struct task task;
    struct cell cell;
    struct build_job job;
};

static void start_with(struct start *start, const char *path, const char *kind, size_t classes, bool text) {
    static const char *const texts[] = {"a text"};
    *start = (struct start){.experiment.model.path = path, .cell.seed = 7};
    start->task = (struct task){.kind = task_kind_find(kind), .classes = classes};
    if (text) start->task.split[SPLIT_UNLABELLED] = (struct task_text){.count = 1, .text = texts};
    start->job = (struct build_job){.experiment = &start->experiment, .cell = &start->cell, .task = &start->task};
}

static void save_pretrained(char path[128], const char *family, unsigned heads) {
    struct model model;
    struct model_config config = small_config(heads);
    if (strcmp(family, "bert") != 0) {
        struct model_config usual;
        assert_int_equal(model_config_family(&usual, family), 0);
        usual.layers = config.layers;
        usual.width = config.width;
        usual.heads = usual.key_value_heads = config.heads;
        usual.head_width = config.head_width;
        usual.feed_forward = config.feed_forward;
        usual.vocabulary = config.vocabulary;
        usual.positions = config.positions;
        usual.pad_id = -1;
        usual.model_heads = heads;
        config = usual;
    }
    scratch_file(path, ".safetensors", "");
    if (model_create(&model, &config, 3, 0.2) < 0) fail_msg("%s", error_text());
    assert_int_equal(model_save(&model, path, heads), 0);
    model_close(&model);
}

/* Every parameter of the file that the model still has is as it was; returns how many those are. */
static size_t check_copied(const struct model *model, const char *path) {
    struct model file;
    size_t same = 0;
    assert_int_equal(model_open(&file, path, true), 0);
    for (size_t i = 0; i < file.parameter_count; i++) {
        const struct parameter *own = model_parameter(model, file.parameters[i].name), *other = &file.parameters[i];
        if (!own) continue;
        assert_int_equal(own->rows, other->rows);
        assert_memory_equal(own->value, other->value, own->rows * own->columns * sizeof(float));
        same++;
    }
    model_close(&file);
    return same;
}

static void missing_heads_are_new(void **state) {
    (void)state;
    static const struct {
        const char *kind;
        size_t classes, rows;
        const char *head;
    } cases[] = {{"classification", 3, 3, "classifier.weight"},
                 {"regression", 1, 1, "classifier.weight"},
                 {"question_answering", 0, 2, "qa_outputs.weight"}};
    char path[128];
    save_pretrained(path, "bert", HEAD_POOLER);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct start start;
        struct model model = {0}, other = {0};
        start_with(&start, path, cases[c].kind, cases[c].classes, false);
        if (build_model_open(&model, &start.job) < 0) fail_msg("%s", error_text());
        assert_int_equal(model.config.model_heads, start.task.kind->heads);
        const struct parameter *head = model_parameter(&model, cases[c].head), *again;
        assert_non_null(head);
        assert_int_equal(head->rows, cases[c].rows);
        assert_true(check_copied(&model, path) > 30);
        assert_true(model.editable);
        /* Another seed, other weights of the head. */
        start.cell.seed = 8;
        assert_int_equal(build_model_open(&other, &start.job), 0);
        again = model_parameter(&other, cases[c].head);
        assert_memory_not_equal(head->value, again->value, head->rows * head->columns * sizeof(float));
        for (size_t i = 0; i < head->rows * head->columns; i++) assert_true(fabsf(head->value[i]) < 0.15f);
        model_close(&model);
        model_close(&other);
    }
    scratch_remove(path);
}

static void text_brings_a_head_for_hidden_words(void **state) {
    (void)state;
    char path[128];
    struct start start;
    struct model model = {0};
    struct tokenizer *tokenizer;
    save_pretrained(path, "bert", HEAD_POOLER);
    start_with(&start, path, "classification", 3, true);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    assert_int_equal(model.config.model_heads, HEAD_CLASSIFICATION | HEAD_MASKED_LM);
    check_copied(&model, path);
    model_close(&model);
    /* A model from scratch likewise. */
    start.experiment.model.path = NULL;
    start.experiment.model.config = small_config(HEAD_CLASSIFICATION);
    start.experiment.model.deviation = 0.02;
    assert_int_equal(tokenizer_parse_vocab(&tokenizer, "[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\n", 25, true), 0);
    start.job.tokenizer = tokenizer;
    assert_int_equal(build_model_open(&model, &start.job), 0);
    assert_int_equal(model.config.model_heads, HEAD_CLASSIFICATION | HEAD_MASKED_LM);
    assert_int_equal(model.config.vocabulary, 5);
    model_close(&model);
    tokenizer_free(tokenizer);
    scratch_remove(path);
}

static void heads_that_are_there_are_kept(void **state) {
    (void)state;
    char path[128];
    struct start start;
    struct model model = {0};
    save_pretrained(path, "bert", HEAD_SPAN);
    start_with(&start, path, "question_answering", 0, false);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    assert_int_equal(check_copied(&model, path), model.parameter_count);
    model_close(&model);
    /* … also when another one is added. */
    start_with(&start, path, "question_answering", 0, true);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    assert_int_equal(model.config.model_heads, HEAD_SPAN | HEAD_MASKED_LM);
    size_t copied = check_copied(&model, path);
    assert_true(copied < model.parameter_count && copied > 30);
    model_close(&model);
    scratch_remove(path);
}

/* An artifact: its packed layers keep their bytes and their ways to quantize inputs where a head is added, marks and
 * metadata stay. */
static void packed_layers_stay_packed(void **state) {
    (void)state;
    char path[128];
    struct start start;
    struct build_start sizes;
    struct model model = {0}, file = {0}, shape;
    struct activation_quantizer activation = {.outlier = 5};
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    const struct weight_format *format = weight_format_find("int8");
    scratch_file(path, ".safetensors", "");
    assert_int_equal(model_create(&model, &config, 3, 0.2), 0);
    for (size_t i = 0; i < model.linear_count; i++) {
        struct linear *linear = &model.linears[i];
        struct weight_shape matrix = {linear->rows, linear->columns, 0, true};
        float scale[64];
        struct weight_grid grid = {.scale = scale, .groups = 1};
        linear->simulated = i == 1;
        if (linear->block != 1) continue;
        assert_true(linear->rows <= 64);
        assert_int_equal(weight_grid_minmax(format, &matrix, linear->value, &grid), 0);
        assert_int_equal(linear_pack(&model, linear, format, 0, true, &grid), 0);
        assert_int_equal(linear_set_activation(&model, linear, &activation), 0);
    }
    assert_int_equal(model_set_int8_attention(&model), 0);
    assert_int_equal(model_set_metadata(&model, "tokenizer", "{}"), 0);
    assert_int_equal(model_save(&model, path, HEAD_CLASSIFICATION), 0);
    model_close(&model);
    start_with(&start, path, "classification", 3, true);
    if (build_model_open(&model, &start.job) < 0) fail_msg("%s", error_text());
    assert_int_equal(model.config.model_heads, HEAD_CLASSIFICATION | HEAD_MASKED_LM);
    assert_int_equal(model_open(&file, path, true), 0);
    check_copied(&model, path);
    /* What techniques are asked about before anything runs is alike. */
    assert_int_equal(build_start_open(&sizes, &start.experiment, &start.task, 0), 0);
    assert_int_equal(build_start_shape(&sizes, &shape), 0);
    assert_int_equal(shape.linear_count, model.linear_count);
    for (size_t i = 0; i < shape.linear_count; i++) {
        assert_true(!shape.linears[i].value == !model.linears[i].value);
        assert_ptr_equal(shape.linears[i].weight.format, model.linears[i].weight.format);
    }
    assert_true(shape.int8_attention);
    model_close(&shape);
    build_start_close(&sizes);
    for (size_t i = 0; i < file.linear_count; i++) {
        const struct linear *from = &file.linears[i], *own = model_linear_find(&model, from->name);
        assert_non_null(own);
        assert_true(own->simulated == from->simulated && !own->value == !from->value);
        assert_ptr_equal(own->weight.format, from->weight.format);
        if (from->value) continue;
        assert_true(own->weight.activation.outlier == 5 && own->weight.packed_bytes == from->weight.packed_bytes);
        assert_memory_equal(own->weight.packed, from->weight.packed, from->weight.packed_bytes);
    }
    assert_true(model.int8_attention);
    assert_string_equal(model_metadata(&model, "tokenizer"), "{}");
    model_close(&model);
    model_close(&file);
    scratch_remove(path);
}

/* A folder that names its classes: in the order of the task's labels, in another order, and as no task calls them. */
static void classes_in_another_order_are_refused(void **state) {
    (void)state;
    static const char *const same[] = {"label_0", "label_1", "label_2"},
                             *const other[] = {"LABEL_0", "LABEL_2", "LABEL_1"},
                             *const unlike[] = {"bad", "LABEL_0", "good"};
    char folder[] = "/tmp/test_build_model_XXXXXX", inside[64], command[96];
    struct start start;
    struct model model;
    struct model_config config = small_config(HEAD_CLASSIFICATION);
    config.classes = 3;
    assert_non_null(mkdtemp(folder));
    snprintf(inside, sizeof inside, "%s/named", folder);
    assert_int_equal(model_create(&model, &config, 3, 0.2), 0);
    assert_int_equal(model_save_huggingface(&model, inside, false), 0);
    model_close(&model);
    start_with(&start, inside, "classification", 3, false);
    start.task.class_names = same;
    assert_int_equal(build_model_open(&model, &start.job), 0);
    model_close(&model);
    start.task.class_names = unlike;
    assert_int_equal(build_model_open(&model, &start.job), 0);
    model_close(&model);
    start.task.class_names = other;
    assert_int_equal(build_model_open(&model, &start.job), E_ARGUMENT);
    assert_non_null(
        strstr(error_text(), "id2label has the task's `labels` in another order, beginning with \"LABEL_0\""));
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

/* A folder of sentence-transformers that puts a prompt in front of a text: the task does not. */
static void prompts_in_front_are_refused(void **state) {
    (void)state;
    char folder[] = "/tmp/test_build_model_XXXXXX", inside[64], name[128], command[96];
    struct start start;
    struct model model;
    struct model_config config = small_config(HEAD_POOLER);
    assert_non_null(mkdtemp(folder));
    snprintf(inside, sizeof inside, "%s/encoder", folder);
    assert_int_equal(model_create(&model, &config, 3, 0.2), 0);
    assert_int_equal(model_save_huggingface(&model, inside, false), 0);
    model_close(&model);
    start_with(&start, inside, "similarity", 0, false);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    model_close(&model);
    snprintf(name, sizeof name, "%s/modules.json", inside);
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs("[{\"idx\": 0, \"path\": \"\", \"type\": \"x.Transformer\"}]", file);
    fclose(file);
    snprintf(name, sizeof name, "%s/config_sentence_transformers.json", inside);
    file = fopen(name, "w");
    assert_non_null(file);
    fputs("{\"default_prompt_name\": \"q\", \"prompts\": {\"q\": \"query: \"}}", file);
    fclose(file);
    assert_int_equal(build_model_open(&model, &start.job), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "default_prompt_name q is not supported"));
    /* Of no concern to a task that does not compare embeddings. */
    start_with(&start, inside, "classification", 2, false);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    model_close(&model);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static void what_a_family_cannot_have_is_refused(void **state) {
    (void)state;
    char path[128];
    struct start start;
    struct model model = {0};
    save_pretrained(path, "gpt2", HEAD_CAUSAL_LM);
    start_with(&start, path, "question_answering", 0, true);
    assert_int_equal(build_model_open(&model, &start.job), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "a gpt2 model lacks the head that the task question_answering needs"));
    assert_null(model.parameters);
    /* Its own task is no trouble, and text gives it no head that it cannot have. */
    start_with(&start, path, "perplexity", 0, true);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    assert_int_equal(model.config.model_heads, HEAD_CAUSAL_LM);
    model_close(&model);
    start_with(&start, path, "similarity", 0, true);
    assert_int_equal(build_model_open(&model, &start.job), 0);
    model_close(&model);
    scratch_remove(path);
}

/* ---- how long it will take ------------------------------------------------------------------------------ */

static void a_stage_knows_what_is_left(void **state) {
    (void)state;
    struct stage_clock clock;
    stage_clock_start(&clock);
    assert_true(isnan(stage_clock_left(&clock, 0, 100)));
    assert_true(isnan(stage_clock_left(&clock, 0.005, 100.5))); /* too early to tell */
    assert_float_equal(stage_clock_left(&clock, 0.005, 103), 3 / 0.005 * 0.995, 1e-9);
    assert_float_equal(stage_clock_left(&clock, 0.25, 110), 30, 1e-9);
    assert_float_equal(stage_clock_left(&clock, 1, 140), 0, 1e-9);
    /* Resumed at a half: only what this process did counts. */
    stage_clock_start(&clock);
    assert_true(isnan(stage_clock_left(&clock, 0.5, 1000)));
    assert_float_equal(stage_clock_left(&clock, 0.6, 1010), 40, 1e-6);
    /* Begun anew: what came before says nothing. */
    assert_true(isnan(stage_clock_left(&clock, 0, 1020)));
    assert_float_equal(stage_clock_left(&clock, 0.5, 1025), 5, 1e-6);
    /* Prepared for 200 s: what came before the first step is not counted. */
    stage_clock_start(&clock);
    assert_true(isnan(stage_clock_left(&clock, 0, 2000)));
    assert_true(isnan(stage_clock_left(&clock, 0, 2200)));
    assert_float_equal(stage_clock_left(&clock, 0.1, 2210), 90, 1e-6);
}

static void times_are_written_short(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0s"},         {44.2, "45s"},    {59.9, "1m00s"}, {130, "2m10s"},
                 {3599.5, "1h00m"}, {11100, "3h05m"}, {NAN, "?"}};
    char text[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        progress_time(cases[i].seconds, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(missing_heads_are_new),
                                       cmocka_unit_test(text_brings_a_head_for_hidden_words),
                                       cmocka_unit_test(heads_that_are_there_are_kept),
                                       cmocka_unit_test(packed_layers_stay_packed),
                                       cmocka_unit_test(classes_in_another_order_are_refused),
                                       cmocka_unit_test(prompts_in_front_are_refused),
                                       cmocka_unit_test(what_a_family_cannot_have_is_refused),
                                       cmocka_unit_test(a_stage_knows_what_is_left),
                                       cmocka_unit_test(times_are_written_short)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
