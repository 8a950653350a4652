/* See wire.h. A message is u32 kind, u32 zero, u64 payload bytes, payload. */
#include "run/wire.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"

#define HEADER_BYTES 16
#define TEXT_NULL UINT64_MAX

static void put(struct wire_writer *writer, const void *bytes, size_t count) {
    if (writer->status < 0) return;
    if (writer->count + count > writer->capacity) {
        size_t capacity = writer->capacity ? writer->capacity * 2 : 4096;
        while (capacity < writer->count + count) capacity *= 2;
        writer->status = memory_resize((void **)&writer->bytes, capacity, 1);
        if (writer->status < 0) return;
        writer->capacity = capacity;
    }
    if (count) memcpy(writer->bytes + writer->count, bytes, count);
    writer->count += count;
}

void wire_put_u64(struct wire_writer *writer, uint64_t value) { put(writer, &value, sizeof value); }
void wire_put_f64(struct wire_writer *writer, double value) { put(writer, &value, sizeof value); }

void wire_put_bytes(struct wire_writer *writer, const void *bytes, size_t count) {
    wire_put_u64(writer, count);
    put(writer, bytes, count);
}

void wire_put_text(struct wire_writer *writer, const char *text) {
    if (text) wire_put_bytes(writer, text, strlen(text) + 1);
    else wire_put_u64(writer, TEXT_NULL);
}

void wire_writer_close(struct wire_writer *writer) {
    memory_release(writer->bytes);
    *writer = (struct wire_writer){0};
}

static int write_all(int fd, const uint8_t *bytes, size_t count) {
    int status = 0;
    while (count) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) FAIL(E_IO, "cannot write to the pipe between runexp and its worker: %s", strerror(errno));
        bytes += written;
        count -= (size_t)written;
    }
out:
    return status;
}

int wire_send(int fd, uint32_t kind, struct wire_writer *writer) {
    int status = 0;
    uint8_t header[HEADER_BYTES] = {0};
    uint64_t count = writer->count;
    TRY(writer->status);
    memcpy(header, &kind, sizeof kind);
    memcpy(header + 8, &count, sizeof count);
    TRY(write_all(fd, header, sizeof header));
    TRY(write_all(fd, writer->bytes, writer->count));
out:
    writer->count = 0;
    return status;
}

static const uint8_t *take(struct wire_reader *reader, size_t count) {
    if (reader->bad || count > reader->count - reader->at) {
        reader->bad = true;
        return NULL;
    }
    const uint8_t *view = reader->bytes + reader->at;
    reader->at += count;
    return view;
}

uint64_t wire_get_u64(struct wire_reader *reader) {
    uint64_t value = 0;
    const uint8_t *view = take(reader, sizeof value);
    if (view) memcpy(&value, view, sizeof value);
    return value;
}

double wire_get_f64(struct wire_reader *reader) {
    double value = 0;
    const uint8_t *view = take(reader, sizeof value);
    if (view) memcpy(&value, view, sizeof value);
    return value;
}

const void *wire_get_bytes(struct wire_reader *reader, size_t *count) {
    *count = 0;
    uint64_t length = wire_get_u64(reader);
    const uint8_t *view = length <= SIZE_MAX ? take(reader, (size_t)length) : NULL;
    if (view) *count = (size_t)length;
    return view;
}

const char *wire_get_text(struct wire_reader *reader) {
    uint64_t length = wire_get_u64(reader);
    if (length == TEXT_NULL || reader->bad) return NULL;
    const uint8_t *view = take(reader, (size_t)length);
    if (!view || !length || view[length - 1] != 0 || memchr(view, 0, (size_t)length) != view + length - 1) {
        reader->bad = true;
        return NULL;
    }
    return (const char *)view;
}

int wire_inbox_fill(struct wire_inbox *inbox, int fd) {
    int status = 0;
    if (inbox->taken) {
        memmove(inbox->bytes, inbox->bytes + inbox->taken, inbox->count - inbox->taken);
        inbox->count -= inbox->taken;
        inbox->taken = 0;
    }
    if (inbox->capacity - inbox->count < 65536) {
        size_t capacity = inbox->capacity ? inbox->capacity * 2 : (size_t)1 << 17;
        TRY(memory_resize((void **)&inbox->bytes, capacity, 1));
        inbox->capacity = capacity;
    }
    ssize_t got;
    do got = read(fd, inbox->bytes + inbox->count, inbox->capacity - inbox->count);
    while (got < 0 && errno == EINTR);
    if (got < 0) FAIL(E_IO, "cannot read from a worker: %s", strerror(errno));
    inbox->count += (size_t)got;
    status = got > 0;
out:
    return status;
}

int wire_inbox_next(struct wire_inbox *inbox, uint32_t *kind, struct wire_reader *reader) {
    int status = 0;
    size_t left = inbox->count - inbox->taken;
    if (left < HEADER_BYTES) return 0;
    const uint8_t *header = inbox->bytes + inbox->taken;
    uint64_t count;
    uint32_t zero;
    memcpy(kind, header, sizeof *kind);
    memcpy(&zero, header + 4, sizeof zero);
    memcpy(&count, header + 8, sizeof count);
    if (zero || count > WIRE_MESSAGE_BYTES_MAX) FAIL(E_FORMAT, "a worker sent a malformed message");
    if (left - HEADER_BYTES < count) return 0;
    *reader = (struct wire_reader){.bytes = header + HEADER_BYTES, .count = (size_t)count};
    inbox->taken += HEADER_BYTES + (size_t)count;
    status = 1;
out:
    return status;
}

void wire_inbox_close(struct wire_inbox *inbox) {
    memory_release(inbox->bytes);
    *inbox = (struct wire_inbox){0};
}
