/* What a folder of sentence-transformers says beside its model. */
#ifndef SENTENCE_FOLDER_H
#define SENTENCE_FOLDER_H

/* 0 where the folder compares embeddings as the similarity task does: by their cosine, without a prompt in front.
 * Anything that is no such folder passes. E_UNSUPPORTED names file and field; E_FORMAT: a file that is no JSON. */
int sentence_folder_check(const char *path);

#endif
