/* The layers that train against double precision: their forward pass against one written down here in double, their
 * backward pass against central differences of that one.
 *
 * With inputs near 1 and a step h of 1e-5 the difference quotient is wrong by about h² and 1e-16/h, below 1e-9; what
 * remains is the rounding of f32 sums of at most some hundred terms, 100·2⁻²⁴ = 6e-6 of the largest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "kernels/kernels.h"
#include "model/layers.h"

#define STEP 1e-5
#define TOLERANCE 2e-5
#define INPUTS 4

/* A layer in double: y from the inputs; the loss is a weighting of y. */
struct layer {
    void (*forward)(const struct layer *layer);
    double *in[INPUTS], *y, *weight;
    size_t count[INPUTS], outputs;
    const void *shape;
};

static double *normal(size_t count, uint64_t stream) {
    struct random random;
    double *values = calloc(count + 1, sizeof *values);
    random_open(&random, 11, stream);
    for (size_t i = 0; i < count; i++) values[i] = (double)(float)(0.7 * random_normal(&random));
    return values;
}

static float *floats(size_t count) {
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; i <= count; i++) values[i] = NAN; /* what a layer overwrites it must not read */
    return values;
}

static float *narrow(size_t count, const double *values) {
    float *narrowed = floats(count);
    for (size_t i = 0; i < count; i++) narrowed[i] = (float)values[i];
    return narrowed;
}

static void layer_open(struct layer *layer, size_t outputs) {
    layer->outputs = outputs;
    layer->y = normal(outputs, 100);
    layer->weight = normal(outputs, 101);
    for (size_t i = 0; i < INPUTS; i++) layer->in[i] = normal(layer->count[i], i + 1);
}

static void layer_close(struct layer *layer) {
    for (size_t i = 0; i < INPUTS; i++) free(layer->in[i]);
    free(layer->y), free(layer->weight);
}

static double loss(const struct layer *layer) {
    double sum = 0;
    layer->forward(layer);
    for (size_t i = 0; i < layer->outputs; i++) sum += layer->weight[i] * layer->y[i];
    return sum;
}

static void check_close(const char *what, size_t count, const double *expected, const float *got) {
    double scale = 0, worst = 0;
    for (size_t i = 0; i < count; i++) {
        double off = fabs(expected[i] - (double)got[i]);
        scale = fmax(scale, fabs(expected[i]));
        if (!(off <= worst)) worst = off; /* a NaN stays */
    }
    assert_true(scale > 1e-3);
    if (!(worst <= TOLERANCE * scale)) fail_msg("%s: off by %g where the largest is %g", what, worst, scale);
}

static void check_gradient(const char *what, const struct layer *layer, size_t input, const float *gradient) {
    size_t count = layer->count[input];
    double *values = layer->in[input], *expected = calloc(count, sizeof *expected);
    for (size_t i = 0; i < count; i++) {
        double kept = values[i];
        values[i] = kept + STEP;
        double up = loss(layer);
        values[i] = kept - STEP;
        double down = loss(layer);
        values[i] = kept;
        expected[i] = (up - down) / (2 * STEP);
    }
    check_close(what, count, expected, gradient);
    free(expected);
}

/* ---- norms ---- */

struct norm_shape {
    size_t T, C;
    bool rms;
};

/* Inputs: x, gain, bias. */
static void norm_forward(const struct layer *layer) {
    const struct norm_shape *shape = layer->shape;
    for (size_t t = 0; t < shape->T; t++) {
        const double *x = layer->in[0] + t * shape->C;
        double mean = 0, squares = 0;
        for (size_t c = 0; c < shape->C && !shape->rms; c++) mean += x[c] / (double)shape->C;
        for (size_t c = 0; c < shape->C; c++) squares += (x[c] - mean) * (x[c] - mean) / (double)shape->C;
        for (size_t c = 0; c < shape->C; c++) {
            double y = layer->in[1][c] * (x[c] - mean) / sqrt(squares + 1e-5);
            layer->y[t * shape->C + c] = shape->rms ? y : y + layer->in[2][c];
        }
    }
}

static void check_norm(size_t T, size_t C, bool rms) {
    struct norm_shape shape = {T, C, rms};
    struct layer layer = {norm_forward, .count = {T * C, C, C, 0}, .shape = &shape};
    layer_open(&layer, T * C);
    float *x = narrow(T * C, layer.in[0]), *gain = narrow(C, layer.in[1]), *bias = narrow(C, layer.in[2]),
          *dy = narrow(T * C, layer.weight), *dx = floats(T * C), *y = floats(T * C), *mean = floats(T),
          *rstd = floats(T), *dgain = calloc(C, sizeof *dgain), *dbias = calloc(C, sizeof *dbias);
    if (rms) kernels.rms_norm(T, C, x, gain, 1e-5f, y, rstd);
    else kernels.layer_norm(T, C, x, gain, bias, 1e-5f, y, mean, rstd);
    layer.forward(&layer);
    check_close("y", T * C, layer.y, y);
    for (size_t i = 0; i < 2; i++) { /* the second time in place, and added to dgain and dbias */
        memcpy(y, dy, T * C * sizeof *y);
        if (rms) rms_norm_backward(T, C, x, rstd, gain, i ? y : dy, i ? y : dx, dgain);
        else norm_backward(T, C, x, mean, rstd, gain, i ? y : dy, i ? y : dx, dgain, dbias);
    }
    assert_memory_equal(y, dx, T * C * sizeof *y);
    for (size_t c = 0; c < C; c++) dgain[c] /= 2, dbias[c] /= 2;
    check_gradient("dx", &layer, 0, dx);
    check_gradient("dgain", &layer, 1, dgain);
    if (!rms) check_gradient("dbias", &layer, 2, dbias);
    layer_close(&layer);
    free(x), free(gain), free(bias), free(dy), free(dx), free(y), free(mean), free(rstd), free(dgain), free(dbias);
}

