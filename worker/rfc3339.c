#include "worker/rfc3339.h"

/* A cursor over the text: each step returns false when the text goes on differently. */
struct reader {
    const char *at, *end;
};

static bool digits(struct reader *r, int n, int min, int max, int *ret) {
    int v = 0;
    if (r->end - r->at < n) return false;
    for (int i = 0; i < n; i++) {
        char c = r->at[i];
        if (c < '0' || c > '9') return false;
        v = v * 10 + (c - '0');
    }
    if (v < min || v > max) return false;
    r->at += n;
    *ret = v;
    return true;
}

static bool one_of(struct reader *r, char a, char b) {
    if (r->at == r->end || (*r->at != a && *r->at != b)) return false;
    r->at++;
    return true;
}

static bool one(struct reader *r, char c) {
    return one_of(r, c, c);
}

static bool fraction(struct reader *r) {
    if (!one(r, '.')) return true;
    const char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > from;
}

/* Minutes east of UTC. */
static bool offset(struct reader *r, int *ret) {
    int hour;
    int minute;
    if (one_of(r, 'Z', 'z')) {
        *ret = 0;
        return true;
    }
    int sign = r->at < r->end && *r->at == '-' ? -1 : 1;
    if (!one_of(r, '+', '-') || !digits(r, 2, 0, 23, &hour) || !one(r, ':') ||
        !digits(r, 2, 0, 59, &minute))
        return false;
    *ret = sign * (hour * 60 + minute);
    return true;
}

static int days_in(int year, int month) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/* Whether a minute (local minute of the day, offset east) is the last one of a month in UTC. */
static bool last_minute(int day, int days, int minute, int east) {
    int utc = minute - east;
    if (utc == -1) return day == 1;
    if (utc == 2 * 1440 - 1) return day == days - 1;
    return utc == 1440 - 1 && day == days;
}

bool rfc3339_ok(struct str s) {
    struct reader r = {s.p, s.p + s.n};
    int year;
    int month;
    int day;
    int hour;
    int minute;
    int second;
    int east;
    if (!digits(&r, 4, 0, 9999, &year) || !one(&r, '-') || !digits(&r, 2, 1, 12, &month) ||
        !one(&r, '-') || !digits(&r, 2, 1, days_in(year, month), &day) || !one_of(&r, 'T', 't'))
        return false;
    if (!digits(&r, 2, 0, 23, &hour) || !one(&r, ':') || !digits(&r, 2, 0, 59, &minute) ||
        !one(&r, ':') || !digits(&r, 2, 0, 60, &second) || !fraction(&r) || !offset(&r, &east) ||
        r.at != r.end)
        return false;
    return second < 60 || last_minute(day, days_in(year, month), hour * 60 + minute, east);
}
