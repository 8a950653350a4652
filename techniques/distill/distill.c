/* distill: a smaller student learns what a teacher says, beside or instead of the labels.
 *
 * The teacher is the model as the stage finds it, or one given by path; the student takes its place. Soft targets
 * (Hinton, Vinyals and Dean 2015), hidden states (DistilBERT: Sanh et al. 2019; TinyBERT: Jiao et al. 2020) and
 * attention (TinyBERT; MiniLM: Wang et al. 2020, 2021) add to the objective's own loss through the two hooks of the
 * training loop, so with alpha 0 and nothing compared this is finetune, bit for bit. Causal language models learn the
 * teacher's next-token distributions (word level) or the texts that it writes (sequence level: Kim and Rush 2016).
 */
#include "distill.h"

#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(struct distill_options, field)
static const struct option options[] = {
    {"teacher", OPTION_PATH, "", 0, 0, NULL, NULL,
     "A model file or folder to learn from; none: the model as the stage finds it.", AT(teacher)},
    {"ensemble", OPTION_PATHS, "[]", 0, 0, NULL, NULL,
     "More models to learn from: classes, scores, similarities and answers to aim at are the mean of what they and the "
     "teacher say.",
     AT(ensemble)},
    {"from", OPTION_CHOICE, "teacher", 0, 0, "teacher|model|scratch", NULL,
     "What the student starts as: layers of the teacher, layers of the model as the stage finds it, or random weights.",
     AT(from)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL,
     "Which layers the student takes, by number from 0, as [0, 2, 4]; none: `depth` of them.", AT(layers)},
    {"depth", OPTION_INTEGER, "0", 0, 1024, NULL, "layers",
     "How many layers, spread evenly from the first to the last; 0: half of them.", AT(depth)},
    {"width", OPTION_INTEGER, "0", 0, 65536, NULL, NULL,
     "Width of the student, which then takes the leading part of every matrix; 0: the source's.", AT(width)},
    {"heads", OPTION_INTEGER, "0", 0, 4096, NULL, NULL,
     "Attention heads; 0: as wide as the source's where `width` allows it, else as many.", AT(heads)},
    {"feed_forward", OPTION_INTEGER, "0", 0, 1048576, NULL, NULL,
     "Width between the feed-forward layers; 0: in proportion to `width`.", AT(feed_forward)},
    {"alpha", OPTION_REAL, "0.5", 0, 1, NULL, "frac",
     "Share of the teacher's targets in the loss; the rest is the objective's own. 0: plain training.", AT(alpha)},
    {"temperature", OPTION_REAL, "2", 0.01, 100, NULL, NULL,
     "Logits of both are divided by it before the softmax; the loss is multiplied by its square.", AT(temperature)},
    {"hidden", OPTION_CHOICE, "none", 0, 0, "none|cosine|mse", NULL,
     "Loss between hidden states; of unequal width through a learned projection of the student's.", AT(hidden)},
    {"hidden_weight", OPTION_REAL, "1", 0, 1000, NULL, NULL, "Its weight beside the rest of the loss.",
     AT(hidden_weight)},
    {"hidden_map", OPTION_NAMES, "[auto]", 0, 0, NULL, NULL,
     "Layers compared: last, even (embeddings too), or the teacher's layer for each of the student's, as [1, 3, 5]; "
     "auto: "
     "cosine last, mse even.",
     AT(hidden_map)},
    {"attention", OPTION_CHOICE, "none", 0, 0, "none|scores|value_relation|minilm|qkv_relation", NULL,
     "Loss between attentions: scores before the softmax (TinyBERT), relations among values, these and attention "
     "itself "
     "(MiniLM), or relations among queries, keys and values (MiniLMv2).",
     AT(attention)},
    {"attention_weight", OPTION_REAL, "1", 0, 1000, NULL, NULL, "Its weight beside the rest of the loss.",
     AT(attention_weight)},
    {"attention_map", OPTION_NAMES, "[auto]", 0, 0, NULL, NULL,
     "Layers compared, as in hidden_map; auto: scores even, relations last.", AT(attention_map)},
    {"relation_heads", OPTION_INTEGER, "0", 0, 4096, NULL, NULL,
     "Heads among which relations are taken, whatever heads the models have; 0: their own.", AT(relation_heads)},
    {"level", OPTION_CHOICE, "word", 0, 0, "word|sequence|both", NULL,
     "causal_lm: learn the teacher's distribution of each next token, the texts it writes, or both.", AT(level)},
    {"teacher_top", OPTION_INTEGER, "0", 0, 65536, NULL, "tokens",
     "causal_lm: best next tokens of the teacher that are computed once and kept; 0: all, computed in each step.",
     AT(teacher_top)},
    {"prompt_tokens", OPTION_INTEGER, "16", 1, 65536, NULL, "tokens",
     "sequence level: tokens of each example that the teacher continues.", AT(prompt_tokens)},
    {"beams", OPTION_INTEGER, "1", 1, 64, NULL, NULL, "sequence level: width of the beam search; 1: greedy.",
     AT(beams)},
    TRAIN_OPTIONS(struct distill_options, train, "3", "0.00005"),
    OPTION_END,
};

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }
static bool reads_texts(const struct distill_options *o) { return !is(o->level, "word"); }
static bool aims(const struct distill_options *o) { return o->alpha > 0 && !is(o->level, "sequence"); }
static bool compares_hidden(const struct distill_options *o) { return !is(o->hidden, "none"); }
static bool compares_attention(const struct distill_options *o) { return !is(o->attention, "none"); }

