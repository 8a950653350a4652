/* Sampling: what a seed promises, what temperature, top-k and top-p leave, refusals; beams on a tiny model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/generate.h"

enum { V = 29, DRAWS = 4000 };
static const int32_t prompt[] = {3, 17, 8};
#define PROMPT (sizeof prompt / sizeof *prompt)

static struct workspace workspace;

/* Weights of deviation 0.4: the next token is neither certain nor uniform. */
static void tiny(struct model *model) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, "llama"), 0);
    config.layers = 2, config.width = 24, config.heads = 4, config.key_value_heads = 2, config.head_width = 6;
    config.feed_forward = 40, config.vocabulary = V, config.positions = 48;
    config.model_heads = HEAD_CAUSAL_LM;
    config.tied = false;
    if (model_create(model, &config, 5, 0.4) < 0 || model_prepare(model, GEMM_BUILTIN) < 0)
        fail_msg("%s", error_text());
}

static void run(const struct model *model, const struct generate_options *options, struct generated *out) {
    size_t count;
    if (generate(model, prompt, PROMPT, options, &workspace, out, &count) < 0) fail_msg("%s", error_text());
    assert_int_equal(count, options->beams > 1 ? options->beams : 1);
}

/* The model's own distribution of the first new token, at a temperature. */
static void expected_distribution(const struct model *model, double temperature, double *p) {
    uint32_t offset[] = {0, PROMPT}, row = PROMPT - 1;
    struct batch batch = {.sequences = 1, .tokens = PROMPT, .ids = prompt, .offset = offset};
    struct model_output output;
    float logits[V];
    double sum = 0;
    assert_int_equal(model_forward(model, &batch, NULL, &workspace, &output), 0);
    assert_int_equal(model_logits(model, output.hidden, &row, 1, &workspace, logits), 0);
    for (size_t v = 0; v < V; v++) sum += p[v] = exp((double)logits[v] / temperature);
    for (size_t v = 0; v < V; v++) p[v] /= sum;
}

static void count_draws(const struct model *model, struct generate_options options, size_t *counts) {
    double p[V];
    expected_distribution(model, 1, p);
    memset(counts, 0, V * sizeof *counts);
    options.new_tokens = 1;
    for (size_t i = 0; i < DRAWS; i++) {
        struct generated out;
        options.seed = i + 1;
        run(model, &options, &out);
        counts[out.ids[0]]++;
        if (!(fabs(out.sum_logprob - log(p[out.ids[0]])) < 1e-4)) fail_msg("log-probability %g", out.sum_logprob);
        generated_close(&out, 1);
    }
}

/* Counts against a distribution over `kept` values: χ² with kept-1 degrees of freedom lies within five deviations of
 * its mean but for one chance in some ten thousand; ids of probability 0 never come. */
static void expect_counts(const size_t *counts, const double *p) {
    double square = 0, kept = 0;
    for (size_t v = 0; v < V; v++) {
        double expected = p[v] * DRAWS;
        if (p[v] == 0 && counts[v]) fail_msg("id %zu came %zu times but is left out", v, counts[v]);
        if (p[v] == 0) continue;
        square += ((double)counts[v] - expected) * ((double)counts[v] - expected) / expected;
        kept++;
    }
    if (!(square <= kept - 1 + 5 * sqrt(2 * (kept - 1)) + 1)) fail_msg("chi square %g for %g values", square, kept);
}

/* The k most probable, then those needed to reach a share of what is left, renormalized. */
static void restrict_distribution(double *p, size_t k, double share) {
    size_t order[V], kept = 0;
    double mass = 0, sum = 0;
    for (size_t v = 0; v < V; v++) {
        size_t at = v;
        for (; at > 0 && p[order[at - 1]] < p[v]; at--) order[at] = order[at - 1];
        order[at] = v;
    }
    for (size_t i = 0; i < k; i++) mass += p[order[i]];
    while (kept < k && sum < share * mass) sum += p[order[kept++]];
    for (size_t i = 0; i < V; i++) p[order[i]] = i < kept ? p[order[i]] / sum : 0;
}

