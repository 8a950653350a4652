/* What PAPI offers on this machine; see papi_probe.h. */
#include "meters/papi_probe.h"

#include <dirent.h>
#include <papi.h>
#include <stdio.h>
#include <string.h>

int papi_ready(char *reason, size_t size) {
    int version = PAPI_library_init(PAPI_VER_CURRENT);
    if (version == PAPI_VER_CURRENT) return 0;
    if (version > 0)
        snprintf(reason, size, "PAPI at run time is %d.%d but this program was built with %d.%d",
                 PAPI_VERSION_MAJOR(version), PAPI_VERSION_MINOR(version), PAPI_VERSION_MAJOR(PAPI_VERSION),
                 PAPI_VERSION_MINOR(PAPI_VERSION));
    else snprintf(reason, size, "PAPI_library_init: %s", PAPI_strerror(version));
    return -1;
}

int papi_component_reason(const char *component, char *reason, size_t size) {
    int index = PAPI_get_component_index(component);
    const PAPI_component_info_t *info = index >= 0 ? PAPI_get_component_info(index) : NULL;
    if (!info) {
        snprintf(reason, size, "PAPI was built without its component %s", component);
        return -1;
    }
    /* A component that initialises itself on first use is not disabled. */
    if (info->disabled == PAPI_OK || info->disabled == PAPI_EDELAY_INIT) return 0;
    snprintf(reason, size, "%s", info->disabled_reason[0] ? info->disabled_reason : PAPI_strerror(info->disabled));
    return -1;
}

bool papi_has_processor_events(void) {
    bool found = false;
    DIR *folder = opendir("/sys/bus/event_source/devices");
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (strncmp(entry->d_name, "cpu", 3) == 0 || strncmp(entry->d_name, "armv", 4) == 0) found = true;
    if (folder) closedir(folder);
    return found;
}

void papi_version_text(char *text, size_t size) {
    snprintf(text, size, "%d.%d.%d", PAPI_VERSION_MAJOR(PAPI_VERSION), PAPI_VERSION_MINOR(PAPI_VERSION),
             PAPI_VERSION_REVISION(PAPI_VERSION));
}
