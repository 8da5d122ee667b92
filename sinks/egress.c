#include "sinks/egress.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "worker/base/buf.h"

/* The IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates), read as
 * "nothing here is a tenant's public server". */
static const struct block4 {
    uint32_t net;
    int bits;
    const char *why;
} blocks4[] = {
    {0x00000000, 8, "this network"},
    {0x0a000000, 8, "private"},
    {0x64400000, 10, "shared address space"}, /* CGNAT; holds one cloud's metadata service */
    {0x7f000000, 8, "loopback"},
    {0xa83f8110, 32, "cloud platform service"}, /* 168.63.129.16: Azure's, on every machine there */
    {0xa9fe0000, 16, "link-local"},             /* the other clouds' metadata services */
    {0xac100000, 12, "private"},
    {0xc0000000, 24, "protocol assignments"},
    {0xc0000200, 24, "documentation"},
    {0xc01fc400, 24, "AS112"},
    {0xc034c100, 24, "AMT"},
    {0xc0586300, 24, "6to4 relay"},
    {0xc0a80000, 16, "private"},
    {0xc0af3000, 24, "AS112"},
    {0xc6120000, 15, "benchmarking"},
    {0xc6336400, 24, "documentation"},
    {0xcb007100, 24, "documentation"},
    {0xe0000000, 4, "multicast"},
    {0xf0000000, 4, "reserved"}, /* broadcast included */
};

static const struct block6 {
    uint8_t net[16];
    int bits;
    const char *why;
} blocks6[] = {
    {{0}, 128, "unspecified"},
    {{[15] = 1}, 128, "loopback"},
    {{0}, 96, "IPv4-compatible"},
    /* RFC 8215 leaves open where the IPv4 address stands in it, so all of it is refused. */
    {{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}, 48, "local-use NAT64"},
    {{0x01, 0x00}, 64, "discard-only"},
    {{0x20, 0x01}, 23, "protocol assignments"}, /* ORCHID, benchmarking, DRIP, ... */
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "documentation"},
    {{0x26, 0x20, 0x00, 0x4f, 0x80, 0x00}, 48, "AS112"},
    {{0x3f, 0xff}, 20, "documentation"},
    {{0x5f, 0x00}, 16, "segment routing"},
    {{0xfc, 0x00}, 7, "unique local"},
    {{0xfe, 0x80}, 10, "link-local"},
    {{0xfe, 0xc0}, 10, "site-local"},
    {{0xff, 0x00}, 8, "multicast"},
};

static const uint8_t global_unicast[1] = {0x20}; /* 2000::/3 */
static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
static const uint8_t six_to_four[2] = {0x20, 0x02};
static const uint8_t teredo[4] = {0x20, 0x01};

static bool listed(const struct cidr *list, size_t n, const uint8_t a[16]) {
    for (size_t i = 0; i < n; i++)
        if (cidr_holds(&list[i], a)) return true;
    return false;
}

/* IPv4 addresses that a packet to this IPv6 address may come out at, each mapped; returns how
 * many. RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo: the server, and the client with its
 * bits flipped). */
static size_t embedded(const uint8_t a[16], uint8_t ret[2][16]) {
    if (address_same(a, nat64, 96)) {
        address_mapped(a + 12, ret[0]);
        return 1;
    }
    if (address_same(a, six_to_four, 16)) {
        address_mapped(a + 2, ret[0]);
        return 1;
    }
    if (address_same(a, teredo, 32)) {
        address_mapped(a + 4, ret[0]);
        address_mapped(a + 12, ret[1]);
        for (size_t i = 12; i < 16; i++) ret[1][i] ^= 0xff;
        return 2;
    }
    return 0;
}

static const char *special4(const uint8_t a[16]) {
    for (size_t i = 0; i < sizeof blocks4 / sizeof *blocks4; i++) {
        uint32_t net = htonl(blocks4[i].net);
        if (address_same(a + 12, (const uint8_t *)&net, blocks4[i].bits)) return blocks4[i].why;
    }
    return NULL;
}