static void draws_follow_the_distribution(void **state) {
    static const struct {
        double temperature, top_p;
        size_t top_k;
    } cases[] = {{1, 1, 0},   {0.5, 1, 0},   {2, 1, 0},     {1, 1, 5},
                 {1, 0.7, 0}, {1.5, 0.6, 9}, {1, 1, V + 1}, {1, 0.001, 0}};
    struct model model = {0};
    (void)state;
    tiny(&model);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct generate_options options;
        size_t counts[V];
        double p[V];
        generate_defaults(&options);
        options.temperature = cases[i].temperature, options.top_k = cases[i].top_k, options.top_p = cases[i].top_p;
        count_draws(&model, options, counts);
        expected_distribution(&model, cases[i].temperature, p);
        if (cases[i].top_k || cases[i].top_p < 1)
            restrict_distribution(p, cases[i].top_k && cases[i].top_k < V ? cases[i].top_k : V, cases[i].top_p);
        expect_counts(counts, p);
    }
    model_close(&model);
}

static void no_temperature_is_too_low(void **state) {
    static const double temperatures[] = {1e-3, 1e-20, 1e-38, 1e-300, 5e-324};
    struct model model = {0};
    struct generate_options options;
    struct generated greedy, out;
    (void)state;
    tiny(&model);
    generate_defaults(&options);
    options.new_tokens = 1;
    run(&model, &options, &greedy);
    assert_int_not_equal(greedy.ids[0], 0); /* what not a number among the logits would give */
    for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++) {
        options.temperature = temperatures[i];
        run(&model, &options, &out);
        if (out.ids[0] != greedy.ids[0]) fail_msg("%g: id %d", temperatures[i], out.ids[0]);
        assert_true(fabs(out.sum_logprob - greedy.sum_logprob) < 1e-5);
        generated_close(&out, 1);
    }
    generated_close(&greedy, 1);
    model_close(&model);
}

static void a_seed_gives_the_same_text(void **state) {
    struct model model = {0};
    struct generate_options options;
    struct generated one, two, other;
    (void)state;
    tiny(&model);
    generate_defaults(&options);
    options.new_tokens = 40, options.temperature = 1, options.top_p = 0.95, options.seed = 7;
    threads_set(1);
    run(&model, &options, &one);
    threads_set(2);
    run(&model, &options, &two);
    options.seed = 8;
    run(&model, &options, &other);
    assert_int_equal(one.count, 40);
    assert_memory_equal(one.ids, two.ids, 40 * sizeof *one.ids);
    assert_true(one.sum_logprob == two.sum_logprob);
    assert_memory_not_equal(one.ids, other.ids, 40 * sizeof *one.ids);
    generated_close(&one, 1), generated_close(&two, 1), generated_close(&other, 1);
    model_close(&model);
}

struct heard {
    size_t count;
    int32_t ids[64];
};
static void hear(void *context, size_t index, int32_t id) {
    struct heard *heard = context;
    assert_int_equal(index, heard->count);
    heard->ids[heard->count++] = id;
}

/* Fixed length without an ending id; with one the text stops at it, which is its last. */
static void texts_end_where_they_should(void **state) {
    struct model model = {0};
    struct generate_options options;
    struct generated whole, ended;
    struct heard heard = {0};
    size_t at = 0;
    (void)state;
    tiny(&model);
    generate_defaults(&options);
    options.new_tokens = 20, options.temperature = 1, options.seed = 3, options.token = hear, options.context = &heard;
    run(&model, &options, &whole);
    assert_int_equal(whole.count, 20);
    assert_int_equal(heard.count, 20);
    assert_memory_equal(heard.ids, whole.ids, 20 * sizeof *whole.ids);
    int32_t ends[] = {-5, whole.ids[9]};
    while (whole.ids[at] != ends[1]) at++;
    options.end = ends, options.end_count = 2, options.token = NULL;
    run(&model, &options, &ended);
    assert_true(ended.ended && !whole.ended);
    assert_int_equal(ended.count, at + 1);
    assert_memory_equal(ended.ids, whole.ids, ended.count * sizeof *ended.ids);
    generated_close(&whole, 1), generated_close(&ended, 1);
    model_close(&model);
}

/* The log-probability of every pair of new tokens. */
static void score_pairs(const struct model *model, double first[V], double pairs[V][V]) {
    for (int32_t a = -1; a < V; a++) {
        int32_t ids[PROMPT + 1];
        size_t T = a < 0 ? PROMPT : PROMPT + 1;
        uint32_t offset[] = {0, (uint32_t)T}, row = (uint32_t)T - 1;
        struct batch batch = {.sequences = 1, .tokens = T, .ids = ids, .offset = offset};
        struct model_output output;
        float logits[V];
        double sum = 0, most = -INFINITY, *to = a < 0 ? first : pairs[a];
        memcpy(ids, prompt, sizeof prompt);
        ids[PROMPT] = a;
        assert_int_equal(model_forward(model, &batch, NULL, &workspace, &output), 0);
        assert_int_equal(model_logits(model, output.hidden, &row, 1, &workspace, logits), 0);
        for (size_t v = 0; v < V; v++) most = fmax(most, (double)logits[v]);
        for (size_t v = 0; v < V; v++) sum += exp((double)logits[v] - most);
        for (size_t v = 0; v < V; v++) to[v] = (a < 0 ? 0 : first[a]) + (double)logits[v] - most - log(sum);
    }
}

