#include "worker/tools/redrive_anchor.h"

#include <stdlib.h>
#include <time.h>

#include "sinks/sink.h"
#include "worker/base/clock.h"
#include "worker/base/random.h"
#include "worker/ledger/anchor.h"
#include "worker/pipeline/anchor_store.h"

#define ATTEMPTS 4
#define WAIT_MS 500

struct putting {
    struct anchor_store *store;
    struct http *http;
    struct outcome outcome;
    bool done;
};

static void done(struct http_request *request, const struct outcome *transport) {
    struct putting *p = request->owner;
    p->outcome = anchor_store_judge(p->store, request, transport);
    p->done = true;
}

static void put(struct putting *p, const char *key, struct str body) {
    struct http_request request = {.done = done, .owner = p};
    struct buf url;
    p->done = false;
    if (!anchor_store_put(p->store, key, body, &request, &url)) abort(); /* all is bounded */
    http_submit(p->http, &request);
    while (!p->done) {
        http_wait(p->http, WAIT_MS);
        http_run(p->http);
    }
    http_request_clear(&request);
    buf_free(&url);
}

static bool compose(const struct config *cfg, struct anchor *a, const struct ledger_signer *signer,
                    struct buf *body, struct buf *key) {
    char name[ANCHOR_NAME_LEN + 1];
    return anchor_encode(a, signer, body) && anchor_name(a->at_ms, random_u64(), name) &&
           anchor_folder(cfg->anchor_prefix, cfg->group, key) && buf_puts(key, name);
}

/* Under a name of its own each time: what an earlier attempt may have written stays. */
static bool attempt(const struct config *cfg, struct putting *p, struct anchor *a,
                    const struct ledger_signer *signer, struct buf *err) {
    struct buf body, key;
    buf_init(&body, ANCHOR_SIZE_MAX);
    buf_init(&key, KEY_MAX);
    a->at_ms = clock_ms(CLOCK_REALTIME);
    bool ok = compose(cfg, a, signer, &body, &key);
    if (ok) {
        put(p, buf_cstr(&key), (struct str){body.p, body.n});
        ok = p->outcome.verdict == VERDICT_OK;
    } else {
        p->outcome = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "anchor-too-large",
                                  "an anchor, its key or its date outgrew its bounds");
    }
    buf_free(&body);
    buf_free(&key);
    buf_clear(err);
    if (!ok)
        buf_printf(err, "%s: %s %s", anchor_store_label(p->store), p->outcome.why,
                   p->outcome.detail);
    return ok;
}

static bool write_anchor(const struct config *cfg, struct anchor *a,
                         const struct ledger_signer *signer, bool (*told)(void), struct buf *err) {
    struct putting p = {.store = anchor_store_new(cfg, err)};
    bool ok = false;
    if (!p.store) return false;
    http_global_init();
    p.http = http_new(cfg);
    for (int i = 0; i < ATTEMPTS && !ok && !told(); i++) {
        const struct timespec pause = {.tv_nsec = WAIT_MS * 1000000L};
        if (i) nanosleep(&pause, NULL);
        ok = attempt(cfg, &p, a, signer, err);
        if (!ok && p.outcome.verdict == VERDICT_PERMANENT) break;
    }
    http_free(p.http);
    anchor_store_free(p.store);
    return ok;
}

bool redrive_anchor(const struct config *cfg, const struct chains *chains,
                    const struct ledger_signer *signer, bool (*told)(void), struct buf *err) {
    struct anchor a = {.group = str_c(cfg->group)};
    bool ok = true;
    a.heads = xcalloc(ANCHOR_HEADS_MAX, sizeof *a.heads);
    for (size_t at = 0; ok && (a.n = chains_heads(chains, at, a.heads, ANCHOR_HEADS_MAX));
         at += a.n)
        ok = write_anchor(cfg, &a, signer, told, err);
    free(a.heads);
    return ok;
}
