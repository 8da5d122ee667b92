/* The ledger's Ed25519 keys (RFC 8032): signing at settlement, checking in `runsink verify`. A
 * key's id is the first 16 hex digits of the SHA-256 of its raw 32 public bytes.
 *
 * Rotation: the old key signs the statement "runsink-ledger-rotate-1\n" followed by the new raw
 * public key. Entries carry it as
 *     "rotate":{"from":"<old id>","to":"<base64 of the new public key>","sig":"<base64>"}
 * Constant once made; any thread. */
#ifndef RUNSINK_LEDGER_KEY_H
#define RUNSINK_LEDGER_KEY_H

#include "worker/base/hash.h"

#define LEDGER_SIG_LEN 64
#define LEDGER_PUB_LEN 32
#define LEDGER_KEY_ID_LEN 16

struct ledger_pubkey {
    uint8_t raw[LEDGER_PUB_LEN];
    char id[LEDGER_KEY_ID_LEN + 1];
};

/* The private key. Constant once loaded: all lanes may share it. NULL stands for unsigned. */
struct ledger_signer;
/* NULL with a message for the operator in err. */
struct ledger_signer *ledger_signer_load(const char *pem_path, struct buf *err);
/* Key rotation: makes the old private key sign a statement that names the new public key, which
 * entries with introduce set will carry. A verifier that trusts the old key then trusts the new
 * one, and the old one no more. */
bool ledger_signer_rotate(struct ledger_signer *, const char *previous_pem_path, struct buf *err);
void ledger_signer_free(struct ledger_signer *);

void ledger_sign(const struct ledger_signer *, const void *, size_t, uint8_t ret[LEDGER_SIG_LEN]);
const char *ledger_signer_id(const struct ledger_signer *);
/* Its own key, and the one before it if that was given: how many. */
#define LEDGER_SIGNER_KEYS 2
size_t ledger_signer_keys(const struct ledger_signer *,
                          struct ledger_pubkey ret[LEDGER_SIGNER_KEYS]);
/* The value of "rotate", or NULL. */
const char *ledger_signer_rotation(const struct ledger_signer *);

void ledger_pubkey_from_raw(const uint8_t raw[LEDGER_PUB_LEN], struct ledger_pubkey *ret);
/* From a PEM file that holds the public or the private key. False with a message in err. */
bool ledger_pubkey_load(const char *pem_path, struct ledger_pubkey *ret, struct buf *err);
bool ledger_pubkey_check(const struct ledger_pubkey *, const void *, size_t,
                         const uint8_t sig[LEDGER_SIG_LEN]);
/* Whether sig is this key's signature over the statement that names next. */
bool ledger_pubkey_check_rotation(const struct ledger_pubkey *, const uint8_t next[LEDGER_PUB_LEN],
                                  const uint8_t sig[LEDGER_SIG_LEN]);

/* A new key pair: private_path (mode 0600) and public_path, both PEM, neither overwritten. False
 * with a message in err; what was written is removed again then. */
bool ledger_keygen(const char *private_path, const char *public_path, struct buf *err);

#endif
