#include "worker/tools/redrive_plan.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- letters ---- */

bool letter_read(const struct message *rec, const char *source, struct letter *l,
                 const char **reterr) {
    struct retry past;
    if (!retry_parse(rec->headers, rec->n_headers, &past, reterr)) return false;
    if (past.died_ms == 0)
        *reterr = "runsink-reason is missing";
    else if (strcmp(past.origin.topic, source) != 0)
        *reterr = "runsink-origin names another topic";
    else
        return l->past = past, true;
    return false;
}

bool letter_is_of(const struct letter *l, const char *group) {
    return !l->past.group[0] || strcmp(l->past.group, group) == 0;
}

/* Goes back to the last star whenever the text after it fails: linear in practice, and quadratic at
 * worst in texts that are short. */
bool glob_matches(const char *pattern, const char *text) {
    const char *star = NULL, *resume = NULL;
    while (*text) {
        bool escape = *pattern == '\\' && (pattern[1] == '*' || pattern[1] == '\\');
        if (*pattern == '*') {
            star = ++pattern;
            resume = text;
        } else if (pattern[escape] == *text) {
            pattern += 1 + escape;
            text++;
        } else if (star) {
            pattern = star;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}

bool filter_offsets(const char *text, struct redrive_filter *f) {
    int partition, n = 0;
    long long first, last;
    if (sscanf(text, "%9d:%18lld%n", &partition, &first, &n) != 2 || n == 0) return false;
    last = first;
    if (text[n] == '-') {
        int more = 0;
        if (sscanf(text + n, "-%18lld%n", &last, &more) != 1) return false;
        n += more;
    }
    if (text[n] != '\0' || partition < 0 || first < 0 || last < first) return false;
    f->partition = partition;
    f->first = first;
    f->last = last;
    return true;
}

static bool event_matches(const struct redrive_filter *f, const struct message *rec) {
    struct arena arena = {0};
    struct jobrun run;
    struct outcome why;
    bool ok = jobrun_decode(rec, &arena, &run, &why);
    ok = ok && (!f->workspace || str_is(run.workspace_id, f->workspace));
    ok = ok && (!f->id || str_is(run.id, f->id));
    arena_wipe(&arena);
    return ok;
}

bool filter_matches(const struct redrive_filter *f, const struct letter *l,
                    const struct message *rec) {
    if (f->fault != FAULT_NONE && f->fault != l->fault) return false;
    if (f->reason && strcmp(f->reason, l->past.why) != 0) return false;
    if (f->destination && !glob_matches(f->destination, l->past.destination)) return false;
    if (f->from_ms && l->past.died_ms < f->from_ms) return false;
    if (f->to_ms && l->past.died_ms > f->to_ms) return false;
    if (f->partition >= 0 &&
        (l->partition != f->partition || l->offset < f->first || l->offset > f->last))
        return false;
    return (!f->workspace && !f->id) || event_matches(f, rec);
}

/* ---- batches ---- */

static void enlarge(struct gatherings *g) {
    struct gatherings bigger = {.n = g->n, .cap = g->cap ? g->cap * 2 : 256};
    bigger.buckets = xcalloc(bigger.cap, sizeof(struct gathering *));
    for (size_t i = 0; i < g->cap; i++)
        for (struct gathering *b = g->buckets[i], *next; b; b = next) {
            next = b->next;
            struct gathering **to = &bigger.buckets[b->hash & (bigger.cap - 1)];
            b->next = *to;
            *to = b;
        }
    free(g->buckets);
    *g = bigger;
}

/* Destinations of one window may use the same key, each in a bucket of its own. */
static char *batch_id(const struct letter *l) {
    size_t n = strlen(l->past.batch_key) + strlen(l->past.destination) + 64;
    char *id = xmalloc(n);
    snprintf(id, n, "%d/%d/%d %s %s", (int)l->fault, (int)l->partition,
             (int)l->past.origin.partition, l->past.destination, l->past.batch_key);
    return id;
}

struct gathering *gather(struct gatherings *g, const struct letter *l) {
    if (g->n >= g->cap) enlarge(g);
    char *id = batch_id(l);
    uint64_t hash = keyed_hash(id, strlen(id));
    struct gathering **bucket = &g->buckets[hash & (g->cap - 1)];
    for (struct gathering *b = *bucket; b; b = b->next) {
        if (b->hash != hash || strcmp(b->id, id) != 0) continue;
        free(id);
        return b;
    }
    struct gathering *b = xcalloc(1, sizeof *b);
    *b = (struct gathering){
        .hash = hash, .id = id, .count = l->past.batch_count, .first = *l, .next = *bucket};
    *bucket = b;
    g->n++;
    return b;
}

static void gathering_free(struct gathering *b) {
    spans_free(&b->offsets);
    free(b->members);
    free(b->id);
    free(b);
}

void gather_drop(struct gatherings *g, struct gathering *b) {
    struct gathering **at = &g->buckets[b->hash & (g->cap - 1)];
    while (*at != b) at = &(*at)->next;
    *at = b->next;
    g->n--;
    gathering_free(b);
}

void gatherings_free(struct gatherings *g) {
    for (size_t i = 0; i < g->cap; i++)
        while (g->buckets[i]) gather_drop(g, g->buckets[i]);
    free(g->buckets);
    *g = (struct gatherings){0};
}

/* ---- rows ---- */

static uint64_t row_hash(enum fault fault, const char *reason, const char *destination) {
    uint64_t parts[3] = {(uint64_t)fault, keyed_hash(reason, strlen(reason)),
                         keyed_hash(destination, strlen(destination))};
    return keyed_hash(parts, sizeof parts);
}

static size_t row_slot(const struct plan *p, enum fault fault, const char *reason,
                       const char *destination) {
    size_t i = (size_t)row_hash(fault, reason, destination) & (p->cap_index - 1);
    for (; p->index[i]; i = (i + 1) & (p->cap_index - 1)) {
        const struct plan_row *r = &p->rows[p->index[i] - 1];
        if (r->fault == fault && strcmp(r->reason, reason) == 0 &&
            strcmp(r->destination, destination) == 0)
            break;
    }
    return i;
}

static void rows_enlarge(struct plan *p) {
    p->cap_rows = p->cap_rows ? p->cap_rows * 2 : 32;
    p->rows = xrealloc(p->rows, p->cap_rows * sizeof *p->rows);
    free(p->index);
    p->cap_index = p->cap_rows * 2;
    p->index = xcalloc(p->cap_index, sizeof *p->index);
    for (size_t i = 0; i < p->n_rows; i++) {
        const struct plan_row *r = &p->rows[i];
        p->index[row_slot(p, r->fault, r->reason, r->destination)] = (uint32_t)i + 1;
    }
}

static void count_row(struct plan *p, const struct letter *l, uint64_t n) {
    if (p->n_rows == p->cap_rows) rows_enlarge(p);
    size_t slot = row_slot(p, l->fault, l->past.why, l->past.destination);
    if (p->index[slot]) {
        p->rows[p->index[slot] - 1].n += n;
    } else if (p->n_rows == PLAN_ROWS_MAX) {
        p->other += n;
    } else {
        struct plan_row *r = &p->rows[p->n_rows++];
        *r = (struct plan_row){.fault = l->fault, .n = n};
        memcpy(r->reason, l->past.why, sizeof r->reason);
        memcpy(r->destination, l->past.destination, sizeof r->destination);
        p->index[slot] = (uint32_t)p->n_rows;
    }
}

/* ---- the plan ---- */

void plan_init(struct plan *p, const int partitions[FAULTS], enum plan_way way) {
    *p = (struct plan){.way = way};
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        p->partitions[f] = partitions[f];
        p->selected[f] = xcalloc((size_t)partitions[f], sizeof(struct spans));
    }
}

void plan_free(struct plan *p) {
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        for (int i = 0; i < p->partitions[f]; i++) spans_free(&p->selected[f][i]);
        free(p->selected[f]);
    }
    gatherings_free(&p->open);
    free(p->rows);
    free(p->index);
    *p = (struct plan){0};
}

