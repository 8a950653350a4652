/* base: error records, checked sizes, blocks, arenas, the allocation fault, SHA-256, CPU flags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/hash_sha256.h"
#include "base/log.h"
#include "base/memory.h"

/* ---- errors ---- */
static int fails_inside(int value) {
    int status = 0;
    if (value < 0) FAIL(E_SHAPE, "value %d\nis negative", value);
out:
    return status;
}

static int fails_above(int value) {
    int status = 0;
    TRY(fails_inside(value));
    status = 1;
out:
    if (status < 0) error_prefix(status, "layer %d", 3);
    return status;
}

static void error_is_one_line_with_prefix_and_origin(void **state) {
    (void)state;
    error_clear();
    assert_int_equal(fails_above(1), 1);
    assert_int_equal(error_code(), 0);
    assert_int_equal(fails_above(-7), E_SHAPE);
    assert_int_equal(error_code(), E_SHAPE);
    assert_string_equal(error_text(), "layer 3: value -7 is negative");
    assert_non_null(strstr(error_origin(), "test_base.c:"));
    assert_null(strchr(error_origin(), '/'));
    error_record(E_IO, __FILE__, __LINE__, "again: %s", error_text());
    assert_string_equal(error_text(), "again: layer 3: value -7 is negative");
    error_clear();
    assert_string_equal(error_text(), "");
}

static void error_text_is_cut_not_overrun(void **state) {
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    error_record(E_IO, __FILE__, __LINE__, "%s", text);
    assert_int_equal(strlen(error_text()), 1023);
    for (int i = 0; i < 3; i++) error_prefix(E_IO, "prefix");
    assert_int_equal(strlen(error_text()), 1023);
    assert_int_equal(strncmp(error_text(), "prefix: prefix: prefix: xx", 26), 0);
    error_prefix(E_IO, "%s", text);
    assert_int_equal(strlen(error_text()), 1023);
    error_clear();
}

static void *other_thread(void *seen) {
    *(int *)seen = error_code();
    error_record(E_MEMORY, __FILE__, __LINE__, "other");
    return NULL;
}

static void error_belongs_to_its_thread(void **state) {
    (void)state;
    pthread_t thread;
    int seen = -99;
    error_record(E_LIMIT, __FILE__, __LINE__, "mine");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, &seen), 0);
    pthread_join(thread, NULL);
    assert_int_equal(seen, 0);
    assert_int_equal(error_code(), E_LIMIT);
    assert_string_equal(error_text(), "mine");
    error_clear();
}

static void every_code_has_its_own_name(void **state) {
    (void)state;
    for (int a = E_INTERRUPTED; a <= 0; a++) {
        assert_string_not_equal(error_name(a), "unknown");
        for (int b = E_INTERRUPTED; b < a; b++) assert_string_not_equal(error_name(a), error_name(b));
    }
    assert_string_equal(error_name(-99), "unknown");
}

/* ---- memory ---- */
static void sizes_are_checked(void **state) {
    (void)state;
    size_t size;
    assert_int_equal(size_multiply(3, 5, &size), 0);
    assert_int_equal(size, 15);
    assert_int_equal(size_multiply(SIZE_MAX / 2, 3, &size), E_LIMIT);
    assert_int_equal(size_add(SIZE_MAX, 1, &size), E_LIMIT);
    assert_int_equal(size_add(SIZE_MAX - 1, 1, &size), 0);
    assert_int_equal(size_round_up(0, 64), 0);
    assert_int_equal(size_round_up(65, 64), 128);
}

static void blocks_are_aligned_zeroed_and_keep_their_bytes(void **state) {
    (void)state;
    void *block = NULL;
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        assert_int_equal(memory_take(&block, bytes, 1), 0);
        assert_int_equal((uintptr_t)block % MEMORY_ALIGN, 0);
        for (size_t i = 0; i < bytes; i++) assert_int_equal(((uint8_t *)block)[i], 0);
        memset(block, 7, bytes);
        assert_int_equal(memory_resize(&block, 3 * bytes + 1, 1), 0);
        assert_int_equal((uintptr_t)block % MEMORY_ALIGN, 0);
        for (size_t i = 0; i < bytes; i++) assert_int_equal(((uint8_t *)block)[i], 7);
        assert_int_equal(memory_resize(&block, 5, 1), 0);
        for (size_t i = 0; i < 5 && i < bytes; i++) assert_int_equal(((uint8_t *)block)[i], 7);
        memory_release(block);
    }
    block = NULL;
    assert_int_equal(memory_resize(&block, 4, 4), 0);
    assert_non_null(block);
    memory_release(block);
    memory_release(NULL);
    char *copy;
    assert_int_equal(memory_string(&copy, "gloss"), 0);
    assert_string_equal(copy, "gloss");
    memory_release(copy);
    assert_int_equal(memory_string_n(&copy, "gloss", 2), 0);
    assert_string_equal(copy, "gl");
    memory_release(copy);
}

