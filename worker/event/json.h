/* A strict reader of JSON text (RFC 8259, UTF-8): the caller walks down the document, each byte is
 * validated once, nothing is copied or allocated. Any thread; everything borrows from the text.
 *
 * Errors stick: after the first one each call returns false, so loops end by themselves and err is
 * looked at once, after the walk. The typical walk:
 *
 *     json_begin(&j, text);
 *     if (json_open(&j, &v))                     // an object: step into it
 *         while (json_key(&j, &key))
 *             json_value(&j, &v);                // or json_open() again
 *     if (!json_end(&j)) ... j.err, j.at ...
 */
#ifndef RUNSINK_JSON_H
#define RUNSINK_JSON_H

#include "worker/base/arena.h"

/* Nesting beyond this is refused. */
#define JSON_DEPTH_MAX 128

enum json_kind {
    JSON_ABSENT, /* no value was read */
    JSON_NULL,
    JSON_BOOL,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

/* A value as it stands in the text. */
struct json_value {
    enum json_kind kind;
    bool escaped;   /* a string that holds a backslash escape */
    struct str raw; /* strings: what is between the quotes; others: the whole value */
};

struct json {
    const char *start, *at, *end; /* at: where the reader stands, or what it stopped at */
    const char *err; /* NULL, or why the text was refused: a static phrase that quotes nothing */
    int depth;
    bool fresh;    /* after an opening bracket: no comma is due */
    bool too_deep; /* err is about JSON_DEPTH_MAX */
    bool escapes;  /* a string with an escape was read; the caller may clear it */
    bool breaks;   /* a line break stands between tokens: nowhere else can one stand */
    /* An escape was read that no C string or UTF-8 text can hold: \u0000 or an unpaired surrogate.
     * Legal in JSON; the caller may clear it and look again. */
    bool odd_escape;
    bool lone_surrogate; /* an unpaired surrogate alone; never cleared */
};

void json_begin(struct json *, struct str text);
/* Only white space is left, and there was no error. */
bool json_end(struct json *);

/* Reads one whole value, whatever it is. */
bool json_value(struct json *, struct json_value *ret);
/* Steps into an object or an array, by ret->kind, and returns true; any other value is read whole,
 * and false returned. As for json_open() otherwise. */
bool json_enter(struct json *, struct json_value *ret);
/* Steps into an object and returns true; any other value is read whole, and false returned. ret is
 * filled in either case (untouched after an error), but an object's raw.n only by json_close(),
 * once json_key() gave false. */
bool json_open(struct json *, struct json_value *ret);
void json_close(struct json *, struct json_value *object);
/* The next member's key, the reader then stands before its value; false after the object's end. */
bool json_key(struct json *, struct json_value *ret);
/* The same for arrays: json_open_array() and then, before each element, json_item(). */
bool json_open_array(struct json *, struct json_value *ret);
bool json_item(struct json *);
/* What comes next, by its first character; JSON_ABSENT when no value can start so. */
enum json_kind json_peek(struct json *);
/* Steps over the next n bytes: a value, byte for byte, that was read at this depth before. */
void json_pass(struct json *, enum json_kind, size_t n, struct json_value *ret);
/* Stops the walk for a reason of the caller's: a static phrase. */
void json_stop(struct json *, const char *err);

/* Resolves a string's escapes. raw must be a validated string's; ret has room for raw.n bytes.
 * False when it holds an unpaired surrogate, which UTF-8 has no form for. */
bool json_unescape(struct str raw, char *ret, size_t *ret_n);
/* A string's text, escapes resolved: in the document or, where it has some, in the arena. False for
 * an unpaired surrogate. */
bool json_resolve(const struct json_value *, struct arena *, struct str *ret);
/* Replaces each escape of an unpaired surrogate in a validated text by \\ufffd, which is as long.
 */
void json_replace_surrogates(char *text, size_t n);
/* One character at *at (below end), as UTF-8; moves *at past it. Returns the number of bytes
 * written, 0 for an unpaired surrogate. */
size_t json_char(const char **at, const char *end, char ret[4]);
/* Whether two values are the same: strings once escapes are resolved, others byte for byte. */
bool json_same(const struct json_value *, const struct json_value *);

#endif
