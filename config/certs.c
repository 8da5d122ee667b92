#include "config/certs.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "worker/base/log.h"
#include "worker/base/text.h"

#define DAY_S ((int64_t)86400)

enum form { FILE_PEM, TEXT_PEM, FILE_PKCS12 };

static const struct place {
    const char *key;
    enum form form;
    bool authorities;
} places[CERTS] = {
    {"kafka.ssl.certificate.location", FILE_PEM, false},
    {"kafka.ssl.certificate.pem", TEXT_PEM, false},
    {"kafka.ssl.keystore.location", FILE_PKCS12, false},
    {"kafka.ssl.ca.location", FILE_PEM, true},
    {"kafka.ssl.ca.pem", TEXT_PEM, true},
    {"http.client_cert", FILE_PEM, false},
    {"http.ca_bundle", FILE_PEM, true},
};

const char *cert_key(size_t i) {
    return places[i].key;
}

static bool is_kafka(const struct place *p) {
    return strncmp(p->key, "kafka.", 6) == 0;
}

static const char *value_of(const struct config *c, const struct place *p) {
    if (is_kafka(p)) return config_kafka(c, p->key + 6);
    return strcmp(p->key, "http.client_cert") == 0 ? c->http_client_cert : c->http_ca_bundle;
}

/* ---- reading ---- */

static int64_t end_of(const X509 *cert) {
    struct tm tm;
    return ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1 ? (int64_t)timegm(&tm)
                                                               : CERT_UNREADABLE;
}

static void take(int64_t *until, int64_t end, bool latest) {
    if (*until <= 0 || (latest ? end > *until : end < *until)) *until = end;
}

static int64_t read_pem(BIO *in, bool latest) {
    int64_t until = CERT_UNREADABLE;
    X509 *cert;
    while (in && (cert = PEM_read_bio_X509_AUX(in, NULL, NULL, NULL))) {
        take(&until, end_of(cert), latest);
        X509_free(cert);
    }
    return until;
}

static int64_t read_pkcs12(BIO *in, const char *password) {
    int64_t until = CERT_UNREADABLE;
    PKCS12 *store = in ? d2i_PKCS12_bio(in, NULL) : NULL;
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    STACK_OF(X509) *chain = NULL;
    if (store && PKCS12_parse(store, password, &key, &cert, &chain) == 1 && cert) {
        until = end_of(cert);
        for (int i = 0; i < sk_X509_num(chain); i++)
            take(&until, end_of(sk_X509_value(chain, i)), false);
    }
    sk_X509_pop_free(chain, X509_free);
    X509_free(cert);
    EVP_PKEY_free(key);
    PKCS12_free(store);
    return until;
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* What is neither that nor a folder may have its reader wait for ever. */
static bool is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && buf_file_regular(&st);
}

static int64_t read_place(const struct config *c, const struct place *p) {
    const char *value = value_of(c, p);
    int64_t until = 0;
    bool file = p->form != TEXT_PEM;
    if (!value || !*value) return 0;
    /* A folder of authorities, or librdkafka's word for the system's. */
    if (file && (is_folder(value) || strcmp(value, "probe") == 0)) return 0;
    if (file && !is_file(value)) return CERT_UNREADABLE;
    BIO *in = file ? BIO_new_file(value, "r") : BIO_new_mem_buf(value, -1);
    switch (p->form) {
    case FILE_PEM:
    case TEXT_PEM:
        until = read_pem(in, p->authorities);
        break;
    case FILE_PKCS12:
        until = read_pkcs12(in, config_kafka(c, "ssl.keystore.password"));
        break;
    }
    BIO_free(in);
    ERR_clear_error();
    return until;
}

void certs_read(const struct config *c, struct certs *ret) {
    for (size_t i = 0; i < CERTS; i++) ret->until_s[i] = read_place(c, &places[i]);
}

/* ---- telling ---- */

enum state { FINE, SOON, CLOSE, OVER, UNREADABLE };

static enum state state_of(int64_t until_s, int64_t now_s) {
    int64_t left = until_s - now_s;
    if (until_s == 0) return FINE;
    if (until_s == CERT_UNREADABLE) return UNREADABLE;
    return left <= 0                        ? OVER
           : left < CERT_CLOSE_DAYS * DAY_S ? CLOSE
           : left < CERT_SOON_DAYS * DAY_S  ? SOON
                                            : FINE;
}

const char *cert_text(int64_t until_s, int64_t now_s, char ret[CERT_TEXT]) {
    static const char *const words[] = {
        [FINE] = "", [SOON] = ", EXPIRES SOON", [CLOSE] = ", EXPIRES SOON", [OVER] = ", EXPIRED"};
    enum state state = state_of(until_s, now_s);
    char day[UTC_TEXT];
    if (state == UNREADABLE || !utc_text(until_s, day))
        snprintf(ret, CERT_TEXT, "no certificate can be read there");
    else
        snprintf(ret, CERT_TEXT, "until %s, %lld days%s", day,
                 (long long)((until_s - now_s) / DAY_S), words[state]);
    return ret;
}

static void tell(size_t i, int64_t until_s, enum state state, int64_t now_s) {
    char text[CERT_TEXT];
    static const char *const lines[] = {
        [FINE] = "a certificate was renewed",
        [SOON] = "a certificate expires within 30 days: renew it",
        [CLOSE] = "a certificate expires within 3 days: renew it",
        [OVER] = "a certificate has expired: the connections that use it fail",
        [UNREADABLE] = "a certificate that the configuration names can't be read",
    };
    const struct log_line line = {
        lines[state],
        {LOG_S("key", places[i].key), LOG_S("valid", cert_text(until_s, now_s, text))}};
    log_write(state == FINE ? LOG_INFO : state == OVER ? LOG_ERROR : LOG_WARN, &line);
}

void cert_watch_look(struct cert_watch *w, const struct config *c, int64_t now_s) {
    struct certs found;
    certs_read(c, &found);
    for (size_t i = 0; i < CERTS; i++) {
        int64_t was = atomic_load(&w->until_s[i]), is = found.until_s[i];
        bool readable = is != CERT_UNREADABLE;
        if (!readable && was > 0) is = was;
        if (is && was > 0 && is_kafka(&places[i])) take(&was, is, false), is = was;
        atomic_store(&w->until_s[i], is);
        enum state state = readable ? state_of(is, now_s) : UNREADABLE;
        if ((int)state != w->told[i]) tell(i, is, state, now_s);
        w->told[i] = (int)state;
    }
}
