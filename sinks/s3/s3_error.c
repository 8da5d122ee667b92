#include "sinks/s3/s3_error.h"

#include <stdio.h>

#include "worker/base/log.h"
#include "worker/base/text.h"

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

/* What may stand between elements and says nothing. False when it doesn't end. */
static bool skip_between(struct scanner *s) {
    for (;;) {
        skip_blanks(s);
        if (skip(s, "<!--")) {
            if (!skip_past(s, "-->")) return false;
        } else if (skip(s, "<?")) {
            if (!skip_past(s, "?>")) return false;
        } else {
            return true;
        }
    }
}

static bool name_char(char c) {
    return char_is_plain(c) || c == ':';
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
        if (!skip_between(s)) return false;
        if (s->p < s->end && *s->p != '<') continue;
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
        if ((!char_is_alnum(r.p[i]) && r.p[i] != '-') || char_lower(r.p[i]) != r.p[i]) return false;
    return true;
}

bool s3_region_is_known(struct str r) {
    static const char *const ends[] = {"-north-",      "-south-",     "-east-",      "-west-",
                                       "-central-",    "-northeast-", "-southeast-", "-northwest-",
                                       "-southwest-",  "-gov-east-",  "-gov-west-",  "-iso-east-",
                                       "-iso-west-",   "-isob-east-", "-isob-west-", "-isof-east-",
                                       "-isof-south-", "-isoe-west-", "-de-east-"};
    static const char *const areas[] = {"af", "ap", "ca", "cn", "eu", "eusc",
                                        "il", "me", "mx", "sa", "us"};
    for (size_t a = 0; a < sizeof areas / sizeof *areas; a++) {
        if (!str_starts(r, areas[a])) continue;
        size_t n = strlen(areas[a]);
        struct str rest = {r.p + n, r.n - n};
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
            if (rest.n == strlen(ends[i]) + 1 && str_starts(rest, ends[i]) &&
                rest.p[rest.n - 1] >= '0' && rest.p[rest.n - 1] <= '9')
                return true;
    }
    return false;
}

static bool host_valid(struct str h) {
    if (h.n == 0 || h.n > 253) return false;
    for (size_t i = 0; i < h.n; i++)
        if (!name_char(h.p[i]) || h.p[i] == ':' || h.p[i] == '_') return false;
    return true;
}

