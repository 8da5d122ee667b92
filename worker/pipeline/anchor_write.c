/* The lane's part in anchoring. A head that is known to be committed (what the group's offset was
 * found with, or what a settlement of ours has ended with) waits at most anchor.interval for its
 * anchor. Nothing waits for an anchor: one that fails is made anew, with the heads of then. */
#include "worker/pipeline/anchor_write.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>

#include "sinks/http/http.h"
#include "worker/base/log.h"
#include "worker/base/random.h"
#include "worker/ledger/anchor.h"
#include "worker/pipeline/anchor_store.h"
#include "worker/pipeline/lane.h"

#define FIRST_MS 60000 /* after the start, so that short lives leave anchors, too */
#define BACKOFF_MIN_MS 1000
#define BACKOFF_MAX_MS 300000

/* What an anchor under way says of a partition. */
struct covered {
    uint64_t serial, entries;
};

struct anchorer {
    struct lane *lane;
    struct anchor_store *store;
    struct http_request request;
    struct buf url, body;
    char key[KEY_MAX + 1];
    bool flying;
    struct covered covered[ANCHOR_HEADS_MAX];
    size_t n;
    bool more; /* there were more heads than an anchor takes */
    int64_t due_ms, backoff_ms;
    int64_t overdue_since_ms; /* when the one that keeps failing was due; 0: none does */
};

bool anchor_check(const struct config *cfg, const struct ledger_signer *signer, struct buf *err) {
    if (!cfg->anchor_bucket[0]) return true;
    if (!signer) {
        buf_puts(err, "anchor.bucket: anchors are signed: make a key with `runsink keygen` and "
                      "name it in ledger.key\n");
        return false;
    }
    struct anchor_store *s = anchor_store_new(cfg, err);
    anchor_store_free(s);
    return s != NULL;
}

bool anchor_open(struct lane *lane, struct buf *err) {
    const struct config *cfg = lane->cfg;
    if (!cfg->anchor_bucket[0]) return true;
    struct anchor_store *store = anchor_store_new(cfg, err);
    if (!store) return false;
    struct anchorer *a = xcalloc(1, sizeof *a);
    a->lane = lane;
    a->store = store;
    a->due_ms = lane->now_ms + (cfg->anchor_interval < FIRST_MS ? cfg->anchor_interval : FIRST_MS);
    lane->anchorer = a;
    return true;
}

void anchor_close(struct lane *lane) {
    if (!lane->anchorer) return;
    anchor_store_free(lane->anchorer->store);
    free(lane->anchorer);
    lane->anchorer = NULL;
}

void anchor_reconfigure(struct lane *lane) {
    struct buf err;
    if (!lane->anchorer) return;
    buf_init(&err, 4096);
    struct anchor_store *fresh = anchor_store_new(lane->cfg, &err);
    if (fresh) {
        anchor_store_free(lane->anchorer->store);
        lane->anchorer->store = fresh;
    } else {
        log_error("the new credentials for anchors can't be used; the old ones stay",
                  LOG_MESSAGE(&err));
    }
    buf_free(&err);
}

static bool has_news(const struct partition *p) {
    /* One whose new beginning is not durable yet does not end where its last entry ends. */
    return p->loaded && !p->pin && p->before < 0 && p->meta.seq > p->anchored && partition_signs(p);
}

bool anchor_waits(const struct lane *lane) {
    for (const struct partition *p = lane->partitions; lane->anchorer && p; p = p->next)
        if (has_news(p)) return true;
    return false;
}

static void collect(struct anchorer *a, struct anchor *ret) {
    a->n = 0;
    a->more = false;
    for (const struct partition *p = a->lane->partitions; p; p = p->next) {
        if (!has_news(p)) continue;
        if (a->n == ANCHOR_HEADS_MAX) {
            a->more = true;
            return;
        }
        struct anchor_head *h = &ret->heads[ret->n++];
        *h = (struct anchor_head){.topic = str_c(p->topic),
                                  .partition = p->id,
                                  .seq = p->meta.seq - 1,
                                  .next = p->committed};
        memcpy(h->hash, p->meta.head, SHA256_LEN);
        a->covered[a->n++] = (struct covered){.serial = p->serial, .entries = p->meta.seq};
    }
}

