#include "worker/base/rfc3339.h"

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

/* Two digits; 100 when they are none. */
static int two(const char *p) {
    unsigned a = (unsigned char)p[0] - (unsigned)'0', b = (unsigned char)p[1] - (unsigned)'0';
    return a > 9 || b > 9 ? 100 : (int)(a * 10 + b);
}

bool rfc3339_ok(struct str s) {
    if (s.n < sizeof "2024-01-01T00:00:00Z" - 1) return false;
    const char *p = s.p;
    int century = two(p), years = two(p + 2), month = two(p + 5), day = two(p + 8);
    int hour = two(p + 11), minute = two(p + 14), second = two(p + 17);
    if (p[4] != '-' || p[7] != '-' || (p[10] | 0x20) != 't' || p[13] != ':' || p[16] != ':')
        return false;
    if (century > 99 || years > 99 || month < 1 || month > 12 || hour > 23 || minute > 59 ||
        second > 60)
        return false;
    int year = century * 100 + years, days = days_in(year, month);
    if (day < 1 || day > days) return false;
    if (s.n == 20 && second < 60) return (p[19] | 0x20) == 'z'; /* most often */
    struct reader r = {p + 19, p + s.n};
    int east;
    if (!fraction(&r) || !offset(&r, &east) || r.at != r.end) return false;
    return second < 60 || last_minute(day, days, hour * 60 + minute, east);
}
