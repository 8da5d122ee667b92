#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/table.h"
#include "worker/base/clock.h"
#include "worker/base/gzip.h"
#include "worker/base/hash.h"
#include "worker/base/key.h"
#include "worker/base/log.h"
#include "worker/base/nearby.h"
#include "worker/base/text.h"

struct check {
    struct config *c;
    struct buf *err;
    bool ok;
};

/* A message about a key, starting with where its value comes from. */
static void __attribute__((format(printf, 3, 4)))
fail(struct check *k, const char *name, const char *fmt, ...) {
    const char *origin = k->c->settings[key_find(name) - config_keys].origin;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_printf(k->err, "%s: %s: %s\n", origin ? origin : "default", name, text);
    k->ok = false;
}

static bool only(const char *text, const char *allowed) {
    return text[strspn(text, allowed)] == '\0';
}

#define ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

static void check_topics(struct check *k) {
    char q[QUOTE_MAX];
    for (size_t i = 0; i < k->c->topics.n; i++) {
        const char *t = k->c->topics.v[i];
        if (t[0] != '^') {
            if (strlen(t) > 200 || !only(t, ALNUM "._-"))
                fail(k, "topics", "\"%s\" is not a topic name of at most 200 characters",
                     quote(t, q));
            continue;
        }
        regex_t re;
        char why[128];
        int rc = regcomp(&re, t, REG_EXTENDED | REG_NOSUB);
        if (rc) {
            regerror(rc, &re, why, sizeof why);
            fail(k, "topics", "\"%s\": %s (a comma ends an entry)", quote(t, q), why);
        } else {
            regfree(&re);
        }
    }
    if (!only(k->c->slot, ALNUM "._-")) fail(k, "slot", "use letters, digits, '.', '_' and '-'");
}

static void derive_start(struct check *k) {
    struct config *c = k->c;
    char q[QUOTE_MAX];
    int64_t now_ms = clock_ms(CLOCK_REALTIME);
    if (strcmp(c->start, "earliest") == 0)
        c->start_at = CONFIG_START_EARLIEST;
    else if (strcmp(c->start, "latest") == 0)
        c->start_at = CONFIG_START_LATEST;
    else if (!config_parse_time(c->start, now_ms, &c->start_ms))
        fail(k, "start",
             "\"%s\" is none of earliest, latest, a time such as 2026-01-31T12:00:00Z and an age "
             "such as 6h",
             quote(c->start, q));
    else if (c->start_ms > now_ms)
        fail(k, "start", "\"%s\" lies in the future", quote(c->start, q));
    else
        c->start_at = CONFIG_START_TIME;
}

/* Names of statuses: with a mistyped one everything is skipped, and nothing looks wrong. */
static void check_statuses(struct check *k, const char *name, const struct list *l) {
    static const char *const known[] = {
#define STATUS(name) name,
#include "worker/base/statuses.def"
    };
    char q[QUOTE_MAX], near[NEARBY_TEXT];
    for (size_t i = 0; i < l->n; i++) {
        struct nearby guess = {.typed = l->v[i]};
        for (size_t s = 0; s < sizeof known / sizeof *known; s++) nearby_look(&guess, known[s]);
        if (guess.name && strcmp(guess.name, l->v[i]) == 0) continue;
        fail(k, name,
             "\"%s\" is not a status that the event model lists%s (allow_unknown = true takes it)",
             quote(l->v[i], q), nearby_text(&guess, near));
    }
}

static struct cidr *cidrs(struct check *k, const char *name, const struct list *l) {
    struct cidr *ret = xcalloc(l->n, sizeof *ret);
    char q[QUOTE_MAX];
    for (size_t i = 0; i < l->n; i++)
        if (!cidr_parse(str_c(l->v[i]), &ret[i]))
            fail(k, name, "\"%s\" is neither an address nor a CIDR such as 10.0.0.0/8",
                 quote(l->v[i], q));
    return ret;
}

static bool parse_port(const char **text, uint16_t *ret) {
    char *end;
    if (**text < '0' || **text > '9') return false;
    unsigned long v = strtoul(*text, &end, 10);
    if (v > 65535) return false;
    *text = end;
    *ret = (uint16_t)v;
    return true;
}

