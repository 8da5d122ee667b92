/* A thousand ledgers that were tampered with: each time the place is named. With
 * RUNSINK_MUTATIONS=DIR the ledgers are left there as exported folders, for another verifier to
 * agree or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"

#define MUTATIONS 1000

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

static void include(struct seen *seen, int64_t offset) {
    if (offset < seen->from) seen->from = offset;
    if (offset > seen->to) seen->to = offset;
}

static void mutate(struct world *w, enum mutation kind, const struct keys *k, bool anew,
                   struct seen *seen) {
    size_t at = anew ? w->anew : world_random(w, (unsigned)w->n);
    if (kind == SWAP)
        while (neighbour(w, at, 1) == SIZE_MAX) at = world_random(w, (unsigned)w->n);
    struct world_line *line = &w->lines[at], moved;
    size_t before = neighbour(w, at, -1), after = neighbour(w, at, 1);
    seen->at = at;
    seen->chain = line->chain;
    seen->from = before == SIZE_MAX ? 0 : w->lines[before].first;
    seen->to = after == SIZE_MAX ? line->next : w->lines[after].next;
    if (before != SIZE_MAX) include(seen, w->lines[before].next);
    include(seen, line->first);
    include(seen, line->next);
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

static void test_mutations(void **state) {
    struct keys *k = *state;
    const char *root = getenv("RUNSINK_MUTATIONS");
    size_t failures = 0;
    for (unsigned i = 0; i < MUTATIONS; i++) {
        struct world w;
        struct snapshot snapshot;
        struct seen seen = {.world = &w, .code = "repeated"};
        enum mutation kind = (enum mutation)(i % MUTATION_KINDS);
        /* In a third of them a topic was made anew, and every other of those is about the entry
         * that says so. */
        bool anew = i / MUTATION_KINDS % 3 == 0;
        world_make_some(&w, 1000 + i, 30, k->ours, anew);
        world_snapshot(&w, &snapshot);
        mutate(&w, kind, k, anew && i % 2, &seen);
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
