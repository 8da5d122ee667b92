/* What a batch event costs in instructions, from its bytes to its object's: decoded, routed,
 * redacted, put together as NDJSON and hashed. No I/O, so that tests/flow/instructions can count it
 * exactly.
 *
 * usage: pipeline ROUNDS FILE...
 * Each line of the files is an event; in each round all of them become one object. Prints how many
 * events went through. tests/bench/events.ndjson was made by event() in tests/bench/stage.py. */
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "worker/event/redact.h"
#include "worker/pipeline/body.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/record.h"

#define EVENTS_MAX 1000

static struct {
    struct str events[EVENTS_MAX];
    size_t n;
} input;

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "pipeline: %s: %s\n", what, why);
    exit(1);
}

/* The text is kept: the events borrow from it. */
static void read_events(const char *path) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    FILE *f = fopen(path, "re");
    if (!f) die(path, "can't be read");
    while ((n = getline(&line, &cap, f)) > 0) {
        if (line[n - 1] == '\n') n--;
        if (input.n == EVENTS_MAX) die(path, "too many events");
        input.events[input.n++] = (struct str){xstrndup(line, (size_t)n), (size_t)n};
    }
    free(line);
    fclose(f);
}

/* One event: what the lane does when it takes a record in. */
static void take(struct lane *lane, struct arena *arena, struct str event, struct record *record) {
    struct message message = {.value = event};
    struct outcome o;
    struct destination *dest;
    struct jobrun run;
    struct known_sinks known = router_known(lane->router);
    if (!jobrun_decode_known(&message, &known, arena, &run, &o)) die("an event", o.detail);
    if (route(lane->router, &run, lane->now_ms, &dest, &o) == ROUTE_DEAD) die("an event", o.detail);
    record->payload = run.payload;
}

static void round_of_all(struct lane *lane) {
    static struct record records[EVENTS_MAX];
    static struct record *members[EVENTS_MAX];
    static char key[] = "k.ndjson";
    struct arena arena = {0};
    struct delivery d = {.members = members, .batched = true, .key = key};
    struct outcome o;
    for (size_t i = 0; i < input.n; i++) {
        members[i] = &records[i];
        take(lane, &arena, input.events[i], &records[i]);
    }
    d.n = (uint32_t)input.n;
    if (!body_make(lane, &d, &o)) die("a body", o.detail);
    buf_free(&d.body);
    arena_free(&arena);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: pipeline ROUNDS FILE...\n");
        return 64;
    }
    static struct lane lane;
    struct buf err;
    buf_init(&err, 4096);
    struct config *cfg = config_new();
    if (!config_finish(cfg, &err)) die("configuration", buf_cstr(&err));
    lane.cfg = cfg;
    lane.router = router_new(cfg);
    for (int i = 2; i < argc; i++) read_events(argv[i]);
    long rounds = atol(argv[1]);
    for (long i = 0; i < rounds; i++) round_of_all(&lane);
    printf("%zu\n", input.n * (size_t)rounds);
    router_free(lane.router);
    config_free(cfg);
    buf_free(&err);
    for (size_t i = 0; i < input.n; i++) free((char *)(uintptr_t)input.events[i].p);
    return 0;
}
