/* What PAPI offers on this machine; used by the papi meter and by doctor. */
#ifndef PAPI_PROBE_H
#define PAPI_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* Initialise PAPI in this process (again after a fork). 0, or -1 with a reason: never aborts. */
int papi_ready(char *reason, size_t size);

/* 0 when the component is enabled; else -1 with PAPI's disabled_reason, or that it is not built in. */
int papi_component_reason(const char *component, char *reason, size_t size);

/* Does the kernel offer an event source of the processor itself (a PMU)? */
bool papi_has_processor_events(void);

/* "7.0.0" */
void papi_version_text(char *text, size_t size);

#endif
