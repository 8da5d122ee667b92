#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "config/config.h"
#include "sinks/egress.h"
#include "sinks/webhook/webhook.h"
#include "worker/base/log.h"
#include "worker/event/redact.h"

#define HEADERS_MAX 200 /* configuration's own limit on webhook.headers_max */

/* --- Secrets --- */

/* The table keeps C strings; no line of a log holds a NUL. */
static void keep_secret(struct webhook *w, struct str s) {
    if (s.n == 0 || memchr(s.p, '\0', s.n)) return;
    secret_add(s);
    w->secrets = xrealloc(w->secrets, (w->n_secrets + 1) * sizeof *w->secrets);
    w->secrets[w->n_secrets++] = xstrndup(s.p, s.n);
}

/* Both as it stands in the URL and as it is meant. */
static void keep_encoded_secret(struct webhook *w, struct str s) {
    keep_secret(w, s);
    char *text = xmalloc(s.n + 1);
    struct str plain = {text, percent_decode(s, text)};
    if (!str_eq(plain, s)) keep_secret(w, plain);
    wipe(text, s.n);
    free(text);
}

/* User and password, together and each alone. */
static void keep_userinfo(struct webhook *w, struct str s) {
    const char *colon = memchr(s.p, ':', s.n);
    size_t user = colon ? (size_t)(colon - s.p) : s.n;
    keep_encoded_secret(w, s);
    if (!colon) return;
    keep_encoded_secret(w, (struct str){s.p, user});
    keep_encoded_secret(w, (struct str){colon + 1, s.n - user - 1});
}

/* The path shows in labels. It may hold another URL, with secrets of its own. */
static void keep_nested(struct webhook *w, struct str place) {
    struct url_secrets s;
    struct edit e;
    url_secrets_begin(&s, place);
    while (url_secrets_next(&s, &e)) keep_userinfo(w, (struct str){place.p + e.at, e.n});
}

static void keep_query(struct webhook *w, struct str query) {
    for (size_t start = 0, i = 0; i <= query.n; i++) {
        if (i < query.n && query.p[i] != '&') continue;
        struct str one = {query.p + start, i - start};
        const char *equals = one.n ? memchr(one.p, '=', one.n) : NULL;
        if (equals) {
            size_t name = (size_t)(equals - one.p) + 1;
            one = (struct str){one.p + name, one.n - name};
        }
        keep_encoded_secret(w, one);
        start = i + 1;
    }
}

/* --- Headers --- */

struct pair {
    const char *name, *value;
};

static bool is_token(const char *s) {
    /* RFC 9110 section 5.6.2 */
    static const char signs[] = "!#$%&'*+-.^_`|~";
    if (!*s) return false;
    while (char_is_alnum(*s) || (*s && strchr(signs, *s))) s++;
    return !*s;
}

static bool is_value(const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s; s++)
        if ((*s < ' ' && *s != '\t') || *s == 0x7f) return false;
    return true;
}

/* Whether name begins with this one for a receiver behind CGI or WSGI: those make one variable of
 * X-A, x_a and, some of them, X.A. of is lower case. */
static bool folds_to(const char *name, const char *of) {
    for (; *of; name++, of++) {
        char c = char_is_alnum(*name) ? char_lower(*name) : '-';
        if (!*name || c != *of) return false;
    }
    return true;
}

/* Ours to set, or the connection's. A name that ends in '-' stands for all that start so. */
static bool is_reserved(const char *name) {
    static const char *const names[] = {"host",           "content-length", "transfer-encoding",
                                        "connection",     "keep-alive",     "te",
                                        "trailer",        "upgrade",        "expect",
                                        "http2-settings", "proxy-",         "webhook-",
                                        "x-amz-",         "traceparent",    "tracestate"};
    /* A sink may set these, but no second one under another spelling. */
    static const char *const theirs[] = {"content-type", "user-agent"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]);
        bool prefix = names[i][n - 1] == '-';
        if (folds_to(name, names[i]) && (prefix || name[n] == '\0')) return true;
    }
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
        if (folds_to(name, theirs[i]) && name[strlen(theirs[i])] == '\0' &&
            strcasecmp(name, theirs[i]) != 0)
            return true;
    return false;
}

static int by_name(const void *a, const void *b) {
    return strcasecmp(((const struct pair *)a)->name, ((const struct pair *)b)->name);
}

/* Names are quoted where they look like nothing else: words of letters, a digit or two. */
static bool is_plain_name(const char *name) {
    size_t n = strlen(name), digits = 0, word = 0;
    for (const char *s = name; *s; s++) {
        bool digit = *s >= '0' && *s <= '9', mark = *s == '-' || *s == '_';
        digits += digit;
        word = mark ? 0 : word + 1;
        if ((!digit && !mark && (*s | 0x20) < 'a') || (*s | 0x20) > 'z' || word > 16) return false;
    }
    return n <= 40 && digits <= 2;
}

