/* The address guard (promise P8): decides, on the resolved address at the moment a socket is
 * opened, whether an address that an event chose may be reached. Pure apart from egress_url(),
 * which needs curl's URL parser. Any thread. */
#ifndef RUNSINK_EGRESS_H
#define RUNSINK_EGRESS_H

#include <sys/socket.h>

#include "config/config.h"
#include "worker/base/outcome.h"

/* NULL when allowed; else why not, a static phrase ("loopback", "link-local", "denied by
 * configuration", ...). */
const char *egress_address(const struct egress *, const struct sockaddr *);
const char *egress_bytes(const struct egress *, const uint8_t address[ADDRESS_LEN], uint16_t port);
/* Whether the name is localhost, or below it: resolved to loopback without asking anybody. */
bool egress_is_localhost(struct str host);

/* Checks a URL's form (scheme, userinfo allowed or not, host, port) and returns true, or fills
 * reterr (FAULT_TENANT, PERMANENT, the value not quoted). Does not resolve. */
bool egress_url(const struct egress *, const char *url, bool allow_userinfo,
                struct outcome *reterr);

#endif
