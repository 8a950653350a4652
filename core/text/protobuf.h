/* Protocol Buffers, read field by field: the wire format of SentencePiece's model files, nothing of its schemas.
 *
 * A message is a row of fields, each a key (number and wire type) and a value; a nested message is a field of bytes,
 * read by a reader of its own. Every varint and length is checked against the bytes that are there. Private to
 * core/text. Source: the encoding page of the Protocol Buffers documentation.
 */
#ifndef PROTOBUF_H
#define PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum proto_wire { PROTO_VARINT = 0, PROTO_FIXED64 = 1, PROTO_BYTES = 2, PROTO_FIXED32 = 5 };

struct proto_field {
    uint32_t number;
    enum proto_wire wire;
    uint64_t value;       /* all but PROTO_BYTES */
    const uint8_t *bytes; /* PROTO_BYTES: a view of `count` bytes, not zero-terminated */
    size_t count;
    size_t position; /* of the field's key in the file */
};

struct proto_reader {
    const uint8_t *bytes;
    size_t count, at;
    size_t position; /* of bytes[0] in the file, for messages */
};
static inline struct proto_reader proto_reader(const void *bytes, size_t count) {
    return (struct proto_reader){.bytes = bytes, .count = count};
}
/* A reader of the nested message that a field of bytes holds. */
struct proto_reader proto_nested(const struct proto_reader *reader, const struct proto_field *field);

/* The next field; *more is false at the end. E_FORMAT with the byte position: cut short, a varint of more than 64 bits,
 * field number 0, a wire type that does not exist or is a group (obsolete, and not used by SentencePiece). */
int proto_next(struct proto_reader *reader, struct proto_field *field, bool *more);

/* The field's value when it has the wire type; E_FORMAT naming `what` otherwise. */
int proto_number(const struct proto_field *field, const char *what, uint64_t *value);
int proto_flag(const struct proto_field *field, const char *what, bool *value);
int proto_float(const struct proto_field *field, const char *what, float *value);
int proto_bytes(const struct proto_field *field, const char *what);

#endif
