/* Results databases for tests (contract: synthetic_db.h). */
#include "synthetic_db.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/random.h"

const char *const synthetic_labels[SYNTHETIC_CELLS] = {
    "baseline", "rtn bits=8", "rtn bits=4 group=64", "magnitude sparsity=0.5", "rtn bits=2", "rtn bits=4 group=96"};

static const struct {
    const char *pipeline, *technique, *options, *executes, *reason;
    double accuracy, bits, ratio;
} shapes[SYNTHETIC_CELLS] = {
    {"baseline", NULL, "{}", "packed", "", 0.912, 32, 1},
    {"rtn", "rtn", "{\"bits\":8,\"group\":0,\"symmetric\":true}", "packed", "", 0.911, 8.06, 0.55},
    {"rtn", "rtn", "{\"bits\":4,\"group\":64,\"symmetric\":false}", "packed", "", 0.902, 4.5, 0.72},
    {"magnitude", "magnitude", "{\"sparsity\":0.5,\"scope\":\"layer\"}", "simulated", "", 0.889, 32, 1.01},
    {"rtn", "rtn", "{\"bits\":2}", "packed", "rtn: layer 1 feed_forward.out: NaN after quantization", 0, 2, 1},
    {"rtn", "rtn", "{\"bits\":4,\"group\":96}", "packed", "256 input columns are not a multiple of group 96", 0, 4, 1},
};

static const double batch_latency_ns[SYNTHETIC_BATCHES] = {2.1e6, 38.5e6};
static const int64_t batch_size[SYNTHETIC_BATCHES] = {1, 32};
enum { LINEAR_F32_BYTES = 6291456, OTHER_BYTES = 8437760, TOKENS_PER_ITEM = 16 };

struct synthetic synthetic_defaults(void) {
    struct synthetic s = {.name = "synthetic",
                          .cpu = "Synthetic CPU 9000",
                          .noise_seed = 1,
                          .noise_frac = 0.01,
                          .drift_factor = 1,
                          .data_hash = "d1d2d3d4d5d6d7d8d1d2d3d4d5d6d7d8d1d2d3d4d5d6d7d8d1d2d3d4d5d6d7d8",
                          .rounds = 10,
                          .samples = 20,
                          .warmup = 5,
                          .timing_valid = true,
                          .finished = true};
    for (int i = 0; i < SYNTHETIC_CELLS; i++) {
        s.latency_factor[i] = s.bytes_factor[i] = 1;
        s.status[i] = i == SYNTHETIC_FAILED ? "failed" : i == SYNTHETIC_SKIPPED ? "skipped" : "ok";
    }
    return s;
}

/* Right answers: the items whose fixed difficulty lies below the accuracy, except that a method of its own (`stream`)
 * gets a few others right and wrong. */
static void outcomes_make(double accuracy, uint64_t stream, uint8_t *correct) {
    for (uint64_t i = 0; i < SYNTHETIC_ITEMS; i++) {
        double difficulty = random_uniform_at(7, random_stream("items", 0, 0), i);
        double own = random_uniform_at(7, random_stream("method", stream, 0), i);
        double threshold = own < 0.02 ? accuracy - 0.05 : own < 0.04 ? accuracy + 0.05 : accuracy;
        correct[i] = difficulty < threshold;
    }
}

static void hash_label(const char *label, const char *salt, char hex[HASH_HEX]) {
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, label);
    hash_text(&hash, salt);
    hash_close(&hash, hex);
}

struct context {
    struct store *store;
    const struct synthetic *settings;
    int64_t session_id, cell_ids[SYNTHETIC_CELLS];
};

static void uuid_make(const struct context *c, int cell, const char *kind, int64_t round, char uuid[64]) {
    snprintf(uuid, 64, "%08lld-%s-%d-%lld", (long long)c->session_id, kind, cell, (long long)round);
}