static uint32_t needs_of(const void *opaque) {
    const struct distill_options *o = opaque;
    return technique_training_needs(&o->train);
}

/* ---- what fits ------------------------------------------------------------------------------------------------- */

static const struct examples *examples_of(const struct technique_context *context, const struct distill_options *o) {
    return train_options_read_text(&o->train) ? context->unlabelled : context->training;
}

/* Longest example that the student sees; examples NULL: any. */
static size_t cut_of(const struct distill_options *o, const struct model_config *student,
                     const struct examples *examples) {
    size_t cut = student->positions, longest = 0;
    if (o->train.max_tokens && (size_t)o->train.max_tokens < cut) cut = (size_t)o->train.max_tokens;
    for (size_t i = 0; examples && i < examples->count; i++)
        if (examples->offset[i + 1] - examples->offset[i] > longest)
            longest = examples->offset[i + 1] - examples->offset[i];
    return longest && longest < cut ? longest : cut;
}

static int check_teacher(const struct distill_options *o, const struct model *teacher,
                         const struct model_config *student, enum train_objective objective, size_t cut) {
    int status = 0;
    const struct model_config *config = &teacher->config;
    unsigned heads = aims(o) || reads_texts(o) ? train_objective_heads(objective) : 0, bit = 1;
    while (bit <= HEAD_SPAN && !(heads & bit & ~config->model_heads)) bit <<= 1;
    if (bit <= HEAD_SPAN) FAIL(E_UNSUPPORTED, "the teacher has no %s head", model_head_name((enum model_head)bit));
    if (config->vocabulary != student->vocabulary)
        FAIL(E_UNSUPPORTED, "the teacher's vocabulary has %zu tokens and the student's %zu", config->vocabulary,
             student->vocabulary);
    if (config->positions < cut)
        FAIL(E_UNSUPPORTED, "the teacher has %zu positions, fewer than the %zu tokens that the student sees",
             config->positions, cut);
    if ((heads & HEAD_CLASSIFICATION) && config->classes != student->classes)
        FAIL(E_UNSUPPORTED, "the teacher has %zu classes and the student %zu", config->classes, student->classes);
out:
    return status;
}

static int check_language_model(const struct distill_options *o, const struct model_config *student,
                                enum train_objective objective, size_t cut) {
    int status = 0;
    if (objective != TRAIN_CAUSAL_LM && (reads_texts(o) || o->teacher_top))
        FAIL(E_ARGUMENT, "%s is of causal language models, and the objective is %s",
             reads_texts(o) ? "level: sequence" : "teacher_top", train_objective_name(objective));
    if ((size_t)o->teacher_top > student->vocabulary)
        FAIL(E_ARGUMENT, "teacher_top %lld is more than the vocabulary of %zu", (long long)o->teacher_top,
             student->vocabulary);
    if (reads_texts(o) && (size_t)o->prompt_tokens >= cut)
        FAIL(E_ARGUMENT, "prompt_tokens %lld leaves nothing to write in texts of %zu tokens",
             (long long)o->prompt_tokens, cut);
out:
    return status;
}