/* Body and key. A fresh key for each attempt: what an earlier one may have written stays. */
static bool compose(struct anchorer *a) {
    const struct lane *lane = a->lane;
    char name[ANCHOR_NAME_LEN + 1];
    struct buf key;
    struct anchor anchor = {.group = str_c(lane->cfg->group),
                            .at_ms = lane->wall_ms,
                            .heads = xcalloc(ANCHOR_HEADS_MAX, sizeof *anchor.heads)};
    collect(a, &anchor);
    buf_init(&a->body, ANCHOR_SIZE_MAX);
    buf_init(&key, KEY_MAX);
    bool ok = anchor_encode(&anchor, lane->shared->signer, &a->body) &&
              anchor_name(anchor.at_ms, random_u64(), name) &&
              anchor_folder(lane->cfg->anchor_prefix, lane->cfg->group, &key) &&
              buf_puts(&key, name);
    if (ok) memcpy(a->key, buf_cstr(&key), key.n + 1);
    buf_free(&key);
    free(anchor.heads);
    return ok;
}

static void succeeded(struct anchorer *a) {
    struct lane *lane = a->lane;
    for (size_t i = 0; i < a->n; i++) {
        struct partition *p = partition_find(lane, a->covered[i].serial);
        if (p && p->anchored < a->covered[i].entries) p->anchored = a->covered[i].entries;
    }
    count(&lane->counters, COUNTER_ANCHORS, 1);
    count_set(&lane->counters, COUNTER_ANCHORED_AT_MS, (uint64_t)lane->wall_ms);
    log_debug("anchored", LOG_I("lane", lane->id), LOG_S("key", a->key),
              LOG_I("heads", (int64_t)a->n));
    a->due_ms = lane->now_ms + (a->more ? 0 : lane->cfg->anchor_interval);
    a->backoff_ms = a->overdue_since_ms = 0;
}

static void failed(struct anchorer *a, const struct outcome *why) {
    struct lane *lane = a->lane;
    int64_t most =
        lane->cfg->anchor_interval < BACKOFF_MAX_MS ? lane->cfg->anchor_interval : BACKOFF_MAX_MS;
    a->backoff_ms = a->backoff_ms ? a->backoff_ms * 2 : BACKOFF_MIN_MS;
    if (a->backoff_ms > most) a->backoff_ms = most;
    if (!a->overdue_since_ms) a->overdue_since_ms = a->due_ms;
    a->due_ms = lane->now_ms + a->backoff_ms;
    count(&lane->counters, COUNTER_ANCHORS_FAILED, 1);
    log_warn("the ledger's heads could not be anchored; deliveries go on, and it is tried again",
             LOG_I("lane", lane->id), LOG_S("bucket", anchor_store_label(a->store)),
             LOG_S("why", why->why), LOG_S("detail", why->detail),
             LOG_I("again_in_ms", a->backoff_ms));
}

static void clear(struct anchorer *a) {
    http_request_clear(&a->request);
    buf_free(&a->url);
    buf_free(&a->body);
    a->flying = false;
}

static void done(struct http_request *request, const struct outcome *transport) {
    struct anchorer *a = request->owner;
    struct outcome o = anchor_store_judge(a->store, request, transport);
    clear(a);
    if (o.verdict == VERDICT_OK)
        succeeded(a);
    else
        failed(a, &o);
}

static void send_anchor(struct anchorer *a) {
    a->request = (struct http_request){.done = done, .owner = a};
    bool ok = compose(a) && anchor_store_put(a->store, a->key, (struct str){a->body.p, a->body.n},
                                             &a->request, &a->url);
    if (ok) {
        a->flying = true;
        http_submit(a->lane->http, &a->request);
        return;
    }
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "anchor-too-large",
                                    "an anchor, its key or its date outgrew its bounds");
    clear(a);
    failed(a, &o);
}

static void show_overdue(struct anchorer *a) {
    int64_t since = a->overdue_since_ms;
    count_set(&a->lane->counters, COUNTER_ANCHOR_OVERDUE_MS,
              since ? (uint64_t)(a->lane->now_ms - since) : 0);
}

void anchor_tick(struct lane *lane) {
    struct anchorer *a = lane->anchorer;
    if (!a) return;
    if (!a->flying && lane->now_ms >= a->due_ms && anchor_waits(lane)) send_anchor(a);
    if (!a->flying && !anchor_waits(lane)) a->overdue_since_ms = 0; /* others have it now */
    show_overdue(a);
}

void anchor_hurry(struct lane *lane) {
    if (lane->anchorer && !lane->anchorer->backoff_ms) lane->anchorer->due_ms = lane->now_ms;
}