/* The curve of the first stage, which all cells share: a loss that falls with noise, scored three times. */
static void curve_make(struct curve_record curve[SYNTHETIC_STEPS], struct evaluation_record scores[3]) {
    for (int i = 0; i < SYNTHETIC_STEPS; i++) {
        double noise = random_uniform_at(9, random_stream("curve", 0, 0), (uint64_t)i) - 0.5;
        curve[i] = (struct curve_record){.step = i + 1,
                                         .loss = 0.25 + 1.8 * exp(-i / 40.0) + 0.1 * noise,
                                         .rate = 5e-4 * (1 - (double)i / SYNTHETIC_STEPS),
                                         .gradient_norm = 1 + noise,
                                         .seconds = 0.5 * (i + 1)};
    }
    for (int i = 0; i < 3; i++)
        scores[i] = (struct evaluation_record){0, (i + 1) * SYNTHETIC_STEPS / 3, "accuracy", 0.90 + 0.007 * i};
}

/* What the second stage told of layers: inputs that are spread like a bell, each wider than the one before. */
static void layers_make(struct layer_record layers[SYNTHETIC_LAYERS], char names[SYNTHETIC_LAYERS][32],
                        char histograms[SYNTHETIC_LAYERS][1024]) {
    static const char *const roles[] = {"query", "attention_output", "up", "down"};
    for (int i = 0; i < SYNTHETIC_LAYERS; i++) {
        size_t used = 0;
        double reach = 2 + i;
        snprintf(names[i], 32, "block.%d.%s", i / 4, roles[i % 4]);
        for (int k = 0; k < 64; k++) {
            double place = (k - 31.5) / 31.5 * 4;
            used += (size_t)snprintf(histograms[i] + used, 1024 - used, "%c%d", k ? ',' : '[',
                                     (int)(10000 * exp(-place * place / 2)));
        }
        snprintf(histograms[i] + used, 1024 - used, "]");
        layers[i] = (struct layer_record){.stage = 1,
                                          .layer = names[i],
                                          .format = i == 7 ? "f32" : "int8",
                                          .low = -0.7 * reach,
                                          .high = 0.8 * reach,
                                          .seen_low = -0.9 * reach,
                                          .seen_high = reach,
                                          .histogram = histograms[i],
                                          .histogram_low = -reach,
                                          .histogram_width = reach / 32,
                                          .error_name = "divergence_nats",
                                          .error = 1e-4 * (1 + i * i),
                                          .score_lost = 0.0005 * (i - 1),
                                          .bytes_f32 = 65536 << (i % 4 / 2),
                                          .bytes_packed = 16896 << (i % 4 / 2)};
    }
}