static const char *special(const uint8_t a[16]) {
    if (address_is_mapped(a)) return special4(a);
    uint8_t inner[2][16];
    size_t n = embedded(a, inner);
    for (size_t i = 0; i < n; i++) {
        const char *why = special4(inner[i]);
        if (why) return why;
    }
    if (n) return NULL;
    for (size_t i = 0; i < sizeof blocks6 / sizeof *blocks6; i++)
        if (address_same(a, blocks6[i].net, blocks6[i].bits)) return blocks6[i].why;
    return address_same(a, global_unicast, 3) ? NULL : "not global unicast";
}

static bool port_allowed(const struct egress *e, uint16_t port) {
    if (port == 0) return false;
    for (size_t i = 0; i < e->n_ports; i++)
        if (port >= e->ports[i][0] && port <= e->ports[i][1]) return true;
    return e->n_ports == 0;
}

const char *egress_bytes(const struct egress *e, const uint8_t a[ADDRESS_LEN], uint16_t port) {
    if (!port_allowed(e, port)) return "port not allowed";
    uint8_t inner[2][16];
    size_t n = embedded(a, inner);
    bool denied = listed(e->deny, e->n_deny, a);
    for (size_t i = 0; i < n; i++) denied = denied || listed(e->deny, e->n_deny, inner[i]);
    if (denied) return "denied by configuration";
    return listed(e->allow, e->n_allow, a) ? NULL : special(a);
}

const char *egress_address(const struct egress *e, const struct sockaddr *sa) {
    uint8_t a[ADDRESS_LEN];
    if (!address_of(sa, a)) return "not an internet address";
    /* The port stands at the same place in both families. */
    return egress_bytes(e, a, ntohs(((const struct sockaddr_in *)(const void *)sa)->sin_port));
}

/* A URL's authority, taken apart by rules stricter than any client's, so that no two parsers can
 * read it differently (RFC 3986 section 3.2). */
struct authority {
    bool https;
    struct str host; /* brackets off */
    bool bracketed;
    bool userinfo;
    uint16_t port; /* the scheme's when none is written */
};

static bool parse_port(struct str s, uint16_t *ret) {
    unsigned v = 0;
    if (s.n == 0 || s.n > 5) return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') return false;
        v = v * 10 + (unsigned)(s.p[i] - '0');
    }
    if (v == 0 || v > UINT16_MAX) return false;
    *ret = (uint16_t)v;
    return true;
}

/* Each returns NULL or what is wrong, a static phrase. */
static const char *split_host(struct str rest, struct authority *a) {
    const char *end;
    if (rest.n && rest.p[0] == '[') {
        const char *close = memchr(rest.p, ']', rest.n);
        if (!close) return "the host's bracket is not closed";
        a->bracketed = true;
        a->host = (struct str){rest.p + 1, (size_t)(close - rest.p) - 1};
        end = close + 1;
    } else {
        const char *colon = memchr(rest.p, ':', rest.n);
        end = colon ? colon : rest.p + rest.n;
        a->host = (struct str){rest.p, (size_t)(end - rest.p)};
    }
    if (a->host.n == 0) return "the host is missing";
    size_t left = (size_t)(rest.p + rest.n - end);
    if (left == 0) return NULL;
    if (*end != ':' || !parse_port((struct str){end + 1, left - 1}, &a->port))
        return "the port is not a number from 1 to 65535";
    return NULL;
}

static const char *split_url(struct str url, struct authority *a) {
    for (size_t i = 0; i < url.n; i++) {
        unsigned char c = (unsigned char)url.p[i];
        if (c <= ' ' || c >= 0x7f || c == '\\')
            return "it holds a character that must be percent-encoded (or, in the host, punycode)";
    }
    a->https = url.n >= 8 && strncasecmp(url.p, "https://", 8) == 0;
    if (!a->https && (url.n < 7 || strncasecmp(url.p, "http://", 7) != 0))
        return "it does not start with https:// or http://";
    a->port = a->https ? 443 : 80;
    size_t start = a->https ? 8 : 7;
    struct str rest = {url.p + start, 0};
    while (start + rest.n < url.n && !strchr("/?#", rest.p[rest.n])) rest.n++;
    const char *at = memchr(rest.p, '@', rest.n);
    if (at) {
        a->userinfo = true;
        size_t n = (size_t)(at - rest.p) + 1;
        rest = (struct str){rest.p + n, rest.n - n};
    }
    return split_host(rest, a);
}

