#include "worker/ledger/heads.h"

#include <stdlib.h>

#define KEYS_MAX 64

enum head_state { HEAD_MISSING, HEAD_UNKNOWN_KEY, HEAD_REFUSED, HEAD_SIGNED };

struct head {
    struct head_want want;
    char key[TOPIC_MAX + 16]; /* of its records */
    enum head_state state;
    uint8_t sig[LEDGER_SIG_LEN];
    char signer[LEDGER_KEY_ID_LEN + 1];
};

struct heads {
    char *group;
    struct ledger_pubkey keys[KEYS_MAX];
    size_t n_keys;
    struct head *v;
    size_t n;
};

struct heads *heads_new(const char *group, const struct ledger_pubkey *keys, size_t n) {
    struct heads *h = xcalloc(1, sizeof *h);
    h->group = xstrdup(group);
    for (; h->n_keys < n && h->n_keys < KEYS_MAX; h->n_keys++) h->keys[h->n_keys] = keys[h->n_keys];
    return h;
}

void heads_free(struct heads *h) {
    if (!h) return;
    free(h->group);
    free(h->v);
    free(h);
}

void heads_add(struct heads *h, const struct head_want *want) {
    h->v = xgrow(h->v, h->n, sizeof *h->v);
    struct head *head = &h->v[h->n++];
    *head = (struct head){.want = *want};
    ledger_record_key(head->key, sizeof head->key, want->topic, want->partition);
}

static const struct ledger_pubkey *key_named(const struct heads *h, const char *id) {
    for (size_t i = 0; i < h->n_keys; i++)
        if (strcmp(h->keys[i].id, id) == 0) return &h->keys[i];
    return NULL;
}

static void check(const struct heads *h, struct head *head) {
    const struct ledger_pubkey *key = key_named(h, head->signer);
    head->state = !key ? HEAD_UNKNOWN_KEY
                  : ledger_pubkey_check(key, head->want.hash, SHA256_LEN, head->sig) ? HEAD_SIGNED
                                                                                     : HEAD_REFUSED;
}

/* A key that a known one names is known from now on, and so may what it signed be. */
static void learn(struct heads *h, const struct ledger_entry *e) {
    struct ledger_pubkey next;
    const struct ledger_pubkey *from = key_named(h, e->rotate_from);
    ledger_pubkey_from_raw(e->rotate_to, &next);
    if (!from || key_named(h, next.id) || h->n_keys == KEYS_MAX) return;
    if (!ledger_pubkey_check_rotation(from, next.raw, e->rotate_sig)) return;
    h->keys[h->n_keys++] = next;
    for (size_t i = 0; i < h->n; i++)
        if (h->v[i].state == HEAD_UNKNOWN_KEY) check(h, &h->v[i]);
}

static bool is_head(const struct heads *h, const struct head_want *want,
                    const struct ledger_entry *e) {
    uint8_t hash[SHA256_LEN];
    if (e->seq != want->seq || (want->next >= 0 && e->next != want->next) ||
        e->partition != want->partition || !str_is(e->topic, want->topic) ||
        !str_is(e->group, h->group) || memcmp(e->hash, want->hash, SHA256_LEN) != 0)
        return false;
    sha256(e->canonical.p, e->canonical.n, hash);
    return memcmp(hash, e->hash, SHA256_LEN) == 0;
}

static void take(struct heads *h, struct head *head, const struct ledger_entry *e) {
    if (head->state == HEAD_SIGNED || !is_head(h, &head->want, e)) return;
    memcpy(head->sig, e->sig, sizeof head->sig);
    memcpy(head->signer, e->key, sizeof head->signer);
    if (e->is_signed)
        check(h, head);
    else
        head->state = HEAD_REFUSED;
}

void heads_take(struct heads *h, struct str key, struct str value) {
    static const char statement[] = "\"rotate\":";
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error unused;
    struct head *head = NULL;
    for (size_t i = 0; i < h->n && !head; i++)
        if (str_is(key, h->v[i].key)) head = &h->v[i];
    bool rotates = value.n && memmem(value.p, value.n, statement, sizeof statement - 1);
    if ((head || rotates) && ledger_read(value, &arena, &e, &unused)) {
        if (e.rotates) learn(h, &e);
        if (head) take(h, head, &e);
    }
    arena_free(&arena);
}

static bool is_open(const struct head *head) {
    return head->state == HEAD_MISSING || head->state == HEAD_UNKNOWN_KEY;
}

size_t heads_open(const struct heads *h) {
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++) n += is_open(&h->v[i]);
    return n;
}

static const struct head *head_of(const struct heads *h, const char *topic, int32_t partition) {
    for (size_t i = 0; i < h->n; i++)
        if (h->v[i].want.partition == partition && strcmp(h->v[i].want.topic, topic) == 0)
            return &h->v[i];
    return NULL;
}

bool heads_found(const struct heads *h, const char *topic, int32_t partition) {
    const struct head *head = head_of(h, topic, partition);
    return head && !is_open(head);
}

const char *heads_wrong(const struct heads *h, const char *topic, int32_t partition) {
    static const char *const what[] = {
        [HEAD_MISSING] = "the entry that the group's committed state names is not in the ledger",
        [HEAD_UNKNOWN_KEY] = "its newest entry is signed by another key",
        [HEAD_REFUSED] = "its newest entry is not signed",
        [HEAD_SIGNED] = NULL};
    const struct head *head = head_of(h, topic, partition);
    return what[head ? head->state : HEAD_MISSING];
}
