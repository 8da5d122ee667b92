#include "worker/tools/parked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/base/table.h"
#include "worker/tools/redrive_plan.h"

#define RECORDS_MAX 100000
#define ENTRIES_MAX 1000000 /* of a ledger */
#define ROWS_MAX 10000      /* what does not fit goes into a row without a name */
#define TIMEOUT_MS 30000
/* Clocks of producers may differ by this much. */
#define SKEW_MS ((int64_t)3600 * 1000)

/* A dead letter, until it is known whether it went back. */
struct fallen {
    enum fault fault;
    int32_t partition, from_partition;
    int64_t offset, from_offset, died_ms;
    size_t row;
    char why[sizeof((struct retry *)0)->why];
};

struct look {
    const struct config *cfg;
    rd_kafka_t *rk;
    const struct topic_list *all;
    struct overview *o;
    struct buf *err;
    const char *source; /* at hand */
    struct table index; /* of the rows at hand, by their hashes alone */
    struct arena arena; /* of its nodes */
    uint64_t read;      /* records, in all */
    struct fallen *fallen;
    size_t n_fallen;
    struct chains *chains;
};

/* ---- rows ---- */

struct row_node {
    struct table_node node;
    size_t number;
};

/* The row's number, or that of a new one, or of the one that takes what does not fit. */
static size_t row_number(struct look *l, uint64_t hash, size_t n) {
    struct table_node *found = table_first(&l->index, hash);
    if (found) return TABLE_ENTRY(found, struct row_node, node)->number;
    if (n > ROWS_MAX) return ROWS_MAX;
    struct row_node *fresh = arena_alloc(&l->arena, sizeof *fresh);
    fresh->number = n;
    table_add(&l->index, &fresh->node, hash);
    return n;
}

static void forget_rows(struct look *l) {
    table_free(&l->index);
    arena_free(&l->arena);
}

static uint64_t hash_of(const struct look *l, int fault, struct str text) {
    uint64_t parts[3] = {keyed_hash(l->source, strlen(l->source)), (uint64_t)fault,
                         keyed_hash(text.p, text.n)};
    return keyed_hash(parts, sizeof parts);
}

/* What the record's row is named by; the arena's, or r's. Empty: not known. */
static struct str name_of(const struct look *l, const struct message *rec, const struct retry *r,
                          enum overview_by usual, struct arena *arena) {
    struct jobrun run;
    struct outcome unused;
    switch (l->o->by == BY_DEFAULT ? usual : l->o->by) {
    case BY_DEFAULT:
    case BY_DESTINATION:
        return str_c(r->destination);
    case BY_REASON:
        return str_c(r->why);
    case BY_WORKSPACE:
        if (!jobrun_decode(rec, arena, &run, &unused)) break;
        if (!(run.hidden & 1u << RUN_WORKSPACE_ID)) return run.workspace_id;
        break;
    }
    return STR("");
}

/* Whether all of it fits. */
static bool keep_name(char ret[DESTINATION_MAX], struct str name) {
    size_t n = name.n < DESTINATION_MAX ? name.n : DESTINATION_MAX - 1;
    if (n) memcpy(ret, name.p, n);
    ret[n] = '\0';
    return n == name.n && strlen(ret) == n;
}

/* ---- what waits ---- */

static void add_parked(struct look *l, const struct retry *r, struct str name, int64_t time_ms) {
    struct overview *o = l->o;
    size_t at = row_number(l, hash_of(l, 0, name), o->n_parked);
    if (at == o->n_parked) {
        o->parked = xgrow(o->parked, o->n_parked, sizeof *o->parked);
        struct parked_row *fresh = &o->parked[o->n_parked++];
        *fresh = (struct parked_row){.source = l->source, .due_ms = r->progress.due_ms};
        if (at < ROWS_MAX) keep_name(fresh->name, name);
    }
    struct parked_row *row = &o->parked[at];
    row->n++;
    o->waiting++;
    if (r->progress.first_failure_ms &&
        (!row->since_ms || r->progress.first_failure_ms < row->since_ms))
        row->since_ms = r->progress.first_failure_ms;
    if (r->progress.due_ms < row->due_ms) row->due_ms = r->progress.due_ms;
    if (time_ms < row->last_ms) return;
    row->last_ms = time_ms;
    memcpy(row->why, r->why, sizeof row->why);
}

static void count_leftover(struct overview *o, const char *topic) {
    for (size_t i = 0; i < o->n_leftovers; i++)
        if (strcmp(o->leftovers[i].topic, topic) == 0) o->leftovers[i].n++;
}

static void take_parked(struct look *l, const rd_kafka_message_t *m) {
    struct arena arena = {0};
    struct message rec;
    struct retry r;
    const char *unused;
    reader_record(m, &arena, &rec);
    if (!retry_parse(rec.headers, rec.n_headers, &r, &unused) || r.died_ms) {
        l->o->unreadable++;
    } else if (!r.group[0] || strcmp(r.group, l->cfg->group) == 0) {
        add_parked(l, &r, name_of(l, &rec, &r, BY_DESTINATION, &arena),
                   rd_kafka_message_timestamp(m, NULL));
        count_leftover(l->o, rd_kafka_topic_name(m->rkt));
    }
    arena_wipe(&arena);
}