static void derive_egress(struct check *k) {
    struct config *c = k->c;
    const struct list *l = &c->egress_ports;
    uint16_t(*ports)[2] = xcalloc(l->n, sizeof *ports);
    for (size_t i = 0; i < l->n; i++) {
        const char *p = l->v[i];
        char q[QUOTE_MAX];
        bool ok = parse_port(&p, &ports[i][0]);
        ports[i][1] = ports[i][0];
        if (ok && *p == '-') ok = (p++, parse_port(&p, &ports[i][1]));
        if (!ok || *p || ports[i][0] == 0 || ports[i][0] > ports[i][1])
            fail(k, "egress.ports", "\"%s\" is neither a port nor a range such as 1024-65535",
                 quote(l->v[i], q));
    }
    c->egress = (struct egress){
        .allow = cidrs(k, "egress.allow", &c->egress_allow),
        .n_allow = c->egress_allow.n,
        .deny = cidrs(k, "egress.deny", &c->egress_deny),
        .n_deny = c->egress_deny.n,
        .http = c->egress_http,
        .ports = (const uint16_t(*)[2])ports,
        .n_ports = l->n,
    };
    if (*c->egress_proxy && strncmp(c->egress_proxy, "http://", 7) != 0)
        fail(k, "egress.proxy", "must start with http://");
}

/* Cuts a decimal number of at most 18 digits, and the slash before it, off the end of text. */
static bool cut_number(char *text, int64_t *ret) {
    char *slash = strrchr(text, '/');
    size_t n = slash ? strlen(slash + 1) : 0;
    if (n == 0 || n > 18 || strspn(slash + 1, "0123456789") != n) return false;
    *ret = strtoll(slash + 1, NULL, 10);
    *slash = '\0';
    return true;
}

/* The entries are cut in pieces in a copy of their own, behind the array. */
static void derive_skips(struct check *k) {
    const struct list *l = &k->c->skip_offsets;
    size_t size = l->n * sizeof *k->c->skips;
    char q[QUOTE_MAX];
    for (size_t i = 0; i < l->n; i++) size += strlen(l->v[i]) + 1;
    k->c->skips = xcalloc(1, size ? size : 1);
    char *at = (char *)(k->c->skips + l->n);
    for (size_t i = 0; i < l->n; i++) {
        struct config_offset *o = &k->c->skips[i];
        int64_t partition = 0;
        size_t n = strlen(l->v[i]) + 1;
        o->topic = memcpy(at, l->v[i], n);
        if (!cut_number(at, &o->offset) || !cut_number(at, &partition) || partition > INT32_MAX ||
            !*at || !only(at, ALNUM "._-"))
            fail(k, "skip.offsets", "\"%s\" is not of the form topic/partition/offset",
                 quote(l->v[i], q));
        o->partition = (int32_t)partition;
        at += n;
    }
}

/* A backslash that escapes nothing is one too few, or was meant for something that a pattern can't
 * say. */
static const char *pattern_problem(const char *pattern) {
    if (strlen(pattern) > CONFIG_PATTERN_MAX) return "has more than 256 characters";
    for (const char *p = pattern; *p; p++) {
        if (*p != '\\') continue;
        p++;
        if (*p != '*' && *p != '\\')
            return "has a backslash before neither * nor another backslash";
    }
    return NULL;
}

static void check_patterns(struct check *k, const char *name, const struct list *l) {
    char q[QUOTE_MAX];
    if (l->n > CONFIG_PATTERNS_MAX) fail(k, name, "has more than 256 entries");
    for (size_t i = 0; i < l->n; i++) {
        const char *problem = pattern_problem(l->v[i]);
        if (problem) fail(k, name, "\"%s\" %s", quote(l->v[i], q), problem);
    }
}

