/* Any secrets and any text: no secret is left standing in it, as it is or percent-encoded, and what
 * that cost is a share for each byte, however long the text is and however many of the secrets
 * begin alike. The input is secrets that end in NUL, then the text. */
#include <assert.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/base/scrub.h"

#define SECRETS_MAX 8
#define MIN 6 /* bytes of a secret that is scrubbed */
#define TIMES 9

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Each secret with many of its beginnings: that is what makes a matcher work. */
static void each_beginning(struct str s, void (*fn)(struct str)) {
    for (size_t n = MIN; n < s.n; n += 1 + s.n / 50) fn((struct str){s.p, n});
    if (s.n > 0) fn(s);
}

static int digit(char c) {
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') ? (int)(at - digits)
                                                                              : -1;
}

/* at[i]: where byte i of the decoded text begins in the text. */
static size_t decode(struct str t, char *ret, size_t *at) {
    size_t n = 0;
    for (size_t i = 0; i < t.n; n++) {
        bool encoded =
            i + 2 < t.n && t.p[i] == '%' && digit(t.p[i + 1]) >= 0 && digit(t.p[i + 2]) >= 0;
        at[n] = i;
        ret[n] = (char)(encoded ? digit(t.p[i + 1]) << 4 | digit(t.p[i + 2]) : t.p[i]);
        i += encoded ? 3 : 1;
    }
    at[n] = t.n;
    return n;
}

static void nowhere(struct str secret, struct str in, const size_t *at, const char *scrubbed) {
    if (secret.n < MIN) return;
    for (size_t i = 0; i + secret.n <= in.n; i++) {
        if (memcmp(in.p + i, secret.p, secret.n) != 0) continue;
        for (size_t k = at[i]; k < at[i + secret.n]; k++) assert(scrubbed[k] == '*');
    }
}

static void scrub(const struct str *secrets, size_t n_secrets, struct str text) {
    char *copy = xmalloc(text.n), *decoded = xmalloc(text.n);
    size_t *at = xmalloc((text.n + 1) * sizeof *at);
    if (text.n) memcpy(copy, text.p, text.n);
    size_t before = scrub_work();
    secret_scrub(copy, text.n);
    assert(scrub_work() - before <= SCRUB_WORK(text.n));
    bool changed = text.n && memcmp(copy, text.p, text.n) != 0;
    assert(!changed || secret_in(text));
    for (size_t i = 0; i <= text.n; i++) at[i] = i;
    for (size_t i = 0; i < n_secrets; i++) nowhere(secrets[i], text, at, copy);
    size_t n = decode(text, decoded, at);
    for (size_t i = 0; i < n_secrets; i++) nowhere(secrets[i], (struct str){decoded, n}, at, copy);
    free(copy);
    free(decoded);
    free(at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct str secrets[SECRETS_MAX] = {{0}}, text = {(const char *)data, n};
    size_t n_secrets = 0;
    for (const char *end;
         n_secrets < SECRETS_MAX && text.n && (end = memchr(text.p, '\0', text.n));) {
        secrets[n_secrets++] = (struct str){text.p, (size_t)(end - text.p)};
        text = (struct str){end + 1, text.n - secrets[n_secrets - 1].n - 1};
    }
    for (size_t i = 0; i < n_secrets; i++) each_beginning(secrets[i], secret_add);
    scrub(secrets, n_secrets, text);
    char *many = xmalloc(TIMES * text.n);
    for (size_t i = 0; i < TIMES && text.n; i++) memcpy(many + i * text.n, text.p, text.n);
    scrub(secrets, n_secrets, (struct str){many, TIMES * text.n});
    for (size_t i = 0; i < n_secrets; i++) each_beginning(secrets[i], secret_drop);
    assert(!secret_in((struct str){many, TIMES * text.n}));
    free(many);
    return 0;
}
