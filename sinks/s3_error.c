#include "sinks/s3_error.h"

#include <stdio.h>

#include "worker/log.h"

struct scanner {
    const char *p, *end;
};

static bool skip(struct scanner *s, const char *text) {
    size_t n = strlen(text);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, text, n) != 0) return false;
    s->p += n;
    return true;
}

static bool skip_past(struct scanner *s, const char *text) {
    for (; s->p < s->end; s->p++)
        if (skip(s, text)) return true;
    return false;
}

static void skip_blanks(struct scanner *s) {
    while (s->p < s->end && strchr(" \t\r\n", *s->p) && *s->p) s->p++;
}

static bool name_char(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == ':' || c == '.';
}

enum tag { TAG_NONE, TAG_OPEN, TAG_CLOSE, TAG_EMPTY };

/* A start or end tag at the scanner; attributes are passed over. */
static enum tag read_tag(struct scanner *s, struct str *ret_name) {
    if (!skip(s, "<")) return TAG_NONE;
    bool close = skip(s, "/");
    const char *from = s->p;
    while (s->p < s->end && name_char(*s->p)) s->p++;
    *ret_name = (struct str){from, (size_t)(s->p - from)};
    if (ret_name->n == 0) return TAG_NONE;
    char quote = 0;
    for (; s->p < s->end; s->p++) {
        if (quote) {
            if (*s->p == quote) quote = 0;
        } else if (*s->p == '"' || *s->p == '\'') {
            quote = *s->p;
        } else if (*s->p == '<') {
            return TAG_NONE;
        } else if (*s->p == '>') {
            bool empty = s->p[-1] == '/';
            s->p++;
            return close ? TAG_CLOSE : empty ? TAG_EMPTY : TAG_OPEN;
        }
    }
    return TAG_NONE;
}

/* Text up to the next '<', the predefined entities resolved, cut to size - 1 bytes. False at any
 * other entity, or when the text doesn't end. */
static bool read_text(struct scanner *s, char *ret, size_t size) {
    static const struct {
        const char *name;
        char c;
    } entities[] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    size_t n = 0;
    while (s->p < s->end && *s->p != '<') {
        char c = *s->p;
        if (c == '&') {
            size_t i = 0, count = sizeof entities / sizeof *entities;
            while (i < count && !skip(s, entities[i].name)) i++;
            if (i == count) return false;
            c = entities[i].c;
        } else {
            s->p++;
        }
        if (n + 1 < size) ret[n++] = c;
    }
    ret[n] = '\0';
    return s->p < s->end;
}

/* Passes over an element's content up to its end tag. */
static bool skip_element(struct scanner *s) {
    for (int depth = 1; depth > 0;) {
        while (s->p < s->end && *s->p != '<') s->p++;
        struct str name;
        switch (read_tag(s, &name)) {
        case TAG_NONE:
            return false;
        case TAG_OPEN:
            if (++depth > 16) return false;
            break;
        case TAG_CLOSE:
            depth--;
            break;
        case TAG_EMPTY:
            break;
        }
    }
    return true;
}

bool s3_region_valid(struct str r) {
    if (r.n == 0 || r.n > SIGV4_REGION_MAX) return false;
    for (size_t i = 0; i < r.n; i++)
        if (r.p[i] <= ' ' || r.p[i] >= 0x7f || strchr("/,=", r.p[i])) return false;
    return true;
}

bool s3_region_is_label(struct str r) {
    if (r.n == 0 || r.n > SIGV4_REGION_MAX) return false;
    for (size_t i = 0; i < r.n; i++)
        if (!((r.p[i] >= 'a' && r.p[i] <= 'z') || (r.p[i] >= '0' && r.p[i] <= '9') ||
              r.p[i] == '-'))
            return false;
    return true;
}

static bool host_valid(struct str h) {
    if (h.n == 0 || h.n > 253) return false;
    for (size_t i = 0; i < h.n; i++)
        if (!name_char(h.p[i]) || h.p[i] == ':' || h.p[i] == '_') return false;
    return true;
}

static void keep(struct s3_error *e, struct str name, const char *text) {
    struct str value = str_c(text);
    if (str_is(name, "Code") && !e->code[0])
        outcome_token(e->code, sizeof e->code, value);
    else if (str_is(name, "Message") && !e->message[0])
        outcome_text(e->message, sizeof e->message, value);
    else if (str_is(name, "Region") && !e->region[0] && s3_region_valid(value))
        memcpy(e->region, value.p, value.n + 1);
    else if (str_is(name, "Endpoint") && !e->endpoint[0] && host_valid(value))
        memcpy(e->endpoint, value.p, value.n + 1);
}

static void read_children(struct scanner *s, struct s3_error *e) {
    for (;;) {
        skip_blanks(s);
        struct str name, end;
        enum tag tag = read_tag(s, &name);
        if (tag == TAG_EMPTY) continue;
        if (tag != TAG_OPEN) return; /* </Error>, or nothing we know */
        char text[512];
        struct scanner before = *s;
        if (read_text(s, text, sizeof text) && read_tag(s, &end) == TAG_CLOSE &&
            str_eq(name, end)) {
            keep(e, name, text);
        } else {
            *s = before;
            if (!skip_element(s)) return;
        }
    }
}

