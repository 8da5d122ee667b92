/* The address guard: which addresses, CIDRs and forms of URL get through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/un.h>

#include "sinks/egress.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct sockaddr_storage address(const char *text, uint16_t port) {
    struct sockaddr_storage ss = {0};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
        memcpy(&ss, &in, sizeof in);
    else if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1)
        memcpy(&ss, &in6, sizeof in6);
    else
        fail_msg("the table holds %s", text);
    return ss;
}

static const char *decide(const struct egress *e, const char *text, uint16_t port) {
    struct sockaddr_storage ss = address(text, port);
    return egress_address(e, (const struct sockaddr *)&ss);
}

static void expect(const struct egress *e, const char *text, uint16_t port, const char *want) {
    const char *got = decide(e, text, port);
    if ((got == NULL) != (want == NULL) || (got && want && strcmp(got, want) != 0))
        fail_msg("%s port %u: %s, expected %s", text, port, got ? got : "allowed",
                 want ? want : "allowed");
}

static const struct address_case {
    const char *address;
    const char *why; /* NULL: allowed */
} addresses[] = {
    {"0.0.0.0", "this network"},
    {"0.0.0.1", "this network"},
    {"0.255.255.255", "this network"},
    {"1.0.0.0", NULL},
    {"1.1.1.1", NULL},
    {"8.8.8.8", NULL},
    {"9.255.255.255", NULL},
    {"10.0.0.0", "private"},
    {"10.1.2.3", "private"},
    {"10.255.255.255", "private"},
    {"11.0.0.0", NULL},
    {"100.63.255.255", NULL},
    {"100.64.0.0", "shared address space"},
    {"100.100.100.200", "shared address space"},
    {"100.127.255.255", "shared address space"},
    {"100.128.0.0", NULL},
    {"126.255.255.255", NULL},
    {"127.0.0.0", "loopback"},
    {"127.0.0.1", "loopback"},
    {"127.1.2.3", "loopback"},
    {"127.255.255.255", "loopback"},
    {"128.0.0.0", NULL},
    {"168.63.129.15", NULL},
    {"168.63.129.16", "cloud platform service"},
    {"168.63.129.17", NULL},
    {"169.253.255.255", NULL},
    {"169.254.0.0", "link-local"},
    {"169.254.169.254", "link-local"},
    {"169.254.170.2", "link-local"},
    {"169.254.255.255", "link-local"},
    {"169.255.0.0", NULL},
    {"172.15.255.255", NULL},
    {"172.16.0.0", "private"},
    {"172.17.0.1", "private"},
    {"172.31.255.255", "private"},
    {"172.32.0.0", NULL},
    {"191.255.255.255", NULL},
    {"192.0.0.0", "protocol assignments"},
    {"192.0.0.8", "protocol assignments"},
    {"192.0.0.192", "protocol assignments"},
    {"192.0.0.255", "protocol assignments"},
    {"192.0.1.0", NULL},
    {"192.0.2.0", "documentation"},
    {"192.0.2.255", "documentation"},
    {"192.0.3.0", NULL},
    {"192.31.195.255", NULL},
    {"192.31.196.1", "AS112"},
    {"192.31.197.0", NULL},
    {"192.52.193.1", "AMT"},
    {"192.88.98.255", NULL},
    {"192.88.99.0", "6to4 relay"},
    {"192.88.99.255", "6to4 relay"},
    {"192.88.100.0", NULL},
    {"192.167.255.255", NULL},
    {"192.168.0.0", "private"},
    {"192.168.1.1", "private"},
    {"192.168.255.255", "private"},
    {"192.169.0.0", NULL},
    {"192.175.48.1", "AS112"},
    {"198.17.255.255", NULL},
    {"198.18.0.0", "benchmarking"},
    {"198.19.255.255", "benchmarking"},
    {"198.20.0.0", NULL},
    {"198.51.99.255", NULL},
    {"198.51.100.0", "documentation"},
    {"198.51.100.255", "documentation"},
    {"198.51.101.0", NULL},
    {"203.0.112.255", NULL},
    {"203.0.113.0", "documentation"},
    {"203.0.113.255", "documentation"},
    {"203.0.114.0", NULL},
    {"223.255.255.255", NULL},
    {"224.0.0.0", "multicast"},
    {"224.0.0.251", "multicast"},
    {"239.255.255.255", "multicast"},
    {"240.0.0.0", "reserved"},
    {"255.255.255.254", "reserved"},
    {"255.255.255.255", "reserved"},
    {"::", "unspecified"},
    {"::1", "loopback"},
    {"::2", "IPv4-compatible"},
    {"::127.0.0.1", "IPv4-compatible"},
    {"::8.8.8.8", "IPv4-compatible"},
    {"::1:0:0:0", "not global unicast"},
    {"::ffff:0.0.0.0", "this network"},
    {"::ffff:127.0.0.1", "loopback"},
    {"::ffff:10.0.0.1", "private"},
    {"::ffff:169.254.169.254", "link-local"},
    {"::ffff:8.8.8.8", NULL},
    {"::ffff:0:127.0.0.1", "not global unicast"}, /* RFC 2765's translated form */
    {"64:ff9b::7f00:1", "loopback"},
    {"64:ff9b::a9fe:a9fe", "link-local"},
    {"64:ff9b::c0a8:101", "private"},
    {"64:ff9b::8.8.8.8", NULL},
    {"64:ff9b:0:0:0:1:8.8.8.8", "not global unicast"},
    {"64:ff9b:1::1", "local-use NAT64"},
    {"64:ff9b:1:ffff::8.8.8.8", "local-use NAT64"},
    {"64:ff9b:2::1", "not global unicast"},
    {"100::1", "discard-only"},
    {"100:0:0:1::1", "not global unicast"},
    {"2001::1", "this network"},
    {"2001:0:808:808:0:0:f7f7:f7f7", NULL},         /* Teredo 8.8.8.8, client 8.8.8.8 */
    {"2001:0:808:808:0:0:80ff:fffe", "loopback"},   /* client 127.0.0.1 */
    {"2001:0:7f00:1:0:0:f7f7:f7f7", "loopback"},    /* server 127.0.0.1 */
    {"2001:0:808:808:0:0:5601:5601", "link-local"}, /* client 169.254.169.254 */
    {"2001:1::1", "protocol assignments"},
    {"2001:2::1", "protocol assignments"},
    {"2001:10::1", "protocol assignments"},
    {"2001:20::1", "protocol assignments"},
    {"2001:1ff:ffff::1", "protocol assignments"},
    {"2001:200::1", NULL},
    {"2001:db7:ffff::1", NULL},
    {"2001:db8::1", "documentation"},
    {"2001:db8:ffff::1", "documentation"},
    {"2001:db9::1", NULL},
    {"2001:4860:4860::8888", NULL},
    {"2002:7f00:1::1", "loopback"},
    {"2002:a00:1::1", "private"},
    {"2002:a9fe:a9fe::1", "link-local"},
    {"2002:c0a8:101::", "private"},
    {"2002:808:808::1", NULL},
    {"2003::1", NULL},
    {"2606:4700:4700::1111", NULL},
    {"2620:4f:8000::1", "AS112"},
    {"3ffe::1", NULL},
    {"3fff::1", "documentation"},
    {"3fff:fff::1", "documentation"},
    {"3fff:1000::1", NULL},
    {"4000::1", "not global unicast"},
    {"5f00::1", "segment routing"},
    {"5f01::1", "not global unicast"},
    {"fbff::1", "not global unicast"},
    {"fc00::1", "unique local"},
    {"fd00:ec2::254", "unique local"},
    {"fd20:ce::254", "unique local"},
    {"fdff:ffff::1", "unique local"},
    {"fe00::1", "not global unicast"},
    {"fe80::1", "link-local"},
    {"fe80::5efe:7f00:1", "link-local"},
    {"febf::1", "link-local"},
    {"fec0::1", "site-local"},
    {"feff::1", "site-local"},
    {"ff00::1", "multicast"},
    {"ff02::1", "multicast"},
    {"ff0e::1", "multicast"},
    {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"},
};

static void test_addresses(void **state) {
    (void)state;
    const struct egress e = {0};
    for (size_t i = 0; i < COUNT(addresses); i++)
        expect(&e, addresses[i].address, 443, addresses[i].why);
}

static void test_family(void **state) {
    (void)state;
    const struct egress e = {0};
    const struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/run/docker.sock"};
    assert_string_equal(egress_address(&e, (const struct sockaddr *)&un),
                        "not an internet address");
}

static struct cidr cidr(const char *text) {
    struct cidr c;
    if (!cidr_parse(str_c(text), &c)) fail_msg("the table holds %s", text);
    return c;
}

static void test_lists(void **state) {
    (void)state;
    const struct cidr allow[] = {cidr("127.0.0.1"), cidr("10.0.0.0/8"), cidr("fd00::/8"),
                                 cidr("64:ff9b::/96")};
    const struct cidr deny[] = {cidr("10.66.0.0/16"), cidr("8.8.8.8/32"), cidr("2606:4700::/32")};
    const struct egress e = {
        .allow = allow, .n_allow = COUNT(allow), .deny = deny, .n_deny = COUNT(deny)};
    const char *denied = "denied by configuration";
    expect(&e, "127.0.0.1", 80, NULL);
    expect(&e, "::ffff:127.0.0.1", 80, NULL); /* the same packet */
    expect(&e, "127.0.0.2", 80, "loopback");
    expect(&e, "::1", 80, "loopback");
    expect(&e, "10.1.2.3", 80, NULL);
    expect(&e, "2002:a01:203::1", 80, "private"); /* allowed as itself only, not tunnelled */
    expect(&e, "10.66.0.1", 80, denied);
    expect(&e, "::ffff:10.66.0.1", 80, denied);
    expect(&e, "64:ff9b::10.66.0.1", 80, denied); /* deny also looks inside */
    expect(&e, "64:ff9b::10.1.2.3", 80, NULL);
    expect(&e, "8.8.8.8", 80, denied);
    expect(&e, "2002:808:808::1", 80, denied);
    expect(&e, "8.8.4.4", 80, NULL);
    expect(&e, "2606:4700:4700::1111", 80, denied);
    expect(&e, "fd12::1", 80, NULL);
    expect(&e, "fc12::1", 80, "unique local");
}

static void test_whole_families(void **state) {
    (void)state;
    const struct cidr six = cidr("::/0"), four = cidr("0.0.0.0/0");
    const struct egress no_six = {.deny = &six, .n_deny = 1};
    expect(&no_six, "2606:4700:4700::1111", 443, "denied by configuration");
    expect(&no_six, "1.1.1.1", 443, NULL);
    const struct egress no_four = {.deny = &four, .n_deny = 1};
    expect(&no_four, "1.1.1.1", 443, "denied by configuration");
    expect(&no_four, "2606:4700:4700::1111", 443, NULL);
}

static void test_ports(void **state) {
    (void)state;
    static const uint16_t ranges[][2] = {{80, 80}, {443, 443}, {1024, 65535}};
    const struct egress e = {.ports = ranges, .n_ports = COUNT(ranges)};
    static const struct {
        uint16_t port;
        bool allowed;
    } cases[] = {{0, false},   {22, false},   {79, false},  {80, true},   {81, false},  {443, true},
                 {444, false}, {1023, false}, {1024, true}, {6379, true}, {65535, true}};
    for (size_t i = 0; i < COUNT(cases); i++)
        expect(&e, "1.1.1.1", cases[i].port, cases[i].allowed ? NULL : "port not allowed");
    const struct egress any = {0};
    expect(&any, "1.1.1.1", 22, NULL);
    expect(&any, "1.1.1.1", 0, "port not allowed");
}

static void test_cidr_parse(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int bits; /* -1: refused */
    } cases[] = {{"10.0.0.0/8", 104},
                 {"10.0.0.1", 128},
                 {"0.0.0.0/0", 96},
                 {"255.255.255.255/32", 128},
                 {"::/0", 0},
                 {"::1", 128},
                 {"::1/128", 128},
                 {"fe80::/10", 10},
                 {"::ffff:10.0.0.0/104", 104},
                 {"10.0.0.1/8", -1},
                 {"fe80::1/10", -1},
                 {"10.0.0.0/33", -1},
                 {"::/129", -1},
                 {"::/999", -1},
                 {"10.0.0.0/", -1},
                 {"10.0.0.0/08", -1},
                 {"10.0.0.0/-1", -1},
                 {"10.0.0.0/ 8", -1},
                 {"10.0.0.0/8 ", -1},
                 {"10.0.0.0/8/8", -1},
                 {" 10.0.0.0/8", -1},
                 {"10.0.0/24", -1},
                 {"10/8", -1},
                 {"010.0.0.0/8", -1},
                 {"0x0a.0.0.0/8", -1},
                 {"fe80::1%eth0", -1},
                 {"[::1]", -1},
                 {"localhost", -1},
                 {"", -1},
                 {"/8", -1},
                 {"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", -1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cidr c = {.bits = -1};
        bool ok = cidr_parse(str_c(cases[i].text), &c);
        if (ok != (cases[i].bits >= 0) || c.bits != cases[i].bits)
            fail_msg("%s: %d, expected %d", cases[i].text, c.bits, cases[i].bits);
    }
}

/* What a URL comes to, as the engine does it: its form, then, for a host that a resolver takes for
 * an address, that address. */
static const char *url_verdict(const struct egress *e, const char *url) {
    static struct outcome o;
    if (!egress_url(e, url, true, &o)) {
        assert_int_equal(o.verdict, VERDICT_PERMANENT);
        assert_int_equal(o.fault, FAULT_TENANT);
        if (strlen(url) > 8) assert_null(strstr(o.detail, url)); /* never quoted */
        return o.why;
    }
    CURLU *u = curl_url();
    char *host = NULL, *port = NULL;
    assert_int_equal(curl_url_set(u, CURLUPART_URL, url, 0), CURLUE_OK);
    assert_int_equal(curl_url_get(u, CURLUPART_HOST, &host, 0), CURLUE_OK);
    assert_int_equal(curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT), CURLUE_OK);
    size_t n = strlen(host);
    char name[300];
    if (host[0] == '[')
        snprintf(name, sizeof name, "%.*s", (int)n - 2, host + 1);
    else
        snprintf(name, sizeof name, "%s", host);
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct addrinfo *ai = NULL;
    const char *verdict = NULL;
    if (getaddrinfo(name, port, &hints, &ai) == 0) {
        for (struct addrinfo *a = ai; a && !verdict; a = a->ai_next)
            if (egress_address(e, a->ai_addr)) verdict = "egress-denied";
        freeaddrinfo(ai);
    }
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return verdict;
}

