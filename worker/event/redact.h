/* Writing a payload with its secrets replaced. Pure; any thread. */
#ifndef RUNSINK_REDACT_H
#define RUNSINK_REDACT_H

#include "worker/base/buf.h"
#include "worker/event/jobrun.h"

/* Bytes that redact_add() will append for this payload. */
size_t redact_size(const struct payload *);
/* Appends the payload with each edit's span replaced by [REDACTED]; every other byte is the
 * producer's. */
bool redact_add(struct buf *, const struct payload *);
/* The same as one line for NDJSON, newline included: line breaks between tokens become spaces (the
 * same length, the same JSON value), nothing else differs. */
bool redact_add_line(struct buf *, const struct payload *);

/* The secret parts of a URL, one after another and ascending: its userinfo, then each value of its
 * query, or its fragment. Where the text leaves doubt, more of it is secret, not less:
 * - host or port are not well-formed (RFC 3986): all that follows the scheme;
 * - a piece of the query has no value: the whole piece, since it may be a bare token;
 * - a fragment follows a query: it belongs to the query's last value;
 * - the query has more than URL_QUERY_PIECES pieces: all the rest at once.
 * A URL in the path is taken apart as well: the text may be a list of several, and a proxy's path
 * is another URL. Text without a scheme begins with the authority ("user:pw@host:8080"). */
#define URL_QUERY_PIECES 64
struct url_secrets {
    struct str url;
    struct edit first; /* userinfo, or all of a malformed URL; n 0: none, or it was handed over */
    bool userinfo;     /* first, or what was handed over last, is userinfo */
    size_t rest;       /* where the path ends; 0: not looked for yet */
    size_t next;       /* where a URL in the path begins; url.n: there is none */
    size_t query;      /* where the rest of the query starts; url.n: nothing is left */
    unsigned pieces;
};
void url_secrets_begin(struct url_secrets *, struct str url);
bool url_secrets_next(struct url_secrets *, struct edit *ret); /* n is never 0 */
/* What a URL's scheme may hold here: an underscore, too. */
bool url_scheme_char(char);

/* What of a header's value is a secret by itself, wherever it turns up: the whole, what follows its
 * scheme, its last word, what Basic encodes (RFC 7617, as leniently as servers read it), and each
 * piece between the marks that wrap a token ("sid=xyz; a=b", "Token token=\"xyz\"",
 * "id=7,key=xyz"), of HEADER_PIECE_MIN bytes or more, that a name stands before or that no word
 * looks like. Both as it stands and without its percent-encoding. Each is handed over once, as text
 * that lives until found returns; in all, and in time, they are linear in the value. */
#define HEADER_PIECE_MIN 8
typedef void found_fn(void *ctx, struct str secret);
void header_secrets(struct str value, found_fn *found, void *ctx);

#endif
