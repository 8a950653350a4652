/* Memory: checked sizes, arenas, and one allocation door that tests can make fail.
 *
 * Every allocation of the project goes through memory_take/memory_resize, so that a test can let the
 * N-th one fail and walk every error path. Blocks are aligned to 64 bytes.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_ALIGN 64

/* a*b and a+b, or E_LIMIT with a text when the result does not fit in size_t. */
int size_multiply(size_t a, size_t b, size_t *product);
int size_add(size_t a, size_t b, size_t *sum);

/* `bytes` rounded up to a multiple of `align` (a power of two). */
static inline size_t size_round_up(size_t bytes, size_t align) { return (bytes + align - 1) & ~(align - 1); }

/* A new 64-byte-aligned block, zeroed, of count*size bytes; *block is NULL on error (E_MEMORY, E_LIMIT).
 * count*size == 0 gives a valid block of 64 bytes. Release with memory_release. */
int memory_take(void **block, size_t count, size_t size);

/* As memory_take with contents undefined: for large blocks that threads fill at once. Blocks of 4 MiB and more ask the
 * system for huge pages. */
int memory_take_raw(void **block, size_t count, size_t size);

/* As memory_take, but memory comes into being page by page when it is first written: for large tables of which only
 * some rows will ever be used. */
int memory_take_lazy(void **block, size_t count, size_t size);

/* Grow or shrink a block from memory_take, keeping its contents (new bytes are not zeroed). On error
 * *block is untouched. *block may be NULL. */
int memory_resize(void **block, size_t count, size_t size);

void memory_release(void *block); /* NULL is fine */

/* A copy of a string; E_MEMORY. Release with memory_release. */
int memory_string(char **copy, const char *text);
int memory_string_n(char **copy, const char *text, size_t length);

/* Let the n-th allocation from now (1 = the next) and all after it fail; 0 switches the fault off. */
void memory_fail_after(long n);
/* Allocations asked for since the last memory_fail_after call. */
long memory_count(void);

/* One block from which views are cut; nothing is given back before arena_close. */
struct arena {
    uint8_t *base;
    size_t capacity_bytes, used_bytes;
};
int arena_open(struct arena *arena, size_t bytes);
/* As arena_open, but with contents undefined (so are its views'): for values that threads fill at once. */
int arena_open_raw(struct arena *arena, size_t bytes);
/* As arena_open, but from memory_take_lazy. */
int arena_open_lazy(struct arena *arena, size_t bytes);
/* count*size bytes, zeroed, 64-byte aligned; E_MEMORY when the arena is full. */
int arena_take(struct arena *arena, void **view, size_t count, size_t size);
void arena_close(struct arena *arena); /* accepts a zeroed arena */

#endif
