/* JSON lines into a table; the part of data_table.h that reads JSON. */
#ifndef DATA_JSON_H
#define DATA_JSON_H

#include "task/data_table.h"

/* One object a line; a wanted field holds a text, a number, true, false, or a list of texts. */
int data_json_lines(struct data_table *table, const struct data_request *request, const char *text, size_t bytes);

#endif
