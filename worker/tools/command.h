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
    command_redrive, command_keygen, command_demo, command_health;

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
/* The value of an option in the form --name VALUE or --name=VALUE at argv[*i], *i moved to its last
 * word. NULL when argv[*i] is something else, or the value is missing (*ret_bad is set). */
const char *command_value(const char *name, int argc, char **argv, int *i, bool *ret_bad);

#endif