static void take_batch(struct plan *p, const struct gathering *b, const struct letter *l) {
    for (size_t i = 0; i < b->offsets.n; i++)
        spans_add(&p->selected[l->fault][l->partition], b->offsets.v[i]);
    count_row(p, l, b->n);
    p->n += b->n;
    p->along += b->n - b->matched;
}

static void pass_by(struct plan *p, const struct letter *l) {
    size_t i = 0;
    while (i < p->n_passed && strcmp(p->passed[i].name, l->past.why) != 0) i++;
    p->passed_by++;
    if (i == PLAN_REASONS_MAX) return;
    if (i == p->n_passed) memcpy(p->passed[p->n_passed++].name, l->past.why, sizeof l->past.why);
    p->passed[i].n++;
}

void plan_take(struct plan *p, const struct letter *l, bool matches) {
    if (!matches) pass_by(p, l);
    struct ledger_range self = {l->offset, l->offset};
    if (!letter_in_batch(l) || p->way == PLAN_DISCARD) {
        if (!matches) return;
        spans_add(&p->selected[l->fault][l->partition], self);
        count_row(p, l, 1);
        p->n++;
        return;
    }
    struct gathering *b = gather(&p->open, l);
    b->n++;
    b->matched += matches;
    spans_add(&b->offsets, self);
    if (b->n < b->count) return;
    if (b->matched) take_batch(p, b, l);
    gather_drop(&p->open, b);
}

static int compare_rows(const void *a, const void *b) {
    const struct plan_row *x = a, *y = b;
    if (x->fault != y->fault) return x->fault < y->fault ? -1 : 1;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    int d = strcmp(x->reason, y->reason);
    return d ? d : strcmp(x->destination, y->destination);
}

void plan_finish(struct plan *p) {
    for (size_t i = 0; i < p->open.cap; i++)
        for (const struct gathering *b = p->open.buckets[i]; b; b = b->next) {
            if (b->matched && p->way == PLAN_ORIGIN)
                take_batch(p, b, &b->first);
            else if (b->matched)
                p->incomplete += b->n;
        }
    gatherings_free(&p->open);
    free(p->index);
    p->index = NULL;
    if (p->n_rows) qsort(p->rows, p->n_rows, sizeof *p->rows, compare_rows);
}
