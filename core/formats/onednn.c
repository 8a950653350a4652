/* oneDNN's matmul primitive behind three functions, for its C API 2.x and 3.x.
 *
 * The weights' layout is left to the library (format any) and repacked once for the first number of tokens;
 * a later number of tokens that would like another layout is asked to take the one that exists, or gets a
 * repacked copy when the library cannot. 8-bit weights are read from our panels for that. Primitives are cached by
 * (tokens, bias) in a small ring. One mutex per object covers cache and execution: the library's scratch memory is not
 * for two threads at once. */
#include "formats/onednn.h"

#include "base/error.h"
#include "base/memory.h"

#if defined(BACKENDS_NONE)

int onednn_open(struct onednn **onednn, size_t R, size_t N, const float *w, size_t *bytes) {
    (void)R, (void)N, (void)w;
    *onednn = NULL, *bytes = 0;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "oneDNN is not in this build");
}
int onednn_open_s8(struct onednn **onednn, size_t R, size_t n_padded, const int8_t *panels, size_t *bytes) {
    (void)panels;
    return onednn_open(onednn, R, n_padded, NULL, bytes);
}
void onednn_close(struct onednn *onednn) { (void)onednn; }
int onednn_matmul_s8(struct onednn *onednn, size_t T, const int8_t *q, int32_t *sums) {
    (void)sums, (void)q;
    return onednn_matmul(onednn, T, NULL, NULL, NULL);
}
int onednn_matmul(struct onednn *onednn, size_t T, const float *x, const float *bias, float *y) {
    (void)onednn, (void)T, (void)x, (void)bias, (void)y;
    return error_record(E_UNSUPPORTED, __FILE__, __LINE__, "oneDNN is not in this build");
}
const char *onednn_library(void) { return ""; }

#else
#include <dnnl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define CACHE_ROWS 32

/* Library calls return 0 or a positive code. */
#define DNNL(expression)                                                                                               \
    do {                                                                                                               \
        dnnl_status_t code_ = (expression);                                                                            \
        if (code_ != dnnl_success)                                                                                     \
            FAIL(code_ == dnnl_out_of_memory ? E_MEMORY : E_UNSUPPORTED, "oneDNN: " #expression " returned %d",        \
                 (int)code_);                                                                                          \
    } while (0)

/* 2.x has descriptors as plain structs, 3.x as handles: these few names hide it. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t description;
typedef const_dnnl_memory_desc_t description_view;
static dnnl_status_t describe(description *d, const dnnl_dims_t dims, int count, dnnl_data_type_t type,
                              dnnl_format_tag_t tag) {
    return dnnl_memory_desc_create_with_tag(d, count, dims, type, tag);
}
static void describe_close(description *d) {
    if (*d) dnnl_memory_desc_destroy(*d);
    *d = NULL;
}
static description_view view(const description *d) { return *d; }
static bool same_layout(description_view a, description_view b) { return dnnl_memory_desc_equal(a, b) != 0; }
static size_t description_bytes(description_view d) { return dnnl_memory_desc_get_size(d); }
static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, description_view x,
                                     description_view w, description_view bias, description_view y) {
    return dnnl_matmul_primitive_desc_create(pd, engine, x, w, bias, y, NULL);
}
static dnnl_status_t reorder_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, description_view from,
                                      description_view to) {
    return dnnl_reorder_primitive_desc_create(pd, from, engine, to, engine, NULL);
}
#else
typedef dnnl_memory_desc_t description;
typedef const dnnl_memory_desc_t *description_view;
static dnnl_status_t describe(description *d, const dnnl_dims_t dims, int count, dnnl_data_type_t type,
                              dnnl_format_tag_t tag) {
    return dnnl_memory_desc_init_by_tag(d, count, dims, type, tag);
}
static void describe_close(description *d) { (void)d; }
static description_view view(const description *d) { return d; }
static bool same_layout(description_view a, description_view b) { return dnnl_memory_desc_equal(a, b) != 0; }
static size_t description_bytes(description_view d) { return dnnl_memory_desc_get_size(d); }
static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, description_view x,
                                     description_view w, description_view bias, description_view y) {
    dnnl_matmul_desc_t desc;
    dnnl_status_t code = dnnl_matmul_desc_init(&desc, x, w, bias, y);
    return code == dnnl_success ? dnnl_primitive_desc_create(pd, &desc, NULL, engine, NULL) : code;
}
static dnnl_status_t reorder_describe(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, description_view from,
                                      description_view to) {
    return dnnl_reorder_primitive_desc_create(pd, from, engine, to, engine, NULL);
}
#endif

/* One multiplication ready to run. The four memory objects are bound to the caller's pointers per call. */
struct cached {
    size_t T;
    bool has_bias;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, bias, y, weights; /* weights: NULL, or an own copy in a layout that this T needs */
};

