/* Code versions for cell keys. A built-in technique is known by the hash of its sources, taken when this
 * program was built; a plug-in by the hash of the shared object that holds it. */
#include <dlfcn.h>
#include <string.h>

#include "base/error.h"
#include "run/code_table.h"
#include "run/run.h"

const char *code_hash_core(void) { return code_table_core; }

int code_hash_technique(const struct technique *technique, char hash[HASH_HEX]) {
    int status = 0;
    Dl_info self, plugin;
    if (!dladdr((const void *)&code_table_core, &self) || !dladdr(technique, &plugin))
        FAIL(E_PLUGIN, "%s: cannot tell which file holds this technique", technique->name);
    if (plugin.dli_fbase != self.dli_fbase) {
        TRY(hash_file(plugin.dli_fname, hash));
        goto out;
    }
    for (const struct code_entry *entry = code_table; entry->name; entry++)
        if (strcmp(entry->name, technique->name) == 0) {
            memcpy(hash, entry->hash, HASH_HEX);
            goto out;
        }
    FAIL(E_PLUGIN, "%s: no source hash for this technique; run make clean and build again", technique->name);
out:
    return status;
}
