/* tokenizer.json with the added tokens that its folder's tokenizer_config.json has beside it (`added_tokens_decoder`).
 *
 * transformers adds them to what tokenizer.json lists: those that it lacks, and of those that it has it takes anew what
 * is cut around them and whether they are special. The document is given a list of its own before it is read; an id
 * that does not fit (transformers would give another) is refused there.
 */
#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer_json.h"

#include <string.h>

#define PAIRS_MAX 1000000000u /* comparisons of texts */
enum { MEMBERS = 7 };

static const char *content_of(const struct json *item) {
    const struct json *content = json_member(item, "content");
    return content && content->type == JSON_STRING ? content->text : NULL;
}

static const struct json *same_content(const struct json *list, const char *content) {
    for (const struct json *item = list ? list->child : NULL; item && content; item = item->next) {
        const char *other = content_of(item);
        if (other && strcmp(other, content) == 0) return item;
    }
    return NULL;
}

/* A member more of an object that is made, as `value` has it. */
static void put_member(struct json **next, struct json *object, const char *key, const struct json *value) {
    if (!value) return;
    struct json *node = (*next)++;
    *node = *value;
    node->key = key;
    node->next = object->child;
    object->child = node;
    object->count++;
}

/* The next item of the list: its id and whether it is normalized, all else from `item`. */
static void put_token(struct json **next, struct json *list, const struct json *id, const struct json *normalized,
                      const struct json *item) {
    static const char *const keys[] = {"content", "single_word", "lstrip", "rstrip", "special"};
    struct json *object = (*next)++;
    *object = (struct json){.type = JSON_OBJECT, .next = list->child};
    list->child = object;
    list->count++;
    put_member(next, object, "id", id);
    put_member(next, object, "normalized", normalized);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        put_member(next, object, keys[i], json_member(item, keys[i]));
}

int json_join_added(struct json_document *document, const struct json *decoder, struct json **nodes) {
    int status = 0;
    void *block = NULL;
    struct json *root = document->nodes;
    const struct json *had = json_member(root, "added_tokens");
    if (json_unset(had)) had = NULL;
    *nodes = NULL;
    if (!decoder || !decoder->count) goto out;
    if (root->type != JSON_OBJECT || (had && had->type != JSON_ARRAY)) goto out; /* refused where it is read */
    size_t before = had ? had->count : 0;
    if (before + decoder->count > VOCABULARY_MAX || (before + 1) * decoder->count > PAIRS_MAX)
        FAIL(E_LIMIT, "added_tokens_decoder: %zu tokens are too many", decoder->count);
    TRY(memory_take(&block, 1 + (before + decoder->count) * (1 + MEMBERS), sizeof **nodes));
    struct json *next = *nodes = block, *list = next++;
    *list = (struct json){.type = JSON_ARRAY, .key = "added_tokens", .next = root->child};
    for (const struct json *item = had ? had->child : NULL; item; item = item->next) {
        const struct json *anew = same_content(decoder, content_of(item));
        put_token(&next, list, json_member(item, "id"), json_member(item, "normalized"), anew ? anew : item);
    }
    for (const struct json *item = decoder->child; item; item = item->next) {
        const struct json id = {.type = JSON_NUMBER, .text = item->key, .text_bytes = strlen(item->key)};
        if (same_content(had, content_of(item))) continue;
        put_token(&next, list, &id, json_member(item, "normalized"), item);
    }
    root->child = list; /* found before the one that the file has */
    root->count++;
out:
    return status;
}
