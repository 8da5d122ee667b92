#include "worker/ledger/key.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROTATE_PREFIX "runsink-ledger-rotate-1\n"
#define STATEMENT_LEN (sizeof ROTATE_PREFIX - 1 + LEDGER_PUB_LEN)

struct ledger_signer {
    EVP_PKEY *key;
    struct ledger_pubkey pub, previous;
    char *rotation;
};

/* libcrypto failing on a key that it accepted leaves nothing sane to do. */
static void must(int ok, const char *what) {
    if (ok == 1) return;
    fprintf(stderr, "runsink: %s failed in libcrypto\n", what);
    abort();
}

void ledger_pubkey_from_raw(const uint8_t raw[LEDGER_PUB_LEN], struct ledger_pubkey *ret) {
    uint8_t digest[SHA256_LEN];
    char text[HEX_LEN(SHA256_LEN) + 1];
    sha256(raw, LEDGER_PUB_LEN, digest);
    hex(digest, sizeof digest, text);
    memcpy(ret->raw, raw, LEDGER_PUB_LEN);
    memcpy(ret->id, text, LEDGER_KEY_ID_LEN);
    ret->id[LEDGER_KEY_ID_LEN] = '\0';
}

static bool pubkey_of(EVP_PKEY *key, struct ledger_pubkey *ret) {
    uint8_t raw[LEDGER_PUB_LEN];
    size_t n = sizeof raw;
    if (EVP_PKEY_get_id(key) != EVP_PKEY_ED25519) return false;
    if (EVP_PKEY_get_raw_public_key(key, raw, &n) != 1 || n != sizeof raw) return false;
    ledger_pubkey_from_raw(raw, ret);
    return true;
}

/* A passphrase is never asked for: a worker has nobody to ask. */
static int no_passphrase(char *to, int size, int writing, void *user) {
    (void)to, (void)size, (void)writing, (void)user;
    return -1;
}

static EVP_PKEY *load(const char *path, bool private_only, struct buf *err) {
    FILE *f = fopen(path, "re");
    if (!f) {
        buf_printf(err, "cannot open the ledger key %s: %s", path, strerror(errno));
        return NULL;
    }
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, no_passphrase, NULL);
    if (!key && !private_only) {
        rewind(f);
        key = PEM_read_PUBKEY(f, NULL, no_passphrase, NULL);
    }
    fclose(f);
    if (key && EVP_PKEY_get_id(key) == EVP_PKEY_ED25519) return key;
    EVP_PKEY_free(key);
    buf_printf(
        err,
        "%s does not hold an unencrypted Ed25519 %skey in PEM form: make one with `runsink keygen`",
        path, private_only ? "private " : "");
    return NULL;
}

struct ledger_signer *ledger_signer_load(const char *pem_path, struct buf *err) {
    EVP_PKEY *key = load(pem_path, true, err);
    if (!key) return NULL;
    struct ledger_signer *s = xcalloc(1, sizeof *s);
    s->key = key;
    must(pubkey_of(key, &s->pub), "deriving a public key");
    return s;
}

void ledger_signer_free(struct ledger_signer *s) {
    if (!s) return;
    EVP_PKEY_free(s->key);
    free(s->rotation);
    free(s);
}

static void sign(EVP_PKEY *key, const void *data, size_t n, uint8_t ret[LEDGER_SIG_LEN]) {
    size_t len = LEDGER_SIG_LEN;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    must(ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) == 1, "signing");
    must(EVP_DigestSign(ctx, ret, &len, data, n), "signing");
    EVP_MD_CTX_free(ctx);
}

void ledger_sign(const struct ledger_signer *s, const void *data, size_t n,
                 uint8_t ret[LEDGER_SIG_LEN]) {
    sign(s->key, data, n, ret);
}

const char *ledger_signer_id(const struct ledger_signer *s) {
    return s->pub.id;
}

size_t ledger_signer_keys(const struct ledger_signer *s,
                          struct ledger_pubkey ret[LEDGER_SIGNER_KEYS]) {
    ret[0] = s->pub;
    if (s->rotation) ret[1] = s->previous;
    return s->rotation ? 2 : 1;
}

