#include "worker/admin/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "sinks/sink.h"

enum kind { TOTAL, TOTAL_BY_SINK, SUM, MAX, MAX_MS, HIDDEN };

struct family {
    enum kind kind;
    const char *name, *labels, *help;
};

static const struct family counters[COUNTERS] = {
#define COUNTER(id, kind, name, labels, help) [COUNTER_##id] = {kind, name, labels, help},
#include "worker/base/counters.def"
};

static const struct family histograms[HISTOGRAMS] = {
#define HISTOGRAM(id, kind, scale, name, help) [HISTOGRAM_##id] = {kind, name, "", help},
#include "worker/base/counters.def"
};

static const struct {
    const char *type, *name, *labels, *help;
} givens[GIVENS] = {
#define GIVEN(id, type, name, labels, help) [GIVEN_##id] = {type, name, labels, help},
#include "worker/base/counters.def"
};

/* ---- sums ---- */

static bool is_greatest(enum kind kind) {
    return kind == MAX || kind == MAX_MS;
}

void metrics_add(struct metrics_sums *sums, const struct counters *c) {
    for (size_t id = 0; id < COUNTERS; id++)
        for (size_t s = 0; s < SINK_SLOTS; s++) {
            uint64_t n = atomic_load_explicit(&c->v[id][s], memory_order_relaxed);
            uint64_t *sum = &sums->v[id][s];
            *sum = !is_greatest(counters[id].kind) ? *sum + n : n > *sum ? n : *sum;
        }
    for (size_t id = 0; id < HISTOGRAMS; id++)
        for (size_t s = 0; s < SINK_SLOTS; s++) {
            const struct histogram_cells *h = &c->histograms[id][s];
            for (size_t i = 0; i <= HISTOGRAM_BOUNDS; i++)
                sums->buckets[id][s][i] +=
                    atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
            sums->sum_us[id][s] += atomic_load_explicit(&h->sum_us, memory_order_relaxed);
        }
}

uint64_t metrics_total(const struct metrics_sums *sums, enum counter id) {
    uint64_t n = 0;
    for (size_t s = 0; s < SINK_SLOTS; s++) n += sums->v[id][s];
    return n;
}

/* ---- text ---- */

static const char *type_of(enum kind kind) {
    switch (kind) {
    case TOTAL:
    case TOTAL_BY_SINK:
        return "counter";
    case SUM:
    case MAX:
    case MAX_MS:
        return "gauge";
    case HIDDEN:
        break;
    }
    return "";
}

/* The type of sink that a slot counts for; NULL: an unused slot. */
static const char *slot_name(size_t slot) {
    _Static_assert(SINK_SLOTS == 1 + SINK_TYPES_MAX, "each type has a slot of its own");
    size_t n_types = 0;
    if (slot == 0) return "none";
    while (sink_types[n_types]) n_types++;
    return slot <= n_types ? sink_types[slot - 1]->name : NULL;
}

static void head(const char *name, const char *type, const char *help, struct buf *out) {
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_by_sink(const struct family *f, const uint64_t v[SINK_SLOTS], struct buf *out) {
    for (size_t s = 0; s < SINK_SLOTS; s++)
        if (slot_name(s))
            buf_printf(out, "%s{%s%ssink=\"%s\"} %" PRIu64 "\n", f->name, f->labels,
                       *f->labels ? "," : "", slot_name(s), v[s]);
}

static void print_plain(const struct family *f, uint64_t n, struct buf *out) {
    bool labels = *f->labels;
    buf_printf(out, "%s%s%s%s ", f->name, labels ? "{" : "", f->labels, labels ? "}" : "");
    if (f->kind == MAX_MS)
        buf_printf(out, "%" PRIu64 ".%03" PRIu64 "\n", n / 1000, n % 1000);
    else
        buf_printf(out, "%" PRIu64 "\n", n);
}

static void print_histogram(const struct family *f, const char *label, const uint64_t *buckets,
                            uint64_t sum_us, struct buf *out) {
    const struct histogram_bound *bounds = histogram_bounds((enum histogram)(f - histograms));
    uint64_t n = 0;
    const char *comma = *label ? "," : "", *open = *label ? "{" : "", *close = *label ? "}" : "";
    for (size_t i = 0; i <= HISTOGRAM_BOUNDS; i++) {
        n += buckets[i];
        buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", f->name, label, comma,
                   i < HISTOGRAM_BOUNDS ? bounds[i].le : "+Inf", n);
    }
    buf_printf(out, "%s_sum%s%s%s %" PRIu64 ".%06" PRIu64 "\n", f->name, open, label, close,
               sum_us / 1000000, sum_us % 1000000);
    buf_printf(out, "%s_count%s%s%s %" PRIu64 "\n", f->name, open, label, close, n);
}