static int check_ensemble(const struct distill_options *o, const struct model_config *student,
                          enum train_objective objective, size_t cut) {
    int status = 0;
    struct model member = {0};
    bool language = objective == TRAIN_CAUSAL_LM || objective == TRAIN_MASKED_LM;
    if (o->ensemble.count && language)
        FAIL(E_UNSUPPORTED, "language models learn from one teacher: an ensemble is not for %s",
             train_objective_name(objective));
    for (size_t i = 0; i < o->ensemble.count; i++) {
        TRY(model_open(&member, o->ensemble.items[i], false));
        status = check_teacher(o, &member, student, objective, cut);
        model_close(&member);
        if (status < 0) {
            error_prefix(status, "ensemble: %s", o->ensemble.items[i]);
            goto out;
        }
    }
out:
    return status;
}

static int open_maps(const struct distill_options *o, size_t student, size_t teacher, struct layer_map *hidden,
                     struct layer_map *attention) {
    int status = 0;
    if (compares_hidden(o))
        TRY(distill_layer_map_open(hidden, &o->hidden_map, "hidden_map", is(o->hidden, "mse"), true, student, teacher));
    if (compares_attention(o))
        TRY(distill_layer_map_open(attention, &o->attention_map, "attention_map", is(o->attention, "scores"), false,
                                   student, teacher));
out:
    return status;
}

/* Attention in 8-bit products, where the stage finds it so, is to be the student's too. */
static int check_attention(const struct model *found, const struct model_config *student) {
    const struct model sized = {.config = *student};
    return found->int8_attention ? model_check_int8_attention(&sized) : 0;
}

static int check_weights(const struct distill_options *o, enum train_objective objective) {
    bool taught = aims(o) || reads_texts(o) || compares_hidden(o) || compares_attention(o);
    if (objective != TRAIN_CLASSIFICATION || !taught || !o->train.micro_batch ||
        !train_options_weigh_classes(&o->train))
        return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__,
                        "class_weights and a teacher together need the whole batch in one pass: leave out micro_batch "
                        "(checkpoint_activations saves memory, too)");
}

/* Everything that can be known before a step is taken. */
static int check(const struct technique_context *context, const struct distill_options *o, const struct model *teacher,
                 const struct model *source, struct model_config *student) {
    int status = 0;
    enum train_objective objective = train_options_objective(&o->train, context->objective);
    struct layer_map hidden = {0}, attention = {0};
    const struct examples *examples = examples_of(context, o);
    size_t cut;
    TRY(distill_student_check(&source->config, o, student));
    TRY(check_attention(context->model, student));
    TRY(check_weights(o, objective));
    cut = cut_of(o, student, examples);
    TRY(check_teacher(o, teacher, student, objective, examples && examples->count ? cut : 0));
    TRY(check_ensemble(o, student, objective, examples && examples->count ? cut : 0));
    TRY(check_language_model(o, student, objective, cut));
    TRY(distill_attention_check(o, student, &teacher->config));
    TRY(open_maps(o, student->layers, teacher->config.layers, &hidden, &attention));
out:
    distill_layer_map_close(&hidden);
    distill_layer_map_close(&attention);
    return status;
}

static int settle(void *opaque) {
    int status = 0;
    const struct distill_options *o = opaque;
    TRY(train_options_settle(&o->train));
    if (o->layers.count && is(o->from, "scratch"))
        FAIL(E_ARGUMENT, "from: scratch takes a depth, not layers of a teacher");
    if (o->layers.count && o->depth && (size_t)o->depth != o->layers.count)
        FAIL(E_ARGUMENT, "depth %lld and %zu layers contradict each other", (long long)o->depth, o->layers.count);
    if (o->ensemble.count && o->alpha == 0) FAIL(E_ARGUMENT, "with alpha 0 nothing of an ensemble is heard");
    if (compares_attention(o) && o->train.checkpoint_activations)
        FAIL(E_ARGUMENT, "attention cannot be compared while checkpoint_activations throws it away");
out:
    return status;
}

static int probe(const struct technique_context *context, void *opaque) {
    int status = 0;
    struct distill_options *o = opaque;
    struct model opened = {0};
    struct model_config student;
    const struct model *found = context->model;

    TRY(technique_training_probe(context, &o->train));
    if (*o->teacher) TRY(model_open(&opened, o->teacher, false));
    const struct model *teacher = *o->teacher ? &opened : found;
    status = check(context, o, teacher, is(o->from, "model") ? found : teacher, &student);
    if (status == E_ARGUMENT || status == E_SHAPE) status = E_UNSUPPORTED; /* of these options on this model */
    TRY(status);
    /* What is stored says how large the student is. */
    o->depth = (int64_t)student.layers;
    o->width = (int64_t)student.width;
    o->heads = (int64_t)student.heads;
    o->feed_forward = (int64_t)student.feed_forward;
out:
    model_close(&opened);
    return status;
}

