/* The judgement of `runsink verify`, on ledgers made in memory: a sound one passes, and one that
 * was tampered with fails at the place where it was. With RUNSINK_MUTATIONS=DIR the mutated ledgers
 * are left there as exported folders, for another verifier to agree or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/ledger_world.h"
#include "worker/verify_spans.h"

#define PLACE "jobs.ledger"
#define MUTATIONS 1000

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
};

static void watch(void *context, const struct finding *f) {
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

static void judge(const struct world *w, const struct snapshot *snapshot,
                  const struct ledger_pubkey *keys, size_t n_keys, struct seen *seen) {
    struct audit_options opts = {.source = WORLD_SOURCE,
                                 .partial = snapshot->partial,
                                 .unfinished = snapshot->unfinished,
                                 .keys = keys,
                                 .n_keys = n_keys,
                                 .keep_seen = true,
                                 .report = watch,
                                 .context = seen};
    struct audit *a = audit_new(&opts);
    snapshot_expect(snapshot, a);
    for (size_t i = 0; i < w->n; i++) {
        struct ledger_place place = {.name = PLACE, .offset = (int64_t)i};
        const struct world_line *line = &w->lines[i];
        audit_entry(a, str_c(line->key), (struct str){line->value.p, line->value.n}, &place);
    }
    snapshot_drained(snapshot, a);
    audit_finish(a);
    assert_int_equal(audit_findings(a), seen->findings);
    audit_free(a);
}

struct keys {
    char dir[64];
    struct ledger_signer *ours, *other, *third;
    struct ledger_pubkey ours_pub, other_pub, third_pub;
};

static void make_key(struct keys *k, const char *name, struct ledger_signer **ret,
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

static void rotate(struct keys *k, struct ledger_signer *to, const char *from) {
    char path[128];
    struct buf err;
    buf_init(&err, 1000);
    snprintf(path, sizeof path, "%s/%s.pem", k->dir, from);
    assert_true(ledger_signer_rotate(to, path, &err));
    buf_free(&err);
}

static int setup(void **state) {
    struct keys *k = xcalloc(1, sizeof *k);
    snprintf(k->dir, sizeof k->dir, "/tmp/runsink-test-XXXXXX");
    assert_non_null(mkdtemp(k->dir));
    make_key(k, "ours", &k->ours, &k->ours_pub);
    make_key(k, "other", &k->other, &k->other_pub);
    make_key(k, "third", &k->third, &k->third_pub);
    *state = k;
    return 0;
}

static int teardown(void **state) {
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

static void test_sound(void **state) {
    struct keys *k = *state;
    for (unsigned seed = 1; seed <= 20; seed++) {
        struct world w;
        struct snapshot snapshot;
        struct seen seen = {0};
        world_make(&w, seed, 60, k->ours);
        world_snapshot(&w, &snapshot);
        judge(&w, &snapshot, &k->ours_pub, 1, &seen);
        if (seen.findings) print_error("%s\n", seen.first);
        assert_int_equal(seen.findings, 0);
        assert_int_equal(seen.notes, 0);
        snapshot_free(&snapshot);
        world_free(&w);
    }
}

/* ---- mutations ---- */

enum mutation { FLIP, DROP, SWAP, REPEAT, TRUNCATE, RESIGN, REHASH, MUTATION_KINDS };
static const char *const mutation_names[] = {"flip",     "drop",    "swap",  "repeat",
                                             "truncate", "re-sign", "rehash"};

static size_t neighbour(const struct world *w, size_t at, int step) {
    for (size_t i = at + (size_t)step; i < w->n; i += (size_t)step)
        if (w->lines[i].chain == w->lines[at].chain) return i;
    return SIZE_MAX;
}

static void copy_line(struct world_line *to, const struct world_line *from) {
    *to = *from;
    buf_init(&to->value, 1 << 20);
    buf_add(&to->value, from->value.p, from->value.n);
}

static void drop_line(struct world *w, size_t at) {
    buf_free(&w->lines[at].value);
    memmove(w->lines + at, w->lines + at + 1, (w->n - at - 1) * sizeof *w->lines);
    w->n--;
}

