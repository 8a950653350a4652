/* The loss of question answering: each sequence's tokens are the classes of two rows, one for the start and one for
 * the end of the answer, whose logits lie side by side. Rows differ in length, so each is a loss of its own, weighed by
 * how many rows count; they are few and short, and one thread does them in order. */
#include "train/loss.h"

#include "base/error.h"
#include "base/memory.h"

struct column {
    const float *logits, *teacher; /* of this side: two apart */
    const int32_t *position;
    float *gradient;
};

static int one_row(const struct column *column, const uint32_t *offset, size_t s, const struct span_loss *aim,
                   double label_share, double teacher_share, double scale, float *scratch, double *loss) {
    int status = 0;
    size_t first = offset[s], t = offset[s + 1] - first;
    bool inside = column->position[s] >= 0 && (size_t)column->position[s] < t;
    int32_t label = inside ? column->position[s] : LABEL_IGNORED;
    double alpha = column->teacher ? aim->alpha : 0, labelled = inside ? (1 - alpha) * label_share : 0,
           compared = alpha * teacher_share, whole = labelled + compared, own;
    float *z = scratch, *target = scratch + t, *dz = column->gradient ? scratch + 2 * t : NULL;
    struct logit_loss row = {.labels = &label,
                             .teacher = column->teacher ? target : NULL,
                             .temperature = aim->temperature,
                             .alpha = whole > 0 ? compared / whole : 0};

    for (size_t i = 0; i < t; i++) z[i] = column->logits[2 * (first + i)];
    for (size_t i = 0; i < t && column->teacher; i++) target[i] = column->teacher[2 * (first + i)];
    TRY(loss_logits(z, 1, t, &row, scale * whole, dz, &own));
    *loss += whole * own;
    for (size_t i = 0; i < t && dz; i++) column->gradient[2 * (first + i)] = dz[i];
out:
    return status;
}

int loss_span(const float *logits, const uint32_t *offset, size_t sequences, const struct span_loss *aim, double scale,
              float *gradient, double *loss) {
    int status = 0;
    size_t longest = 0;
    void *scratch = NULL;

    *loss = 0;
    for (size_t s = 0; s < sequences; s++)
        if (offset[s + 1] - offset[s] > longest) longest = offset[s + 1] - offset[s];
    TRY(memory_take_raw(&scratch, 3 * longest, sizeof(float)));
    for (size_t side = 0; side < 2; side++) {
        struct column column = {logits + side, aim->teacher ? aim->teacher + side : NULL, side ? aim->end : aim->start,
                                gradient ? gradient + side : NULL};
        size_t inside = 0;
        for (size_t s = 0; s < sequences; s++)
            inside += column.position[s] >= 0 && (size_t)column.position[s] < offset[s + 1] - offset[s];
        for (size_t s = 0; s < sequences; s++)
            TRY(one_row(&column, offset, s, aim, inside ? 0.5 / (double)inside : 0, 0.5 / (double)sequences, scale,
                        scratch, loss));
    }
out:
    memory_release(scratch);
    return status;
}
