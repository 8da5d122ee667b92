/* Structured logging to stderr, one line an event, as text (logfmt) or JSON. Any thread; a line is
 * one write(), at most 16 KiB, cut visibly beyond that, and costs whoever logs no wait (log_start).
 * Every value, whoever caused it, passes the scrubber, which replaces each registered secret (and
 * its JSON-escaped, percent-encoded and base64 forms) by [REDACTED]. Only logging functions log. */
#ifndef RUNSINK_LOG_H
#define RUNSINK_LOG_H

#include <stdint.h>

#include "worker/base/buf.h"

enum log_level { LOG_TRACE, LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_setup(enum log_level, bool json);
/* From here on lines go through a buffer of that many bytes and a thread that writes them: who logs
 * is never held up by who reads, and what finds no room is left out, counted, and told of once
 * lines flow again. Whoever calls abort() next has its lines written first. Main thread. */
void log_start(size_t buffer_bytes);
/* Text for a terminal among the lines, as it stands; none of it from outside. */
void log_raw(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
unsigned long log_lost(void); /* lines that stderr did not take, since the start */
void log_flush(int ms);       /* waits until what was logged is written, at most ms */
void log_stop(void);          /* flushes, for at most 2 s, and ends the thread */
void log_set_level(enum log_level);
bool log_on(enum log_level);

/* event is a short fixed phrase, a string literal: it alone is not scrubbed, or a tenant could
 * blank it for everybody by choosing its words as a secret. What follows are up to LOG_FIELDS
 * pairs: log_warn("delivery parked", LOG_S("topic", t), LOG_I("partition", p), LOG_S("why",
 * o.why));
 */
#define LOG_FIELDS 14
struct log_field {
    const char *name;
    char kind; /* 's' text (NUL-terminated), 'n' struct str, 'i' signed, 'f' double, 0 end */
    union {
        const char *s;
        struct str n;
        int64_t i;
        double f;
    } v;
};
struct log_line {
    const char *event;
    struct log_field fields[LOG_FIELDS + 1];
};
#define LOG_S(name_, s_) ((struct log_field){.name = (name_), .kind = 's', .v.s = (s_)})
#define LOG_N(name_, n_) ((struct log_field){.name = (name_), .kind = 'n', .v.n = (n_)})
#define LOG_I(name_, i_) ((struct log_field){.name = (name_), .kind = 'i', .v.i = (int64_t)(i_)})
#define LOG_F(name_, f_) ((struct log_field){.name = (name_), .kind = 'f', .v.f = (f_)})
/* A message for the operator, as functions append it to a buffer: without its last newline. */
#define LOG_MESSAGE(buf_) LOG_N("error", log_message(buf_))
struct str log_message(const struct buf *);
void log_write(enum log_level, const struct log_line *);
#define log_at(level, ...)                                                                         \
    do {                                                                                           \
        if (log_on(level)) log_write((level), &(const struct log_line){"" __VA_ARGS__});           \
    } while (0)
#define log_trace(...) log_at(LOG_TRACE, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)

/* The scrubber's table of secrets in flight. Counted: two destinations may share one secret.
 * Secrets shorter than 6 bytes are not scrubbed, or a tenant could blank short words in everybody's
 * lines by naming them as its secrets; callers must not log near those. The table holds copies,
 * wiped when the count falls to zero. */
void secret_add(struct str);
void secret_drop(struct str); /* one that was added */
/* Memory that the table takes for one, at most: for whoever adds those of others to keep count of.
 */
size_t secret_bytes(struct str);
/* Whether a registered secret, or the beginning of one at its end, stands in the text; true as well
 * when finding out would take too long. */
bool secret_in(struct str);
/* Scrubs n bytes of text in place where a secret stands, by '*'; used on what libraries hand us. */
void secret_scrub(char *, size_t n);

#endif