static bool refuse_header(struct outcome *reterr, enum fault fault, const char *name,
                          const char *what) {
    *reterr = outcome_fail(VERDICT_PERMANENT, fault, "invalid-sink", "sink.headers: %s %s",
                           is_plain_name(name) ? name : "a header", what);
    return false;
}

/* What is wrong with a name, in words that hold none of it: it may be a whole line, its secret
 * included. */
static bool refuse_name(const char *name, struct outcome *reterr) {
    const char *what = "a name holds a character that no header's name may have";
    if (!*name) what = "a header has no name";
    if (strpbrk(name, ": \t"))
        what = "a header's name holds a blank or a colon: was a whole header line pasted into it?";
    return sink_refuse(reterr, FAULT_TENANT, "headers:", what);
}

static bool check_header(const cJSON *item, struct outcome *reterr) {
    const char *name = item->string;
    if (!is_token(name)) return refuse_name(name, reterr);
    if (!cJSON_IsString(item))
        return refuse_header(reterr, FAULT_DATA, name, "has a value that is not a string");
    if (is_reserved(name))
        return refuse_header(reterr, FAULT_TENANT, name,
                             "cannot be set: it belongs to the connection, or to runsink");
    if (!is_value(item->valuestring))
        return refuse_header(reterr, FAULT_TENANT, name, "has a control character in its value");
    return true;
}

/* The sink's headers, checked and in the order of their names. Borrowed from the sink. */
static bool read_headers(const struct config *cfg, const cJSON *sink, struct pair *ret,
                         size_t *ret_n, struct outcome *reterr) {
    bool bad = false;
    const cJSON *object = sink_field(sink, "headers", &bad, reterr), *item;
    if (bad) return false;
    if (object && !cJSON_IsObject(object))
        return sink_refuse(reterr, FAULT_DATA, "headers", "is not an object");
    size_t n = 0, bytes = 0;
    cJSON_ArrayForEach(item, object) {
        if (!check_header(item, reterr)) return false;
        bytes += strlen(item->string) + strlen(item->valuestring);
        if (n == HEADERS_MAX || (int64_t)n >= cfg->webhook_header_max)
            return sink_refuse(reterr, FAULT_TENANT, "headers",
                               "are too many (webhook.headers_max)");
        if (bytes > WEBHOOK_HEADER_BYTES_MAX)
            return sink_refuse(reterr, FAULT_TENANT, "headers", "are more than 8 KiB");
        ret[n++] = (struct pair){item->string, item->valuestring};
    }
    qsort(ret, n, sizeof *ret, by_name);
    for (size_t i = 1; i < n; i++)
        if (by_name(&ret[i - 1], &ret[i]) == 0)
            return refuse_header(reterr, FAULT_DATA, ret[i].name, "stands twice");
    *ret_n = n;
    return true;
}

static void append(struct webhook *w, const char *name, const char *value) {
    struct buf line;
    buf_init_secret(&line, strlen(name) + strlen(value) + 3);
    /* How curl is told to send a header without a value; the other form would drop it. */
    if (value[strspn(value, " \t")] == '\0')
        buf_printf(&line, "%s;", name);
    else
        buf_printf(&line, "%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(w->headers, buf_cstr(&line));
    if (!longer) abort();
    w->headers = longer;
    buf_wipe(&line);
}

static const struct pair *find(const struct pair *pairs, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(pairs[i].name, name) == 0) return &pairs[i];
    return NULL;
}

static void keep_piece(void *webhook, struct str s) {
    keep_secret(webhook, s);
}

static void set_headers(struct webhook *w, const struct pair *pairs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const char *name = pairs[i].name, *value = pairs[i].value;
        append(w, name, value);
        if (strcasecmp(name, "content-type") == 0 || strcasecmp(name, "accept") == 0) continue;
        header_secrets(str_c(value), keep_piece, w);
    }
    if (!find(pairs, n, "content-type")) append(w, "Content-Type", "application/json");
}

/* RFC 7617: what a client makes of userinfo in a URL. */
static void set_basic(struct webhook *w, struct str userinfo) {
    struct buf plain, value;
    buf_init_secret(&plain, userinfo.n + 1);
    buf_init_secret(&value, (size_t)2 * WEBHOOK_URL_MAX);
    plain.n = percent_decode(userinfo, buf_reserve(&plain, userinfo.n));
    if (!memchr(userinfo.p, ':', userinfo.n)) buf_putc(&plain, ':');
    buf_puts(&value, "Basic ");
    base64_add(&value, plain.p, plain.n);
    append(w, "Authorization", buf_cstr(&value));
    keep_secret(w, (struct str){value.p + 6, value.n - 6});
    buf_wipe(&plain);
    buf_wipe(&value);
}

/* --- The destination --- */

/* What parse needs of a URL that egress_url() has let through. */
struct url {
    struct str scheme;   /* "https://" */
    struct str userinfo; /* p NULL: none */
    struct str rest;     /* host to query */
    struct str place;    /* host, port, path */
    struct str query;    /* p NULL: none */
};

