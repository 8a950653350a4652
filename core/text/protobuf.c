/* The wire format of Protocol Buffers; see protobuf.h. */
#include "text/protobuf.h"

#include "base/error.h"

#include <string.h>

static int read_varint(struct proto_reader *reader, uint64_t *value) {
    int status = 0;
    size_t begin = reader->position + reader->at;
    *value = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (reader->at == reader->count) FAIL(E_FORMAT, "byte %zu: a number is cut short", begin);
        uint8_t byte = reader->bytes[reader->at++];
        if (shift == 63 && byte > 1) FAIL(E_FORMAT, "byte %zu: a number has more than 64 bits", begin);
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) break;
    }
out:
    return status;
}

static int read_fixed(struct proto_reader *reader, size_t bytes, uint64_t *value) {
    int status = 0;
    if (reader->count - reader->at < bytes)
        FAIL(E_FORMAT, "byte %zu: a number of %zu bytes is cut short", reader->position + reader->at, bytes);
    *value = 0;
    for (size_t i = 0; i < bytes; i++) *value |= (uint64_t)reader->bytes[reader->at + i] << 8 * i;
    reader->at += bytes;
out:
    return status;
}

struct proto_reader proto_nested(const struct proto_reader *reader, const struct proto_field *field) {
    return (struct proto_reader){.bytes = field->bytes,
                                 .count = field->count,
                                 .position = reader->position + (size_t)(field->bytes - reader->bytes)};
}

int proto_next(struct proto_reader *reader, struct proto_field *field, bool *more) {
    int status = 0;
    uint64_t key, length;
    *more = reader->at < reader->count;
    if (!*more) return 0;
    *field = (struct proto_field){.position = reader->position + reader->at};
    TRY(read_varint(reader, &key));
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) FAIL(E_FORMAT, "byte %zu: not a field's number", field->position);
    field->number = (uint32_t)(key >> 3);
    field->wire = (enum proto_wire)(key & 7);
    switch (key & 7) {
    case PROTO_VARINT: TRY(read_varint(reader, &field->value)); break;
    case PROTO_FIXED64: TRY(read_fixed(reader, 8, &field->value)); break;
    case PROTO_FIXED32: TRY(read_fixed(reader, 4, &field->value)); break;
    case PROTO_BYTES:
        TRY(read_varint(reader, &length));
        if (length > reader->count - reader->at)
            FAIL(E_FORMAT, "byte %zu: field %u reaches beyond its message", field->position, field->number);
        field->bytes = reader->bytes + reader->at;
        field->count = (size_t)length;
        reader->at += field->count;
        break;
    default: FAIL(E_FORMAT, "byte %zu: wire type %u is not read", field->position, (unsigned)(key & 7));
    }
out:
    return status;
}

static int check_wire(const struct proto_field *field, enum proto_wire wire, const char *what) {
    int status = 0;
    if (field->wire != wire)
        FAIL(E_FORMAT, "byte %zu: %s has wire type %d instead of %d", field->position, what, (int)field->wire,
             (int)wire);
out:
    return status;
}

int proto_number(const struct proto_field *field, const char *what, uint64_t *value) {
    int status = 0;
    TRY(check_wire(field, PROTO_VARINT, what));
    *value = field->value;
out:
    return status;
}

int proto_flag(const struct proto_field *field, const char *what, bool *value) {
    int status = 0;
    TRY(check_wire(field, PROTO_VARINT, what));
    *value = field->value != 0;
out:
    return status;
}

int proto_float(const struct proto_field *field, const char *what, float *value) {
    int status = 0;
    TRY(check_wire(field, PROTO_FIXED32, what));
    uint32_t bits = (uint32_t)field->value;
    memcpy(value, &bits, sizeof *value);
out:
    return status;
}

int proto_bytes(const struct proto_field *field, const char *what) { return check_wire(field, PROTO_BYTES, what); }
