/* The manual page and the completion for bash, made of the texts that --help shows. Main thread. */
#ifndef RUNSINK_MANUAL_H
#define RUNSINK_MANUAL_H

#include <stddef.h>
#include <stdio.h>

/* A command as its help describes it: "usage: ..." lines up to an empty one, then paragraphs, and
 * options in lines that begin with two blanks and a dash. */
struct manual_command {
    const char *name, *summary, *help;
};
struct manual {
    const char *summary, *options; /* of all commands: paragraphs and options */
    const struct manual_command *commands;
    size_t n;
};

/* runsink(1), in man's macros. */
void manual_print(const struct manual *, FILE *);
/* runsink.ini(5): every key of the configuration. */
void manual_print_config(FILE *);
/* A file for bash's completions. */
void manual_print_completion(const struct manual *, FILE *);

#endif
