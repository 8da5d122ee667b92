/* A floor for deliveries: a bare curl-multi client that sends each line of a file once, by PUT to
 * S3 (signed by sinks/s3/sigv4.c) or by POST, over a number of kept connections, and does nothing
 * else: no Kafka, no decoding, no retries, no guard. An answer other than 2xx ends it.
 *
 * usage: send put|lean|post EVENTS PLACES EVENTS_MAX CONNECTIONS [PREFIX]
 * EVENTS has a body a line; PLACES has "URL ACCESS_KEY SECRET_KEY" a line (URL alone for POST),
 * used in turn. put asks the store for what runsink asks it for: a key of as many parts (a store on
 * a file system makes folders of them), the same metadata. lean appends "/PREFIX/NUMBER.json" to
 * the URL and sends no metadata. */
#include <curl/curl.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sinks/s3/sigv4.h"

#define PLACES_MAX 100000
#define LINE_MAX_BYTES 2048

struct place {
    char *url; /* scheme, host and path before the key */
    char *host;
    const char *path; /* in url */
    struct sigv4_signer signer;
    struct sigv4_key key;
};

struct transfer {
    CURL *easy;
    struct curl_slist *headers;
};

static struct {
    bool put, lean;
    const char *at, *end; /* what is left of the events */
    const char *prefix;
    struct place *places;
    size_t n_places;
    long long started, ended, max;
    CURLM *multi;
} run;

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "send: %s: %s\n", what, why);
    exit(1);
}

/* ---- input ---- */

static void map_events(const char *path) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0) die(path, "can't be read");
    run.at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (run.at == MAP_FAILED) die(path, "can't be mapped");
    run.end = run.at + st.st_size;
    close(fd);
}

static void add_place(const char *line) {
    char url[LINE_MAX_BYTES], access[256] = "", secret[256] = "";
    if (run.n_places == PLACES_MAX ||
        sscanf(line, "%2047s %255s %255s", url, access, secret) < (run.put ? 3 : 1))
        die(line, "no place");
    struct place *p = &run.places[run.n_places++];
    p->url = xstrdup(url);
    const char *host = strstr(p->url, "://");
    host = host ? host + 3 : p->url;
    p->path = host + strcspn(host, "/");
    p->host = xstrndup(host, (size_t)(p->path - host));
    p->signer = (struct sigv4_signer){xstrdup(access), xstrdup(secret), "us-east-1", "s3"};
}

static void read_places(const char *path) {
    char line[LINE_MAX_BYTES];
    FILE *f = fopen(path, "re");
    if (!f) die(path, "can't be read");
    run.places = xcalloc(PLACES_MAX, sizeof *run.places);
    while (fgets(line, sizeof line, f)) add_place(line);
    fclose(f);
    if (!run.n_places) die(path, "is empty");
}

static bool next_event(struct str *ret) {
    if (run.at == run.end || run.started == run.max) return false;
    const char *nl = memchr(run.at, '\n', (size_t)(run.end - run.at));
    const char *end = nl ? nl : run.end;
    *ret = (struct str){run.at, (size_t)(end - run.at)};
    run.at = nl ? nl + 1 : run.end;
    return true;
}

/* ---- requests ---- */

static void add_header(struct transfer *t, const char *name, const char *value) {
    char line[2 * LINE_MAX_BYTES];
    snprintf(line, sizeof line, "%s: %s", name, value);
    struct curl_slist *list = curl_slist_append(t->headers, line);
    if (!list) out_of_memory();
    t->headers = list;
}

#define META 5
/* What runsink says of an object, here of the object's number. */
struct meta {
    char text[META][HEX_LEN(SHA256_LEN) + 1];
};

static const char *const meta_names[META] = {"x-amz-meta-count", "x-amz-meta-offsets",
                                             "x-amz-meta-partition", "x-amz-meta-sha256",
                                             "x-amz-meta-topic"};

static void fill_meta(struct meta *m, const char *sha) {
    snprintf(m->text[0], sizeof m->text[0], "1");
    snprintf(m->text[1], sizeof m->text[1], "%lld-%lld", run.started, run.started);
    snprintf(m->text[2], sizeof m->text[2], "%lld", run.started % 6);
    snprintf(m->text[3], sizeof m->text[3], "%s", sha);
    snprintf(m->text[4], sizeof m->text[4], "bench-objects");
}