static int foresee(struct technique_context *context, const void *opaque) {
    int status = 0;
    const struct distill_options *o = opaque;
    struct model opened = {0}, student = {0};
    struct model_config config;
    bool from_path = *o->teacher && !is(o->from, "model");
    if (from_path) TRY(model_open(&opened, o->teacher, false));
    TRY(distill_student_config(from_path ? &opened.config : &context->model->config, o, &config));
    TRY(model_shape(&student, &config));
    student.int8_attention = context->model->int8_attention;
    model_close(context->model);
    *context->model = student;
out:
    model_close(&opened);
    return status;
}

/* ---- the stage --------------------------------------------------------------------------------------------------- */

static int watch_teacher(void *opaque, size_t done, size_t all) {
    struct technique_context *context = opaque;
    char text[96];
    if (!context->progress) return 0;
    snprintf(text, sizeof text, "teacher: %zu of %zu examples", done, all);
    return context->progress(context->host, 0, text);
}

/* Put the student in the place of what the stage found, which is kept in the state. Attention is computed as it was
 * there. */
static int place_student(struct technique_context *context, struct distill_state *state) {
    int status = 0;
    const struct distill_options *o = state->options;
    struct model student;
    bool path = *o->teacher != 0;
    if (path) TRY(model_open(&state->opened, o->teacher, false));
    TRY(distill_student_open(&student, path && !is(o->from, "model") ? &state->opened : context->model, o,
                             context->seed));
    if (context->model->int8_attention) {
        status = model_set_int8_attention(&student);
        if (status < 0) {
            model_close(&student);
            goto out;
        }
    }
    state->found = *context->model;
    *context->model = student;
    state->teacher.model = path ? &state->opened : &state->found;
out:
    return status;
}

static int check_examples(const struct examples *examples) {
    int status = 0;
    if (!examples->count) FAIL(E_ARGUMENT, "there is nothing to train on: the task gave no examples");
    for (size_t i = 0; i < examples->count; i++)
        if (examples->offset[i + 1] <= examples->offset[i]) FAIL(E_SHAPE, "training example %zu is empty", i);
out:
    return status;
}

/* The teacher's texts as examples, in which what it was given is known. */
static int write_texts(struct technique_context *context, struct distill_state *state, struct output_task *task,
                       const struct examples **examples) {
    int status = 0;
    size_t count = task->examples->count;
    void *block;
    struct output_task written = *task;
    written.kind = OUTPUT_TEXT;
    written.prompt = (size_t)state->options->prompt_tokens;
    written.beams = (size_t)state->options->beams;
    if (count > UINT32_MAX / task->cut) FAIL(E_LIMIT, "%zu texts of %zu tokens are too many", count, task->cut);
    TRY(distill_outputs_open(&state->texts, &state->teacher, &written, context->cache_dir, watch_teacher, context));
    TRY(memory_take(&block, 2 * count + 1, sizeof(uint32_t)));
    state->written_offset = block;
    state->prompt = state->written_offset + count + 1;
    for (size_t i = 0; i < count; i++) {
        size_t length = distill_example_length(task, i);
        state->written_offset[i + 1] = (uint32_t)((i + 1) * task->cut);
        state->prompt[i] = (uint32_t)(length < written.prompt ? length : written.prompt);
    }
    state->written = (struct examples){
        .count = count, .ids = (const int32_t *)(const void *)state->texts.kept.rows, .offset = state->written_offset};
    *examples = &state->written;
out:
    return status;
}

/* Which outputs of all examples the objective aims at; false: it asks at each step. */
static bool outputs_kind(const struct distill_state *state, enum output_kind *kind) {
    switch (state->objective) {
    case TRAIN_CLASSIFICATION:
    case TRAIN_REGRESSION: *kind = OUTPUT_CLASSES; return true;
    case TRAIN_SIMILARITY: *kind = OUTPUT_COSINE; return true;
    case TRAIN_QUESTION_ANSWERING: *kind = OUTPUT_SPAN; return true;
    case TRAIN_CAUSAL_LM: *kind = OUTPUT_TOP; return state->options->teacher_top > 0;
    case TRAIN_MASKED_LM:
    case TRAIN_OBJECTIVES: break;
    }
    return false;
}