static int build_store(const struct context *c, int cell) {
    int status = 0;
    const struct synthetic *s = c->settings;
    char uuid[64], artifact_hash[HASH_HEX], salt[64], path[128];
    bool ok = strcmp(s->status[cell], "ok") == 0;
    double accuracy = shapes[cell].accuracy + s->accuracy_change[cell];
    void *correct_block = NULL, *predicted_block = NULL, *nll_block = NULL;
    TRY(memory_take(&correct_block, SYNTHETIC_ITEMS, 1));
    TRY(memory_take(&predicted_block, SYNTHETIC_ITEMS, sizeof(int32_t)));
    TRY(memory_take(&nll_block, SYNTHETIC_ITEMS, sizeof(float)));
    uint8_t *correct = correct_block;
    int32_t *predicted = predicted_block;
    float *nll = nll_block;
    size_t right = 0;
    outcomes_make(accuracy, (uint64_t)cell, correct);
    for (int i = 0; i < SYNTHETIC_ITEMS; i++) {
        right += correct[i];
        predicted[i] = correct[i] ? i % SYNTHETIC_CLASSES : (i + 1) % SYNTHETIC_CLASSES;
        nll[i] = correct[i] ? 0.1f : 2.5f;
    }
    double measured = (double)right / SYNTHETIC_ITEMS;
    double linear = LINEAR_F32_BYTES * shapes[cell].bits / 32;
    snprintf(salt, sizeof salt, "%g %g", s->bytes_factor[cell], s->accuracy_change[cell]);
    hash_label(synthetic_labels[cell], salt, artifact_hash);
    snprintf(path, sizeof path, "results/artifacts/%.16s.safetensors", artifact_hash);
    struct artifact_record artifact = {.hash = artifact_hash,
                                       .path = path,
                                       .executes = shapes[cell].executes,
                                       .bytes = (int64_t)((linear + OTHER_BYTES) * s->bytes_factor[cell]),
                                       .linear_bytes = (int64_t)linear,
                                       .linear_f32_bytes = LINEAR_F32_BYTES,
                                       .bits_per_weight = shapes[cell].bits};
    struct stage_record stages[] = {{.technique = "finetune",
                                     .options = "{\"epochs\":3,\"learning_rate\":0.0003}",
                                     .version = 1,
                                     .wall_ms = 61234.5,
                                     .cached = cell != SYNTHETIC_BASELINE,
                                     .linear_bytes = LINEAR_F32_BYTES,
                                     .total_bytes = LINEAR_F32_BYTES + OTHER_BYTES},
                                    {.technique = shapes[cell].technique,
                                     .options = shapes[cell].options,
                                     .version = 1,
                                     .wall_ms = 143.25,
                                     .linear_bytes = (int64_t)linear,
                                     .total_bytes = artifact.bytes}};
    struct metric_record metrics[] = {{"accuracy", "frac", measured, -1},
                                      {"macro_f1", "frac", measured - 0.01, -1},
                                      {"matthews", "coefficient", measured - 0.02, -1},
                                      {"mean_nll", "nats", 2.5 - 2.4 * measured, -1},
                                      {"accuracy", "frac", 0.914, 0},
                                      {"mean_nll", "nats", 0.306, 0},
                                      {"accuracy", "frac", measured + 0.002, 1},
                                      {"mean_nll", "nats", 2.49 - 2.4 * measured, 1},
                                      {"weight_rmse", "weight", 0.0125, 1},
                                      {"clipped_frac", "frac", NAN, 1}};
    const struct outcome_record outcomes[] = {{"correct", OUTCOME_U8, SYNTHETIC_ITEMS, correct},
                                              {"predicted", OUTCOME_I32, SYNTHETIC_ITEMS, predicted},
                                              {"nll", OUTCOME_F32, SYNTHETIC_ITEMS, nll}};
    uuid_make(c, cell, "build", 0, uuid);
    struct run_record run = {.uuid = uuid,
                             .kind = "build",
                             .status = s->status[cell],
                             .reason = ok ? "" : shapes[cell].reason,
                             .log = ok ? "" : "worker: rtn: pack failed\n",
                             .started_at = "2026-01-31T12:00:00Z",
                             .cell_id = c->cell_ids[cell],
                             .session_id = c->session_id,
                             .position = cell,
                             .exit_code = strcmp(s->status[cell], "failed") == 0 ? 1 : 0,
                             .wall_ms = 61500,
                             .overhead_ms = 7.5,
                             .peak_rss_bytes = 312 << 20};
    struct curve_record curve[SYNTHETIC_STEPS];
    struct evaluation_record scores[3];
    struct layer_record layers[SYNTHETIC_LAYERS];
    char names[SYNTHETIC_LAYERS][32], histograms[SYNTHETIC_LAYERS][1024];
    curve_make(curve, scores);
    layers_make(layers, names, histograms);
    if (ok && shapes[cell].technique && strcmp(shapes[cell].technique, "rtn") == 0) {
        run.layers = layers;
        run.layer_count = SYNTHETIC_LAYERS;
    }
    if (ok) {
        run.curve = curve;
        run.curve_count = SYNTHETIC_STEPS;
        run.evaluations = scores;
        run.evaluation_count = 3;
        run.artifact = &artifact;
        run.stages = stages;
        run.stage_count = shapes[cell].technique ? 2 : 1;
        run.metrics = metrics;
        run.metric_count = shapes[cell].technique ? 10 : 6;
        run.outcomes = outcomes;
        run.outcome_count = 3;
    }
    TRY(store_run(c->store, &run));
out:
    memory_release(correct_block);
    memory_release(predicted_block);
    memory_release(nll_block);
    return status;
}

