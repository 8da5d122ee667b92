#include "worker/base/cidr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped_prefix[12] = {[10] = 0xff, 0xff};

bool address_same(const uint8_t *a, const uint8_t *b, int bits) {
    size_t whole = (size_t)bits / 8;
    if (memcmp(a, b, whole) != 0) return false;
    int rest = bits % 8;
    return rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0;
}

void address_mapped(const void *ipv4, uint8_t ret[ADDRESS_LEN]) {
    memcpy(ret, mapped_prefix, 12);
    memcpy(ret + 12, ipv4, 4);
}

bool address_of(const struct sockaddr *sa, uint8_t ret[ADDRESS_LEN]) {
    if (sa->sa_family == AF_INET)
        address_mapped(&((const struct sockaddr_in *)(const void *)sa)->sin_addr, ret);
    else if (sa->sa_family == AF_INET6)
        memcpy(ret, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, ADDRESS_LEN);
    else
        return false;
    return true;
}

bool address_is_mapped(const uint8_t address[ADDRESS_LEN]) {
    return memcmp(address, mapped_prefix, 12) == 0;
}

bool cidr_parse(struct str text, struct cidr *ret) {
    char copy[64];
    if (text.n == 0 || text.n >= sizeof copy || memchr(text.p, '\0', text.n)) return false;
    memcpy(copy, text.p, text.n);
    copy[text.n] = '\0';
    struct cidr c = {.bits = 128};
    int base = 0;
    char *slash = strchr(copy, '/');
    if (slash) *slash = '\0';
    uint8_t four[4];
    if (inet_pton(AF_INET, copy, four) == 1) {
        address_mapped(four, c.addr);
        base = 96;
    } else if (inet_pton(AF_INET6, copy, c.addr) != 1) {
        return false;
    }
    if (slash) {
        const char *digits = slash + 1;
        size_t n = strspn(digits, "0123456789");
        if (n == 0 || n > 3 || digits[n] || (n > 1 && digits[0] == '0')) return false;
        c.bits = base + (int)strtol(digits, NULL, 10);
        if (c.bits > 128) return false;
    }
    /* A host bit that is set means that somebody meant another network: not guessed at. */
    for (int i = c.bits; i < 128; i++)
        if (c.addr[i / 8] >> (7 - i % 8) & 1) return false;
    *ret = c;
    return true;
}

bool cidr_holds(const struct cidr *c, const uint8_t address[ADDRESS_LEN]) {
    if (c->bits < 96 && address_is_mapped(address)) return false;
    return address_same(address, c->addr, c->bits);
}
