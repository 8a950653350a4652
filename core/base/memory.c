/* Checked sizes, blocks and arenas.
 *
 * A block is one posix_memalign of exactly 64 + bytes: the first 64 bytes hold the size (resize needs
 * it), and nothing follows the last byte, so that AddressSanitizer sees an overrun of a single byte. A lazy block is an
 * anonymous mapping instead, whose pages the system makes, zeroed, when they are first written.
 * The fault counter is one atomic: tests count allocations of a call and then let each one fail.
 */
#include "base/memory.h"

#include "base/error.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define HUGE_FROM (4u << 20)

static atomic_long taken;
static atomic_long fail_from;

/* In front of every block. */
struct header {
    size_t bytes;
    size_t mapped; /* length of the mapping; 0: from posix_memalign */
};
static_assert(sizeof(struct header) <= MEMORY_ALIGN, "the header fits in front of a block");

int size_multiply(size_t a, size_t b, size_t *product) {
    if (__builtin_mul_overflow(a, b, product)) {
        *product = 0;
        return error_record(E_LIMIT, __FILE__, __LINE__, "%zu times %zu does not fit in memory", a, b);
    }
    return 0;
}

int size_add(size_t a, size_t b, size_t *sum) {
    if (__builtin_add_overflow(a, b, sum)) {
        *sum = 0;
        return error_record(E_LIMIT, __FILE__, __LINE__, "%zu plus %zu does not fit in memory", a, b);
    }
    return 0;
}

void memory_fail_after(long n) {
    atomic_store(&taken, 0);
    atomic_store(&fail_from, n);
}

long memory_count(void) { return atomic_load(&taken); }

/* Whether this allocation is to fail: tests ask for it. */
static bool planned_failure(void) {
    long turn = atomic_fetch_add(&taken, 1) + 1;
    long limit = atomic_load(&fail_from);
    return limit > 0 && turn >= limit;
}

/* A block with its header written and its contents undefined. */
static int block_new(void **block, size_t bytes) {
    int status = 0;
    void *raw = NULL;
    size_t whole;
    TRY(size_add(bytes, MEMORY_ALIGN, &whole));
    /* PTRDIFF_MAX is malloc's own limit; checking here keeps sanitizers from aborting first. */
    if (planned_failure() || whole > PTRDIFF_MAX || posix_memalign(&raw, MEMORY_ALIGN, whole) != 0)
        FAIL(E_MEMORY, "out of memory: %zu bytes asked for", bytes);
    *(struct header *)raw = (struct header){.bytes = bytes};
    *block = (uint8_t *)raw + MEMORY_ALIGN;
out:
    return status;
}

/* A wish, not a need: where the system has no huge pages nothing changes. */
static void advise_huge(void *block, size_t bytes) {
    uintptr_t begin = ((uintptr_t)block + PAGE - 1) / PAGE * PAGE, end = ((uintptr_t)block + bytes) / PAGE * PAGE;
    if (end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
}

static struct header *block_header(void *block) { return (struct header *)(void *)((uint8_t *)block - MEMORY_ALIGN); }

int memory_take(void **block, size_t count, size_t size) {
    int status = 0;
    size_t bytes;
    *block = NULL;
    TRY(size_multiply(count, size, &bytes));
    if (bytes == 0) bytes = MEMORY_ALIGN;
    TRY(block_new(block, bytes));
    memset(*block, 0, bytes);
out:
    return status;
}

int memory_take_raw(void **block, size_t count, size_t size) {
    int status = 0;
    size_t bytes;
    *block = NULL;
    TRY(size_multiply(count, size, &bytes));
    if (bytes == 0) bytes = MEMORY_ALIGN;
    TRY(block_new(block, bytes));
    if (bytes >= HUGE_FROM) advise_huge(*block, bytes);
out:
    return status;
}

int memory_resize(void **block, size_t count, size_t size) {
    int status = 0;
    size_t bytes;
    void *fresh = NULL;
    TRY(size_multiply(count, size, &bytes));
    if (bytes == 0) bytes = MEMORY_ALIGN;
    TRY(block_new(&fresh, bytes));
    if (*block) {
        size_t old = block_header(*block)->bytes;
        memcpy(fresh, *block, old < bytes ? old : bytes);
        memory_release(*block);
    }
    *block = fresh;
out:
    return status;
}

int memory_take_lazy(void **block, size_t count, size_t size) {
    int status = 0;
    size_t bytes, whole;
    void *raw = MAP_FAILED;
    *block = NULL;
    TRY(size_multiply(count, size, &bytes));
    TRY(size_add(bytes, MEMORY_ALIGN, &whole));
    if (!planned_failure() && whole <= PTRDIFF_MAX)
        raw = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) FAIL(E_MEMORY, "out of memory: %zu bytes asked for", bytes);
    madvise(raw, whole, MADV_NOHUGEPAGE); /* a wish: one byte written should not bring 2 MiB into being */
    *(struct header *)raw = (struct header){.bytes = bytes, .mapped = whole};
    *block = (uint8_t *)raw + MEMORY_ALIGN;
out:
    return status;
}

void memory_release(void *block) {
    if (!block) return;
    struct header *header = block_header(block);
    if (header->mapped) munmap(header, header->mapped);
    else free(header);
}

int memory_string(char **copy, const char *text) { return memory_string_n(copy, text, strlen(text)); }

int memory_string_n(char **copy, const char *text, size_t length) {
    int status = 0;
    void *block = NULL;
    size_t bytes;
    *copy = NULL;
    TRY(size_add(length, 1, &bytes));
    TRY(memory_take(&block, bytes, 1));
    memcpy(block, text, length);
    *copy = block;
out:
    return status;
}

int arena_open(struct arena *arena, size_t bytes) {
    int status = 0;
    void *block = NULL;
    *arena = (struct arena){0};
    TRY(memory_take(&block, bytes, 1));
    arena->base = block;
    arena->capacity_bytes = bytes;
out:
    return status;
}

int arena_open_raw(struct arena *arena, size_t bytes) {
    int status = 0;
    void *block = NULL;
    *arena = (struct arena){0};
    TRY(memory_take_raw(&block, bytes, 1));
    arena->base = block;
    arena->capacity_bytes = bytes;
out:
    return status;
}

int arena_open_lazy(struct arena *arena, size_t bytes) {
    int status = 0;
    void *block = NULL;
    *arena = (struct arena){0};
    TRY(memory_take_lazy(&block, bytes, 1));
    arena->base = block;
    arena->capacity_bytes = bytes;
out:
    return status;
}

/* Views need no clearing: the block came zeroed and no byte is handed out twice. */
int arena_take(struct arena *arena, void **view, size_t count, size_t size) {
    int status = 0;
    size_t bytes;
    *view = NULL;
    TRY(size_multiply(count, size, &bytes));
    size_t begin = size_round_up(arena->used_bytes, MEMORY_ALIGN);
    if (begin > arena->capacity_bytes || bytes > arena->capacity_bytes - begin)
        FAIL(E_MEMORY, "arena of %zu bytes is full: %zu used, %zu asked for", arena->capacity_bytes, arena->used_bytes,
             bytes);
    *view = arena->base + begin;
    arena->used_bytes = begin + bytes;
out:
    return status;
}

void arena_close(struct arena *arena) {
    memory_release(arena->base);
    *arena = (struct arena){0};
}