static struct url split(const char *text) {
    struct url u = {0};
    const char *authority = strstr(text, "://") + 3;
    const char *authority_end = authority + strcspn(authority, "/?#");
    const char *at = memchr(authority, '@', (size_t)(authority_end - authority));
    const char *host = at ? at + 1 : authority;
    const char *end = host + strcspn(host, "#");
    const char *question = memchr(host, '?', (size_t)(end - host));
    u.scheme = (struct str){text, (size_t)(authority - text)};
    if (at) u.userinfo = (struct str){authority, (size_t)(at - authority)};
    u.rest = (struct str){host, (size_t)(end - host)};
    u.place = (struct str){host, (size_t)((question ? question : end) - host)};
    if (question) u.query = (struct str){question + 1, (size_t)(end - question) - 1};
    return u;
}

/* Host and port, in whatever case they are spelled. */
static uint64_t hash_host(struct str place) {
    char text[WEBHOOK_URL_MAX];
    size_t n = 0;
    for (; n < place.n && n < sizeof text && !strchr("/?", place.p[n]); n++)
        text[n] = char_lower(place.p[n]);
    return keyed_hash(text, n);
}

static void add_field(struct sha256_ctx *sha, const char *text, size_t n) {
    uint64_t length = n;
    sha256_add(sha, &length, sizeof length);
    sha256_add(sha, text, n);
}

static void identify(const char *url, const struct pair *pairs, size_t n, uint8_t ret[SHA256_LEN]) {
    struct sha256_ctx *sha = sha256_begin();
    add_field(sha, "webhook", 7);
    add_field(sha, url, strlen(url));
    for (size_t i = 0; i < n; i++) {
        add_field(sha, pairs[i].name, strlen(pairs[i].name));
        add_field(sha, pairs[i].value, strlen(pairs[i].value));
    }
    sha256_end(sha, ret);
}

static bool read_url(const struct config *cfg, const cJSON *sink, const char **ret,
                     struct outcome *reterr) {
    bool bad = false;
    const cJSON *item = sink_field(sink, "url", &bad, reterr);
    if (bad) return false;
    if (!item) return sink_refuse(reterr, FAULT_DATA, "url", "is missing");
    if (!cJSON_IsString(item)) return sink_refuse(reterr, FAULT_DATA, "url", "is not a string");
    if (strlen(item->valuestring) > WEBHOOK_URL_MAX)
        return sink_refuse(reterr, FAULT_TENANT, "url", "is longer than 2048 bytes");
    *ret = item->valuestring;
    return egress_url(&cfg->egress, item->valuestring, true, reterr);
}

bool webhook_parse(const struct config *cfg, const cJSON *sink, struct destination *ret,
                   struct outcome *reterr) {
    const char *text = "";
    struct pair pairs[HEADERS_MAX];
    size_t n = 0;
    if (!read_url(cfg, sink, &text, reterr) || !read_headers(cfg, sink, pairs, &n, reterr))
        return false;
    struct url u = split(text);
    struct webhook *w = xcalloc(1, sizeof *w);
    w->url = xmalloc(u.scheme.n + u.rest.n + 1);
    memcpy(w->url, u.scheme.p, u.scheme.n);
    memcpy(w->url + u.scheme.n, u.rest.p, u.rest.n);
    w->url[u.scheme.n + u.rest.n] = '\0';
    set_headers(w, pairs, n);
    if (u.userinfo.n) {
        keep_userinfo(w, u.userinfo);
        if (!find(pairs, n, "authorization")) set_basic(w, u.userinfo);
    }
    keep_nested(w, u.place);
    if (u.query.p) keep_query(w, u.query);
    char place[LABEL_MAX];
    outcome_text(place, sizeof place, u.place);
    snprintf(ret->label, sizeof ret->label, "webhook://%.*s", (int)(LABEL_MAX - 11), place);
    identify(text, pairs, n, ret->identity);
    ret->host = hash_host(u.place);
    ret->config = w;
    return true;
}

size_t webhook_size(const void *config) {
    const struct webhook *w = config;
    size_t n = heap_bytes(w) + heap_bytes(w->url) + heap_bytes(w->secrets);
    for (size_t i = 0; i < w->n_secrets; i++)
        n += heap_bytes(w->secrets[i]) + secret_bytes(str_c(w->secrets[i]));
    for (const struct curl_slist *l = w->headers; l; l = l->next)
        n += heap_bytes(l) + heap_bytes(l->data);
    return n;
}

void webhook_free(void *config) {
    struct webhook *w = config;
    if (!w) return;
    for (size_t i = 0; i < w->n_secrets; i++) {
        secret_drop(str_c(w->secrets[i]));
        wipe(w->secrets[i], strlen(w->secrets[i]));
        free(w->secrets[i]);
    }
    free(w->secrets);
    for (struct curl_slist *l = w->headers; l; l = l->next) wipe(l->data, strlen(l->data));
    curl_slist_free_all(w->headers);
    wipe(w->url, strlen(w->url));
    free(w->url);
    free(w);
}