static size_t canonical_size(const struct world_line *line) {
    const char *at = memmem(line->value.p, line->value.n, ",\"hash\":\"", 9);
    assert_non_null(at);
    return (size_t)(at - line->value.p);
}

/* Gives the entry a right hash, and a signature by this key when there is one; else the old one. */
static void seal(struct world_line *line, const struct ledger_signer *signer) {
    size_t n = canonical_size(line);
    uint8_t hash[SHA256_LEN], sig[LEDGER_SIG_LEN];
    char text[HEX_LEN(SHA256_LEN) + 1];
    sha256(line->value.p, n, hash);
    hex(hash, sizeof hash, text);
    memcpy(line->value.p + n + 9, text, HEX_LEN(SHA256_LEN));
    if (!signer) return;
    line->value.n = n + 9 + HEX_LEN(SHA256_LEN);
    ledger_sign(signer, hash, sizeof hash, sig);
    buf_puts(&line->value, "\",\"sig\":\"");
    base64_add(&line->value, sig, sizeof sig);
    buf_printf(&line->value, "\",\"key\":\"%s\"}", ledger_signer_id(signer));
}

static void flip(struct world *w, struct world_line *line, size_t below) {
    size_t i = world_random(w, (unsigned)below);
    line->value.p[i] = (char)(line->value.p[i] ^ (1 << world_random(w, 8)));
}

/* Another digit somewhere in the numbers of the canonical bytes: it stays a well-formed entry. */
static void change_digit(struct world *w, struct world_line *line) {
    size_t n = canonical_size(line);
    for (;;) {
        size_t i = world_random(w, (unsigned)n);
        char *p = line->value.p + i;
        if (*p < '1' || *p > '8' || i < 14) continue;
        *p = (char)(*p + 1);
        return;
    }
}

static void mutate(struct world *w, enum mutation kind, const struct keys *k, struct seen *seen) {
    size_t at = world_random(w, (unsigned)w->n);
    if (kind == SWAP)
        while (neighbour(w, at, 1) == SIZE_MAX) at = world_random(w, (unsigned)w->n);
    struct world_line *line = &w->lines[at], moved;
    size_t before = neighbour(w, at, -1), after = neighbour(w, at, 1);
    seen->at = at;
    seen->chain = line->chain;
    seen->from = before == SIZE_MAX ? 0 : w->lines[before].first;
    seen->to = after == SIZE_MAX ? line->next : w->lines[after].next;
    switch (kind) {
    case FLIP:
        flip(w, line, line->value.n);
        break;
    case DROP:
        drop_line(w, at);
        break;
    case SWAP:
        moved = w->lines[at];
        w->lines[at] = w->lines[after];
        w->lines[after] = moved;
        break;
    case REPEAT:
        world_add(w);
        memmove(w->lines + at + 2, w->lines + at + 1, (w->n - at - 2) * sizeof *w->lines);
        copy_line(&w->lines[at + 1], &w->lines[at]);
        break;
    case TRUNCATE:
        for (size_t i = w->n; i-- > at;)
            if (w->lines[i].chain == seen->chain) drop_line(w, i);
        break;
    case RESIGN:
        seal(line, k->other);
        break;
    case REHASH:
        change_digit(w, line);
        seal(line, NULL);
        break;
    case MUTATION_KINDS:
        break;
    }
}

