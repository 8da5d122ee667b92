/* IP addresses and networks as bytes: IPv4 is kept as ::ffff:a.b.c.d, so that one comparison serves
 * both. Pure; any thread. */
#ifndef RUNSINK_CIDR_H
#define RUNSINK_CIDR_H

#include <stdint.h>
#include <sys/socket.h>

#include "worker/base/str.h"

#define ADDRESS_LEN 16

struct cidr {
    uint8_t addr[ADDRESS_LEN];
    int bits; /* of 128 */
};

/* "10.0.0.0/8", "::1/128", a bare address. False, ret untouched, for anything else. */
bool cidr_parse(struct str text, struct cidr *ret);
/* ::/0 means IPv6, and holds no IPv4 address. */
bool cidr_holds(const struct cidr *, const uint8_t address[ADDRESS_LEN]);

bool address_same(const uint8_t *a, const uint8_t *b, int bits); /* their first bits */
void address_mapped(const void *ipv4, uint8_t ret[ADDRESS_LEN]);
/* False, ret untouched, for another family's. */
bool address_of(const struct sockaddr *, uint8_t ret[ADDRESS_LEN]);
bool address_is_mapped(const uint8_t address[ADDRESS_LEN]);

#endif