#define BAD "invalid-url"
#define NO "egress-denied"
static const struct url_case {
    const char *url;
    const char *verdict; /* NULL: allowed, or a name left to the resolver */
} urls[] = {
    {"http://example.com", NULL},
    {"https://example.com/", NULL},
    {"HTTPS://EXAMPLE.com/a?b=c#d", NULL},
    {"https://example.com:8443/x", NULL},
    {"https://user:pass@example.com/", NULL},
    {"https://xn--bcher-kva.example/", NULL},
    {"https://a_b.example.com./", NULL},
    {"https://example.com?x=@127.0.0.1", NULL},
    {"https://example.com/@127.0.0.1", NULL},
    {"https://1.1.1.1/", NULL},
    {"https://[2606:4700:4700::1111]/", NULL},
    {"https://[2606:4700:4700::1111]:8443/", NULL},
    {"https://1.1.1.1.example.com/", NULL},
    {"https://127.0.0.1.nip.example/", NULL},
    {"https://localhost.example.com/", NULL},
    {"https://notlocalhost/", NULL},
    {"http://127.0.0.1/", NO},
    {"http://127.0.0.1:8080/", NO},
    {"http://127.1/", BAD},
    {"http://127.0.1/", BAD},
    {"http://127/", BAD},
    {"http://0/", BAD},
    {"http://0x7f000001/", BAD},
    {"http://0X7F.1/", BAD},
    {"http://0x7f.0.0.0x1/", BAD},
    {"http://0x/", BAD},
    {"http://2130706433/", BAD},
    {"http://017700000001/", BAD},
    {"http://0177.0.0.1/", BAD},
    {"http://127.0.0.01/", BAD},
    {"http://127.000.000.001/", BAD},
    {"http://00000127.0.0.1/", BAD},
    {"http://127.0.0.1./", BAD},
    {"http://127.0.0.1../", BAD},
    {"http://127.0.0.256/", BAD},
    {"http://1.2.3.4.5/", BAD},
    {"http://4294967297/", BAD},
    {"http://169.254.169.254/latest/meta-data/", NO},
    {"http://169.254.43518/", BAD},
    {"http://2852039166/", BAD},
    {"http://0.0.0.0/", NO},
    {"http://10.0.0.1/", NO},
    {"http://localhost/", NO},
    {"http://localhost:8080/", NO},
    {"http://LOCALHOST/", NO},
    {"http://localhost./", NO},
    {"http://a.localhost/", NO},
    {"http://a.b.localhost./", NO},
    {"http://[::1]/", NO},
    {"http://[::]/", NO},
    {"http://[0:0:0:0:0:0:0:1]/", NO},
    {"http://[::ffff:127.0.0.1]/", NO},
    {"http://[::ffff:7f00:1]/", NO},
    {"http://[::FFFF:169.254.169.254]/", NO},
    {"http://[::127.0.0.1]/", NO},
    {"http://[64:ff9b::169.254.169.254]/", NO},
    {"http://[2002:7f00:1::]/", NO},
    {"http://[fe80::1]/", NO},
    {"http://[fe80::1%25eth0]/", BAD},
    {"http://[fe80::1%eth0]/", BAD},
    {"http://[::1/", BAD},
    {"http://::1/", BAD},
    {"http://[]/", BAD},
    {"http://[127.0.0.1]/", BAD},
    {"http://[::1]x/", BAD},
    {"http://[::1]]/", BAD},
    {"http://[v1.x]/", BAD},
    {"http://good@127.0.0.1/", NO},
    {"http://good:pw@127.0.0.1/", NO},
    {"http://example.com@127.0.0.1/", NO},
    {"http://127.0.0.1@example.com/", NULL},
    {"http://example.com%40127.0.0.1/", BAD},
    {"http://a@b@127.0.0.1/", BAD},
    {"http://127.0.0.1\\@example.com/", BAD},
    {"http://example.com\\@127.0.0.1/", BAD},
    {"http:\\\\127.0.0.1/", BAD},
    {"http:\\/127.0.0.1/", BAD},
    {"http://example.com#@127.0.0.1/", NULL},
    {"http://127.0.0.1#@example.com/", NO},
    {"http://127.0.0.1?@example.com/", NO},
    {"http://%31%32%37.0.0.1/", BAD},
    {"http://127%2e0.0.1/", BAD},
    {"http://exa%00mple.com/", BAD},
    {"http://exam\tple.com/", BAD},
    {"http://exam\nple.com/", BAD},
    {"http://example.com/\r\nX: y", BAD},
    {" http://example.com/", BAD},
    {"http://example.com/ ", BAD},
    {"http://example.com/a b", BAD},
    {"http://example.com/\x01", BAD},
    {"http://example.com/\x7f", BAD},
    {"http://ex\xc3\xa4mple.com/", BAD},
    {"http://\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1/", BAD}, /* fullwidth 127 */
    {"http://127\xe3\x80\x82"
     "0.0.1/",
     BAD},                                                       /* ideographic full stop */
    {"http://\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1/", BAD}, /* circled digits */
    {"http://\xe2\x93\x9b"
     "ocalhost/",
     BAD},
    {"https://example.com/\xc3\xa4", BAD},
    {"http:///", BAD},
    {"http://", BAD},
    {"http:", BAD},
    {"http:/example.com/", BAD},
    {"http:///example.com/", BAD},
    {"http:////127.0.0.1/", BAD},
    {"http:example.com", BAD},
    {"//example.com/", BAD},
    {"/path", BAD},
    {"example.com", BAD},
    {"", BAD},
    {"http://:80/", BAD},
    {"http://@/", BAD},
    {"http://user@/", BAD},
    {"http://?x", BAD},
    {"http://#x", BAD},
    {"http://./", BAD},
    {"http://.example.com/", BAD},
    {"http://a..example.com/", BAD},
    {"http://example.com../", BAD},
    {"http://exam,ple.com/", BAD},
    {"http://exam;ple.com/", BAD},
    {"http://*.example.com/", BAD},
    {"http://example.com:/", BAD},
    {"http://example.com:0/", BAD},
    {"http://example.com:00/", BAD},
    {"http://example.com:65536/", BAD},
    {"http://example.com:99999/", BAD},
    {"http://example.com:4294967376/", BAD},
    {"http://example.com:-1/", BAD},
    {"http://example.com:+80/", BAD},
    {"http://example.com:80x/", BAD},
    {"http://example.com:80:80/", BAD},
    {"http://example.com:65535/", NULL},
    {"ftp://example.com/", BAD},
    {"file:///etc/passwd", BAD},
    {"gopher://127.0.0.1:6379/_x", BAD},
    {"unix:///run/x.sock", BAD},
    {"javascript:alert(1)", BAD},
    {"httpss://example.com/", BAD},
};