/* All that the teacher says before the first step, and what it takes to ask it at each. */
static int prepare_teacher(struct technique_context *context, struct distill_state *state,
                           const struct examples **examples) {
    int status = 0;
    const struct distill_options *o = state->options;
    struct model *teacher = state->teacher.model;
    const struct model_config *student = &context->model->config;
    struct output_task task = {
        .examples = *examples, .cut = cut_of(o, student, *examples), .top = (size_t)o->teacher_top};
    bool kept = outputs_kind(state, &task.kind);

    state->aims = aims(o);
    state->compares = compares_hidden(o) || compares_attention(o);
    TRY(check_examples(*examples));
    model_unprepare(teacher);
    if (state->aims || reads_texts(o)) TRY(model_prepare(teacher, GEMM_BUILTIN));
    if (reads_texts(o)) TRY(write_texts(context, state, &task, examples));
    task.examples = *examples;
    if (state->aims && kept)
        TRY(distill_outputs_open(&state->outputs, &state->teacher, &task, context->cache_dir, watch_teacher, context));
    if (o->ensemble.count)
        TRY(distill_ensemble_open(&state->outputs, &o->ensemble, &task, context->cache_dir, watch_teacher, context,
                                  &state->teacher.forwards));
    if (kept || !state->aims) model_unprepare(teacher);
    if (state->compares) TRY(pass_open(&state->teacher.pass, teacher, NULL));
    TRY(open_maps(o, student->layers, teacher->config.layers, &state->hidden_map, &state->attention_map));
    if (compares_hidden(o)) TRY(distill_projection_open(&state->projection, student->width, teacher->config.width));
out:
    return status;
}

static int apply(struct technique_context *context, void *opaque, const void *opaque_options) {
    int status = 0;
    struct distill_state *state = opaque;
    const struct distill_options *o = opaque_options;
    struct technique_training training;
    struct train_teacher teacher = {state, distill_targets, NULL};
    bool placed = false;

    state->options = o;
    TRY(technique_training_open(&training, context, &o->train));
    state->objective = training.plan.objective;
    TRY(place_student(context, state));
    placed = true;
    TRY(prepare_teacher(context, state, &training.examples));
    if (state->compares) teacher.losses = distill_losses;
    if (state->aims || state->compares || state->prompt) training.plan.teacher = &teacher;
    if (state->projection.block) {
        training.plan.extra = &state->projection.learnt;
        training.plan.extra_count = 1;
    }
    TRY(train_run(context->model, training.examples, &training.plan, &training.host, &state->result));
out:
    technique_training_close(&training);
    if (status < 0 && placed) { /* the caller's model is what it was */
        pass_close(&state->teacher.pass);
        model_close(context->model);
        *context->model = state->found;
        state->found = (struct model){0};
    }
    return status;
}

static int report(struct technique_context *context, void *opaque, const void *opaque_options) {
    const struct distill_state *state = opaque;
    (void)opaque_options;
    technique_training_report(context, &state->result);
    context->metric(context->host, "teacher_forwards", "", (double)state->teacher.forwards);
    return 0;
}

static void close_state(void *opaque) {
    struct distill_state *state = opaque;
    pass_close(&state->teacher.pass);
    workspace_close(&state->teacher.workspace);
    distill_outputs_close(&state->outputs);
    distill_outputs_close(&state->texts);
    memory_release(state->written_offset);
    distill_projection_close(&state->projection);
    distill_layer_map_close(&state->hidden_map);
    distill_layer_map_close(&state->attention_map);
    memory_release(state->logits);
    memory_release(state->ids);
    memory_release(state->labels);
    model_close(&state->found);
    model_close(&state->opened);
}

const struct technique technique_distill = {
    .abi = TECHNIQUE_ABI,
    .version = 4,
    .name = "distill",
    .summary = "Trains a smaller student on what a teacher says, and on how it gets there.",
    .source =
        "soft targets: Hinton, Vinyals and Dean 2015, section 2; hidden states: Sanh et al. 2019 (DistilBERT), Jiao et "
        "al. 2020 (TinyBERT), equations 7 and 8; relations: Wang et al. 2020 (MiniLM), equations 5 to 7, and 2021 "
        "(MiniLMv2), section 3.1; sequence level: Kim and Rush 2016, section 3.2",
    .needs = NEEDS_TRAINING_DATA | NEEDS_UNLABELLED_TEXT | NEEDS_GRADIENTS | NEEDS_CACHE,
    .options = options,
    .options_bytes = sizeof(struct distill_options),
    .state_bytes = sizeof(struct distill_state),
    .needs_of = needs_of,
    .settle = settle,
    .probe = probe,
    .foresee = foresee,
    .apply = apply,
    .report = report,
    .close = close_state,
};
