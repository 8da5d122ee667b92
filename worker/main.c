/* runsink's entry: the table of commands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

#include "worker/base/nearby.h"
#include "worker/run.h"
#include "worker/tools/command.h"
#include "worker/tools/manual.h"
#include "worker/version.h"

#define DEFAULT_COMMAND "run"

static const struct command {
    const char *name;
    command_fn *fn;
    bool configured; /* gets the configuration, read and checked */
    const char *summary;
    const char *help; /* arguments and options */
} commands[] = {
    {"run", command_run, true, "consume and deliver until told to stop",
     "usage: runsink run [--until-end]\n\n"
     "Delivers every event of the configured topics to the sink that it names. SIGTERM and SIGINT\n"
     "drain: what flies is finished or parked within drain.timeout, settled, and the group left.\n"
     "  --until-end  stop at the ends that the topics have at the start, with exit code 0, 75 "
     "when\n"
     "               something is left for a later run, or 65 when retention took something "
     "unread\n"},
    {"demo", command_demo, false, "run everything in this process, without any service",
     "usage: runsink demo [--dir DIR] [--batch]\n\n"
     "Sample events of several tenants flow from an in-process broker to a local folder.\n"
     "  --dir DIR  where the archive goes (default: runsink-demo)\n"
     "  --batch    one NDJSON object per destination and window instead of one per event\n"},
    {"check", command_check, false, "check configuration, broker and topics",
     "usage: runsink check [--config-only] [--all] [--json] [--by WHAT]\n"
     "       runsink check --reference | --reference-ini | --reference-metrics\n"
     "                     | --reference-schema\n\n"
     "Prints what the configuration changes, each value with its origin, then what the broker\n"
     "knows: the topics that would be consumed, runsink's own topics that are missing, the group\n"
     "with its lag, what is parked for which destination, and the dead letters that lie open. The\n"
     "last line is the verdict.\n"
     "  --config-only    don't connect, nor look for folders: the configuration may be another\n"
     "                   machine's\n"
     "  --all            also the settings that are at their defaults\n"
     "  --json           one JSON object\n"
     "  --by workspace|destination|reason\n"
     "                   count by that what is parked and what died, each row of dead letters "
     "with\n"
     "                   the `redrive` command that sends them back\n"
     "  --reference      print the table of all keys, in Markdown\n"
     "  --reference-ini  print a runsink.ini with all keys at their defaults\n"
     "  --reference-metrics\n"
     "                   print the table of all metrics, in Markdown\n"
     "  --reference-schema\n"
     "                   print what the Helm chart's values may hold under `config`\n"},
    {"health", command_health, true, "ask the worker on this machine whether it is alive, or ready",
     "usage: runsink health [--ready]\n\n"
     "Asks the admin server at admin.listen: for an image's HEALTHCHECK and for exec probes.\n"
     "  --ready  whether it consumes: assigned, offsets known, not draining\n"
     "Exit codes: 0 yes, 69 no or no answer, with the reason on standard error.\n"},
    {"explain", command_explain, true, "say where events would go, sending nothing",
     "usage: runsink explain [--framed] [--header NAME=VALUE]... < events\n\n"
     "Reads one event a line and writes one JSON object a line: the outcome (deliver, skipped,\n"
     "dead), its reason, sink, destination, key or url, and the body, all redacted.\n"
     "  --framed              standard input is one single record as Kafka holds it\n"
     "  --header NAME=VALUE   a Kafka header of the records\n"},
    {"verify", command_verify, true, "prove from the ledger that every record has its one outcome",
     "usage: runsink verify [OPTIONS] [TOPIC | FOLDER]\n\n"
     "Reads the ledger of TOPIC (default: all configured topics) and checks chain, signatures,\n"
     "completeness up to the group's committed offsets, and one outcome for each record.\n"
     "FOLDER is what --export wrote: checked without a broker.\n"
     "  --key FILE     public key that entries must be signed by; may be given again\n"
     "  --unsigned-until TOPIC/PARTITION@NUMBER\n"
     "                 the entry with which that partition's signing began, if it did not begin "
     "with\n"
     "                 the first one; may be given again\n"
     "  --replaced-until TOPIC/PARTITION@NUMBER\n"
     "                 the first entry of that partition that a key which was replaced can't have\n"
     "                 signed; may be given again\n"
     "  --objects      also fetch each delivered object and compare its bytes\n"
     "  --records      also look for an outcome of each record that Kafka still holds, and\n"
     "                 derive what the ledger says of it again\n"
     "  --from TIME, --to TIME\n"
     "                 entries of that time only: 2026-01-31T12:00:00Z, or an age such as 24h\n"
     "  --group NAME   the group that runs or ran (default: from the configuration)\n"
     "  --anchors DIR  compare with the anchors in that folder instead of those in anchor.bucket\n"
     "  --export DIR   also write the ledger there, as files, and the anchors\n"
     "  --json         one JSON object a line for each topic\n"
     "Exit codes: 0 all holds, 65 there are findings.\n"},
    {"trace", command_trace, true, "show every event of a run and what became of it",
     "usage: runsink trace [--topic TOPIC] [--from TIME] [--json] ID\n\n"
     "Looks for the run's events in the records that Kafka still holds and for their outcomes in\n"
     "the ledger.\n"
     "  --topic TOPIC  this source topic alone\n"
     "  --from TIME    don't look back further\n"
     "  --json         one JSON object a line for each event\n"
     "Exit codes: 0 found, 66 Kafka and the ledger know nothing of it.\n"},
    {"redrive", command_redrive, true, "send dead letters back, each once, or discard them",
     "usage: runsink redrive [OPTIONS]\n\n"
     "Counts the dead letters that the options select and, once confirmed, sends them back for\n"
     "new attempts, through the first retry topic. The ledger tells which went back: when it was\n"
     "stopped or killed, run it again to go on. Members of a batch go together.\n"
     "With --discard they never go back: the ledger keeps who said so and why, and `check` counts\n"
     "them no more. They stay in the dead topic.\n"
     "  --fault tenant|data|system\n"
     "  --reason REASON        runsink-reason, exactly\n"
     "  --destination TEXT     runsink-destination; * stands for any text, \\* for a star\n"
     "  --workspace ID, --id ID\n"
     "                         of the event\n"
     "  --from TIME, --to TIME\n"
     "                         when they died: 2026-01-31T12:00:00Z, or an age such as 24h\n"
     "  --offset PARTITION:FIRST-LAST\n"
     "                         of the dead topic that --fault names\n"
     "  --topic TOPIC          this source topic alone (default: all configured ones)\n"
     "  --to-origin            to the source topic instead, as new events: with offsets, and so\n"
     "                         object keys, of their own\n"
     "  --discard              close exactly those that are selected\n"
     "  --why TEXT             with --discard: for the ledger, up to 200 bytes\n"
     "  --who NAME             with --discard: who decides (default: the user)\n"
     "  --rate N               at most N records a second\n"
     "  --dry-run              count only\n"
     "  --yes                  don't ask\n"
     "  --json                 one JSON object\n"
     "Exit codes: 0 done or nothing to do, 65 the ledger was altered, 69 broker unavailable,\n"
     "75 interrupted.\n"},
    {"replay", command_replay, true, "deliver again what was delivered, as it was",
     "usage: runsink replay [OPTIONS]\n\n"
     "Counts the deliveries that the options select from the ledger and, once confirmed, makes "
     "them\n"
     "again, through the first retry topic: the same objects, keys and bytes, the same "
     "webhook-id.\n"
     "Their records come from the source topic, while Kafka holds them. A batch goes as a whole. "
     "One\n"
     "that this configuration would make otherwise is named, and does not go.\n"
     "  --workspace ID, --job ID, --id ID\n"
     "                      of an event in it\n"
     "  --destination TEXT  as the ledger names it; * stands for any text, \\* for a star\n"
     "  --from TIME, --to TIME\n"
     "                      when it was delivered last: 2026-01-31T12:00:00Z, or an age such as "
     "24h\n"
     "  --all               all that there are\n"
     "  --only-missing      of these the objects alone that `verify` calls missing-object\n"
     "  --topic TOPIC       this source topic alone (default: all configured ones)\n"
     "  --rate N            at most N records a second (default: 500)\n"
     "  --dry-run           count only\n"
     "  --yes               don't ask\n"
     "  --json              one JSON object\n"
     "Exit codes: 0 done or nothing to do, 65 some can't go again, which are named (their records "
     "are\n"
     "gone, or would make something else), or the ledger was altered, 69 broker unavailable, or a\n"
     "store does not tell what it has, 75 interrupted.\n"},
    {"keygen", command_keygen, false, "make the pair of keys that signs the ledger",
     "usage: runsink keygen FILE\n\n"
     "Writes an Ed25519 private key to FILE (for ledger.key; mode 0600) and its public key, for\n"
     "whoever runs `runsink verify`, to FILE.pub. Overwrites neither.\n"},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

/* Secrets must not reach a core dump, nor another process of the same user. */
static void harden(void) {
#ifndef __SANITIZE_ADDRESS__ /* its leak check traces the process */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
}

static const struct command *command_named(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static const char global_help[] =
    "  --config FILE     default: $RUNSINK_CONFIG, else " COMMAND_CONFIG " if it is there\n"
    "  --set NAME=VALUE  a key of the configuration, or kafka.PROPERTY; over file and\n"
    "                    environment\n"
    "  --help, --version\n\n"
    "Exit codes: 0 done, 64 usage, 65 bad input or findings, 66 nothing found, 69 broker or "
    "store\n"
    "unavailable, 70 internal, 71 the operating system, 73 can't create, 74 input or output,\n"
    "75 not finished, 78 configuration.\n";

static void print_help(FILE *f) {
    fputs("runsink delivers every JobRun event on a Kafka topic to the sink the event names.\n\n"
          "usage: runsink [COMMAND] [OPTIONS]\n"
          "       runsink help [COMMAND | --man | --man-config | --completion]\n\n",
          f);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-9s %s%s\n", commands[i].name, commands[i].summary,
                strcmp(commands[i].name, DEFAULT_COMMAND) == 0 ? " (default)" : "");
    fprintf(f, "\nOptions of every command\n%s", global_help);
}

/* The manual pages and bash's completion: made of the same texts. */
static bool print_manual(const char *what, FILE *f) {
    struct manual_command texts[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        texts[i] = (struct manual_command){commands[i].name, commands[i].summary, commands[i].help};
    const struct manual m = {
        "runsink - delivers JobRun events from Kafka to the sinks that they name", global_help,
        texts, N_COMMANDS};
    if (strcmp(what, "--man") == 0)
        manual_print(&m, f);
    else if (strcmp(what, "--man-config") == 0)
        manual_print_config(f);
    else if (strcmp(what, "--completion") == 0)
        manual_print_completion(&m, f);
    else
        return false;
    return true;
}

/* When standard output goes to a full disk, that must not look like success. */
static int end_of_output(const char *command) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return EX_OK;
    fprintf(stderr, "runsink%s%s: can't write to standard output\n", *command ? " " : "", command);
    return EX_IOERR;
}

static int no_command(const char *name) {
    struct nearby guess = {.typed = name};
    char near[NEARBY_TEXT];
    for (size_t i = 0; i < N_COMMANDS; i++) nearby_look(&guess, commands[i].name);
    return command_usage("", "there is no command \"%.40s\"%s", name, nearby_text(&guess, near));
}

/* `runsink help`, `runsink help COMMAND`, and what is installed beside the program */
static int help(int argc, char **argv) {
    const struct command *cmd = argc > 1 ? command_named(argv[1]) : NULL;
    if (argc > 2) return command_usage("", "help takes one command");
    if (argc > 1 && print_manual(argv[1], stdout)) return end_of_output("help");
    if (argc > 1 && !cmd) return no_command(argv[1]);
    if (cmd)
        fputs(cmd->help, stdout);
    else
        print_help(stdout);
    return end_of_output("help");
}

static void interrupted(int unused) {
    static const char text[] = "\nrunsink: interrupted\n";
    (void)unused;
    _exit(write(STDERR_FILENO, text, sizeof text - 1) < 0 ? EX_IOERR : EX_TEMPFAIL);
}

/* What settles nothing may end anywhere, whatever it waits for. By a handler: the kernel keeps
 * signals that have none from a container's first process. */
static void end_when_told(void) {
    struct sigaction action = {.sa_handler = interrupted};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int call(const struct command *cmd, int argc, char **argv) {
    if (cmd->fn == command_run)
        run_hold_signals();
    else
        end_when_told(); /* redrive looks for itself, once it has begun */
    struct config *c = cmd->configured ? command_config() : NULL;
    if (cmd->configured && !c) return EX_CONFIG;
    int rc = cmd->fn(c, argc, argv);
    config_free(c);
    int written = end_of_output(cmd->name);
    return rc ? rc : written;
}

static int dispatch(struct command_globals globals, int argc, char **argv) {
    static char fallback[] = DEFAULT_COMMAND;
    static char *alone[] = {fallback, NULL};
    bool named = argc > 0 && argv[0][0] != '-';
    if (globals.version) return version_print(stdout), end_of_output("");
    if (globals.help && !named) return print_help(stdout), end_of_output("");
    if (named && strcmp(argv[0], "help") == 0) return help(argc, argv);
    const struct command *cmd = command_named(named ? argv[0] : fallback);
    if (!cmd) return no_command(argv[0]);
    if (globals.help) return fputs(cmd->help, stdout), end_of_output("");
    if (named) return call(cmd, argc, argv);
    if (argc == 0) return call(cmd, 1, alone);
    /* `runsink --until-end`: argv[-1] is the program's name, whose place the command takes. */
    argv[-1] = fallback;
    return call(cmd, argc + 1, argv - 1);
}

int main(int argc, char **argv) {
    harden();
    if (argc < 1) return EX_USAGE;
    int n = argc - 1;
    struct command_globals globals = {0};
    const char *lacking = command_take_globals(&n, argv + 1, &globals);
    int rc =
        lacking ? command_usage("", "%s lacks its value", lacking) : dispatch(globals, n, argv + 1);
    command_free_globals();
    return rc;
}
