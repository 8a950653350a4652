#include "sentencepiece_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
    uint8_t bytes[1 << 18];
    size_t count;
};

static void put(struct buffer *buffer, const void *bytes, size_t count) {
    if (count > sizeof buffer->bytes - buffer->count) abort();
    if (count) memcpy(buffer->bytes + buffer->count, bytes, count);
    buffer->count += count;
}

static void put_varint(struct buffer *buffer, uint64_t value) {
    for (; value > 127; value >>= 7) put(buffer, &(uint8_t){(uint8_t)(value | 128)}, 1);
    put(buffer, &(uint8_t){(uint8_t)value}, 1);
}

static void put_number(struct buffer *buffer, unsigned field, uint64_t value) {
    put_varint(buffer, field << 3);
    put_varint(buffer, value);
}

static void put_bytes(struct buffer *buffer, unsigned field, const void *bytes, size_t count) {
    put_varint(buffer, field << 3 | 2);
    put_varint(buffer, count);
    put(buffer, bytes, count);
}

void writer_add(struct sentencepiece_writer *writer, const char *text, float score, int type) {
    if (writer->count == PIECES_MAX) abort();
    writer->pieces[writer->count].text = text;
    writer->pieces[writer->count].score = score;
    writer->pieces[writer->count++].type = type;
}

void writer_add_usual(struct sentencepiece_writer *writer) {
    static char names[256][8];
    writer_add(writer, "<unk>", 0, 2);
    writer_add(writer, "<s>", 0, 3);
    writer_add(writer, "</s>", 0, 3);
    for (unsigned byte = 0; byte < 256 && writer->byte_fallback; byte++) {
        snprintf(names[byte], sizeof names[byte], "<0x%02X>", byte);
        writer_add(writer, names[byte], 0, 6);
    }
}

uint8_t *writer_print(const struct sentencepiece_writer *writer, size_t *bytes) {
    static struct buffer file, inside;
    file.count = 0;
    for (size_t i = 0; i < writer->count; i++) {
        inside.count = 0;
        put_bytes(&inside, 1, writer->pieces[i].text, strlen(writer->pieces[i].text));
        put_varint(&inside, 2 << 3 | 5);
        put(&inside, &writer->pieces[i].score, 4);
        if (writer->pieces[i].type != 1) put_number(&inside, 3, (uint64_t)writer->pieces[i].type);
        put_bytes(&file, 1, inside.bytes, inside.count);
    }
    inside.count = 0;
    put_number(&inside, 3, (uint64_t)writer->model_type);
    put_number(&inside, 24, writer->space_as_suffix);
    put_number(&inside, 35, writer->byte_fallback);
    put_bytes(&file, 2, inside.bytes, inside.count);
    inside.count = 0;
    if (writer->charsmap_bytes) put_bytes(&inside, 2, writer->charsmap, writer->charsmap_bytes);
    put_number(&inside, 3, !writer->no_dummy_prefix);
    put_number(&inside, 4, !writer->keep_spaces);
    put_bytes(&file, 3, inside.bytes, inside.count);
    uint8_t *copy = malloc(file.count);
    if (!copy) abort();
    memcpy(copy, file.bytes, file.count);
    *bytes = file.count;
    return copy;
}

/* Every node of the trie has a block of 256 units of its own for its children: nothing is packed. Node k's children are
 * in block k + 1, its value in that block's place 0. */
uint8_t *writer_charsmap(const char *const (*rules)[2], size_t count, size_t *bytes) {
    enum { NODES = 60, UNITS = 256 * (NODES + 1) };
    static uint32_t units[UNITS], place[NODES];
    size_t nodes = 1, string_bytes = 0;
    memset(units, 0, sizeof units);
    for (size_t i = 0; i < UNITS; i++) units[i] = 0x80000000u; /* matches no byte */
    units[0] = 256u << 10;
    for (size_t i = 0; i < count; i++) {
        size_t node = 0;
        for (const char *at = rules[i][0]; *at; at++) {
            uint32_t child = (uint32_t)(256 * (node + 1)) + (uint8_t)*at;
            size_t below = 1;
            while (below < nodes && place[below] != child) below++;
            if (below == nodes) {
                if (++nodes > NODES) abort();
                place[below] = child;
                units[child] = (child ^ (uint32_t)(256 * (below + 1))) << 10 | (uint8_t)*at;
            }
            node = below;
        }
        units[place[node]] |= 1u << 8;
        units[256 * (node + 1)] = 0x80000000u | (uint32_t)string_bytes;
        string_bytes += strlen(rules[i][1]) + 1;
    }
    uint32_t trie_bytes = (uint32_t)(256 * (nodes + 1) * sizeof *units);
    uint8_t *blob = malloc(4 + trie_bytes + string_bytes), *to;
    if (!blob) abort();
    memcpy(blob, &trie_bytes, 4);
    memcpy(blob + 4, units, trie_bytes);
    to = blob + 4 + trie_bytes;
    for (size_t i = 0; i < count; i++) {
        memcpy(to, rules[i][1], strlen(rules[i][1]) + 1);
        to += strlen(rules[i][1]) + 1;
    }
    *bytes = 4 + trie_bytes + string_bytes;
    return blob;
}
