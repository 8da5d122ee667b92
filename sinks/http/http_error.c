#include "sinks/http/http_error.h"

#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/log.h"

/* What a tenant names, or its server does, decides nothing but FAULT_TENANT: neither wakes anybody.
 * FAULT_SYSTEM is left for what goes wrong before the tenant has a say. Whether many have the same
 * trouble, so that it is on this side after all, is for the alerts to see. */

#define RETRY_AFTER_MAX_S 3600

/* Codes that mean one thing whatever else happened. text: libcurl's words add something. */
static const struct meaning {
    CURLcode code;
    enum verdict verdict;
    enum fault fault;
    const char *why;
    const char *detail;
    bool text;
} meanings[] = {
    {CURLE_URL_MALFORMAT, VERDICT_PERMANENT, FAULT_TENANT, "invalid-url", "the URL is malformed"},
    {CURLE_LOGIN_DENIED, VERDICT_PERMANENT, FAULT_TENANT, "invalid-url",
     "the URL holds a user name"},
    {CURLE_PROXY, VERDICT_RETRY, FAULT_SYSTEM, "proxy", "the handshake with the proxy failed"},
    {CURLE_SSL_CONNECT_ERROR, VERDICT_RETRY, FAULT_TENANT, "tls-handshake",
     "the TLS handshake failed", true},
    {CURLE_SSL_CERTPROBLEM, VERDICT_RETRY, FAULT_SYSTEM, "client-certificate",
     "http.client_cert or http.client_key cannot be used"},
    {CURLE_SSL_CACERT_BADFILE, VERDICT_RETRY, FAULT_SYSTEM, "ca-bundle",
     "the CA bundle (http.ca_bundle, or the system's) cannot be read"},
    {CURLE_GOT_NOTHING, VERDICT_RETRY, FAULT_TENANT, "no-answer",
     "the connection was closed without an answer"},
    {CURLE_SEND_ERROR, VERDICT_RETRY, FAULT_TENANT, "reset", "the connection broke", true},
    {CURLE_RECV_ERROR, VERDICT_RETRY, FAULT_TENANT, "reset", "the connection broke", true},
    {CURLE_PARTIAL_FILE, VERDICT_RETRY, FAULT_TENANT, "truncated",
     "the answer ended before its announced end"},
    {CURLE_WEIRD_SERVER_REPLY, VERDICT_RETRY, FAULT_TENANT, "http-malformed",
     "the answer is not valid HTTP"},
    {CURLE_UNSUPPORTED_PROTOCOL, VERDICT_RETRY, FAULT_TENANT, "http-malformed",
     "the answer is not HTTP/1.0 or later"},
    {CURLE_HTTP2, VERDICT_RETRY, FAULT_TENANT, "http2", "the HTTP/2 connection failed"},
    {CURLE_HTTP2_STREAM, VERDICT_RETRY, FAULT_TENANT, "http2", "the HTTP/2 stream was ended"},
    {CURLE_OUT_OF_MEMORY, VERDICT_RETRY, FAULT_SYSTEM, "out-of-memory",
     "libcurl could not get memory"},
};

/* Of libcurl's words, those of OpenSSL and the system, by their own tables: the rest quotes what a
 * tenant or its server chose. Empty when there are none. */
static const char *known_words(const char *text) {
    static const int numbers[] = {ECONNRESET, EPIPE, ETIMEDOUT, ECONNABORTED, EHOSTUNREACH};
    const char *code = strstr(text, "error:");
    const char *reason = code ? ERR_reason_error_string(strtoul(code + 6, NULL, 16)) : NULL;
    for (size_t i = 0; !reason && i < sizeof numbers / sizeof *numbers; i++)
        if (strstr(text, strerror(numbers[i]))) reason = strerror(numbers[i]);
    return reason ? reason : "";
}

static struct outcome with_text(enum verdict verdict, enum fault fault, const char *why,
                                const char *detail, const char *text) {
    const char *words = known_words(text);
    return outcome_fail(verdict, fault, why, words[0] ? "%s: %s" : "%s", detail, words);
}

/* No socket came to be connected. */
static struct outcome connect_failure(const struct http_failure *f) {
    /* Those say that there is no way to such an address (no IPv6, mostly), and the tenant chose it.
     */
    bool foreign = f->socket_errno == EAFNOSUPPORT || f->socket_errno == EPROTONOSUPPORT;
    if (f->socket_errno && !f->opened && !foreign)
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "no-socket",
                            "no socket could be opened: %s", strerror(f->socket_errno));
    if (f->proxied)
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "proxy-connect",
                            "no connection to the egress proxy");
    if (foreign && !f->opened)
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "unreachable",
                            "this machine has no network of the address's kind");
    switch (f->os_errno) {
    case EADDRNOTAVAIL: /* no IPv6 address of ours for one; or all ports to this place are in use */
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "unreachable",
                            "no local address or port for a connection to it");
    case ECONNREFUSED:
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "refused", "the connection was refused");
    case ETIMEDOUT:
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "timeout-connect",
                            "no connection before the system gave up");
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EAFNOSUPPORT:
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "unreachable", "no route to the address");
    default:
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "connect", "no connection: %s",
                            f->os_errno ? strerror((int)f->os_errno) : "no usable address");
    }
}

