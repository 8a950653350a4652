/* Open addressing with linear probing over 64-bit FNV-1a, at most half full. */
#include "plan/text_index.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

static uint64_t text_hash(const char *text) {
    uint64_t hash = 14695981039346656037u;
    for (; *text != '\0'; text++) hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    return hash ^ hash >> 32;
}

static struct text_slot *slot_find(struct text_slot *slots, size_t capacity, const char *text) {
    size_t i = (size_t)text_hash(text) & (capacity - 1);
    while (slots[i].text != NULL && strcmp(slots[i].text, text) != 0) i = (i + 1) & (capacity - 1);
    return &slots[i];
}

int text_index_put(struct text_index *index, const char *text, size_t value, size_t *found, bool *fresh) {
    int status = 0;
    void *block = NULL;
    if (2 * (index->count + 1) > index->capacity) {
        size_t capacity = index->capacity == 0 ? 64 : 2 * index->capacity;
        TRY(memory_take(&block, capacity, sizeof *index->slots));
        struct text_slot *slots = block;
        for (size_t i = 0; i < index->capacity; i++)
            if (index->slots[i].text != NULL) *slot_find(slots, capacity, index->slots[i].text) = index->slots[i];
        memory_release(index->slots);
        index->slots = slots;
        index->capacity = capacity;
    }
    struct text_slot *slot = slot_find(index->slots, index->capacity, text);
    *fresh = slot->text == NULL;
    if (*fresh) {
        *slot = (struct text_slot){.text = text, .value = value};
        index->count++;
    }
    *found = slot->value;
out:
    return status;
}

void text_index_close(struct text_index *index) {
    memory_release(index->slots);
    *index = (struct text_index){0};
}
