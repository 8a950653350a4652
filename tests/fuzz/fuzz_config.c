/* Any bytes as config.json: what is accepted passes the check of sizes, and is printed as a config that reads the same.
 */
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct model_config config, again;
    char *text = NULL, *second = NULL;
    if (model_config_parse(&config, (const char *)data, size) < 0) return 0;
    CHECK(model_config_check(&config) == 0, "%s", error_text());
    CHECK(model_config_print(&config, &text) == 0, "%s", error_text());
    CHECK(model_config_parse(&again, text, strlen(text)) == 0, "%s: %s", error_text(), text);
    CHECK(model_config_print(&again, &second) == 0 && strcmp(text, second) == 0, "%s and %s", text, second);
    memory_release(text);
    memory_release(second);
    return 0;
}