static void impossible_blocks_are_refused(void **state) {
    (void)state;
    void *block = &block;
    assert_int_equal(memory_take(&block, SIZE_MAX / 4, 8), E_LIMIT);
    assert_null(block);
    assert_int_equal(memory_take(&block, SIZE_MAX - 8, 1), E_LIMIT);
    assert_int_equal(memory_take(&block, SIZE_MAX / 2 - 8, 1), E_MEMORY);
    assert_null(block);
    assert_int_equal(memory_take(&block, 8, 1), 0);
    void *before = block;
    assert_int_equal(memory_resize(&block, SIZE_MAX / 2 - 8, 1), E_MEMORY);
    assert_ptr_equal(block, before);
    memory_release(block);
}

static void the_nth_allocation_and_all_after_fail(void **state) {
    (void)state;
    void *block[4] = {0};
    memory_fail_after(3);
    assert_int_equal(memory_take(&block[0], 1, 1), 0);
    assert_int_equal(memory_take(&block[1], 1, 1), 0);
    assert_int_equal(memory_take(&block[2], 1, 1), E_MEMORY);
    assert_int_equal(memory_take(&block[3], 1, 1), E_MEMORY);
    assert_int_equal(memory_count(), 4);
    memory_fail_after(0);
    assert_int_equal(memory_take(&block[2], 1, 1), 0);
    assert_int_equal(memory_count(), 1);
    for (int i = 0; i < 4; i++) memory_release(block[i]);
}

static void arena_cuts_aligned_views_until_full(void **state) {
    (void)state;
    struct arena arena = {0};
    void *view;
    arena_close(&arena);
    assert_int_equal(arena_open(&arena, 256), 0);
    assert_int_equal(arena_take(&arena, &view, 3, 1), 0);
    assert_ptr_equal(view, arena.base);
    memset(view, 1, 3);
    assert_int_equal(arena_take(&arena, &view, 16, 8), 0);
    assert_ptr_equal(view, arena.base + 64);
    for (int i = 0; i < 128; i++) assert_int_equal(((uint8_t *)view)[i], 0);
    assert_int_equal(arena_take(&arena, &view, 65, 1), E_MEMORY);
    assert_null(view);
    assert_int_equal(arena_take(&arena, &view, 64, 1), 0);
    assert_int_equal(arena_take(&arena, &view, 1, 1), E_MEMORY);
    assert_int_equal(arena_take(&arena, &view, SIZE_MAX, 2), E_LIMIT);
    arena_close(&arena);
    assert_null(arena.base);
}

/* Pages of `bytes` from `block` on that are in memory. */
static size_t resident(void *block, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = 0;
    uintptr_t begin = (uintptr_t)block / page * page;
    for (uintptr_t at = begin; at < (uintptr_t)block + bytes; at += page) {
        unsigned char in = 0;
        assert_int_equal(mincore((void *)at, page, &in), 0);
        count += in & 1;
    }
    return count;
}

static void lazy_blocks_take_memory_when_written(void **state) {
    enum { BYTES = 8 << 20 };
    void *block = NULL;
    struct arena arena;
    (void)state;
    assert_int_equal(memory_take_lazy(&block, BYTES, 1), 0);
    assert_int_equal((uintptr_t)block % MEMORY_ALIGN, 0);
    assert_int_equal(resident(block, BYTES), 1); /* the one with the header */
    ((uint8_t *)block)[BYTES / 2] = 1;
    assert_int_equal(resident(block, BYTES), 2);
    for (size_t i = 0; i < BYTES; i++) assert_int_equal(((uint8_t *)block)[i], i == BYTES / 2);
    assert_int_equal(memory_resize(&block, 5, 1), 0);
    memory_release(block);
    memory_fail_after(1);
    assert_int_equal(memory_take_lazy(&block, 8, 1), E_MEMORY);
    memory_fail_after(0);
    assert_null(block);
    assert_int_equal(memory_take_lazy(&block, SIZE_MAX / 4, 8), E_LIMIT);
    assert_int_equal(memory_take_lazy(&block, SIZE_MAX / 2 - 8, 1), E_MEMORY);
    assert_int_equal(arena_open_lazy(&arena, BYTES), 0);
    assert_int_equal(arena_take(&arena, &block, BYTES, 1), 0);
    assert_int_equal(resident(block, BYTES), 1);
    arena_close(&arena);
}

