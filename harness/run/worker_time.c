/* See worker.h: the timing worker, a fresh process that opens an artifact and runs it.
 *
 * Order: open and prepare (timed once), first forward pass, then for each batch size warm-ups and samples
 * under the time meter; the peak of resident memory is read; then each further meter gets a pass of its own.
 * The classes that the timed passes predict are compared with those that scoring stored, so that what is
 * timed is what was scored.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "meters/meter.h"
#include "model/generate.h"
#include "run/worker.h"

#define RESULT_FD 3
#define COUNTERS_MAX 64
#define METER_PASSES 5 /* forward passes under each meter but the clock: counts hardly vary */

void timing_job_encode(const struct timing_job *job, struct wire_writer *writer) {
    wire_put_text(writer, job->artifact);
    wire_put_f64(writer, job->limits.wall_s);
    wire_put_u64(writer, (uint64_t)job->limits.memory_mb);
    wire_put_u64(writer, (uint64_t)job->threads);
    wire_put_u64(writer, job->cpumask);
    wire_put_u64(writer, job->gemm);
    wire_put_u64(writer, job->storage);
    wire_put_u64(writer, job->warmup);
    wire_put_u64(writer, job->samples);
    wire_put_u64(writer, job->new_tokens);
    wire_put_u64(writer, job->cache);
    wire_put_u64(writer, job->meter_count);
    for (size_t i = 0; i < job->meter_count; i++) wire_put_text(writer, job->meters[i]);
    wire_put_u64(writer, job->input_count);
    for (size_t i = 0; i < job->input_count; i++) {
        const struct timing_input *input = &job->inputs[i];
        wire_put_bytes(writer, input->offset, (input->batch + 1) * sizeof *input->offset);
        wire_put_bytes(writer, input->ids, input->offset[input->batch] * sizeof *input->ids);
        wire_put_bytes(writer, input->expected, input->batch * sizeof *input->expected);
    }
}

/* One input of the job, copied to aligned memory. */
struct timed_batch {
    struct batch batch;
    int32_t *ids, *expected;
    uint32_t *offset;
};

struct timer {
    struct wire_inbox inbox;
    struct record record;
    struct model model;
    struct workspace workspace;
    struct timed_batch *batches;
    size_t batch_count, warmup, samples, new_tokens;
    enum cache_type cache;
    size_t timed_items, differing_items;
};

static int copy_out(struct wire_reader *reader, size_t size, void **copy, size_t *count) {
    int status = 0;
    size_t bytes;
    const void *view = wire_get_bytes(reader, &bytes);
    if (!view || bytes % size) FAIL(E_FORMAT, "malformed timing job");
    TRY(memory_take(copy, bytes, 1));
    memcpy(*copy, view, bytes);
    *count = bytes / size;
out:
    return status;
}

static int read_batch(struct wire_reader *reader, struct timed_batch *out) {
    int status = 0;
    size_t offsets = 0, ids = 0, expected = 0;
    TRY(copy_out(reader, sizeof(uint32_t), (void **)&out->offset, &offsets));
    TRY(copy_out(reader, sizeof(int32_t), (void **)&out->ids, &ids));
    TRY(copy_out(reader, sizeof(int32_t), (void **)&out->expected, &expected));
    if (offsets < 2 || expected != offsets - 1 || out->offset[offsets - 1] != ids)
        FAIL(E_FORMAT, "malformed timing job");
    out->batch = (struct batch){.sequences = offsets - 1, .tokens = ids, .ids = out->ids, .offset = out->offset};
out:
    return status;
}

static void timer_close(struct timer *timer) {
    for (size_t i = 0; timer->batches && i < timer->batch_count; i++) {
        memory_release(timer->batches[i].ids);
        memory_release(timer->batches[i].offset);
        memory_release(timer->batches[i].expected);
    }
    memory_release(timer->batches);
    workspace_close(&timer->workspace);
    model_close(&timer->model);
    record_close(&timer->record);
    wire_inbox_close(&timer->inbox);
}