static void write_export(const struct world *w, const struct snapshot *s, const char *root,
                         unsigned number, bool sound) {
    char dir[512], path[600];
    struct buf err;
    buf_init(&err, 4096);
    snprintf(dir, sizeof dir, "%s/%04u", root, number);
    struct export *x = export_open(dir, &err);
    assert_non_null(x);
    for (size_t i = 0; i < w->n; i++)
        assert_true(export_entry(x, str_c(w->lines[i].key),
                                 (struct str){w->lines[i].value.p, w->lines[i].value.n}, &err));
    assert_true(export_finish(x, s, &err));
    export_free(x);
    snprintf(path, sizeof path, "%s/expect", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(sound ? "sound\n" : "unsound\n", f);
    fclose(f);
    buf_free(&err);
}

static void test_mutations(void **state) {
    struct keys *k = *state;
    const char *root = getenv("RUNSINK_MUTATIONS");
    size_t failures = 0;
    for (unsigned i = 0; i < MUTATIONS; i++) {
        struct world w;
        struct snapshot snapshot;
        struct seen seen = {.world = &w, .code = "repeated"};
        enum mutation kind = (enum mutation)(i % MUTATION_KINDS);
        world_make(&w, 1000 + i, 30, k->ours);
        world_snapshot(&w, &snapshot);
        mutate(&w, kind, k, &seen);
        judge(&w, &snapshot, &k->ours_pub, 1, &seen);
        bool right = kind == REPEAT ? !seen.findings && seen.with_code == 1
                                    : seen.findings > 0 && seen.named;
        if (!right)
            print_error("mutation %u (%s) of line %zu: %zu findings, first: %s\n", i,
                        mutation_names[kind], seen.at, seen.findings, seen.first);
        failures += !right;
        if (root) write_export(&w, &snapshot, root, i, kind == REPEAT);
        snapshot_free(&snapshot);
        world_free(&w);
    }
    assert_int_equal(failures, 0);
    if (!root) return;
    char path[512];
    snprintf(path, sizeof path, "%s/key", root);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (size_t i = 0; i < LEDGER_PUB_LEN; i++) fprintf(f, "%02x", k->ours_pub.raw[i]);
    fclose(f);
}

/* ---- one rule each ---- */

struct story {
    struct world w;
    struct snapshot snapshot;
    struct seen seen;
};

static void story_begin(struct story *s, const struct ledger_signer *signer) {
    *s = (struct story){0};
    world_make(&s->w, 7, 0, signer);
}

static void story_tell(struct story *s, size_t chain, enum ledger_kind kind, int64_t from,
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
    if (kind == LEDGER_PARKED) item.tier = "10s", item.why = "timeout";
    if (kind == LEDGER_DEAD) item.fault = FAULT_DATA, item.why = "bad-json";
    world_settle(&s->w, chain, to, &item, 1);
}

/* Expects one finding (or note) with this code at this offset; NULL: none at all. */
static void story_end(struct story *s, const char *code, int64_t offset,
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

static void test_parked_then_delivered(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

/* The ledger's partitions are read at their own pace. */
static void test_retry_read_before_source(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

static void test_pending_is_no_error(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

static void test_vanished(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 304, 0);
    world_snapshot(&s.w, &s.snapshot);
    snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
    story_end(&s, "vanished", 4, NULL, 0);
}

static void test_second_outcome(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 1, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 301, 302, 0);
    story_end(&s, "never-parked", 0, NULL, 0);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_DEAD, 0, 1, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 0);
    story_end(&s, "second-outcome", 0, NULL, 0);
}

static void test_redriven(void **state) {
    (void)state;
    struct story s;
    for (int again = 0; again < 2; again++) {
        story_begin(&s, NULL);
        snprintf(s.w.chains[RETRY + 1].topic, TOPIC_MAX, WORLD_SOURCE ".dead.data");
        s.w.chains[RETRY + 1].next = 0;
        story_tell(&s, 0, LEDGER_DEAD, 0, 3, 0);
        story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 0, 3, 0);
        story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 303, 0);
        if (again) story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 3, 4, 2);
        story_end(&s, again ? "never-dead" : NULL, 2, NULL, 0);
    }
}

static void test_lost(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    struct ledger_window w = {.topic = WORLD_SOURCE, .first = 0, .next = 9, .lost = true};
    struct world_line *line = world_add(&s.w);
    assert_true(ledger_encode(&w, NULL, &line->value, s.w.chains[0].head));
    ledger_record_key(line->key, sizeof line->key, WORLD_SOURCE, 0);
    s.w.chains[0].seq = 1;
    s.w.chains[0].next = 9;
    story_end(&s, "lost", 0, NULL, 0);
}

