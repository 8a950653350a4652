/* Any bytes through json_open: the nodes form one tree of the announced size, and every string that is
 * written again reads back equal. */
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "io/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not recursive: a node's members follow it before its next sibling, so reading order is array order. */
static void check_json_node(const struct json *node) {
    size_t count = 0;
    for (const struct json *child = node->child; child; child = child->next) count++;
    CHECK(count == node->count, "%zu members, %zu announced", count, node->count);
    if (node->type != JSON_STRING || strlen(node->text) != node->text_bytes) return;
    struct json_writer writer = {0};
    struct json_document again;
    json_quoted(&writer, node->text);
    CHECK(writer.status == 0, "%s", error_text());
    CHECK(json_open(&again, writer.text, writer.bytes) == 0, "%s", error_text());
    CHECK(strcmp(json_root(&again)->text, node->text) == 0, "'%s' became '%s'", node->text, json_root(&again)->text);
    json_close(&again);
    json_writer_close(&writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json_document document;
    if (json_open(&document, (const char *)data, size) == 0) {
        size_t members = 1;
        for (size_t i = 0; i < document.count; i++) {
            check_json_node(&document.nodes[i]);
            members += document.nodes[i].count;
        }
        CHECK(members == document.count, "%zu nodes, %zu members", document.count, members);
    } else {
        CHECK(!document.nodes && *error_text(), "a failure needs a text and leaves nothing");
    }
    json_close(&document);
    return 0;
}