static bool is_number(struct str label) {
    if (label.n == 0) return false;
    size_t i = label.n > 1 && label.p[0] == '0' && (label.p[1] | 0x20) == 'x' ? 2 : 0;
    const char *digits = i ? "0123456789abcdefABCDEF" : "0123456789";
    for (; i < label.n; i++)
        if (!strchr(digits, label.p[i])) return false;
    return true;
}

static const char *check_name(struct str host) {
    if (host.n > 253) return "the host is too long";
    size_t start = 0;
    for (size_t i = 0; i <= host.n; i++) {
        if (i < host.n && host.p[i] != '.') {
            char c = host.p[i];
            if (!char_is_alnum(c) && c != '-' && c != '_')
                return "the host holds a character that no host name has";
            continue;
        }
        bool root_dot = i == host.n && i > 0 && start == host.n;
        if (i == start && !root_dot) return "the host has an empty label";
        bool last = i == host.n || i + 1 == host.n;
        /* What resolvers take for an IPv4 address although it is not written as one: 127.1,
         * 0x7f000001, 2130706433, 0177.0.0.1, 127.0.0.1. and their like. */
        if (last && is_number((struct str){host.p + start, i - start}))
            return "the host is a number that is not a plain IPv4 address";
        start = i + 1;
    }
    return NULL;
}

/* The host as an address, when it is written as one. */
static bool literal_address(const struct authority *a, uint8_t ret[ADDRESS_LEN]) {
    char text[INET6_ADDRSTRLEN];
    uint8_t four[4];
    if (a->host.n >= sizeof text) return false;
    memcpy(text, a->host.p, a->host.n);
    text[a->host.n] = '\0';
    if (a->bracketed) return inet_pton(AF_INET6, text, ret) == 1;
    if (inet_pton(AF_INET, text, four) != 1) return false;
    address_mapped(four, ret);
    return true;
}

bool egress_is_localhost(struct str host) {
    if (host.n && host.p[host.n - 1] == '.') host.n--;
    const size_t n = 9;
    if (host.n < n || strncasecmp(host.p + host.n - n, "localhost", n) != 0) return false;
    return host.n == n || host.p[host.n - n - 1] == '.';
}

/* Whether the parser that will be used reads the same host. (A host in brackets is an address that
 * inet_pton() has read already.) */
static bool curl_agrees(const char *url, const struct authority *a) {
    CURLU *u = curl_url();
    if (!u) abort();
    char *host = NULL;
    bool same = curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK;
    same = same && (a->bracketed ? host[0] == '['
                                 : strlen(host) == a->host.n &&
                                       strncasecmp(host, a->host.p, a->host.n) == 0);
    curl_free(host);
    curl_url_cleanup(u);
    return same;
}

static bool refuse(struct outcome *reterr, const char *why, const char *phrase) {
    *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, why, "the URL is refused: %s", phrase);
    return false;
}

bool egress_url(const struct egress *e, const char *url, bool allow_userinfo,
                struct outcome *reterr) {
    struct authority a = {0};
    const char *wrong = split_url(str_c(url), &a);
    if (wrong) return refuse(reterr, "invalid-url", wrong);
    static const uint8_t v4[ADDRESS_LEN] = {[10] = 0xff, 0xff, 127, [15] = 1};
    static const uint8_t v6[ADDRESS_LEN] = {[15] = 1};
    uint8_t address[ADDRESS_LEN];
    bool literal = literal_address(&a, address);
    if (!literal)
        wrong = a.bracketed ? "the host in brackets is not an IPv6 address" : check_name(a.host);
    if (!wrong && a.userinfo && !allow_userinfo) wrong = "it holds a user name";
    if (!wrong && !curl_agrees(url, &a)) wrong = "it is malformed";
    if (wrong) return refuse(reterr, "invalid-url", wrong);

    if (!a.https && !e->http)
        return refuse(reterr, "egress-denied", "plain http is not allowed (egress.http)");
    if (!port_allowed(e, a.port))
        return refuse(reterr, "egress-denied", "its port is not allowed (egress.ports)");
    if (literal)
        wrong = egress_bytes(e, address, a.port);
    else if (egress_is_localhost(a.host) && (wrong = egress_bytes(e, v4, a.port)))
        wrong = egress_bytes(e, v6, a.port);
    return wrong ? refuse(reterr, "egress-denied", wrong) : true;
}