static void test_norms(void **state) {
    static const size_t widths[] = {5, 16, 19, 64, 83};
    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_norm(3, widths[i], false);
        check_norm(3, widths[i], true);
    }
}

/* ---- activations ---- */

/* Inputs: up, gate. */
static void activation_double(const struct layer *layer) {
    enum model_activation activation = *(const enum model_activation *)layer->shape;
    for (size_t i = 0; i < layer->outputs; i++) {
        double x = layer->in[0][i], cubic = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
        switch (activation) {
        case ACTIVATION_GELU_ERF: layer->y[i] = 0.5 * x * erfc(-x * M_SQRT1_2); break;
        case ACTIVATION_GELU_TANH: layer->y[i] = 0.5 * x * (1 + tanh(cubic)); break;
        case ACTIVATION_RELU: layer->y[i] = fmax(x, 0); break;
        case ACTIVATION_SILU_GATED: layer->y[i] = layer->in[1][i] / (1 + exp(-layer->in[1][i])) * x; break;
        }
    }
}

static void check_activation(enum model_activation activation, size_t count) {
    bool gated = activation == ACTIVATION_SILU_GATED;
    struct layer layer = {activation_double, .count = {count, gated ? count : 0, 0, 0}, .shape = &activation};
    layer_open(&layer, count);
    for (size_t i = 0; i < count; i += 3) layer.in[0][i] *= 5, layer.in[1][gated ? i : 0] *= 5; /* the far ends too */
    float *up = narrow(count, layer.in[0]), *gate = gated ? narrow(count, layer.in[1]) : NULL,
          *dy = narrow(count, layer.weight), *y = floats(count), *dup = floats(count),
          *dgate = gated ? floats(count) : NULL;
    for (size_t i = 0; i < count; i++) layer.in[0][i] = (double)up[i];
    for (size_t i = 0; gated && i < count; i++) layer.in[1][i] = (double)gate[i];
    activation_forward(activation, count, up, gate, y);
    layer.forward(&layer);
    check_close("active", count, layer.y, y);
    activation_backward(activation, count, up, gate, dy, dup, dgate);
    check_gradient("dup", &layer, 0, dup);
    if (gated) check_gradient("dgate", &layer, 1, dgate);
    memcpy(y, dy, count * sizeof *y); /* dup in the place of dactive */
    activation_backward(activation, count, up, gate, y, y, dgate);
    assert_memory_equal(y, dup, count * sizeof *y);
    layer_close(&layer);
    free(up), free(gate), free(dy), free(y), free(dup), free(dgate);
}

static void test_activations(void **state) {
    static const enum model_activation kinds[] = {ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH, ACTIVATION_RELU,
                                                  ACTIVATION_SILU_GATED};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        check_activation(kinds[i], 37);
        check_activation(kinds[i], 64);
    }
}

/* ---- rotary positions ---- */

struct rotary_shape {
    size_t T, heads, D, stride;
    const float *table;
};

static void rotary_double(const struct layer *layer) {
    const struct rotary_shape *s = layer->shape;
    for (size_t t = 0; t < s->T; t++)
        for (size_t h = 0; h < s->heads; h++)
            for (size_t i = 0; i < s->D / 2; i++) {
                size_t one = t * s->stride + h * s->D + i, two = one + s->D / 2;
                double cosine = (double)s->table[t * s->D + i], sine = (double)s->table[t * s->D + s->D / 2 + i];
                layer->y[one] = layer->in[0][one] * cosine - layer->in[0][two] * sine;
                layer->y[two] = layer->in[0][two] * cosine + layer->in[0][one] * sine;
            }
}

static void test_rotary(void **state) {
    enum { T = 5, HEADS = 3, D = 6, STRIDE = HEADS * D };
    const int32_t position[T] = {0, 1, 2, 0, 7};
    float table[T * D];
    struct rotary_shape shape = {T, HEADS, D, STRIDE, table};
    struct layer layer = {rotary_double, .count = {T * STRIDE, 0, 0, 0}, .shape = &shape};
    (void)state;
    rotary_table(T, D, position, 10.0f, NULL, table);
    layer_open(&layer, T * STRIDE);
    float *x = narrow(T * STRIDE, layer.in[0]), *dx = narrow(T * STRIDE, layer.weight);
    layer.forward(&layer);
    rotary_forward(T, HEADS, D, STRIDE, table, x);
    check_close("y", T * STRIDE, layer.y, x);
    rotary_backward(T, HEADS, D, STRIDE, table, dx);
    check_gradient("dx", &layer, 0, dx);
    layer_close(&layer);
    free(x), free(dx);
}

