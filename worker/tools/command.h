/* The subcommands, and what they share: the global options, the configuration, usage. main.c has
 * the one table of them. Main thread. */
#ifndef RUNSINK_COMMAND_H
#define RUNSINK_COMMAND_H

#include "config/config.h"

/* argv[0] is the command's name, global options are taken out. config is finished, or NULL for a
 * command that the table calls without. Returns the exit code (sysexits.h); what is wrong was said
 * on stderr. */
typedef int command_fn(struct config *config, int argc, char **argv);

command_fn command_run, command_check, command_explain, command_verify, command_trace,
    command_redrive, command_replay, command_keygen, command_demo, command_health;

#define COMMAND_CONFIG "/etc/runsink/runsink.ini" /* read where nobody names another */

/* Takes the global options out of argv, wherever they stand; what is left keeps its order. --config
 * and --set are kept for command_config(). Returns the option that lacks its value, or NULL. */
struct command_globals {
    bool help, version;
};
const char *command_take_globals(int *argc, char **argv, struct command_globals *ret);
void command_free_globals(void);

/* For commands that the table calls without: reads file, environment and --set. NULL after having
 * told the operator why. Owned by the caller. */
struct config *command_config(void);
/* --config as it was given, or NULL. */
const char *command_config_path(void);
/* The same sources into a configuration with its defaults, not finished. False with messages in
 * err, a line each. */
bool command_read(struct config *, struct buf *err);
/* Says "runsink COMMAND: message" and where help is; returns EX_USAGE. */
int command_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Says "runsink COMMAND: message"; what others put into the message is escaped. */
void command_error(const char *command, struct buf *message);

/* An option of a command: --name, or --name VALUE or --name=VALUE. One of flag, text and read is
 * set. */
struct command_option {
    const char *name;  /* with its dashes */
    bool *flag;        /* takes no value */
    const char **text; /* the value as it is */
    /* What the value means. False when it can't be one; with a message in err, or for takes to say.
     */
    bool (*read)(const char *value, void *to, struct buf *err);
    void *to;
    const char *takes; /* "a number from 1 to 5" */
};
/* Reads all words of a command. operand: gets the one word that is no option, NULL: there may be
 * none. EX_OK, or EX_USAGE after having said what is wrong. getopt_long() would take abbreviations,
 * and --dis must not discard. */
int command_options(const char *command, const struct command_option *, size_t n, int argc,
                    char **argv, const char **operand);
/* For `read`: a time, or how long before now, into an int64_t of ms since the epoch. */
bool command_time(const char *value, void *to, struct buf *err);
/* The same for a rate, into an int64_t. */
bool command_rate(const char *value, void *to, struct buf *err);
#define COMMAND_RATE "a number from 1 to 1000000"
#define COMMAND_TIME "a time such as 2026-01-31T12:00:00Z, or an age such as 24h"

#endif
