/* `runsink explain`: the way of an event through decoding and routing, told and not gone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/json_out.h"
#include "worker/event/redact.h"
#include "worker/pipeline/hold.h"
#include "worker/pipeline/object_key.h"
#include "worker/pipeline/route.h"
#include "worker/tools/command.h"

#define EVENT_MAX (64 << 20)
#define HEADERS_MAX 64

struct explain {
    const struct config *cfg;
    struct router *router;
    struct origin origin;
    struct header headers[HEADERS_MAX];
    size_t n_headers;
    struct buf out; /* the answer's line */
};

/* outcome, why and for whom; kind DELIVER stays without a reason. */
static void add_outcome(struct buf *out, enum route_kind kind, const struct outcome *o) {
    static const char *const names[] = {
        [ROUTE_DELIVER] = "deliver", [ROUTE_SKIP] = "skipped", [ROUTE_DEAD] = "dead"};
    out_shown(out, "outcome", names[kind]);
    if (kind == ROUTE_DELIVER) return;
    out_shown(out, "reason", o->why);
    if (*o->detail) out_shown(out, "detail", o->detail);
    if (kind == ROUTE_DEAD) out_shown(out, "fault", fault_name(o->fault));
}

static void add_destination(struct buf *out, const struct destination *d, struct buf *key) {
    out_shown(out, "sink", d->type->name);
    out_shown(out, "destination", d->label);
    switch (d->type->shape) {
    case SHAPE_OBJECT:
        out_shown(out, "key", buf_cstr(key));
        break;
    case SHAPE_POST:
        out_shown(out, "url", d->label);
        break;
    }
}

static void add_body(struct buf *out, const struct jobrun *run) {
    struct buf body;
    buf_init(&body, EVENT_MAX + redact_size(&run->payload));
    redact_add(&body, &run->payload);
    out_shown(out, "body", buf_cstr(&body));
    buf_wipe(&body);
}

static void explain_run(struct explain *e, const struct jobrun *run) {
    struct destination *dest = NULL;
    struct outcome o = {0};
    struct buf key;
    buf_init(&key, KEY_MAX);
    enum route_kind kind = route(e->router, run, clock_ms(CLOCK_MONOTONIC), &dest, &o);
    if (kind == ROUTE_DELIVER && dest->type->shape == SHAPE_OBJECT &&
        !object_key_event(e->cfg, run, dest, &e->origin, clock_ms(CLOCK_REALTIME), &key, &o))
        kind = ROUTE_DEAD;
    if (kind == ROUTE_DELIVER && hold_names(e->cfg, run->workspace_id, dest->label)) {
        kind = ROUTE_DEAD;
        o = hold_outcome();
    }
    add_outcome(&e->out, kind, &o);
    if (kind == ROUTE_DELIVER) add_destination(&e->out, dest, &key);
    add_body(&e->out, run);
    buf_free(&key);
}

static void explain_event(struct explain *e, struct str value) {
    struct arena arena = {0};
    struct jobrun run;
    struct outcome o;
    struct message r = {value, e->headers, e->n_headers};
    struct known_sinks known = router_known(e->router);
    buf_clear(&e->out);
    buf_putc(&e->out, '{');
    if (jobrun_decode_known(&r, &known, &arena, &run, &o))
        explain_run(e, &run);
    else
        add_outcome(&e->out, o.verdict == VERDICT_OK ? ROUTE_SKIP : ROUTE_DEAD, &o);
    buf_puts(&e->out, "}\n");
    fwrite(e->out.p, 1, e->out.n, stdout);
    arena_wipe(&arena);
}

/* Up to the next newline or, whole, to the end. False at the end of input, or when it is too long
 * or can't be read (*ret_rc). */
static bool read_event(struct buf *in, bool whole, int *ret_rc) {
    int c;
    buf_clear(in);
    while ((c = getc_unlocked(stdin)) != EOF && (whole || c != '\n')) {
        if (buf_putc(in, (char)c)) continue;
        fputs("runsink explain: an event is larger than 64 MiB\n", stderr);
        *ret_rc = EX_DATAERR;
        return false;
    }
    if (ferror(stdin)) {
        fprintf(stderr, "runsink explain: can't read standard input: %s\n", strerror(errno));
        *ret_rc = EX_IOERR;
        return false;
    }
    return c != EOF || in->n > 0 || whole;
}

static int explain_input(struct explain *e, bool framed) {
    struct buf in;
    int rc = EX_OK;
    buf_init(&in, EVENT_MAX);
    for (; read_event(&in, framed, &rc) && !ferror(stdout); e->origin.offset++) {
        struct str value = {buf_cstr(&in), in.n};
        if (framed || value.n) explain_event(e, value);
        if (framed) break;
    }
    buf_wipe(&in);
    return rc;
}

static bool add_header(const char *text, void *explain, struct buf *err) {
    struct explain *e = explain;
    const char *equals = strchr(text, '=');
    (void)err;
    if (!equals || e->n_headers == HEADERS_MAX) return false;
    e->headers[e->n_headers++] =
        (struct header){{text, (size_t)(equals - text)}, str_c(equals + 1)};
    return true;
}

int command_explain(struct config *c, int argc, char **argv) {
    struct explain e = {.cfg = c, .origin = {.topic = "explain"}};
    bool framed = false;
    const struct command_option options[] = {
        {"--framed", .flag = &framed},
        {"--header", .read = add_header, .to = &e, .takes = "NAME=VALUE, 64 times at most"},
    };
    int rc =
        command_options("explain", options, sizeof options / sizeof *options, argc, argv, NULL);
    if (rc != EX_OK) return rc;
    if (c->topics.n && c->topics.v[0][0] != '^')
        snprintf(e.origin.topic, sizeof e.origin.topic, "%s", c->topics.v[0]);
    buf_init(&e.out, (size_t)8 * EVENT_MAX);
    e.router = router_new(c);
    rc = explain_input(&e, framed);
    router_free(e.router);
    buf_wipe(&e.out);
    return rc;
}