static void sign(struct transfer *t, struct place *p, const char *path, struct str body) {
    uint8_t digest[SHA256_LEN];
    char sha[HEX_LEN(SHA256_LEN) + 1], date[SIGV4_DATE_LEN + 1];
    sha256(body.p, body.n, digest);
    hex(digest, sizeof digest, sha);
    sigv4_date(time(NULL), date);
    struct sigv4_header headers[4 + META] = {{STR("host"), str_c(p->host)},
                                             {STR("x-amz-content-sha256"), str_c(sha)},
                                             {STR("x-amz-date"), str_c(date)}};
    size_t n = 3;
    struct meta meta;
    fill_meta(&meta, sha);
    if (!run.lean) {
        headers[n++] = (struct sigv4_header){STR("content-type"), STR("application/json")};
        for (int i = 0; i < META; i++) {
            headers[n++] = (struct sigv4_header){str_c(meta_names[i]), str_c(meta.text[i])};
            add_header(t, meta_names[i], meta.text[i]);
        }
    }
    const struct sigv4_request request = {.method = "PUT",
                                          .path = str_c(path),
                                          .headers = headers,
                                          .n_headers = n,
                                          .payload_sha256 = sha};
    struct buf authorization;
    buf_init(&authorization, LINE_MAX_BYTES);
    if (!sigv4_sign(&request, &p->signer, &p->key, date, &authorization)) die(path, "not signed");
    add_header(t, "x-amz-content-sha256", sha);
    add_header(t, "x-amz-date", date);
    add_header(t, "Authorization", buf_cstr(&authorization));
    buf_free(&authorization);
}

static void describe(struct transfer *t, struct place *p, struct str body) {
    char url[LINE_MAX_BYTES + 64], id[24];
    if (run.put) {
        long long n = run.started;
        if (run.lean)
            snprintf(url, sizeof url, "%s/%s/%08lld.json", p->url, run.prefix, n);
        else
            snprintf(url, sizeof url,
                     "%s/%s/workspace-%02lld/123e4567-e89b-12d3-a456-42661417%04lld/"
                     "job-123e4567-e89b-%04lld/%08llx-e89b-12d3-a456-426614174000/"
                     "2026-01-01T00%%3A00%%3A00Z-SUCCESS-%lld-%lld.json",
                     p->url, run.prefix, n % (long long)run.n_places, n % 5, n % 40, n, n % 6,
                     n / 6);
        sign(t, p, url + (p->path - p->url), body);
    } else {
        snprintf(id, sizeof id, "%08lld", run.started);
        add_header(t, "webhook-id", id);
        snprintf(url, sizeof url, "%s", p->url);
    }
    add_header(t, "Content-Type", "application/json");
    curl_easy_setopt(t->easy, CURLOPT_URL, url);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.n);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, body.p); /* not copied */
}

static bool start(struct transfer *t) {
    struct str body;
    if (!next_event(&body)) return false;
    describe(t, &run.places[(size_t)run.started % run.n_places], body);
    run.started++;
    return curl_multi_add_handle(run.multi, t->easy) == CURLM_OK;
}

static size_t drop(char *p, size_t size, size_t n, void *user) {
    (void)p;
    (void)user;
    return size * n;
}

static void open_transfer(struct transfer *t) {
    t->easy = curl_easy_init();
    if (!t->easy) die("libcurl", "no handle");
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, drop);
    curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
    if (run.put) curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, "PUT");
}

static void finish(const CURLMsg *msg) {
    struct transfer *t;
    long status = 0;
    char text[64];
    curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &t);
    curl_easy_getinfo(msg->easy_handle, CURLINFO_RESPONSE_CODE, &status);
    snprintf(text, sizeof text, "status %ld, %s", status, curl_easy_strerror(msg->data.result));
    if (msg->data.result != CURLE_OK || status / 100 != 2) die("a request", text);
    curl_multi_remove_handle(run.multi, t->easy);
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    run.ended++;
    start(t);
}

static void send_all(struct transfer *transfers, int n) {
    for (int i = 0; i < n; i++) {
        open_transfer(&transfers[i]);
        start(&transfers[i]);
    }
    while (run.ended < run.started) {
        int running, left;
        const CURLMsg *msg;
        curl_multi_perform(run.multi, &running);
        while ((msg = curl_multi_info_read(run.multi, &left))) finish(msg);
        if (run.ended < run.started) curl_multi_poll(run.multi, NULL, 0, 1000, NULL);
    }
}

int main(int argc, char **argv) {
    run.lean = argc > 1 && strcmp(argv[1], "lean") == 0;
    run.put = run.lean || (argc > 1 && strcmp(argv[1], "put") == 0);
    if (argc < 6 || (!run.put && strcmp(argv[1], "post") != 0)) {
        fprintf(stderr,
                "usage: send put|lean|post EVENTS PLACES EVENTS_MAX CONNECTIONS [PREFIX]\n");
        return 64;
    }
    run.prefix = argc > 6 ? argv[6] : "bare";
    map_events(argv[2]);
    read_places(argv[3]);
    run.max = atoll(argv[4]);
    int connections = atoi(argv[5]);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    run.multi = curl_multi_init();
    curl_multi_setopt(run.multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)connections);
    curl_multi_setopt(run.multi, CURLMOPT_MAXCONNECTS, (long)connections);
    struct transfer *transfers = xcalloc((size_t)connections, sizeof *transfers);
    send_all(transfers, connections);
    printf("{\"events\":%lld}\n", run.ended);
    for (int i = 0; i < connections; i++) curl_easy_cleanup(transfers[i].easy);
    curl_multi_cleanup(run.multi);
    free(transfers);
    return 0;
}
