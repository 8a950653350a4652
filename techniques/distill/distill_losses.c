/* Losses between the student's hidden states and attention and the teacher's, layer by layer.
 *
 * Which layer of the teacher answers to which of the student's: the last to the last (DistilBERT, MiniLM), or evenly,
 * student block i to teacher block (i+1)·L_T/L_S - 1 and embeddings to embeddings (TinyBERT), or as listed. The loss is
 * the mean over these pairs, so that its weight means the same at any depth. States of unequal width are compared
 * through one learned projection of the student's, which starts as the identity on what both have.
 */
#include "distill.h"

#include <string.h>

#include "train/loss_attention.h"
#include "train/loss_hidden.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* ---- pairs of layers ---------------------------------------------------------------------------------------- */

static int even_layer(int block, size_t student, size_t teacher) {
    return (int)(((size_t)(block + 1) * teacher + student / 2) / student) - 1;
}

int distill_layer_map_open(struct layer_map *map, const struct option_names *names, const char *option,
                           bool even_by_default, bool embeddings, size_t student, size_t teacher) {
    int status = 0;
    const char *word = names->count == 1 ? names->items[0] : "";
    size_t *listed = NULL;
    void *block;

    *map = (struct layer_map){0};
    TRY(memory_take(&block, student + 1, sizeof *map->pairs));
    map->pairs = block;
    if (is(word, "auto")) word = even_by_default ? "even" : "last";
    if (is(word, "last")) {
        map->pairs[map->count++] = (struct layer_pair){(int)student - 1, (int)teacher - 1};
    } else if (is(word, "even")) {
        for (int i = embeddings ? -1 : 0; i < (int)student; i++)
            map->pairs[map->count++] = (struct layer_pair){i, even_layer(i, student, teacher)};
    } else {
        if (names->count != student)
            FAIL(E_ARGUMENT,
                 "%s must be auto, last, even, or a layer of the teacher for each of the student's %zu (got %zu)",
                 option, student, names->count);
        TRY(memory_take(&block, student, sizeof *listed));
        listed = block;
        TRY(distill_layer_list(names, option, teacher, listed));
        for (size_t i = 0; i < student; i++) map->pairs[map->count++] = (struct layer_pair){(int)i, (int)listed[i]};
    }
out:
    memory_release(listed);
    if (status < 0) distill_layer_map_close(map);
    return status;
}

void distill_layer_map_close(struct layer_map *map) {
    memory_release(map->pairs);
    *map = (struct layer_map){0};
}

/* These losses are means over tokens, which need not be the objective's shares of a step. */
static double of_share(const struct train_batch *batch) {
    return batch->share > 0 ? batch->token_share / batch->share : 0;
}

/* ---- hidden states ---------------------------------------------------------------------------------------- */

int distill_projection_open(struct projection *projection, size_t student, size_t teacher) {
    int status = 0;
    void *block;
    *projection = (struct projection){0};
    if (student == teacher) goto out;
    TRY(memory_take(&block, 2 * student * teacher, sizeof(float)));
    projection->block = block;
    projection->learnt = (struct trainable){.name = "hidden_projection",
                                            .value = projection->block,
                                            .gradient = projection->block + student * teacher,
                                            .rows = teacher,
                                            .columns = student,
                                            .decay = true};
    for (size_t i = 0; i < student && i < teacher; i++) projection->block[i * student + i] = 1;
out:
    return status;
}

void distill_projection_close(struct projection *projection) {
    memory_release(projection->block);
    memory_release(projection->room);
    *projection = (struct projection){0};
}

/* Through the projection, forth and back. */
static double projected_loss(struct projection *projection, bool cosine, size_t T, const float *student,
                             const float *teacher, double scale, bool add, float *gradient) {
    struct trainable *learnt = &projection->learnt;
    size_t N = learnt->columns, R = learnt->rows;
    float *projected = projection->room, *back = projected + T * R;
    memset(back, 0, T * R * sizeof *back);
    projection_forward(T, N, R, student, learnt->value, projected);
    double loss = cosine ? loss_cosine(T, R, projected, teacher, scale, back)
                         : loss_mean_square(T, R, projected, teacher, scale, back);
    projection_backward(T, N, R, student, learnt->value, back, gradient, add, learnt->gradient);
    return loss;
}

int distill_hidden_losses(struct distill_state *state, const struct train_batch *batch, struct pass *student,
                          double *loss) {
    int status = 0;
    const struct distill_options *o = state->options;
    size_t T = batch->batch.tokens, C = student->model->config.width;
    bool cosine = is(o->hidden, "cosine");
    struct projection *projection = &state->projection;
    double weight = o->hidden_weight / (double)state->hidden_map.count, total = 0;

    if (projection->block && T > projection->room_tokens) {
        void *room = projection->room;
        TRY(memory_resize(&room, 2 * T * projection->learnt.rows, sizeof(float)));
        projection->room = room;
        projection->room_tokens = T;
    }
    for (size_t i = 0; i < state->hidden_map.count; i++) {
        struct layer_pair pair = state->hidden_map.pairs[i];
        const float *own = pass_block_output(student, pair.student),
                    *other = pass_block_output(&state->teacher.pass, pair.teacher);
        double scale = batch->token_share * weight;
        float *gradient = pass_want_block_gradient(student, pair.student);
        if (!gradient) FAIL(E_MEMORY, "out of memory for hidden-state gradients");
        if (projection->block)
            total += projected_loss(projection, cosine, T, own, other, scale, i > 0 || !batch->first, gradient);
        else if (cosine) total += loss_cosine(T, C, own, other, scale, gradient);
        else total += loss_mean_square(T, C, own, other, scale, gradient);
    }
    *loss += weight * total * of_share(batch);
out:
    return status;
}