static void derive_retries(struct check *k) {
    const struct list *l = &k->c->retry_delays;
    int64_t *d = k->c->retry_delays_ms = xcalloc(l->n, sizeof *d);
    char q[QUOTE_MAX];
    for (size_t i = 0; i < l->n; i++) {
        /* A delay names a topic, so one text must stand for one delay and be short. */
        if (!config_parse_ms(l->v[i], &d[i]) || d[i] < 1 || d[i] > 7 * INT64_C(86400000) ||
            strlen(l->v[i]) > 12)
            fail(k, "retry.delays", "\"%s\" is not a time from 1ms to 7d", quote(l->v[i], q));
        else if (i && d[i] <= d[i - 1])
            fail(k, "retry.delays", "\"%s\" is not longer than the delay before it",
                 quote(l->v[i], q));
    }
    if (l->n > 32) fail(k, "retry.delays", "more than 32 delays, each needs a topic");
}

static struct key_template *parse_template(struct check *k, const char *name, const char *text,
                                           unsigned allowed, unsigned needed,
                                           const char *needed_text) {
    struct buf why;
    buf_init(&why, 512);
    struct key_template *t = key_template_new(text, allowed, &why);
    if (!t) fail(k, name, "%s", buf_cstr(&why));
    for (unsigned f = 0; t && f < KEY_FIELDS; f++)
        if (needed & 1u << f && !key_template_uses(t, (enum key_field)f)) {
            fail(k, name, "must use %s, or one object could replace another", needed_text);
            break;
        }
    buf_free(&why);
    return t;
}

static void check_archive(struct check *k) {
    struct config *c = k->c;
    unsigned window = 1u << KEY_FIRST | 1u << KEY_NEXT;
    unsigned place = 1u << KEY_TOPIC | 1u << KEY_PARTITION, destination = 1u << KEY_DESTINATION;
    c->object_key = parse_template(
        k, "key.object", c->key_object, ((1u << KEY_FIELDS) - 1) & ~window & ~destination,
        1u << KEY_PARTITION | 1u << KEY_OFFSET, "{partition} and {offset}");
    c->batch_key = parse_template(k, "key.batch", c->key_batch,
                                  1u << KEY_PREFIX | 1u << KEY_DATE | place | window | destination,
                                  place | window, "{topic}, {partition}, {first} and {next}");
    if (c->batch_compression == CONFIG_COMPRESSION_GZIP && c->batch_level > GZIP_LEVEL_MAX)
        fail(k, "batch.level", "gzip knows 1 and 2; zstd makes less of it");
    if (c->batch_bytes > c->memory_budget / 2)
        fail(k, "batch.bytes", "is more than half of memory.budget");
}

static void check_s3(struct check *k) {
    const struct config *c = k->c;
    if (*c->s3_sse_kms_key_id && c->s3_sse != CONFIG_SSE_KMS)
        fail(k, "s3.sse_kms_key_id", "needs s3.sse = aws:kms");
    if (c->s3_lock_days > 0 && c->s3_lock_mode == CONFIG_LOCK_NONE)
        fail(k, "s3.lock_days", "needs s3.lock_mode GOVERNANCE or COMPLIANCE");
    if (c->s3_lock_days == 0 && c->s3_lock_mode != CONFIG_LOCK_NONE)
        fail(k, "s3.lock_mode", "needs s3.lock_days of 1 or more");
    for (size_t i = 0; i < c->s3_sigv2_endpoints.n; i++) {
        const char *e = c->s3_sigv2_endpoints.v[i];
        char q[QUOTE_MAX];
        if (strncmp(e, "https://", 8) == 0)
            fail(k, "s3.sigv2_endpoints",
                 "https is refused: libs3 verifies no certificate. Reach the store through a "
                 "tunnel that does, and name its http:// address here");
        else if (strncmp(e, "http://", 7) != 0 || !only(e + 7, ALNUM "._-:[]") || !e[7])
            fail(k, "s3.sigv2_endpoints", "\"%s\" is not http://host or http://host:port",
                 quote(e, q));
    }
#ifndef RUNSINK_LIBS3
    if (c->s3_sigv2_endpoints.n) fail(k, "s3.sigv2_endpoints", "this build is without libs3");
#endif
}