struct onednn {
    size_t R, N;
    dnnl_data_type_t inputs, outputs; /* f32 and f32, or s8 and s32 */
    const int8_t *panels;             /* s8: the caller's, from which rows are made when they are needed */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    description weights_plain, weights_layout;
    bool has_plain, has_layout;
    dnnl_memory_t plain, packed; /* plain borrows the caller's bytes, for further layouts */
    struct cached cache[CACHE_ROWS];
    size_t next;
    pthread_mutex_t lock;
};

static void cached_close(struct cached *cached) {
    if (cached->primitive) dnnl_primitive_destroy(cached->primitive);
    dnnl_memory_t memories[] = {cached->x, cached->bias, cached->y, cached->weights};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    *cached = (struct cached){0};
}

/* Rows (R,N) of 8-bit panels, [Rp/16][N/4][16][4]. */
static void rows_of_panels(const struct onednn *onednn, int8_t *rows) {
    for (size_t r = 0; r < onednn->R; r++)
        for (size_t n = 0; n < onednn->N; n += 4)
            memcpy(rows + r * onednn->N + n, onednn->panels + (r / 16 * onednn->N + n) * 16 + r % 16 * 4, 4);
}

/* A new memory object in `layout` that holds the weights. */
static int weights_repack(struct onednn *onednn, description_view layout, dnnl_memory_t *packed) {
    int status = 0;
    void *rows = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    if (onednn->panels) {
        TRY(memory_take_raw(&rows, onednn->R, onednn->N));
        rows_of_panels(onednn, rows);
        DNNL(dnnl_memory_set_data_handle(onednn->plain, rows));
    }
    DNNL(dnnl_memory_create(packed, layout, onednn->engine, DNNL_MEMORY_ALLOCATE));
    DNNL(reorder_describe(&pd, onednn->engine, view(&onednn->weights_plain), layout));
    DNNL(dnnl_primitive_create(&reorder, pd));
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, onednn->plain}, {DNNL_ARG_TO, *packed}};
    DNNL(dnnl_primitive_execute(reorder, onednn->stream, 2, arguments));
    DNNL(dnnl_stream_wait(onednn->stream));
out:
    if (reorder) dnnl_primitive_destroy(reorder);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (status < 0 && *packed) {
        dnnl_memory_destroy(*packed);
        *packed = NULL;
    }
    memory_release(rows);
    return status;
}

static int cached_open(struct onednn *onednn, struct cached *cached, size_t T, bool has_bias) {
    int status = 0;
    dnnl_dim_t t = (dnnl_dim_t)T, r = (dnnl_dim_t)onednn->R, n = (dnnl_dim_t)onednn->N;
    description x = {0}, any = {0}, bias = {0}, y = {0};
    dnnl_primitive_desc_t pd = NULL;
    DNNL(describe(&x, (dnnl_dims_t){t, n}, 2, onednn->inputs, dnnl_ab));
    DNNL(describe(&any, (dnnl_dims_t){n, r}, 2, onednn->inputs, dnnl_format_tag_any));
    DNNL(describe(&bias, (dnnl_dims_t){1, r}, 2, dnnl_f32, dnnl_ab));
    DNNL(describe(&y, (dnnl_dims_t){t, r}, 2, onednn->outputs, dnnl_ab));
    description_view bias_view = has_bias ? view(&bias) : NULL;
    DNNL(matmul_describe(&pd, onednn->engine, view(&x), view(&any), bias_view, view(&y)));
    description_view layout = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (!onednn->packed) {
        TRY(weights_repack(onednn, layout, &onednn->packed));
#if DNNL_VERSION_MAJOR >= 3
        DNNL(dnnl_memory_desc_clone(&onednn->weights_layout, layout));
#else
        onednn->weights_layout = *layout;
#endif
        onednn->has_layout = true;
    } else if (!same_layout(layout, view(&onednn->weights_layout))) {
        TRY(weights_repack(onednn, layout, &cached->weights));
    }
    DNNL(dnnl_primitive_create(&cached->primitive, pd));
    DNNL(dnnl_memory_create(&cached->x, view(&x), onednn->engine, DNNL_MEMORY_NONE));
    DNNL(dnnl_memory_create(&cached->y, view(&y), onednn->engine, DNNL_MEMORY_NONE));
    if (has_bias) DNNL(dnnl_memory_create(&cached->bias, view(&bias), onednn->engine, DNNL_MEMORY_NONE));
    cached->T = T;
    cached->has_bias = has_bias;
out:
    if (pd) dnnl_primitive_desc_destroy(pd);
    describe_close(&x), describe_close(&any), describe_close(&bias), describe_close(&y);
    if (status < 0) cached_close(cached);
    return status;
}

void onednn_close(struct onednn *onednn) {
    if (!onednn) return;
    for (size_t i = 0; i < CACHE_ROWS; i++) cached_close(&onednn->cache[i]);
    if (onednn->packed) dnnl_memory_destroy(onednn->packed);
    if (onednn->plain) dnnl_memory_destroy(onednn->plain);
    if (onednn->has_plain) describe_close(&onednn->weights_plain);
    if (onednn->has_layout) describe_close(&onednn->weights_layout);
    if (onednn->stream) dnnl_stream_destroy(onednn->stream);
    if (onednn->engine) dnnl_engine_destroy(onednn->engine);
    pthread_mutex_destroy(&onednn->lock);
    memory_release(onednn);
}