const char *ledger_signer_rotation(const struct ledger_signer *s) {
    return s->rotation;
}

static void statement(const uint8_t next[LEDGER_PUB_LEN], uint8_t ret[STATEMENT_LEN]) {
    memcpy(ret, ROTATE_PREFIX, sizeof ROTATE_PREFIX - 1);
    memcpy(ret + sizeof ROTATE_PREFIX - 1, next, LEDGER_PUB_LEN);
}

bool ledger_signer_rotate(struct ledger_signer *s, const char *previous_pem_path, struct buf *err) {
    EVP_PKEY *old = load(previous_pem_path, true, err);
    if (!old) return false;
    struct ledger_pubkey from;
    must(pubkey_of(old, &from), "deriving a public key");
    uint8_t text[STATEMENT_LEN], sig[LEDGER_SIG_LEN];
    statement(s->pub.raw, text);
    sign(old, text, sizeof text, sig);
    EVP_PKEY_free(old);
    if (strcmp(from.id, s->pub.id) == 0) {
        buf_printf(err, "%s is the key that is in use: the previous one is needed",
                   previous_pem_path);
        return false;
    }
    struct buf b;
    buf_init(&b, 1024);
    bool ok = buf_printf(&b, "{\"from\":\"%s\",\"to\":\"", from.id) &&
              base64_add(&b, s->pub.raw, LEDGER_PUB_LEN) && buf_puts(&b, "\",\"sig\":\"") &&
              base64_add(&b, sig, sizeof sig) && buf_puts(&b, "\"}");
    must(ok, "writing a rotation statement");
    free(s->rotation);
    s->rotation = xstrdup(buf_cstr(&b));
    s->previous = from;
    buf_free(&b);
    return true;
}

bool ledger_pubkey_load(const char *pem_path, struct ledger_pubkey *ret, struct buf *err) {
    EVP_PKEY *key = load(pem_path, false, err);
    if (!key) return false;
    must(pubkey_of(key, ret), "reading a public key");
    EVP_PKEY_free(key);
    return true;
}

bool ledger_pubkey_check(const struct ledger_pubkey *pub, const void *data, size_t n,
                         const uint8_t sig[LEDGER_SIG_LEN]) {
    EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, pub->raw, LEDGER_PUB_LEN);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = key && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestVerify(ctx, sig, LEDGER_SIG_LEN, data, n) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    return ok;
}

bool ledger_pubkey_check_rotation(const struct ledger_pubkey *pub,
                                  const uint8_t next[LEDGER_PUB_LEN],
                                  const uint8_t sig[LEDGER_SIG_LEN]) {
    uint8_t text[STATEMENT_LEN];
    statement(next, text);
    return ledger_pubkey_check(pub, text, sizeof text, sig);
}

static FILE *create(const char *path, mode_t mode, struct buf *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (f) return f;
    buf_printf(err, "cannot create %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return NULL;
}

/* Closes f; when what was written is not safely there, removes it and says so. */
static bool finish(FILE *f, bool written, const char *path, struct buf *err) {
    bool ok = written && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int saved = errno;
    if (fclose(f) != 0 && ok) {
        ok = false;
        saved = errno;
    }
    if (ok) return true;
    buf_printf(err, "cannot write %s: %s", path, strerror(saved));
    unlink(path);
    return false;
}

bool ledger_keygen(const char *private_path, const char *public_path, struct buf *err) {
    FILE *priv = create(private_path, 0600, err);
    if (!priv) return false;
    FILE *pub = create(public_path, 0644, err);
    if (!pub) {
        fclose(priv);
        unlink(private_path);
        return false;
    }
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    must(key != NULL, "making a key");
    bool ok = finish(priv, PEM_write_PKCS8PrivateKey(priv, key, NULL, NULL, 0, NULL, NULL) == 1,
                     private_path, err);
    ok = finish(pub, PEM_write_PUBKEY(pub, key) == 1, public_path, err) && ok;
    EVP_PKEY_free(key);
    if (!ok) {
        unlink(private_path);
        unlink(public_path);
    }
    return ok;
}
