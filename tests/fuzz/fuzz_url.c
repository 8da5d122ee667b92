/* Any URL that the guard lets through means the same to curl, and names no address that the guard
 * would refuse. */
#include <curl/curl.h>
#include <netdb.h>
#include <stdlib.h>

#include "sinks/egress.h"
#include "worker/base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok) {
    if (!ok) abort();
}

static void check_host(const struct egress *e, const char *host, const char *port) {
    char *name = xstrdup(host[0] == '[' ? host + 1 : host);
    if (host[0] == '[') name[strlen(name) - 1] = '\0';
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct addrinfo *ai = NULL;
    if (getaddrinfo(name, port, &hints, &ai) == 0) {
        for (struct addrinfo *a = ai; a; a = a->ai_next) must(!egress_address(e, a->ai_addr));
        freeaddrinfo(ai);
    }
    free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const struct egress e = {.http = true};
    char *url = xmalloc(n + 1);
    if (n) memcpy(url, data, n);
    url[n] = '\0';
    struct outcome o;
    if (egress_url(&e, url, true, &o)) {
        for (const char *p = url; *p; p++) must(*p > ' ' && *p < 0x7f);
        CURLU *u = curl_url();
        char *host = NULL, *port = NULL, *scheme = NULL;
        must(u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK);
        must(curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK);
        must(curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK);
        must(curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK);
        must(strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
        check_host(&e, host, port);
        curl_free(host);
        curl_free(port);
        curl_free(scheme);
        curl_url_cleanup(u);
    } else {
        must(o.verdict == VERDICT_PERMANENT && o.fault == FAULT_TENANT && o.why[0]);
    }
    struct cidr c;
    if (cidr_parse((struct str){(const char *)data, n}, &c)) must(c.bits >= 0 && c.bits <= 128);
    free(url);
    return 0;
}
