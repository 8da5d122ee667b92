#include "worker/pipeline/body.h"

#include <zstd.h>

#include "worker/base/gzip.h"
#include "worker/event/json.h"
#include "worker/event/redact.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/record.h"

enum suffix { SUFFIX_NONE, SUFFIX_GZIP, SUFFIX_ZSTD };

static enum suffix suffix_of(const char *key) {
    size_t n = strlen(key);
    if (n > 3 && strcmp(key + n - 3, ".gz") == 0) return SUFFIX_GZIP;
    if (n > 4 && strcmp(key + n - 4, ".zst") == 0) return SUFFIX_ZSTD;
    return SUFFIX_NONE;
}

static bool zstd(struct lane *lane, const struct buf *in, struct buf *out) {
    if (!lane->zstd) lane->zstd = ZSTD_createCCtx();
    if (!lane->zstd) return false;
    size_t bound = ZSTD_compressBound(in->n);
    buf_init(out, bound);
    char *to = buf_reserve(out, bound);
    size_t n = ZSTD_compressCCtx(lane->zstd, to, bound, in->p, in->n, (int)lane->cfg->batch_level);
    if (ZSTD_isError(n)) return false;
    out->n = n;
    return true;
}

static bool compress(struct lane *lane, struct delivery *d, struct buf *plain) {
    struct batch *b = &d->batch;
    bool ok = true;
    switch (suffix_of(d->key)) {
    case SUFFIX_NONE:
        b->content_type = "application/x-ndjson";
        d->body = *plain;
        return true;
    case SUFFIX_GZIP:
        b->content_type = "application/gzip";
        if (!lane->gzip) lane->gzip = gzip_new((int)lane->cfg->batch_level);
        ok = gzip_into(lane->gzip, plain->p, plain->n, &d->body);
        break;
    case SUFFIX_ZSTD:
        b->content_type = "application/zstd";
        ok = zstd(lane, plain, &d->body);
        break;
    }
    buf_free(plain);
    return ok;
}

bool body_make(struct lane *lane, struct delivery *d, struct outcome *reterr) {
    struct batch *b = &d->batch;
    size_t size = 0;
    for (uint32_t i = 0; i < d->n; i++) size += redact_size(&d->members[i]->payload) + 1;
    struct buf plain;
    /* Unredacted bodies hold the tenants' secrets. */
    (lane->cfg->redact_payload ? buf_init : buf_init_secret)(&plain, size);
    buf_reserve(&plain, size);
    b->lone_surrogates = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        const struct payload *payload = &d->members[i]->payload;
        if (d->batched)
            redact_add_line(&plain, payload);
        else
            redact_add(&plain, payload);
        b->lone_surrogates += payload->lone_surrogate;
    }
    if (b->lone_surrogates && b->dest->type->shape == SHAPE_OBJECT &&
        lane->cfg->strict_json == CONFIG_STRICT_JSON_REPLACE)
        json_replace_surrogates(plain.p, plain.n);
    sha256(plain.p, plain.n, b->sha256);
    if (!d->batched) {
        b->content_type = "application/json";
        d->body = plain;
    } else if (!compress(lane, d, &plain)) {
        buf_free(&d->body);
        *reterr = outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "compress",
                               "the compressor failed on %zu bytes", size);
        return false;
    }
    b->body = d->body.p;
    b->body_len = d->body.n;
    if (d->batched && suffix_of(d->key) != SUFFIX_NONE)
        sha256(d->body.p, d->body.n, b->body_sha256);
    else
        memcpy(b->body_sha256, b->sha256, SHA256_LEN);
    return true;
}

void body_close(struct lane *lane) {
    gzip_free(lane->gzip);
    ZSTD_freeCCtx(lane->zstd);
    lane->gzip = NULL;
    lane->zstd = NULL;
}