static struct outcome timed_out(const struct http_failure *f) {
    if (f->sent)
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "timeout", "%s",
                            f->answered ? "the answer took too long" : "no answer in time");
    /* The proxy may be waiting for a tenant's host that is silent. */
    if (f->proxied)
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "proxy-timeout",
                            "no connection through the egress proxy in time");
    if (!f->opened) return http_no_address(EAI_INPROGRESS, f->host, false);
    return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "timeout-connect",
                        "no connection in time (http.connect_timeout)");
}

/* The proxy answered our CONNECT by a refusal. */
static struct outcome proxy_refusal(long status) {
    char why[32];
    snprintf(why, sizeof why, "proxy-%ld", status);
    if (status == 403)
        return outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "egress-denied",
                            "the egress proxy refuses this address");
    return outcome_fail(VERDICT_RETRY, status == 407 ? FAULT_SYSTEM : FAULT_TENANT, why,
                        "the egress proxy answered CONNECT with %ld", status);
}

/* The host's name, for people. Scrubbed before it is cut. */
struct shown_host {
    char text[256];
};

static struct shown_host shown(struct str host) {
    struct shown_host s;
    outcome_text(s.text, sizeof s.text, host);
    secret_scrub(s.text, strlen(s.text));
    if (strlen(s.text) > 80) memcpy(s.text + 77, "...", 4);
    return s;
}

static struct outcome bad_certificate(const struct http_failure *f) {
    struct shown_host host = shown(f->host);
    /* libcurl compares the names itself, once the chain has been found good. Then, by version, it
     * tells of no error or of one without a name. */
    if (f->verify == X509_V_OK || f->verify == X509_V_ERR_UNSPECIFIED)
        return outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "tls-certificate",
                            "the server's certificate is not for %s (or could not be checked)",
                            host.text);
    return outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "tls-certificate",
                        "the server's certificate is not trusted: %s",
                        X509_verify_cert_error_string(f->verify));
}

struct outcome http_no_address(int code, struct str host, bool proxied) {
    struct shown_host name = shown(host);
    struct outcome o;
    switch (code) {
    case EAI_CANCELED:
        o = outcome_fail(VERDICT_RETRY, FAULT_NONE, "resolver-busy",
                         "too many names are being looked up (resolver.threads)");
        o.uncounted = true;
        return o;
    case EAI_MEMORY:
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "no-resolver",
                            "no thread, memory or file was left to look up a name");
    default:
        break;
    }
    const char *what = code == EAI_NONAME || code == EAI_NODATA ? "does not exist"
                       : code == EAI_INPROGRESS                 ? "was not resolved in time"
                                                                : "could not be resolved";
    if (proxied)
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "proxy-dns", "the egress proxy's name %s",
                            what);
    return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "dns", "the host %s %s", name.text, what);
}

/* libcurl's own limit on a header line: told as memory running out by older versions. */
static bool line_too_long(const struct http_failure *f) {
#if LIBCURL_VERSION_NUM >= 0x080600
    if (f->code == CURLE_TOO_LARGE) return true;
#endif
    return f->code == CURLE_OUT_OF_MEMORY && f->sent;
}

struct outcome http_error(const struct http_failure *f) {
    if (f->denied && (!f->opened || f->code == CURLE_ABORTED_BY_CALLBACK))
        return outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "egress-denied",
                            "the host's address is refused: %s", f->denied);
    if (f->headers_too_large || line_too_long(f))
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "answer-headers-too-large",
                            "the answer's headers are too many or too large");
    if (f->proxied && f->proxy_status >= 300) return proxy_refusal(f->proxy_status);
    if (f->code == CURLE_COULDNT_RESOLVE_HOST || f->code == CURLE_COULDNT_RESOLVE_PROXY)
        return http_no_address(EAI_AGAIN, f->host, f->proxied);
    if (f->code == CURLE_COULDNT_CONNECT) return connect_failure(f);
    if (f->code == CURLE_OPERATION_TIMEDOUT) return timed_out(f);
    if (f->code == CURLE_PEER_FAILED_VERIFICATION) return bad_certificate(f);
    if (f->code == CURLE_ABORTED_BY_CALLBACK)
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "reset",
                            "the connection was gone before the request");
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++) {
        const struct meaning *m = &meanings[i];
        if (m->code == f->code && !(f->code == CURLE_OUT_OF_MEMORY && f->opened))
            return with_text(m->verdict, m->fault, m->why, m->detail, m->text ? f->text : "");
    }
    /* What libcurl's parsers make of an answer that they can't read is told in many codes: 43 is a
     * folded line that follows none. */
    if (f->answered)
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "http-malformed",
                            "the answer is not valid HTTP: %s", curl_easy_strerror(f->code));
    char why[16];
    snprintf(why, sizeof why, "curl-%d", (int)f->code);
    return with_text(VERDICT_RETRY, FAULT_TENANT, why, curl_easy_strerror(f->code), "");
}

uint32_t http_retry_after(struct str value, int64_t now_s) {
    char text[64];
    if (value.n == 0 || value.n >= sizeof text) return 0;
    memcpy(text, value.p, value.n);
    text[value.n] = '\0';
    int64_t s = 0;
    if (strspn(text, "0123456789") == value.n) {
        for (size_t i = 0; i < value.n && s <= RETRY_AFTER_MAX_S; i++) s = s * 10 + (text[i] - '0');
    } else if (text[0] >= 'A' && text[0] <= 'Z') { /* every HTTP-date starts with a day's name */
        s = (int64_t)curl_getdate(text, NULL) - now_s;
    }
    if (s <= 0) return 0;
    return (uint32_t)(s < RETRY_AFTER_MAX_S ? s : RETRY_AFTER_MAX_S) * 1000;
}
