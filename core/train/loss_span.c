/* The loss of question answering: each sequence's tokens are the classes of two rows, one for the start and one for
 * the end of the answer, whose logits lie side by side. Rows differ in length, so each is a loss of its own, weighed by
 * how many rows count; they are few and short, and one thread does them in order. */
#include "train/loss.h"

#include <stdbool.h>

#include "base/error.h"
#include "base/memory.h"

/* One side: logits two apart, and what they aim at. */
struct side {
    float *logits;
    const float *teacher;
    const int32_t *position;
    double label_share, teacher_share; /* of a row */
};

static bool is_inside(const struct side *side, const uint32_t *offset, size_t s) {
    return side->position[s] >= 0 && (size_t)side->position[s] < offset[s + 1] - offset[s];
}

/* Floats of scratch for rows of at most `longest` tokens: the row, the teacher's, and two for the loss. */
static size_t scratch_floats(size_t longest) { return 4 * longest + MEMORY_ALIGN / sizeof(float); }

static double one_row(const struct side *side, const uint32_t *offset, size_t s, const struct span_loss *aim,
                      double scale, float *scratch) {
    size_t t = offset[s + 1] - offset[s];
    int32_t label = is_inside(side, offset, s) ? side->position[s] : LABEL_IGNORED;
    double labelled = label == LABEL_IGNORED ? 0 : side->label_share, whole = labelled + side->teacher_share, own;
    float *z = scratch, *target = scratch + t, *at = side->logits + 2 * (size_t)offset[s];
    struct logit_loss row = {.labels = &label,
                             .teacher = side->teacher ? target : NULL,
                             .temperature = aim->temperature,
                             .alpha = whole > 0 ? side->teacher_share / whole : 0};
    struct logit_means means;

    for (size_t i = 0; i < t; i++) z[i] = at[2 * i];
    for (size_t i = 0; i < t && side->teacher; i++) target[i] = side->teacher[2 * ((size_t)offset[s] + i)];
    logit_loss_means(&row, 1, t, &means);
    double loss = whole * logit_loss_rows(&row, &means, 0, 1, t, scale * whole, z, &own, scratch + 2 * t);
    for (size_t i = 0; i < t; i++) at[2 * i] = z[i];
    return loss;
}

int loss_span(float *logits, const uint32_t *offset, size_t sequences, const struct span_loss *aim, double scale,
              double *loss) {
    int status = 0;
    size_t longest = 0;
    double alpha = aim->teacher ? aim->alpha : 0;
    void *scratch = NULL;

    *loss = 0;
    for (size_t s = 0; s < sequences; s++)
        if (offset[s + 1] - offset[s] > longest) longest = offset[s + 1] - offset[s];
    TRY(memory_take_raw(&scratch, scratch_floats(longest), sizeof(float)));
    for (size_t half = 0; half < 2; half++) {
        struct side side = {.logits = logits + half,
                            .teacher = aim->teacher ? aim->teacher + half : NULL,
                            .position = half ? aim->end : aim->start,
                            .teacher_share = 0.5 * alpha / (double)sequences};
        size_t inside = 0;
        for (size_t s = 0; s < sequences; s++) inside += is_inside(&side, offset, s);
        side.label_share = inside ? 0.5 * (1 - alpha) / (double)inside : 0;
        for (size_t s = 0; s < sequences; s++) *loss += one_row(&side, offset, s, aim, scale, scratch);
    }
out:
    memory_release(scratch);
    return status;
}