static void test_gap_in_a_sound_chain(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.chains[0].next = 7;
    story_tell(&s, 0, LEDGER_SKIPPED, 7, 9, 0);
    story_end(&s, "gap", 5, NULL, 0);
}

static void test_missing_entries(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    for (int64_t at = 0; at < 20; at += 5) story_tell(&s, 0, LEDGER_SKIPPED, at, at + 5, 0);
    drop_line(&s.w, 1);
    drop_line(&s.w, 1);
    story_end(&s, "missing", 5, NULL, 0);
}

static void test_outside_window(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    s.w.chains[0].next = 2;
    story_tell(&s, 0, LEDGER_SKIPPED, 1, 5, 0);
    story_end(&s, "outside-window", 1, NULL, 0);
}

static void test_two_outcomes_in_one_entry(void **state) {
    (void)state;
    struct story s;
    int64_t offsets[] = {0, 1, 2};
    story_begin(&s, NULL);
    struct ledger_item items[] = {
        {.kind = LEDGER_SKIPPED, .why = "no-sink", .offsets = offsets, .n = 3},
        {.kind = LEDGER_SKIPPED, .why = "tombstone", .offsets = offsets + 2, .n = 1}};
    world_settle(&s.w, 0, 3, items, 2);
    story_end(&s, "two-outcomes", 2, NULL, 0);
}

static void test_committed_beyond_ledger(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    s.snapshot.committed[0].offset = 6;
    story_end(&s, "offset-differs", 5, NULL, 0);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    s.snapshot.committed[0].meta.head[0] ^= 1;
    story_end(&s, "head-differs", 5, NULL, 0);
}

/* The worker went on settling while the ledger was read. */
static void test_entries_younger_than_the_snapshot(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
    story_tell(&s, 0, LEDGER_PARKED, 5, 8, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

static void test_begins_late(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    s.w.chains[0].seq = 4;
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    story_end(&s, "begins-late", 0, NULL, 0);
}

/* --from: chains begin anywhere, or not at all, and so do the records' stories. */
static void test_from(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0);
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 7, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    drop_line(&s.w, 0);
    drop_line(&s.w, 0);
    world_snapshot(&s.w, &s.snapshot);
    s.snapshot.partial = true;
    story_end(&s, NULL, 0, NULL, 0);
}

/* --to: what comes later is not missed. */
static void test_to(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    drop_line(&s.w, 1);
    world_snapshot(&s.w, &s.snapshot);
    snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
    s.snapshot.unfinished = true;
    story_end(&s, NULL, 0, NULL, 0);
}

/* Settled again after a crash: the same outcomes at another time. */
static void test_repeat_with_other_times(void **state) {
    (void)state;
    struct story s;
    for (int altered = 0; altered < 2; altered++) {
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        struct world_chain before = s.w.chains[0];
        story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        s.w.chains[0] = before;
        story_tell(&s, 0, altered ? LEDGER_DEAD : LEDGER_SKIPPED, 5, 9, 0);
        story_tell(&s, 0, LEDGER_SKIPPED, 9, 12, 0);
        story_end(&s, altered ? "altered" : "repeated", 5, NULL, 0);
    }
}

static void test_wrong_record_key(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    snprintf(s.w.lines[0].key, sizeof s.w.lines[0].key, WORLD_SOURCE "/1");
    story_end(&s, "wrong-key", 0, NULL, 0);
}

/* ---- signatures ---- */

static void test_unsigned_beginning(void **state) {
    struct keys *k = *state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->ours;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, "unsigned-beginning", 0, &k->ours_pub, 1);
}

static void test_unsigned_end(void **state) {
    struct keys *k = *state;
    struct story s;
    story_begin(&s, k->ours);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = NULL;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, "unsigned", 5, &k->ours_pub, 1);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    story_end(&s, "unsigned", 0, &k->ours_pub, 1);
}