static void add_leftover(struct overview *o, const char *topic) {
    o->leftovers = xgrow(o->leftovers, o->n_leftovers, sizeof *o->leftovers);
    struct leftover_row *row = &o->leftovers[o->n_leftovers++];
    *row = (struct leftover_row){.n = 0};
    snprintf(row->topic, sizeof row->topic, "%s", topic);
}

/* The partitions of the retry topics of the source at hand, whatever their delay. */
static rd_kafka_topic_partition_list_t *retry_partitions(const struct look *l) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(64);
    for (size_t i = 0; i < l->all->n; i++) {
        const struct topic *t = &l->all->v[i];
        enum topic_kind kind;
        if (!topic_is_of(t->name, l->source, &kind) || kind != TOPIC_RETRY || !t->partitions)
            continue;
        rd_kafka_topic_partition_list_add_range(list, t->name, 0, t->partitions - 1);
        if (topic_is_leftover(l->cfg, t->name)) add_leftover(l->o, t->name);
    }
    return list;
}

/* Reads to the end, or up to the bound: *ret_more. Frees the reader. */
static int read_through(struct look *l, struct reader *r,
                        void (*take)(struct look *, const rd_kafka_message_t *), bool *ret_more) {
    rd_kafka_message_t *m;
    for (; l->read < RECORDS_MAX && (m = reader_next(r, 0, l->err)); l->read++) {
        take(l, m);
        rd_kafka_message_destroy(m);
    }
    bool ok = reader_end(r) != READER_FAILED;
    *ret_more = *ret_more || l->read >= RECORDS_MAX;
    reader_free(r);
    if (!ok) buf_putc(l->err, '\n');
    return ok ? EX_OK : EX_UNAVAILABLE;
}

static int look_at_parked(struct look *l) {
    rd_kafka_topic_partition_list_t *list = retry_partitions(l);
    struct reader *r = reader_new(l->rk, READER_ANY);
    rd_kafka_resp_err_t code = list->cnt ? rd_kafka_committed(l->rk, list, TIMEOUT_MS) : 0;
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *p = &list->elems[i];
        reader_add(r, p->topic, p->partition, p->offset < 0 ? RD_KAFKA_OFFSET_BEGINNING : p->offset,
                   READER_END);
    }
    bool any = list->cnt > 0;
    rd_kafka_topic_partition_list_destroy(list);
    if (!code && any) return read_through(l, r, take_parked, &l->o->more_waiting);
    reader_free(r);
    if (code)
        buf_printf(l->err, "asking for committed offsets of retry topics: %s\n",
                   rd_kafka_err2str(code));
    return code ? EX_UNAVAILABLE : EX_OK;
}

/* ---- what died ---- */

static void add_fallen(struct look *l, const struct letter *letter, struct str name) {
    struct overview *o = l->o;
    const struct retry *past = &letter->past;
    size_t at = row_number(l, hash_of(l, (int)letter->fault, name), o->n_dead);
    if (at == o->n_dead) {
        o->dead = xgrow(o->dead, o->n_dead, sizeof *o->dead);
        struct dead_row *fresh = &o->dead[o->n_dead++];
        *fresh = (struct dead_row){.source = l->source, .fault = letter->fault};
        if (at < ROWS_MAX) fresh->selects = keep_name(fresh->name, name) && name.n;
    }
    l->fallen = xgrow(l->fallen, l->n_fallen, sizeof *l->fallen);
    l->fallen[l->n_fallen++] = (struct fallen){.fault = letter->fault,
                                               .partition = letter->partition,
                                               .offset = letter->offset,
                                               .from_partition = past->origin.partition,
                                               .from_offset = past->origin.offset,
                                               .died_ms = past->died_ms,
                                               .row = at};
    memcpy(l->fallen[l->n_fallen - 1].why, past->why, sizeof past->why);
}

static void take_dead(struct look *l, const rd_kafka_message_t *m) {
    struct arena arena = {0};
    struct message rec;
    const char *unused;
    struct letter letter = {.fault = topic_dead_fault(rd_kafka_topic_name(m->rkt)),
                            .partition = m->partition,
                            .offset = m->offset};
    reader_record(m, &arena, &rec);
    if (!letter_read(&rec, l->source, &letter, &unused))
        l->o->unreadable++;
    else if (letter_is_of(&letter, l->cfg->group))
        add_fallen(l, &letter, name_of(l, &rec, &letter.past, BY_REASON, &arena));
    arena_wipe(&arena);
}

/* Reads which letters went back or were discarded. That happens after they died, so older entries
 * are not read. */