static int round_store(const struct context *c, int cell, int64_t round) {
    int status = 0;
    const struct synthetic *s = c->settings;
    char uuid[64];
    size_t per_batch = (size_t)(s->warmup + s->samples);
    void *block = NULL;
    TRY(memory_take(&block, SYNTHETIC_BATCHES * per_batch, sizeof(struct sample_record)));
    struct sample_record *samples = block;
    struct random noise;
    random_open(&noise, s->noise_seed, random_stream("round", (uint64_t)round, (uint64_t)cell));
    /* The machine drifts from round to round, for all cells alike; what is left over is the cell's own. */
    double drift = s->drift_factor * (1 + 0.05 * sin((double)round + (double)s->noise_seed));
    for (int b = 0; b < SYNTHETIC_BATCHES; b++) {
        double own = 1 + s->noise_frac * random_normal(&noise);
        double centre = batch_latency_ns[b] * shapes[cell].ratio * s->latency_factor[cell] * drift * own;
        for (size_t i = 0; i < per_batch; i++) {
            bool warmup = i < (size_t)s->warmup, outlier = !warmup && i == per_batch - 1 && round == 3;
            double jitter = 1 + 0.01 * fabs(random_normal(&noise)) + (warmup ? 0.4 / (double)(i + 1) : 0);
            samples[(size_t)b * per_batch + i] =
                (struct sample_record){.batch = batch_size[b],
                                       .ordinal = (int64_t)i,
                                       .tokens = batch_size[b] * TOKENS_PER_ITEM,
                                       .warmup = warmup,
                                       .outlier = outlier,
                                       .latency_ns = centre * jitter * (outlier ? 3 : 1)};
        }
    }
    double multiply_adds = 2.5e7, weight_bytes = LINEAR_F32_BYTES * shapes[cell].bits / 32;
    struct counter_record counters[] = {
        {"time", "latency_mean", "ns", "", 1, batch_latency_ns[0] * shapes[cell].ratio, NAN, NAN},
        {"rusage", "minor_faults", "count", "", 1, 12, NAN, NAN},
        {"rusage", "involuntary_switches", "count", "", 1, 1, NAN, NAN},
        {"papi", "PAPI_TOT_INS", "count", "no hardware counters in this virtual machine", 1, NAN, NAN, NAN},
        {"papi", "PAPI_L2_TCM", "count", "no hardware counters in this virtual machine", 1, NAN, NAN, NAN},
        {"papi", "sde_multiply_adds", "count", "", 1, multiply_adds, 2.1e6, 2.1e6},
        {"papi", "sde_weight_bytes", "bytes", "", 1, weight_bytes, 2.1e6, 2.1e6},
    };
    uuid_make(c, cell, "time", round, uuid);
    struct run_record run = {.uuid = uuid,
                             .kind = "time",
                             .status = "ok",
                             .started_at = "2026-01-31T12:05:00Z",
                             .cell_id = c->cell_ids[cell],
                             .session_id = c->session_id,
                             .round = round,
                             .position = (cell + round) % SYNTHETIC_FAILED,
                             .wall_ms = 950,
                             .overhead_ms = 6.25,
                             .peak_rss_bytes = (int64_t)(LINEAR_F32_BYTES * shapes[cell].bits / 32) + (40 << 20),
                             .samples = samples,
                             .sample_count = SYNTHETIC_BATCHES * per_batch,
                             .counters = counters,
                             .counter_count = sizeof counters / sizeof *counters};
    TRY(store_run(c->store, &run));
out:
    memory_release(block);
    return status;
}