/* ---- attention ---- */

static bool sees(const struct attention_train *a, size_t i, size_t j) {
    return !a->causal || (j <= i && (!a->window || i - j < a->window));
}

static size_t rows_of(const struct attention_train *a) { return a->queries ? a->queries : a->t; }

/* Inputs: q, k, v, and the weights of the scores in the loss, which are outputs after the context (0 where unseen). */
static void attention_double(const struct layer *layer) {
    const struct attention_train *a = layer->shape;
    size_t t = a->t, D = a->D, rows = rows_of(a);
    double *scores = layer->y + rows * a->q_stride, *p = calloc(t, sizeof *p);
    for (size_t h = 0; h < a->group; h++)
        for (size_t i = 0; i < rows; i++) {
            double sum = 0;
            for (size_t j = 0; j < t; j++) {
                double s = 0;
                for (size_t d = 0; d < D; d++)
                    s += layer->in[0][i * a->q_stride + h * D + d] * layer->in[1][j * a->k_stride + d];
                s /= sqrt((double)D);
                scores[(h * rows + i) * t + j] = sees(a, i, j) ? s : 0;
                p[j] = sees(a, i, j) ? exp(s) : 0;
                sum += p[j];
            }
            for (size_t d = 0; d < D; d++) {
                double y = 0;
                for (size_t j = 0; j < t; j++) y += p[j] / sum * layer->in[2][j * a->k_stride + d];
                layer->y[i * a->q_stride + h * D + d] = y;
            }
        }
    free(p);
}

static void check_attention(const struct attention_train *a, bool extra) {
    size_t rows = rows_of(a), queries = rows * a->q_stride, keys = a->t * a->k_stride, squares = a->group * rows * a->t;
    struct layer layer = {attention_double, .count = {queries, keys, keys, 0}, .shape = a};
    layer_open(&layer, queries + squares);
    for (size_t i = 0; i < queries; i++) /* what lies between rows belongs to other heads */
        if (i % a->q_stride >= a->group * a->D) layer.y[i] = layer.weight[i] = 0;
    for (size_t i = 0; i < squares && !extra; i++) layer.weight[queries + i] = 0;
    float *q = narrow(queries, layer.in[0]), *k = narrow(keys, layer.in[1]), *v = narrow(keys, layer.in[2]),
          *dy = narrow(queries, layer.weight), *dscores = narrow(squares, layer.weight + queries),
          *scratch = floats(attention_train_scratch(a)), *y = calloc(queries, sizeof *y),
          *dq = calloc(queries, sizeof *dq), *dk = calloc(keys, sizeof *dk), *dv = calloc(keys, sizeof *dv);
    for (size_t i = 0; i < queries; i++)
        if (i % a->q_stride < a->group * a->D) dq[i] = y[i] = NAN;
    for (size_t i = 0; i < keys; i++)
        if (i % a->k_stride < a->D) dk[i] = dv[i] = NAN;
    attention_train_forward(a, q, k, v, y, scratch);
    layer.forward(&layer);
    check_close("context", queries, layer.y, y);
    for (size_t i = 0; i < squares; i++) /* is not read where a query sees nothing */
        if (!sees(a, i / a->t % rows, i % a->t)) dscores[i] = NAN;
    attention_train_backward(a, q, k, v, y, dy, dq, dk, dv, extra ? dscores : NULL, scratch);
    if (a->t > 1) {
        check_gradient("dq", &layer, 0, dq);
        check_gradient("dk", &layer, 1, dk);
    }
    check_gradient("dv", &layer, 2, dv);
    layer_close(&layer);
    free(q), free(k), free(v), free(dy), free(dscores), free(scratch), free(y), free(dq), free(dk), free(dv);
}

static void test_attention(void **state) {
    static const struct attention_train cases[] = {
        {1, 1, 4, 4, 4, false, 0, 0},     {5, 1, 3, 3, 3, false, 0, 0},
        {19, 1, 18, 36, 36, false, 0, 0}, {17, 2, 8, 16, 8, true, 0, 0},
        {21, 3, 5, 17, 7, true, 4, 0},    {33, 2, 16, 32, 16, false, 0, 0},
        {40, 1, 16, 16, 16, true, 2, 0},  {23, 1, 32, 32, 64, true, 30, 0},
        {70, 1, 4, 4, 4, false, 0, 0},    {131, 2, 3, 6, 3, true, 40, 0}, /* several tiles of queries */
        {19, 1, 18, 36, 36, false, 0, 1}, {33, 3, 8, 24, 16, false, 0, 1},
        {1, 1, 4, 4, 4, false, 0, 1}, /* first ones alone */
        {90, 2, 5, 10, 5, false, 0, 70},  {40, 1, 16, 16, 16, true, 3, 7},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_attention(&cases[i], false);
        check_attention(&cases[i], true);
    }
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_rotary),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
