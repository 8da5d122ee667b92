#include "worker/event/envelope.h"

#include <strings.h>

#include "worker/base/text.h"

#define EVENT_ID_MAX 1024
#define CONFLUENT_PREFIX 5

bool event_id_ok(struct str s) {
    return s.n > 0 && s.n <= EVENT_ID_MAX && utf8_is_line(s);
}

static bool same_name(struct str a, const char *b, bool any_case) {
    if (a.n != strlen(b)) return false;
    return any_case ? strncasecmp(a.p, b, a.n) == 0 : memcmp(a.p, b, a.n) == 0;
}

/* A header's value; where a name stands twice the last one counts, as in Kafka's own lastHeader().
 * p NULL: absent, or null. */
static struct str header(const struct message *rec, const char *name, bool any_case) {
    for (size_t i = rec->n_headers; i > 0; i--)
        if (same_name(rec->headers[i - 1].name, name, any_case)) return rec->headers[i - 1].value;
    return (struct str){0};
}

static struct str id_header(const struct message *rec, const char *name) {
    struct str id = header(rec, name, false);
    return event_id_ok(id) ? id : (struct str){0};
}

static bool refuse(struct outcome *reterr, const char *why, const char *detail) {
    *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, why, "%s", detail);
    return false;
}

static bool contains(struct str s, const char *word) {
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= s.n; i++)
        if (strncasecmp(s.p + i, word, n) == 0) return true;
    return false;
}

/* The media type without its parameters (RFC 9110, section 8.3.1). */
static struct str media_type(struct str s) {
    const char *semicolon = s.n ? memchr(s.p, ';', s.n) : NULL;
    if (semicolon) s.n = (size_t)(semicolon - s.p);
    while (s.n > 0 && (*s.p == ' ' || *s.p == '\t')) s.p++, s.n--;
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

/* The declared type decides only what can't be seen in the bytes: CloudEvents' structured mode and
 * the binary formats. Producers declare JSON in many ways, or not at all. */
static bool content_type(const struct message *rec, struct envelope *e, struct outcome *reterr) {
    struct str type = media_type(header(rec, "content-type", true));
    if (contains(type, "avro"))
        return refuse(reterr, "avro", "content-type says Avro; only JSON is supported");
    if (contains(type, "protobuf"))
        return refuse(reterr, "protobuf", "content-type says Protobuf; only JSON is supported");
    struct str prefix = {type.p, sizeof "application/cloudevents" - 1};
    if (type.n < prefix.n || !same_name(prefix, "application/cloudevents", true)) return true;
    struct str rest = {type.p + prefix.n, type.n - prefix.n};
    if (rest.n > 0 && !same_name(rest, "+json", true))
        return refuse(reterr, "cloudevents-format",
                      "content-type names a CloudEvents batch or a format other than +json; "
                      "send one event a record, as application/cloudevents+json");
    e->structured = true;
    e->framing = FRAMING_CE_STRUCTURED;
    return true;
}

/* Debezium's outbox: the document is one JSON string that holds the document. */
static bool unwrap_string(struct envelope *e, struct arena *arena, struct outcome *reterr) {
    struct json j;
    struct json_value v;
    json_begin(&j, e->document);
    if (json_peek(&j) != JSON_STRING) return true;
    if (!json_value(&j, &v) || !json_end(&j)) return true; /* the decoder tells what is wrong */
    char *text = arena_alloc(arena, v.raw.n + 1);
    size_t n = 0;
    if (!json_unescape(v.raw, text, &n))
        return refuse(reterr, "invalid-json", "the outbox string holds an unpaired surrogate");
    e->document = (struct str){text, n};
    if (e->framing == FRAMING_BARE || e->framing == FRAMING_CONFLUENT) e->framing = FRAMING_OUTBOX;
    return true;
}

static bool strip_prefix(struct envelope *e, struct outcome *reterr) {
    if (e->document.p[0] != '\0') return true;
    if (e->document.n <= CONFLUENT_PREFIX)
        return refuse(reterr, "confluent-not-json",
                      "a schema registry prefix with nothing after it (Avro and Protobuf are "
                      "not supported, JSON Schema is)");
    e->document.p += CONFLUENT_PREFIX;
    e->document.n -= CONFLUENT_PREFIX;
    e->confluent = true;
    if (e->framing == FRAMING_BARE) e->framing = FRAMING_CONFLUENT;
    return true;
}

bool envelope_open(const struct message *rec, struct arena *arena, struct envelope *ret,
                   struct outcome *reterr) {
    if (!rec->value.p) {
        *reterr = outcome_ok(0);
        strcpy(reterr->why, "tombstone");
        return false;
    }
    if (rec->value.n == 0) return refuse(reterr, "empty-value", "the record's value has no bytes");
    struct envelope e = {.document = rec->value};
    if (!content_type(rec, &e, reterr)) return false;
    if (str_starts(e.document, "Obj\x01"))
        return refuse(reterr, "avro", "an Avro container file; only JSON is supported");
    e.ce_id = id_header(rec, "ce_id");
    e.id = id_header(rec, "id");
    if (!e.structured && (header(rec, "ce_id", false).p || header(rec, "ce_specversion", false).p))
        e.framing = FRAMING_CE_BINARY;
    if (!strip_prefix(&e, reterr) || !unwrap_string(&e, arena, reterr)) return false;
    *ret = e;
    return true;
}