/* Writes an entry that carries the statement, although the chain has begun. */
static void tell_introduced(struct story *s, int64_t to) {
    struct world_chain *c = &s->w.chains[0];
    struct ledger_window w = {
        .topic = c->topic, .first = c->next, .next = to, .seq = c->seq, .introduce = true};
    memcpy(w.prev, c->head, SHA256_LEN);
    struct world_line *line = world_add(&s->w);
    ledger_record_key(line->key, sizeof line->key, c->topic, 0);
    assert_true(ledger_encode(&w, s->w.signer, &line->value, c->head));
    c->seq++;
    c->next = to;
}

static void test_rotation(void **state) {
    struct keys *k = *state;
    struct story s;
    rotate(k, k->other, "ours");

    story_begin(&s, k->ours); /* only the old key is given: the statement is followed */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    tell_introduced(&s, 9);
    story_tell(&s, 0, LEDGER_SKIPPED, 9, 11, 0);
    tell_introduced(&s, 13); /* another owner: the statement again */
    story_end(&s, "rotated", 5, &k->ours_pub, 1);

    story_begin(&s, k->ours); /* without a statement the new key is a stranger */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, "unknown-key", 5, &k->ours_pub, 1);

    struct ledger_pubkey both[] = {k->ours_pub, k->other_pub};
    story_begin(&s, k->ours); /* unless it is given */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, NULL, 0, both, 2);
}

/* A deploy in which the old and the new key settle in turn is sound as long as the new one has the
 * last word; a leaked old key alone is not. */
static void test_retired_key(void **state) {
    struct keys *k = *state;
    struct story s;
    for (int last_word = 0; last_word < 2; last_word++) {
        story_begin(&s, k->ours);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        s.w.signer = k->other;
        tell_introduced(&s, 9);
        s.w.signer = k->ours;
        story_tell(&s, 0, LEDGER_SKIPPED, 9, 11, 0);
        if (last_word) {
            s.w.signer = k->other;
            story_tell(&s, 0, LEDGER_SKIPPED, 11, 12, 0);
        }
        snprintf(s.seen.code, sizeof s.seen.code, "retired-key");
        world_snapshot(&s.w, &s.snapshot);
        judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
        assert_int_equal(s.seen.findings, last_word ? 0 : 1);
        assert_int_equal(s.seen.with_code, last_word ? 0 : 1);
        snapshot_free(&s.snapshot);
        world_free(&s.w);
    }
}