static void print_histograms(const struct metrics_sums *sums, enum histogram id, struct buf *out) {
    const struct family *f = &histograms[id];
    head(f->name, "histogram", f->help, out);
    if (f->kind != TOTAL_BY_SINK) {
        print_histogram(f, "", sums->buckets[id][0], sums->sum_us[id][0], out);
        return;
    }
    for (size_t s = 1; s < SINK_SLOTS; s++) {
        char label[64];
        if (!slot_name(s)) continue;
        snprintf(label, sizeof label, "sink=\"%s\"", slot_name(s));
        print_histogram(f, label, sums->buckets[id][s], sums->sum_us[id][s], out);
    }
}

void metrics_print(const struct metrics_sums *sums, struct buf *out) {
    const char *family = "";
    for (size_t id = 0; id < COUNTERS; id++) {
        const struct family *f = &counters[id];
        if (f->kind == HIDDEN) continue;
        if (strcmp(f->name, family) != 0) head(f->name, type_of(f->kind), f->help, out);
        family = f->name;
        if (f->kind == TOTAL_BY_SINK)
            print_by_sink(f, sums->v[id], out);
        else
            print_plain(f, sums->v[id][0], out);
    }
    for (size_t id = 0; id < HISTOGRAMS; id++) print_histograms(sums, (enum histogram)id, out);
}

void metrics_head(enum given id, struct buf *out) {
    head(givens[id].name, givens[id].type, givens[id].help, out);
}

/* The value escaped. */
static void put_label(struct buf *out, const char *before, const char *name, const char *value) {
    buf_printf(out, "%s%s=\"", before, name);
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"') buf_putc(out, '\\');
        if (*c == '\n')
            buf_puts(out, "\\n");
        else
            buf_putc(out, *c);
    }
    buf_putc(out, '"');
}

void metrics_sample(enum given id, double value, struct buf *out, ...) {
    const char *name, *before = "{";
    va_list ap;
    va_start(ap, out);
    buf_puts(out, givens[id].name);
    for (; (name = va_arg(ap, const char *)); before = ",")
        put_label(out, before, name, va_arg(ap, const char *));
    va_end(ap);
    buf_printf(out, "%s %.15g\n", *before == ',' ? "}" : "", value);
}

void metrics_alone(enum given id, double value, struct buf *out) {
    metrics_head(id, out);
    metrics_sample(id, value, out, NULL);
}

/* ---- the process ---- */

static double count_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    double n = 0;
    if (!dir) return -1;
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 3; /* "." and ".." and the one that reads the folder */
}

void metrics_process(double start_s, struct buf *out) {
    struct timespec cpu = {0};
    struct rlimit limit = {0};
    unsigned long long size = 0, resident = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    metrics_alone(GIVEN_CPU, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9, out);
    FILE *f = fopen("/proc/self/statm", "re");
    int n = f ? fscanf(f, "%llu %llu", &size, &resident) : 0;
    if (f) fclose(f);
    double page = (double)sysconf(_SC_PAGESIZE), fds = count_descriptors();
    if (n == 2) {
        metrics_alone(GIVEN_RSS, (double)resident * page, out);
        metrics_alone(GIVEN_VSIZE, (double)size * page, out);
    }
    if (fds >= 0) metrics_alone(GIVEN_FDS, fds, out);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        metrics_alone(GIVEN_MAX_FDS, (double)limit.rlim_cur, out);
    metrics_alone(GIVEN_START, start_s, out);
}

/* ---- reference ---- */

/* label="value" pairs: their names alone, as `name`, `name`. */
static void print_label_names(const char *labels, const char *more, FILE *f) {
    const char *comma = "";
    for (const char *at = labels; *at;) {
        size_t n = strcspn(at, "=,");
        fprintf(f, "%s`%.*s`", comma, (int)n, at);
        comma = ", ";
        at += n + strcspn(at + n, ",");
        at += *at == ',';
    }
    if (*more) fprintf(f, "%s`%s`", comma, more);
}

static void print_row(const char *name, const char *type, const char *labels, const char *more,
                      const char *help, FILE *f) {
    fprintf(f, "| `%s` | %s | ", name, type);
    print_label_names(labels, more, f);
    fprintf(f, " | %s |\n", help);
}

void metrics_print_reference(FILE *f) {
    const char *family = "";
    fputs("| metric | type | labels | meaning |\n|---|---|---|---|\n", f);
    for (size_t id = 0; id < COUNTERS; id++) {
        const struct family *c = &counters[id];
        if (c->kind == HIDDEN || strcmp(c->name, family) == 0) continue;
        family = c->name;
        print_row(c->name, type_of(c->kind), c->labels, c->kind == TOTAL_BY_SINK ? "sink" : "",
                  c->help, f);
    }
    for (size_t id = 0; id < HISTOGRAMS; id++)
        print_row(histograms[id].name, "histogram", "",
                  histograms[id].kind == TOTAL_BY_SINK ? "sink" : "", histograms[id].help, f);
    for (size_t id = 0; id < GIVENS; id++)
        print_row(givens[id].name, givens[id].type, givens[id].labels, "", givens[id].help, f);
    fputs("\nThe reasons of `runsink_failures_total`:\n\n| reason | what it says |\n|---|---|\n",
          f);
#define FAILURE(id, reason, whys, words) fputs("| `" reason "` | " words " |\n", f);
#include "worker/base/failures.def"
}
