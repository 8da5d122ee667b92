/* Which names of members say that what they hold is secret (redact.names): a name is compared
 * without regard to case and to what separates its words, so that "api key" is in X-Api-Key,
 * apiKeyId and MY_APIKEY. "_pass" has to be the last of the words: DB_PASS and dbPass, but neither
 * passed nor compass. One thread at a time: it remembers what it has judged. */
#ifndef RUNSINK_NAMES_H
#define RUNSINK_NAMES_H

#include <stdint.h>

#include "worker/base/str.h"

struct list;

/* The default of redact.names, for those who have no configuration. */
#define NAMES_DEFAULT                                                                              \
    "password,passwd,passphrase,passcode,pwd,_pass,secret,token,authorization,_auth,bearer,jwt,"   \
    "cookie,_sessionid,apikey,accesskey,privatekey,signingkey,encryptionkey,webhookkey,"           \
    "connectionstring,credential,_creds,_otp,totp,_pin"

struct names;
struct names *names_new(const struct list *); /* copies what it needs */
void names_free(struct names *);
/* Whether a member's name, its escapes resolved, says so. */
bool names_tell(const struct names *, struct str name);
/* Whether one of the event model's own names does: mostly not, and then they need no look. */
void names_set_model(struct names *, bool);
bool names_model(const struct names *);

/* What the caller has found out about a name lately, NAME_UNKNOWN when it is not remembered. Most
 * names of all events are few. NAME_PAIR: "name", "key" or "value", whose object may be a pair. */
enum name_class { NAME_UNKNOWN, NAME_PLAIN, NAME_URL, NAME_PAIR };
enum name_class names_recall(const struct names *, struct str name);
void names_remember(struct names *, struct str name, enum name_class);

#endif