bool s3_error_parse(struct str body, struct s3_error *ret) {
    if (body.n == 0) return false;
    struct scanner s = {body.p, body.p + body.n};
    skip(&s, "\xef\xbb\xbf");
    skip_blanks(&s);
    if (skip(&s, "<?xml") && !skip_past(&s, "?>")) return false;
    skip_blanks(&s);
    struct str root;
    if (read_tag(&s, &root) != TAG_OPEN || !str_is(root, "Error")) return false;
    *ret = (struct s3_error){{0}};
    read_children(&s, ret);
    return true;
}

enum { CREDENTIAL = 1 };
static const struct meaning {
    const char *code;
    enum verdict verdict;
    enum fault fault;
    int flags;
} meanings[] = {
    /* Passing troubles that come without a 5xx status, or whose cause isn't the tenant's. */
    {"RequestTimeout", VERDICT_RETRY, FAULT_TENANT, 0},
    {"RequestTimeTooSkewed", VERDICT_RETRY, FAULT_SYSTEM, 0}, /* this machine's clock is wrong */
    {"OperationAborted", VERDICT_RETRY, FAULT_TENANT, 0},
    {"ConditionalRequestConflict", VERDICT_RETRY, FAULT_TENANT, 0},
    {"SlowDown", VERDICT_RETRY, FAULT_TENANT, 0},
    {"InternalError", VERDICT_RETRY, FAULT_TENANT, 0},
    {"ServiceUnavailable", VERDICT_RETRY, FAULT_TENANT, 0},
    {"RequestLimitExceeded", VERDICT_RETRY, FAULT_TENANT, 0},
    {"Throttling", VERDICT_RETRY, FAULT_TENANT, 0},
    {"TemporaryRedirect", VERDICT_RETRY, FAULT_TENANT, 0}, /* a new bucket's name is spreading */
    /* The bytes did not arrive as they left: sending them again is the cure. */
    {"IncompleteBody", VERDICT_RETRY, FAULT_SYSTEM, 0},
    {"BadDigest", VERDICT_RETRY, FAULT_SYSTEM, 0},
    {"XAmzContentSHA256Mismatch", VERDICT_RETRY, FAULT_SYSTEM, 0},
    {"XAmzContentChecksumMismatch", VERDICT_RETRY, FAULT_SYSTEM, 0},
    /* Nothing this destination is sent will be taken until its owner acts. */
    {"AccessDenied", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"AccountProblem", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"AllAccessDisabled", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"AuthorizationHeaderMalformed", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"ExpiredToken", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"InvalidAccessKeyId", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"InvalidSecurity", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"InvalidToken", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"NoSuchBucket", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"NotSignedUp", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"PermanentRedirect", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"SignatureDoesNotMatch", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    {"TokenRefreshRequired", VERDICT_PERMANENT, FAULT_TENANT, CREDENTIAL},
    /* A 501: a header that configuration asks for is beyond this store. */
    {"NotImplemented", VERDICT_PERMANENT, FAULT_TENANT, 0},
};

static const struct meaning *meaning_of(const char *code) {
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        if (strcmp(meanings[i].code, code) == 0) return &meanings[i];
    return NULL;
}

bool s3_error_read(char *body, size_t n, struct s3_error *ret) {
    struct s3_error e = {{0}}, shown = {{0}};
    if (!s3_error_parse((struct str){body, n}, &e)) return false;
    secret_scrub(body, n); /* before anything is cut off it, so that no part of one is left over */
    s3_error_parse((struct str){body, n}, &shown);
    memcpy(e.message, shown.message, sizeof e.message);
    if (!meaning_of(e.code)) memcpy(e.code, shown.code, sizeof e.code);
    *ret = e;
    return true;
}

struct outcome s3_not_a_store(int status) {
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "not-a-store",
                                    "the endpoint answered as no S3 store does (no ETag and no "
                                    "x-amz-request-id, or an HTML page): check sink.endpoint");
    o.status = status;
    return o;
}

static struct meaning by_status(int status) {
    if (status == 408 || status == 429 || status >= 500)
        return (struct meaning){NULL, VERDICT_RETRY, FAULT_TENANT, 0};
    int flags = status == 401 || status == 403 ? CREDENTIAL : 0;
    return (struct meaning){NULL, VERDICT_PERMANENT, FAULT_TENANT, flags};
}

struct outcome s3_outcome(int status, const struct s3_error *e, uint32_t retry_after_ms) {
    const struct meaning *known = meaning_of(e->code);
    struct meaning m = known ? *known : by_status(status);
    char why[sizeof e->code];
    if (e->code[0])
        memcpy(why, e->code, sizeof why);
    else
        snprintf(why, sizeof why, "http-%d", status);
    if (!known) secret_scrub(why, strlen(why));
    char message[sizeof e->message];
    memcpy(message, e->message, sizeof message);
    secret_scrub(message, strlen(message));
    struct outcome o = message[0] ? outcome_fail(m.verdict, m.fault, why, "%s", message)
                                  : outcome_fail(m.verdict, m.fault, why, NULL);
    o.status = status;
    o.credential = (m.flags & CREDENTIAL) != 0;
    o.retry_after_ms = retry_after_ms;
    return o;
}