/* ---- attention ------------------------------------------------------------------------------------------------ */

/* One comparison of two parts (or one with itself) in one pair of layers. */
static int part_loss(struct distill_state *state, const struct train_batch *batch, struct pass *student,
                     struct layer_pair pair, enum attention_loss kind, enum part a, enum part b, size_t heads,
                     double scale, double *loss) {
    int status = 0;
    struct pass *teacher = &state->teacher.pass;
    struct pass *sides[2] = {student, teacher};
    size_t blocks[2] = {(size_t)pair.student, (size_t)pair.teacher};
    const struct model_config *config = &student->model->config;
    struct attention_task task = {.kind = kind,
                                  .offset = batch->batch.offset,
                                  .sequences = batch->batch.sequences,
                                  .causal = config->causal,
                                  .window = config->window};
    double own;
    for (size_t i = 0; i < 2; i++) {
        const struct model_config *of = &sides[i]->model->config;
        struct attention_side *side = i ? &task.teacher : &task.student;
        size_t a_width = (a == PART_QUERY ? of->heads : of->key_value_heads) * of->head_width;
        side->a = pass_part(sides[i], blocks[i], a);
        side->b = pass_part(sides[i], blocks[i], b);
        side->a_heads = a == b && heads ? heads : a_width / of->head_width;
        side->b_heads = a == b ? side->a_heads : of->key_value_heads;
        side->D = a_width / side->a_heads;
        CHECK(side->a && side->b, "the pass keeps no parts");
    }
    float *da = pass_want_part_gradient(student, blocks[0], a), *db = pass_want_part_gradient(student, blocks[0], b);
    if (!da || !db) FAIL(E_MEMORY, "out of memory for attention gradients");
    TRY(loss_attention(&task, batch->token_share * scale, da, db, &own));
    *loss += scale * own * of_share(batch);
out:
    return status;
}

int distill_attention_losses(struct distill_state *state, const struct train_batch *batch, struct pass *student,
                             double *loss) {
    int status = 0;
    const struct distill_options *o = state->options;
    static const enum part parts[3] = {PART_QUERY, PART_KEY, PART_VALUE};
    bool scores = is(o->attention, "scores"), all = is(o->attention, "qkv_relation");
    bool values = is(o->attention, "value_relation") || is(o->attention, "minilm");
    double weight = o->attention_weight / (double)state->attention_map.count;
    size_t heads = (size_t)o->relation_heads;

    for (size_t i = 0; i < state->attention_map.count; i++) {
        struct layer_pair pair = state->attention_map.pairs[i];
        if (scores)
            TRY(part_loss(state, batch, student, pair, ATTENTION_SCORES, PART_QUERY, PART_KEY, 0, weight, loss));
        if (is(o->attention, "minilm"))
            TRY(part_loss(state, batch, student, pair, ATTENTION_RELATION, PART_QUERY, PART_KEY, 0, weight, loss));
        for (size_t p = 0; p < 3; p++)
            if (all || (values && parts[p] == PART_VALUE))
                TRY(part_loss(state, batch, student, pair, ATTENTION_RELATION, parts[p], parts[p], heads, weight,
                              loss));
    }
out:
    return status;
}

/* Heads that compare themselves must be equally many on both sides. */
static int check_heads(const char *what, size_t student, size_t teacher) {
    if (student == teacher) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__,
                        "attention compares %s by %s, but the student has %zu and the teacher %zu: give both as many "
                        "(option heads), or, for relations, relation_heads",
                        what, what, student, teacher);
}

static int check_relation(size_t heads, size_t student, size_t teacher) {
    if (student % heads == 0 && teacher % heads == 0) return 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__,
                        "relation_heads %zu does not divide the widths %zu of the student and %zu of the teacher",
                        heads, student, teacher);
}

int distill_attention_check(const struct distill_options *o, const struct model_config *student,
                            const struct model_config *teacher) {
    int status = 0;
    bool scores = is(o->attention, "scores"), minilm = is(o->attention, "minilm");
    size_t heads = (size_t)o->relation_heads;
    if (is(o->attention, "none")) goto out;
    if (scores || minilm) TRY(check_heads("heads", student->heads, teacher->heads));
    if (scores) goto out;
    if (!heads) TRY(check_heads("key and value heads", student->key_value_heads, teacher->key_value_heads));
    if (!heads && is(o->attention, "qkv_relation")) TRY(check_heads("heads", student->heads, teacher->heads));
    if (heads)
        TRY(check_relation(heads, student->key_value_heads * student->head_width,
                           teacher->key_value_heads * teacher->head_width));
out:
    return status;
}
