/* The address guard (promise P8): decides, on the resolved address at the moment a socket is
 * opened, whether an address that an event chose may be reached. Pure apart from egress_url(),
 * which needs curl's URL parser. Any thread. */
#ifndef RUNSINK_EGRESS_H
#define RUNSINK_EGRESS_H

#include <sys/socket.h>

#include "worker/base/outcome.h"

struct cidr {
    uint8_t addr[16]; /* IPv4 as ::ffff:a.b.c.d */
    int bits;         /* of 128 */
};

bool cidr_parse(struct str text, struct cidr *ret); /* "10.0.0.0/8", "::1/128", a bare address */

struct egress {
    const struct cidr *allow; /* wins over the built-in denials */
    size_t n_allow;
    const struct cidr *deny; /* wins over everything */
    size_t n_deny;
    bool http;                  /* plain http allowed */
    const uint16_t (*ports)[2]; /* allowed ranges, inclusive; none: all but 0 */
    size_t n_ports;
};

/* NULL when allowed; else why not, a static phrase ("loopback", "link-local", "denied by
 * configuration", ...). */
const char *egress_address(const struct egress *, const struct sockaddr *);

/* Checks a URL's form (scheme, userinfo allowed or not, host, port) and returns true, or fills
 * reterr (FAULT_TENANT, PERMANENT, the value not quoted). Does not resolve. */
bool egress_url(const struct egress *, const char *url, bool allow_userinfo,
                struct outcome *reterr);

#endif
