/* Messages between the parent and its worker processes: length-prefixed binary records over a pipe.
 *
 * A worker may crash at any byte and a plug-in may scribble over its memory, so the parent checks every
 * length before it reads and treats a malformed message as the end of that worker. Writer and reader walk
 * the same order of fields; texts carry their length. Little endian, same machine.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_MESSAGE_BYTES_MAX ((size_t)256 << 20)

struct wire_writer {
    uint8_t *bytes;
    size_t count, capacity;
    int status; /* first error; later puts do nothing */
};
void wire_put_u64(struct wire_writer *writer, uint64_t value);
void wire_put_f64(struct wire_writer *writer, double value);
void wire_put_text(struct wire_writer *writer, const char *text); /* NULL travels as NULL */
void wire_put_bytes(struct wire_writer *writer, const void *bytes, size_t count);
void wire_writer_close(struct wire_writer *writer);

/* Send the writer's content as one message of this kind; empties the writer. E_IO, or the writer's error. */
int wire_send(int fd, uint32_t kind, struct wire_writer *writer);

struct wire_reader {
    const uint8_t *bytes;
    size_t count, at;
    bool bad; /* a read went past the end or a text had no terminator: all values from then on are zero */
};
uint64_t wire_get_u64(struct wire_reader *reader);
double wire_get_f64(struct wire_reader *reader);
const char *wire_get_text(struct wire_reader *reader);                 /* a view; NULL when NULL was sent */
const void *wire_get_bytes(struct wire_reader *reader, size_t *count); /* a view, not aligned */

/* Collects bytes from a pipe and yields whole messages. */
struct wire_inbox {
    uint8_t *bytes;
    size_t count, capacity, taken;
};
/* Read what is there (one read call). Returns 1 when bytes came, 0 at end of file, or an error. */
int wire_inbox_fill(struct wire_inbox *inbox, int fd);
/* The next whole message: 1 and *kind, *reader (a view until the next fill), 0 when more bytes are needed,
 * E_FORMAT when the length is impossible. */
int wire_inbox_next(struct wire_inbox *inbox, uint32_t *kind, struct wire_reader *reader);
void wire_inbox_close(struct wire_inbox *inbox);

#endif