static const struct meter *find_meter(const char *name) {
    for (const struct meter *const *meter = meters; *meter; meter++)
        if (strcmp((*meter)->name, name) == 0) return *meter;
    return NULL;
}

static int forward(struct timer *timer, const struct timed_batch *input, struct model_output *output) {
    struct batch batch = input->batch;
    if (timer->model.config.model_heads & HEAD_CLASSIFICATION) batch.read = READ_FIRST; /* as scoring does */
    return model_forward(&timer->model, &batch, NULL, &timer->workspace, output);
}

/* Do the logits of a timed pass name the classes that scoring stored? */
static void compare_classes(struct timer *timer, const struct timed_batch *input, const struct model_output *output) {
    size_t classes = timer->model.config.classes;
    if (!output->logits) return;
    for (size_t b = 0; b < input->batch.sequences; b++) {
        if (input->expected[b] < 0) continue;
        const float *row = output->logits + b * classes;
        size_t best = 0;
        for (size_t c = 1; c < classes; c++)
            if (row[c] > row[best]) best = c;
        timer->timed_items++;
        timer->differing_items += (int32_t)best != input->expected[b];
    }
}

static int latency_pass(struct timer *timer, const struct meter *meter, void *state, size_t first, size_t count) {
    int status = 0;
    struct meter_value value;
    struct model_output output;
    size_t batch = timer->batches[first].batch.sequences;
    for (size_t i = 0; i < timer->warmup + timer->samples; i++) {
        bool warmup = i < timer->warmup;
        const struct timed_batch *input = &timer->batches[first + (warmup ? i : i - timer->warmup) % count];
        TRY(meter->start(state));
        TRY(forward(timer, input, &output));
        TRY(meter->stop(state));
        if (meter->read(state, &value, 1) != 1) FAIL(E_STATE, "the time meter gave no reading");
        struct sample_record sample = {(int64_t)batch, (int64_t)i, (int64_t)input->batch.tokens, warmup, false,
                                       value.value,    NULL};
        record_sample(&timer->record, &sample);
        if (!warmup) compare_classes(timer, input, &output);
    }
out:
    return status;
}

/* When the first token of a generated text was there. */
struct first_token {
    uint64_t at_ns;
};
static void on_token(void *context, size_t index, int32_t id) {
    struct first_token *first = context;
    (void)id;
    if (index == 0) first->at_ns = clock_ns();
}

/* Generate from each input, exactly new_tokens each: how long the prompt takes to its first token (prefill), the
 * others (decode), and both. Samples of a phase are stored together. */
static int generation_pass(struct timer *timer) {
    static const char *const phases[] = {"", "prefill", "decode"};
    int status = 0;
    size_t runs = timer->warmup + timer->samples, count;
    double *times[3] = {NULL, NULL, NULL};
    struct first_token first;
    struct generate_options options;
    generate_defaults(&options);
    options.new_tokens = timer->new_tokens;
    options.cache = timer->cache;
    options.token = on_token;
    options.context = &first;
    for (int p = 0; p < 3; p++) TRY(memory_take((void **)&times[p], runs, sizeof(double)));
    for (size_t i = 0; i < runs; i++) {
        const struct timed_batch *input =
            &timer->batches[(i < timer->warmup ? i : i - timer->warmup) % timer->batch_count];
        struct generated text = {0};
        uint64_t began = clock_ns();
        TRY(generate(&timer->model, input->ids, input->batch.tokens, &options, &timer->workspace, &text, &count));
        uint64_t ended = clock_ns();
        size_t made = text.count;
        generated_close(&text, count);
        if (made != timer->new_tokens)
            FAIL(E_STATE, "%zu tokens were generated, %zu were asked for", made, timer->new_tokens);
        times[0][i] = (double)(ended - began);
        times[1][i] = (double)(first.at_ns - began);
        times[2][i] = (double)(ended - first.at_ns);
    }
    for (int p = 0; p < 3; p++)
        for (size_t i = 0; i < runs; i++) {
            size_t prompt =
                timer->batches[(i < timer->warmup ? i : i - timer->warmup) % timer->batch_count].batch.tokens;
            size_t tokens = p == 0 ? prompt + timer->new_tokens : p == 1 ? prompt : timer->new_tokens - 1;
            if (tokens == 0) continue; /* one new token: there is nothing to decode after it */
            struct sample_record sample = {1,     (int64_t)i,  (int64_t)tokens, i < timer->warmup,
                                           false, times[p][i], phases[p]};
            record_sample(&timer->record, &sample);
        }
out:
    for (int p = 0; p < 3; p++) memory_release(times[p]);
    return status;
}