/* The name without its namespace's prefix. */
static struct str local_part(struct str name) {
    for (size_t i = name.n; i > 0; i--)
        if (name.p[i - 1] == ':') return (struct str){name.p + i, name.n - i};
    return name;
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
        if (!skip_between(s)) return;
        struct str name, end;
        enum tag tag = read_tag(s, &name);
        if (tag == TAG_EMPTY) continue;
        if (tag != TAG_OPEN) return; /* </Error>, or nothing we know */
        char text[512];
        struct scanner before = *s;
        if (read_text(s, text, sizeof text) && read_tag(s, &end) == TAG_CLOSE &&
            str_eq(name, end)) {
            keep(e, local_part(name), text);
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
    struct str root;
    if (!skip_between(&s) || read_tag(&s, &root) != TAG_OPEN) return false;
    if (!str_is(local_part(root), "Error")) return false;
    *ret = (struct s3_error){{0}};
    read_children(&s, ret);
    return true;
}

/* What a code means. Each is quoted in logs, headers and the ledger, so the list is also that of
 * the codes that are: any other is a tenant's text. None is fault system, since whoever owns the
 * store chooses it: that this machine's clock is wrong, or its network garbles what is sent, shows
 * in many stores at once (RunsinkManyDestinationsSick). */
#define LATER(name)                                                                                \
    { name, VERDICT_RETRY, false, "the store asks to be tried again later" }
#define GARBLED(name)                                                                              \
    { name, VERDICT_RETRY, false, "the store says that what arrived is not what was sent" }
#define OWNER(name, what)                                                                          \
    { name, VERDICT_PERMANENT, true, what }
static const struct meaning {
    const char *code;
    enum verdict verdict;
    bool credential;
    const char *text;
} meanings[] = {
    /* Passing troubles that come without a 5xx status. */
    LATER("ConditionalRequestConflict"),
    LATER("InternalError"),
    LATER("OperationAborted"),
    LATER("RequestLimitExceeded"),
    LATER("RequestTimeout"),
    LATER("ServiceUnavailable"),
    LATER("SlowDown"),
    LATER("TemporaryRedirect"), /* a new bucket's name is spreading */
    LATER("Throttling"),
    {"RequestTimeTooSkewed", VERDICT_RETRY, false,
     "the store's clock and this machine's are too far apart"},
    /* The bytes did not arrive as they left: sending them again is the cure. */
    GARBLED("BadDigest"),
    GARBLED("IncompleteBody"),
    GARBLED("XAmzContentChecksumMismatch"),
    GARBLED("XAmzContentSHA256Mismatch"),
    /* Nothing this destination is sent will be taken until its owner acts. */
    OWNER("AccessDenied", "the credentials may not write there"),
    OWNER("AccountProblem", "the account is shut off"),
    OWNER("AllAccessDisabled", "the bucket is shut off"),
    OWNER("AuthorizationHeaderMalformed", "the region is not the bucket's"),
    OWNER("ExpiredToken", "the session token has expired"),
    OWNER("InvalidAccessKeyId", "the store does not know the access key"),
    OWNER("InvalidSecurity", "the credentials are not valid"),
    OWNER("InvalidToken", "the session token is not valid"),
    OWNER("NoSuchBucket", "the bucket does not exist"),
    OWNER("NotSignedUp", "the account may not use the store"),
    OWNER("PermanentRedirect", "the bucket is in another region, or its endpoint another one"),
    OWNER("SignatureDoesNotMatch", "the secret access key is not the access key's"),
    OWNER("TokenRefreshRequired", "the session token has to be renewed"),
    /* A 501: a header that configuration asks for is beyond this store. */
    {"NotImplemented", VERDICT_PERMANENT, false, "the store does not know a header of the request"},
};

/* The status decides. */
static const char refused[] =
    "AccessControlListNotSupported BucketAlreadyExists CredentialsNotSupported EntityTooLarge "
    "EntityTooSmall InvalidArgument InvalidBucketName InvalidBucketState InvalidDigest "
    "InvalidEncryptionAlgorithmError InvalidObjectState InvalidPayer InvalidRegionName "
    "InvalidRequest InvalidStorageClass InvalidTag InvalidURI KMS.DisabledException "
    "KMS.NotFoundException KeyTooLongError MalformedXML MetadataTooLarge MethodNotAllowed "
    "MissingContentLength MissingSecurityHeader NoSuchKey ObjectLockConfigurationNotFoundError "
    "PreconditionFailed QuotaExceeded Redirect RequestHeaderSectionTooLarge StorageFull "
    "TooManyBuckets UnexpectedContent UserKeyMustBeSpecified XMinioAdminBucketQuotaExceeded "
    "XMinioObjectTampered XMinioServerNotInitialized XMinioStorageFull";

static const struct meaning *meaning_of(const char *code) {
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        if (strcmp(meanings[i].code, code) == 0) return &meanings[i];
    return NULL;
}

/* Not W/"...": a store's names the very bytes, a web server's often the page. */
static bool is_strong(const char *etag) {
    return etag[strspn(etag, "\" \t")] && strncasecmp(etag, "W/", 2) != 0;
}

static bool is_page(const struct s3_answer *a) {
    return strncasecmp(a->type, "text/html", 9) == 0 && a->status != 204 &&
           strcmp(a->length, "0") != 0;
}

static bool is_blank(struct str body) {
    struct scanner s = {body.p, body.p + body.n};
    if (body.n) skip_blanks(&s);
    return s.p == s.end;
}

bool s3_is_stored(const struct s3_answer *a) {
    return (a->status == 200 || a->status == 201 || a->status == 204) && is_blank(a->body) &&
           !is_page(a) && (is_strong(a->etag) || *a->request_id);
}

static struct outcome not_a_store(int status, uint32_t retry_after_ms) {
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "not-a-store",
                                    "the endpoint answered as no S3 store does (HTTP %d, with no "
                                    "strong ETag or with a body): check the endpoint",
                                    status);
    o.status = status;
    o.retry_after_ms = retry_after_ms;
    return o;
}

static struct meaning by_status(int status) {
    if (status == 401 || status == 403)
        return (struct meaning)OWNER(NULL, "the store refuses the credentials");
    if (status == 408 || status == 429 || status >= 500) return (struct meaning)LATER(NULL);
    return (struct meaning){NULL, VERDICT_PERMANENT, false, "the store does not take the object"};
}

struct outcome s3_outcome(int status, const struct s3_error *e, uint32_t retry_after_ms) {
    if (status / 100 == 2 && !e->code[0]) return not_a_store(status, retry_after_ms);
    const struct meaning *known = meaning_of(e->code);
    struct meaning m = known ? *known : by_status(status);
    char why[sizeof e->code];
    if (known || text_lists(refused, str_c(e->code)))
        snprintf(why, sizeof why, "%s", e->code);
    else if (status / 100 == 2) /* an error after a good status: some have to send that early */
        snprintf(why, sizeof why, "s3-error");
    else
        snprintf(why, sizeof why, "http-%d", status);
    struct outcome o = outcome_fail(m.verdict, FAULT_TENANT, why, "%s (HTTP %d)", m.text, status);
    o.status = status;
    o.credential = m.credential;
    o.retry_after_ms = retry_after_ms;
    return o;
}

struct outcome s3_outcome_told(int status, const struct s3_error *e, uint32_t retry_after_ms) {
    struct outcome o = s3_outcome(status, e, retry_after_ms);
    char text[sizeof e->message];
    // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): an array
    memcpy(text, e->message, sizeof text);
    secret_scrub(text, strlen(text)); /* before it is cut, so that no part of one is left over */
    if (text[0]) outcome_text(o.detail, sizeof o.detail, str_c(text));
    return o;
}
