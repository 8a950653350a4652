/* A moving average of the weights (Polyak and Juditsky 1992; as Tarvainen and Valpola 2017 use it): what is scored and
 * kept in place of the last step's, while training goes on from the last step.
 *
 * Joined by the values after every AVERAGE_STEPS steps and after the last, with the weight 1 - decay^AVERAGE_STEPS, or
 * 1 / (1 + joined so far) while that is more: a plain mean until there are enough of them, so no early value weighs
 * longer than it would have later.
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "train/train_run.h"

#define AVERAGE_STEPS 10 /* at each, all values are read: a tenth of what every step would cost, and as good a mean */
#define GRAIN 32768      /* elements that a thread takes at a time */

static size_t elements(const struct trainable *trainable) { return trainable->rows * trainable->columns; }

int train_average_open(struct training *training) {
    int status = 0;
    size_t count = 0;
    void *block;
    if (training->plan->average_decay == 0) goto out;
    for (size_t i = 0; i < training->trainables.count; i++) count += elements(&training->trainables.items[i]);
    TRY(memory_take_raw(&block, count, sizeof *training->average));
    training->average = block;
    training->average_bytes = count * sizeof *training->average;
out:
    return status;
}

void train_average_close(struct training *training) { memory_release(training->average); }

struct job {
    float *average, *value, weight;
};

static void join_body(void *context, size_t begin, size_t end, int worker) {
    const struct job *job = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) job->average[i] += job->weight * (job->value[i] - job->average[i]);
}

static void swap_body(void *context, size_t begin, size_t end, int worker) {
    const struct job *job = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float value = job->value[i];
        job->value[i] = job->average[i];
        job->average[i] = value;
    }
}

static void on_all(struct training *training, float weight, void (*body)(void *, size_t, size_t, int)) {
    struct job job = {.average = training->average, .weight = weight};
    for (size_t i = 0; i < training->trainables.count; i++) {
        size_t count = elements(&training->trainables.items[i]);
        job.value = training->trainables.items[i].value;
        parallel_for(count, GRAIN, body, &job);
        job.average += count;
    }
}

void train_average_join(struct training *training) {
    struct train_tally *tally = &training->tally;
    double weight;
    if (!training->average || (tally->steps % AVERAGE_STEPS != 0 && tally->steps != training->schedule.steps)) return;
    optimizer_settle(&training->optimizer);
    weight = fmax(1 - pow(training->plan->average_decay, AVERAGE_STEPS), 1 / (double)(tally->averaged + 1));
    if (tally->averaged == 0) memset(training->average, 0, training->average_bytes);
    on_all(training, (float)weight, join_body);
    tally->averaged++;
    training->average_present = true;
}

void train_average_swap(struct training *training) {
    if (training->average_present) on_all(training, 0, swap_body);
}