/* A pass over the first inputs of one batch size under one meter. Readings are per forward pass. */
static int meter_pass(struct timer *timer, const struct meter *meter, size_t first, size_t count) {
    int status = 0;
    void *state = NULL;
    bool opened = false;
    char reason[160] = "";
    struct meter_value values[COUNTERS_MAX];
    struct model_output output;
    int64_t batch = (int64_t)timer->batches[first].batch.sequences;
    if (count > METER_PASSES) count = METER_PASSES;
    if (meter->probe && meter->probe(reason, sizeof reason) < 0) {
        struct counter_record none = {meter->name, meter->name, "", reason, batch, NAN, NAN, NAN};
        record_counter(&timer->record, &none);
        goto out;
    }
    TRY(memory_take(&state, 1, meter->state_bytes));
    if (meter->open) TRY(meter->open(state));
    opened = true;
    TRY(meter->start(state));
    for (size_t i = 0; i < count; i++) TRY(forward(timer, &timer->batches[first + i], &output));
    TRY(meter->stop(state));
    size_t got = meter->read(state, values, COUNTERS_MAX);
    for (size_t i = 0; i < got; i++) {
        struct counter_record counter = {meter->name,
                                         values[i].name,
                                         values[i].unit,
                                         values[i].reason,
                                         batch,
                                         values[i].value / (double)count,
                                         values[i].enabled_ns,
                                         values[i].running_ns};
        record_counter(&timer->record, &counter);
    }
out:
    if (opened && meter->close) meter->close(state);
    memory_release(state);
    return status;
}

/* The peak of resident memory of this process, from the kernel; 0 where /proc does not say. */
static int64_t peak_rss_bytes(void) {
    char line[256];
    int64_t kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        long long value;
        if (sscanf(line, "VmHWM: %lld kB", &value) == 1) kib = value;
    }
    fclose(file);
    return kib * 1024;
}