static int frame_store(struct context *c) {
    int status = 0;
    const struct synthetic *s = c->settings;
    int64_t host_id, build_id, experiment_id;
    char hash[HASH_HEX], key[HASH_HEX], baseline_key[HASH_HEX];
    struct host_record host = {.cpu = s->cpu,
                               .cpu_flags = "avx2",
                               .caches = "L1 32K, L2 512K, L3 32M",
                               .kernel = "6.1.0",
                               .virtual = "kvm",
                               .cores = 2,
                               .memory_bytes = INT64_C(8) << 30};
    struct build_record build = {.version = "0.1.0",
                                 .commit = "0123456789ab",
                                 .mode = "release",
                                 .compiler = "gcc 12.2.0",
                                 .flags = "-O3",
                                 .blas = "OpenBLAS 0.3.21 Zen",
                                 .onednn = "2.6.2"};
    hash_label(s->name, "experiment", hash);
    struct experiment_record experiment = {.name = s->name,
                                           .hash = hash,
                                           .path = "configs/synthetic.yaml",
                                           .description = "numbers made up for tests",
                                           .text = "experiment: synthetic\n",
                                           .task = "wordnet",
                                           .data_hash = s->data_hash,
                                           .model = "{\"family\":\"bert\",\"layers\":2,\"width\":256}",
                                           .primary_metric = "accuracy",
                                           .higher_is_better = true,
                                           .classes = "[\"act\",\"animal\",\"artifact\",\"communication\","
                                                      "\"location\",\"person\",\"plant\",\"state\"]"};
    TRY(store_host(c->store, &host, &host_id));
    TRY(store_build(c->store, &build, &build_id));
    TRY(store_experiment(c->store, &experiment, &experiment_id));
    struct session_record session = {.experiment_id = experiment_id,
                                     .host_id = host_id,
                                     .build_id = build_id,
                                     .command = "runexp configs/synthetic.yaml",
                                     .cpu_flags_used = "avx2",
                                     .cpumask = 0xffffffff,
                                     .load_average = 0.25,
                                     .order_seed = s->noise_seed,
                                     .rounds = s->rounds,
                                     .samples = s->samples,
                                     .warmup = s->warmup,
                                     .timing_valid = s->timing_valid,
                                     .timing_note = s->timing_valid ? NULL : "dirty build"};
    TRY(store_session_begin(c->store, &session, &c->session_id));
    hash_label(s->name, synthetic_labels[SYNTHETIC_BASELINE], baseline_key);
    for (int i = 0; i < SYNTHETIC_CELLS; i++) {
        hash_label(s->name, synthetic_labels[i], key);
        struct cell_record cell = {.experiment_id = experiment_id,
                                   .key = key,
                                   .label = synthetic_labels[i],
                                   .pipeline = shapes[i].pipeline,
                                   .options = shapes[i].options,
                                   .gemm = "openblas",
                                   .baseline_key = baseline_key,
                                   .ordinal = i,
                                   .threads = 2,
                                   .seed = 1,
                                   .is_baseline = i == SYNTHETIC_BASELINE};
        TRY(store_cell(c->store, &cell, &c->cell_ids[i]));
    }
out:
    return status;
}

static int yardsticks_store(const struct context *c) {
    static const char *const names[] = {"majority", "words", "word_pairs"};
    static const double accuracies[] = {0.2, 0.891, 0.905};
    int status = 0;
    void *block = NULL;
    TRY(memory_take(&block, SYNTHETIC_ITEMS, 1));
    for (int y = 0; y < 3; y++) {
        uint8_t *correct = block;
        size_t right = 0;
        outcomes_make(accuracies[y], 100 + (uint64_t)y, correct);
        for (int i = 0; i < SYNTHETIC_ITEMS; i++) right += correct[i];
        TRY(store_yardstick(c->store, "wordnet", c->settings->data_hash, names[y], (double)right / SYNTHETIC_ITEMS,
                            correct, SYNTHETIC_ITEMS));
    }
out:
    memory_release(block);
    return status;
}

int synthetic_store(struct store *store, const struct synthetic *settings, int64_t *session_id) {
    int status = 0;
    struct context c = {.store = store, .settings = settings};
    TRY(frame_store(&c));
    TRY(yardsticks_store(&c));
    for (int i = 0; i < SYNTHETIC_CELLS; i++)
        if (settings->status[i]) TRY(build_store(&c, i));
    for (int64_t round = 0; round < settings->rounds; round++)
        for (int i = 0; i < SYNTHETIC_CELLS; i++)
            if (settings->status[i] && strcmp(settings->status[i], "ok") == 0) TRY(round_store(&c, i, round));
    TRY(store_compare(store, c.session_id, 0.95));
    if (settings->finished) TRY(store_session_end(store, c.session_id));
    *session_id = c.session_id;
out:
    return status;
}

int synthetic_database(const char *path) {
    int status = 0;
    struct store store = {0};
    struct synthetic settings = synthetic_defaults();
    int64_t session_id;
    unlink(path);
    TRY(store_open(&store, path, STORE_WRITE));
    TRY(synthetic_store(&store, &settings, &session_id));
out:
    store_close(&store);
    return status;
}
