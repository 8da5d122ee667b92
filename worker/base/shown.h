/* Text from outside on its way to a terminal: a ledger, a topic, a broker or an event can hold what
 * a terminal takes for a command, or for the next line. Every command prints such text through this
 * file. What is escaped: control characters (ESC, newline, DEL, C1), characters that turn the
 * direction of writing, and bytes that are no UTF-8. */
#ifndef RUNSINK_SHOWN_H
#define RUNSINK_SHOWN_H

#include <stdio.h>

#include "worker/base/buf.h"

#define SHOWN_MAX 8192

/* s, escaped as in JSON and cut visibly to what fits; NULL gives "". */
const char *shown(const char *s, char ret[SHOWN_MAX]);
/* The same into memory that lives as long as the block around the call. */
#define SHOWN(s) shown((s), (char[SHOWN_MAX]){0})
/* A message of several lines, its newlines kept. */
void shown_lines(FILE *, const char *text);
/* before, and text as one word of a shell's command line (bash, zsh, ksh), quoted where it has to
 * be: what the terminal shows is what it selects. False when b is full. */
bool shown_word(struct buf *b, const char *before, const char *text);
#define PLURAL(n) ((n) == 1 ? "" : "s")
/* As text_json(), with what is escaped here escaped too: the same text to whoever parses it. */
bool shown_json(struct buf *, struct str);

#endif