/* ---- hash: FIPS 180-2 examples ---- */
static void sha256_matches_the_standard(void **state) {
    (void)state;
    char hex[HASH_HEX];
    hash_bytes("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash_bytes("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char path[] = "/tmp/test_base_XXXXXX", again[HASH_HEX];
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, "abc", 3), 3);
    close(file);
    assert_int_equal(hash_file(path, again), 0);
    assert_string_equal(hex, again);
    unlink(path);
    assert_int_equal(hash_file(path, again), E_IO);
    assert_non_null(strstr(error_text(), path));
}

static void hashed_texts_are_kept_apart(void **state) {
    (void)state;
    char first[HASH_HEX], second[HASH_HEX];
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, "ab");
    hash_text(&hash, "c");
    hash_close(&hash, first);
    hash_open(&hash);
    hash_text(&hash, "a");
    hash_text(&hash, "bc");
    hash_close(&hash, second);
    assert_string_not_equal(first, second);
}

/* The digest of builds without libraries gives what the library of this build gives, however the bytes are cut. */
static void own_digest_equals_the_librarys(void **state) {
    (void)state;
    static uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 167 + i / 7);
    for (size_t length = 0; length <= sizeof bytes; length++) {
        char expected[HASH_HEX], got[HASH_HEX];
        uint8_t digest[32];
        struct sha256 sha;
        size_t first = length * 5 % (length + 1);
        hash_bytes(bytes, length, expected);
        sha256_open(&sha);
        sha256_add(&sha, bytes, first);
        sha256_add(&sha, bytes + first, length - first);
        sha256_close(&sha, digest);
        for (size_t i = 0; i < sizeof digest; i++) snprintf(got + 2 * i, 3, "%02x", digest[i]);
        assert_string_equal(got, expected);
    }
}

/* ---- cpu ---- */
/* Whether Linux lists tile data (component 18) among what this process may use. */
static bool tiles_are_granted(void) {
#if defined(__x86_64__)
    enum { ARCH_GET_XCOMP_PERM = 0x1022, XFEATURE_XTILEDATA = 18 };
    uint64_t granted = 0;
    return syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &granted) == 0 && (granted >> XFEATURE_XTILEDATA & 1);
#else
    return false;
#endif
}

static void cpu_flags_are_consistent(void **state) {
    (void)state;
    uint32_t flags = cpu_detect();
    char text[128], small[6];
    if (flags & ~(uint32_t)CPU_AVX2) assert_true(flags & CPU_AVX2);
    if (flags & (CPU_AVX512VNNI | CPU_AVX512BF16)) assert_true(flags & CPU_AVX512);
    cpu_flags_text(CPU_AMX_INT8 | CPU_AMX_BF16, text, sizeof text);
    assert_string_equal(text, "amx_int8 amx_bf16");
    if (flags & (CPU_AMX_INT8 | CPU_AMX_BF16)) assert_true(tiles_are_granted());
    assert_true(strlen(cpu_model()) > 0);
    cpu_flags_text(0, text, sizeof text);
    assert_string_equal(text, "none");
    cpu_flags_text(CPU_AVX2 | CPU_AVX512, text, sizeof text);
    assert_string_equal(text, "avx2 avx512");
    cpu_flags_text(CPU_AVX2 | CPU_AVX512, small, sizeof small);
    assert_string_equal(small, "avx2 ");
#if defined(__x86_64__)
    assert_int_equal(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), (flags & CPU_AVX2) != 0);
    assert_int_equal(__builtin_cpu_supports("avx512bw") != 0, (flags & CPU_AVX512) != 0);
#endif
}

int main(void) {
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_is_one_line_with_prefix_and_origin),
        cmocka_unit_test(error_text_is_cut_not_overrun),
        cmocka_unit_test(error_belongs_to_its_thread),
        cmocka_unit_test(every_code_has_its_own_name),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(blocks_are_aligned_zeroed_and_keep_their_bytes),
        cmocka_unit_test(impossible_blocks_are_refused),
        cmocka_unit_test(the_nth_allocation_and_all_after_fail),
        cmocka_unit_test(arena_cuts_aligned_views_until_full),
        cmocka_unit_test(lazy_blocks_take_memory_when_written),
        cmocka_unit_test(sha256_matches_the_standard),
        cmocka_unit_test(hashed_texts_are_kept_apart),
        cmocka_unit_test(own_digest_equals_the_librarys),
        cmocka_unit_test(cpu_flags_are_consistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
