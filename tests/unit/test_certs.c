/* config/certs.h: until when the certificates that the configuration names are valid. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>

#include "config/certs.h"

#define DAY 86400
#define NOW INT64_C(1800000000)

enum { CERT, CERT_PEM, KEYSTORE, CA, CA_PEM, HTTP_CERT, HTTP_CA };

static char dir[] = "/tmp/runsink-certs-XXXXXX";
static EVP_PKEY *pkey;

static int begin(void **state) {
    (void)state;
    pkey = EVP_EC_gen("P-256");
    return mkdtemp(dir) && pkey ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    static const char *const names[] = {"cert", "ca", "p12", "none"};
    char path[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    EVP_PKEY_free(pkey);
    return rmdir(dir);
}

static X509 *certificate(int64_t until) {
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(NOW - 1000 * DAY));
    ASN1_TIME_set(X509_getm_notAfter(x), (time_t)until);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_set_pubkey(x, pkey);
    assert_true(X509_sign(x, pkey, EVP_sha256()) > 0);
    return x;
}

static const char *path_of(const char *name, char ret[64]) {
    snprintf(ret, 64, "%s/%s", dir, name);
    return ret;
}

/* A PEM file of certificates with these ends. */
static void write_pem(const char *name, const int64_t *until, size_t n) {
    char path[64];
    FILE *f = fopen(path_of(name, path), "we");
    assert_non_null(f);
    for (size_t i = 0; i < n; i++) {
        X509 *x = certificate(until[i]);
        PEM_write_X509(f, x);
        X509_free(x);
    }
    fclose(f);
}

static void set(struct config *c, const char *name, const char *value) {
    struct buf err;
    buf_init(&err, 4096);
    if (!config_set(c, name, value, "test", &err)) fail_msg("%s", buf_cstr(&err));
    buf_free(&err);
}

static void set_path(struct config *c, const char *name, const char *file) {
    char path[64];
    set(c, name, path_of(file, path));
}

/* The earliest of a chain, the latest of a bundle; what is not named, or a folder, has no date. */
static void test_dates(void **state) {
    (void)state;
    const int64_t dates[] = {NOW + 50 * DAY, NOW + 20 * DAY, NOW + 90 * DAY};
    struct config *c = config_new();
    struct certs found;
    write_pem("cert", dates, 3);
    write_pem("ca", dates, 3);
    write_pem("none", dates, 0);
    certs_read(c, &found);
    for (size_t i = 0; i < CERTS; i++) assert_int_equal(found.until_s[i], 0);
    set_path(c, "kafka.ssl.certificate.location", "cert");
    set_path(c, "kafka.ssl.ca.location", "ca");
    set_path(c, "http.ca_bundle", "none");
    set_path(c, "http.client_cert", "no-such-file");
    certs_read(c, &found);
    assert_int_equal(found.until_s[CERT], dates[1]);
    assert_int_equal(found.until_s[CA], dates[2]);
    assert_int_equal(found.until_s[HTTP_CA], CERT_UNREADABLE);
    assert_int_equal(found.until_s[HTTP_CERT], CERT_UNREADABLE);
    assert_string_equal(cert_key(CERT), "kafka.ssl.certificate.location");
    set(c, "kafka.ssl.ca.location", dir);
    set(c, "http.ca_bundle", "");
    certs_read(c, &found);
    assert_int_equal(found.until_s[CA], 0);
    assert_int_equal(found.until_s[HTTP_CA], 0);
    config_free(c);
}

static void test_pkcs12(void **state) {
    (void)state;
    char path[64];
    struct config *c = config_new();
    struct certs found;
    X509 *x = certificate(NOW + 7 * DAY);
    PKCS12 *store = PKCS12_create("open sesame", "us", pkey, x, NULL, 0, 0, 0, 0, 0);
    FILE *f = fopen(path_of("p12", path), "we");
    assert_true(store && f && i2d_PKCS12_fp(f, store) == 1);
    fclose(f);
    set_path(c, "kafka.ssl.keystore.location", "p12");
    set(c, "kafka.ssl.keystore.password", "open sesame");
    certs_read(c, &found);
    assert_int_equal(found.until_s[KEYSTORE], NOW + 7 * DAY);
    set(c, "kafka.ssl.keystore.password", "open barley");
    certs_read(c, &found);
    assert_int_equal(found.until_s[KEYSTORE], CERT_UNREADABLE);
    PKCS12_free(store);
    X509_free(x);
    config_free(c);
}

/* Kafka's clients go on with what they read when they were made; webhooks get the new one. */
static void test_renewed(void **state) {
    (void)state;
    const int64_t old[] = {NOW + 2 * DAY}, renewed[] = {NOW + 400 * DAY};
    struct config *c = config_new();
    static struct cert_watch w;
    set_path(c, "kafka.ssl.certificate.location", "cert");
    set_path(c, "http.client_cert", "ca");
    write_pem("cert", old, 1);
    write_pem("ca", old, 1);
    cert_watch_look(&w, c, NOW);
    assert_int_equal(atomic_load(&w.until_s[CERT]), old[0]);
    write_pem("cert", renewed, 1);
    write_pem("ca", renewed, 1);
    cert_watch_look(&w, c, NOW);
    assert_int_equal(atomic_load(&w.until_s[CERT]), old[0]);
    assert_int_equal(atomic_load(&w.until_s[HTTP_CERT]), renewed[0]);
    /* One that can't be read at this moment is what it was. */
    write_pem("ca", renewed, 0);
    cert_watch_look(&w, c, NOW);
    assert_int_equal(atomic_load(&w.until_s[HTTP_CERT]), renewed[0]);
    config_free(c);
}

static void test_texts(void **state) {
    (void)state;
    const struct {
        int64_t until;
        const char *text;
    } cases[] = {
        {NOW + 31 * DAY, "until 2027-02-15T08:00:00Z, 31 days"},
        {NOW + 29 * DAY, "until 2027-02-13T08:00:00Z, 29 days, EXPIRES SOON"},
        {NOW - 1, "until 2027-01-15T07:59:59Z, 0 days, EXPIRED"},
        {CERT_UNREADABLE, "no certificate can be read there"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[CERT_TEXT];
        assert_string_equal(cert_text(cases[i].until, NOW, text), cases[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_pkcs12),
        cmocka_unit_test(test_renewed),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