static int time_artifact(struct timer *timer) {
    int status = 0;
    uint32_t kind;
    struct wire_reader reader;
    const char *meter_names[16];
    void *state = NULL;
    bool opened = false;
    int got;
    while ((got = wire_inbox_next(&timer->inbox, &kind, &reader)) == 0) {
        int filled = wire_inbox_fill(&timer->inbox, STDIN_FILENO);
        TRY(filled);
        if (filled == 0) FAIL(E_FORMAT, "the timing job ended early");
    }
    TRY(got);
    const char *artifact = wire_get_text(&reader);
    struct process_limits limits = {.wall_s = wire_get_f64(&reader)};
    limits.memory_mb = (int64_t)wire_get_u64(&reader);
    process_child_limits(&limits);
    threads_set((int)wire_get_u64(&reader));
    kernels_open((uint32_t)wire_get_u64(&reader));
    enum gemm_backend gemm = (enum gemm_backend)wire_get_u64(&reader);
    enum weight_storage storage = (enum weight_storage)wire_get_u64(&reader);
    timer->warmup = (size_t)wire_get_u64(&reader);
    timer->samples = (size_t)wire_get_u64(&reader);
    timer->new_tokens = (size_t)wire_get_u64(&reader);
    timer->cache = (enum cache_type)wire_get_u64(&reader);
    uint64_t meter_count = wire_get_u64(&reader);
    if (meter_count > sizeof meter_names / sizeof *meter_names) FAIL(E_FORMAT, "malformed timing job");
    for (uint64_t i = 0; i < meter_count; i++) meter_names[i] = wire_get_text(&reader);
    uint64_t inputs = wire_get_u64(&reader);
    if (reader.bad || !artifact || !timer->samples || inputs == 0 || inputs > TIMING_INPUTS_MAX ||
        inputs % timer->samples)
        FAIL(E_FORMAT, "malformed timing job");
    TRY(memory_take((void **)&timer->batches, (size_t)inputs, sizeof *timer->batches));
    timer->batch_count = (size_t)inputs;
    for (size_t i = 0; i < timer->batch_count; i++) TRY(read_batch(&reader, &timer->batches[i]));

    uint64_t began = clock_ns();
    struct model_output output;
    TRY(model_open(&timer->model, artifact, false));
    uint64_t loaded = clock_ns();
    TRY(model_prepare_as(&timer->model, gemm, storage));
    uint64_t prepared = clock_ns();
    TRY(forward(timer, &timer->batches[0], &output));
    uint64_t first = clock_ns();
    record_metric(&timer->record, "load_ms", "ms", (double)(loaded - began) / 1e6, -1);
    record_metric(&timer->record, "prepare_ms", "ms", (double)(prepared - loaded) / 1e6, -1);
    record_metric(&timer->record, "first_forward_ms", "ms", (double)(first - prepared) / 1e6, -1);

    const struct meter *meter = find_meter("time");
    CHECK(meter, "the time meter is not built in");
    TRY(memory_take(&state, 1, meter->state_bytes));
    if (meter->open) TRY(meter->open(state));
    opened = true;
    if (timer->new_tokens) TRY(generation_pass(timer));
    else
        for (size_t i = 0; i < timer->batch_count; i += timer->samples)
            TRY(latency_pass(timer, meter, state, i, timer->samples));
    timer->record.run.peak_rss_bytes = peak_rss_bytes();
    record_metric(&timer->record, "timed_items", "items", (double)timer->timed_items, -1);
    record_metric(&timer->record, "differing_items", "items", (double)timer->differing_items, -1);
    /* The built-in kernels give the same bits in any batch; a library may order its sums by batch size. */
    size_t allowed = gemm == GEMM_BUILTIN ? 0 : timer->timed_items / 100 + 1;
    if (timer->differing_items > allowed)
        FAIL(E_STATE,
             "%zu of %zu timed items were classified unlike when they were scored: what was timed is not what was "
             "scored",
             timer->differing_items, timer->timed_items);
    for (uint64_t k = 0; k < meter_count; k++) {
        const struct meter *extra = meter_names[k] ? find_meter(meter_names[k]) : NULL;
        if (!extra || extra == meter) continue;
        for (size_t i = 0; i < timer->batch_count; i += timer->samples)
            TRY(meter_pass(timer, extra, i, timer->samples));
    }
    timer->record.work_ns = clock_ns() - began;
out:
    if (opened && meter->close) meter->close(state);
    memory_release(state);
    return status;
}

int worker_time(uint64_t main_ns) {
    struct timer timer = {0};
    struct wire_writer writer = {0};
    int status = time_artifact(&timer);
    timer.record.main_ns = main_ns;
    if (status == 0) status = record_finish(&timer.record);
    if (status == 0) {
        record_encode(&timer.record, &writer);
        status = wire_send(RESULT_FD, MESSAGE_RESULT, &writer);
    } else {
        wire_put_u64(&writer, (uint64_t)-status);
        wire_put_text(&writer, error_text());
        wire_send(RESULT_FD, MESSAGE_ERROR, &writer);
    }
    wire_writer_close(&writer);
    timer_close(&timer);
    return status < 0;
}
