#include "worker/base/log.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/log_out.h"
#include "worker/base/scrub.h"
#include "worker/base/text.h"

#define LINE_MAX_BYTES ((size_t)16384)
/* What ends a line whose fields did not all fit; there is always room for it. */
#define CUT_MARK "[cut]"
#define TAIL_ROOM ((size_t)64)

static atomic_int least = LOG_INFO;
static atomic_bool as_json;

void log_set_level(enum log_level level) {
    atomic_store(&least, (int)level);
}

bool log_on(enum log_level level) {
    return (int)level >= atomic_load_explicit(&least, memory_order_relaxed);
}

static const char *level_name(enum log_level level) {
    switch (level) {
    case LOG_TRACE:
        return "trace";
    case LOG_DEBUG:
        return "debug";
    case LOG_INFO:
        return "info";
    case LOG_WARN:
        return "warn";
    case LOG_ERROR:
        return "error";
    }
    return "?";
}

/* Milliseconds, UTC, RFC 3339. */
static void now_text(char ret[64]) {
    int64_t now_ms = clock_ms(CLOCK_REALTIME);
    utc_text(now_ms / 1000, ret);
    size_t n = strlen(ret) - 1;
    snprintf(ret + n, 64 - n, ".%03dZ", (int)(now_ms % 1000));
}

/* How much of escaped JSON text fits into max bytes without cutting an escape or a character. */
static size_t whole_prefix(const char *p, size_t n, size_t max) {
    size_t i = 0;
    while (i < n) {
        size_t unit = 1;
        if (p[i] == '\\')
            unit = p[i + 1] == 'u' ? 6 : 2;
        else
            while (i + unit < n && ((unsigned char)p[i + unit] & 0xc0) == 0x80) unit++;
        if (i + unit > max) break;
        i += unit;
    }
    return i;
}

/* Whether logfmt may leave the value unquoted. */
static bool is_plain(struct str s) {
    if (s.n == 0) return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f) return false;
    }
    return true;
}

/* Text, quoted as needed, and cut, visibly, to what the line has left. */
static void add_clean(struct buf *line, struct str s, bool json, bool cut) {
    size_t room = line->max - line->n;
    room = room > TAIL_ROOM ? room - TAIL_ROOM : 0;
    if (!json && !cut && is_plain(s) && s.n <= room) {
        buf_str(line, s);
        return;
    }
    struct buf escaped;
    buf_init(&escaped, 6 * s.n + 1);
    text_json(&escaped, s);
    size_t n = whole_prefix(escaped.p, escaped.n, room);
    buf_putc(line, '"');
    buf_add(line, escaped.p, n);
    if (n < escaped.n || cut) buf_puts(line, CUT_MARK);
    buf_putc(line, '"');
    buf_wipe(&escaped);
}

static void add_text(struct buf *line, struct str raw, bool json) {
    struct buf clean;
    /* More can't reach the line; the scrubber knows a secret that this cuts. */
    struct str head = {raw.p, raw.n < LINE_MAX_BYTES ? raw.n : LINE_MAX_BYTES};
    buf_init(&clean, 4 * LINE_MAX_BYTES); /* six bytes at least become ten */
    scrub_add(&clean, head);
    add_clean(line, (struct str){clean.p, clean.n}, json, head.n < raw.n);
    buf_wipe(&clean);
}

static void add_double(struct buf *line, double v, bool json) {
    if (json && !isfinite(v))
        buf_puts(line, "null");
    else
        buf_printf(line, "%.6g", v);
}

/* False when the line has no room for the field. */
static bool add_field(struct buf *line, const struct log_field *f, bool json) {
    if (line->n + strlen(f->name) + 2 * TAIL_ROOM > line->max) return false;
    buf_printf(line, json ? ",\"%s\":" : " %s=", f->name);
    switch (f->kind) {
    case 's':
        add_text(line, str_c(f->v.s), json);
        break;
    case 'n':
        add_text(line, f->v.n, json);
        break;
    case 'i':
        buf_printf(line, "%" PRId64, f->v.i);
        break;
    default:
        add_double(line, f->v.f, json);
    }
    return true;
}

static void make_line(struct buf *line, enum log_level level, const struct log_line *l, bool json) {
    char time[64];
    now_text(time);
    buf_printf(
        line, json ? "{\"ts\":\"%s\",\"level\":\"%s\",\"event\":" : "time=%s level=%s event=", time,
        level_name(level));
    add_clean(line, str_c(l->event), json, false);
    bool cut = false;
    for (const struct log_field *f = l->fields; f->kind && !cut; f++)
        cut = !add_field(line, f, json);
    if (cut) buf_puts(line, json ? ",\"cut\":true" : " cut=true");
    buf_puts(line, json ? "}\n" : "\n");
}