/* Standard Webhooks: "whsec_" and base64 of 24 to 64 bytes. */
static void check_webhook(struct check *k) {
    const struct list *l = &k->c->webhook_secrets;
    for (size_t i = 0; i < l->n; i++) {
        struct buf bytes;
        buf_init(&bytes, 4096);
        const char *s = l->v[i];
        bool ok = strncmp(s, "whsec_", 6) == 0 && unbase64_add(&bytes, str_c(s + 6)) &&
                  bytes.n >= 24 && bytes.n <= 64;
        if (!ok)
            fail(k, "webhook.signing_secrets",
                 "entry %zu is not whsec_ and base64 of 24 to 64 bytes", i + 1);
        buf_wipe(&bytes);
    }
}

static void check_readable(struct check *k, const char *name, const char *path) {
    char q[QUOTE_MAX];
    struct stat st;
    if (!*path) return;
    if (stat(path, &st) != 0 || access(path, R_OK) != 0)
        fail(k, name, "can't read %s: %s", quote(path, q), strerror(errno));
    else if (!buf_file_regular(&st)) /* it is read more than once, and a pipe may be waited for */
        fail(k, name, "%s is no regular file", quote(path, q));
}

/* The first certificate of a PEM file all of whose certificates are whole; NULL otherwise. */
static X509 *read_certificates(const char *path) {
    FILE *f = fopen(path, "re");
    X509 *first = NULL, *next;
    ERR_clear_error();
    while (f && (next = PEM_read_X509_AUX(f, NULL, NULL, NULL))) {
        if (first)
            X509_free(next);
        else
            first = next;
    }
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    if (f) fclose(f);
    if (at_end) return first;
    X509_free(first);
    return NULL;
}

/* An encrypted one can't be used: there is nobody to ask for the password. */
static int no_password(char *buf, int size, int writing, void *user) {
    (void)buf, (void)size, (void)writing, (void)user;
    return -1;
}

static EVP_PKEY *read_private_key(const char *path) {
    FILE *f = fopen(path, "re");
    EVP_PKEY *key = f ? PEM_read_PrivateKey(f, NULL, no_password, NULL) : NULL;
    ERR_clear_error();
    if (f) fclose(f);
    return key;
}

