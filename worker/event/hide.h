/* What is secret in a document that is being read: its places are marked, to be replaced, and its
 * values kept, so that they are found wherever else they stand. For jobread.c, which knows what is
 * secret and has just read it. Pure; any thread; all is of the document and the reading's arena. */
#ifndef RUNSINK_HIDE_H
#define RUNSINK_HIDE_H

#include "worker/event/jobread.h"

/* Some edits that are to stand at a distance from where they say. */
void hide_edits(struct reading *, const struct edit *, size_t n, size_t distance);
/* n bytes of the document at p; nothing where n is 0. */
void hide_part(struct reading *, const char *p, size_t n);
/* A string that is secret as a whole; credential: as echoes_add() has it. */
void hide_string(struct reading *, const struct json_value *, bool credential);
/* A number or a boolean that is secret. */
void hide_number(struct reading *, const struct json_value *);
/* The secrets of a string that is a URL, or that may hold some. */
void hide_url(struct reading *, const struct json_value *);
void hide_urls(struct reading *, const struct json_value *);
/* Of a header's value: what is secret in it is kept, its place is the caller's to mark. */
void hide_note_header(struct reading *, struct str);
/* A string's text, whatever it holds. */
struct str hide_text(struct reading *, const struct json_value *);
/* After all was read: marks what was kept, wherever it stands in the document. */
void hide_echoes(struct reading *, struct str document);

#endif