static size_t make_mark(char *ret, size_t size, unsigned long lines) {
    struct buf line;
    buf_init(&line, size);
    make_line(&line, LOG_WARN, &(const struct log_line){"log lines lost", LOG_I("lines", lines)},
              atomic_load_explicit(&as_json, memory_order_relaxed));
    size_t n = line.n;
    memcpy(ret, line.p, n);
    buf_free(&line);
    return n;
}

void log_setup(enum log_level level, bool json) {
    /* A closed stderr must cost lines, not the process. */
    signal(SIGPIPE, SIG_IGN);
    atomic_store(&as_json, json);
    log_out_setup(make_mark);
    log_set_level(level);
}

/* One tenant can cause as many lines as it sends events. Of one kind of line at most LIMIT_LINES
 * are written in LIMIT_MS; the next one written says how many were not. Whoever debugs (trace,
 * debug) wants them all. */
#define LIMIT_LINES 200
#define LIMIT_MS 10000
#define LIMIT_KINDS 64

static struct kind {
    const char *event;
    int64_t since_ms;
    unsigned long written, left_out;
} kinds[LIMIT_KINDS];
static pthread_mutex_t limiting = PTHREAD_MUTEX_INITIALIZER;

static struct kind *kind_of(const char *event) {
    size_t at = (size_t)((uintptr_t)event >> 3) % LIMIT_KINDS;
    for (size_t i = 0; i < LIMIT_KINDS; i++) {
        struct kind *k = &kinds[(at + i) % LIMIT_KINDS];
        if (!k->event) k->event = event;
        if (k->event == event) return k;
    }
    return NULL;
}

/* Whether the line may be written; *ret_left_out: how many of its kind were not since the last that
 * was. */
static bool may_write(enum log_level level, const char *event, unsigned long *ret_left_out) {
    struct timespec ts;
    *ret_left_out = 0;
    if (level <= LOG_DEBUG || log_on(LOG_DEBUG)) return true;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    int64_t now_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
    pthread_mutex_lock(&limiting);
    struct kind *k = kind_of(event);
    if (k && now_ms - k->since_ms >= LIMIT_MS) {
        k->since_ms = now_ms;
        k->written = 0;
    }
    bool ok = !k || k->written < LIMIT_LINES;
    if (k && ok) {
        k->written++;
        *ret_left_out = k->left_out;
        k->left_out = 0;
    } else if (k) {
        k->left_out++;
    }
    pthread_mutex_unlock(&limiting);
    return ok;
}

/* The buffer is empty afterwards. */
static void put_line(struct buf *line) {
    log_out(line->p, line->n);
    buf_clear(line);
}

struct str log_message(const struct buf *b) {
    struct str s = {b->p, b->n};
    while (s.n && s.p[s.n - 1] == '\n') s.n--;
    return s;
}

void log_write(enum log_level level, const struct log_line *l) {
    unsigned long left_out;
    if (!may_write(level, l->event, &left_out)) return;
    bool json = atomic_load_explicit(&as_json, memory_order_relaxed);
    struct buf line;
    buf_init(&line, LINE_MAX_BYTES);
    if (left_out) {
        make_line(&line, level,
                  &(const struct log_line){"log lines left out", LOG_S("kind", l->event),
                                           LOG_I("lines", left_out)},
                  json);
        put_line(&line);
    }
    make_line(&line, level, l, json);
    put_line(&line);
    buf_wipe(&line);
}

/* ---- a thread that writes ---- */

#define CRASH_FLUSH_MS 1000
#define STOP_FLUSH_MS 2000

/* The thread goes on meanwhile and writes what led here. Whatever the signal does by default comes
 * once this has returned: also where it came from outside, and nothing would raise it again. */
static void on_crash(int signal_number) {
    log_out_flush(CRASH_FLUSH_MS);
    raise(signal_number);
}

void log_start(size_t buffer_bytes) {
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    if (!log_out_start(buffer_bytes)) return;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction is, flush = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
        if (sigaction(signals[i], NULL, &is) == 0 && is.sa_handler == SIG_DFL)
            sigaction(signals[i], &flush, NULL); /* a sanitizer's stay */
    }
}

void log_raw(const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n > 0) log_out(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

unsigned long log_lost(void) {
    return log_out_lost();
}

void log_flush(int ms) {
    log_out_flush(ms);
}

void log_stop(void) {
    log_out_stop(STOP_FLUSH_MS);
}