/* A file that was cut would fail every request, not the start. */
static void check_tls(struct check *k) {
    const struct config *c = k->c;
    X509 *bundle = NULL, *cert = NULL;
    EVP_PKEY *key = NULL;
    if (!k->ok) return;
    if (*c->http_ca_bundle && !(bundle = read_certificates(c->http_ca_bundle)))
        fail(k, "http.ca_bundle", "is not a file of whole PEM certificates");
    if (*c->http_client_cert && !(cert = read_certificates(c->http_client_cert)))
        fail(k, "http.client_cert", "is not a file of whole PEM certificates");
    if (*c->http_client_key && !(key = read_private_key(c->http_client_key)))
        fail(k, "http.client_key", "is not a whole PEM private key without a password");
    if (cert && key && X509_check_private_key(cert, key) != 1)
        fail(k, "http.client_key", "does not belong to http.client_cert");
    ERR_clear_error();
    X509_free(bundle);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void check_files(struct check *k) {
    struct config *c = k->c;
    check_readable(k, "http.ca_bundle", c->http_ca_bundle);
    check_readable(k, "http.client_cert", c->http_client_cert);
    check_readable(k, "http.client_key", c->http_client_key);
    check_readable(k, "ledger.key", c->ledger_key);
    check_readable(k, "ledger.key_previous", c->ledger_key_previous);
    if (!*c->http_client_cert != !*c->http_client_key)
        fail(k, *c->http_client_cert ? "http.client_cert" : "http.client_key",
             "http.client_cert and http.client_key go together");
    check_tls(k);
    if (*c->ledger_key && !c->ledger) fail(k, "ledger.key", "needs ledger = true");
    if (*c->file_root && c->file_root[0] != '/') fail(k, "file.root", "must be an absolute path");
    if (strncmp(c->sink_override, "file:/", 6) == 0)
        c->override_dir = xstrdup(c->sink_override + 5);
    else if (*c->sink_override)
        fail(k, "sink.override", "must be file: and an absolute path");
}

static void check_anchor(struct check *k) {
    const struct config *c = k->c;
    if (!only(c->anchor_prefix, ALNUM "._-/") || c->anchor_prefix[0] == '/' ||
        path_climbs(c->anchor_prefix))
        fail(k, "anchor.prefix",
             "use letters, digits, '.', '_', '-' and '/' inside, no dot segment");
    if (!*c->anchor_bucket) return;
    if (!c->ledger) fail(k, "anchor.bucket", "needs ledger = true");
    if (!*c->anchor_access_key_id || !*c->anchor_secret_access_key)
        fail(k, "anchor.bucket", "needs anchor.access_key_id and anchor.secret_access_key");
}

bool config_address(const char *text, char host[CONFIG_HOST_MAX], char port[6]) {
    const char *colon = strrchr(text, ':'), *end = colon ? colon + 1 : "";
    size_t n = colon ? (size_t)(colon - text) : 0;
    uint16_t number;
    bool bracketed = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    if (!parse_port(&end, &number) || *end || end - colon > 6) return false;
    if (bracketed) {
        text++;
        n -= 2;
    }
    if (n >= CONFIG_HOST_MAX || (!bracketed && memchr(text, ':', n))) return false;
    memcpy(host, text, n);
    host[n] = '\0';
    memcpy(port, colon + 1, strlen(colon + 1) + 1);
    return true;
}

static void check_admin(struct check *k) {
    char name[CONFIG_HOST_MAX], port[6];
    for (size_t i = 0; i < k->c->admin_hosts.n; i++) {
        const char *host = k->c->admin_hosts.v[i];
        char q[QUOTE_MAX];
        bool ok = only(host + (strncmp(host, "*.", 2) == 0 ? 2 : 0), ALNUM "._-") ||
                  cidr_parse(str_c(host), &(struct cidr){0});
        if (!ok || strlen(host) > 253 || strchr(host, '/'))
            fail(k, "admin.hosts", "\"%s\" is not a name, *.domain or address without a port",
                 quote(host, q));
    }
    if (*k->c->admin_listen && !config_address(k->c->admin_listen, name, port))
        fail(k, "admin.listen", "is not address:port");
}

/* Somebody meant to name some, and the variable that was to say which was empty. */
static void check_brokers(struct check *k) {
    const struct config *c = k->c;
    for (size_t i = 0; i < c->kafka_names.n; i++) {
        if (strcmp(c->kafka_names.v[i], "bootstrap.servers") != 0) continue;
        if (!only(c->kafka_values.v[i], " ,")) continue;
        buf_printf(k->err,
                   "%s: kafka.bootstrap.servers: is empty: name at least one broker, host:port\n",
                   c->kafka_origins.v[i]);
        k->ok = false;
    }
}

bool config_finish(struct config *c, struct buf *err) {
    struct check k = {c, err, true};
    check_topics(&k);
    derive_start(&k);
    if (!c->allow_unknown) {
        check_statuses(&k, "statuses", &c->statuses);
        check_statuses(&k, "fail_statuses", &c->fail_statuses);
    }
    derive_egress(&k);
    derive_retries(&k);
    derive_skips(&k);
    check_patterns(&k, "hold.workspaces", &c->hold_workspaces);
    check_patterns(&k, "hold.destinations", &c->hold_destinations);
    check_archive(&k);
    check_s3(&k);
    check_webhook(&k);
    check_files(&k);
    check_anchor(&k);
    check_admin(&k);
    check_brokers(&k);
    rules_digest(c, c->rules);
    config_secrets(c, secret_add);
    c->secrets_added = true;
    return k.ok;
}

bool config_check_brokers(const struct config *c, struct buf *err) {
    if (config_kafka(c, "bootstrap.servers")) return true;
    buf_puts(err, "kafka.bootstrap.servers: name at least one broker, host:port\n");
    return false;
}

bool config_check_run(const struct config *c, struct buf *err) {
    bool ok = true;
    if (*c->anchor_bucket && !*c->ledger_key) {
        buf_puts(err, "anchor.bucket: anchors are signed: set ledger.key (`runsink keygen`)\n");
        ok = false;
    }
    if (c->topics.n == 0) {
        buf_puts(err, "topics: name at least one topic to consume\n");
        ok = false;
    }
    ok &= config_check_brokers(c, err);
    return ok;
}
