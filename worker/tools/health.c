/* `runsink health`: asks the admin server of the worker on this machine, for an image's HEALTHCHECK
 * and for exec probes, where there is no curl. */
#include <curl/curl.h>
#include <stdio.h>
#include <sysexits.h>

#include "worker/tools/command.h"

#define TIMEOUT_MS 3000L
#define ANSWER_MAX 2048

/* Every address is reached at loopback. */
static const char *reachable(const char *host) {
    if (!*host || strcmp(host, "0.0.0.0") == 0) return "127.0.0.1";
    return strcmp(host, "::") == 0 ? "::1" : host;
}

/* The status, 0 when nobody answers; what does not fit of the answer is passed over. */
static long ask(const char *url, char answer[ANSWER_MAX]) {
    long status = 0;
    CURL *easy = curl_easy_init();
    FILE *f = fmemopen(answer, ANSWER_MAX - 1, "w");
    if (!easy || !f) out_of_memory();
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, f);
    curl_easy_perform(easy);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(easy);
    fclose(f);
    return status;
}

static int check(const char *listen, const char *path) {
    char host[CONFIG_HOST_MAX] = "", port[6] = "", url[2 * CONFIG_HOST_MAX],
         answer[ANSWER_MAX] = "";
    config_address(listen, host, port);
    const char *at = reachable(host);
    bool v6 = strchr(at, ':') != NULL;
    snprintf(url, sizeof url, "http://%s%s%s:%s%s", v6 ? "[" : "", at, v6 ? "]" : "", port, path);
    long status = ask(url, answer);
    if (status)
        fprintf(status == 200 ? stdout : stderr, "%.*s\n", (int)strcspn(answer, "\r\n"), answer);
    else
        fprintf(stderr, "runsink health: nothing answers at %s within %ld s\n", listen,
                TIMEOUT_MS / 1000);
    return status == 200 ? EX_OK : EX_UNAVAILABLE;
}

int command_health(struct config *cfg, int argc, char **argv) {
    bool ready = false;
    const struct command_option options[] = {{"--ready", .flag = &ready}};
    int rc = command_options("health", options, 1, argc, argv, NULL);
    if (rc != EX_OK) return rc;
    if (!cfg->admin_listen[0]) {
        fputs("runsink health: admin.listen is empty: the worker answers nobody\n", stderr);
        return EX_CONFIG;
    }
    return check(cfg->admin_listen, ready ? "/readyz" : "/healthz");
}
