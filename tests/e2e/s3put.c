/* The S3 sink and its signer as programs, for the tests in test_s3.py.
 *     s3put sign                     < one JSON object a line: a request
 *     s3put put NAME=VALUE...        < one JSON object a line: a sink and what goes there
 * sign answers each line with the Authorization header; put sends all lines at once, with these
 * settings, and answers each, in order, with the outcome as a JSON object. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "config/config.h"
#include "sinks/http/http.h"
#include "sinks/s3/sigv4.h"
#include "sinks/sink.h"

extern const struct sink_type s3_sink;

struct job {
    cJSON *line;
    struct destination dest;
    struct batch batch;
    struct outcome outcome;
    bool ended;
};

static const char *text(const cJSON *o, const char *name) {
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, name));
    return value ? value : "";
}

static cJSON *read_line(void) {
    char *line = NULL;
    size_t size = 0;
    ssize_t n = getline(&line, &size, stdin);
    cJSON *o = n < 0 ? NULL : cJSON_ParseWithLength(line, (size_t)n);
    if (n >= 0 && !o) exit(65);
    free(line);
    return o;
}

static void sign_line(const cJSON *o) {
    struct sigv4_header headers[SIGV4_HEADERS_MAX];
    struct sigv4_param params[32];
    size_t n_headers = 0, n_params = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(o, "headers")) {
        if (n_headers == SIGV4_HEADERS_MAX) exit(65);
        headers[n_headers++] = (struct sigv4_header){str_c(item->string), str_c(item->valuestring)};
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(o, "query")) {
        if (n_params == 32) exit(65);
        params[n_params++] = (struct sigv4_param){str_c(item->string), str_c(item->valuestring)};
    }
    struct buf path, query, out;
    buf_init(&path, 65536);
    buf_init(&query, 65536);
    buf_init(&out, 65536);
    struct sigv4_key cache = {0};
    const struct sigv4_signer signer = {text(o, "access_key"), text(o, "secret_key"),
                                        text(o, "region"), "s3"};
    bool ok = sigv4_path(&path, str_c(text(o, "path"))) && sigv4_query(&query, params, n_params);
    const struct sigv4_request request = {.method = text(o, "method"),
                                          .path = {path.p, path.n},
                                          .query = {query.p, query.n},
                                          .headers = headers,
                                          .n_headers = n_headers,
                                          .payload_sha256 = text(o, "payload_sha256")};
    ok = ok && sigv4_sign(&request, &signer, &cache, text(o, "date"), &out);
    cJSON *answer = cJSON_CreateObject();
    cJSON_AddStringToObject(answer, "path", buf_cstr(&path));
    cJSON_AddStringToObject(answer, "query", buf_cstr(&query));
    cJSON_AddStringToObject(answer, "authorization", ok ? buf_cstr(&out) : "");
    char *printed = cJSON_PrintUnformatted(answer);
    puts(printed);
    free(printed);
    cJSON_Delete(answer);
    buf_free(&path);
    buf_free(&query);
    buf_free(&out);
}

static void done(struct batch *b, const struct outcome *o) {
    struct job *j = b->owner;
    if (j->ended) abort(); /* exactly once */
    j->outcome = *o;
    j->ended = true;
}

static void start(struct sink_env *env, struct job *j) {
    const cJSON *body = cJSON_GetObjectItemCaseSensitive(j->line, "body");
    const cJSON *key = cJSON_GetObjectItemCaseSensitive(j->line, "key");
    j->ended = true;
    if (!s3_sink.parse(env->cfg, cJSON_GetObjectItemCaseSensitive(j->line, "sink"), &j->dest,
                       &j->outcome))
        return;
    j->ended = false;
    j->dest.type = &s3_sink;
    j->batch = (struct batch){.dest = &j->dest,
                              .key = key->valuestring,
                              .body = body->valuestring,
                              .body_len = strlen(body->valuestring),
                              .content_type = "application/json",
                              .topic = "runs",
                              .partition = 7,
                              .first = 100,
                              .last = 104,
                              .count = 5,
                              .done = done,
                              .owner = j};
    sha256(j->batch.body, j->batch.body_len, j->batch.sha256);
    sha256(j->batch.body, j->batch.body_len, j->batch.body_sha256);
    s3_sink.submit(env, &j->batch);
    if (j->ended) abort(); /* never from inside submit */
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(j->line, "cancel")))
        s3_sink.cancel(env, &j->batch);
}

static void answer(const struct job *j) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "verdict", verdict_name(j->outcome.verdict));
    cJSON_AddStringToObject(o, "fault", fault_name(j->outcome.fault));
    cJSON_AddStringToObject(o, "why", j->outcome.why);
    cJSON_AddStringToObject(o, "detail", j->outcome.detail);
    cJSON_AddStringToObject(o, "label", j->dest.label);
    cJSON_AddNumberToObject(o, "status", j->outcome.status);
    cJSON_AddBoolToObject(o, "credential", j->outcome.credential);
    char *printed = cJSON_PrintUnformatted(o);
    puts(printed);
    free(printed);
    cJSON_Delete(o);
}

static void finish(struct job *j) {
    answer(j);
    if (j->dest.config) s3_sink.free_config(j->dest.config);
    free(j->dest.prefix);
    cJSON_Delete(j->line);
}

static struct config *settings(int argc, char **argv) {
    struct config *cfg = config_new();
    struct buf err;
    buf_init(&err, 4096);
    bool ok = config_set(cfg, "topics", "unused", "s3put", &err) &&
              config_set(cfg, "kafka.bootstrap.servers", "unused:1", "s3put", &err);
    for (int i = 0; i < argc && ok; i++) {
        char *equals = strchr(argv[i], '=');
        if (!equals) exit(64);
        *equals = '\0';
        ok = config_set(cfg, argv[i], equals + 1, "s3put", &err);
    }
    if (!ok || !config_finish(cfg, &err)) {
        fprintf(stderr, "s3put: %s\n", buf_cstr(&err));
        exit(78);
    }
    buf_free(&err);
    return cfg;
}

#define JOBS_MAX 4096

static void put(int argc, char **argv) {
    static struct job jobs[JOBS_MAX];
    struct config *cfg = settings(argc, argv);
    http_global_init();
    struct sink_env env = {.cfg = cfg, .http = http_new(cfg)};
    size_t n = 0, left = 1;
    while (n < JOBS_MAX && (jobs[n].line = read_line())) n++;
    for (size_t i = 0; i < n; i++) start(&env, &jobs[i]);
    while (left > 0) {
        http_run(env.http);
        int wait = s3_sink.tick ? s3_sink.tick(&env, 0) : -1;
        left = 0;
        for (size_t i = 0; i < n; i++) left += !jobs[i].ended;
        if (left > 0) http_wait(env.http, wait >= 0 && wait < 1000 ? wait : 1000);
    }
    for (size_t i = 0; i < n; i++) finish(&jobs[i]);
    if (s3_sink.close) s3_sink.close(&env);
    http_free(env.http);
    config_free(cfg);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "sign") == 0) {
        for (cJSON *o; (o = read_line()); cJSON_Delete(o)) sign_line(o);
    } else if (argc >= 2 && strcmp(argv[1], "put") == 0) {
        put(argc - 2, argv + 2);
    } else {
        fputs("usage: s3put sign | s3put put NAME=VALUE...\n", stderr);
        return 64;
    }
    return 0;
}