static void check_url(const struct egress *e, const char *url, const char *want) {
    const char *got = url_verdict(e, url);
    if ((got == NULL) != (want == NULL) || (got && want && strcmp(got, want) != 0))
        fail_msg("%s: %s, expected %s", url, got ? got : "allowed", want ? want : "allowed");
}

static void test_urls(void **state) {
    (void)state;
    const struct egress e = {.http = true};
    for (size_t i = 0; i < COUNT(urls); i++) check_url(&e, urls[i].url, urls[i].verdict);
}

static void test_long_host(void **state) {
    (void)state;
    const struct egress e = {.http = true};
    char url[300];
    snprintf(url, sizeof url, "http://a%0252d/", 0);
    check_url(&e, url, NULL);
    snprintf(url, sizeof url, "http://a%0253d/", 0);
    check_url(&e, url, BAD);
}

static void test_url_policy(void **state) {
    (void)state;
    static const uint16_t ranges[][2] = {{443, 443}, {8000, 8100}};
    const struct cidr allow[] = {cidr("127.0.0.1"), cidr("10.0.0.0/8")};
    const struct egress e = {
        .ports = ranges, .n_ports = COUNT(ranges), .allow = allow, .n_allow = COUNT(allow)};
    check_url(&e, "http://example.com/", NO);
    check_url(&e, "http://example.com:443/", NO);
    check_url(&e, "https://example.com/", NULL);
    check_url(&e, "https://example.com:444/", NO);
    check_url(&e, "https://example.com:8050/", NULL);
    check_url(&e, "https://127.0.0.1/", NULL);
    check_url(&e, "https://localhost/", NULL);
    check_url(&e, "https://127.0.0.2/", NO);
    check_url(&e, "https://10.2.3.4/", NULL);
    check_url(&e, "https://10.2.3.4:9200/", NO);
    check_url(&e, "https://0x7f000001/", BAD); /* allowed address or not */
}

static void test_userinfo(void **state) {
    (void)state;
    const struct egress e = {0};
    struct outcome o = {.status = 7};
    assert_true(egress_url(&e, "https://user:pw@example.com/", true, &o));
    assert_int_equal(o.status, 7); /* untouched on success */
    assert_false(egress_url(&e, "https://user:pw@example.com/", false, &o));
    assert_string_equal(o.why, "invalid-url");
    assert_false(egress_url(&e, "https://@example.com/", false, &o));
    assert_string_equal(o.why, "invalid-url");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses), cmocka_unit_test(test_family),
        cmocka_unit_test(test_lists),     cmocka_unit_test(test_whole_families),
        cmocka_unit_test(test_ports),     cmocka_unit_test(test_cidr_parse),
        cmocka_unit_test(test_urls),      cmocka_unit_test(test_url_policy),
        cmocka_unit_test(test_userinfo),  cmocka_unit_test(test_long_host),
    };
    return cmocka_run_group_tests_name("egress", tests, NULL, NULL);
}