/* w: f32 rows, which are borrowed for further layouts; or NULL, and panels. */
static int open_as(struct onednn **opened, size_t R, size_t N, const float *w, const int8_t *panels, size_t *bytes) {
    int status = 0;
    struct onednn *onednn = NULL;
    *opened = NULL;
    TRY(memory_take((void **)&onednn, 1, sizeof *onednn));
    pthread_mutex_init(&onednn->lock, NULL);
    onednn->R = R;
    onednn->N = N;
    onednn->panels = panels;
    onednn->inputs = panels ? dnnl_s8 : dnnl_f32;
    onednn->outputs = panels ? dnnl_s32 : dnnl_f32;
    DNNL(dnnl_engine_create(&onednn->engine, dnnl_cpu, 0));
    DNNL(dnnl_stream_create(&onednn->stream, onednn->engine, dnnl_stream_default_flags));
    /* (N,R) as the library sees it: our (R,N) rows are its columns. */
    DNNL(describe(&onednn->weights_plain, (dnnl_dims_t){(dnnl_dim_t)N, (dnnl_dim_t)R}, 2, onednn->inputs, dnnl_ba));
    onednn->has_plain = true;
    DNNL(dnnl_memory_create(&onednn->plain, view(&onednn->weights_plain), onednn->engine,
                            panels ? DNNL_MEMORY_NONE : (void *)(size_t)w));
    /* Packed for a middling number of tokens; most layouts depend on R and N alone. */
    TRY(cached_open(onednn, &onednn->cache[0], 64, !panels));
    onednn->next = 1;
    *bytes = description_bytes(view(&onednn->weights_layout));
    *opened = onednn;
out:
    if (status < 0) onednn_close(onednn);
    return status;
}

int onednn_open(struct onednn **onednn, size_t R, size_t N, const float *w, size_t *bytes) {
    return open_as(onednn, R, N, w, NULL, bytes);
}

int onednn_open_s8(struct onednn **onednn, size_t R, size_t n_padded, const int8_t *panels, size_t *bytes) {
    return open_as(onednn, R, n_padded, NULL, panels, bytes);
}

static int multiply(struct onednn *onednn, size_t T, const void *x, const float *bias, void *y) {
    int status = 0;
    struct cached *cached = NULL;
    pthread_mutex_lock(&onednn->lock);
    for (size_t i = 0; i < CACHE_ROWS; i++)
        if (onednn->cache[i].T == T && onednn->cache[i].has_bias == (bias != NULL)) cached = &onednn->cache[i];
    if (!cached) {
        cached = &onednn->cache[onednn->next];
        cached_close(cached);
        TRY(cached_open(onednn, cached, T, bias != NULL));
        onednn->next = (onednn->next + 1) % CACHE_ROWS;
    }
    DNNL(dnnl_memory_set_data_handle(cached->x, (void *)(size_t)x));
    DNNL(dnnl_memory_set_data_handle(cached->y, y));
    if (bias) DNNL(dnnl_memory_set_data_handle(cached->bias, (void *)(size_t)bias));
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, cached->x},
                                   {DNNL_ARG_WEIGHTS, cached->weights ? cached->weights : onednn->packed},
                                   {DNNL_ARG_DST, cached->y},
                                   {DNNL_ARG_BIAS, cached->bias}};
    DNNL(dnnl_primitive_execute(cached->primitive, onednn->stream, bias ? 4 : 3, arguments));
    DNNL(dnnl_stream_wait(onednn->stream));
out:
    pthread_mutex_unlock(&onednn->lock);
    return status;
}

int onednn_matmul(struct onednn *onednn, size_t T, const float *x, const float *bias, float *y) {
    return multiply(onednn, T, x, bias, y);
}

int onednn_matmul_s8(struct onednn *onednn, size_t T, const int8_t *q, int32_t *sums) {
    return multiply(onednn, T, q, NULL, sums);
}

static char library[64];
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void library_name(void) {
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *name;
    } names[] = {{dnnl_cpu_isa_sse41, "sse4.1"},
                 {dnnl_cpu_isa_avx, "avx"},
                 {dnnl_cpu_isa_avx2, "avx2"},
                 {dnnl_cpu_isa_avx2_vnni, "avx2 vnni"},
                 {dnnl_cpu_isa_avx512_core, "avx512"},
                 {dnnl_cpu_isa_avx512_core_vnni, "avx512 vnni"},
                 {dnnl_cpu_isa_avx512_core_bf16, "avx512 bf16"}};
    const dnnl_version_t *version = dnnl_version();
    const char *isa = "newer";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].isa == dnnl_get_effective_cpu_isa()) isa = names[i].name;
    snprintf(library, sizeof library, "oneDNN %d.%d.%d (%s)", version->major, version->minor, version->patch, isa);
}

const char *onednn_library(void) {
    pthread_once(&library_once, library_name);
    return library;
}
#endif
