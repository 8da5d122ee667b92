/* What the tests of `runsink verify` share: keys, an audit of a world, and what it said; stories,
 * which are worlds of a few entries told by hand. To be included behind cmocka.h. */
#ifndef LEDGER_JUDGE_H
#define LEDGER_JUDGE_H

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/ledger_world.h"

#define PLACE "jobs.ledger"

struct seen {
    size_t findings, notes;
    char first[600]; /* the first finding, for messages */
    /* Where the mutation was: */
    const struct world *world;
    size_t at;    /* line */
    size_t chain; /* and its neighbourhood in the chain */
    int64_t from, to;
    bool named;
    char code[64]; /* look for this code */
    size_t with_code;
    int64_t code_offset;
    /* What the retry topics hold, by their origins in partition 0; -1 ends the list. NULL: they
     * were not read. */
    const int64_t *waits;
    /* The same of the dead letters by FAULT_DATA, which have to be there from this time on; and
     * what became of each, a digit of enum audit_letter. */
    const int64_t *letters;
    int64_t letters_since;
    char answers[16];
    bool learn; /* of the keys first, as with an export */
    int64_t
        anchored; /* the entry of partition 1 that a key which is trusted has anchored; 0: none */
    const struct audit_until *until, *replaced; /* NULL: none */
    const struct snapshot *now; /* the committed state at the end; NULL: not asked for */
};

static inline void watch(void *context, const struct finding *f) {
    struct seen *s = context;
    if (s->code[0] && strcmp(s->code, f->code) == 0) {
        s->with_code++;
        s->code_offset = f->offset;
    }
    if (f->note) {
        s->notes++;
        return;
    }
    if (s->findings++ == 0)
        snprintf(s->first, sizeof s->first, "%s %s/%d@%lld line %lld: %s", f->code,
                 f->topic ? f->topic : "?", (int)f->partition, (long long)f->offset,
                 (long long)f->place.offset, f->text);
    if (!s->world) return;
    const struct world_chain *c = &s->world->chains[s->chain];
    if (f->place.name && f->place.offset == (int64_t)s->at) s->named = true;
    if (f->topic && strcmp(f->topic, c->topic) == 0 && f->partition == c->partition &&
        f->offset >= s->from && f->offset <= s->to)
        s->named = true;
}

static inline void judge(const struct world *w, const struct snapshot *snapshot,
                         const struct ledger_pubkey *keys, size_t n_keys, struct seen *seen) {
    struct audit_options opts = {.source = WORLD_SOURCE,
                                 .group = snapshot->group,
                                 .partial = snapshot->partial,
                                 .unfinished = snapshot->unfinished,
                                 .keys = keys,
                                 .n_keys = n_keys,
                                 .until = seen->until,
                                 .n_until = seen->until != NULL,
                                 .replaced = seen->replaced,
                                 .n_replaced = seen->replaced != NULL,
                                 .keep_seen = true,
                                 .report = watch,
                                 .context = seen};
    struct audit *a = audit_new(&opts);
    snapshot_expect(snapshot, a);
    audit_letters_since(a, FAULT_DATA, seen->letters_since);
    for (size_t i = 0; seen->learn && i < w->n; i++)
        audit_learn(a, (struct str){w->lines[i].value.p, w->lines[i].value.n});
    for (size_t i = 0; i < w->n; i++) {
        struct ledger_place place = {.name = PLACE, .offset = (int64_t)i};
        const struct world_line *line = &w->lines[i];
        audit_entry(a, str_c(line->key), (struct str){line->value.p, line->value.n}, &place);
    }
    for (size_t i = 0; seen->now && i < seen->now->n_committed; i++) {
        const struct committed *c = &seen->now->committed[i];
        audit_now(a, c->topic, c->partition, c->offset, c->has_meta ? &c->meta : NULL);
    }
    snapshot_drained(snapshot, a);
    if (seen->anchored)
        audit_anchored(a, WORLD_SOURCE, 1,
                       &(struct audit_anchor){.seq = (uint64_t)seen->anchored, .trusted = true});
    if (seen->waits) audit_waiting(a);
    for (const int64_t *o = seen->waits; o && *o >= 0; o++)
        audit_waits(a, &(struct origin){.topic = WORLD_SOURCE, .offset = *o});
    for (size_t i = 0; seen->letters && seen->letters[i] >= 0; i++)
        seen->answers[i] = (char)('0' + audit_letter(a, FAULT_DATA,
                                                     &(struct origin){.topic = WORLD_SOURCE,
                                                                      .offset = seen->letters[i]}));
    if (seen->letters) audit_letters(a);
    audit_finish(a);
    assert_int_equal(audit_findings(a), seen->findings);
    audit_free(a);
}

struct keys {
    char dir[64];
    struct ledger_signer *ours, *other, *third;
    struct ledger_pubkey ours_pub, other_pub, third_pub;
};

