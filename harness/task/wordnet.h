/* The task of WordNet glosses; see wordnet.c. */
#ifndef WORDNET_H
#define WORDNET_H

#include "task/task.h"

extern const struct task_kind task_wordnet;

#endif