static int falling(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Half as many beams as there are ids find the best pairs of those that begin with the better half. Steep: the head's
 * weights are so large that most tokens are hundreds of nats below the best one. */
static void expect_best_pairs(float steep) {
    enum { K = V / 2 };
    struct model model = {0};
    struct generate_options options;
    struct generated out[K];
    static double first[V], pairs[V][V], sums[V * V];
    double order[V];
    size_t count = 0;
    tiny(&model);
    struct linear *head = model_linear_find(&model, "lm_head");
    for (size_t i = 0; i < head->rows * head->columns; i++) head->value[i] *= steep;
    model_unprepare(&model);
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    score_pairs(&model, first, pairs);
    memcpy(order, first, sizeof order);
    qsort(order, V, sizeof *order, falling);
    if (steep > 1) assert_true(order[0] - order[1] > 200); /* no second token has a probability in f32 */
    for (size_t a = 0; a < V; a++)
        for (size_t b = 0; b < V && first[a] >= order[K - 1]; b++) sums[count++] = pairs[a][b];
    qsort(sums, count, sizeof *sums, falling);
    generate_defaults(&options);
    options.new_tokens = 2, options.beams = K, options.length_penalty = 0;
    run(&model, &options, out);
    for (size_t i = 0; i < K; i++) {
        double near = 1e-4 * (1 + 0.01 * fabs(sums[i]));
        assert_true(fabs(out[i].sum_logprob - sums[i]) < near && out[i].score == out[i].sum_logprob);
        assert_true(fabs(pairs[out[i].ids[0]][out[i].ids[1]] - sums[i]) < near);
        if (i) assert_true(out[i].score <= out[i - 1].score);
    }
    generated_close(out, K);
    model_close(&model);
}

static void wide_beams_find_the_best_pairs(void **state) {
    (void)state;
    expect_best_pairs(1);
}

static void beams_tell_improbable_tokens_apart(void **state) {
    (void)state;
    expect_best_pairs(2000);
}

static void refusals_say_why(void **state) {
    struct model model = {0};
    struct generate_options good, bad;
    struct generated out[V];
    size_t count;
    (void)state;
    tiny(&model);
    generate_defaults(&good);
    good.new_tokens = 4;
#define REFUSED(code, word, tokens)                                                                                    \
    assert_int_equal(generate(&model, prompt, tokens, &bad, &workspace, out, &count), code);                           \
    assert_non_null(strstr(error_text(), word))
    bad = good, bad.new_tokens = 46;
    REFUSED(E_SHAPE, "48 positions", PROMPT);
    bad = good, bad.new_tokens = 0;
    REFUSED(E_ARGUMENT, "new_tokens", PROMPT);
    bad = good, bad.temperature = -1;
    REFUSED(E_ARGUMENT, "temperature", PROMPT);
    bad = good, bad.top_p = 0;
    REFUSED(E_ARGUMENT, "top_p", PROMPT);
    bad = good, bad.beams = 4, bad.temperature = 1;
    REFUSED(E_ARGUMENT, "beam", PROMPT);
    bad = good, bad.beams = V;
    REFUSED(E_ARGUMENT, "beams", PROMPT);
    bad = good;
    REFUSED(E_ARGUMENT, "prompt", 0);
    for (int beams = 1; beams <= 4; beams += 3) { /* every allocation fails once */
        int status = E_MEMORY;
        bad = good, bad.beams = (size_t)beams;
        for (long n = 1; status == E_MEMORY; n++) {
            assert_true(n < 1000);
            memory_fail_after(n);
            status = generate(&model, prompt, PROMPT, &bad, &workspace, out, &count);
            memory_fail_after(0);
        }
        assert_int_equal(status, 0);
        generated_close(out, count);
    }
    model_close(&model);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(no_temperature_is_too_low),
        cmocka_unit_test(a_seed_gives_the_same_text),
        cmocka_unit_test(texts_end_where_they_should),
        cmocka_unit_test(wide_beams_find_the_best_pairs),
        cmocka_unit_test(beams_tell_improbable_tokens_apart),
        cmocka_unit_test(refusals_say_why),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    workspace_close(&workspace);
    return failed;
}
