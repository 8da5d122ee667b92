/* What the worst events and texts cost that a tenant can choose, case by case, for each KB of them:
 * that must not grow with their size. A benchmark, since it measures time.
 *
 * usage: costs [KB...]     the sizes, by default 16 64 256 1024
 * A row for each case: microseconds for each KB at each size (the best of some rounds). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "config/config.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/log.h"
#include "worker/event/redact.h"
#include "worker/kafka/retry.h"
#include "worker/pipeline/route.h"

#define KB ((size_t)1024)
#define ROUNDS 5
#define SIZES_MAX 8

static struct config *cfg;
static struct router *router;

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "costs: %s: %s\n", what, why);
    exit(1);
}

static void fill(struct buf *b, size_t size, const char *unit) {
    while (b->n < size) buf_puts(b, unit);
}

/* ---- events: decoded, routed and redacted, as a lane does it ---- */

#define RUN                                                                                        \
    "{\"id\":\"r\",\"workspaceId\":\"w\",\"projectId\":\"p\",\"jobId\":\"j\","                     \
    "\"createdAt\":\"2024-01-01T00:00:00Z\",\"updatedAt\":\"2024-01-01T00:00:00Z\","               \
    "\"startTime\":\"2024-01-01T00:00:00Z\",\"type\":\"MANUAL\",\"status\":\"SUCCESS\","           \
    "\"payloads\":1,\"successfulRuns\":1,\"failedRuns\":0"
#define HOOK                                                                                       \
    ",\"jobConfigurationSnapshot\":{\"sink\":{\"type\":\"webhook\",\"url\":\"https://"             \
    "h.example.com/"
#define S3                                                                                         \
    ",\"jobConfigurationSnapshot\":{\"sink\":{\"type\":\"s3\",\"bucket\":\"b-b\",\"region\":"      \
    "\"r\","                                                                                       \
    "\"accessKeyId\":\"AKIAAKIA\",\"secretAccessKey\":\"secretsecret\""

static void take(struct str event, const struct header *headers, size_t n_headers) {
    struct message record = {event, headers, n_headers};
    struct arena arena = {0};
    struct known_sinks known = router_known(router);
    struct jobrun run;
    struct destination *d;
    struct outcome o;
    struct buf out;
    if (jobrun_decode_known(&record, &known, &arena, &run, &o)) {
        route(router, &run, 1, &d, &o);
        buf_init(&out, SIZE_MAX);
        redact_add_line(&out, &run.payload);
        buf_free(&out);
    }
    arena_free(&arena);
}

static void run_event(struct str event) {
    router_tick(router, INT64_MAX); /* the sink is met for the first time */
    take(event, NULL, 0);
}

static void run_again(struct str event) {
    take(event, NULL, 0);
}

/* The text as the values of so many small headers of a record. */
static void run_headers(struct str text) {
    size_t n = text.n / 16;
    struct header *headers = xcalloc(n, sizeof *headers);
    for (size_t i = 0; i < n; i++)
        headers[i] = (struct header){STR("header-1"), {text.p + 16 * i, 8}};
    struct retry r;
    const char *problem;
    struct arena arena = {0};
    retry_parse(headers, n, &r, &problem);
    retry_headers(&(const struct retry){.progress.due_ms = 1}, headers, n, &arena, &n);
    take(STR(RUN HOOK "\"}}}"), headers, text.n / 16);
    arena_free(&arena);
    free(headers);
}

/* ---- texts ---- */

static void run_scrub(struct str text) {
    secret_scrub((char *)(uintptr_t)text.p, text.n);
}

static void run_register(struct str text) {
    for (size_t i = 0; i < text.n; i += KB) {
        struct str s = {text.p + i, text.n - i < KB ? text.n - i : KB};
        secret_add(s);
        secret_drop(s);
    }
}

static void run_xml(struct str text) {
    struct s3_error e;
    s3_error_parse(text, &e);
}

