/* Which configuration an entry of the ledger was settled by, as a digest: over the values of all
 * keys that the table marks RULE, defaults among them, in the table's order. For each NAME SP
 * LENGTH LF VALUE LF where a number, a time (ms), a size (bytes), a switch (0, 1) and a choice (its
 * place, from 0) are decimal, and a list's entries are joined by commas. No secret is among them;
 * of egress.proxy, which is one, whether it is set. */
#include <inttypes.h>
#include <stdio.h>

#include "config/table.h"
#include "worker/base/hash.h"

#define DIGITS 24

static void add(struct sha256_ctx *ctx, const char *name, struct str value) {
    char head[KEY_NAME_MAX + DIGITS];
    int n = snprintf(head, sizeof head, "%s %zu\n", name, value.n);
    sha256_add(ctx, head, (size_t)n);
    sha256_add(ctx, value.p, value.n);
    sha256_add(ctx, "\n", 1);
}

static void add_number(struct sha256_ctx *ctx, const char *name, int64_t v) {
    char text[DIGITS];
    snprintf(text, sizeof text, "%" PRId64, v);
    add(ctx, name, str_c(text));
}

static void add_list(struct sha256_ctx *ctx, const char *name, const struct list *l) {
    struct buf b;
    size_t most = 1;
    for (size_t i = 0; i < l->n; i++) most += strlen(l->v[i]) + 1;
    buf_init(&b, most);
    for (size_t i = 0; i < l->n; i++) {
        if (i) buf_putc(&b, ',');
        buf_puts(&b, l->v[i]);
    }
    add(ctx, name, (struct str){b.n ? b.p : "", b.n});
    buf_free(&b);
}

static void add_key(struct sha256_ctx *ctx, const struct key *k, const void *field) {
    switch (k->type) {
    case TYPE_STR:
        add(ctx, k->name, str_c(*(char *const *)field));
        break;
    case TYPE_BOOL:
        add_number(ctx, k->name, *(const bool *)field);
        break;
    case TYPE_ENUM:
        add_number(ctx, k->name, *(const int *)field);
        break;
    case TYPE_INT:
    case TYPE_MS:
    case TYPE_BYTES:
        add_number(ctx, k->name, *(const int64_t *)field);
        break;
    case TYPE_LIST:
        add_list(ctx, k->name, field);
        break;
    }
}

void rules_digest(const struct config *c, uint8_t ret[CONFIG_RULES_LEN]) {
    struct sha256_ctx *ctx = sha256_begin();
    uint8_t digest[SHA256_LEN];
    for (size_t i = 0; i < config_n_keys; i++)
        if (config_keys[i].flags & RULE)
            add_key(ctx, &config_keys[i], (const char *)c + config_keys[i].offset);
    add_number(ctx, "egress.proxy", *c->egress_proxy != '\0');
    sha256_end(ctx, digest);
    memcpy(ret, digest, CONFIG_RULES_LEN);
}