/* A key that was replaced can't name another successor. */
static void test_retired_key_rotates_nothing(void **state) {
    struct keys *k = *state;
    struct story s;
    rotate(k, k->third, "ours");
    story_begin(&s, k->ours);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    tell_introduced(&s, 9);
    s.w.signer = k->third;
    tell_introduced(&s, 11);
    world_snapshot(&s.w, &s.snapshot);
    judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
    assert_true(s.seen.findings >= 1);
    assert_non_null(strstr(s.seen.first, "was itself replaced"));
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

/* ---- records and files ---- */

static void ignore(void *context, const struct finding *f) {
    (void)context, (void)f;
}

static void test_seen(void **state) {
    (void)state;
    struct world w;
    struct audit_options opts = {.source = WORLD_SOURCE, .keep_seen = true, .report = ignore};
    struct audit *a = audit_new(&opts);
    world_make(&w, 3, 50, NULL);
    for (size_t i = 0; i < w.n; i++) {
        struct ledger_place place = {.name = PLACE, .offset = (int64_t)i};
        audit_entry(a, str_c(w.lines[i].key), (struct str){w.lines[i].value.p, w.lines[i].value.n},
                    &place);
    }
    for (int64_t v = 0; v < w.chains[0].next; v++)
        assert_int_equal(audit_seen(a, WORLD_SOURCE, 0, v),
                         v % 7 != 6 || v + 1 == w.chains[0].next);
    assert_true(audit_seen(a, WORLD_SOURCE, 0, w.chains[0].next)); /* not settled yet */
    assert_true(audit_seen(a, WORLD_SOURCE, 9, 0));                /* no chain */
    audit_free(a);
    world_free(&w);
}

/* Against a plain array of bits. */
static void test_spans(void **state) {
    (void)state;
    struct world w = {.random = 3};
    for (int round = 0; round < 200; round++) {
        enum { N = 300 };
        struct spans spans = {0};
        bool bits[N] = {false};
        for (int i = 0; i < 60; i++) {
            struct ledger_range r = {.a = world_random(&w, N)};
            r.z = r.a + world_random(&w, i % 2 ? 3 : 30);
            if (r.z >= N) r.z = N - 1;
            spans_add(&spans, r);
            for (int64_t v = r.a; v <= r.z; v++) bits[v] = true;
        }
        size_t runs = 0;
        for (int64_t v = 0; v < N; v++) {
            assert_int_equal(spans_has(&spans, v), bits[v]);
            runs += bits[v] && (v == 0 || !bits[v - 1]);
        }
        assert_int_equal(spans.n, runs);
        spans_free(&spans);
    }
}

static void test_files(void **state) {
    struct keys *k = *state;
    char dir[128];
    struct world w;
    struct snapshot snapshot, again = {0};
    struct seen seen = {0};
    struct buf err;
    buf_init(&err, 4096);
    snprintf(dir, sizeof dir, "%s/export", k->dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    world_make(&w, 5, 40, k->ours);
    world_snapshot(&w, &snapshot);
    snapshot_add_drained(&snapshot, WORLD_SOURCE ".retry.40s");
    write_export(&w, &snapshot, dir, 1, true);
    snprintf(dir, sizeof dir, "%s/export/0001", k->dir);
    assert_null(export_open(dir, &err)); /* never on top of another */

    assert_true(files_snapshot(dir, &again, &err));
    assert_int_equal(again.n_committed, snapshot.n_committed);
    assert_memory_equal(again.committed[4].meta.head, snapshot.committed[4].meta.head, SHA256_LEN);
    assert_string_equal(again.drained[0], WORLD_SOURCE ".retry.40s");
    struct audit_options opts = {.source = again.source,
                                 .keys = &k->ours_pub,
                                 .n_keys = 1,
                                 .report = watch,
                                 .context = &seen};
    struct audit *a = audit_new(&opts);
    snapshot_expect(&again, a);
    assert_true(files_audit(dir, a, &err));
    audit_finish(a);
    assert_int_equal(seen.findings, 0);
    const struct audit_row *rows;
    size_t n = audit_rows(a, &rows);
    uint64_t entries = 0;
    for (size_t i = 0; i < n; i++) entries += rows[i].entries;
    assert_int_equal(entries, 40);
    audit_free(a);
    char command[256];
    snprintf(command, sizeof command, "rm -r '%s/export'", k->dir);
    assert_int_equal(system(command), 0);
    assert_false(files_snapshot(dir, &again, &err));
    buf_free(&err);
    snapshot_free(&snapshot);
    snapshot_free(&again);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_parked_then_delivered),
        cmocka_unit_test(test_retry_read_before_source),
        cmocka_unit_test(test_pending_is_no_error),
        cmocka_unit_test(test_vanished),
        cmocka_unit_test(test_second_outcome),
        cmocka_unit_test(test_redriven),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_gap_in_a_sound_chain),
        cmocka_unit_test(test_missing_entries),
        cmocka_unit_test(test_outside_window),
        cmocka_unit_test(test_two_outcomes_in_one_entry),
        cmocka_unit_test(test_committed_beyond_ledger),
        cmocka_unit_test(test_entries_younger_than_the_snapshot),
        cmocka_unit_test(test_begins_late),
        cmocka_unit_test(test_from),
        cmocka_unit_test(test_to),
        cmocka_unit_test(test_repeat_with_other_times),
        cmocka_unit_test(test_wrong_record_key),
        cmocka_unit_test(test_unsigned_beginning),
        cmocka_unit_test(test_unsigned_end),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_retired_key),
        cmocka_unit_test(test_retired_key_rotates_nothing),
        cmocka_unit_test(test_seen),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