static int read_ledger(struct look *l, const struct topic *ledger) {
    int64_t from = INT64_MAX;
    for (size_t i = 0; i < l->n_fallen; i++)
        if (l->fallen[i].died_ms < from) from = l->fallen[i].died_ms;
    const struct reader_limits limits = {.from_ms = from > SKEW_MS ? from - SKEW_MS : 0};
    struct reader *r = reader_new(l->rk, READER_ANY);
    rd_kafka_message_t *m;
    uint64_t n = 0;
    bool read = reader_add_topic(r, ledger, &limits, l->err), sound = true;
    while (read && sound && n < ENTRIES_MAX && (m = reader_next(r, 0, l->err))) {
        sound = chains_take(l->chains, reader_key(m), reader_value(m), l->err);
        rd_kafka_message_destroy(m);
        n++;
    }
    read = read && reader_end(r) != READER_FAILED;
    reader_free(r);
    l->o->uncertain = l->o->uncertain || !sound || n == ENTRIES_MAX;
    if (!read || !sound) buf_putc(l->err, '\n');
    return !sound ? EX_DATAERR : read ? EX_OK : EX_UNAVAILABLE;
}

static void count_fallen(struct look *l) {
    for (size_t i = 0; i < l->n_fallen; i++) {
        const struct fallen *f = &l->fallen[i];
        struct letter letter = {.fault = f->fault, .partition = f->partition, .offset = f->offset};
        letter.past.died_ms = f->died_ms;
        letter.past.origin.partition = f->from_partition;
        letter.past.origin.offset = f->from_offset;
        if (chains_state(l->chains, &letter) != LETTER_OPEN) continue;
        struct dead_row *row = &l->o->dead[f->row];
        if (!row->n || f->died_ms < row->since_ms) row->since_ms = f->died_ms;
        if (!row->n || f->died_ms >= row->last_ms) {
            row->last_ms = f->died_ms;
            memcpy(row->why, f->why, sizeof row->why);
        }
        row->n++;
        l->o->died++;
    }
}

static struct reader *dead_reader(const struct look *l, int ret_partitions[FAULTS]) {
    struct reader *r = reader_new(l->rk, READER_ANY);
    char name[TOPIC_MAX + 1];
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        const struct topic *t =
            topic_dead(l->source, (enum fault)f, name) ? topic_find(l->all, name) : NULL;
        ret_partitions[f] = t ? t->partitions : 0;
        for (int i = 0; i < ret_partitions[f]; i++)
            reader_add(r, name, i, RD_KAFKA_OFFSET_BEGINNING, READER_END);
    }
    return r;
}

static int look_at_dead(struct look *l) {
    char name[TOPIC_MAX + 1];
    int partitions[FAULTS] = {0};
    l->n_fallen = 0;
    int rc = read_through(l, dead_reader(l, partitions), take_dead, &l->o->more_died);
    if (rc != EX_OK || !l->n_fallen) return rc;
    l->chains = chains_new(l->source, l->cfg->group, partitions);
    const struct topic *ledger = topic_ledger(l->source, name) ? topic_find(l->all, name) : NULL;
    if (l->cfg->ledger && ledger && ledger->partitions) rc = read_ledger(l, ledger);
    count_fallen(l);
    chains_free(l->chains);
    l->chains = NULL;
    return rc;
}

/* ---- all of it ---- */

bool overview_by_read(const char *text, void *to, struct buf *err) {
    static const char *const names[] = {
        [BY_WORKSPACE] = "workspace", [BY_DESTINATION] = "destination", [BY_REASON] = "reason"};
    (void)err;
    for (size_t i = BY_WORKSPACE; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0) return *(enum overview_by *)to = (enum overview_by)i, true;
    return false;
}

static int by_waiting(const void *a, const void *b) {
    const struct parked_row *x = a, *y = b;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_died(const void *a, const void *b) {
    const struct dead_row *x = a, *y = b;
    int d = strcmp(x->source, y->source);
    if (d) return d;
    if (x->fault != y->fault) return x->fault < y->fault ? -1 : 1;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Rows whose letters all went back are none. */
static void tidy(struct overview *o) {
    size_t n = 0;
    for (size_t i = 0; i < o->n_dead; i++)
        if (o->dead[i].n) o->dead[n++] = o->dead[i];
    o->n_dead = n;
    if (o->n_dead) qsort(o->dead, o->n_dead, sizeof *o->dead, by_died);
    if (o->n_parked) qsort(o->parked, o->n_parked, sizeof *o->parked, by_waiting);
}

int overview_read(const struct config *cfg, rd_kafka_t *rk, const struct topic_list *all,
                  const struct topic_list *sources, struct overview *ret, struct buf *err) {
    struct look l = {.cfg = cfg, .rk = rk, .all = all, .o = ret, .err = err};
    ret->several = sources->n > 1;
    int rc = EX_OK;
    for (size_t i = 0; i < sources->n && rc == EX_OK; i++) {
        l.source = sources->v[i].name;
        rc = look_at_parked(&l);
    }
    forget_rows(&l);
    l.read = 0;
    for (size_t i = 0; i < sources->n && rc == EX_OK; i++) {
        l.source = sources->v[i].name;
        rc = look_at_dead(&l);
    }
    forget_rows(&l);
    free(l.fallen);
    tidy(ret);
    return rc;
}

void overview_free(struct overview *o) {
    free(o->leftovers);
    free(o->parked);
    free(o->dead);
    *o = (struct overview){0};
}