/* head, then unit again and again, then tail. between: what stands between the units, if any */
static const struct bench {
    const char *name, *head, *unit, *tail;
    void (*run)(struct str);
    bool chains; /* with the secrets that are worst registered */
} cases[] = {
    {"a plain string", RUN ",\"x\":\"", "text ", "\"" HOOK "\"}}}", run_event},
    {"escapes", RUN ",\"x\":\"", "\\u0061", "\"" HOOK "\"}}}", run_event},
    {"nested 100 deep", RUN ",\"x\":[0",
     ",[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "]" HOOK "\"}}}",
     run_event},
    {"a field again and again", RUN ",\"reason\":{}", ",\"reason\":{}", HOOK "\"}}}", run_event},
    {"an object again and again", RUN HOOK "\"}", ",\"sink\":{\"type\":\"webhook\"}", "}}",
     run_event},
    {"sinks that begin alike", RUN HOOK "\"}",
     ",\"sink\":{\"type\":\"webhook\",\"url\":\"https://h.example.com/\",\"a\":1}", "}}",
     run_again},
    {"headers", RUN HOOK "\",\"headers\":{\"a\":\"\"", ",\"b\":\"secretsecret\"", "}}}}",
     run_event},
    {"query values", RUN HOOK "?", "&a=%61bcdefg", "\"}}}", run_event},
    {"query values, escaped", RUN HOOK "?", "\\u0026a=\\u0062cdefg", "\"}}}", run_event},
    {"marks and fragments in a URL", RUN HOOK "?", "&#", "\"}}}", run_event},
    {"percent in a URL", RUN HOOK "?", "%2561", "\"}}}", run_event},
    {"dots in a prefix", RUN S3 ",\"prefix\":\"", "../", "\"}}}", run_event},
    {"both spellings", RUN HOOK "\",\"skipOnFail\":0", ",\"skip_on_fail\":0", "}}}", run_event},
    {"names in apisToSend", RUN HOOK "\",\"apisToSend\":[\"\"", ",\"\"", "]}}}", run_event},
    {"values in a sink", RUN HOOK "\",\"x\":[0", ",0", "]}}}", run_event},
    {"members in a sink", RUN HOOK "\"", ",\"xyz\":0", "}}}", run_event},
    {"notifications", RUN HOOK "\"},\"notifications\":[{}",
     ",{\"url\":\"https://a/?b=c\",\"headers\":{\"a\":\"b\"}}", "]}}", run_event},
    {"results", RUN ",\"results\":[{}", ",{\"signedUrl\":\"https://a/?b=c\"}", "]" HOOK "\"}}}",
     run_event},
    {"Kafka headers", "", "0123456789abcdef", "", run_headers},
    {"XML, nested", "<Error>", "<a>", "", run_xml},
    {"XML, children", "<Error>", "<a>b</a>", "</Error>", run_xml},
    {"XML, entities", "<Error><Message>", "&amp;", "</Message></Error>", run_xml},
    {"XML, attributes", "<Error><a ", "b='<' ", "></a></Error>", run_xml},
    {"scrubbed, plain", "", "the answer took too long ", "", run_scrub, true},
    {"scrubbed, nearly secrets", "", "a", "", run_scrub, true},
    {"scrubbed, percent", "", "%61", "", run_scrub, true},
    {"scrubbed, escapes", "", "\\u0061", "", run_scrub, true},
    {"secrets registered", "", "abcdefg", "", run_register},
    {"secrets registered, alike", "", "a", "", run_register, true},
};

/* Secrets that are each the beginning of the next, or part from it in the last byte. */
static void register_chains(void (*fn)(struct str)) {
    static char name[600];
    for (size_t n = 6; n < sizeof name; n++) {
        memset(name, 'a', sizeof name);
        fn((struct str){name, n});
        name[n - 1] = 'b';
        fn((struct str){name, n});
    }
}

static double measure(const struct bench *c, size_t size) {
    struct buf text;
    double best = 0;
    buf_init(&text, SIZE_MAX);
    for (int i = 0; i < ROUNDS; i++) {
        struct timespec from, to;
        buf_clear(&text); /* some change their text */
        buf_puts(&text, c->head);
        fill(&text, size - strlen(c->tail), c->unit);
        buf_puts(&text, c->tail);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        c->run((struct str){text.p, text.n});
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        double us =
            (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3;
        if (i == 0 || us < best) best = us;
    }
    buf_free(&text);
    return best / ((double)size / (double)KB);
}

int main(int argc, char **argv) {
    size_t sizes[SIZES_MAX] = {16, 64, 256, 1024}, n = 4;
    if (argc > SIZES_MAX + 1) die("usage", "costs [KB...]");
    for (int i = 1; i < argc; i++) sizes[i - 1] = strtoul(argv[i], NULL, 10);
    if (argc > 1) n = (size_t)argc - 1;
    struct buf err;
    buf_init(&err, 4096);
    cfg = config_new();
    if (!config_finish(cfg, &err)) die("configuration", buf_cstr(&err));
    router = router_new(cfg);
    printf("%-32s", "microseconds for each KB, of");
    for (size_t i = 0; i < n; i++) printf(" %7zu KB", sizes[i]);
    printf("\n");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        if (cases[c].chains) register_chains(secret_add);
        printf("%-32s", cases[c].name);
        for (size_t i = 0; i < n; i++) printf(" %10.2f", measure(&cases[c], sizes[i] * KB));
        printf("\n");
        if (cases[c].chains) register_chains(secret_drop);
    }
    router_free(router);
    config_free(cfg);
    buf_free(&err);
    return 0;
}