static inline void make_key(struct keys *k, const char *name, struct ledger_signer **ret,
                            struct ledger_pubkey *ret_pub) {
    char priv[128], pub[128];
    struct buf err;
    buf_init(&err, 1000);
    snprintf(priv, sizeof priv, "%s/%s.pem", k->dir, name);
    snprintf(pub, sizeof pub, "%s/%s.pub", k->dir, name);
    assert_true(ledger_keygen(priv, pub, &err));
    *ret = ledger_signer_load(priv, &err);
    assert_non_null(*ret);
    assert_true(ledger_pubkey_load(pub, ret_pub, &err));
    buf_free(&err);
}

static inline void rotate(struct keys *k, struct ledger_signer *to, const char *from) {
    char path[128];
    struct buf err;
    buf_init(&err, 1000);
    snprintf(path, sizeof path, "%s/%s.pem", k->dir, from);
    assert_true(ledger_signer_rotate(to, path, &err));
    buf_free(&err);
}

static inline int setup(void **state) {
    struct keys *k = xcalloc(1, sizeof *k);
    snprintf(k->dir, sizeof k->dir, "/tmp/runsink-test-XXXXXX");
    assert_non_null(mkdtemp(k->dir));
    make_key(k, "ours", &k->ours, &k->ours_pub);
    make_key(k, "other", &k->other, &k->other_pub);
    make_key(k, "third", &k->third, &k->third_pub);
    *state = k;
    return 0;
}

static inline int teardown(void **state) {
    struct keys *k = *state;
    static const char *const names[] = {"ours", "other", "third"};
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s.pem", k->dir, names[i]);
        unlink(path);
        snprintf(path, sizeof path, "%s/%s.pub", k->dir, names[i]);
        unlink(path);
    }
    rmdir(k->dir);
    ledger_signer_free(k->ours);
    ledger_signer_free(k->other);
    ledger_signer_free(k->third);
    free(k);
    return 0;
}

static inline void drop_line(struct world *w, size_t at) {
    buf_free(&w->lines[at].value);
    memmove(w->lines + at, w->lines + at + 1, (w->n - at - 1) * sizeof *w->lines);
    w->n--;
}

static inline void write_export(const struct world *w, const struct snapshot *s, const char *root,
                                unsigned number, bool sound) {
    char dir[512], path[600];
    struct buf err;
    buf_init(&err, 4096);
    snprintf(dir, sizeof dir, "%s/%04u", root, number);
    struct exporter *x = export_open(dir, &err);
    assert_non_null(x);
    for (size_t i = 0; i < w->n; i++)
        assert_true(export_entry(x, str_c(w->lines[i].key),
                                 (struct str){w->lines[i].value.p, w->lines[i].value.n}, &err));
    assert_true(export_finish(x, s, NULL, &err));
    export_free(x);
    snprintf(path, sizeof path, "%s/expect", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(sound ? "sound\n" : "unsound\n", f);
    fclose(f);
    buf_free(&err);
}

struct story {
    struct world w;
    struct snapshot snapshot;
    struct seen seen;
    bool no_tier; /* redriven to the source topic */
};

static inline void story_begin(struct story *s, const struct ledger_signer *signer) {
    *s = (struct story){0};
    world_make(&s->w, 7, 0, signer);
}

static inline void story_tell(struct story *s, size_t chain, enum ledger_kind kind, int64_t from,
                              int64_t to, int64_t origin) {
    int64_t offsets[16];
    struct origin origins[16];
    uint8_t hash[SHA256_LEN] = {1};
    size_t n = 0;
    for (int64_t v = from; v < to; v++, n++) {
        offsets[n] = v;
        origins[n] =
            (struct origin){.topic = WORLD_SOURCE, .partition = 0, .offset = origin + v - from};
    }
    struct ledger_item item = {.kind = kind, .dest = "s3://b", .offsets = offsets, .n = n};
    if (chain >= WORLD_PARTITIONS) item.origins = origins;
    if (kind == LEDGER_DELIVERED) item.key = "k", item.sha256 = hash;
    if (kind == LEDGER_PARKED) item.why = "timeout";
    if (kind == LEDGER_PARKED || kind == LEDGER_REDRIVEN || kind == LEDGER_REPLAYED)
        item.tier = s->no_tier ? NULL : "10s";
    if (kind == LEDGER_DISCARDED) item.why = "garbage", item.who = "ada";
    if (kind == LEDGER_DEAD) item.fault = FAULT_DATA, item.why = "bad-json";
    world_settle(&s->w, chain, to, &item, 1);
}

/* Expects one finding (or note) with this code at this offset; NULL: none at all. */
static inline void story_end(struct story *s, const char *code, int64_t offset,
                             const struct ledger_pubkey *keys, size_t n_keys) {
    if (!s->snapshot.source[0]) world_snapshot(&s->w, &s->snapshot);
    if (code) snprintf(s->seen.code, sizeof s->seen.code, "%s", code);
    judge(&s->w, &s->snapshot, keys, n_keys, &s->seen);
    if (s->seen.findings) print_message("(%s)\n", s->seen.first);
    if (code) {
        assert_int_equal(s->seen.with_code, 1);
        assert_int_equal(s->seen.code_offset, offset);
    }
    assert_int_equal(s->seen.findings + s->seen.notes, code ? 1 : 0);
    snapshot_free(&s->snapshot);
    world_free(&s->w);
}

enum { RETRY = WORLD_PARTITIONS };

#endif
